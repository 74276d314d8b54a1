//! A name that follows versions, while versions come and go, the host unloads and asks for it again, and requests keep
//! coming: each is answered by one version or refused, and in the end nothing is taken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::config::ModelConfig;
use blaze::engine::Engine;
use blaze::error::{Error, Status};
use common::{Random, Tensor, engine, f32s, model_path, must_end, request};
use serde_json::json;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: u64 = 6;

fn add_version(root: &Path, version: u64) {
    let directory = root.join(format!("m/{version}"));
    // As a whole, as a host would do it.
    let parts = root.join(format!(".{version}"));
    std::fs::create_dir_all(&parts).unwrap();
    std::fs::copy(model_path("tiny"), parts.join("model.onnx")).unwrap();
    std::fs::create_dir_all(root.join("m")).unwrap();
    std::fs::rename(parts, directory).unwrap();
}

fn check_refusal(error: &Error) {
    let text = error.to_string();
    // The last: before the name is switched for the first time, `find` gives the version's own handle.
    let allowed = [Status::NotFound, Status::ModelNotFound, Status::ShutDown, Status::InvalidState];
    assert!(allowed.contains(&error.status), "{text}");
}

fn infer(engine: &Engine, input: &[Tensor], over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let Ok(model) = engine.find("m") else { continue };
        match engine.infer(request(model, input), common::A_MINUTE) {
            Ok(event) => assert_eq!(event.status, Status::Ok),
            Err(error) => check_refusal(&error),
        }
    }
}

/// Unloads the name, or asks for it again; loads that are asked for may be cancelled.
fn come_and_go(engine: &Engine, mut random: Random, over: &AtomicBool) {
    let queue = engine.create_queue(1000).unwrap();
    while !over.load(Ordering::Relaxed) {
        let config = || ModelConfig::from_json(r#"{"name": "m"}"#).unwrap();
        match (random.below(4), engine.find("m")) {
            (0, Ok(model)) => drop(engine.unload(model).inspect_err(check_refusal)),
            (1, Ok(model)) => drop(engine.unload_async(model, &queue).inspect_err(check_refusal)),
            (2, _) => drop(engine.load(config(), None).inspect_err(check_refusal)),
            _ => {
                let ticket = engine.load_async(config(), &queue, 0).unwrap();
                if random.once_in(2) {
                    let _ = engine.cancel(ticket);
                }
            }
        }
        queue.poll(usize::MAX, drop);
        std::thread::sleep(Duration::from_micros(random.below(3000)));
    }
}

fn play(seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    add_version(root, 1);
    let engine = engine(json!({"repository": {"directory": root, "poll_ms": null}}));
    let input = [f32s(&[1, 4], &[0.5; 4])];
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (engine, input, over) = (&engine, &input, &over);
        scope.spawn(move || infer(engine, input, over));
        scope.spawn(move || infer(engine, input, over));
        scope.spawn(move || come_and_go(engine, Random::new(seed), over));
        scope.spawn(move || come_and_go(engine, Random::new(seed + 100), over));
        let mut random = Random::new(seed + 200);
        for version in 2..30 {
            if random.once_in(2) {
                add_version(root, version);
            }
            if random.once_in(4) {
                let _ = std::fs::remove_dir_all(root.join(format!("m/{}", random.below(version))));
            }
            engine.rescan().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    std::fs::remove_dir_all(root.join("m")).unwrap();
    let began = Instant::now();
    loop {
        engine.rescan().unwrap();
        engine.trim();
        if engine.health().memory_bytes == 0 && engine.find("m").is_err() {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{}", engine.health_json());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_name_means_a_version_or_nothing() {
    for seed in 1..=ROUNDS {
        must_end("the round", move || play(seed));
    }
}
