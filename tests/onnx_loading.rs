//! Where ONNX models come from, what is wrong with some, what is said of them, and the library that runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::config::ModelConfig;
use blaze::engine::{Engine, ModelId};
use blaze::error::{Error, Result, Status};
use common::{
    Tensor, engine, f32s, info, load, load_json, model_path, root, run, threaded_engine, try_engine, try_run,
};
use serde_json::{Value, json};
use std::path::Path;

fn load_bytes(engine: &Engine, config: Value, bytes: &[u8]) -> Result<ModelId> {
    engine.load(ModelConfig::from_json(&config.to_string())?, Some(bytes))
}

fn x4() -> Tensor {
    f32s(&[1, 4], &[1.0, 2.0, 3.0, 4.0])
}

fn status_and_message(result: Result<ModelId>) -> (Status, String) {
    let Error { status, message, .. } = result.unwrap_err();
    assert!(message.starts_with("model \"m:1\": "), "the message names the model: {message}");
    (status, message)
}

#[test]
fn paths_are_absolute_or_start_at_the_working_directory_or_at_the_model_directory() {
    assert_eq!(std::env::current_dir().unwrap(), root(), "cargo starts tests here");
    let path = |path: &Path| json!({"name": "m", "path": path});
    let directory = root().join("tests/models");
    for (engine, config) in [
        (engine(json!({})), path(&model_path("tiny"))),
        (engine(json!({})), path(Path::new("tests/models/tiny.onnx"))),
        (engine(json!({"model_directory": directory})), path(Path::new("tiny.onnx"))),
        (engine(json!({"model_directory": "tests"})), path(Path::new("models/tiny.onnx"))),
        (engine(json!({"model_directory": directory})), path(&model_path("tiny"))),
    ] {
        let model = load_json(&engine, config).unwrap();
        assert_eq!(run(&engine, model, &[x4()])[0].shape, [1, 2]);
    }
}

#[test]
fn a_model_from_memory_answers_as_one_from_its_file() {
    let engine = threaded_engine();
    let from_file = load(&engine, "tiny");
    let bytes = std::fs::read(model_path("tiny")).unwrap();
    let from_memory = load_bytes(&engine, json!({"name": "m"}), &bytes).unwrap();
    drop(bytes); // read during the call only
    assert_eq!(run(&engine, from_file, &[x4()]), run(&engine, from_memory, &[x4()]));
    assert_eq!(info(&engine, from_memory)["path"], Value::Null);
}

#[test]
fn a_model_comes_from_one_place() {
    let engine = threaded_engine();
    let both = json!({"name": "m", "path": model_path("tiny")});
    let (status, message) = status_and_message(load_bytes(&engine, both, b"x"));
    assert!(status == Status::InvalidConfig && message.contains("path"), "{message}");
    let (status, message) = status_and_message(load_json(&engine, json!({"name": "m"})));
    assert!(status == Status::InvalidConfig && message.contains("path"), "{message}");
}

#[test]
fn weights_in_a_file_of_their_own_are_found_beside_the_model() {
    let engine = threaded_engine();
    let model = load(&engine, "external_data");
    let want = f32s(&[1, 4], &[80.0, 90.0, 100.0, 110.0]).named("y");
    assert_eq!(run(&engine, model, &[x4()]), [want]);
}

#[test]
fn weights_in_a_file_of_their_own_cannot_be_loaded_from_memory() {
    let bytes = std::fs::read(model_path("external_data")).unwrap();
    let (status, message) = status_and_message(load_bytes(&threaded_engine(), json!({"name": "m"}), &bytes));
    assert!(matches!(status, Status::ModelInvalid | Status::ModelNotFound), "{message}");
    assert!(message.contains("xternal data"), "{message}");
}

#[test]
fn weights_that_are_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    std::fs::copy(model_path("external_data"), &path).unwrap();
    let (status, message) =
        status_and_message(load_json(&threaded_engine(), json!({"name": "m", "path": path})));
    assert!(matches!(status, Status::ModelInvalid | Status::ModelNotFound), "{message}");
    assert!(message.contains("external_data.bin"), "{message}");
}

#[test]
fn files_that_are_no_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let digits = std::fs::read(root().join("models/digits/digits.onnx")).unwrap();
    let zeros = vec![0; 4096];
    let engine = threaded_engine();
    for (what, bytes) in [
        ("half of one", &digits[..digits.len() / 2]),
        ("all but the last byte", &digits[..digits.len() - 1]),
        ("nothing", b""),
        ("text", b"Once upon a time there was a tensor.\n"),
        ("zeros", &zeros),
    ] {
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, bytes).unwrap();
        let from_file = load_json(&engine, json!({"name": "m", "path": path}));
        assert_eq!(status_and_message(from_file).0, Status::ModelInvalid, "{what}, a file");
        let from_memory = load_bytes(&engine, json!({"name": "m"}), bytes);
        assert_eq!(status_and_message(from_memory).0, Status::ModelInvalid, "{what}, from memory");
    }
    assert_eq!(engine.health().models_ready, 0);
    assert_eq!(engine.health().memory_bytes, 0, "a load that fails leaves nothing");
    load_json(&engine, json!({"name": "m", "path": model_path("tiny")})).expect("the name is free");
}

#[test]
fn files_that_are_not_there_are_not_found() {
    let engine = threaded_engine();
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("none.onnx"), folder.path().to_owned()] {
        let (status, message) = status_and_message(load_json(&engine, json!({"name": "m", "path": path})));
        assert_eq!(status, Status::ModelNotFound);
        assert!(message.contains(path.to_str().unwrap()), "{message}");
    }
}

