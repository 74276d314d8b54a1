//! Versions, and what statuses are called. Their numbers: `abi::status`.

pub use crate::abi::status::*;

use crate::error::Status;
use std::ffi::c_char;

/// The version of the interface that this header describes: major << 16 | minor. A library with the same major
/// number and the same or a higher minor number can be used with it.
pub const BLAZE_ABI_VERSION: u32 = 0x10000;

/// The name of a status without its prefix, such as "QUEUE_FULL"; "UNKNOWN" for a number that is none.
/// The string is static. Never blocks.
#[unsafe(no_mangle)]
pub extern "C" fn blaze_status_name(status: blaze_status) -> *const c_char {
    let known = Status::ALL.into_iter().find(|known| known.code() == status);
    known.map_or(c"UNKNOWN", Status::c_name).as_ptr()
}

/// The interface version of the loaded library, to compare with BLAZE_ABI_VERSION. Never blocks.
#[unsafe(no_mangle)]
pub extern "C" fn blaze_abi_version() -> u32 {
    BLAZE_ABI_VERSION
}

/// The version of the loaded library, such as "0.1.0". The string is static. Never blocks.
#[unsafe(no_mangle)]
pub extern "C" fn blaze_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The clock that deadlines are on: nanoseconds, monotonic, from an arbitrary start. Never blocks.
#[unsafe(no_mangle)]
pub extern "C" fn blaze_now_ns() -> u64 {
    crate::clock::now_ns()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_constant_of_its_name_and_number() {
        let source = include_str!("../abi/status.rs");
        for status in Status::ALL {
            let line = format!("pub const BLAZE_STATUS_{}: blaze_status = {};", status.name(), status.code());
            assert!(source.contains(&line), "{line}");
            let name = unsafe { std::ffi::CStr::from_ptr(blaze_status_name(status.code())) };
            assert_eq!(name, status.c_name());
        }
        assert_eq!(source.matches("\npub const BLAZE_STATUS_").count(), Status::ALL.len());
        assert_eq!(unsafe { std::ffi::CStr::from_ptr(blaze_status_name(i32::MIN)) }, c"UNKNOWN");
    }
}
