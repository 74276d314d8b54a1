//! The configuration of tuning: how an engine tunes itself, what `blaze_tune` is to try, and changes of a running model.

use super::{object, parse, require};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Whether an engine tunes its models while they work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TuningMode {
    #[default]
    Off,
    /// It only says what it would change.
    Observe,
    On,
}

/// How bold tuning is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TuningLevel {
    /// Small steps, of batching only.
    Conservative,
    #[default]
    Balanced,
    /// Large steps first, and for smaller gains.
    Aggressive,
}

/// What tuning is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    #[default]
    Throughput,
    /// A p99 under the goal first, then throughput; without a goal a low p99.
    Latency,
}

impl Objective {
    pub fn name(self) -> &'static str {
        match self {
            Objective::Throughput => "throughput",
            Objective::Latency => "latency",
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TuningConfig {
    pub mode: TuningMode,
    pub level: TuningLevel,
    pub objective: Objective,
    /// The goal: 99 of 100 requests take no longer, in milliseconds.
    pub p99_ms: Option<f64>,
    #[serde(deserialize_with = "object")]
    pub limits: TuningLimits,
    /// Where what was learned is kept; null: nowhere.
    pub directory: Option<String>,
}

/// What tuning must stay within: the least and the most. Null: what makes sense on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TuningLimits {
    pub max_rows: Option<[u32; 2]>,
    pub max_delay_us: Option<[u32; 2]>,
    pub lanes: Option<[u32; 2]>,
    pub intra_op_threads: Option<[u32; 2]>,
}

/// What each setting may be at all.
const ROWS: [u32; 2] = [1, 65_536];
const DELAY: [u32; 2] = [0, 10_000_000];
const LANES: [u32; 2] = [1, 256];
const INTRA: [u32; 2] = [1, 1024];

fn p99_is_good(p99_ms: Option<f64>) -> bool {
    p99_ms.is_none_or(|ms| ms.is_finite() && ms > 0.0)
}

impl TuningConfig {
    pub(super) fn check(&self, prefix: &str) -> Result<()> {
        require(p99_is_good(self.p99_ms), &format!("{prefix}p99_ms"), "must be greater than 0")?;
        let directory = self.directory.as_deref().is_none_or(|directory| !directory.is_empty());
        require(directory, &format!("{prefix}directory"), "must not be empty")?;
        let limits = &self.limits;
        let all = [
            ("max_rows", limits.max_rows, ROWS),
            ("max_delay_us", limits.max_delay_us, DELAY),
            ("lanes", limits.lanes, LANES),
            ("intra_op_threads", limits.intra_op_threads, INTRA),
        ];
        for (name, limit, [least, most]) in all {
            let good = limit.is_none_or(|[low, high]| low >= least && low <= high && high <= most);
            let text = format_args!("must be [least, most], from {least} to {most}");
            require(good, &format!("{prefix}limits.{name}"), text)?;
        }
        Ok(())
    }
}

/// `blaze_model_configure`'s JSON. What is left out stays as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeConfig {
    #[serde(deserialize_with = "object")]
    pub batching: ChangeBatching,
    pub lanes: Option<u32>,
    pub intra_op_threads: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeBatching {
    pub max_rows: Option<u32>,
    pub max_delay_us: Option<u32>,
}

fn within(value: Option<u32>, [least, most]: [u32; 2], path: &str) -> Result<()> {
    let good = value.is_none_or(|value| (least..=most).contains(&value));
    require(good, path, format_args!("must be from {least} to {most}"))
}

impl ChangeConfig {
    pub fn from_json(json: &str) -> Result<Self> {
        let change: ChangeConfig = parse(json)?;
        within(change.batching.max_rows, ROWS, "batching.max_rows")?;
        within(change.batching.max_delay_us, DELAY, "batching.max_delay_us")?;
        within(change.lanes, LANES, "lanes")?;
        within(change.intra_op_threads, INTRA, "intra_op_threads")?;
        Ok(change)
    }
}

/// `blaze_tune`'s JSON.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuneConfig {
    /// The model's name, or `name:version`.
    pub model: String,
    /// What to try; null: what makes sense.
    #[serde(default)]
    pub max_rows: Option<Vec<u32>>,
    #[serde(default)]
    pub max_delay_us: Option<Vec<u32>>,
    #[serde(default)]
    pub lanes: Option<Vec<u32>>,
    #[serde(default)]
    pub intra_op_threads: Option<Vec<u32>>,
    /// Requests at once, and rows in each.
    #[serde(default = "in_flight")]
    pub in_flight: u32,
    #[serde(default = "one")]
    pub rows: u32,
    #[serde(default = "half")]
    pub seconds_per_point: f64,
    /// Null: the engine's.
    #[serde(default)]
    pub objective: Option<Objective>,
    #[serde(default)]
    pub p99_ms: Option<f64>,
    /// Have the model keep the best.
    #[serde(default)]
    pub apply: bool,
}

