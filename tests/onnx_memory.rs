//! ONNX Runtime's memory: counted to the byte, shared by models of the same file, evicted and brought back.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod common;

use blaze::engine::{Engine, ModelId};
use blaze::error::Status;
use common::{engine, f32s, info, load_json, model_path, next_event, request, root, run};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// 64→256→256→8, in f32: its weights and biases.
const SMALL_WEIGHTS: u64 = 4 * (64 * 256 + 256 + 256 * 256 + 256 + 256 * 8 + 8);

fn health(engine: &Engine) -> Value {
    serde_json::from_str(&engine.health_json()).unwrap()
}

fn bytes(engine: &Engine, what: &str) -> u64 {
    health(engine)["memory"][format!("{what}_bytes")].as_u64().unwrap()
}

fn small(engine: &Engine, name: &str, more: Value) -> ModelId {
    let mut config = json!({"name": name, "path": model_path("small")});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    load_json(engine, config).unwrap()
}

fn answer(engine: &Engine, model: ModelId) -> Vec<f32> {
    let row: Vec<f32> = (0..64).map(|index| index as f32 / 64.0).collect();
    run(engine, model, &[f32s(&[1, 64], &row)]).remove(0).f32s()
}

/// Waits until the model is there: who has just answered may be busy for another moment.
fn becomes(engine: &Engine, model: ModelId, residence: &str) {
    let began = Instant::now();
    while info(engine, model)["residence"] != residence {
        assert!(began.elapsed() < Duration::from_secs(60), "{residence}: {}", info(engine, model));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn weights_are_counted_and_all_is_given_back() {
    let engine = engine(json!({}));
    let model = small(&engine, "m", json!({}));
    let taken = bytes(&engine, "models");
    assert!((SMALL_WEIGHTS..SMALL_WEIGHTS + (2 << 20)).contains(&taken), "{taken} of {SMALL_WEIGHTS}");
    assert_eq!(info(&engine, model)["bytes"].as_u64(), Some(taken));
    answer(&engine, model);
    let receipt: Value = serde_json::from_str(&engine.unload(model).unwrap()).unwrap();
    assert!(receipt["bytes_before"].as_u64().unwrap() >= taken, "{receipt}");
    assert_eq!((receipt["bytes_after"].as_u64(), receipt["stayed"].as_array().unwrap().len()), (Some(0), 0));
    assert_eq!(bytes(&engine, "used"), 0);
}

#[test]
fn models_of_one_file_share_a_session() {
    let engine = engine(json!({}));
    let first = small(&engine, "first", json!({}));
    let taken = bytes(&engine, "models");
    let second = small(&engine, "second", json!({"lanes": 2}));
    assert_eq!(bytes(&engine, "models"), taken);
    // Other options make another session.
    let other = small(&engine, "other", json!({"prepack": false}));
    assert!(bytes(&engine, "models") > taken);
    assert_eq!(answer(&engine, first), answer(&engine, second));
    let (as_packed, as_not) = (answer(&engine, first), answer(&engine, other));
    assert!(as_packed.iter().zip(&as_not).all(|(a, b)| (a - b).abs() < 1e-5));
    let receipt: Value = serde_json::from_str(&engine.unload(first).unwrap()).unwrap();
    assert!(receipt["stayed"][0]["what"].as_str().unwrap().contains("another model"), "{receipt}");
    assert_eq!(answer(&engine, second), as_packed);
    engine.unload(second).unwrap();
    engine.unload(other).unwrap();
    assert_eq!(bytes(&engine, "used"), 0);
}

#[test]
fn shared_weights_leave_with_the_last_who_has_them() {
    let engine = engine(json!({}));
    let models = ["a", "b"].map(|name| small(&engine, name, json!({})));
    let before = models.map(|model| answer(&engine, model));
    engine.set_budget(Some(0));
    models.iter().for_each(|&model| becomes(&engine, model, "evicted"));
    assert_eq!(bytes(&engine, "models"), 0);
    engine.set_budget(None);
    assert_eq!(models.map(|model| answer(&engine, model)), before);
    models.iter().for_each(|&model| becomes(&engine, model, "idle"));
}

#[test]
fn what_was_evicted_answers_as_before_whatever_it_is() {
    let engine = engine(json!({}));
    let external =
        load_json(&engine, json!({"name": "external", "path": model_path("external_data")})).unwrap();
    let sum = load_json(&engine, json!({"name": "sum", "path": model_path("sequence_sum")})).unwrap();
    let digits = root().join("models/digits/digits.onnx");
    let digits = load_json(&engine, json!({"name": "digits", "path": digits})).unwrap();
    let image: Vec<f32> = (0..64).map(|index| (index % 7) as f32 / 7.0).collect();
    let inputs = |model: ModelId| match model {
        _ if model == sum => vec![f32s(&[1, 3, 2], &image[..6])],
        _ if model == digits => vec![f32s(&[1, 1, 8, 8], &image)],
        _ => {
            let told = info(&engine, model)["inputs"][0].clone();
            let size = told["shape"][1].as_i64().unwrap();
            vec![f32s(&[1, size], &image[..size as usize])]
        }
    };
    let models = [external, sum, digits];
    let before = models.map(|model| run(&engine, model, &inputs(model)));
    for _ in 0..3 {
        engine.set_budget(Some(0));
        models.iter().for_each(|&model| becomes(&engine, model, "evicted"));
        engine.set_budget(None);
        assert_eq!(models.map(|model| run(&engine, model, &inputs(model))), before);
    }
}

#[test]
fn events_of_an_evicted_model_keep_their_outputs() {
    let engine = engine(json!({}));
    let model = small(&engine, "m", json!({}));
    let queue = engine.create_queue(8).unwrap();
    let row = [f32s(&[1, 64], &[0.25; 64])];
    engine.submit(request(model, &row), &queue).unwrap();
    let mut held = None;
    queue.wait(1, common::A_MINUTE, |event| held = Some(event));
    engine.set_budget(Some(0));
    becomes(&engine, model, "evicted");
    assert_eq!(bytes(&engine, "models"), 0);
    let held = common::Answer::from(held.unwrap()).outputs;
    engine.set_budget(None);
    engine.submit(request(model, &row), &queue).unwrap();
    assert_eq!(next_event(&queue).outputs, held);
}

#[test]
fn an_arena_of_its_own_works_too() {
    let pooled = engine(json!({}));
    let own = engine(json!({"onnxruntime": {"arena": true, "memory_pattern": false}}));
    let models = [&pooled, &own].map(|engine| small(engine, "m", json!({})));
    assert_eq!(answer(&pooled, models[0]), answer(&own, models[1]));
    let taken = bytes(&own, "models");
    assert!((1..64 << 20).contains(&taken), "{taken}");
    own.set_budget(Some(0));
    becomes(&own, models[1], "evicted");
    own.set_budget(None);
    assert_eq!(answer(&pooled, models[0]), answer(&own, models[1]));
}

#[test]
fn warm_up_takes_sizes_and_examples() {
    let engine = engine(json!({}));
    let warm = |warmup: Value| {
        let path = model_path("sequence_sum");
        load_json(&engine, json!({"name": "m", "path": path, "warmup": warmup}))
    };
    let input = {
        let model = warm(json!(false)).unwrap();
        let name = info(&engine, model)["inputs"][0]["name"].as_str().unwrap().to_owned();
        engine.unload(model).unwrap();
        name
    };
    let model = warm(json!({"sizes": [1, 8], "inputs": {&input: {"shape": [1, 5, 2], "fill": 2}}})).unwrap();
    engine.unload(model).unwrap();
    let model = warm(json!({"inputs": {&input: {"shape": [1, 3, 2], "data": [1, 2, 3, 4, 5, 6]}}})).unwrap();
    engine.unload(model).unwrap();
    let message = |warmup: Value| {
        let error = warm(warmup).unwrap_err();
        assert_eq!(error.status, Status::InvalidConfig, "{error}");
        error.message
    };
    assert!(message(json!({"sizes": [0]})).contains("warmup.sizes"));
    assert!(message(json!({"sizes": [65]})).contains("warmup.sizes"));
    assert!(message(json!({"size": [1]})).contains("warmup.size"));
    assert!(message(json!(3)).contains("warmup"));
    assert!(message(json!({"inputs": {"nobody": {}}})).contains("warmup.inputs.nobody"));
    assert!(message(json!({"inputs": {&input: [1]}})).contains("warmup.inputs"));
    let text = message(json!({"inputs": {&input: {"shape": [1, 3, 2], "data": [1, 2]}}}));
    assert!(text.contains("2 numbers given, one row has 6"), "{text}");
    assert_eq!(bytes(&engine, "used"), 0);
}
