//! Every element type through ONNX Runtime and back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::engine::{Engine, ModelId};
use blaze::error::Status;
use blaze::tensor::{DType, size_bytes};
use common::{
    Elements, Random, Tensor, batching_engine, bytes, f32s, info, is_batched, load, run, run_together,
    strings, try_load, try_run,
};

/// Types of which ONNX Runtime's CPU provider has no `Identity`.
const REFUSED: [DType; 8] = [
    DType::U4,
    DType::I4,
    DType::U2,
    DType::I2,
    DType::F4E2M1,
    DType::F8E8M0,
    DType::Complex64,
    DType::Complex128,
];

/// Types with several elements to a byte that ONNX Runtime can at least cast.
const PACKED: [DType; 4] = [DType::U4, DType::I4, DType::U2, DType::I2];

fn accepted() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|dtype| *dtype != DType::String && !REFUSED.contains(dtype))
}

fn assert_comes_back(engine: &Engine, model: ModelId, x: Tensor) {
    let outputs = run(engine, model, std::slice::from_ref(&x));
    assert_eq!(outputs, [x.named("y")]);
}

/// A tensor of random bytes: any is an element of its type, but for bool.
fn random(dtype: DType, shape: &[i64], random: &mut Random) -> Tensor {
    let limit = if dtype == DType::Bool { 2 } else { 256 };
    let size = size_bytes(dtype, shape).unwrap();
    bytes(dtype, shape, &(0..size).map(|_| random.below(limit) as u8).collect::<Vec<_>>())
}

#[test]
fn bytes_of_every_type_come_back_as_they_went_in() {
    let (engine, mut generator) = (batching_engine(), Random::new(1));
    for dtype in accepted() {
        let model = load(&engine, &format!("identity_{}", dtype.name()));
        for rows in [1, 2, 5] {
            let x = random(dtype, &[rows, 4], &mut generator);
            assert_comes_back(&engine, model, x);
        }
    }
}

#[test]
fn bytes_of_every_type_come_back_from_a_batch() {
    let (engine, mut generator) = (batching_engine(), Random::new(2));
    for dtype in accepted() {
        let model = load(&engine, &format!("identity_{}", dtype.name()));
        let requests: Vec<Vec<Tensor>> =
            [1, 3, 1, 2, 4].iter().map(|&rows| vec![random(dtype, &[rows, 4], &mut generator)]).collect();
        for (answer, inputs) in run_together(&engine, model, &requests).into_iter().zip(requests) {
            assert_eq!(answer.batch_rows, 11, "{} is not batched", dtype.name());
            assert_eq!(answer.outputs[0].bytes(), inputs[0].bytes(), "{}", dtype.name());
            assert_eq!(answer.outputs[0].shape, inputs[0].shape);
            assert_eq!(answer.outputs[0].dtype, dtype);
        }
    }
}

#[test]
fn types_without_a_kernel_are_refused_by_a_message_that_names_the_model() {
    let engine = batching_engine();
    for dtype in REFUSED {
        let name = format!("identity_{}", dtype.name());
        let error = try_load(&engine, &name).expect_err(&name);
        assert!(matches!(error.status, Status::ModelUnsupported | Status::ModelInvalid), "{name}: {error}");
        assert!(error.message.contains(&format!("{name}:1")), "{error}");
    }
}

/// Rows of three do not start on a byte, so they cannot be laid one after the other.
#[test]
fn types_of_less_than_a_byte_run_alone_and_come_back() {
    let (engine, mut generator) = (batching_engine(), Random::new(3));
    for dtype in PACKED {
        let model = load(&engine, &format!("cast_{}", dtype.name()));
        assert!(!is_batched(&engine, model), "{}", dtype.name());
        let reason = info(&engine, model)["batching"]["reason"].to_string();
        assert!(reason.contains("smaller than a byte"), "{reason}");
        let requests: Vec<Vec<Tensor>> = [1, 2, 5]
            .iter()
            .map(|&rows| {
                let mut x = random(dtype, &[rows, 3], &mut generator);
                clear_padding(&mut x);
                vec![x]
            })
            .collect();
        for (answer, inputs) in run_together(&engine, model, &requests).into_iter().zip(requests) {
            let mut y = answer.outputs[0].clone();
            clear_padding(&mut y);
            assert_eq!((y.bytes(), &y.shape, y.dtype), (inputs[0].bytes(), &inputs[0].shape, dtype));
        }
    }
}

