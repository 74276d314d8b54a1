//! Settings that change while a model works, the search for the best ones, and what is remembered of it.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod common;

use blaze::config::{ChangeConfig, ModelConfig, TuneConfig};
use blaze::engine::{Engine, ModelId, RequestDescription};
use blaze::error::Status;
use common::{
    A_MINUTE, Answer, Random, Tensor, engine, f32s, info, load_json, model_path, next_event, request, run,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn configure(engine: &Engine, id: ModelId, change: Value) {
    try_configure(engine, id, change).unwrap_or_else(|error| panic!("{error}"));
}

fn try_configure(engine: &Engine, id: ModelId, change: Value) -> blaze::error::Result<()> {
    engine.configure(id, &ChangeConfig::from_json(&change.to_string())?)
}

fn tune(engine: &Engine, order: Value) -> blaze::error::Result<Value> {
    let report = engine.tune(&TuneConfig::from_json(&order.to_string())?)?;
    Ok(serde_json::from_str(&report).unwrap())
}

fn report(engine: &Engine) -> Value {
    serde_json::from_str(&engine.tune_report()).unwrap()
}

fn small(engine: &Engine, more: Value) -> ModelId {
    let mut config = json!({"name": "small", "path": model_path("small")});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    load_json(engine, config).unwrap()
}

fn row(random: &mut Random, rows: usize, width: usize) -> Tensor {
    let values: Vec<f32> = (0..rows * width).map(|_| random.real()).collect();
    f32s(&[rows as i64, width as i64], &values)
}

fn close(one: &[f32], other: &[f32]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-4)
}

