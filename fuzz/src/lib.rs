//! What the fuzz targets share: the C ABI under one name, and values to call it with.
#![allow(clippy::missing_safety_doc)]

pub mod calls;
pub mod host;
pub mod texts;
pub mod wire;

pub use blaze::ffi::allocator::*;
pub use blaze::ffi::engine::*;
pub use blaze::ffi::event::*;
pub use blaze::ffi::handles::*;
pub use blaze::ffi::log::*;
pub use blaze::ffi::model::*;
pub use blaze::ffi::profile::*;
pub use blaze::ffi::queue::*;
pub use blaze::ffi::reports::*;
pub use blaze::ffi::request::*;
pub use blaze::ffi::route::*;
pub use blaze::ffi::status::*;
pub use blaze::ffi::tensor::*;
pub use blaze::ffi::tuning::*;

use std::ffi::{CStr, CString};
use std::mem::zeroed;
use std::ptr::null_mut;

/// A C string of any text: it ends at the first NUL.
pub fn c_string(text: &[u8]) -> CString {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

/// An error to be filled in.
pub fn no_error() -> blaze_error {
    blaze_error { status: 0, message: [1; 1012], retry_after_ns: 0 }
}

/// A failure is never a bug of Blaze's, and says why in UTF-8.
pub fn check(status: blaze_status, error: &blaze_error) {
    let message = || {
        // SAFETY: the library ends every message that it writes; the array began without a NUL.
        let text = unsafe { CStr::from_ptr(error.message.as_ptr()) };
        text.to_str().expect("a message in UTF-8").to_owned()
    };
    if status != BLAZE_STATUS_OK {
        assert_eq!(status, error.status);
        let message = message();
        assert!(!message.is_empty(), "status {status} without a message");
        assert_ne!(status, BLAZE_STATUS_INTERNAL, "{message}");
    }
}

/// An engine, or why there is none.
pub fn engine(config: &CStr) -> Result<*mut blaze_engine, blaze_status> {
    let (mut engine, mut error) = (null_mut(), no_error());
    // SAFETY: all pointers are valid.
    let status = unsafe { blaze_engine_create(config.as_ptr(), &mut engine, &mut error) };
    check(status, &error);
    if status == BLAZE_STATUS_OK { Ok(engine) } else { Err(status) }
}

/// Calls a function of the two-call pattern as a host does, and returns the text.
pub fn text(
    mut call: impl FnMut(*mut std::ffi::c_char, usize, *mut usize) -> blaze_status,
) -> Option<String> {
    let mut needed = 0;
    if call(null_mut(), 0, &mut needed) != BLAZE_STATUS_OK {
        return None;
    }
    // It may have grown meanwhile.
    let mut buffer = vec![1u8; needed + 4096];
    if call(buffer.as_mut_ptr().cast(), buffer.len(), &mut needed) != BLAZE_STATUS_OK {
        return None;
    }
    assert_eq!(buffer[needed - 1], 0);
    Some(String::from_utf8(buffer[..needed - 1].to_vec()).expect("a text in UTF-8"))
}

pub fn new_event() -> blaze_event {
    // SAFETY: a C struct in which zeroes are valid.
    let mut event: blaze_event = unsafe { zeroed() };
    event.struct_size = size_of::<blaze_event>() as u32;
    event
}

pub fn new_tensor() -> blaze_tensor {
    // SAFETY: as above.
    let mut tensor: blaze_tensor = unsafe { zeroed() };
    tensor.struct_size = size_of::<blaze_tensor>() as u32;
    tensor
}

pub fn new_request() -> blaze_request {
    // SAFETY: as above.
    let mut request: blaze_request = unsafe { zeroed() };
    request.struct_size = size_of::<blaze_request>() as u32;
    request
}
