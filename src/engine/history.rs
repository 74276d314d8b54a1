//! What has happened to models lately, for the engine's health: evictions, unloads, versions that came and went.

use crate::clock::now_ns;
use crate::sync::{Mutex, lock};
use serde_json::{Value, json};
use std::collections::VecDeque;

/// So many are remembered.
const MOST: usize = 64;

#[derive(Default)]
pub struct History(Mutex<VecDeque<Value>>);

impl History {
    pub fn evicted(&self, model: &str, bytes: u64, reason: &str) {
        self.add(json!({"what": "evicted", "model": model, "bytes": bytes, "reason": reason}));
    }

    pub fn unloaded(&self, receipt: &Value) {
        let mut entry = receipt.clone();
        entry["what"] = "unloaded".into();
        self.add(entry);
    }

    /// What became of the version of a model in the repository.
    pub fn version(&self, what: &str, model: &str, detail: &str) {
        self.add(json!({"what": what, "model": model, "detail": detail}));
    }

    fn add(&self, mut entry: Value) {
        entry["at_ns"] = now_ns().into();
        let mut entries = lock(&self.0);
        if entries.len() == MOST {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// The latest last.
    pub fn entries(&self) -> Vec<Value> {
        lock(&self.0).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let history = History::default();
        (0..MOST as u64 + 3).for_each(|bytes| history.evicted("m:1", bytes, "room for n:1"));
        let entries = history.entries();
        assert_eq!(entries.len(), MOST);
        assert_eq!((entries[0]["bytes"].as_u64(), entries[MOST - 1]["bytes"].as_u64()), (Some(3), Some(66)));
        assert_eq!(entries[0]["what"], "evicted");
    }
}
