//! Element types, numbered as in ONNX's `TensorProto.DataType`.

use serde::{Deserialize, Serialize};

/// An element type. The numbers are those of ONNX and of the C ABI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum DType {
    #[default]
    F32 = 1,
    U8 = 2,
    I8 = 3,
    U16 = 4,
    I16 = 5,
    I32 = 6,
    I64 = 7,
    String = 8,
    Bool = 9,
    F16 = 10,
    F64 = 11,
    U32 = 12,
    U64 = 13,
    Complex64 = 14,
    Complex128 = 15,
    Bf16 = 16,
    F8E4M3FN = 17,
    F8E4M3FNUZ = 18,
    F8E5M2 = 19,
    F8E5M2FNUZ = 20,
    U4 = 21,
    I4 = 22,
    F4E2M1 = 23,
    F8E8M0 = 24,
    U2 = 25,
    I2 = 26,
}

impl DType {
    /// Every element type, in the order of their numbers, from 1.
    pub const ALL: [DType; 26] = [
        DType::F32,
        DType::U8,
        DType::I8,
        DType::U16,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::String,
        DType::Bool,
        DType::F16,
        DType::F64,
        DType::U32,
        DType::U64,
        DType::Complex64,
        DType::Complex128,
        DType::Bf16,
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::U4,
        DType::I4,
        DType::F4E2M1,
        DType::F8E8M0,
        DType::U2,
        DType::I2,
    ];

    /// The type with this number.
    pub fn from_code(code: u32) -> Option<DType> {
        DType::ALL.get(usize::try_from(code.checked_sub(1)?).ok()?).copied()
    }

    /// The number that crosses the C ABI.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Bits of one element; 0 for strings.
    pub fn bits(self) -> usize {
        match self {
            DType::String => 0,
            DType::U2 | DType::I2 => 2,
            DType::U4 | DType::I4 | DType::F4E2M1 => 4,
            DType::U8 | DType::I8 | DType::Bool => 8,
            DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0 => 8,
            DType::U16 | DType::I16 | DType::F16 | DType::Bf16 => 16,
            DType::F32 | DType::I32 | DType::U32 => 32,
            DType::F64 | DType::I64 | DType::U64 | DType::Complex64 => 64,
            DType::Complex128 => 128,
        }
    }

    /// Bytes of one element, if it has a whole number of them.
    pub fn whole_bytes(self) -> Option<usize> {
        let bits = self.bits();
        (bits >= 8).then_some(bits / 8)
    }

    /// The address alignment that backends expect of an element, in bytes.
    pub fn alignment(self) -> usize {
        self.whole_bytes().unwrap_or(1).min(8)
    }

    /// The name in JSON and messages, such as `f32`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::U8 => "u8",
            DType::I8 => "i8",
            DType::U16 => "u16",
            DType::I16 => "i16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::String => "string",
            DType::Bool => "bool",
            DType::F16 => "f16",
            DType::F64 => "f64",
            DType::U32 => "u32",
            DType::U64 => "u64",
            DType::Complex64 => "complex64",
            DType::Complex128 => "complex128",
            DType::Bf16 => "bf16",
            DType::F8E4M3FN => "f8e4m3fn",
            DType::F8E4M3FNUZ => "f8e4m3fnuz",
            DType::F8E5M2 => "f8e5m2",
            DType::F8E5M2FNUZ => "f8e5m2fnuz",
            DType::U4 => "u4",
            DType::I4 => "i4",
            DType::F4E2M1 => "f4e2m1",
            DType::F8E8M0 => "f8e8m0",
            DType::U2 => "u2",
            DType::I2 => "i2",
        }
    }
}

/// Writes a number as one element; false if the dtype has no numbers, or elements that share a byte. What does not fit
/// becomes the nearest that does.
pub fn write_number(dtype: DType, number: f64, place: &mut [u8]) -> bool {
    match dtype {
        DType::F32 => place.copy_from_slice(&(number as f32).to_ne_bytes()),
        DType::F64 => place.copy_from_slice(&number.to_ne_bytes()),
        DType::F16 => place.copy_from_slice(&half::f16::from_f64(number).to_ne_bytes()),
        DType::Bf16 => place.copy_from_slice(&half::bf16::from_f64(number).to_ne_bytes()),
        DType::U8 => place.copy_from_slice(&(number as u8).to_ne_bytes()),
        DType::I8 => place.copy_from_slice(&(number as i8).to_ne_bytes()),
        DType::U16 => place.copy_from_slice(&(number as u16).to_ne_bytes()),
        DType::I16 => place.copy_from_slice(&(number as i16).to_ne_bytes()),
        DType::U32 => place.copy_from_slice(&(number as u32).to_ne_bytes()),
        DType::I32 => place.copy_from_slice(&(number as i32).to_ne_bytes()),
        DType::U64 => place.copy_from_slice(&(number as u64).to_ne_bytes()),
        DType::I64 => place.copy_from_slice(&(number as i64).to_ne_bytes()),
        DType::Bool => place.copy_from_slice(&[u8::from(number != 0.0)]),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_dtype_has_them() {
        let mut place = [9u8; 8];
        assert!(write_number(DType::I64, -3.0, &mut place));
        assert_eq!(i64::from_ne_bytes(place), -3);
        assert!(write_number(DType::F32, 0.5, &mut place[..4]));
        assert_eq!(place[..4], 0.5f32.to_ne_bytes());
        assert!(write_number(DType::U8, 300.0, &mut place[..1]));
        assert!(write_number(DType::Bool, 2.0, &mut place[1..2]));
        assert_eq!(place[..2], [255, 1]);
        assert!(!write_number(DType::String, 1.0, &mut place));
        assert!(!write_number(DType::U4, 1.0, &mut place));
    }

    #[test]
    fn codes_and_names_round_trip() {
        for (index, dtype) in DType::ALL.into_iter().enumerate() {
            assert_eq!(dtype.code() as usize, index + 1);
            assert_eq!(DType::from_code(dtype.code()), Some(dtype));
            assert_eq!(serde_json::to_value(dtype).unwrap(), dtype.name());
        }
        assert_eq!(DType::from_code(0), None);
        assert_eq!(DType::from_code(27), None);
        assert_eq!(DType::from_code(u32::MAX), None);
    }
}
