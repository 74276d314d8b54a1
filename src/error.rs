//! What can go wrong: one status number per kind, and a message that names the thing.

use std::fmt;

/// A call's outcome. Numbers are grouped in blocks (1xx argument, 2xx state, 3xx capacity, 4xx model,
/// 5xx backend, 9xx internal), fixed for ever and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Status {
    Ok = 0,
    InvalidArgument = 100,
    NullPointer = 101,
    InvalidStruct = 102,
    InvalidConfig = 103,
    InvalidName = 104,
    InvalidDtype = 105,
    InvalidShape = 106,
    InvalidSize = 107,
    Unsupported = 108,
    NotFound = 200,
    ShutDown = 201,
    Busy = 202,
    Cancelled = 203,
    Expired = 204,
    Timeout = 205,
    InvalidState = 206,
    AlreadyExists = 207,
    QueueFull = 300,
    RateLimited = 301,
    OverQuota = 302,
    OutOfMemory = 303,
    OverBudget = 304,
    BufferTooSmall = 305,
    ModelNotFound = 400,
    ModelInvalid = 401,
    ModelUnsupported = 402,
    BackendFailed = 500,
    BackendUnavailable = 501,
    ProviderUnavailable = 502,
    DeviceLost = 503,
    Internal = 900,
}

impl Status {
    /// Every status, in the order of their numbers.
    pub const ALL: [Status; 32] = [
        Status::Ok,
        Status::InvalidArgument,
        Status::NullPointer,
        Status::InvalidStruct,
        Status::InvalidConfig,
        Status::InvalidName,
        Status::InvalidDtype,
        Status::InvalidShape,
        Status::InvalidSize,
        Status::Unsupported,
        Status::NotFound,
        Status::ShutDown,
        Status::Busy,
        Status::Cancelled,
        Status::Expired,
        Status::Timeout,
        Status::InvalidState,
        Status::AlreadyExists,
        Status::QueueFull,
        Status::RateLimited,
        Status::OverQuota,
        Status::OutOfMemory,
        Status::OverBudget,
        Status::BufferTooSmall,
        Status::ModelNotFound,
        Status::ModelInvalid,
        Status::ModelUnsupported,
        Status::BackendFailed,
        Status::BackendUnavailable,
        Status::ProviderUnavailable,
        Status::DeviceLost,
        Status::Internal,
    ];

    /// The status with this number.
    pub fn from_code(code: i32) -> Option<Self> {
        Status::ALL.into_iter().find(|status| status.code() == code)
    }

    /// The number that crosses the C ABI.
    pub fn code(self) -> i32 {
        self as i32
    }

    /// The name of the C constant without its prefix, as in `QUEUE_FULL`; NUL-terminated for C.
    pub fn c_name(self) -> &'static std::ffi::CStr {
        match self {
            Status::Ok => c"OK",
            Status::InvalidArgument => c"INVALID_ARGUMENT",
            Status::NullPointer => c"NULL_POINTER",
            Status::InvalidStruct => c"INVALID_STRUCT",
            Status::InvalidConfig => c"INVALID_CONFIG",
            Status::InvalidName => c"INVALID_NAME",
            Status::InvalidDtype => c"INVALID_DTYPE",
            Status::InvalidShape => c"INVALID_SHAPE",
            Status::InvalidSize => c"INVALID_SIZE",
            Status::Unsupported => c"UNSUPPORTED",
            Status::NotFound => c"NOT_FOUND",
            Status::ShutDown => c"SHUT_DOWN",
            Status::Busy => c"BUSY",
            Status::Cancelled => c"CANCELLED",
            Status::Expired => c"EXPIRED",
            Status::Timeout => c"TIMEOUT",
            Status::InvalidState => c"INVALID_STATE",
            Status::AlreadyExists => c"ALREADY_EXISTS",
            Status::QueueFull => c"QUEUE_FULL",
            Status::RateLimited => c"RATE_LIMITED",
            Status::OverQuota => c"OVER_QUOTA",
            Status::OutOfMemory => c"OUT_OF_MEMORY",
            Status::OverBudget => c"OVER_BUDGET",
            Status::BufferTooSmall => c"BUFFER_TOO_SMALL",
            Status::ModelNotFound => c"MODEL_NOT_FOUND",
            Status::ModelInvalid => c"MODEL_INVALID",
            Status::ModelUnsupported => c"MODEL_UNSUPPORTED",
            Status::BackendFailed => c"BACKEND_FAILED",
            Status::BackendUnavailable => c"BACKEND_UNAVAILABLE",
            Status::ProviderUnavailable => c"PROVIDER_UNAVAILABLE",
            Status::DeviceLost => c"DEVICE_LOST",
            Status::Internal => c"INTERNAL",
        }
    }

    /// The same name as a string slice.
    pub fn name(self) -> &'static str {
        self.c_name().to_str().unwrap_or_default()
    }
}

/// A status other than `Ok`, with a message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub status: Status,
    pub message: String,
    /// The same may work after so long; 0: not known.
    pub retry_after_ns: u64,
}

impl Error {
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Error { status, message: message.into(), retry_after_ns: 0 }
    }

    /// Says when the same may work.
    #[must_use]
    pub fn after(self, retry_after_ns: u64) -> Self {
        Error { retry_after_ns, ..self }
    }

    /// Puts `context` before the message: `context: message`.
    #[must_use]
    pub fn within(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The error for an engine that takes no more work.
    pub fn shut_down() -> Self {
        Error::new(Status::ShutDown, "the engine is shut down")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status.name(), self.message)
    }
}

impl std::error::Error for Error {}

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_names_are_unique() {
        let codes: Vec<i32> = Status::ALL.iter().map(|s| s.code()).collect();
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "{codes:?}");
        let names: std::collections::HashSet<&str> = Status::ALL.iter().map(|s| s.name()).collect();
        assert_eq!(names.len(), Status::ALL.len());
    }
}
