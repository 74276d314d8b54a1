//! Mock models, routes to them, and switches for their faults.

use crate::abi::Engine;
use serde_json::{Value, json};
use std::path::PathBuf;

pub const STRATEGIES: [&str; 9] = [
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "least_response_time",
    "least_loaded",
    "power_of_two",
    "consistent_hash",
    "client_hash",
    "adaptive",
];

/// A file while which exists a fault strikes.
pub struct Switch(PathBuf);

impl Switch {
    pub fn new(name: &str) -> Switch {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        std::fs::create_dir_all(&folder).expect("target/ can be written to");
        let switch = Switch(folder.join(format!("router-{name}-{}", std::process::id())));
        switch.off();
        switch
    }

    pub fn on(&self) {
        std::fs::write(&self.0, "").expect("target/ can be written to");
    }

    pub fn off(&self) {
        let _ = std::fs::remove_file(&self.0);
    }

    pub fn path(&self) -> &PathBuf {
        &self.0
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.off();
    }
}

/// "a", "b", …
pub fn name(index: usize) -> String {
    char::from(b'a' + index as u8).to_string()
}

/// A mock model that runs one request at a time on each of its lanes.
pub fn load(engine: &Engine, index: usize, lanes: usize, latency_us: u64, faults: Value) -> u64 {
    engine.load(&json!({
        "name": name(index), "backend": "mock", "lanes": lanes, "batching": {"max_rows": 1},
        "mock": {"latency_us": latency_us, "compute": "echo", "faults": faults},
    }))
}

/// A route to models of these weights, with more of its configuration.
pub fn route(engine: &Engine, name_of_route: &str, weights: &[u32], more: Value) -> u64 {
    let target = |(index, weight): (usize, &u32)| json!({"model": name(index), "weight": weight});
    let targets: Vec<Value> = weights.iter().enumerate().map(target).collect();
    let mut config = json!({"name": name_of_route, "targets": targets, "hash_on": "key"});
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    engine.route(&config)
}
