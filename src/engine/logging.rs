//! An engine's log, as it is set up and changed.

use super::Engine;
use crate::config::LogConfig;
use crate::error::{Error, Result};
use crate::log::{Callback, Logger};

pub fn new_logger(config: &LogConfig) -> Result<Logger> {
    Logger::new(|settings| config.apply(settings))
        .map_err(|error| Error::new(error.status, format!("log.{}", error.message)))
}

impl Engine {
    /// Changes what is given of the log's configuration, while the engine works.
    pub fn configure_log(&self, config: &LogConfig) -> Result<()> {
        self.core().logger.configure(|settings| config.apply(settings))
    }

    /// Sets or removes the function that gets lines while the target is `callback`. It is called by one thread at a time,
    /// and not any more once this has returned for the next one, or the engine is dropped.
    pub fn set_log_callback(&self, callback: Option<Callback>) -> Result<()> {
        self.core().logger.set_callback(callback)
    }
}
