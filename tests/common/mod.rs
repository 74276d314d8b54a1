//! What the integration tests share: engines, and tensors and events as plain values.
#![allow(dead_code)] // every test program uses its own part of this
#![allow(unsafe_code)] // outputs are pointers, as C gets them, and borrowing is a promise
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use blaze::config::{EngineConfig, ModelConfig};
use blaze::engine::{
    Engine, Event, EventFlags, EventKind, InputData, InputTensor, ModelId, Queue, RequestDescription,
};
use blaze::error::{Error, Result, Status};
use blaze::tensor::{BorrowedBytes, DType, StringSlice};
use serde_json::{Value, json};
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Long enough for any machine to do what it should have done at once.
pub const A_MINUTE: u64 = 60_000_000_000;

/// A normal priority, as `RequestDescription::level` has it.
pub const NORMAL: usize = 1;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The path of `tests/models/NAME.onnx`.
pub fn model_path(name: &str) -> PathBuf {
    root().join("tests/models").join(format!("{name}.onnx"))
}

/// An engine made from this configuration.
pub fn engine(config: Value) -> Engine {
    try_engine(config).unwrap_or_else(|error| panic!("{error}"))
}

pub fn try_engine(config: Value) -> Result<Engine> {
    Engine::new(EngineConfig::from_json(&config.to_string())?)
}

/// An engine that works only while somebody waits, so that what was submitted before is sure to be batched.
pub fn batching_engine() -> Engine {
    engine(json!({"threads": 0}))
}

pub fn threaded_engine() -> Engine {
    engine(json!({}))
}

/// Loads a model from its configuration.
pub fn load_json(engine: &Engine, config: Value) -> Result<ModelId> {
    engine.load(ModelConfig::from_json(&config.to_string())?, None)
}

/// Loads `tests/models/NAME.onnx`.
pub fn try_load(engine: &Engine, name: &str) -> Result<ModelId> {
    load_json(engine, json!({"name": name, "path": model_path(name)}))
}

pub fn load(engine: &Engine, name: &str) -> ModelId {
    try_load(engine, name).unwrap_or_else(|error| panic!("{error}"))
}

/// `model_info`, parsed.
pub fn info(engine: &Engine, model: ModelId) -> Value {
    serde_json::from_str(&engine.model_info(model).unwrap()).unwrap()
}

/// Whether a model's requests are joined.
pub fn is_batched(engine: &Engine, model: ModelId) -> bool {
    info(engine, model)["batching"]["enabled"].as_bool().unwrap()
}

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    Bytes(Vec<u8>),
    Strings(Vec<Vec<u8>>),
}

/// A tensor, given or got.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Empty in an input that is given by position.
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<i64>,
    pub elements: Elements,
}

pub fn bytes(dtype: DType, shape: &[i64], bytes: &[u8]) -> Tensor {
    let elements = Elements::Bytes(bytes.to_vec());
    Tensor { name: String::new(), dtype, shape: shape.to_vec(), elements }
}

pub fn f32s(shape: &[i64], values: &[f32]) -> Tensor {
    bytes(DType::F32, shape, &values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<_>>())
}

pub fn i64s(shape: &[i64], values: &[i64]) -> Tensor {
    bytes(DType::I64, shape, &values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<_>>())
}

pub fn strings(shape: &[i64], texts: &[&str]) -> Tensor {
    let elements = Elements::Strings(texts.iter().map(|text| text.as_bytes().to_vec()).collect());
    Tensor { name: String::new(), dtype: DType::String, shape: shape.to_vec(), elements }
}

impl Tensor {
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.elements {
            Elements::Bytes(bytes) => bytes,
            Elements::Strings(_) => panic!("{:?} is of strings", self.name),
        }
    }

    pub fn f32s(&self) -> Vec<f32> {
        assert_eq!(self.dtype, DType::F32);
        self.bytes().as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect()
    }

    /// As an input of a request.
    pub fn input(&self) -> InputTensor<'_> {
        let data = match &self.elements {
            Elements::Bytes(bytes) => InputData::Copy(bytes),
            Elements::Strings(texts) => InputData::Strings(texts.iter().map(Vec::as_slice).collect()),
        };
        let name = (!self.name.is_empty()).then_some(self.name.as_str());
        InputTensor { name, dtype: self.dtype, shape: &self.shape, data }
    }

    /// As an input whose bytes are read where they are: `self` must not be touched until they are released.
    pub fn borrowed_input(&self) -> InputTensor<'_> {
        // SAFETY: every test keeps its tensors until their engine is gone, and never changes them.
        let data = unsafe { BorrowedBytes::new(self.bytes().as_ptr(), self.bytes().len()) };
        InputTensor { data: InputData::Borrow(data), ..self.input() }
    }
}

