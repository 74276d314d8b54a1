//! ONNX models on ONNX Runtime, which is loaded at run time. The only module that names `ort`.

mod batch;
mod library;
mod provider;
mod session;
mod value;

pub use library::{RuntimeInfo, loaded};
pub use session::load;
