//! What tuning has learned, kept in files: one for each model and machine. Files of other models, machines or versions of
//! ONNX Runtime mean nothing here, and neither do files that cannot be read.

use super::lifecycle::Core;
use super::model::Model;
use crate::backend::onnx;
use crate::config::ModelConfig;
use crate::error::{Error, Result, Status};
use crate::platform;
use crate::tuning::Settings;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A file's contents.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Learned {
    /// `name:version`.
    model: String,
    /// Of its files.
    stamp: Option<String>,
    machine: Machine,
    settings: Settings,
    /// What was measured with them.
    rows_per_second: f64,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    cpu: String,
    cores: usize,
    onnxruntime: Option<String>,
}

/// The longest file that is read.
const MOST_BYTES: u64 = 64 << 10;

impl Core {
    fn machine(&self, config: &ModelConfig) -> Machine {
        let onnxruntime = (config.backend == "onnx").then(onnx::loaded).flatten();
        let onnxruntime = onnxruntime.map(|runtime| runtime.version.clone());
        Machine { cpu: platform::cpu_name(), cores: self.cores, onnxruntime }
    }

    /// The file of a model on this machine.
    fn learned_path(&self, config: &ModelConfig) -> Option<PathBuf> {
        let directory = Path::new(self.config.tuning.directory.as_deref()?);
        let machine = format!("{} {}", platform::cpu_name(), self.cores);
        let key = Sha256::digest(format!("{}\n{machine}", config.full_name()));
        let key: String = key.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name: String = config.name.chars().take(64).map(safe).collect();
        Some(directory.join(format!("{name}-{}-{key}.json", config.version())))
    }

    /// Keeps what was learned of a model; returns the file's path. It is no reason to fail if it cannot be written.
    pub fn save_learned(&self, model: &Model, settings: &Settings, rows_per_second: f64) -> Option<String> {
        let path = self.learned_path(&model.config)?;
        let learned = Learned {
            model: model.full_name.clone(),
            stamp: model.residence.stamp.clone(),
            machine: self.machine(&model.config),
            settings: *settings,
            rows_per_second,
        };
        let text = path.display().to_string();
        match write(&path, &learned) {
            Ok(()) => Some(text),
            Err(error) => {
                self.logger.warn("tuning", format_args!("{text} cannot be written: {error}"));
                None
            }
        }
    }

    /// What was learned of a model that was loaded with this stamp, within the host's limits.
    pub fn load_learned(&self, model: &Model) -> Option<Settings> {
        let path = self.learned_path(&model.config)?;
        let learned = match read(&path) {
            Ok(learned) => learned?,
            Err(error) => {
                self.logger.warn("tuning", format_args!("{} is ignored: {error}", path.display()));
                return None;
            }
        };
        let foreign = if learned.model != model.full_name {
            Some("it is about another model")
        } else if learned.stamp != model.residence.stamp {
            Some("the model's files have changed since")
        } else if learned.machine != self.machine(&model.config) {
            Some("it is of another machine, or another ONNX Runtime")
        } else {
            None
        };
        if let Some(why) = foreign {
            self.logger.warn("tuning", format_args!("{} is ignored: {why}", path.display()));
            return None;
        }
        Some(model.bounds(self).clamp(&learned.settings))
    }
}

fn read(path: &Path) -> Result<Option<Learned>> {
    let failed = |text: String| Error::new(Status::InvalidConfig, text);
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MOST_BYTES => return Err(failed("it is too long".into())),
        Ok(_) => fs::read(path).map_err(|error| failed(error.to_string()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.to_string()))
}

/// All at once: a file is there as it was, or as it is to be.
fn write(path: &Path, learned: &Learned) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let text = serde_json::to_string_pretty(learned)?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}
