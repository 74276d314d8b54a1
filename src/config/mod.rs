//! Configuration: JSON in, checked structs out, errors that name the path.

mod engine;
mod model;

pub use engine::{EngineConfig, LogConfig, MemoryConfig, OnnxRuntimeConfig, QueueConfig};
pub use model::{
    BatchingConfig, FaultConfig, FaultKind, MockCompute, MockConfig, MockDim, MockTensor, ModelConfig,
};

use crate::error::{Error, Result, Status};
use serde::de::DeserializeOwned;

/// The longest JSON text that is read, in bytes.
pub const MAX_JSON_BYTES: usize = 16 << 20;

/// Parses `json` into `T`; unknown keys, wrong types and trailing text are errors that name the path.
fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    if json.len() > MAX_JSON_BYTES {
        return Err(invalid(format!("the text has {} bytes, more than {MAX_JSON_BYTES}", json.len())));
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let value: T = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| {
        let path = e.path().to_string();
        match path.as_str() {
            "." => invalid(e.inner().to_string()),
            _ => invalid(format!("{path}: {}", e.inner())),
        }
    })?;
    deserializer.end().map_err(|e| invalid(e.to_string()))?;
    Ok(value)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Status::InvalidConfig, message)
}

/// An error for the key `path`, unless `ok`.
fn require(ok: bool, path: &str, message: impl std::fmt::Display) -> Result<()> {
    if ok { Ok(()) } else { Err(invalid(format!("{path}: {message}"))) }
}
