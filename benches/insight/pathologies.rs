//! Whether advice is right: engines and hosts with something wrong on purpose, one thing each, and healthy ones. The first
//! advice is followed, by changing the configuration as it says, and the figure that it names is measured before and after.

use crate::Bench;
use crate::abi::fail;
use crate::host::{Seen, SetUp};
use crate::report::Goal;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// A figure is better if it is better by so much.
const BETTER: f64 = 1.1;

/// Something that is wrong, and what advice should call it.
struct Case {
    name: &'static str,
    bottleneck: &'static str,
    set_up: SetUp,
}

fn path(model: &str) -> String {
    let folder = if model == "large" { "target/bench/models" } else { "tests/models" };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(format!("{model}.onnx"));
    if !path.exists() {
        fail(&format!("{} is missing: `make bench-insight` makes it", path.display()));
    }
    path.display().to_string()
}

/// A model of a file, with more of its configuration.
fn onnx(file: &str, more: Value) -> Value {
    with(json!({"name": file, "path": path(file)}), more)
}

/// A model that sleeps.
fn mock(name: &str, latency_us: u64, more: Value) -> Value {
    with(json!({"name": name, "backend": "mock", "mock": {"latency_us": latency_us}}), more)
}

/// A model that sleeps, and takes memory and time to load.
fn heavy(name: &str, mib: u64, load_ms: u64) -> Value {
    let mock = json!({"latency_us": 500, "memory_bytes": mib << 20, "load_latency_us": load_ms * 1000});
    json!({"name": name, "backend": "mock", "mock": mock})
}

fn with(mut value: Value, more: Value) -> Value {
    for (key, more) in more.as_object().into_iter().flatten() {
        value[key] = more.clone();
    }
    value
}

fn closed(to: &[&str], inputs: u32, in_flight: u32) -> Value {
    json!({"to": to, "inputs": inputs, "in_flight": in_flight})
}

fn open(to: &str, inputs: u32, per_second: u32) -> Value {
    json!({"to": [to], "inputs": inputs, "per_second": per_second})
}

/// A model whose first run of one row is slow, so that the policy thinks more of waiting than it should, and may wait long.
fn slow_once() -> Value {
    let slow = json!([{"kind": "slow", "count": 1, "latency_us": 800_000}]);
    json!({
        "name": "m", "backend": "mock", "mock": {"latency_us": 1000, "faults": slow},
        "batching": {"max_delay_us": 1_000_000}, "warmup": {"sizes": [1, 2, 4, 8]},
    })
}

