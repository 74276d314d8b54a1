//! Tuning of an engine's models: what online and offline tuning share, and the report.

use super::lifecycle::Engine;
use crate::sync::{AtomicBool, Mutex, Ordering, lock};
use serde_json::{Value, json};

/// An engine's tuning.
#[derive(Default)]
pub struct Tuning {
    /// `blaze_tune` is at work.
    pub offline: AtomicBool,
    /// Held by whoever changes settings to learn from it.
    pub turn: Mutex<()>,
    /// The latest report of `blaze_tune`.
    pub searched: Mutex<Option<Value>>,
}

impl Engine {
    /// The latest report of `blaze_tune`, and what tuning has learned while the engine works, as JSON.
    pub fn tune_report(&self) -> String {
        let core = self.core();
        let models: Vec<Value> = core
            .models
            .all()
            .iter()
            .map(|(_, model)| json!({"name": model.full_name, "settings": model.settings()}))
            .collect();
        json!({
            "mode": core.config.tuning.mode,
            "models": models,
            "searching": core.tuning.offline.load(Ordering::SeqCst),
            "search": *lock(&core.tuning.searched),
        })
        .to_string()
    }
}
