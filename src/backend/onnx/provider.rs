//! Execution providers: the names in a configuration, and how each is registered with ONNX Runtime.

use crate::error::{Error, Result, Status};
use ort::ep;
use ort::ep::ExecutionProviderDispatch;

/// The names that a configuration may use.
const NAMES: [&str; 8] = ["cpu", "cuda", "tensorrt", "openvino", "xnnpack", "coreml", "directml", "qnn"];

/// An execution provider that a configuration asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Provider {
    name: &'static str,
}

impl Provider {
    /// The provider called `name` in the list's place `index`.
    pub fn parse(index: usize, name: &str) -> Result<Self> {
        NAMES.iter().find(|known| **known == name).map(|name| Provider { name }).ok_or_else(|| {
            Error::new(
                Status::InvalidConfig,
                format!("providers[{index}]: {name:?} is unknown; known are {}", NAMES.join(", ")),
            )
        })
    }

    pub fn name(self) -> &'static str {
        self.name
    }

    pub fn is_cpu(self) -> bool {
        self.name == "cpu"
    }

    /// What registers the provider; `None` for the CPU's, which is always there.
    pub fn dispatch(self) -> Option<ExecutionProviderDispatch> {
        // Device ids are given even where 0 is the default: without one, a missing driver is noticed only
        // when the session is committed.
        let dispatch = match self.name {
            "cuda" => ep::CUDA::default().with_device_id(0).build(),
            "tensorrt" => ep::TensorRT::default().with_device_id(0).build(),
            "openvino" => ep::OpenVINO::default().build(),
            "xnnpack" => ep::XNNPACK::default().build(),
            "coreml" => ep::CoreML::default().build(),
            "directml" => ep::DirectML::default().build(),
            "qnn" => ep::QNN::default().build(),
            _ => return None,
        };
        Some(dispatch.error_on_failure())
    }

    /// ONNX Runtime's own name for the provider.
    pub fn runtime_name(self) -> &'static str {
        match self.name {
            "cuda" => "CUDAExecutionProvider",
            "tensorrt" => "TensorrtExecutionProvider",
            "openvino" => "OpenVINOExecutionProvider",
            "xnnpack" => "XnnpackExecutionProvider",
            "coreml" => "CoreMLExecutionProvider",
            "directml" => "DmlExecutionProvider",
            "qnn" => "QNNExecutionProvider",
            _ => "CPUExecutionProvider",
        }
    }
}
