//! Where an engine's log lines go: nowhere (the default), to stderr, or through the `log` facade.
//!
//! Each engine has its own logger, so that two engines in one process can differ. No global logger is ever
//! installed.

use serde::{Deserialize, Serialize};
use std::fmt;

pub use log::Level;

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
    /// The `log` crate's facade, for Rust hosts that installed a logger of their own.
    Facade,
}

/// An engine's logger.
#[derive(Clone, Copy, Debug)]
pub struct Logger {
    level: LevelFilter,
    target: Target,
}

impl Logger {
    pub fn new(level: LevelFilter, target: Target) -> Self {
        Logger { level, target }
    }

    /// Whether a line of this level would be written.
    pub fn enabled(&self, level: Level) -> bool {
        self.target != Target::None && (level as usize) <= (self.level as usize)
    }

    /// Writes one line; `topic` says which part of the engine speaks.
    pub fn log(&self, level: Level, topic: &str, message: fmt::Arguments<'_>) {
        if !self.enabled(level) {
            return;
        }
        match self.target {
            Target::None => {}
            Target::Stderr => {
                use std::io::Write;
                // A closed stderr is not the engine's trouble.
                let _ = writeln!(std::io::stderr().lock(), "[blaze {level} {topic}] {message}");
            }
            Target::Facade => {
                log::log!(target: "blaze", level, "{topic}: {message}");
            }
        }
    }

    pub fn error(&self, topic: &str, message: fmt::Arguments<'_>) {
        self.log(Level::Error, topic, message);
    }
    pub fn warn(&self, topic: &str, message: fmt::Arguments<'_>) {
        self.log(Level::Warn, topic, message);
    }
    pub fn info(&self, topic: &str, message: fmt::Arguments<'_>) {
        self.log(Level::Info, topic, message);
    }
    pub fn debug(&self, topic: &str, message: fmt::Arguments<'_>) {
        self.log(Level::Debug, topic, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_lets_through_itself_and_worse() {
        let logger = Logger::new(LevelFilter::Warn, Target::Stderr);
        assert!(logger.enabled(Level::Error) && logger.enabled(Level::Warn));
        assert!(!logger.enabled(Level::Info));
        assert!(!Logger::new(LevelFilter::Trace, Target::None).enabled(Level::Error));
        assert!(!Logger::new(LevelFilter::Off, Target::Stderr).enabled(Level::Error));
    }
}
