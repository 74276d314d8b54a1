//! The models that are measured with: three multi-layer perceptrons with softmax.

use crate::abi::fail;
use std::path::{Path, PathBuf};

/// The rows of a full batch.
pub const MAX_ROWS: usize = 64;

/// One row in, one row out, 32-bit floats.
pub struct Model {
    pub name: &'static str,
    pub inputs: usize,
    pub outputs: usize,
    folder: &'static str,
}

/// 4→8→2.
pub const TINY: Model = Model { name: "tiny", inputs: 4, outputs: 2, folder: "tests/models" };
/// 64→256→256→8.
pub const SMALL: Model = Model { name: "small", inputs: 64, outputs: 8, folder: "tests/models" };
/// 784→2048→2048→10; too large to be committed, so `make bench` makes it.
pub const LARGE: Model = Model { name: "large", inputs: 784, outputs: 10, folder: "target/bench/models" };

impl Model {
    pub fn path(&self) -> PathBuf {
        let path = root().join(self.folder).join(format!("{}.onnx", self.name));
        if !path.exists() {
            fail(&format!("{} is missing: `make bench` makes it", path.display()));
        }
        path
    }

    /// Input for `count` rows.
    pub fn rows(&self, count: usize) -> Vec<f32> {
        let length = count * self.inputs;
        (0..length).map(|index| index as f32 / length as f32 - 0.5).collect()
    }
}

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