fn cases() -> Vec<Case> {
    let case = |name, bottleneck, set_up| Case { name, bottleneck, set_up: SetUp(set_up) };
    let route = |strategy: &str| {
        let targets = json!([{"model": "a"}, {"model": "b"}, {"model": "c"}]);
        json!([{"name": "r", "strategy": strategy, "targets": targets}])
    };
    vec![
        case(
            "small batches under 256 in flight",
            "batch_too_small",
            json!({
                "models": [onnx("large", json!({"batching": {"max_rows": 4}}))],
                "load": [closed(&["large"], 784, 256)],
            }),
        ),
        case(
            "a batch is held open for a client that takes its time",
            "delay_too_long",
            json!({
                "models": [slow_once()],
                "load": [closed(&["m"], 4, 1), with(closed(&["m"], 4, 1), json!({"think_ms": 30}))],
            }),
        ),
        case(
            "one lane, and idle cores",
            "lane_saturated",
            json!({
                "models": [mock("m", 10_000, json!({"batching": {"max_rows": 1024}}))],
                "load": [closed(&["m"], 4, 4096)],
            }),
        ),
        case(
            "eight threads for each run on two cores",
            "intra_op_oversubscribed",
            json!({
                "engine": {"threads": 2, "onnxruntime": {"intra_op_threads": 8}},
                "models": [onnx("small", json!({"lanes": 2}))],
                "load": [closed(&["small"], 64, 64)],
            }),
        ),
        case(
            "one bucket of 64 for a few rows",
            "padding_waste",
            json!({
                "models": [onnx("large", json!({"batching": {"max_rows": 64, "buckets": [64]}}))],
                "load": [closed(&["large"], 784, 4)],
            }),
        ),
        case(
            "three models in turn in the memory of two",
            "memory_thrash",
            json!({
                "engine": {"memory": {"budget_bytes": 100 << 20}},
                "models": [heavy("a", 40, 20), heavy("b", 40, 20), heavy("c", 40, 20)],
                "load": [closed(&["a", "b", "c"], 4, 1)],
            }),
        ),
        case(
            "a model that is seldom used pushes another out",
            "cold_loads",
            json!({
                "engine": {"memory": {"budget_bytes": 60 << 20}},
                "models": [heavy("a", 40, 80), heavy("b", 40, 80)],
                "load": [open("a", 4, 200), open("b", 4, 1)],
            }),
        ),
        case(
            "a host that looks for events every 40 ms",
            "slow_consumer",
            json!({
                "models": [mock("m", 1_000, json!({}))],
                "host": {"collect": "sometimes", "every_ms": 40},
                "load": [closed(&["m"], 4, 64)],
            }),
        ),
        case(
            "one slow target of three",
            "poisoned_target",
            json!({
                "models": [
                    mock("a", 2_000, json!({})), mock("b", 8_000, json!({})), mock("c", 2_000, json!({})),
                ],
                "routes": route("round_robin"),
                "load": [closed(&["r"], 4, 6)],
            }),
        ),
        case(
            "CUDA asked for where there is none",
            "provider_fell_back",
            json!({
                "models": [onnx("small", json!({"providers": ["cuda", "cpu"]}))],
                "load": [closed(&["small"], 64, 64)],
            }),
        ),
        case(
            "one operator takes most of the time",
            "dominant_operator",
            json!({
                "engine": {"profile": {"level": "detailed"}},
                                "models": [onnx("large", json!({}))],
                "load": [closed(&["large"], 784, 1)],
            }),
        ),
        case(
            "room for 32 requests, which come 230 at once",
            "queue_capacity",
            json!({
                "engine": {"queue": {"capacity": 32}},
                "models": [mock("m", 5_000, json!({}))],
                "load": [with(open("m", 4, 10_000), json!({"burst": 230}))],
            }),
        ),
    ]
}

fn healthy() -> Vec<Case> {
    let case = |name, set_up| Case { name, bottleneck: "", set_up: SetUp(set_up) };
    let targets = json!([{"model": "a"}, {"model": "b"}, {"model": "c"}]);
    vec![
        case(
            "tiny, 64 in flight",
            json!({"models": [onnx("tiny", json!({}))], "load": [closed(&["tiny"], 4, 64)]}),
        ),
        case(
            "large, open load at about 40 %",
            json!({"models": [onnx("large", json!({}))], "load": [open("large", 784, 2500)]}),
        ),
        case(
            "two models, 32 in flight each",
            json!({
                "models": [onnx("tiny", json!({})), onnx("small", json!({}))],
                "load": [closed(&["tiny"], 4, 32), closed(&["small"], 64, 32)],
            }),
        ),
        case(
            "a route to three good targets",
            json!({
                "models": [
                    mock("a", 2_000, json!({})), mock("b", 2_000, json!({})), mock("c", 2_000, json!({})),
                ],
                "routes": [{"name": "r", "targets": targets}],
                "load": [open("r", 4, 300)],
            }),
        ),
    ]
}

fn names(advice: &Value) -> Vec<&str> {
    let findings = advice["findings"].as_array().into_iter().flatten();
    findings.filter_map(|finding| finding["bottleneck"].as_str()).collect()
}