/// A request of normal priority without a deadline.
pub fn request(model: ModelId, inputs: &[Tensor]) -> RequestDescription<'_> {
    let inputs = inputs.iter().map(Tensor::input).collect();
    RequestDescription {
        model,
        level: NORMAL,
        deadline_ns: 0,
        user_data: 0,
        inputs,
        outputs: Default::default(),
        ..Default::default()
    }
}

/// An event with everything it holds copied out of it.
#[derive(Debug)]
pub struct Answer {
    pub kind: EventKind,
    pub status: Status,
    pub flags: EventFlags,
    pub ticket: u64,
    pub user_data: u64,
    pub model: ModelId,
    /// Rows in the batch.
    pub batch_rows: u32,
    pub text: Option<String>,
    pub outputs: Vec<Tensor>,
}

impl From<Event> for Answer {
    fn from(event: Event) -> Self {
        let payload = event.payload.as_ref();
        let output = |index| copy_output(payload?.output(index)?);
        let outputs = (0..event.outputs_count).map(|index| output(index).expect("it has all its outputs"));
        Answer {
            kind: event.kind,
            status: event.status,
            flags: event.flags,
            ticket: event.ticket,
            user_data: event.user_data,
            model: event.model,
            batch_rows: event.timing.batch_rows,
            text: payload.and_then(|payload| payload.text()),
            outputs: outputs.collect(),
        }
    }
}

fn copy_output(output: blaze::engine::OutputRef) -> Option<Tensor> {
    // SAFETY: the caller holds the event, so everything the view points to is there: a NUL-terminated name,
    // `rank` sizes, and `size_bytes` of elements, which for strings are slices of bytes.
    unsafe {
        let elements = if output.dtype == DType::String {
            let count = output.size_bytes / size_of::<StringSlice>();
            let slices = std::slice::from_raw_parts(output.data.cast::<StringSlice>(), count);
            let text = |slice: &StringSlice| std::slice::from_raw_parts(slice.data.cast(), slice.size_bytes);
            Elements::Strings(slices.iter().map(|slice| text(slice).to_vec()).collect())
        } else {
            Elements::Bytes(std::slice::from_raw_parts(output.data, output.size_bytes).to_vec())
        };
        let name = CStr::from_ptr(output.name).to_str().ok()?.to_owned();
        let shape = std::slice::from_raw_parts(output.shape, output.rank).to_vec();
        Some(Tensor { name, dtype: output.dtype, shape, elements })
    }
}

/// Runs one request by itself; returns its outputs.
pub fn run(engine: &Engine, model: ModelId, inputs: &[Tensor]) -> Vec<Tensor> {
    try_run(engine, model, inputs).unwrap_or_else(|error| panic!("{error}"))
}

pub fn try_run(engine: &Engine, model: ModelId, inputs: &[Tensor]) -> Result<Vec<Tensor>, Error> {
    Ok(Answer::from(engine.infer(request(model, inputs), A_MINUTE)?).outputs)
}

/// Has several requests in flight together, each a list of inputs; returns their answers in the same order.
pub fn run_together(engine: &Engine, model: ModelId, requests: &[Vec<Tensor>]) -> Vec<Answer> {
    let queue = engine.create_queue(requests.len() as u32).unwrap();
    for (index, inputs) in requests.iter().enumerate() {
        let description = RequestDescription { user_data: index as u64, ..request(model, inputs) };
        engine.submit(description, &queue).unwrap_or_else(|error| panic!("request {index}: {error}"));
    }
    let mut answers: Vec<Answer> = requests.iter().map(|_| next_event(&queue)).collect();
    answers.sort_by_key(|answer| answer.user_data);
    for answer in &answers {
        assert_eq!(answer.status, Status::Ok, "request {}: {:?}", answer.user_data, answer.text);
    }
    answers
}

/// The next event of a queue; fails if none comes for a minute.
pub fn next_event(queue: &Queue) -> Answer {
    let mut taken = None;
    queue.wait(1, A_MINUTE, |event| taken = Some(Answer::from(event)));
    taken.expect("an event comes")
}

/// Does `work`, and fails if that takes longer than anything that does not hang.
pub fn must_end(what: &str, work: impl FnOnce() + Send + 'static) {
    let (sender, ended) = channel();
    let thread = std::thread::spawn(move || {
        work();
        let _ = sender.send(());
    });
    match ended.recv_timeout(Duration::from_nanos(A_MINUTE)) {
        Err(RecvTimeoutError::Timeout) => panic!("{what}: it hangs"),
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// A small random generator (xorshift64*): the same seed gives the same numbers.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// From -1 to 1.
    pub fn real(&mut self) -> f32 {
        (self.below(1 << 20) as f32) / (1 << 19) as f32 - 1.0
    }
}