/// What is behind the last element, up to the end of its byte, may be anything.
fn clear_padding(tensor: &mut Tensor) {
    let used = tensor.shape.iter().product::<i64>() as usize * tensor.dtype.bits() % 8;
    if let (Elements::Bytes(bytes), 1..) = (&mut tensor.elements, used) {
        *bytes.last_mut().unwrap() &= (1 << used) - 1;
    }
}

#[test]
fn scales_of_eight_bits_are_batched_although_they_come_back_by_way_of_float() {
    let engine = batching_engine();
    let model = load(&engine, "cast_f8e8m0");
    let row = |first: u8| vec![bytes(DType::F8E8M0, &[1, 3], &[first, first + 1, 127])];
    let answers = run_together(&engine, model, &[row(100), row(120), row(140)]);
    for (answer, first) in answers.iter().zip([100, 120, 140]) {
        assert_eq!((answer.outputs[0].bytes(), answer.batch_rows), (&[first, first + 1, 127][..], 3));
    }
}

#[test]
fn packed_inputs_must_have_the_bytes_that_their_elements_take() {
    let engine = batching_engine();
    let model = load(&engine, "cast_u4");
    let error = |size: usize| try_run(&engine, model, &[bytes(DType::U4, &[1, 3], &vec![0; size])]);
    assert!(error(2).is_ok());
    assert_eq!(error(1).unwrap_err().status, Status::InvalidSize);
    assert_eq!(error(3).unwrap_err().status, Status::InvalidSize);
}

const TEXTS: [&str; 8] = ["", "a", "nul \0 inside", "\0", "ünï→✓", "日本語", "", "the last of them"];

#[test]
fn strings_come_back_as_they_went_in() {
    let engine = batching_engine();
    let model = load(&engine, "identity_string");
    for rows in [1, 2] {
        let x = strings(&[rows, 4], &TEXTS[..4 * rows as usize]);
        assert_comes_back(&engine, model, x);
    }
    let nothing = strings(&[1, 4], &[""; 4]);
    assert_comes_back(&engine, model, nothing);
    let long = "é".repeat(100_000);
    let long = strings(&[1, 4], &[&long, "", &long, "x"]);
    assert_comes_back(&engine, model, long);
}

#[test]
fn bytes_that_are_not_utf8_come_back_too() {
    let engine = batching_engine();
    let model = load(&engine, "identity_string");
    let mut x = strings(&[1, 4], &[""; 4]);
    x.elements = Elements::Strings(vec![vec![0xFF, 0xFE], vec![0xC3], vec![], vec![0x80; 3]]);
    assert_comes_back(&engine, model, x);
}

#[test]
fn strings_of_requests_side_by_side_are_not_mixed_up() {
    let engine = batching_engine();
    let model = load(&engine, "strings_concat");
    assert!(!is_batched(&engine, model));
    let requests: Vec<Vec<Tensor>> =
        TEXTS.iter().map(|text| vec![strings(&[2], &[text, "bla"]), strings(&[2], &["!", "ze"])]).collect();
    for (answer, text) in run_together(&engine, model, &requests).iter().zip(TEXTS) {
        assert_eq!(answer.outputs, [strings(&[2], &[&format!("{text}!"), "blaze"]).named("y")]);
    }
}

#[test]
fn strings_must_be_as_many_as_the_shape_says() {
    let engine = batching_engine();
    let model = load(&engine, "strings_concat");
    let b = strings(&[2], &["x", "y"]);
    let error = try_run(&engine, model, &[strings(&[2], &["x"]), b.clone()]).unwrap_err();
    assert_eq!(error.status, Status::InvalidSize);
    let error = try_run(&engine, model, &[f32s(&[2], &[1.0, 2.0]), b]).unwrap_err();
    assert_eq!(error.status, Status::InvalidDtype);
}

/// Possible in Rust only, where data and type are apart. It is the caller's mistake, not the model's.
#[test]
fn strings_for_numbers_and_numbers_for_strings_are_refused() {
    let engine = batching_engine();
    let (texts, numbers) = (load(&engine, "identity_string"), load(&engine, "identity_f32"));
    let mut texts_as_numbers = strings(&[1, 4], &["a", "b", "c", "d"]);
    texts_as_numbers.dtype = DType::F32;
    for (model, wrong) in [
        (numbers, texts_as_numbers),
        (texts, bytes(DType::String, &[1, 4], &[])),
        (texts, bytes(DType::String, &[1, 4], &[0; 64])),
    ] {
        let error = try_run(&engine, model, &[wrong]).unwrap_err();
        assert_eq!(error.status.code() / 100, 1, "an argument is wrong: {error}");
    }
    assert!(engine.health().ok);
}
