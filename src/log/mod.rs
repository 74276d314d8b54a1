//! Where an engine's log lines go: nowhere (the default), to stderr, a file, a function of the host's, or the `log` facade.
//!
//! Each engine has its own logger, which can be configured anew at any time, so that two engines in one process can
//! differ. A global logger is installed only if the configuration asks for it. What nobody wants to read costs one
//! relaxed load; no thread is involved, and nothing that goes wrong with a line reaches the engine.

mod file;
mod global;
mod line;
mod rate;
mod settings;
mod sink;

pub use line::{Field, Record};
pub use log::Level;
pub use settings::{FileSettings, Format, LevelFilter, RateSettings, Settings, Target};
pub use sink::Callback;

use crate::error::Result;
use sink::Sink;
use std::fmt;
use std::sync::Arc;

/// The modules: which part of the engine speaks. Each can have a level of its own.
///
/// `model`: loads, unloads, and states of models. `memory`: evictions, reloads, the budget. `route`: breakers, health
/// checks, attempts. `repository`: versions that come and go. `onnx`: the backend, execution providers. `onnxruntime`:
/// what ONNX Runtime itself says. `backend`: what backends of the host's and plugins say. `health`: models that get slow. `profile`, `tuning`: what their names say. `jobs`, `deadlines`: the engine's threads. `other`: with `global`, lines of other
/// crates.
pub const MODULES: [&str; 13] = [
    "model",
    "memory",
    "route",
    "repository",
    "onnx",
    "onnxruntime",
    "backend",
    "health",
    "profile",
    "tuning",
    "jobs",
    "deadlines",
    OTHER,
];

/// The module of lines that come from no part of the engine.
const OTHER: &str = "other";

/// A module's place in `MODULES`.
fn module_index(name: &str) -> usize {
    MODULES.iter().position(|module| *module == name).unwrap_or(MODULES.len() - 1)
}

/// An engine's logger; a clone is the same one.
#[derive(Clone)]
pub struct Logger {
    sink: Arc<Sink>,
}

impl Logger {
    /// A logger as the defaults, changed by `change`, have it.
    pub fn new(change: impl FnOnce(&mut Settings)) -> Result<Self> {
        let logger = Logger { sink: Arc::default() };
        logger.configure(change)?;
        Ok(logger)
    }

    /// Changes the settings while others log. Errors leave everything as it was.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) -> Result<()> {
        self.sink.configure(change)
    }

    /// Sets, or with `None` removes, the function that lines go to when the target is `Callback`. The one before is not
    /// called any more once this returns. The first one gets the lines that came before it, up to 1024.
    pub fn set_callback(&self, callback: Option<Callback>) -> Result<()> {
        self.sink.set_callback(callback)
    }

    /// Lets nothing through any more; calls no callback once it returns.
    pub fn close(&self) {
        self.sink.close();
    }

    /// Whether a line of this level would be written.
    #[inline]
    pub fn enabled(&self, level: Level, topic: &str) -> bool {
        self.sink.may_pass(level) && self.sink.passes(level, module_index(topic))
    }

    /// Writes one line; `topic`, one of `MODULES`, says which part of the engine speaks.
    #[inline]
    pub fn log(&self, level: Level, topic: &str, message: fmt::Arguments<'_>) {
        self.write(level, topic, &[], message);
    }

    /// The same logger; its lines have these fields.
    pub fn with<'a>(&'a self, fields: &'a [(&'a str, Field<'a>)]) -> With<'a> {
        With { logger: self, fields }
    }

    #[inline]
    fn write(&self, level: Level, topic: &str, fields: &[(&str, Field<'_>)], message: fmt::Arguments<'_>) {
        if self.sink.may_pass(level) {
            self.sink.write(level, module_index(topic), fields, message);
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

/// A logger whose lines have fields, for programs that read them.
#[derive(Clone, Copy)]
pub struct With<'a> {
    logger: &'a Logger,
    fields: &'a [(&'a str, Field<'a>)],
}

impl With<'_> {
    pub fn log(&self, level: Level, topic: &str, message: fmt::Arguments<'_>) {
        self.logger.write(level, topic, self.fields, message);
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
mod tests;
