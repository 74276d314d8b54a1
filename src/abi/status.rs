//! Status numbers and errors as C has them.

use std::ffi::c_char;

/// What a call came to. 0 is success; every other number names one kind of failure, for ever.
/// 1xx: an argument; 2xx: the state of things; 3xx: capacity; 4xx: the model; 5xx: the backend; 9xx: Blaze itself.
pub type blaze_status = i32;

/// Success.
pub const BLAZE_STATUS_OK: blaze_status = 0;
/// An argument is out of its range or otherwise unusable.
pub const BLAZE_STATUS_INVALID_ARGUMENT: blaze_status = 100;
/// A pointer that must not be NULL is.
pub const BLAZE_STATUS_NULL_POINTER: blaze_status = 101;
/// `struct_size` is wrong, or a field that this version does not know is set.
pub const BLAZE_STATUS_INVALID_STRUCT: blaze_status = 102;
/// A configuration is not valid JSON, or has an unknown key or a wrong value; the message names its path.
pub const BLAZE_STATUS_INVALID_CONFIG: blaze_status = 103;
/// A tensor's name is unknown, given twice, or missing.
pub const BLAZE_STATUS_INVALID_NAME: blaze_status = 104;
/// An element type is unknown, or not the one that the model wants.
pub const BLAZE_STATUS_INVALID_DTYPE: blaze_status = 105;
/// A rank or size is not what the model wants, is negative, zero where it must not be, or overflows.
pub const BLAZE_STATUS_INVALID_SHAPE: blaze_status = 106;
/// A byte count does not match the shape.
pub const BLAZE_STATUS_INVALID_SIZE: blaze_status = 107;
/// Understood, but not supported by this build or version.
pub const BLAZE_STATUS_UNSUPPORTED: blaze_status = 108;
/// There is no such model, or no request waiting with such a ticket (any more).
pub const BLAZE_STATUS_NOT_FOUND: blaze_status = 200;
/// The engine is shut down.
pub const BLAZE_STATUS_SHUT_DOWN: blaze_status = 201;
/// Something is still in use.
pub const BLAZE_STATUS_BUSY: blaze_status = 202;
/// The request was cancelled.
pub const BLAZE_STATUS_CANCELLED: blaze_status = 203;
/// The request's deadline passed.
pub const BLAZE_STATUS_EXPIRED: blaze_status = 204;
/// The call's own time ran out.
pub const BLAZE_STATUS_TIMEOUT: blaze_status = 205;
/// Not possible in this state, such as pumping an engine that has threads.
pub const BLAZE_STATUS_INVALID_STATE: blaze_status = 206;
/// A model of this name and version is loaded, or being loaded.
pub const BLAZE_STATUS_ALREADY_EXISTS: blaze_status = 207;
/// The engine or the completion queue holds as many requests as it may: poll, release events, try again.
pub const BLAZE_STATUS_QUEUE_FULL: blaze_status = 300;
/// Refused by a rate limit.
pub const BLAZE_STATUS_RATE_LIMITED: blaze_status = 301;
/// Refused by a tenant's quota.
pub const BLAZE_STATUS_OVER_QUOTA: blaze_status = 302;
/// The system or the device has no memory left.
pub const BLAZE_STATUS_OUT_OF_MEMORY: blaze_status = 303;
/// It would not fit into `memory.budget_bytes`.
pub const BLAZE_STATUS_OVER_BUDGET: blaze_status = 304;
/// The caller's buffer is too small.
pub const BLAZE_STATUS_BUFFER_TOO_SMALL: blaze_status = 305;
/// The model file is not there or cannot be read.
pub const BLAZE_STATUS_MODEL_NOT_FOUND: blaze_status = 400;
/// The model is corrupt.
pub const BLAZE_STATUS_MODEL_INVALID: blaze_status = 401;
/// The model needs something that the backend does not have.
pub const BLAZE_STATUS_MODEL_UNSUPPORTED: blaze_status = 402;
/// The backend failed to run the model.
pub const BLAZE_STATUS_BACKEND_FAILED: blaze_status = 500;
/// The backend's library is missing or too old; the message lists where it was looked for.
pub const BLAZE_STATUS_BACKEND_UNAVAILABLE: blaze_status = 501;
/// None of the execution providers asked for works here; the message says why for each.
pub const BLAZE_STATUS_PROVIDER_UNAVAILABLE: blaze_status = 502;
/// The device is gone.
pub const BLAZE_STATUS_DEVICE_LOST: blaze_status = 503;
/// A bug in Blaze, or a panic in a backend. The engine lives on.
pub const BLAZE_STATUS_INTERNAL: blaze_status = 900;

/// Why a call failed: memory of the caller's, which every function that takes one accepts as NULL. It is written
/// only on failure.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_error {
    /// What the call returned.
    pub status: blaze_status,
    /// A sentence for people, UTF-8, NUL-terminated, cut if it is longer.
    pub message: [c_char; 1012],
    /// After so long, in nanoseconds, the same call may succeed: for RATE_LIMITED. 0: not known.
    pub retry_after_ns: u64,
}
