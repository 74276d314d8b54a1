//! ONNX models on ONNX Runtime, which is loaded at run time. The only module that names `ort`.

mod batch;
mod binding;
mod ending;
mod files;
mod library;
mod memory;
mod pinned;
mod provider;
mod providers;
mod register;
mod session;
mod sessions;
mod value;

pub use library::{RuntimeInfo, loaded};
pub use sessions::Sessions;

use super::{Backend, Estimate, LoadRequest, Model};
use crate::error::Result;
use std::sync::Arc;

/// The backend.
pub struct Onnx;

impl Backend for Onnx {
    fn name(&self) -> &str {
        "onnx"
    }

    fn estimate(&self, request: &LoadRequest<'_>) -> Result<Estimate> {
        session::estimate(request)
    }

    fn load(&self, request: &LoadRequest<'_>) -> Result<Arc<dyn Model>> {
        session::load(request)
    }
}
