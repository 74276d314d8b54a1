//! The profiler, through the engine: what it records, what not, and what its reports say.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod common;

use blaze::config::ProfileConfig;
use blaze::engine::{Engine, ModelId, Queue, RequestDescription};
use blaze::profile::report::Format;
use blaze::profile::{Kind, recording::Recording};
use common::{
    A_MINUTE, Tensor, batching_engine, engine, f32s, load, load_json, must_end, next_event, request,
    threaded_engine,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn start(engine: &Engine, config: Value) {
    engine.profile_start(ProfileConfig::from_json(&config.to_string()).unwrap());
}

fn report(engine: &Engine) -> Value {
    serde_json::from_str(&engine.profile_report(Format::Json).unwrap()).unwrap()
}

fn recording(engine: &Engine) -> Recording {
    engine.profile_recording().unwrap()
}

fn mock(engine: &Engine, name: &str, mock: Value) -> ModelId {
    load_json(engine, json!({"name": name, "backend": "mock", "mock": mock})).unwrap()
}

fn row() -> Tensor {
    f32s(&[1, 4], &[1.0, 2.0, 3.0, 4.0])
}

fn submit(engine: &Engine, model: ModelId, queue: &Queue, count: u64) {
    let input = [row()];
    for user_data in 0..count {
        engine.submit(RequestDescription { user_data, ..request(model, &input) }, queue).unwrap();
    }
}

fn take(queue: &Queue, count: u64) {
    (0..count).for_each(|_| _ = next_event(queue));
}

fn kinds(recording: &Recording) -> BTreeMap<Kind, usize> {
    let mut kinds = BTreeMap::new();
    recording.spans.iter().for_each(|span| *kinds.entry(span.kind).or_default() += 1);
    recording.rare.iter().for_each(|rare| *kinds.entry(rare.kind).or_default() += 1);
    kinds
}

#[test]
fn a_requests_spans_add_up_to_its_time() {
    let engine = batching_engine();
    let model = mock(&engine, "m", json!({"latency_us": 2000}));
    let queue = engine.create_queue(100).unwrap();
    start(&engine, json!({"level": "comprehensive"}));
    submit(&engine, model, &queue, 20);
    engine.pump(A_MINUTE).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    take(&queue, 20);
    engine.profile_stop().unwrap();
    let recording = recording(&engine);
    let requests = recording.requests();
    assert_eq!((requests.len(), recording.requests), (20, 20));
    for request in &requests {
        let sum: u64 = Kind::OF_REQUESTS.iter().map(|kind| request.part(*kind)).sum();
        assert_eq!(sum, request.ns(), "{request:?}");
        assert!(request.part(Kind::Delivery) >= 20_000_000 && request.part(Kind::Compute) >= 2_000_000);
        assert_eq!((request.status, request.rows), (0, 1));
    }
    let model = &report(&engine)["models"][0];
    assert_eq!((&model["name"], &model["total"]["count"]), (&json!("m:1"), &json!(20)));
    let shares: f64 =
        Kind::OF_REQUESTS.iter().map(|kind| model["kinds"][kind.name()]["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 0.001, "{shares} {model}");
    assert!(kinds(&recording)[&Kind::Pump] >= 1);
}

#[test]
fn what_is_held_open_for_more_rows_is_seen() {
    let engine = threaded_engine();
    let model = load_json(
        &engine,
        json!({"name": "m", "backend": "mock", "mock": {"latency_us": 3000},
               "batching": {"max_rows": 16, "max_delay_us": 500_000}}),
    )
    .unwrap();
    let queue = engine.create_queue(100).unwrap();
    start(&engine, json!({"level": "comprehensive"}));
    let began = Instant::now();
    // In a closed loop of eight, the one that comes first waits for the others.
    while !kinds(&recording(&engine)).contains_key(&Kind::Batch) {
        assert!(began.elapsed() < Duration::from_secs(30), "no batch was held open");
        submit(&engine, model, &queue, 8);
        take(&queue, 8);
    }
    let recording = recording(&engine);
    let held = recording.spans.iter().find(|span| span.kind == Kind::Batch).unwrap();
    let compute =
        |batch| recording.spans.iter().find(|span| span.kind == Kind::Compute && span.batch == batch);
    assert!(held.end_ns >= held.start_ns && compute(held.batch).is_some());
    assert!(kinds(&recording)[&Kind::Admission] > 0);
}

#[test]
fn evictions_and_waiting_for_them_are_seen() {
    let engine = engine(json!({"memory": {"budget_bytes": 10 << 20}, "profile": {"level": "detailed"}}));
    let bytes = json!({"memory_bytes": 6 << 20, "load_latency_us": 5000});
    let first = mock(&engine, "first", bytes.clone());
    let second = mock(&engine, "second", bytes);
    let queue = engine.create_queue(10).unwrap();
    for model in [first, second, first] {
        submit(&engine, model, &queue, 1);
        take(&queue, 1);
    }
    let recording = recording(&engine);
    let kinds = kinds(&recording);
    assert!(
        kinds[&Kind::Evict] >= 1 && kinds[&Kind::Load] >= 3 && kinds[&Kind::EvictionWait] >= 1,
        "{kinds:?}"
    );
    let waited = recording.spans.iter().find(|span| span.kind == Kind::EvictionWait).unwrap();
    assert!(waited.ns() >= 4_000_000, "{waited:?}");
    let report = report(&engine);
    let evicted = report["memory"]["evicted"].as_array().unwrap();
    assert!(evicted.iter().any(|evicted| evicted["name"] == "first:1" && evicted["bytes"] == 6 << 20));
    let stages = report["io"]["stages"].as_array().unwrap();
    assert!(
        stages.iter().any(|stage| stage["detail"] == "reading" && stage["ns"].as_u64().unwrap() > 4_000_000)
    );
}

fn small_row() -> Tensor {
    f32s(&[1, 64], &[0.5; 64])
}

#[test]
fn operators_are_named_and_sum_up_to_the_runs_time() {
    let directory = tempfile::tempdir().unwrap();
    let engine = threaded_engine();
    let model = load(&engine, "small");
    start(&engine, json!({"level": "comprehensive", "directory": directory.path()}));
    let (began, input) = (Instant::now(), [small_row()]);
    let report = loop {
        engine.infer(request(model, &input), A_MINUTE).unwrap();
        let report = report(&engine);
        let small = &report["operators"][0];
        let figure = |key| small[key].as_u64().unwrap_or(0);
        // A run may be interrupted for far longer than it takes: then more of them must be looked at.
        if figure("runs") >= 3 && figure("operators_us") * 10 >= figure("run_us") {
            break report;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{small} {}", report["notes"]);
        std::thread::sleep(Duration::from_millis(1));
    };
    let small = &report["operators"][0];
    assert_eq!((&small["model"], &small["trouble"]), (&json!("small:1"), &Value::Null));
    let operators = small["operators"].as_array().unwrap();
    let ops: Vec<&str> = operators.iter().map(|operator| operator["op"].as_str().unwrap()).collect();
    assert!(ops.contains(&"FusedGemm") && ops.contains(&"Gemm") && ops.contains(&"Softmax"), "{ops:?}");
    assert!(operators.iter().all(|operator| operator["provider"] == "CPUExecutionProvider"));
    let (sum, run) = (small["operators_us"].as_u64().unwrap(), small["run_us"].as_u64().unwrap());
    assert!(sum > 0 && sum <= run, "{sum} of {run}");
    let file_bytes = std::fs::metadata(common::model_path("small")).unwrap().len();
    // It was loaded before the profile began.
    assert_eq!((&report["io"]["read_bytes"], file_bytes > 0), (&json!(0), true));
    engine.unload(model).unwrap();
    engine.profile_stop().unwrap();
    assert_eq!(self::report(&engine)["operators"][0]["model"], "small:1");
    drop(engine);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the directory is removed");
}

#[test]
fn tensors_of_a_requests_own_have_operators_too() {
    let engine = threaded_engine();
    start(&engine, json!({"level": "detailed"}));
    let model = load(&engine, "strings_concat");
    let inputs = common::info(&engine, model)["inputs"].as_array().unwrap().len();
    let strings = common::strings(&[2], &["a", "b"]);
    let inputs = vec![strings; inputs];
    let _ = engine.infer(request(model, &inputs), A_MINUTE);
    let began = Instant::now();
    while report(&engine)["operators"].as_array().unwrap().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", report(&engine)["notes"]);
        let _ = engine.infer(request(model, &inputs), A_MINUTE);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(report(&engine)["operators"][0]["operators"][0]["op"].as_str().is_some());
    let file_bytes = std::fs::metadata(common::model_path("strings_concat")).unwrap().len();
    assert_eq!(report(&engine)["io"]["read_bytes"], file_bytes);
}

#[test]
fn a_directory_that_cannot_be_written_is_told_of() {
    let engine = threaded_engine();
    let model = load(&engine, "small");
    start(&engine, json!({"level": "comprehensive", "directory": "/nowhere/at/all"}));
    let input = [small_row()];
    (0..5).for_each(|_| _ = engine.infer(request(model, &input), A_MINUTE).unwrap());
    let notes = report(&engine)["notes"].to_string();
    assert!(notes.contains("operators are not profiled") && notes.contains("nowhere"), "{notes}");
}

#[test]
fn basic_records_few_of_many() {
    let engine = threaded_engine();
    let model = mock(&engine, "m", json!({}));
    start(&engine, json!({}));
    let input = [row()];
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(500) {
        engine.infer(request(model, &input), A_MINUTE).unwrap();
    }
    let recording = recording(&engine);
    let most = 1 + began.elapsed().as_millis() as u64;
    assert!((1..=most).contains(&recording.counts.batches), "{:?}", recording.counts);
    assert_eq!(recording.requests().len() as u64, recording.counts.batches);
    assert!(recording.batches >= recording.counts.batches);
    let last = report(&engine);
    assert!(
        last["operators"].as_array().unwrap().is_empty() && last["notes"].to_string().contains("detailed")
    );
    assert_eq!(last["network"]["available"], false);
}

#[test]
fn nothing_is_recorded_when_it_is_off() {
    let engine = threaded_engine();
    let model = mock(&engine, "m", json!({}));
    let input = [row()];
    let infer = || _ = engine.infer(request(model, &input), A_MINUTE).unwrap();
    infer();
    assert!(engine.profile_recording().is_err() && engine.profile_stop().is_err());
    start(&engine, json!({"level": "debug"}));
    infer();
    engine.profile_stop().unwrap();
    let before = recording(&engine);
    assert!(!before.spans.is_empty() && !before.running);
    infer();
    let after = recording(&engine);
    assert_eq!((before.spans, before.counts, before.requests), (after.spans, after.counts, after.requests));
    start(&engine, json!({"modes": ["io"]}));
    infer();
    assert_eq!(recording(&engine).spans, []);
    let report = report(&engine);
    assert!(report["memory"].is_null() && report["threads"].is_null() && report["network"].is_null());
    assert!(!report["io"].is_null());
}

#[test]
fn it_comes_and_goes_while_traffic_runs() {
    must_end("profiles under load", || {
        let engine = threaded_engine();
        let models = [mock(&engine, "a", json!({})), mock(&engine, "b", json!({"latency_us": 50}))];
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for at in 0..3usize {
                let (engine, over) = (&engine, &over);
                scope.spawn(move || {
                    let queue = engine.create_queue(64).unwrap();
                    while !over.load(Ordering::Relaxed) {
                        submit(engine, models[at % 2], &queue, 16);
                        take(&queue, 16);
                    }
                });
            }
            let levels = ["basic", "detailed", "comprehensive", "debug"];
            for turn in 0..16 {
                start(&engine, json!({"level": levels[turn % 4], "spans": 1024}));
                std::thread::sleep(Duration::from_millis(3));
                for format in [Format::Json, Format::Trace, Format::Html] {
                    assert!(engine.profile_report(format).unwrap().len() > 100);
                }
                for request in recording(&engine).requests() {
                    assert!(request.ns() < A_MINUTE && request.spans.len() >= 4, "{request:?}");
                }
                if turn % 3 == 2 {
                    engine.profile_stop().unwrap();
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    });
}
