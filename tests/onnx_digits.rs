//! The shipped model on images that it has never seen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::engine::{Engine, ModelId};
use common::{Tensor, f32s, info, load_json, root, run, run_together, threaded_engine};
use serde_json::json;

const PIXELS: usize = 64;

/// The held-out images, with their labels.
fn images() -> Vec<(Tensor, u8)> {
    let bytes = std::fs::read(root().join("models/digits/digits-test.bin")).unwrap();
    let (records, []) = bytes.as_chunks::<{ PIXELS + 1 }>() else { panic!("the file ends in a record") };
    let image = |record: &[u8; PIXELS + 1]| {
        let pixels: Vec<f32> = record[..PIXELS].iter().map(|&pixel| f32::from(pixel) / 16.0).collect();
        (f32s(&[1, 1, 8, 8], &pixels), record[PIXELS])
    };
    records.iter().map(image).collect()
}

fn load_digits(engine: &Engine, lanes: u32) -> ModelId {
    let path = root().join("models/digits/digits.onnx");
    load_json(engine, json!({"name": "digits", "path": path, "lanes": lanes})).unwrap()
}

/// The digit that the model sees, after a check that its probabilities are some.
fn digit(outputs: &[Tensor]) -> u8 {
    assert_eq!((outputs[0].name.as_str(), outputs[0].shape.as_slice()), ("probabilities", &[1, 10][..]));
    let probabilities = outputs[0].f32s();
    assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-3, "{probabilities:?}");
    (0..10u8).max_by(|&a, &b| probabilities[a as usize].total_cmp(&probabilities[b as usize])).unwrap()
}

fn assert_accurate(digits: impl Iterator<Item = u8>, images: &[(Tensor, u8)]) {
    let right = digits.zip(images).filter(|(digit, (_, label))| digit == label).count();
    assert!(right as f64 >= 0.97 * images.len() as f64, "{right} of {}", images.len());
}

#[test]
fn digits_are_read_one_at_a_time() {
    let (engine, images) = (threaded_engine(), images());
    assert_eq!(images.len(), 450);
    let model = load_digits(&engine, 1);
    assert_accurate(
        images.iter().map(|(image, _)| digit(&run(&engine, model, std::slice::from_ref(image)))),
        &images,
    );
}

#[test]
fn digits_are_read_all_in_flight_together() {
    for lanes in [1, 2] {
        let (engine, images) = (threaded_engine(), images());
        let model = load_digits(&engine, lanes);
        assert_eq!(info(&engine, model)["batching"]["enabled"], true);
        let requests: Vec<Vec<Tensor>> = images.iter().map(|(image, _)| vec![image.clone()]).collect();
        let answers = run_together(&engine, model, &requests);
        assert_accurate(answers.iter().map(|answer| digit(&answer.outputs)), &images);
        assert!(answers.iter().all(|answer| answer.batch_rows <= 64));
    }
}

#[test]
fn digits_are_read_many_rows_to_a_request() {
    let (engine, images) = (threaded_engine(), images());
    let model = load_digits(&engine, 1);
    let pixels: Vec<f32> = images.iter().flat_map(|(image, _)| image.f32s()).collect();
    let outputs = run(&engine, model, &[f32s(&[images.len() as i64, 1, 8, 8], &pixels)]);
    assert_eq!(outputs[0].shape, [images.len() as i64, 10]);
    let rows: Vec<f32> = outputs[0].f32s();
    assert_accurate(rows.chunks(10).map(|row| digit(&[f32s(&[1, 10], row).named("probabilities")])), &images);
}
