//! What holds an engine back: advice drawn from the latest picture.

use super::lifecycle::{Core, Engine};
use crate::profile::advice;
use serde_json::Value;

impl Engine {
    /// What holds the engine back, and what to do about it, as JSON.
    pub fn advice_json(&self) -> String {
        self.core().advice().to_string()
    }
}

impl Core {
    /// What holds the engine back, the worst first: a part of other reports too.
    pub(super) fn advice(&self) -> Value {
        advice::report(&self.picture())
    }
}
