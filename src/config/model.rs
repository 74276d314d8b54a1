//! The configuration of a model.

use super::{object, objects, optional_object, parse, require};
use crate::error::Result;
use crate::tensor::DType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One object of an engine's `models`, and `blaze_model_load`'s JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub name: String,
    #[serde(default = "one")]
    pub version: u32,
    /// Which backend runs it: `onnx` or `mock`.
    #[serde(default = "onnx")]
    pub backend: String,
    /// The model file; not for `mock`, nor for a model given from memory.
    #[serde(default)]
    pub path: Option<String>,
    /// Batches that may be computed at once.
    #[serde(default = "one")]
    pub lanes: u32,
    /// Execution providers, in the order in which they are tried.
    #[serde(default = "cpu")]
    pub providers: Vec<String>,
    #[serde(default, deserialize_with = "object")]
    pub batching: BatchingConfig,
    /// Run the model once at load, so that the first request does not pay for it.
    #[serde(default = "yes")]
    pub warmup: bool,
    /// Never evicted to make room for others.
    #[serde(default)]
    pub pinned: bool,
    /// What the `mock` backend does.
    #[serde(default, deserialize_with = "optional_object")]
    pub mock: Option<MockConfig>,
}

/// How requests are joined into one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchingConfig {
    /// The most rows in one batch; 1 turns batching off.
    pub max_rows: u32,
    /// The longest that a batch waits for more rows, in microseconds. Mostly it waits for much less, or not at all.
    pub max_delay_us: u32,
    /// How long a request waits to count as one priority level higher, in milliseconds.
    pub priority_aging_ms: u32,
    /// Sizes that batches are padded to, rising, the last one `max_rows`; empty: none.
    pub buckets: Vec<u32>,
    /// Named axes other than the first whose sizes are padded with zeros, each to the next of its buckets.
    pub axes: BTreeMap<String, AxisConfig>,
}

/// How an axis is padded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AxisConfig {
    /// Sizes, rising.
    pub buckets: Vec<u32>,
}

impl Default for BatchingConfig {
    fn default() -> Self {
        BatchingConfig {
            max_rows: 64,
            max_delay_us: 200,
            priority_aging_ms: 50,
            buckets: Vec::new(),
            axes: BTreeMap::new(),
        }
    }
}

/// A backend for tests: it computes something checkable and fails on command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub struct MockConfig {
    /// Default: one input `x`, f32, `["batch", 4]`.
    #[serde(deserialize_with = "objects")]
    pub inputs: Vec<MockTensor>,
    /// Default: one output `y`, like the first input.
    #[serde(deserialize_with = "objects")]
    pub outputs: Vec<MockTensor>,
    pub compute: MockCompute,
    /// How long every run takes, in microseconds.
    pub latency_us: u64,
    /// How long loading takes, in microseconds.
    pub load_latency_us: u64,
    /// The bytes that the model says it takes.
    pub memory_bytes: u64,
    #[serde(deserialize_with = "objects")]
    pub faults: Vec<FaultConfig>,
}

/// What the outputs hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MockCompute {
    /// Every f32 output element is 2 × the same element of the first input, plus 1.
    #[default]
    Affine,
    /// Every output is the first input's bytes, whatever its dtype.
    Echo,
}

/// An input or output of a mock model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MockTensor {
    pub name: String,
    #[serde(default)]
    pub dtype: DType,
    pub shape: Vec<MockDim>,
}

/// A size, or the name of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MockDim {
    Fixed(u32),
    Symbolic(String),
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The run fails with `BACKEND_FAILED`.
    Error,
    /// The run panics.
    Panic,
    /// The run fails with `OUT_OF_MEMORY`.
    OutOfMemory,
    /// The run fails with `DEVICE_LOST`.
    DeviceLost,
    /// The run does not return until it is interrupted.
    Hang,
    /// The run takes `latency_us` longer.
    Slow,
    /// Loading fails with `MODEL_INVALID`.
    LoadError,
    /// Loading panics.
    LoadPanic,
    /// Loading fails with `OUT_OF_MEMORY`.
    LoadOutOfMemory,
}

/// A fault, and the runs that it strikes: those numbered `after`, `after + every`, … from 0, `count` times.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultConfig {
    pub kind: FaultKind,
    #[serde(default)]
    pub after: u64,
    #[serde(default = "one_u64")]
    pub every: u64,
    /// Null: for ever.
    #[serde(default)]
    pub count: Option<u64>,
    /// For `slow`, in microseconds.
    #[serde(default)]
    pub latency_us: u64,
}

fn one() -> u32 {
    1
}
fn one_u64() -> u64 {
    1
}
fn yes() -> bool {
    true
}
fn onnx() -> String {
    "onnx".into()
}
fn cpu() -> Vec<String> {
    vec!["cpu".into()]
}

impl ModelConfig {
    /// Parses and checks one model's configuration.
    pub fn from_json(json: &str) -> Result<Self> {
        let config: ModelConfig = parse(json)?;
        config.check("")?;
        Ok(config)
    }

    /// `name:version`, which no other model of the engine may have.
    pub fn full_name(&self) -> String {
        format!("{}:{}", self.name, self.version)
    }

    /// Checks values that the types leave open; `prefix` is the path of this object.
    pub(super) fn check(&self, prefix: &str) -> Result<()> {
        let require = |ok, key: &str, message: &str| require(ok, &format!("{prefix}{key}"), message);
        require(
            !self.name.is_empty()
                && self.name.len() <= 255
                && !self.name.contains([':', '\0', '\n', '"', '\\']),
            "name",
            "must have 1 to 255 bytes and no colon, quote, backslash, newline or NUL",
        )?;
        require(self.version >= 1, "version", "must be at least 1")?;
        require((1..=256).contains(&self.lanes), "lanes", "must be from 1 to 256")?;
        require(!self.providers.is_empty(), "providers", "must name at least one, as in [\"cpu\"]")?;
        let batching = &self.batching;
        require((1..=65_536).contains(&batching.max_rows), "batching.max_rows", "must be from 1 to 65536")?;
        require(batching.max_delay_us <= 10_000_000, "batching.max_delay_us", "at most 10000000 (10 s)")?;
        require(batching.priority_aging_ms >= 1, "batching.priority_aging_ms", "must be at least 1")?;
        let rising =
            |sizes: &[u32]| sizes.windows(2).all(|pair| pair[0] < pair[1]) && sizes.first() != Some(&0);
        require(
            rising(&batching.buckets)
                && batching.buckets.last().is_none_or(|&last| last == batching.max_rows),
            "batching.buckets",
            "must rise from at least 1 to max_rows",
        )?;
        for (name, axis) in &batching.axes {
            require(
                rising(&axis.buckets) && !axis.buckets.is_empty(),
                &format!("batching.axes.{name}.buckets"),
                "must rise from at least 1, and not be empty",
            )?;
        }
        if let Some(mock) = &self.mock {
            require(self.backend == "mock", "mock", "only for \"backend\": \"mock\"")?;
            for (index, fault) in mock.faults.iter().enumerate() {
                require(fault.every >= 1, &format!("mock.faults[{index}].every"), "must be at least 1")?;
            }
        }
        Ok(())
    }
}
