//! What a backend says about a model of its.

use crate::error::{Error, Result, Status};
use crate::tensor::{DType, Dim, MAX_RANK, Signature, TensorSpec};
use serde::Deserialize;

/// The most inputs or outputs of a model.
const MAX_TENSORS: usize = 4096;
/// Bytes that no model takes of a host's memory.
const MAX_MEMORY: u64 = 1 << 56;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    inputs: Vec<Described>,
    outputs: Vec<Described>,
    #[serde(default)]
    pub rows_are_independent: bool,
    #[serde(default = "yes")]
    pub on_cpu: bool,
    #[serde(default)]
    pub memory_bytes: u64,
    #[serde(default)]
    pub provider: Option<String>,
    /// Whose memory requests' tensors may be in.
    #[serde(default)]
    devices: Vec<i32>,
    #[serde(default)]
    pub batch_memory: BatchMemory,
}

/// Where the memory of batches is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchMemory {
    #[default]
    Host,
    Pinned,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    name: String,
    dtype: DType,
    shape: Vec<Size>,
    #[serde(default)]
    optional: bool,
}

/// A size, or the name of one that varies.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Fixed(u32),
    Symbolic(String),
}

fn yes() -> bool {
    true
}

impl Description {
    pub fn parse(json: &str) -> Result<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            wrong(&format!("{path}: {}", error.into_inner()))
        })
    }

    /// Whose memory requests' tensors may be in.
    pub fn devices(&self) -> &[i32] {
        &self.devices
    }

    /// Models that advance by steps may do with what they say meanwhile, without outputs.
    pub fn signature(&self, is_stepwise: bool) -> Result<Signature> {
        let signature =
            Signature { inputs: specs("inputs", &self.inputs)?, outputs: specs("outputs", &self.outputs)? };
        if signature.outputs.is_empty() && !is_stepwise {
            return Err(wrong("outputs: there must be one"));
        }
        if self.memory_bytes > MAX_MEMORY {
            return Err(wrong("memory_bytes: more than any machine has"));
        }
        if let Some(index) = self.devices.iter().position(|&device| device < 0) {
            return Err(wrong(&format!("devices[{index}]: is negative")));
        }
        if let Some(index) = self.outputs.iter().position(|output| output.optional) {
            return Err(wrong(&format!("outputs[{index}].optional: only inputs may be left out")));
        }
        Ok(signature)
    }
}

fn wrong(what: &str) -> Error {
    Error::new(Status::BackendFailed, format!("the backend's description of the model: {what}"))
}

fn specs(kind: &str, described: &[Described]) -> Result<Vec<TensorSpec>> {
    if described.len() > MAX_TENSORS {
        return Err(wrong(&format!("{kind}: more than {MAX_TENSORS}")));
    }
    let spec = |(index, tensor): (usize, &Described)| {
        let at = |what: &str| wrong(&format!("{kind}[{index}].{what}"));
        if tensor.name.is_empty() || described[..index].iter().any(|other| other.name == tensor.name) {
            return Err(at("name: must not be empty, nor there already"));
        }
        if tensor.dtype == DType::String {
            return Err(at("dtype: strings are not for backends of this kind"));
        }
        if tensor.shape.len() > MAX_RANK {
            return Err(at(&format!("shape: more than {MAX_RANK} axes")));
        }
        let dims = tensor.shape.iter().map(|size| match size {
            Size::Fixed(size) => Dim::Fixed(i64::from(*size)),
            Size::Symbolic(name) => Dim::Symbolic(name.clone()),
        });
        let mut spec = TensorSpec::new(&tensor.name, tensor.dtype, dims.collect())
            .map_err(|_| at("name: has a NUL in it"))?;
        spec.optional = tensor.optional;
        Ok(spec)
    };
    described.iter().enumerate().map(spec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"inputs": [{"name": "x", "dtype": "f32", "shape": ["batch", 4]},
        {"name": "k", "dtype": "i64", "shape": [], "optional": true}],
        "outputs": [{"name": "y", "dtype": "f16", "shape": ["batch"]}], "provider": "here", "on_cpu": false}"#;

    #[test]
    fn a_description_becomes_a_signature() {
        let description = Description::parse(GOOD).unwrap();
        assert_eq!((description.on_cpu, description.memory_bytes), (false, 0));
        assert_eq!(
            (description.provider.as_deref(), description.batch_memory),
            (Some("here"), BatchMemory::Host)
        );
        let signature = description.signature(false).unwrap();
        assert_eq!(signature.inputs[0].shape_text(), "[batch, 4]");
        assert!(signature.inputs[1].optional && signature.inputs[1].dims.is_empty());
        assert_eq!((signature.outputs[0].dtype, signature.outputs.len()), (DType::F16, 1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (r#"{"inputs": []}"#, "outputs"),
            (r#"{"inputs": [], "outputs": []}"#, "outputs: there must be one"),
            (
                r#"{"inputs": [], "outputs": [{"name": "y", "dtype": "f33", "shape": []}]}"#,
                "outputs[0].dtype",
            ),
            (
                r#"{"inputs": [], "outputs": [{"name": "y", "dtype": "string", "shape": []}]}"#,
                "outputs[0].dtype",
            ),
            (
                r#"{"inputs": [], "outputs": [{"name": "y", "dtype": "f32", "shape": [-1]}]}"#,
                "outputs[0].shape[0]",
            ),
            (r#"{"inputs": [], "outputs": [{"name": "", "dtype": "f32", "shape": []}]}"#, "outputs[0].name"),
            (
                r#"{"inputs": [], "outputs": [{"name": "y", "dtype": "f32", "shape": [], "optional": true}]}"#,
                "optional",
            ),
            (r#"{"inputs": [], "outputs": [], "colour": 1}"#, "colour"),
            (
                r#"{"inputs": [], "outputs": [{"name": "y", "dtype": "f32", "shape": []}], "devices": [0, -1]}"#,
                "devices[1]: is negative",
            ),
            (r#"{"inputs": [], "outputs": [], "batch_memory": "near"}"#, "batch_memory"),
            ("[1", "the model"),
        ];
        for (json, named) in cases {
            let error = Description::parse(json).and_then(|said| said.signature(false)).unwrap_err();
            assert_eq!(error.status, Status::BackendFailed);
            assert!(error.message.contains(named), "{json}: {error}");
        }
    }
}