/// Adds its rows.
pub fn measure(bench: &mut Bench) {
    let time = Duration::from_millis(bench.pick(1500, 3500));
    let rounds = bench.pick(1, 2);
    let (mut right, mut better, all) = (0, 0, cases());
    let count = all.len() as f64;
    for case in all {
        let (is_right, is_better) = follow(bench, &case, time, rounds);
        right += u32::from(is_right);
        better += u32::from(is_better);
    }
    let mut wrong = Vec::new();
    for case in healthy() {
        let (_, advice) = case.set_up.run(time);
        let found = names(&advice);
        let note = if found.is_empty() { "nothing".into() } else { found.join(", ") };
        bench.add(
            format!("advice: healthy: {}", case.name),
            found.len() as f64,
            Goal::AtMost(0.0),
            "findings",
            note,
        );
        if !found.is_empty() {
            wrong.push(case.name);
        }
    }
    let missed = |hit: u32| count - f64::from(hit);
    let note = format!("{right} of {count} were found, and came first");
    bench.add("advice: bottlenecks not ranked first".into(), missed(right), Goal::AtMost(1.0), "of 12", note);
    bench.must_stay_below(3.0);
    let note = format!("in {better} of {count} the figure became better by a tenth at least");
    bench.add("advice: followed in vain".into(), missed(better), Goal::AtMost(3.0), "of 12", note);
    let (count, note) = (wrong.len() as f64, wrong.join(", "));
    bench.add("advice: about what is healthy".into(), count, Goal::AtMost(0.0), "of 4", note);
    bench.must_stay_below(1.0);
}

/// Runs a case, and again as its first advice says, in turn; returns whether it was the right one, and whether it helped.
fn follow(bench: &mut Bench, case: &Case, time: Duration, rounds: u32) -> (bool, bool) {
    let (mut before, advice) = case.set_up.run(time);
    let first = advice["findings"][0].clone();
    let found = first["bottleneck"].as_str().unwrap_or("nothing").to_owned();
    let is_right = found == case.bottleneck;
    let name = format!("advice: {}", case.name);
    if std::env::var_os("BLAZE_BENCH_VERBOSE").is_some() {
        eprintln!("{before:?}\n{advice:#}");
    }
    let figure = first["figure"].as_str().unwrap_or_default();
    let Some(changed) = case.set_up.changed(&first["change"]) else {
        let note =
            format!("first: {found}; nothing to change here: {}", first["advice"].as_str().unwrap_or("-"));
        bench.add(name, 1.0, Goal::None, "times as good", note);
        return (is_right, false);
    };
    let mut after = Seen::default();
    for round in 0..rounds {
        if round > 0 {
            before.add(&case.set_up.run(time).0);
        }
        after.add(&changed.run(time).0);
    }
    let (Some((old, more)), Some((new, _))) = (before.figure(figure), after.figure(figure)) else {
        bench.add(
            name,
            1.0,
            Goal::None,
            "times as good",
            format!("first: {found}; {figure} is not measured"),
        );
        return (is_right, false);
    };
    let least = if figure.ends_with("_share") { 0.001 } else { 1e-9 };
    let times = if more { new / old.max(least) } else { old / new.max(least) };
    let expected = match (first["expected"]["from"].as_f64(), first["expected"]["to"].as_f64()) {
        (Some(from), Some(to)) => {
            format!("{:.2}", if more { to / from.max(least) } else { from / to.max(least) })
        }
        _ => "?".into(),
    };
    let note = format!(
        "first: {found}; {figure} {} → {} with {}; {expected} times was promised",
        short(figure, old),
        short(figure, new),
        first["change"]
    );
    bench.add(name, times, Goal::None, "times as good", note);
    (is_right, times >= BETTER)
}

fn short(figure: &str, value: f64) -> String {
    match figure {
        _ if figure.ends_with("_ns") => format!("{:.2} ms", value / 1e6),
        _ if figure.ends_with("_share") => format!("{:.1} %", 100.0 * value),
        _ => format!("{value:.0}"),
    }
}
