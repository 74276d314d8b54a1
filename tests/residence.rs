//! Models that leave memory when others need the room, and come back for a request.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod common;

use blaze::clock::now_ns;
use blaze::config::ModelConfig;
use blaze::engine::{Engine, Event, ModelId, Queue, RequestDescription};
use blaze::error::Status;
use common::{
    A_MINUTE, Random, Tensor, engine, f32s, info, load_json, model_path, must_end, next_event, request,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn mock(name: &str, bytes: u64) -> Value {
    json!({"name": name, "backend": "mock", "mock": {"memory_bytes": bytes}})
}

fn slow(name: &str, bytes: u64, load_latency_us: u64) -> Value {
    let mock = json!({"memory_bytes": bytes, "load_latency_us": load_latency_us});
    json!({"name": name, "backend": "mock", "mock": mock})
}

fn load(engine: &Engine, model: &Value) -> ModelId {
    load_json(engine, model.clone()).unwrap_or_else(|error| panic!("{error}"))
}

fn residence(engine: &Engine, id: ModelId) -> String {
    info(engine, id)["residence"].as_str().unwrap().to_owned()
}

/// The same, once what has answered its last request is also done with it.
fn rested(engine: &Engine, id: ModelId) -> String {
    let began = Instant::now();
    while residence(engine, id) == "ready" && began.elapsed() < Duration::from_secs(5) {
        std::thread::yield_now();
    }
    residence(engine, id)
}

fn health(engine: &Engine) -> Value {
    serde_json::from_str(&engine.health_json()).unwrap()
}

fn row(x: f32) -> Tensor {
    f32s(&[1, 4], &[x, 0.0, 0.0, 0.0])
}

/// What a mock model answers, as it should be: 2x + 1.
fn infer(engine: &Engine, id: ModelId, x: f32) {
    let outputs = common::run(engine, id, &[row(x)]);
    assert_eq!(outputs[0].f32s()[0], 2.0 * x + 1.0);
}

fn submit(engine: &Engine, id: ModelId, queue: &Queue, user_data: u64) -> u64 {
    let input = [row(user_data as f32)];
    engine.submit(RequestDescription { user_data, ..request(id, &input) }, queue).unwrap()
}

/// The statuses of so many events, by their user data.
fn statuses(queue: &Queue, count: usize) -> Vec<Status> {
    let mut events: Vec<_> = (0..count).map(|_| next_event(queue)).collect();
    events.sort_by_key(|event| event.user_data);
    events.iter().map(|event| event.status).collect()
}

/// The small model with a name of its own, from a copy of its file.
fn small(directory: &Path, file: &str, name: &str) -> Value {
    let path = directory.join(file);
    if !path.exists() {
        std::fs::copy(model_path("small"), &path).unwrap();
    }
    json!({"name": name, "path": path})
}

/// Has whatever may go leave memory.
fn push_out(engine: &Engine, budget: u64) {
    engine.set_budget(Some(1));
    let evictable = |model: &Value| model["residence"] == "ready" || model["residence"] == "evicting";
    let began = Instant::now();
    while health(engine)["models"].as_array().unwrap().iter().any(evictable)
        && began.elapsed() < Duration::from_secs(5)
    {
        std::thread::yield_now();
    }
    engine.set_budget(Some(1));
    engine.set_budget(Some(budget));
}

#[test]
fn the_least_recently_used_leaves_and_comes_back_for_a_request() {
    let engine = engine(json!({"memory": {"budget_bytes": 10 * MIB}}));
    let a = load(&engine, &mock("a", 4 * MIB));
    let b = load(&engine, &mock("b", 4 * MIB));
    infer(&engine, a, 1.0);
    let c = load(&engine, &mock("c", 4 * MIB));
    assert_eq!([a, b, c].map(|id| rested(&engine, id)), ["idle", "evicted", "idle"]);
    infer(&engine, b, 2.0);
    assert_eq!([a, b].map(|id| rested(&engine, id)), ["evicted", "idle"]);
    infer(&engine, a, 2.0);
    infer(&engine, c, 2.0);
    let receipt: Value = serde_json::from_str(&engine.unload(b).unwrap()).unwrap();
    assert_eq!(receipt["model"], "b:1");
    assert!(health(&engine)["memory"]["evictions"].as_u64().unwrap() >= 3);
}

#[test]
fn health_and_metrics_tell_of_comings_and_goings() {
    let engine = engine(json!({"memory": {"budget_bytes": 10 * MIB}}));
    let a = load(&engine, &mock("a", 6 * MIB));
    let b = load(&engine, &mock("b", 6 * MIB));
    let memory = health(&engine)["memory"].clone();
    assert_eq!((&memory["evictions"], &memory["misses"]), (&json!(1), &json!(0)));
    assert_eq!((&memory["budget_bytes"], &memory["models_bytes"]), (&json!(10 * MIB), &json!(6 * MIB)));
    let gone = info(&engine, a);
    assert_eq!((&gone["residence"], &gone["memory"]["bytes"]), (&json!("evicted"), &json!(6 * MIB)));
    assert_eq!(gone["memory"]["evicted_because"], "room for b:1");
    infer(&engine, a, 1.0);
    let back = info(&engine, a)["memory"].clone();
    assert_eq!(
        (&back["evictions"], &back["reloads"], &back["reload_error"]),
        (&json!(1), &json!(1), &Value::Null)
    );
    assert_eq!(residence(&engine, b), "evicted");
    assert_eq!(health(&engine)["memory"]["misses"], 1);
    assert!(health(&engine)["models"][1]["residence"] == "evicted");
    assert!(engine.metrics_prometheus().contains("evict"));
}

#[test]
fn a_pinned_model_stays() {
    let engine = engine(json!({"memory": {"budget_bytes": 10 * MIB}}));
    let mut pinned = mock("pinned", 6 * MIB);
    pinned["pinned"] = json!(true);
    let id = load(&engine, &pinned);
    assert_eq!(info(&engine, id)["evictable"], false);
    let error = load_json(&engine, mock("b", 6 * MIB)).err().unwrap();
    assert_eq!(error.status, Status::OverBudget);
    assert_eq!(rested(&engine, id), "idle");
    load(&engine, &mock("c", 4 * MIB));
    engine.unload(id).unwrap();
    load(&engine, &mock("b", 6 * MIB));
}

#[test]
fn a_model_from_memory_stays() {
    let engine = engine(json!({"memory": {"budget_bytes": 64 * MIB}}));
    let bytes = std::fs::read(model_path("small")).unwrap();
    let config = ModelConfig::from_json(&json!({"name": "m"}).to_string()).unwrap();
    let id = engine.load(config, Some(&bytes)).unwrap();
    push_out(&engine, 64 * MIB);
    assert_eq!((rested(&engine, id).as_str(), &info(&engine, id)["evictable"]), ("idle", &json!(false)));
}

#[test]
fn a_reload_that_fails_is_told_to_its_requests_and_tried_again_later() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(json!({"memory": {"budget_bytes": 64 * MIB}}));
    let id = load(&engine, &small(directory.path(), "m.onnx", "m"));
    let input = [f32s(&[1, 64], &[0.5; 64])];
    let want = common::run(&engine, id, &input);
    push_out(&engine, 64 * MIB);
    assert_eq!(residence(&engine, id), "evicted");
    let (path, away) = (directory.path().join("m.onnx"), directory.path().join("away.onnx"));
    std::fs::rename(&path, &away).unwrap();
    let queue = engine.create_queue(8).unwrap();
    for user_data in 0..5 {
        engine.submit(RequestDescription { user_data, ..request(id, &input) }, &queue).unwrap();
    }
    assert_eq!(statuses(&queue, 5), [Status::ModelNotFound; 5]);
    assert!(info(&engine, id)["memory"]["reload_error"].as_str().unwrap().contains("m.onnx"));
    std::fs::rename(&away, &path).unwrap();
    let error = common::try_run(&engine, id, &input).err().unwrap();
    assert_eq!(error.status, Status::ModelNotFound, "it is not tried again at once");
    std::thread::sleep(Duration::from_millis(1050));
    assert_eq!(common::run(&engine, id, &input), want);
    assert_eq!(info(&engine, id)["memory"]["reload_error"], Value::Null);
}

