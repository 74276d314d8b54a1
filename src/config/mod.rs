//! Configuration: JSON in, checked structs out, errors that name the path.

mod engine;
mod log;
mod model;
mod profile;
mod provider;
mod route;
mod tuning;

pub use engine::{
    EngineConfig, LoadingConfig, MemoryConfig, OnnxRuntimeConfig, PluginConfig, QueueConfig, RepositoryConfig,
};
pub use log::{LogConfig, LogFileConfig, LogRateConfig};
pub use model::{
    AxisConfig, BatchingConfig, ExampleConfig, FaultConfig, FaultKind, MockCompute, MockConfig, MockDim,
    MockTensor, ModelConfig, WarmupConfig,
};

pub use profile::{ProfileConfig, ProfileLevel, ProfileMode};
pub use provider::{ProviderConfig, ProviderOption};
pub use route::{
    BreakerConfig, HashOn, HealthCheckConfig, HedgeConfig, LimitsConfig, MAX_TARGETS, RetryConfig,
    RouteConfig, StickyConfig, StrategyConfig, TargetConfig, TenantConfig, TenantsConfig,
};

pub use tuning::{
    ChangeBatching, ChangeConfig, Objective, TuneConfig, TuningConfig, TuningLevel, TuningLimits, TuningMode,
};

use crate::error::{Error, Result, Status};
use crate::features::Feature;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;

/// The longest JSON text that is read, in bytes.
pub const MAX_JSON_BYTES: usize = 16 << 20;

/// Parses `json` into `T`; unknown keys, wrong types and trailing text are errors that name the path.
fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    if json.len() > MAX_JSON_BYTES {
        return Err(invalid(format!("the text has {} bytes, more than {MAX_JSON_BYTES}", json.len())));
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let value = read(&mut deserializer)?;
    deserializer.end().map_err(|e| invalid(e.to_string()))?;
    Ok(value)
}

/// Reads an object into `T`; errors name the path.
fn read<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T>
where
    D::Error: fmt::Display,
{
    let value: Object<T> = serde_path_to_error::deserialize(deserializer).map_err(|e| {
        let path = e.path().to_string();
        match path.as_str() {
            "." => invalid(e.inner().to_string()),
            _ => invalid(format!("{path}: {}", e.inner())),
        }
    })?;
    Ok(value.0)
}

/// A struct that is written as a JSON object. (On its own serde also takes an array of the fields' values.)
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// For fields: a struct that must be an object.
fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|object| object.0)
}

/// For fields: a struct that must be an object, or null.
fn optional_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::<Object<T>>::deserialize(deserializer).map(|object| object.map(|object| object.0))
}

/// For fields: structs that must be objects.
fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Vec::<Object<T>>::deserialize(deserializer)
        .map(|objects| objects.into_iter().map(|object| object.0).collect())
}

/// For fields of a part that a build may leave out: read as `read` says, or refused.
#[inline(always)]
fn part_of<'de, T, D: Deserializer<'de>>(
    feature: &Feature,
    deserializer: D,
    read: impl FnOnce(D) -> Result<T, D::Error>,
) -> Result<T, D::Error> {
    if feature.built { read(deserializer) } else { Err(D::Error::custom(feature.missing())) }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Status::InvalidConfig, message)
}

/// An error for the key `path`, unless `ok`.
fn require(ok: bool, path: &str, message: impl std::fmt::Display) -> Result<()> {
    if ok { Ok(()) } else { Err(invalid(format!("{path}: {message}"))) }
}
