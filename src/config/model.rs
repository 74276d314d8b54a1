//! The configuration of a model.

use super::{
    LimitsConfig, Object, ProviderConfig, object, objects, optional_object, parse, part_of, read, require,
};
use crate::error::Error;
use crate::features::PLUGINS;
use crate::tensor::DType;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// One object of an engine's `models`, and `blaze_model_load`'s JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub name: String,
    /// 1 if it is not given, but for a model of the repository.
    #[serde(default)]
    pub version: Option<u32>,
    /// Which backend runs it: `onnx`, `mock`, or one that the host or a plugin has registered.
    #[serde(default = "onnx")]
    pub backend: String,
    /// The model file; not for `mock`, nor for a model given from memory.
    #[serde(default)]
    pub path: Option<String>,
    /// Batches that may be computed at once.
    #[serde(default = "one")]
    pub lanes: u32,
    /// Threads that one run may use inside an operator; null: the engine's `onnxruntime.intra_op_threads`.
    #[serde(default)]
    pub intra_op_threads: Option<u32>,
    /// Whether it may be tuned, if the engine tunes.
    #[serde(default = "yes")]
    pub tuning: bool,
    /// Execution providers, in the order in which they are tried.
    #[serde(default = "cpu")]
    pub providers: Vec<ProviderConfig>,
    #[serde(default, deserialize_with = "object")]
    pub batching: BatchingConfig,
    /// Run the model at load, so that the first request does not pay for it.
    #[serde(default, deserialize_with = "warmup")]
    pub warmup: WarmupConfig,
    /// Tell how far a load in the background has come.
    #[serde(default)]
    pub progress: bool,
    /// Whether the `onnx` backend lays weights out anew as its kernels like them best. If not, runs are slower, but weights
    /// in external files stay mapped: they load at once, and take memory that the system can have back at any time.
    #[serde(default = "yes")]
    pub prepack: bool,
    /// Never evicted to make room for others.
    #[serde(default)]
    pub pinned: bool,
    #[serde(default, deserialize_with = "object")]
    pub limits: LimitsConfig,
    /// When it has failed, have it tried with a synthetic request, and loaded anew.
    #[serde(default = "yes")]
    pub recovery: bool,
    /// For a backend of the host's or a plugin's: whatever it wants.
    #[serde(default, deserialize_with = "options")]
    pub options: serde_json::Map<String, Value>,
    /// What the `mock` backend does.
    #[serde(default, deserialize_with = "optional_object")]
    pub mock: Option<MockConfig>,
}

/// What is run at load. In JSON also `true` and `false`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmupConfig {
    pub enabled: bool,
    /// Numbers of rows to run; empty: `batching.buckets`, or if there are none every power of two up to `max_rows`.
    pub sizes: Vec<u32>,
    /// Examples, by the input's name. Others are zeros.
    #[serde(deserialize_with = "examples")]
    pub inputs: BTreeMap<String, ExampleConfig>,
}

impl Default for WarmupConfig {
    fn default() -> Self {
        WarmupConfig { enabled: true, sizes: Vec::new(), inputs: BTreeMap::new() }
    }
}

impl WarmupConfig {
    /// Nobody has said how.
    pub fn is_default(&self) -> bool {
        self.sizes.is_empty() && self.inputs.is_empty()
    }
}

/// What an input is given to warm up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExampleConfig {
    /// The sizes of all axes, of which those count that the model leaves open; the first one does not for a model whose
    /// requests are joined.
    pub shape: Vec<u32>,
    /// What every element is.
    pub fill: f64,
    /// The elements of one row, or of the whole input if requests are not joined; instead of `fill`.
    pub data: Vec<f64>,
}

