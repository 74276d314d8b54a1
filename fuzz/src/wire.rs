//! Changes a protobuf message without knowing its schema: fields are changed, doubled, taken out or swapped, and the
//! lengths around them stay right.

/// A field: its number and what it holds.
#[derive(Clone)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

/// Deeper messages are bytes.
const MAX_DEPTH: u32 = 12;

/// Numbers at which something overflows, or ends.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    16,
    255,
    1 << 16,
    i32::MAX as u64,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
    u64::MAX - 1,
];

/// A small generator: what a seed makes is the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % end.max(1)
    }
}

/// The message, changed in a few places; `None` if it is none, or would get too long.
pub fn mutate(bytes: &[u8], most: usize, seed: u32) -> Option<Vec<u8>> {
    let mut fields = parse(bytes, 0)?;
    let mut random = Random(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for _ in 0..1 + random.below(3) {
        change(&mut fields, &mut random, 0);
    }
    let mut out = Vec::new();
    write(&fields, &mut out);
    (out.len() <= most).then_some(out)
}

fn change(fields: &mut Vec<Field>, random: &mut Random, depth: u32) {
    if fields.is_empty() {
        return;
    }
    let at = random.below(fields.len());
    // Mostly further down, where the meaning is.
    if let Value::Message(inner) = &mut fields[at].value
        && depth < MAX_DEPTH
        && random.below(5) != 0
    {
        return change(inner, random, depth + 1);
    }
    match random.below(8) {
        0 => drop(fields.remove(at)),
        1 => {
            let copy = fields[at].clone();
            fields.insert(random.below(fields.len()), copy);
        }
        2 => {
            let other = random.below(fields.len());
            let value = fields[other].value.clone();
            fields[at].value = value;
        }
        3 => fields[at].number = 1 + random.below(24) as u64,
        _ => match &mut fields[at].value {
            Value::Varint(number) => {
                *number = match random.below(3) {
                    0 => NUMBERS[random.below(NUMBERS.len())],
                    1 => number.wrapping_add(1),
                    _ => number.wrapping_sub(1),
                }
            }
            Value::Fixed64(bytes) => bytes[random.below(8)] = random.below(256) as u8,
            Value::Fixed32(bytes) => bytes[random.below(4)] = random.below(256) as u8,
            Value::Bytes(bytes) => change_bytes(bytes, random),
            Value::Message(inner) => inner.clear(),
        },
    }
}

fn change_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    let length = bytes.len();
    match random.below(5) {
        0 => bytes.truncate(random.below(length + 1)),
        1 => bytes.extend_from_within(..),
        2 => bytes.push(random.below(256) as u8),
        // Packed numbers, such as sizes.
        3 => varint(NUMBERS[random.below(NUMBERS.len())], bytes),
        _ if length > 0 => bytes[random.below(length)] ^= 1 << random.below(8),
        _ => {}
    }
}

fn parse(mut bytes: &[u8], depth: u32) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = read_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(read_varint(&mut bytes)?),
            1 => Value::Fixed64(take(&mut bytes, 8)?.try_into().ok()?),
            5 => Value::Fixed32(take(&mut bytes, 4)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(read_varint(&mut bytes)?).ok()?;
                let inner = take(&mut bytes, length)?;
                match parse(inner, depth + 1) {
                    Some(message) if depth < MAX_DEPTH && !message.is_empty() => Value::Message(message),
                    _ => Value::Bytes(inner.to_vec()),
                }
            }
            _ => return None,
        };
        if key >> 3 == 0 {
            return None;
        }
        fields.push(Field { number: key >> 3, value });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn write(fields: &[Field], out: &mut Vec<u8>) {
    for field in fields {
        let kind = match &field.value {
            Value::Varint(_) => 0,
            Value::Fixed64(_) => 1,
            Value::Bytes(_) | Value::Message(_) => 2,
            Value::Fixed32(_) => 5,
        };
        varint(field.number << 3 | kind, out);
        match &field.value {
            Value::Varint(number) => varint(*number, out),
            Value::Fixed64(bytes) => out.extend_from_slice(bytes),
            Value::Fixed32(bytes) => out.extend_from_slice(bytes),
            Value::Bytes(bytes) => {
                varint(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
            Value::Message(inner) => {
                let mut text = Vec::new();
                write(inner, &mut text);
                varint(text.len() as u64, out);
                out.extend_from_slice(&text);
            }
        }
    }
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
