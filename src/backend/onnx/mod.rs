//! ONNX models on ONNX Runtime, which is loaded at run time. The only module that names `ort`.

mod batch;
mod ending;
mod files;
mod library;
mod memory;
mod provider;
mod session;
mod sessions;
mod value;

pub use library::{RuntimeInfo, loaded};
pub use session::{estimate, load};
pub use sessions::Sessions;