fn warmup<'de, D: Deserializer<'de>>(deserializer: D) -> Result<WarmupConfig, D::Error> {
    struct WarmupVisitor;
    impl<'de> Visitor<'de> for WarmupVisitor {
        type Value = WarmupConfig;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true, false or an object")
        }

        fn visit_bool<E>(self, enabled: bool) -> Result<WarmupConfig, E> {
            Ok(WarmupConfig { enabled, ..WarmupConfig::default() })
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WarmupConfig, A::Error> {
            WarmupConfig::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(WarmupVisitor)
}

fn examples<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, ExampleConfig>, D::Error> {
    BTreeMap::<String, Object<ExampleConfig>>::deserialize(deserializer)
        .map(|examples| examples.into_iter().map(|(name, example)| (name, example.0)).collect())
}

/// How requests are joined into one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

fn options<'de, D: Deserializer<'de>>(from: D) -> Result<serde_json::Map<String, Value>, D::Error> {
    part_of(&PLUGINS, from, Deserialize::deserialize)
}

fn steps<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    part_of(&PLUGINS, from, u64::deserialize)
}

/// A backend for tests: it computes something checkable and fails on command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// If not 0, requests advance by so many steps, each of which sends the text "step k ". What is said of runs is then of
    /// steps.
    #[serde(deserialize_with = "steps")]
    pub steps: u64,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MockTensor {
    pub name: String,
    #[serde(default)]
    pub dtype: DType,
    pub shape: Vec<MockDim>,
}

/// A size, or the name of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Of those, the share that it strikes, at random.
    #[serde(default = "one_f64")]
    pub share: f64,
    /// It strikes only while there is a file of this name: a switch for tests.
    #[serde(default)]
    pub while_exists: Option<String>,
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
fn one_f64() -> f64 {
    1.0
}
fn yes() -> bool {
    true
}
fn onnx() -> String {
    "onnx".into()
}
fn cpu() -> Vec<ProviderConfig> {
    vec![ProviderConfig::bare("cpu")]
}

impl ModelConfig {
    /// Parses and checks one model's configuration.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        let config: ModelConfig = parse(json)?;
        config.check("")?;
        Ok(config)
    }

    /// Reads and checks one model's configuration from JSON that was parsed already; errors name the path.
    pub fn from_value(value: Value) -> Result<Self, Error> {
        let config: ModelConfig = read(value)?;
        config.check("")?;
        Ok(config)
    }

    /// Whether a model may have this name.
    pub fn check_name(name: &str) -> Result<(), Error> {
        Self::check_name_at(name, "name")
    }

    /// A configuration that says nothing but the name, and maybe the version.
    pub fn bare(name: &str, version: Option<u32>) -> Self {
        ModelConfig {
            name: name.to_owned(),
            version,
            backend: onnx(),
            path: None,
            lanes: one(),
            intra_op_threads: None,
            tuning: true,
            providers: cpu(),
            batching: BatchingConfig::default(),
            warmup: WarmupConfig::default(),
            progress: false,
            prepack: true,
            pinned: false,
            limits: LimitsConfig::default(),
            recovery: true,
            options: serde_json::Map::new(),
            mock: None,
        }
    }

    pub fn version(&self) -> u32 {
        self.version.unwrap_or(1)
    }

    /// `name:version`, which no other model of the engine may have.
    pub fn full_name(&self) -> String {
        format!("{}:{}", self.name, self.version())
    }

    /// Checks values that the types leave open; `prefix` is the path of this object.
    pub(super) fn check(&self, prefix: &str) -> Result<(), Error> {
        let require = |ok, key: &str, message: &str| require(ok, &format!("{prefix}{key}"), message);
        Self::check_name_at(&self.name, &format!("{prefix}name"))?;
        require(self.version() >= 1, "version", "must be at least 1")?;
        require((1..=256).contains(&self.lanes), "lanes", "must be from 1 to 256")?;
        let threads = self.intra_op_threads.is_none_or(|threads| (1..=1024).contains(&threads));
        require(threads, "intra_op_threads", "must be from 1 to 1024")?;
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
        require(
            self.warmup.sizes.iter().all(|size| (1..=batching.max_rows).contains(size)),
            "warmup.sizes",
            "must be from 1 to batching.max_rows",
        )?;
        for (name, axis) in &batching.axes {
            require(
                rising(&axis.buckets) && !axis.buckets.is_empty(),
                &format!("batching.axes.{name}.buckets"),
                "must rise from at least 1, and not be empty",
            )?;
        }
        self.limits.check(&format!("{prefix}limits."), false)?;
        let is_own = matches!(self.backend.as_str(), "onnx" | "mock");
        require(
            !is_own || self.options.is_empty(),
            "options",
            "only for backends of the host's and of plugins",
        )?;
        if let Some(mock) = &self.mock {
            require(self.backend == "mock", "mock", "only for \"backend\": \"mock\"")?;
            for (index, fault) in mock.faults.iter().enumerate() {
                require(fault.every >= 1, &format!("mock.faults[{index}].every"), "must be at least 1")?;
                let share = (0.0..=1.0).contains(&fault.share);
                require(share, &format!("mock.faults[{index}].share"), "must be from 0 to 1")?;
            }
        }
        Ok(())
    }

    fn check_name_at(name: &str, path: &str) -> Result<(), Error> {
        require(
            !name.is_empty() && name.len() <= 255 && !name.contains([':', '\0', '\n', '"', '\\']),
            path,
            "must have 1 to 255 bytes and no colon, quote, backslash, newline or NUL",
        )
    }
}
