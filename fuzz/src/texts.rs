//! What the fuzzed ABI is given as configuration, right and wrong: models, routes, tenants and the rest.

use std::ffi::CStr;

/// Models to load, and what may be wrong with them.
pub const MODELS: [&CStr; 16] = [
    cr#"{"name": "m", "backend": "mock"}"#,
    cr#"{"name": "m", "version": 2, "backend": "mock", "mock": {"compute": "echo"}}"#,
    cr#"{"name": "slow", "backend": "mock", "lanes": 2, "mock": {"latency_us": 200}, "batching": {"max_rows": 4, "max_delay_us": 500}}"#,
    cr#"{"name": "bad", "backend": "mock", "mock": {"faults": [{"kind": "error", "every": 2}]}}"#,
    cr#"{"name": "oom", "backend": "mock", "mock": {"faults": [{"kind": "out_of_memory", "every": 2}]}}"#,
    cr#"{"name": "lost", "backend": "mock", "mock": {"faults": [{"kind": "device_lost", "after": 1}]}}"#,
    cr#"{"name": "panic", "backend": "mock", "mock": {"faults": [{"kind": "panic", "every": 3}]}}"#,
    cr#"{"name": "noload", "backend": "mock", "mock": {"faults": [{"kind": "load_error"}]}}"#,
    cr#"{"name": "echo", "backend": "mock", "mock": {"compute": "echo", "inputs": [{"name": "a", "dtype": "i64", "shape": ["n", "k"]}], "outputs": [{"name": "b", "dtype": "i64", "shape": ["n", "k"]}]}, "batching": {"axes": {"k": {"buckets": [2, 8]}}, "buckets": [1, 4], "max_rows": 4}}"#,
    cr#"{"name": "pair", "backend": "mock", "mock": {"inputs": [{"name": "a", "shape": ["n", 4]}, {"name": "b", "dtype": "u8", "shape": ["n"]}]}}"#,
    cr#"{"name": "big", "backend": "mock", "mock": {"memory_bytes": 40000000}}"#,
    cr#"{"name": "alone", "backend": "mock", "batching": {"max_rows": 1}, "progress": true, "limits": {"concurrency": 2}}"#,
    cr#"{"name": "tiny", "path": "tests/models/tiny.onnx"}"#,
    cr#"{"name": "none", "path": "tests/models/nowhere.onnx"}"#,
    cr#"{"name": "", "backend": "mock"}"#,
    // Last: only where a run can be interrupted.
    cr#"{"name": "hang", "backend": "mock", "warmup": false, "recovery": false, "mock": {"faults": [{"kind": "hang", "every": 2}]}}"#,
];
pub const NAMES: [&CStr; 12] =
    [c"m", c"m:1", c"m:2", c"slow", c"echo", c"pair", c"tiny", c"r", c"m:0", c"m:99999999999", c"", c"\xff"];
pub const ROUTES: [&CStr; 6] = [
    cr#"{"name": "r", "targets": [{"model": "m"}, {"model": "slow"}, {"model": "bad"}]}"#,
    cr#"{"name": "r", "strategy": "adaptive", "targets": [{"model": "bad", "tier": 1}, {"model": "m"}], "retry": {"attempts": 4}}"#,
    cr#"{"name": "s", "strategy": "consistent_hash", "hash_on": "key", "targets": [{"model": "panic"}, {"model": "lost"}], "hedge": {"quantile": 0.5, "minimum_ms": 0}}"#,
    cr#"{"name": "s", "strategy": "first", "sticky": {"enabled": true, "capacity": 2}, "targets": [{"model": "m", "concurrency": 1}], "limits": {"concurrency": 1, "waiting": 4}}"#,
    cr#"{"name": "m"}"#,
    cr#"{"name": "t", "targets": [{"model": "r"}]}"#,
];
pub const TARGETS: [&CStr; 4] =
    [cr#"{"model": "m:2"}"#, cr#"{"model": "echo"}"#, cr#"{"model": "m", "weight": 7}"#, cr#"{"model": 1}"#];
pub const TENANTS: [&CStr; 4] = [
    cr#"{"id": 1, "weight": 3}"#,
    cr#"{"id": 2, "class": "gold", "limits": {"requests_per_second": 5, "burst": 2}}"#,
    cr#"{"id": 3, "limits": {"concurrency": 1}}"#,
    cr#"{"id": 0}"#,
];
pub const CHANGES: [&CStr; 4] = [
    cr#"{"batching": {"max_rows": 3}}"#,
    cr#"{"lanes": 3}"#,
    cr#"{"intra_op_threads": 2}"#,
    cr#"{"batching": {"max_delay_us": 0}, "lanes": 1}"#,
];
pub const LOGS: [&CStr; 4] = [
    cr#"{"level": "trace", "target": "callback"}"#,
    cr#"{"level": "debug", "target": "callback", "rate": {"per_second": 3}}"#,
    cr#"{"level": "off"}"#,
    cr#"{"level": 3}"#,
];
pub const PROFILES: [&CStr; 4] = [
    cr#"{"level": "debug", "spans": 1024}"#,
    cr#"{}"#,
    cr#"{"level": "detailed", "modes": ["cpu", "memory"], "sample": 1}"#,
    cr#"{"modes": ["x"]}"#,
];
pub const TUNE: &CStr =
    cr#"{"model": "m", "max_rows": [1, 2], "max_delay_us": [0], "lanes": [1], "in_flight": 2, "seconds_per_point": 0.01}"#;
