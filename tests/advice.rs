//! What advice says of real engines, in cases that no busy machine changes: only what is found first, or at all, is looked
//! at, never how fast anything was.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod common;

use blaze::clock::now_ns;
use blaze::engine::{Engine, ModelId, Queue};
use blaze::error::Status;
use common::{Tensor, engine, f32s, load_json, model_path, next_event, request};
use serde_json::{Value, json};
use std::time::Duration;

fn row() -> Tensor {
    f32s(&[1, 4], &[1.0, 2.0, 3.0, 4.0])
}

fn mock(name: &str, latency_us: u64, more: &Value) -> Value {
    let mut model = json!({"name": name, "backend": "mock", "mock": {"latency_us": latency_us}});
    for (key, value) in more.as_object().unwrap() {
        model[key] = value.clone();
    }
    model
}

fn advice(engine: &Engine) -> Value {
    let report: Value = serde_json::from_str(&engine.advice_json()).unwrap();
    for finding in report["findings"].as_array().unwrap() {
        let score = finding["score"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&score), "{finding}");
        for key in ["bottleneck", "explanation", "advice", "figure"] {
            assert!(!finding[key].as_str().unwrap().is_empty(), "{key}: {finding}");
        }
        assert!(!finding["evidence"].as_array().unwrap().is_empty(), "{finding}");
    }
    report
}

fn found(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["bottleneck"].as_str().unwrap()).collect()
}

fn finding<'a>(report: &'a Value, bottleneck: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    let is_it = |finding: &&Value| finding["bottleneck"] == bottleneck;
    findings.iter().find(is_it).unwrap_or_else(|| panic!("{bottleneck} is not found: {report:#}"))
}

/// Keeps so many requests in flight for so long, each to the next of the models.
fn keep_busy(engine: &Engine, to: &[ModelId], in_flight: usize, time: Duration) {
    let queue = engine.create_queue(in_flight as u32).unwrap();
    let (until, input) = (now_ns() + time.as_nanos() as u64, [row()]);
    let submit = |queue: &Queue, at: usize| {
        engine.submit(request(to[at % to.len()], &input), queue).unwrap();
    };
    let mut sent = 0;
    while sent < in_flight || now_ns() < until {
        if sent >= in_flight {
            next_event(&queue);
        }
        submit(&queue, sent);
        sent += 1;
    }
    (0..in_flight).for_each(|_| _ = next_event(&queue));
}

const A_SECOND: Duration = Duration::from_millis(1200);

#[test]
fn an_engine_without_anything_to_do_has_nothing_wrong() {
    let engine = engine(json!({}));
    assert_eq!(advice(&engine)["findings"], json!([]));
    let model = load_json(&engine, mock("m", 0, &json!({}))).unwrap();
    common::run(&engine, model, &[row()]);
    assert_eq!(advice(&engine)["findings"], json!([]));
}

#[test]
fn batches_that_are_too_small_are_found_before_what_follows_from_them() {
    let engine = engine(json!({}));
    let model = load_json(&engine, mock("m", 2000, &json!({"batching": {"max_rows": 4}}))).unwrap();
    keep_busy(&engine, &[model], 128, A_SECOND);
    let report = advice(&engine);
    assert_eq!(found(&report)[0], "batch_too_small", "{report:#}");
    let first = &report["findings"][0];
    assert_eq!(first["change"]["model"], "m:1");
    assert!(first["change"]["batching"]["max_rows"].as_u64().unwrap() > 4);
    assert!(first["expected"]["to"].as_f64().unwrap() > first["expected"]["from"].as_f64().unwrap());
}

#[test]
fn requests_that_are_not_joined_are_found() {
    let engine = engine(json!({}));
    let model = load_json(&engine, mock("m", 2000, &json!({"batching": {"max_rows": 1}}))).unwrap();
    keep_busy(&engine, &[model], 64, A_SECOND);
    let report = advice(&engine);
    assert_eq!(found(&report)[0], "not_batched", "{report:#}");
}

#[test]
fn models_that_push_each_other_out_are_found() {
    let engine = engine(json!({"memory": {"budget_bytes": 100 << 20}}));
    let heavy = |name: &str| {
        let mock = json!({"memory_bytes": 40 << 20, "load_latency_us": 10_000});
        load_json(&engine, json!({"name": name, "backend": "mock", "mock": mock})).unwrap()
    };
    let models = ["a", "b", "c"].map(heavy);
    keep_busy(&engine, &models, 1, A_SECOND);
    let report = advice(&engine);
    assert_eq!(found(&report)[0], "memory_thrash", "{report:#}");
    let budget = report["findings"][0]["change"]["engine"]["memory"]["budget_bytes"].as_u64().unwrap();
    assert!(budget >= 120 << 20, "{budget}");
}

#[test]
fn a_host_that_takes_its_events_late_is_found() {
    let engine = engine(json!({}));
    let model = load_json(&engine, mock("m", 500, &json!({}))).unwrap();
    let queue = engine.create_queue(64).unwrap();
    for _ in 0..6 {
        (0..64).for_each(|_| _ = engine.submit(request(model, &[row()]), &queue).unwrap());
        std::thread::sleep(Duration::from_millis(200));
        (0..64).for_each(|_| _ = next_event(&queue));
    }
    let report = advice(&engine);
    assert_eq!(found(&report)[0], "slow_consumer", "{report:#}");
    assert_eq!(report["findings"][0]["change"], json!({"host": {"collect": "wait"}}));
}

