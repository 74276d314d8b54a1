//! The configuration of an engine.

use super::{
    LogConfig, ModelConfig, ProfileConfig, RouteConfig, TenantsConfig, TuningConfig, TuningMode, object,
    objects, optional_object, parse, part_of, require,
};
use crate::error::Result;
use crate::features::{PLUGINS, PROFILER, REPOSITORY, ROUTER, TUNING};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// `blaze_engine_create`'s JSON. Every key has a default; `{}` and NULL mean the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub struct EngineConfig {
    /// Null: as many threads as there are cores for (cores ÷ `intra_op_threads`) serve all models on the CPU, and every
    /// lane of a model elsewhere has a thread of its own. 0: no threads; the host's own thread works in `blaze_pump`.
    /// N: N threads serve all models.
    pub threads: Option<u32>,
    #[serde(deserialize_with = "object")]
    pub onnxruntime: OnnxRuntimeConfig,
    #[serde(deserialize_with = "object")]
    pub queue: QueueConfig,
    #[serde(deserialize_with = "object")]
    pub memory: MemoryConfig,
    #[serde(deserialize_with = "object")]
    pub loading: LoadingConfig,
    #[serde(deserialize_with = "object")]
    pub log: LogConfig,
    #[serde(deserialize_with = "object")]
    pub metrics: MetricsConfig,
    /// The engine is profiled from the start; null: not before it is asked to be.
    #[serde(deserialize_with = "profile")]
    pub profile: Option<ProfileConfig>,
    /// Where relative model paths start; null: the process's working directory.
    pub model_directory: Option<String>,
    /// A directory of models that is read at the start, and again from time to time.
    #[serde(deserialize_with = "repository")]
    pub repository: RepositoryConfig,
    /// Shared objects with backends, which are opened first.
    #[serde(deserialize_with = "plugins")]
    pub plugins: Vec<PluginConfig>,
    /// Models that are loaded before `blaze_engine_create` returns.
    #[serde(deserialize_with = "objects")]
    pub models: Vec<ModelConfig>,
    /// Routes that are made after the models are loaded.
    #[serde(deserialize_with = "routes")]
    pub routes: Vec<RouteConfig>,
    #[serde(deserialize_with = "tenants")]
    pub tenants: TenantsConfig,
    #[serde(deserialize_with = "tuning")]
    pub tuning: TuningConfig,
}

/// A plugin. In JSON also its name alone.
#[derive(Clone, Debug, Serialize)]
pub struct PluginConfig {
    /// An absolute path, or what is beside Blaze itself: a file's name, or the plugin's, such as "cuda".
    pub path: String,
    /// For the plugin: whatever it wants.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Whether there is no engine without it.
    pub required: bool,
}

impl<'de> Deserialize<'de> for PluginConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            path: String,
            #[serde(default)]
            config: serde_json::Map<String, serde_json::Value>,
            #[serde(default)]
            required: bool,
        }
        struct PluginVisitor;
        impl<'de> Visitor<'de> for PluginVisitor {
            type Value = PluginConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a plugin's name, or an object with its \"path\"")
            }

            fn visit_str<E>(self, path: &str) -> Result<PluginConfig, E> {
                Ok(PluginConfig { path: path.into(), config: serde_json::Map::new(), required: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PluginConfig, A::Error> {
                let Whole { path, config, required } = Whole::deserialize(MapAccessDeserializer::new(map))?;
                Ok(PluginConfig { path, config, required })
            }
        }
        from.deserialize_any(PluginVisitor)
    }
}

fn plugins<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PluginConfig>, D::Error> {
    part_of(&PLUGINS, from, Vec::deserialize)
}

fn devices<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Option<u64>>, D::Error> {
    part_of(&PLUGINS, from, BTreeMap::deserialize)
}

fn profile<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ProfileConfig>, D::Error> {
    part_of(&PROFILER, from, optional_object)
}

fn repository<'de, D: Deserializer<'de>>(from: D) -> Result<RepositoryConfig, D::Error> {
    part_of(&REPOSITORY, from, object)
}

fn routes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<RouteConfig>, D::Error> {
    part_of(&ROUTER, from, objects)
}

fn tenants<'de, D: Deserializer<'de>>(from: D) -> Result<TenantsConfig, D::Error> {
    part_of(&ROUTER, from, object)
}

