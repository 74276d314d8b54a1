//! What can be set about an engine's log.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The least severe lines that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LevelFilter {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Nowhere.
    None,
    /// Standard error, one line each.
    Stderr,
    /// A file, which is renamed when it is full.
    File,
    /// A function of the host's.
    Callback,
    /// The `log` crate's facade, for Rust hosts that installed a logger of their own.
    Facade,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `2026-11-21T12:00:00.123456Z WARN blaze::model a message model=name:1`
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    pub path: Option<String>,
    /// The file is renamed before it would have more.
    pub max_bytes: u64,
    /// Renamed files that are kept.
    pub keep: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateSettings {
    /// Lines a second, of each module and level; 0: no limit.
    pub per_second: u32,
    /// Lines at once; `None`: as many as in a second.
    pub burst: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub level: LevelFilter,
    pub target: Target,
    pub format: Format,
    /// Levels of modules that differ from `level`.
    pub modules: BTreeMap<String, LevelFilter>,
    pub file: FileSettings,
    pub rate: RateSettings,
    /// Whether what the process says through the `log` facade comes here too.
    pub global: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            level: LevelFilter::Warn,
            target: Target::None,
            format: Format::Text,
            modules: BTreeMap::new(),
            file: FileSettings { path: None, max_bytes: 10 << 20, keep: 3 },
            rate: RateSettings { per_second: 100, burst: None },
            global: false,
        }
    }
}
