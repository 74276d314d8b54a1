//! What the engine remembers of itself: trends, pictures of where the time went, and how fast its models usually are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::engine::Engine;
use common::{engine, f32s, load_json, run};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn trends(engine: &Engine) -> Value {
    serde_json::from_str(&engine.trends_json()).unwrap()
}

/// Runs requests one after the other for so long, at least one.
fn busy(engine: &Engine, model: u64, time: Duration) -> u64 {
    let (start, mut count) = (Instant::now(), 0);
    while count == 0 || start.elapsed() < time {
        run(engine, model, &[f32s(&[1, 4], &[0.0; 4])]);
        count += 1;
    }
    count
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn seconds_with_traffic_are_in_the_trends() {
    for threads in [json!(null), json!(0)] {
        let engine = engine(json!({"threads": threads}));
        let model = load_json(&engine, json!({"name": "m", "backend": "mock"})).unwrap();
        let points = |series: &str| trends(&engine)["seconds"][series].as_array().unwrap().len();
        assert_eq!(points("requests_per_s"), 0);
        let start = Instant::now();
        while points("requests_per_s") < 2 {
            assert!(start.elapsed() < Duration::from_secs(30));
            busy(&engine, model, Duration::from_millis(20));
            if threads == json!(0) {
                engine.pump(0).unwrap();
            }
        }
        let trends = trends(&engine);
        let last =
            |series: &str| trends["seconds"][series].as_array().unwrap().last().unwrap()[1].as_f64().unwrap();
        assert!(last("requests_per_s") > 0.0 && last("p99_ns") > 0.0 && last("rows_per_batch") >= 1.0);
        assert_eq!(trends["hours"]["p99_ns"], json!([]));
    }
}

#[test]
fn a_picture_counts_what_came_since_it_began() {
    let engine = engine(json!({}));
    let mock = json!({"latency_us": 500});
    let model = load_json(&engine, json!({"name": "m", "backend": "mock", "mock": mock})).unwrap();
    let count = busy(&engine, model, Duration::from_millis(300));
    wait_until("all requests are in the picture", || engine.picture().models[0].ok == count);
    let picture = engine.picture();
    let seen = &picture.models[0];
    assert_eq!(
        (seen.name.as_str(), seen.backend.as_str(), seen.rows, seen.batches),
        ("m:1", "mock", count, count)
    );
    assert_eq!((seen.total.count, seen.computed.count), (count, count));
    assert!(seen.computed.p50_ns >= 480_000 && seen.total.p50_ns >= seen.computed.p50_ns * 97 / 100);
    assert!(picture.seconds > 0.0 && picture.cores > 0 && picture.memory.used_bytes > 0);
    assert_eq!((seen.settings.max_rows, seen.settings.lanes), (64, 1));
}

#[test]
fn an_engine_that_is_told_not_to_remembers_nothing() {
    let engine = engine(json!({"metrics": {"trends": false}}));
    let model = load_json(&engine, json!({"name": "m", "backend": "mock"})).unwrap();
    busy(&engine, model, Duration::from_millis(1300));
    assert_eq!(trends(&engine)["seconds"]["p50_ns"], json!([]));
}

fn health(engine: &Engine) -> Value {
    serde_json::from_str(&engine.health_json()).unwrap()
}

#[test]
fn a_model_that_gets_slow_is_noticed_and_when_it_is_well_again_too() {
    let directory = tempfile::tempdir().unwrap();
    let switch = directory.path().join("slow");
    // Far enough apart that what a busy machine adds to either says nothing.
    let slow = json!({"kind": "slow", "latency_us": 300_000, "while_exists": switch});
    let mock = json!({"latency_us": 10_000, "faults": [slow]});
    let engine = engine(json!({}));
    let model =
        load_json(&engine, json!({"name": "m", "backend": "mock", "lanes": 8, "mock": mock})).unwrap();
    let state = |until: &dyn Fn(&Value) -> bool, what: &str| {
        let start = Instant::now();
        while !until(&health(&engine)["models"][0]) {
            assert!(start.elapsed() < Duration::from_secs(60), "{what}: {}", health(&engine));
            std::thread::scope(|scope| {
                (0..4).for_each(|_| _ = scope.spawn(|| busy(&engine, model, Duration::from_millis(300))));
            });
        }
    };
    let usual = |model: &Value| model["performance"]["usual_p99_ns"].as_u64().unwrap_or(0);
    state(&|model| (10_000_000..50_000_000).contains(&usual(model)), "it learns");
    assert_eq!((health(&engine)["state"].clone(), engine.health().models_slow), (json!("ok"), 0));
    std::fs::write(&switch, "").unwrap();
    state(&|model| model["performance"]["slow"] == true, "it is slow");
    let report = health(&engine);
    assert_eq!((&report["state"], &report["ready"]), (&json!("degraded"), &json!(true)), "{report}");
    assert!(report["problems"][0]["reason"].as_str().unwrap().starts_with("it is slow"), "{report}");
    assert_eq!(engine.health().models_slow, 1);
    std::fs::remove_file(&switch).unwrap();
    state(&|model| model["performance"]["slow"] == false, "it is well again");
    assert_eq!(health(&engine)["problems"], json!([]));
}

#[test]
fn what_keeps_an_engine_from_being_ready_is_said() {
    let engine = engine(json!({}));
    let faults = json!({"faults": [{"kind": "device_lost"}]});
    let bad = json!({"name": "bad", "backend": "mock", "mock": faults, "recovery": false});
    let model = load_json(&engine, bad).unwrap();
    let before = health(&engine);
    assert_eq!(
        (&before["live"], &before["ready"], &before["not_ready_because"]),
        (&json!(true), &json!(true), &json!([]))
    );
    assert!(common::try_run(&engine, model, &[f32s(&[1, 4], &[0.0; 4])]).is_err());
    let report = health(&engine);
    assert_eq!((&report["ready"], &report["state"]), (&json!(false), &json!("failed")), "{report}");
    let because = report["not_ready_because"][0].as_str().unwrap();
    assert!(because.starts_with("model bad:1: its device is lost: "), "{because}");
    assert_eq!((&report["models"][0]["ready"], engine.health().ready), (&json!(false), false));
    engine.shutdown(0);
    assert_eq!(health(&engine)["not_ready_because"][0], "engine: it is shut down");
}

#[test]
fn asking_for_health_at_a_high_rate_finds_it_out_seldom() {
    let engine = engine(json!({}));
    let texts: Vec<_> = (0..2000).map(|_| engine.health_json()).collect();
    let different = texts.windows(2).filter(|pair| !std::sync::Arc::ptr_eq(&pair[0], &pair[1])).count();
    assert!(different < 1000, "{different} of 2000 answers were made anew");
}