fn tuning<'de, D: Deserializer<'de>>(from: D) -> Result<TuningConfig, D::Error> {
    part_of(&TUNING, from, object)
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OnnxRuntimeConfig {
    /// The path of the ONNX Runtime library; null: search for it.
    pub library: Option<String>,
    /// Threads that one run may use inside an operator.
    pub intra_op_threads: u32,
    /// Whether each session has ONNX Runtime's own arena, which keeps what it once had and is not counted exactly. If
    /// not, tensors are in the engine's pool.
    pub arena: bool,
    /// Whether ONNX Runtime plans a run's memory as one block, by what it has seen of its shapes.
    pub memory_pattern: bool,
}

impl Default for OnnxRuntimeConfig {
    fn default() -> Self {
        OnnxRuntimeConfig { library: None, intra_op_threads: 1, arena: false, memory_pattern: true }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// Requests that may be alive at once, from submit to the release of their event.
    pub capacity: u32,
}

impl Default for QueueConfig {
    fn default() -> Self {
        QueueConfig { capacity: 65_536 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Bytes that models and the memory of requests may take; null: no limit.
    pub budget_bytes: Option<u64>,
    /// Bytes of the pool that nobody uses just now, kept for the next to come; they count as taken.
    pub pool_bytes: u64,
    /// How long such bytes are kept, in milliseconds; and how long an engine rests before it gives memory back.
    pub idle_ms: u32,
    /// Whether to have the C library give large blocks back to the system when they are freed, in the whole process;
    /// null: if there is a budget. Only glibc needs to be told.
    pub tune_heap: Option<bool>,
    /// Bytes that may be taken of each device's memory, by backend and device, such as "cuda:0". Null, or left out: nine
    /// tenths of what is free when it is first used, if its backend says how much that is.
    #[serde(deserialize_with = "devices")]
    pub devices: BTreeMap<String, Option<u64>>,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        let devices = BTreeMap::new();
        MemoryConfig { budget_bytes: None, pool_bytes: 64 << 20, idle_ms: 1000, tune_heap: None, devices }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Whether to look at the engine ten times a second while requests come, for trends, advice, and to notice when a model
    /// gets slow. It takes a thread, unless there are none.
    pub trends: bool,
    /// Whether to keep histograms: of durations, and of rows in batches.
    pub histograms: bool,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        MetricsConfig { trends: true, histograms: true }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadingConfig {
    /// Models that are loaded at the same time; others wait for their turn.
    pub concurrency: u32,
}

impl Default for LoadingConfig {
    fn default() -> Self {
        LoadingConfig { concurrency: 2 }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositoryConfig {
    /// The directory, which holds `name/version/model.onnx`; null: no repository.
    pub directory: Option<String>,
    /// How long to wait before it is read again, in milliseconds, 10 to 86400000 (a day); null: it is read once.
    pub poll_ms: Option<u32>,
}

impl EngineConfig {
    /// The largest `queue.capacity`.
    pub const MAX_QUEUE_CAPACITY: u32 = 1 << 24;

    /// Parses and checks a configuration.
    pub fn from_json(json: &str) -> Result<Self> {
        let config: EngineConfig = parse(json)?;
        require(config.threads.unwrap_or(0) <= 1024, "threads", "at most 1024")?;
        require(
            (1..=1024).contains(&config.onnxruntime.intra_op_threads),
            "onnxruntime.intra_op_threads",
            "must be from 1 to 1024",
        )?;
        require(
            (1..=Self::MAX_QUEUE_CAPACITY).contains(&config.queue.capacity),
            "queue.capacity",
            format_args!("must be from 1 to {}", Self::MAX_QUEUE_CAPACITY),
        )?;
        require(
            (1..=256).contains(&config.loading.concurrency),
            "loading.concurrency",
            "must be from 1 to 256",
        )?;
        require(config.memory.idle_ms >= 1, "memory.idle_ms", "must be at least 1")?;
        for name in config.memory.devices.keys() {
            require(
                is_device(name),
                &format!("memory.devices.{name}"),
                "must be a backend's name, a colon and a device's number, such as \"cuda:0\"",
            )?;
        }
        config.log.check("log.")?;
        require(
            config.metrics.histograms || config.tuning.mode == TuningMode::Off,
            "metrics.histograms",
            "must be true unless tuning.mode is \"off\", which measures with them",
        )?;
        if PROFILER.built
            && let Some(profile) = &config.profile
        {
            profile.check("profile.")?;
        }
        if REPOSITORY.built {
            config.repository.check()?;
        }
        for (index, model) in config.models.iter().enumerate() {
            model.check(&format!("models[{index}]."))?;
        }
        if ROUTER.built {
            for (index, route) in config.routes.iter().enumerate() {
                route.check(&format!("routes[{index}]."))?;
            }
            config.tenants.check("tenants.")?;
        }
        if TUNING.built {
            config.tuning.check("tuning.")?;
        }
        Ok(config)
    }
}

/// Whether it is the name of a device, of whatever backend.
fn is_device(name: &str) -> bool {
    name.rsplit_once(':').is_some_and(|(backend, number)| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let digits = number
            .parse::<u32>()
            .is_ok_and(|parsed| parsed <= i32::MAX as u32 && parsed.to_string() == number);
        !backend.is_empty() && backend.bytes().all(plain) && digits
    })
}

impl RepositoryConfig {
    fn check(&self) -> Result<()> {
        require(
            self.directory.as_deref().is_none_or(|directory| !directory.is_empty()),
            "repository.directory",
            "must not be empty",
        )?;
        if let Some(poll_ms) = self.poll_ms {
            require(self.directory.is_some(), "repository.poll_ms", "only with repository.directory")?;
            require(
                (10..=86_400_000).contains(&poll_ms),
                "repository.poll_ms",
                "must be from 10 to 86400000 (a day)",
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> String {
        EngineConfig::from_json(json).unwrap_err().message
    }

    #[test]
    fn nothing_given_means_the_defaults() {
        let config = EngineConfig::from_json("{}").unwrap();
        assert_eq!(config.queue.capacity, 65_536);
        assert_eq!(config.onnxruntime.intra_op_threads, 1);
        assert_eq!(config.log.target, None);
        assert_eq!(config.threads, None);
    }

    #[test]
    fn the_example_of_the_documentation_is_accepted() {
        EngineConfig::from_json(
            r#"{"threads": null, "onnxruntime": {"library": null, "intra_op_threads": 1},
                "queue": {"capacity": 65536}, "memory": {"budget_bytes": null},
                "log": {"level": "warn", "target": "none", "format": "text", "modules": {"onnx": "debug"},
                        "file": {"path": null, "max_bytes": 10485760, "keep": 3},
                        "rate": {"per_second": 100, "burst": 100}, "global": false},
                "model_directory": null, "repository": {"directory": null, "poll_ms": null},
                "models": [{"name": "digits", "version": 1, "backend": "onnx", "path": "digits.onnx",
                            "lanes": 1, "providers": ["cpu"],
                            "batching": {"max_rows": 64, "max_delay_us": 200},
                            "warmup": true, "pinned": false}]}"#,
        )
        .unwrap();
    }

    #[test]
    fn errors_name_the_path() {
        assert!(message(r#"{"queue": {"capacity": "many"}}"#).starts_with("queue.capacity: "));
        assert!(message(r#"{"queue": {"capacity": 0}}"#).starts_with("queue.capacity: "));
        assert!(message(r#"{"queue": {"size": 1}}"#).starts_with("queue.size: unknown field"));
        assert!(message(r#"{"cache": {}}"#).contains("unknown field `cache`"));
        assert!(message(r#"{"threads": -1}"#).starts_with("threads: "));
        let batching = r#"{"models": [{"name": "m", "path": "p", "batching": {"max_rows": 0}}]}"#;
        assert!(message(batching).starts_with("models[0].batching.max_rows: "), "{}", message(batching));
        assert!(message(r#"{"repository": {"path": "p"}}"#).starts_with("repository.path: unknown field"));
        assert!(message(r#"{"repository": {"directory": ""}}"#).starts_with("repository.directory: "));
        assert!(message(r#"{"repository": "p"}"#).starts_with("repository: "));
        assert!(message(r#"{"repository": {"poll_ms": 500}}"#).starts_with("repository.poll_ms: only with"));
        for poll_ms in ["9", "86400001", "-1", "1.5", "\"1 s\""] {
            let json = format!(r#"{{"repository": {{"directory": "d", "poll_ms": {poll_ms}}}}}"#);
            assert!(message(&json).starts_with("repository.poll_ms: "), "{}", message(&json));
        }
        EngineConfig::from_json(r#"{"repository": {"directory": "d", "poll_ms": 10}}"#).unwrap();
        assert!(message(r#"{"profile": {"spans": 1}}"#).starts_with("profile.spans: "));
        assert!(message(r#"{"profile": {"level": "x"}}"#).starts_with("profile.level: "));
        let blind = r#"{"metrics": {"histograms": false}, "tuning": {"mode": "observe"}}"#;
        assert!(message(blind).starts_with("metrics.histograms: "), "{}", message(blind));
        for name in ["cuda", "cuda:", ":0", "cuda:x", "cuda:-1", "cuda:01", "cuda:4294967296", "a b:0"] {
            let json = format!(r#"{{"memory": {{"devices": {{"{name}": 1}}}}}}"#);
            assert!(
                message(&json).starts_with(&format!("memory.devices.{name}: must be")),
                "{}",
                message(&json)
            );
        }
        assert!(message(r#"{"memory": {"devices": {"cuda:0": -1}}}"#).starts_with("memory.devices.cuda:0: "));
        EngineConfig::from_json(r#"{"memory": {"devices": {"cuda:0": 1, "my-own.one:12": null}}}"#).unwrap();
        assert!(message("{} x").contains("trailing"));
        assert!(message("").contains("EOF"));
        assert!(message("[]").contains("expected an object"));
        assert!(message(r#"{"queue": [8]}"#).starts_with("queue: "));
        assert!(message(r#"{"models": [["m", 1]]}"#).starts_with("models[0]: "));
    }
}
