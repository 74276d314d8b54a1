//! Why something cannot be done: a status of Blaze's and a sentence.

use crate::abi::status::*;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: blaze_status,
    pub text: String,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(status: blaze_status, text: impl Into<String>) -> Self {
        Failure { status, text: text.into() }
    }

    pub fn config(text: impl Into<String>) -> Self {
        Failure::new(BLAZE_STATUS_INVALID_CONFIG, text)
    }

    pub fn invalid(text: impl Into<String>) -> Self {
        Failure::new(BLAZE_STATUS_MODEL_INVALID, text)
    }

    pub fn failed(text: impl Into<String>) -> Self {
        Failure::new(BLAZE_STATUS_BACKEND_FAILED, text)
    }

    pub fn lost(text: impl Into<String>) -> Self {
        Failure::new(BLAZE_STATUS_DEVICE_LOST, text)
    }

    pub fn shape(text: impl Into<String>) -> Self {
        Failure::new(BLAZE_STATUS_INVALID_SHAPE, text)
    }

    pub fn cancelled() -> Self {
        Failure::new(BLAZE_STATUS_CANCELLED, "nobody wants the result")
    }
}