#[test]
fn a_slow_target_is_found_and_which_one_it_is() {
    let models = [("a", 1000), ("b", 20_000), ("c", 1000)].map(|(name, us)| mock(name, us, &json!({})));
    let targets = json!([{"model": "a"}, {"model": "b"}, {"model": "c"}]);
    let engine = engine(json!({
        "models": models,
        "routes": [{"name": "r", "strategy": "round_robin", "targets": targets, "breaker": {"enabled": false}}],
    }));
    let route = engine.find("r").unwrap();
    keep_busy(&engine, &[route], 6, A_SECOND);
    let report = advice(&engine);
    let finding = finding(&report, "poisoned_target");
    assert_eq!(finding["subject"], json!({"kind": "target", "name": ["r", "b"]}), "{report:#}");
    assert_eq!(finding["change"], json!({"route": "r", "strategy": "least_response_time"}));
}

#[test]
fn a_model_that_fails_is_found() {
    let faults = json!([{"kind": "error", "every": 4}]);
    let mock = json!({"latency_us": 1000, "faults": faults});
    let engine = engine(json!({}));
    let config = json!({
        "name": "m", "backend": "mock", "mock": mock, "batching": {"max_rows": 1}, "recovery": false,
    });
    let model = load_json(&engine, config).unwrap();
    let queue = engine.create_queue(4).unwrap();
    let until = now_ns() + A_SECOND.as_nanos() as u64;
    while now_ns() < until {
        engine.submit(request(model, &[row()]), &queue).unwrap();
        next_event(&queue);
    }
    finding(&advice(&engine), "failing_model");
}

#[test]
fn refused_submits_are_found() {
    let engine = engine(json!({"queue": {"capacity": 16}}));
    let model = load_json(&engine, mock("m", 50_000, &json!({}))).unwrap();
    let queue = engine.create_queue(64).unwrap();
    for _ in 0..15 {
        let mut accepted = 0;
        for _ in 0..64 {
            match engine.submit(request(model, &[row()]), &queue) {
                Ok(_) => accepted += 1,
                Err(error) => assert_eq!(error.status, Status::QueueFull),
            }
        }
        std::thread::sleep(Duration::from_millis(40));
        (0..accepted).for_each(|_| _ = next_event(&queue));
    }
    let report = advice(&engine);
    let finding = finding(&report, "queue_capacity");
    assert!(finding["change"]["engine"]["queue"]["capacity"].as_u64().unwrap() >= 64);
}

/// Drives a model whose policy thinks much of waiting; whether batches were held open for a good part of a request's time.
fn holds_batches_open(engine: &Engine) -> bool {
    // Its first run is so slow that few rows seem to take as long as many, and so more seem worth a wait. Runs of three and
    // of six rows teach the policy nothing better: it learns from powers of two.
    let slow = json!([{"kind": "slow", "count": 1, "latency_us": 3_000_000}]);
    let config = json!({
        "name": "m", "backend": "mock", "mock": {"latency_us": 30_000, "faults": slow},
        "batching": {"max_delay_us": 10_000_000}, "warmup": {"sizes": [2, 8]},
    });
    let model = load_json(engine, config).unwrap();
    let queues = [(); 2].map(|()| engine.create_queue(1).unwrap());
    let rows = [f32s(&[3, 4], &[1.0; 12])];
    let submit = |queue| _ = engine.submit(request(model, &rows), queue).unwrap();
    // Both at once, or the first would be alone for as long as the other thread takes to start.
    queues.iter().for_each(submit);
    // One client comes back at once, the other takes its time.
    std::thread::scope(|scope| {
        for (queue, think) in queues.iter().zip([Duration::ZERO, Duration::from_millis(60)]) {
            let submit = &submit;
            scope.spawn(move || {
                let until = now_ns() + 3 * A_SECOND.as_nanos() as u64;
                while now_ns() < until {
                    next_event(queue);
                    std::thread::sleep(think);
                    submit(queue);
                }
                next_event(queue);
            });
        }
    });
    let model = &engine.picture().models[0];
    model.held.sum_ns as f64 / model.batches.max(1) as f64 > 0.3 * model.total.mean_ns() && model.batches > 10
}

#[test]
fn batches_that_are_held_open_in_vain_are_found() {
    let engines = (0..3).map(|_| engine(json!({})));
    let engine = engines.into_iter().find(holds_batches_open).expect("the policy waits now and then");
    let report = advice(&engine);
    assert_eq!(found(&report)[0], "delay_too_long", "{report:#}");
    assert_eq!(report["findings"][0]["figure"], "request_mean_ns");
}

#[test]
fn a_provider_that_cannot_be_used_is_found_without_any_traffic() {
    let engine = engine(json!({}));
    let config = json!({"name": "small", "path": model_path("small"), "providers": ["qnn", "cpu"]});
    load_json(&engine, config).unwrap();
    let report = advice(&engine);
    assert_eq!(found(&report), ["provider_fell_back"]);
    assert_eq!(report["findings"][0]["change"], Value::Null);
    assert!(report["findings"][0]["explanation"].as_str().unwrap().contains("qnn"));
}
