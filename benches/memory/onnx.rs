//! The little of ONNX's encoding, which is Protocol Buffers, that a multi-layer perceptron takes.

use std::io::{self, Write};

/// A message: fields one after the other.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    /// The beginning of a field of `size` bytes that are written elsewhere.
    fn opened(mut self, field: u64, size: usize) -> Self {
        self.varint(field << 3 | 2);
        self.varint(size as u64);
        self
    }

    pub fn bytes(self, field: u64, bytes: &[u8]) -> Self {
        let mut message = self.opened(field, bytes.len());
        message.0.extend_from_slice(bytes);
        message
    }

    pub fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    pub fn message(self, field: u64, message: &Message) -> Self {
        self.bytes(field, &message.0)
    }
}

const FLOAT: u64 = 1;

/// A tensor of 32-bit floats, whose values are written after it or are elsewhere.
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// Where its values begin in the file of weights.
    pub offset: u64,
}

impl Tensor {
    pub fn size_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }

    /// A `TensorProto`: with its values in the file `location`; or without the values, which are its last field.
    fn message(&self, location: Option<&str>) -> Message {
        let message =
            self.shape.iter().fold(Message::default(), |message, &size| message.number(1, size as u64));
        let message = message.number(2, FLOAT).text(8, &self.name);
        let Some(location) = location else { return message.opened(9, self.size_bytes()) };
        let entry = |key: &str, value: &str| Message::default().text(1, key).text(2, value);
        message
            .message(13, &entry("location", location))
            .message(13, &entry("offset", &self.offset.to_string()))
            .message(13, &entry("length", &self.size_bytes().to_string()))
            .number(14, 1) // EXTERNAL
    }
}

/// An operator.
pub fn node(operator: &str, inputs: &[&str], output: &str) -> Message {
    let message = inputs.iter().fold(Message::default(), |message, input| message.text(1, input));
    message.text(2, output).text(4, operator)
}

/// An input or output of rows: `["batch", columns]`.
fn rows(name: &str, columns: usize) -> Message {
    let shape = Message::default()
        .message(1, &Message::default().text(2, "batch"))
        .message(1, &Message::default().number(1, columns as u64));
    let tensor = Message::default().number(1, FLOAT).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

/// Writes a model with one input `x` and one output `y`. `values` writes the values of all tensors, one after the other,
/// each time to where they belong.
pub fn write(
    model: &mut dyn Write,
    nodes: &[Message],
    tensors: &[Tensor],
    (inputs, outputs): (usize, usize),
    location: Option<&str>,
    mut values: impl FnMut(&Tensor, &mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let head = nodes.iter().fold(Message::default(), |graph, node| graph.message(1, node)).text(2, "mlp");
    let tail = Message::default().message(11, &rows("x", inputs)).message(12, &rows("y", outputs));
    let inline = |tensor: &Tensor| if location.is_none() { tensor.size_bytes() } else { 0 };
    let parts: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| {
            let message = tensor.message(location).0;
            let opened = Message::default().opened(5, message.len() + inline(tensor)).0;
            [opened, message].concat()
        })
        .collect();
    let size = head.0.len()
        + tail.0.len()
        + parts.iter().zip(tensors).map(|(part, tensor)| part.len() + inline(tensor)).sum::<usize>();
    let opset = Message::default().text(1, "").number(2, 17);
    let front = Message::default().number(1, 8).message(8, &opset).opened(7, size);
    model.write_all(&front.0)?;
    model.write_all(&head.0)?;
    for (part, tensor) in parts.iter().zip(tensors) {
        model.write_all(part)?;
        if location.is_none() {
            values(tensor, model)?;
        }
    }
    model.write_all(&tail.0)
}
