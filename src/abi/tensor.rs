//! Tensors as C describes them.

use std::ffi::{c_char, c_void};

/// An element type, numbered as in ONNX.
pub type blaze_dtype = u32;

/// 32-bit IEEE float.
pub const BLAZE_DTYPE_F32: blaze_dtype = 1;
/// 8-bit unsigned integer.
pub const BLAZE_DTYPE_U8: blaze_dtype = 2;
/// 8-bit signed integer.
pub const BLAZE_DTYPE_I8: blaze_dtype = 3;
/// 16-bit unsigned integer.
pub const BLAZE_DTYPE_U16: blaze_dtype = 4;
/// 16-bit signed integer.
pub const BLAZE_DTYPE_I16: blaze_dtype = 5;
/// 32-bit signed integer.
pub const BLAZE_DTYPE_I32: blaze_dtype = 6;
/// 64-bit signed integer.
pub const BLAZE_DTYPE_I64: blaze_dtype = 7;
/// Strings: the data is an array of blaze_string.
pub const BLAZE_DTYPE_STRING: blaze_dtype = 8;
/// One byte, 0 or 1.
pub const BLAZE_DTYPE_BOOL: blaze_dtype = 9;
/// 16-bit IEEE float.
pub const BLAZE_DTYPE_F16: blaze_dtype = 10;
/// 64-bit IEEE float.
pub const BLAZE_DTYPE_F64: blaze_dtype = 11;
/// 32-bit unsigned integer.
pub const BLAZE_DTYPE_U32: blaze_dtype = 12;
/// 64-bit unsigned integer.
pub const BLAZE_DTYPE_U64: blaze_dtype = 13;
/// Two 32-bit floats.
pub const BLAZE_DTYPE_COMPLEX64: blaze_dtype = 14;
/// Two 64-bit floats.
pub const BLAZE_DTYPE_COMPLEX128: blaze_dtype = 15;
/// The upper 16 bits of a 32-bit float.
pub const BLAZE_DTYPE_BF16: blaze_dtype = 16;
/// 8-bit float: 4 bits of exponent, 3 of mantissa; no infinities.
pub const BLAZE_DTYPE_F8E4M3FN: blaze_dtype = 17;
/// The same, with one zero and one NaN.
pub const BLAZE_DTYPE_F8E4M3FNUZ: blaze_dtype = 18;
/// 8-bit float: 5 bits of exponent, 2 of mantissa.
pub const BLAZE_DTYPE_F8E5M2: blaze_dtype = 19;
/// The same, with one zero, one NaN and no infinities.
pub const BLAZE_DTYPE_F8E5M2FNUZ: blaze_dtype = 20;
/// 4-bit unsigned integer. Two to a byte, the first in the low bits; so are the other types of less than a byte.
pub const BLAZE_DTYPE_U4: blaze_dtype = 21;
/// 4-bit signed integer.
pub const BLAZE_DTYPE_I4: blaze_dtype = 22;
/// 4-bit float: 2 bits of exponent, 1 of mantissa.
pub const BLAZE_DTYPE_F4E2M1: blaze_dtype = 23;
/// 8-bit power of two: 8 bits of exponent.
pub const BLAZE_DTYPE_F8E8M0: blaze_dtype = 24;
/// 2-bit unsigned integer.
pub const BLAZE_DTYPE_U2: blaze_dtype = 25;
/// 2-bit signed integer.
pub const BLAZE_DTYPE_I2: blaze_dtype = 26;

/// Where a tensor's memory is.
pub type blaze_memory = u32;

/// Ordinary memory of the process.
pub const BLAZE_MEMORY_HOST: blaze_memory = 0;
/// Host memory that devices reach directly, such as what cuMemHostAlloc returns: taken as host memory is.
pub const BLAZE_MEMORY_PINNED: blaze_memory = 1;
/// Memory of a CUDA device, for models that list it. Inputs in it take BLAZE_REQUEST_BORROW, and whatever writes them must
/// be done before the request is submitted.
pub const BLAZE_MEMORY_CUDA: blaze_memory = 2;

/// The most axes a tensor may have.
pub const BLAZE_MAX_RANK: u32 = 32;

/// One element of a string tensor: UTF-8 by convention, not NUL-terminated.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_string {
    /// The first byte; may be NULL if there are none.
    pub data: *const c_char,
    /// How many bytes, without any NUL at the end.
    pub size_bytes: usize,
}

/// A tensor: row-major elements, or a caller's buffer for them. Start from BLAZE_TENSOR_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_tensor {
    /// sizeof(blaze_tensor).
    pub struct_size: u32,
    /// The type of an element, such as BLAZE_DTYPE_F32.
    pub dtype: blaze_dtype,
    /// The input's or output's name in the model; NULL: by position.
    pub name: *const c_char,
    /// Sizes of the axes, outermost first; may be NULL if rank is 0.
    pub shape: *const i64,
    /// How many sizes `shape` has; 0: a scalar.
    pub rank: u32,
    /// Where `data` is, such as BLAZE_MEMORY_HOST.
    pub memory: blaze_memory,
    /// The device's number, for BLAZE_MEMORY_CUDA.
    pub device: i32,
    /// Must be 0.
    pub reserved: u32,
    /// The elements; for strings an array of blaze_string.
    pub data: *mut c_void,
    /// Bytes at `data`. For an input exactly what the shape takes; for a caller's output buffer at least that.
    pub size_bytes: usize,
}