#[test]
fn a_file_that_has_changed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(json!({"memory": {"budget_bytes": 64 * MIB}}));
    let id = load(&engine, &small(directory.path(), "m.onnx", "m"));
    push_out(&engine, 64 * MIB);
    std::fs::copy(model_path("tiny"), directory.path().join("m.onnx")).unwrap();
    let error = common::try_run(&engine, id, &[f32s(&[1, 64], &[0.5; 64])]).err().unwrap();
    assert!(error.status == Status::ModelInvalid && error.message.contains("have changed"), "{error}");
    engine.unload(id).unwrap();
    let memory = health(&engine)["memory"]["used_bytes"].as_u64().unwrap();
    assert_eq!(memory, 0);
}

#[test]
fn names_of_one_file_share_what_they_take() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(json!({"memory": {"budget_bytes": 64 * MIB}}));
    let ids = ["a", "b", "c"].map(|name| load(&engine, &small(directory.path(), "m.onnx", name)));
    let one = info(&engine, ids[0])["memory"]["bytes"].as_u64().unwrap();
    let input = [f32s(&[1, 64], &[0.5; 64])];
    let want = common::run(&engine, ids[0], &input);
    assert!(health(&engine)["memory"]["models_bytes"].as_u64().unwrap() < 2 * one);
    push_out(&engine, 64 * MIB);
    assert_eq!(health(&engine)["memory"]["models_bytes"], 0);
    for id in ids {
        assert_eq!(common::run(&engine, id, &input), want);
    }
    ids.into_iter().for_each(|id| drop(engine.unload(id).unwrap()));
    engine.trim();
    assert_eq!(health(&engine)["memory"]["used_bytes"], 0);
}

