//! Backends that the host and plugins add to an engine.
#![allow(unsafe_code)]

use super::Engine;
use super::lifecycle::Core;
use crate::abi::backend::blaze_backend;
use crate::backend::{Backend, Foreign, plugin};
use crate::config::PluginConfig;
use crate::error::{Error, Result, Status};
use crate::features::PLUGINS;
use crate::sync::lock;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// What became of a plugin.
#[derive(Clone, Debug, Serialize)]
pub struct Plugged {
    /// As it was configured.
    pub plugin: String,
    /// The file, if the configuration says which.
    pub file: Option<PathBuf>,
    /// The backend that it has; null: it is not there.
    pub backend: Option<String>,
    /// Why it is not.
    pub error: Option<String>,
}

impl Engine {
    /// Makes a backend known, until the engine is dropped.
    ///
    /// # Safety
    /// As `Foreign::new`.
    pub unsafe fn register_backend(&self, backend: &blaze_backend) -> Result<()> {
        let core = self.core();
        if core.table.is_closed() {
            return Err(Error::shut_down());
        }
        // SAFETY: promised by the caller.
        let backend = unsafe { Foreign::new(backend, core.logger.clone(), &core.pool, &core.devices) }?;
        core.backends.add(backend)
    }
}

impl Core {
    /// Opens the plugins of the configuration. One that cannot be opened is noted down, unless it is required.
    pub fn open_plugins(&self) -> Result<()> {
        if !PLUGINS.built {
            return Ok(()); // the configuration has none
        }
        for (index, config) in self.config.plugins.iter().enumerate() {
            let file = plugin::file_of(&config.path);
            let opened = file.clone().and_then(|file| self.open_plugin(&file, config));
            let mut plugged =
                Plugged { plugin: config.path.clone(), file: file.ok(), backend: None, error: None };
            match opened {
                Ok(name) => {
                    self.logger
                        .info("backend", format_args!("plugin {:?} has backend {name:?}", config.path));
                    plugged.backend = Some(name);
                }
                Err(error) if config.required || error.status != Status::BackendUnavailable => {
                    return Err(error.within(format!("plugins[{index}]")));
                }
                Err(error) => {
                    self.logger
                        .warn("backend", format_args!("plugin {:?} is not there: {error}", config.path));
                    plugged.error = Some(error.message);
                }
            }
            lock(&self.plugged).push(plugged);
        }
        Ok(())
    }

    fn open_plugin(&self, file: &std::path::Path, config: &PluginConfig) -> Result<String> {
        let json = serde_json::Value::Object(config.config.clone()).to_string();
        let backend = plugin::open(file, &json, self.logger.clone(), &self.pool, &self.devices)?;
        let name = backend.name().to_owned();
        self.backends.add(backend)?;
        Ok(name)
    }

    /// The backend of this name. If there is none, plugins that could not be opened may be why.
    pub fn backend(&self, name: &str) -> Result<Arc<dyn Backend>> {
        self.backends.find(name).map_err(|error| {
            let missing: Vec<String> =
                lock(&self.plugged).iter().filter_map(|plugged| plugged.error.clone()).collect();
            match missing.is_empty() {
                true => error,
                false => {
                    let text =
                        format!("{}; plugins that are not there: {}", error.message, missing.join("; "));
                    Error::new(Status::BackendUnavailable, text)
                }
            }
        })
    }
}
