//! The boundary itself: no panic passes it, and errors go to the caller's own memory.

use super::status::{blaze_error, blaze_status};
use crate::error::{Error, Result, Status};
use crate::features::Feature;
use crate::panics::catch;
use std::ffi::c_char;

/// Runs an export. On failure writes `error`, if there is one, and returns the status.
///
/// # Safety
/// `error` is NULL or writable.
pub unsafe fn guard(error: *mut blaze_error, work: impl FnOnce() -> Result<()>) -> blaze_status {
    let result = catch(work);
    match result {
        Ok(()) => Status::Ok.code(),
        Err(failure) => {
            // SAFETY: promised by the caller.
            unsafe { write_error(error, &failure) };
            failure.status.code()
        }
    }
}

/// As `guard`, for an export of a part that a build may leave out: without it the export refuses, and `work` is not in the
/// library. (The compiler would keep `work` after a `feature.require()?` in it: it does not see that an error made at run
/// time is never taken for `Ok`.)
///
/// # Safety
/// `error` is NULL or writable.
#[inline(always)]
pub unsafe fn guard_part(
    feature: &'static Feature,
    error: *mut blaze_error,
    work: impl FnOnce() -> Result<()>,
) -> blaze_status {
    // SAFETY: promised by the caller.
    unsafe { if feature.built { guard(error, work) } else { refuse(feature, error) } }
}

/// # Safety
/// `error` is NULL or writable.
unsafe fn refuse(feature: &'static Feature, error: *mut blaze_error) -> blaze_status {
    // SAFETY: promised by the caller.
    unsafe { guard(error, || Err(Error::new(Status::Unsupported, feature.missing()))) }
}

/// Runs an export that has no way to fail; a panic in it gives `otherwise`.
pub fn guard_value<T>(otherwise: T, work: impl FnOnce() -> Result<T>) -> T {
    catch(work).unwrap_or(otherwise)
}

/// # Safety
/// `error` is NULL or writable.
unsafe fn write_error(error: *mut blaze_error, failure: &Error) {
    // SAFETY: promised by the caller.
    let Some(error) = (unsafe { error.as_mut() }) else { return };
    error.status = failure.status.code();
    error.retry_after_ns = failure.retry_after_ns;
    let room = error.message.len() - 1;
    // Cut at a character's end, so that what is left is UTF-8 still.
    let end = (0..=failure.message.len().min(room)).rev().find(|&end| failure.message.is_char_boundary(end));
    let text = &failure.message.as_bytes()[..end.unwrap_or(0)];
    for (to, from) in error.message.iter_mut().zip(text) {
        *to = if *from == 0 { b' ' as c_char } else { *from as c_char };
    }
    error.message[text.len()] = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let mut error = blaze_error { status: 0, message: [1; 1012], retry_after_ns: 1 };
        let code = unsafe { guard(&mut error, || Err(Error::new(Status::Busy, "ü".repeat(600)))) };
        assert_eq!((code, error.status), (202, 202));
        let text = unsafe { std::ffi::CStr::from_ptr(error.message.as_ptr()) };
        assert_eq!(text.to_str().unwrap(), "ü".repeat(505));
        assert_eq!(unsafe { guard(std::ptr::null_mut(), || Ok(())) }, 0);
        let panicked = unsafe { guard(&mut error, || panic!("oh")) };
        assert_eq!(panicked, Status::Internal.code());
    }
}
