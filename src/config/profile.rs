//! The configuration of the profiler.

use super::{parse, require};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// How much is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileLevel {
    /// At most 1000 batches a second, and one request of each: cheap enough to stay on.
    #[default]
    Basic,
    /// At most 2000 batches a second, eight requests of each, and a run's operators about once a second.
    Detailed,
    /// Every batch with all its requests, and operators ten times a second.
    Comprehensive,
    /// As comprehensive; reports have every single span.
    Debug,
}

impl ProfileLevel {
    pub fn name(self) -> &'static str {
        match self {
            ProfileLevel::Basic => "basic",
            ProfileLevel::Detailed => "detailed",
            ProfileLevel::Comprehensive => "comprehensive",
            ProfileLevel::Debug => "debug",
        }
    }
}

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileMode {
    /// Where the time of requests goes, operators, and CPU time by thread.
    Cpu,
    /// The ledger, the pool, the heap, and evictions.
    Memory,
    /// Loads, and what they read.
    Io,
    /// Remote targets, of which this build has none.
    Network,
    /// All of them.
    Combined,
}

impl ProfileMode {
    pub fn name(self) -> &'static str {
        match self {
            ProfileMode::Cpu => "cpu",
            ProfileMode::Memory => "memory",
            ProfileMode::Io => "io",
            ProfileMode::Network => "network",
            ProfileMode::Combined => "combined",
        }
    }
}

/// `blaze_profile_start`'s JSON; `{}` and NULL mean the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileConfig {
    /// Null: basic.
    pub level: Option<ProfileLevel>,
    pub modes: Vec<ProfileMode>,
    /// One of so many batches is recorded; null: as many as the level allows.
    pub sample: Option<u32>,
    /// Spans that are kept, 64 bytes each; later ones overwrite the oldest. Null: by the level.
    pub spans: Option<u32>,
    /// Where ONNX Runtime writes its profiles, which are read and removed at once; null: the system's directory for
    /// temporary files.
    pub directory: Option<String>,
}

impl Default for ProfileConfig {
    fn default() -> Self {
        let modes = vec![ProfileMode::Combined];
        ProfileConfig { level: None, modes, sample: None, spans: None, directory: None }
    }
}

impl ProfileConfig {
    const SPANS: std::ops::RangeInclusive<u32> = 1024..=4_194_304;

    /// Parses and checks a configuration.
    pub fn from_json(json: &str) -> Result<Self> {
        let config: ProfileConfig = parse(json)?;
        config.check("")?;
        Ok(config)
    }

    pub(super) fn check(&self, path: &str) -> Result<()> {
        require(!self.modes.is_empty(), &format!("{path}modes"), "must not be empty")?;
        require(self.sample != Some(0), &format!("{path}sample"), "must be at least 1")?;
        require(
            self.spans.is_none_or(|spans| Self::SPANS.contains(&spans)),
            &format!("{path}spans"),
            format_args!("must be from {} to {}", Self::SPANS.start(), Self::SPANS.end()),
        )?;
        let named = self.directory.as_deref().is_none_or(|directory| !directory.is_empty());
        require(named, &format!("{path}directory"), "must not be empty")
    }

    pub fn level(&self) -> ProfileLevel {
        self.level.unwrap_or_default()
    }

    /// Whether it is among the modes.
    pub fn has(&self, mode: ProfileMode) -> bool {
        self.modes.contains(&mode) || self.modes.contains(&ProfileMode::Combined)
    }

    /// Spans that are kept.
    pub fn capacity(&self) -> usize {
        let usual = match self.level() {
            ProfileLevel::Basic => 1 << 15,
            ProfileLevel::Detailed => 1 << 17,
            ProfileLevel::Comprehensive => 1 << 18,
            ProfileLevel::Debug => 1 << 19,
        };
        self.spans.map_or(usual, |spans| spans as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_given_means_basic_and_everything() {
        let config = ProfileConfig::from_json("{}").unwrap();
        assert_eq!((config.level(), config.sample, config.capacity()), (ProfileLevel::Basic, None, 1 << 15));
        assert!(config.has(ProfileMode::Cpu) && config.has(ProfileMode::Network));
        let config = ProfileConfig::from_json(r#"{"level": null, "modes": ["io"]}"#).unwrap();
        assert!(config.has(ProfileMode::Io) && !config.has(ProfileMode::Cpu));
    }

    #[test]
    fn errors_name_the_path() {
        let message = |json: &str| ProfileConfig::from_json(json).unwrap_err().message;
        assert!(message(r#"{"level": "all"}"#).starts_with("level: "));
        assert!(message(r#"{"modes": []}"#).starts_with("modes: "));
        assert!(message(r#"{"modes": ["cpu", "gpu"]}"#).starts_with("modes[1]: "));
        assert!(message(r#"{"sample": 0}"#).starts_with("sample: "));
        assert!(message(r#"{"spans": 5}"#).starts_with("spans: "));
        assert!(message(r#"{"directory": ""}"#).starts_with("directory: "));
        assert!(message(r#"{"rate": 5}"#).starts_with("rate: unknown field"));
        assert!(message("[]").contains("expected an object"));
    }
}