fn in_flight() -> u32 {
    64
}
fn one() -> u32 {
    1
}
fn half() -> f64 {
    0.5
}

/// The most combinations that are tried.
const MOST_POINTS: usize = 10_000;

impl TuneConfig {
    pub fn from_json(json: &str) -> Result<Self> {
        let tune: TuneConfig = parse(json)?;
        let lists = [
            ("max_rows", &tune.max_rows, ROWS),
            ("max_delay_us", &tune.max_delay_us, DELAY),
            ("lanes", &tune.lanes, LANES),
            ("intra_op_threads", &tune.intra_op_threads, INTRA),
        ];
        let mut points = 1usize;
        for (name, list, range) in lists {
            let Some(list) = list else { continue };
            require(!list.is_empty(), name, "must name at least one")?;
            for (index, &value) in list.iter().enumerate() {
                within(Some(value), range, &format!("{name}[{index}]"))?;
            }
            points = points.saturating_mul(list.len());
        }
        require(points <= MOST_POINTS, "max_rows", format_args!("{points} combinations are too many"))?;
        within(Some(tune.in_flight), [1, 65_536], "in_flight")?;
        within(Some(tune.rows), ROWS, "rows")?;
        let seconds = (0.01..=60.0).contains(&tune.seconds_per_point);
        require(seconds, "seconds_per_point", "must be from 0.01 to 60")?;
        require(p99_is_good(tune.p99_ms), "p99_ms", "must be greater than 0")?;
        Ok(tune)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineConfig;

    fn tune(json: &str) -> String {
        TuneConfig::from_json(json).unwrap_err().message
    }

    #[test]
    fn errors_name_the_path() {
        assert!(tune(r#"{"model": "m", "rows": 0}"#).starts_with("rows: "));
        assert!(tune(r#"{"model": "m", "lanes": []}"#).starts_with("lanes: "));
        assert!(tune(r#"{"model": "m", "max_rows": [8, 0]}"#).starts_with("max_rows[1]: "));
        assert!(tune(r#"{"model": "m", "speed": 1}"#).starts_with("speed: unknown field"));
        assert!(tune(r#"{"model": "m", "seconds_per_point": 1e9}"#).starts_with("seconds_per_point: "));
        assert!(tune("{}").contains("missing field `model`"));
        let change = |json: &str| ChangeConfig::from_json(json).unwrap_err().message;
        assert!(change(r#"{"batching": {"max_rows": 0}}"#).starts_with("batching.max_rows: "));
        assert!(change(r#"{"batching": {"buckets": []}}"#).starts_with("batching.buckets: unknown field"));
        assert!(change(r#"{"lanes": 257}"#).starts_with("lanes: "));
        let engine = |json: &str| EngineConfig::from_json(json).unwrap_err().message;
        assert!(engine(r#"{"tuning": {"mode": "fast"}}"#).starts_with("tuning.mode: "));
        assert!(engine(r#"{"tuning": {"p99_ms": -1}}"#).starts_with("tuning.p99_ms: "));
        assert!(engine(r#"{"tuning": {"limits": {"lanes": [3, 2]}}}"#).starts_with("tuning.limits.lanes: "));
        assert!(engine(r#"{"tuning": {"limits": {"rows": [1, 2]}}}"#).starts_with("tuning.limits.rows: "));
        assert!(engine(r#"{"tuning": {"directory": ""}}"#).starts_with("tuning.directory: "));
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let tune = TuneConfig::from_json(r#"{"model": "m"}"#).unwrap();
        assert_eq!((tune.in_flight, tune.rows, tune.apply, tune.max_rows), (64, 1, false, None));
        let config = EngineConfig::from_json("{}").unwrap();
        assert_eq!(config.tuning.mode, TuningMode::Off);
    }
}