#[test]
fn waiting_for_a_reload_ends_at_the_deadline() {
    let engine = engine(json!({"memory": {"budget_bytes": 10 * MIB}}));
    let a = load(&engine, &slow("a", 6 * MIB, 1_500_000));
    load(&engine, &mock("b", 6 * MIB));
    let queue = engine.create_queue(8).unwrap();
    let began = Instant::now();
    let deadline_ns = now_ns() + 50_000_000;
    let input = [row(1.0)];
    engine.submit(RequestDescription { deadline_ns, ..request(a, &input) }, &queue).unwrap();
    submit(&engine, a, &queue, 1);
    assert_eq!(next_event(&queue).status, Status::Expired);
    assert!(began.elapsed() < Duration::from_millis(1_200));
    assert_eq!(next_event(&queue).status, Status::Ok);
}

#[test]
fn requests_that_wait_for_a_model_are_answered_before_it_is_unloaded() {
    for threads in [json!(null), json!(0), json!(1)] {
        must_end("unloading", move || {
            let engine = engine(json!({"threads": threads, "memory": {"budget_bytes": 10 * MIB}}));
            let a = load(&engine, &slow("a", 6 * MIB, 30_000));
            load(&engine, &mock("b", 6 * MIB));
            let queue = engine.create_queue(8).unwrap();
            (0..5).for_each(|user_data| _ = submit(&engine, a, &queue, user_data));
            engine.unload(a).unwrap();
            assert_eq!(statuses(&queue, 5), [Status::Ok; 5]);
        });
    }
}

#[test]
fn a_shutdown_does_not_wait_for_reloads() {
    for threads in [json!(null), json!(0), json!(1)] {
        must_end("shutting down", move || {
            let engine = engine(json!({"threads": threads, "memory": {"budget_bytes": 10 * MIB}}));
            let a = load(&engine, &mock("a", 6 * MIB));
            let b = load(&engine, &slow("b", 6 * MIB, 2_000_000));
            infer(&engine, a, 1.0);
            let queue = engine.create_queue(8).unwrap();
            (0..5).for_each(|user_data| _ = submit(&engine, b, &queue, user_data));
            let began = Instant::now();
            drop(engine);
            assert!(began.elapsed() < Duration::from_millis(1_800));
            assert_eq!(statuses(&queue, 5), [Status::ShutDown; 5]);
        });
    }
}

#[test]
fn a_budget_that_is_lowered_under_load_is_kept_soon() {
    let engine = engine(json!({"memory": {"budget_bytes": 40 * MIB}}));
    let ids: Vec<ModelId> = (0..4).map(|index| load(&engine, &mock(&format!("m{index}"), 6 * MIB))).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for &id in &ids {
            let (engine, over) = (&engine, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    infer(engine, id, 3.0);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(30));
        engine.set_budget(Some(20 * MIB));
        let used = || health(&engine)["memory"]["models_bytes"].as_u64().unwrap();
        let began = Instant::now();
        while used() > 20 * MIB && began.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        // It stays so, while they come and go.
        let most = (0..100).map(|_| used()).max().unwrap();
        over.store(true, Ordering::Relaxed);
        assert!(most <= 20 * MIB, "{most}");
    });
}

/// One thread of the host's does it all: while it waits for room it must run what is in the way.
#[test]
fn models_take_turns_without_threads() {
    must_end("taking turns", || {
        let engine = engine(json!({"threads": 0, "memory": {"budget_bytes": 10 * MIB}}));
        let ids = ["a", "b", "c"].map(|name| load(&engine, &mock(name, 6 * MIB)));
        let queue = engine.create_queue(64).unwrap();
        for user_data in 0..12 {
            submit(&engine, ids[user_data as usize % 3], &queue, user_data);
        }
        assert_eq!(statuses(&queue, 12), [Status::Ok; 12]);
        (0..3).for_each(|index| _ = submit(&engine, ids[index as usize], &queue, index));
        load(&engine, &mock("d", 6 * MIB));
        assert_eq!(statuses(&queue, 3), [Status::Ok; 3]);
    });
}