#[test]
fn a_model_that_cannot_be_loaded_keeps_its_engine_from_being_made() {
    let models = json!([{"name": "a", "path": model_path("tiny")}, {"name": "m", "path": "none.onnx"}]);
    let error = try_engine(json!({"models": models})).err().unwrap();
    assert_eq!(error.status, Status::ModelNotFound);
    assert!(error.message.starts_with("models[1]: model \"m:1\": "), "{error}");
}

#[test]
fn model_info_says_what_a_model_is() {
    let engine = threaded_engine();
    let path = model_path("mixed_types");
    let config = json!({"name": "m", "version": 3, "path": path, "lanes": 2, "pinned": true,
                        "batching": {"max_rows": 16, "max_delay_us": 50, "priority_aging_ms": 9}});
    let model = load_json(&engine, config).unwrap();
    let want = json!({
        "name": "m",
        "version": 3,
        "backend": "onnx",
        "path": path,
        "state": "ready",
        "inputs": [
            {"name": "ids", "dtype": "i64", "shape": ["batch", "sequence"], "optional": false},
            {"name": "scale", "dtype": "f32", "shape": ["batch", 1], "optional": false},
        ],
        "outputs": [
            {"name": "embedded", "dtype": "f32", "shape": ["batch", "sequence", 2], "optional": false},
        ],
        "batching": {
            "enabled": true, "reason": null, "max_rows": 16, "max_delay_us": 50, "priority_aging_ms": 9,
            "buckets": [], "axes": {},
        },
        "devices": [],
        "stepwise": false,
        "lanes": 2,
        "intra_op_threads": 1,
        "pinned": true,
        "providers": ["cpu"],
        "provider": "cpu",
        "providers_rejected": [],
        "provider_operators": {"cpu": 3},
        "devices": [],
        "evictable": false,
        "residence": "idle",
    });
    let mut told = info(&engine, model);
    // Measured: the weights to the byte, and the heap that the graph takes.
    let bytes = told["bytes"].take().as_u64().unwrap();
    assert!((100..4_000_000).contains(&bytes), "{bytes}");
    let memory = told["memory"].take();
    assert_eq!((memory["bytes"].as_u64(), memory["reloads"].as_u64()), (Some(bytes), Some(0)));
    assert!(memory["load_ns"].as_u64().unwrap() > 0);
    told.as_object_mut().unwrap().retain(|key, _| key != "bytes" && key != "memory");
    assert_eq!(told, want);
    let scalar = load(&engine, "rank0");
    assert_eq!(info(&engine, scalar)["inputs"][0]["shape"], json!([]));
    let nothing = load(&engine, "no_input");
    assert_eq!(info(&engine, nothing)["inputs"], json!([]));
}

/// ONNX Runtime for the CPU has no CUDA; a list of providers is tried in order, and what became of each is said.
#[test]
fn providers_that_do_not_work_are_passed_over_and_reported() {
    let engine = threaded_engine();
    let config = |providers: Value| json!({"name": "m", "path": model_path("tiny"), "providers": providers});
    let (status, message) = status_and_message(load_json(&engine, config(json!(["qnn"]))));
    assert!(status == Status::ProviderUnavailable && message.contains("qnn: "), "{message}");
    let (status, message) = status_and_message(load_json(&engine, config(json!(["gpu"]))));
    assert!(status == Status::InvalidConfig && message.contains("providers[0]"), "{message}");
    let model = load_json(&engine, config(json!(["qnn", "cpu"]))).unwrap();
    let info = info(&engine, model);
    assert_eq!(info["provider"], "cpu");
    assert_eq!(info["providers_rejected"][0]["provider"], "qnn");
    assert_ne!(info["providers_rejected"][0]["reason"], "");
}

#[test]
fn engines_side_by_side_share_one_onnx_runtime_and_nothing_else() {
    let engines = [threaded_engine(), threaded_engine()];
    let models = engines.each_ref().map(|engine| load(engine, "tiny"));
    let answers = [0, 1].map(|index| run(&engines[index], models[index], &[x4()]));
    assert_eq!(answers[0], answers[1]);
    assert_eq!(try_run(&engines[0], models[1], &[x4()]).unwrap_err().status, Status::NotFound);
    let queue = engines[0].create_queue(1).unwrap();
    let elsewhere = engines[1].submit(common::request(models[1], &[x4()]), &queue);
    assert_eq!(elsewhere.unwrap_err().status, Status::InvalidArgument);
    let [first, second] = engines;
    drop(first);
    assert_eq!(run(&second, models[1], &[x4()]), answers[1]);
    assert_eq!(second.metrics().ok, 2);
}

#[test]
fn a_process_has_one_onnx_runtime() {
    let first = threaded_engine();
    load(&first, "tiny");
    let health: Value = serde_json::from_str(&first.health_json()).unwrap();
    let loaded = health["onnxruntime"]["path"].as_str().unwrap();
    let with_library = |library: &Path| {
        let model = json!({"name": "m", "path": model_path("tiny")});
        try_engine(json!({"onnxruntime": {"library": library}, "models": [model]}))
    };
    assert!(with_library(Path::new(loaded)).is_ok(), "the same one may be named");

    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("libonnxruntime.so");
    std::fs::write(&copy, "").unwrap();
    for other in [copy.as_path(), Path::new("none.so")] {
        let error = with_library(other).err().unwrap();
        assert_eq!(error.status, Status::InvalidState);
        assert!(error.message.contains("onnxruntime.library"), "{error}");
        assert!(error.message.contains(loaded), "it says which one is in use: {error}");
        assert!(error.message.contains(other.to_str().unwrap()), "it says which one was asked for: {error}");
    }
    #[cfg(unix)]
    {
        let link = folder.path().join("link.so");
        std::os::unix::fs::symlink(loaded, &link).unwrap();
        assert!(with_library(&link).is_ok(), "another name of the same file is the same file");
    }
}