/// Puts load on from several threads until `over`; every request must end well, with the right answer.
fn load_until(
    engine: &Engine,
    id: ModelId,
    over: &AtomicBool,
    done: &AtomicU64,
    seed: u64,
    width: usize,
    expected: impl Fn(&Tensor) -> Vec<f32>,
) {
    let mut random = Random::new(seed);
    let queue = engine.create_queue(256).unwrap();
    let examples: Vec<(Tensor, Vec<f32>)> = (0..16)
        .map(|_| {
            let rows = 1 + random.below(5) as usize;
            let input = row(&mut random, rows, width);
            let output = expected(&input);
            (input, output)
        })
        .collect();
    let mut in_flight = 0;
    while !over.load(Ordering::Relaxed) || in_flight > 0 {
        while in_flight < 32 && !over.load(Ordering::Relaxed) {
            let at = random.below(16);
            let inputs = [examples[at as usize].0.clone()];
            let description = RequestDescription { user_data: at, ..request(id, &inputs) };
            engine.submit(description, &queue).unwrap_or_else(|error| panic!("{error}"));
            in_flight += 1;
        }
        let answer: Answer = next_event(&queue);
        assert_eq!(answer.status, Status::Ok, "{:?}", answer.text);
        let values = answer.outputs[0].f32s();
        let right = &examples[answer.user_data as usize].1;
        assert!(close(&values, right), "{values:?} rather than {right:?}");
        in_flight -= 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Changes settings at random while load is on.
fn changes_lose_nothing(
    engine: &Engine,
    id: ModelId,
    width: usize,
    intra: bool,
    right: impl Fn(&Tensor) -> Vec<f32> + Sync,
) {
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 1..4 {
            let (over, done, right) = (&over, &done, &right);
            scope.spawn(move || load_until(engine, id, over, done, seed, width, right));
        }
        let mut random = Random::new(9);
        let rounds = if intra { 60 } else { 300 };
        for round in 0..rounds {
            let before = done.load(Ordering::Relaxed);
            let change = json!({
                "batching": {"max_rows": 1 + random.below(200), "max_delay_us": random.below(3) * 300},
                "lanes": 1 + random.below(4),
                "intra_op_threads": if intra && round % 10 == 0 { json!(1 + random.below(2)) } else { Value::Null },
            });
            configure(engine, id, change.clone());
            let now = info(engine, id);
            assert_eq!(now["batching"]["max_rows"], change["batching"]["max_rows"]);
            assert_eq!(now["lanes"], change["lanes"]);
            while done.load(Ordering::Relaxed) < before + 20 {
                std::thread::yield_now();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn nothing_is_lost_when_settings_of_a_model_change() {
    let engine = engine(json!({}));
    // Not the crew's: it has threads of its own, which come with its lanes.
    let config =
        json!({"name": "m", "backend": "mock", "batching": {"max_rows": 4}, "mock": {"latency_us": 20}});
    let id = load_json(&engine, config).unwrap();
    changes_lose_nothing(&engine, id, 4, false, |input| {
        input.f32s().iter().map(|value| 2.0 * value + 1.0).collect()
    });
}

#[test]
fn nothing_is_lost_when_settings_of_an_onnx_model_change() {
    for (name, width) in [("tiny", 4), ("small", 64)] {
        let engine = engine(json!({}));
        let config = json!({"name": name, "path": model_path(name), "batching": {"max_rows": 2}});
        let id = load_json(&engine, config).unwrap();
        let single = load_json(
            &engine,
            json!({"name": "reference", "path": model_path(name), "batching": {"max_rows": 1}}),
        )
        .unwrap();
        // One row at a time.
        let right = |input: &Tensor| {
            let values = input.f32s();
            let rows = values.chunks(width);
            rows.flat_map(|row| run(&engine, single, &[f32s(&[1, width as i64], row)])[0].f32s()).collect()
        };
        changes_lose_nothing(&engine, id, width, true, right);
        assert_eq!(info(&engine, id)["residence"].as_str().map(|name| name != "evicted"), Some(true));
    }
}

#[test]
fn batches_grow_and_shrink() {
    let engine = engine(json!({"threads": 0}));
    let config = json!({"name": "m", "backend": "mock", "batching": {"max_rows": 4}});
    let id = load_json(&engine, config).unwrap();
    let rows_of = |count: usize| {
        let requests: Vec<Vec<Tensor>> = (0..count).map(|_| vec![f32s(&[1, 4], &[1.0; 4])]).collect();
        let answers = common::run_together(&engine, id, &requests);
        answers.iter().map(|answer| answer.batch_rows).max().unwrap()
    };
    assert_eq!(rows_of(100), 4);
    configure(&engine, id, json!({"batching": {"max_rows": 64}}));
    assert_eq!(rows_of(100), 64);
    configure(&engine, id, json!({"batching": {"max_rows": 8}}));
    assert_eq!(rows_of(100), 8);
    // A request that is larger goes alone.
    let outputs = run(&engine, id, &[f32s(&[32, 4], &[3.0; 128])]);
    assert_eq!(outputs[0].f32s(), [7.0; 128]);
    configure(&engine, id, json!({"batching": {"max_rows": 1}}));
    assert_eq!(rows_of(10), 1);
    // What is filling when batches become smaller ends as it is.
    configure(&engine, id, json!({"batching": {"max_rows": 64}}));
    let queue = engine.create_queue(64).unwrap();
    let input = [f32s(&[1, 4], &[1.0; 4])];
    (0..40).for_each(|_| _ = engine.submit(request(id, &input), &queue).unwrap());
    configure(&engine, id, json!({"batching": {"max_rows": 2}}));
    (0..10).for_each(|_| _ = engine.submit(request(id, &input), &queue).unwrap());
    let rows: Vec<u32> = (0..50).map(|_| next_event(&queue).batch_rows).collect();
    assert_eq!(rows.iter().filter(|&&rows| rows == 40).count(), 40, "{rows:?}");
    assert!(rows.iter().all(|&rows| rows == 40 || rows <= 2), "{rows:?}");
    // And when they become larger.
    (0..1).for_each(|_| _ = engine.submit(request(id, &input), &queue).unwrap());
    configure(&engine, id, json!({"batching": {"max_rows": 64}}));
    let large = [f32s(&[30, 4], &[1.0; 120])];
    (0..2).for_each(|_| _ = engine.submit(request(id, &large), &queue).unwrap());
    let rows: Vec<u32> = (0..3).map(|_| next_event(&queue).batch_rows).collect();
    assert_eq!(rows, [1, 60, 60]);
}

#[test]
fn what_cannot_be_set_is_refused() {
    let engine = engine(json!({}));
    let id = small(&engine, json!({"batching": {"max_rows": 8, "buckets": [4, 8]}}));
    let status = |change: Value| try_configure(&engine, id, change).unwrap_err();
    assert_eq!(status(json!({"batching": {"max_rows": 5}})).status, Status::InvalidState);
    configure(&engine, id, json!({"batching": {"max_rows": 4}}));
    assert_eq!(status(json!({"threads": 5})).status, Status::InvalidConfig);
    assert!(status(json!({"lanes": 0})).message.starts_with("lanes: "));
    let alone = load_json(&engine, json!({"name": "alone", "path": model_path("rows_interact")})).unwrap();
    let error = try_configure(&engine, alone, json!({"batching": {"max_rows": 8}})).unwrap_err();
    assert_eq!(error.status, Status::InvalidState);
    configure(&engine, alone, json!({"lanes": 2}));
    let bytes = std::fs::read(model_path("tiny")).unwrap();
    let config = ModelConfig::from_json(r#"{"name": "bytes"}"#).unwrap();
    let from_memory = engine.load(config, Some(&bytes)).unwrap();
    let error = try_configure(&engine, from_memory, json!({"intra_op_threads": 2})).unwrap_err();
    assert_eq!(error.status, Status::InvalidState);
    assert_eq!(try_configure(&engine, 12345, json!({})).unwrap_err().status, Status::NotFound);
}

#[test]
fn threads_inside_operators_are_of_the_model() {
    let engine = engine(json!({}));
    let id = small(&engine, json!({"intra_op_threads": 2}));
    assert_eq!(info(&engine, id)["intra_op_threads"], 2);
    configure(&engine, id, json!({"intra_op_threads": 1}));
    assert_eq!(info(&engine, id)["intra_op_threads"], 1);
    run(&engine, id, &[f32s(&[1, 64], &[0.5; 64])]);
}

#[test]
fn a_search_finds_what_is_better() {
    for threads in [json!(null), json!(0)] {
        let engine = engine(json!({"threads": threads}));
        // A run takes as long however many rows it has.
        let config =
            json!({"name": "m", "backend": "mock", "batching": {"max_rows": 2}, "mock": {"latency_us": 500}});
        let id = load_json(&engine, config).unwrap();
        let order = json!({"model": "m", "max_rows": [2, 32], "max_delay_us": [0], "lanes": [1], "in_flight": 64,
                           "seconds_per_point": 0.1});
        let found = tune(&engine, order.clone()).unwrap();
        assert_eq!(found["best"]["settings"]["max_rows"], 32, "{found}");
        assert!(found["gain"].as_f64().unwrap() > 3.0, "{found}");
        assert_eq!(found["points"].as_array().unwrap().len(), 3, "{found}");
        assert_eq!((found["applied"].as_bool(), &found["saved"]), (Some(false), &Value::Null));
        assert_eq!(info(&engine, id)["batching"]["max_rows"], 2);
        assert_eq!(report(&engine)["search"], found);
        let mut order = order;
        order["apply"] = json!(true);
        order["rows"] = json!(2);
        let found = tune(&engine, order).unwrap();
        assert_eq!(found["applied"], true);
        assert_eq!(info(&engine, id)["batching"]["max_rows"], 32);
        assert_eq!(found["configuration"]["batching"]["max_rows"], 32);
    }
}

#[test]
fn a_search_of_an_onnx_model_keeps_the_goal() {
    let engine = engine(json!({}));
    small(&engine, json!({"batching": {"max_rows": 2}}));
    let order = json!({"model": "small:1", "max_rows": [2, 64], "intra_op_threads": [1, 2], "lanes": [1],
                       "max_delay_us": [0], "seconds_per_point": 0.05});
    let found = tune(&engine, order).unwrap();
    assert_eq!(found["points"].as_array().unwrap().len(), 5);
    assert!(found["points"].as_array().unwrap().iter().all(|point| point["p99_us"].as_f64().unwrap() > 0.0));
    let order = json!({"model": "small", "objective": "latency", "p99_ms": 0.0001, "max_rows": [64], "lanes": [1],
                       "max_delay_us": [0], "seconds_per_point": 0.05});
    let found = tune(&engine, order).unwrap();
    assert_eq!((&found["objective"], &found["p99_ms"]), (&json!("latency"), &json!(0.0001)));
}

#[test]
fn a_search_says_what_it_cannot_do() {
    let engine = engine(json!({"tuning": {"limits": {"max_rows": [4, 16]}}}));
    small(&engine, json!({}));
    load_json(&engine, json!({"name": "alone", "path": model_path("rows_interact")})).unwrap();
    let error = |order: Value| tune(&engine, order).unwrap_err();
    assert_eq!(error(json!({"model": "none"})).status, Status::NotFound);
    let outside = error(json!({"model": "small", "max_rows": [4, 64]}));
    assert!(outside.message.starts_with("max_rows[1]: "), "{outside}");
    assert_eq!(outside.status, Status::InvalidConfig);
    assert!(error(json!({"model": "alone", "rows": 2})).message.starts_with("rows: "));
    assert!(error(json!({"model": "small", "grid": 1})).message.starts_with("grid: unknown field"));
    let fails = json!({"name": "fails", "backend": "mock", "mock": {"faults": [{"kind": "error"}]}});
    load_json(&engine, fails).unwrap();
    let failed = error(json!({"model": "fails", "seconds_per_point": 0.01}));
    assert_eq!(failed.status, Status::BackendFailed, "{failed}");
}

#[test]
fn a_search_in_the_background_can_be_cancelled() {
    let engine = engine(json!({}));
    let id = small(&engine, json!({"batching": {"max_rows": 7}}));
    let queue = engine.create_queue(8).unwrap();
    let order = json!({"model": "small", "seconds_per_point": 30.0, "max_rows": [16, 32]});
    let order = TuneConfig::from_json(&order.to_string()).unwrap();
    let ticket = engine.tune_async(order.clone(), &queue, 5).unwrap();
    while report(&engine)["searching"] != true {
        std::thread::yield_now();
    }
    let second = engine.tune(&order).unwrap_err();
    assert_eq!(second.status, Status::InvalidState, "{second}");
    engine.cancel(ticket).unwrap();
    let answer = next_event(&queue);
    assert_eq!((answer.status, answer.user_data), (Status::Cancelled, 5));
    while report(&engine)["searching"] != false {
        std::thread::yield_now();
    }
    assert_eq!(info(&engine, id)["batching"]["max_rows"], 7);
    // An engine that ends does not wait for one.
    engine.tune_async(order, &queue, 6).unwrap();
    drop(engine);
    let mut statuses = Vec::new();
    queue.wait(8, A_MINUTE, |event| statuses.push(event.status));
    assert_eq!(statuses, [Status::ShutDown]);
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn what_was_learned_is_there_the_next_time() {
    let directory = tempfile::tempdir().unwrap();
    let tuned = |limits: Value| {
        engine(json!({"tuning": {"directory": directory.path().join("learned"), "limits": limits}}))
    };
    let order = json!({"model": "small", "max_rows": [32], "max_delay_us": [0], "lanes": [2],
                       "intra_op_threads": [1], "in_flight": 128, "seconds_per_point": 0.1});
    let bad = json!({"batching": {"max_rows": 1000, "max_delay_us": 5}});
    {
        let engine = tuned(json!({}));
        let id = small(&engine, json!({"batching": {"max_rows": 2, "max_delay_us": 7}}));
        let found = tune(&engine, order).unwrap();
        assert_eq!(found["best"]["settings"]["max_rows"], 32, "{found}");
        assert_eq!(files(&directory.path().join("learned")), [Path::new(found["saved"].as_str().unwrap())]);
        assert_eq!(info(&engine, id)["batching"]["max_rows"], 2);
    }
    let rows = |limits: Value, config: Value| {
        let engine = tuned(limits);
        let id = small(&engine, config);
        info(&engine, id)["batching"]["max_rows"].clone()
    };
    assert_eq!(rows(json!({}), bad.clone()), 32);
    // The host's limits, and its word, win.
    assert_eq!(rows(json!({"max_rows": [1, 16]}), bad.clone()), 16);
    let mut untouched = bad.clone();
    untouched["tuning"] = json!(false);
    assert_eq!(rows(json!({}), untouched), 1000);
    // Files that mean nothing.
    let file = files(&directory.path().join("learned")).remove(0);
    let good = std::fs::read_to_string(&file).unwrap();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{good}");
        good.replace(from, to)
    };
    let broken = [
        String::new(),
        "[]".into(),
        good[..good.len() / 2].to_owned(),
        with("\"max_rows\": 32", "\"max_rows\": -32"),
        with("small:1", "large:1"),
        with("\"cores\": ", "\"cores\": 9"),
        with("small.onnx", "other.onnx"),
        "x".repeat(1 << 20),
    ];
    for text in broken {
        std::fs::write(&file, &text).unwrap();
        assert_eq!(rows(json!({}), bad.clone()), 1000, "{text:.200}");
    }
    std::fs::write(&file, &good).unwrap();
    assert_eq!(rows(json!({}), bad), 32);
}