/// A model with several lanes that are never all idle must go in the end, when another one is wanted.
#[test]
fn a_model_that_never_rests_goes_for_another() {
    must_end("waiting for a busy model to go", || {
        let engine = engine(json!({"memory": {"budget_bytes": 10 * MIB}}));
        let mut busy = mock("busy", 6 * MIB);
        (busy["lanes"], busy["mock"]["latency_us"]) = (json!(4), json!(5000));
        busy["batching"] = json!({"max_rows": 1});
        let other = load(&engine, &mock("other", 6 * MIB));
        let busy = load(&engine, &busy);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                let (engine, over) = (&engine, &over);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        infer(engine, busy, 3.0);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(50));
            let began = Instant::now();
            infer(&engine, other, 1.0);
            let took = began.elapsed();
            over.store(true, Ordering::Relaxed);
            assert!(took < Duration::from_secs(20), "{took:?}");
        });
    });
}

/// Whoever cancels a load that found the model there must not take it from those who use it.
#[test]
fn a_cancelled_load_takes_no_model_away_that_others_have() {
    for threads in [json!(0), json!(1)] {
        let engine = engine(json!({"threads": threads}));
        let config = mock("a", MIB);
        let id = load(&engine, &config);
        let queue = engine.create_queue(8).unwrap();
        for _ in 0..50 {
            let again = ModelConfig::from_json(&config.to_string()).unwrap();
            let ticket = engine.load_async(again, &queue, 0).unwrap();
            let _ = engine.cancel(ticket);
            next_event(&queue);
            while threads == 0 && engine.pump(0).unwrap() > 0 {}
        }
        std::thread::sleep(Duration::from_millis(20));
        infer(&engine, id, 1.0);
    }
}

/// Requests that come as fast as they fail must not keep the model from being tried again.
#[test]
fn a_flood_of_requests_does_not_keep_a_model_away() {
    must_end("the flood", || {
        let engine = engine(json!({"memory": {"budget_bytes": 10 * MIB}}));
        let id = load(&engine, &mock("a", 6 * MIB));
        let mut pinned = mock("pinned", 6 * MIB);
        pinned["pinned"] = json!(true);
        let pinned = load(&engine, &pinned);
        let answered = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (engine, answered) = (&engine, &answered);
                scope.spawn(move || {
                    let began = Instant::now();
                    while !answered.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(40) {
                        match common::try_run(engine, id, &[row(1.0)]) {
                            Ok(_) => answered.store(true, Ordering::Relaxed),
                            Err(error) => assert_eq!(error.status, Status::OverBudget),
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(600));
            engine.unload(pinned).unwrap();
            let began = Instant::now();
            while !answered.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(30) {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(answered.load(Ordering::Relaxed));
        });
    });
}

#[test]
fn many_models_share_little_room() {
    must_end("many models", || {
        let engine = engine(json!({"memory": {"budget_bytes": 32 * MIB}, "loading": {"concurrency": 4}}));
        let ids: Vec<ModelId> =
            (0..64).map(|index| load(&engine, &slow(&format!("m{index}"), MIB, 200))).collect();
        std::thread::scope(|scope| {
            for seed in 0..8 {
                let (engine, ids) = (&engine, &ids);
                scope.spawn(move || {
                    let mut random = Random::new(seed + 1);
                    for _ in 0..150 {
                        infer(engine, ids[random.below(64) as usize], random.below(100) as f32);
                    }
                });
            }
        });
        let (models, used) = (health(&engine), engine.health().memory_bytes);
        assert!(used <= 33 * MIB, "{used}");
        assert!(models["memory"]["evictions"].as_u64().unwrap() >= 32);
        ids.iter().for_each(|&id| drop(engine.unload(id).unwrap()));
        engine.trim();
        assert_eq!(engine.health().memory_bytes, 0);
    });
}

/// An event that is not released keeps its outputs, whatever becomes of the model.
#[test]
fn outputs_outlive_their_model() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(json!({"memory": {"budget_bytes": 64 * MIB}}));
    let id = load(&engine, &small(directory.path(), "m.onnx", "m"));
    let input = [f32s(&[1, 64], &[0.5; 64])];
    let want = common::run(&engine, id, &input);
    let queue = engine.create_queue(8).unwrap();
    let mut kept: Vec<Event> = Vec::new();
    for _ in 0..4 {
        engine.submit(request(id, &input), &queue).unwrap();
        queue.wait(1, A_MINUTE, |event| kept.push(event));
        push_out(&engine, 64 * MIB);
    }
    assert_eq!(residence(&engine, id), "evicted");
    engine.unload(id).unwrap();
    for event in kept {
        assert_eq!(common::Answer::from(event).outputs, want);
    }
    engine.trim();
    assert_eq!(engine.health().memory_bytes, 0);
}
