//! Models of every shape through ONNX Runtime: right answers, and batches of those requests that may be joined.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::engine::{Engine, ModelId};
use blaze::error::Status;
use common::{
    Answer, Random, Tensor, batching_engine, bytes, f32s, i64s, info, is_batched, load, load_json,
    model_path, root, run, run_together, threaded_engine, try_load, try_run,
};
use serde_json::{Value, json};

fn reason(engine: &Engine, model: ModelId) -> String {
    info(engine, model)["batching"]["reason"].as_str().unwrap_or_default().to_owned()
}

fn batch_rows(answers: &[Answer]) -> Vec<u32> {
    answers.iter().map(|answer| answer.batch_rows).collect()
}

#[test]
fn scalars_go_in_and_come_out() {
    let engine = batching_engine();
    let model = load(&engine, "rank0");
    assert_eq!(run(&engine, model, &[f32s(&[], &[3.0])]), [f32s(&[], &[7.0]).named("y")]);
    let requests: Vec<Vec<Tensor>> = (0..5u8).map(|x| vec![f32s(&[], &[x.into()])]).collect();
    for (answer, x) in run_together(&engine, model, &requests).iter().zip(0u8..) {
        assert_eq!((answer.outputs[0].f32s()[0], answer.batch_rows), (2.0 * f32::from(x) + 1.0, 1));
    }
}

#[test]
fn one_axis_is_joined_whatever_its_name() {
    let engine = batching_engine();
    let model = load(&engine, "rank1");
    let requests = [vec![f32s(&[1], &[1.0])], vec![f32s(&[3], &[2.0, 3.0, 4.0])], vec![f32s(&[1], &[5.0])]];
    let answers = run_together(&engine, model, &requests);
    assert_eq!(answers[1].outputs, [f32s(&[3], &[4.0, 6.0, 8.0]).named("y")]);
    assert_eq!(answers[2].outputs, [f32s(&[1], &[10.0]).named("y")]);
    assert_eq!(batch_rows(&answers), [5, 5, 5]);
}

#[test]
fn six_axes_keep_their_order() {
    let engine = batching_engine();
    let model = load(&engine, "rank6");
    let x: Vec<f32> = (0u8..24).map(f32::from).collect();
    let y: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
    let one = |half: &[f32]| vec![f32s(&[1, 2, 1, 3, 1, 2], half)];
    let both = run(&engine, model, &[f32s(&[2, 2, 1, 3, 1, 2], &x)]);
    assert_eq!(both, [f32s(&[2, 2, 1, 3, 1, 2], &y).named("y")]);
    let answers = run_together(&engine, model, &[one(&x[..12]), one(&x[12..])]);
    assert_eq!(answers[0].outputs, [f32s(&[1, 2, 1, 3, 1, 2], &y[..12]).named("y")]);
    assert_eq!(answers[1].outputs, [f32s(&[1, 2, 1, 3, 1, 2], &y[12..]).named("y")]);
    assert_eq!(batch_rows(&answers), [2, 2]);
}

#[test]
fn inputs_are_taken_by_name_by_position_and_in_any_order() {
    let engine = batching_engine();
    let model = load(&engine, "two_in_two_out");
    let (a, b) = (f32s(&[1, 3], &[1.0, 2.0, 3.0]), f32s(&[1, 3], &[4.0, 5.0, 7.0]));
    let want =
        [f32s(&[1, 3], &[5.0, 7.0, 10.0]).named("sum"), f32s(&[1, 3], &[4.0, 10.0, 21.0]).named("product")];
    let (named_a, named_b) = (a.clone().named("a"), b.clone().named("b"));
    let requests = [
        vec![a.clone(), b.clone()],
        vec![named_a.clone(), named_b.clone()],
        vec![named_b.clone(), named_a.clone()],
        vec![a.clone(), named_b.clone()],
        vec![named_a.clone(), b.clone()],
    ];
    for inputs in &requests {
        assert_eq!(run(&engine, model, inputs), want);
    }
    let answers = run_together(&engine, model, &requests);
    assert!(answers.iter().all(|answer| answer.outputs == want && answer.batch_rows == 5));

    let error = |inputs: &[Tensor]| try_run(&engine, model, inputs).unwrap_err();
    for wrong in [
        vec![a.clone()],
        vec![],
        vec![named_a.clone(), a.clone().named("a")],
        vec![named_b.clone(), b.clone()], // the second is "b" by position
        vec![a.clone(), b.clone(), b.clone()],
        vec![a.clone().named("A"), named_b],
    ] {
        assert_eq!(error(&wrong).status, Status::InvalidName, "{wrong:?}");
    }
    let two_rows = f32s(&[2, 3], &[0.0; 6]);
    assert_eq!(error(&[two_rows, b]).status, Status::InvalidShape);
    assert_eq!(error(&[f32s(&[0, 3], &[]), f32s(&[0, 3], &[])]).status, Status::InvalidShape);
}

#[test]
fn sequences_of_different_lengths_side_by_side_are_grouped_by_length() {
    let engine = batching_engine();
    let model = load(&engine, "sequence_sum");
    let lengths = [3, 1, 3, 5, 1, 0, 3];
    let requests: Vec<Vec<Tensor>> = lengths
        .iter()
        .enumerate()
        .map(|(index, &length)| vec![f32s(&[1, length, 2], &vec![index as f32; 2 * length as usize])])
        .collect();
    let answers = run_together(&engine, model, &requests);
    for (index, (answer, length)) in answers.iter().zip(lengths).enumerate() {
        let sum = index as f32 * length as f32;
        assert_eq!(answer.outputs, [f32s(&[1, 2], &[sum, sum]).named("y")]);
    }
    assert_eq!(batch_rows(&answers), [3, 2, 3, 1, 2, 1, 3]);
}

#[test]
fn inputs_of_two_types_and_lengths_are_grouped() {
    let engine = batching_engine();
    let model = load(&engine, "mixed_types");
    let request = |ids: &[i64], scale: f32| vec![i64s(&[1, ids.len() as i64], ids), f32s(&[1, 1], &[scale])];
    let requests = [request(&[0, 7, 3], 1.0), request(&[2], 5.0), request(&[1, 1, 2], 10.0)];
    let answers = run_together(&engine, model, &requests);
    let embedded = |values: &[f32]| [f32s(&[1, values.len() as i64 / 2, 2], values).named("embedded")];
    assert_eq!(answers[0].outputs, embedded(&[0.0, 1.0, 14.0, 15.0, 6.0, 7.0]));
    assert_eq!(answers[1].outputs, embedded(&[20.0, 25.0]));
    assert_eq!(answers[2].outputs, embedded(&[20.0, 30.0, 20.0, 30.0, 40.0, 50.0]));
    assert_eq!(batch_rows(&answers), [2, 1, 2]);
}

/// The index 99 fails the whole run; only the request that brought it is to blame.
#[test]
fn a_request_that_fails_its_batch_fails_alone() {
    let engine = batching_engine();
    let model = load(&engine, "mixed_types");
    let queue = engine.create_queue(4).unwrap();
    let scale = f32s(&[1, 1], &[1.0]);
    let requests = [3, 99, 5].map(|id| [i64s(&[1, 1], &[id]), scale.clone()]);
    for inputs in &requests {
        engine.submit(common::request(model, inputs), &queue).unwrap();
    }
    let answers: Vec<Answer> = (0..3).map(|_| common::next_event(&queue)).collect();
    let statuses: Vec<Status> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [Status::Ok, Status::BackendFailed, Status::Ok]);
    assert_eq!(answers[2].outputs, [f32s(&[1, 1, 2], &[10.0, 11.0]).named("embedded")]);
    assert!(answers[1].text.as_ref().unwrap().contains("ONNX Runtime"), "{:?}", answers[1].text);
}

#[test]
fn more_rows_than_fit_into_a_batch_run_alone() {
    let engine = batching_engine();
    let model = load_json(
        &engine,
        json!({"name": "m", "path": model_path("rank1"), "batching": {"max_rows": 4, "max_delay_us": 0}}),
    )
    .unwrap();
    let request = |rows: i64| vec![f32s(&[rows], &vec![rows as f32; rows as usize])];
    let answers = run_together(&engine, model, &[1, 9, 2, 3, 1].map(request));
    for (answer, rows) in answers.iter().zip([1, 9, 2, 3, 1]) {
        assert_eq!(answer.outputs, [f32s(&[rows], &vec![2.0 * rows as f32; rows as usize]).named("y")]);
    }
    // In the order in which they come: one that does not fit begins another batch.
    assert_eq!(batch_rows(&answers), [3, 9, 3, 4, 4]);
}

/// Models that must not be batched: a word of the reason that `model_info` gives, an input, and its answer.
fn alone() -> Vec<(&'static str, &'static str, Vec<Tensor>, Tensor)> {
    let x = f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let twice = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].repeat(2);
    let sparse = f32s(&[2, 4], &[0.0, 1.0, 0.0, 2.0, 3.0, 0.0, 0.0, 0.0]);
    let fixed = "has a first axis of fixed size";
    vec![
        ("fixed_batch", fixed, vec![x.clone()], f32s(&[2, 3], &[2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).named("y")),
        ("fixed_output", fixed, vec![x.clone()], f32s(&[1, 3], &[5.0, 7.0, 9.0]).named("y")),
        ("nonzero", fixed, vec![sparse], i64s(&[2, 3], &[0, 0, 1, 1, 3, 0]).named("indices")),
        ("double_first", "one row per input row", vec![x.clone()], f32s(&[4, 3], &twice).named("y")),
        (
            "rows_interact",
            "depends on the rows beside it",
            vec![x],
            f32s(&[2, 3], &[-1.5, -1.5, -1.5, 1.5, 1.5, 1.5]).named("y"),
        ),
        ("no_input", "the model has no inputs", vec![], f32s(&[2], &[1.0, 2.0]).named("y")),
    ]
}

#[test]
fn models_whose_rows_belong_together_are_not_batched_and_say_why() {
    let engine = batching_engine();
    for (name, why, inputs, want) in alone() {
        let model = load(&engine, name);
        assert!(!is_batched(&engine, model), "{name}");
        assert!(reason(&engine, model).contains(why), "{name}: {}", reason(&engine, model));
        for answer in run_together(&engine, model, &[inputs.clone(), inputs.clone(), inputs]) {
            assert_eq!(answer.outputs, std::slice::from_ref(&want), "{name}");
            assert!(answer.batch_rows <= 2, "{name}");
        }
    }
}

#[test]
fn an_output_may_have_no_elements() {
    let engine = batching_engine();
    let model = load(&engine, "nonzero");
    let outputs = run(&engine, model, &[f32s(&[1, 4], &[0.0; 4])]);
    assert_eq!(outputs, [i64s(&[2, 0], &[]).named("indices")]);
}

#[test]
fn batching_can_be_turned_off() {
    let engine = batching_engine();
    let off = json!({"name": "m", "path": model_path("rank1"), "batching": {"max_rows": 1}});
    let model = load_json(&engine, off).unwrap();
    assert!(reason(&engine, model).contains("max_rows"));
    let request = || vec![f32s(&[1], &[4.0])];
    assert_eq!(batch_rows(&run_together(&engine, model, &[request(), request()])), [1, 1]);
}

/// A default that one request replaces must not reach the others.
#[test]
fn an_optional_input_may_be_given_or_left_out() {
    let engine = batching_engine();
    let model = load(&engine, "default_input");
    let x = f32s(&[1, 3], &[1.0, 1.0, 1.0]);
    let bias = |value: f32| f32s(&[3], &[value; 3]).named("bias");
    let requests = [
        vec![x.clone()],
        vec![x.clone(), bias(10.0)],
        vec![x.clone()],
        vec![bias(20.0), x.clone().named("x")],
        vec![x.clone(), f32s(&[3], &[0.0; 3])],
    ];
    let answers = run_together(&engine, model, &requests);
    let values: Vec<Vec<f32>> = answers.iter().map(|answer| answer.outputs[0].f32s()).collect();
    assert_eq!(values, [[2.0, 3.0, 4.0], [11.0; 3], [2.0, 3.0, 4.0], [21.0; 3], [1.0; 3]]);
    assert_eq!(batch_rows(&answers), [2, 1, 2, 1, 1]);
    assert_eq!(engine.metrics().batches, 4, "nothing was tried that failed");
    let optional: Vec<Value> = info(&engine, model)["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|input| input["optional"].clone())
        .collect();
    assert_eq!(optional, [false, true]);
}

/// ONNX Runtime gives the input's own memory out as such an output.
#[test]
fn an_output_that_is_an_input_belongs_to_its_request() {
    let engine = batching_engine();
    let model = load(&engine, "passed_on");
    let request = |value: f32| vec![f32s(&[1, 3], &[value; 3])];
    for round in 0..3 {
        let values = [1.0, 2.0, 3.0].map(|value| value + 10.0 * round as f32);
        let answers = run_together(&engine, model, &values.map(request));
        assert_eq!(batch_rows(&answers), [3; 3]);
        for (answer, value) in answers.iter().zip(values) {
            assert_eq!(answer.outputs[0].f32s(), [value; 3]);
            assert_eq!(answer.outputs[1].f32s(), [2.0 * value; 3]);
        }
    }
    let model = load(&engine, "passed_on_any");
    let outputs = run(&engine, model, &[f32s(&[4], &[5.0, 0.0, 7.0, 0.0])]);
    assert_eq!(outputs[0].f32s(), [5.0, 0.0, 7.0, 0.0]);
    assert_eq!(outputs[1], i64s(&[1, 2], &[0, 2]).named("indices"));
}

#[test]
fn an_output_may_be_a_constant() {
    let engine = batching_engine();
    let model = load(&engine, "constant_output");
    for value in [1.0, 2.0] {
        let outputs = run(&engine, model, &[f32s(&[3], &[value; 3])]);
        assert_eq!(outputs[0].f32s(), [4.0, 5.0, 6.0]);
        assert_eq!(outputs[1].f32s(), [2.0 * value; 3]);
    }
}

/// The models under tests/models that are batched: nothing more, nothing less.
const BATCHED: [&str; 12] = [
    "axis_named_batch",
    "cast_f8e8m0",
    "default_input",
    "external_data",
    "mixed_types",
    "passed_on",
    "rank1",
    "rank6",
    "sequence_sum",
    "small",
    "tiny",
    "two_in_two_out",
];

/// Random inputs that suit a model's `model_info`.
fn made_up(info: &Value, rows: i64, random: &mut Random) -> Vec<Tensor> {
    let required = info["inputs"].as_array().unwrap().iter().filter(|input| input["optional"] == false);
    let tensor = |input: &Value| {
        let shape = input["shape"].as_array().unwrap().iter().enumerate();
        let shape: Vec<i64> =
            shape.map(|(axis, size)| size.as_i64().unwrap_or(if axis == 0 { rows } else { 3 })).collect();
        let count = shape.iter().product::<i64>() as usize;
        match input["dtype"].as_str().unwrap() {
            "f32" => f32s(&shape, &(0..count).map(|_| random.real()).collect::<Vec<_>>()),
            "i64" => i64s(&shape, &(0..count).map(|_| random.below(8) as i64).collect::<Vec<_>>()),
            "f8e8m0" => bytes(blaze::tensor::DType::F8E8M0, &shape, &vec![random.below(200) as u8; count]),
            other => panic!("a model has inputs of {other}"),
        }
    };
    required.map(tensor).collect()
}

/// Exactly equal, but for reals that may have been added up in another order.
fn assert_same(name: &str, batched: &Tensor, alone: &Tensor) {
    assert_eq!((&batched.name, &batched.shape, batched.dtype), (&alone.name, &alone.shape, alone.dtype));
    if batched.bytes() != alone.bytes() {
        for (a, b) in batched.f32s().iter().zip(alone.f32s()) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{name}: {a} in a batch, {b} alone");
        }
    }
}

#[test]
fn every_batched_model_answers_in_a_batch_as_it_does_alone() {
    let (engine, mut random) = (batching_engine(), Random::new(4));
    let mut batched: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(root().join("tests/models")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        // Those in tests/onnx_types.rs and in tests/c/hostile.c are for other things.
        let elsewhere = ["identity_", "hostile_"].iter().any(|start| name.starts_with(start));
        if path.extension().is_none_or(|end| end != "onnx") || elsewhere {
            continue;
        }
        let model = try_load(&engine, &name).unwrap();
        if !is_batched(&engine, model) {
            continue;
        }
        let info = info(&engine, model);
        let requests: Vec<Vec<Tensor>> =
            [1, 2, 1, 5, 1, 3].iter().map(|&rows| made_up(&info, rows, &mut random)).collect();
        for (answer, inputs) in run_together(&engine, model, &requests).iter().zip(&requests) {
            assert_eq!(answer.batch_rows, 13, "{name}");
            let alone = run(&engine, model, inputs);
            assert_eq!(answer.outputs.len(), alone.len());
            answer.outputs.iter().zip(&alone).for_each(|(batched, alone)| assert_same(&name, batched, alone));
        }
        batched.push(name);
    }
    batched.sort();
    assert_eq!(batched, BATCHED);
}

#[test]
fn lanes_and_many_requests_do_not_mix_answers_up() {
    let engine = threaded_engine();
    let lanes = json!({"name": "m", "path": model_path("axis_named_batch"), "lanes": 2});
    let model = load_json(&engine, lanes).unwrap();
    let request = |index: u16| {
        let features = 1 + index % 3;
        vec![f32s(&[1, features.into()], &vec![index.into(); features.into()])]
    };
    let requests: Vec<Vec<Tensor>> = (0..3000).map(request).collect();
    for (answer, inputs) in run_together(&engine, model, &requests).iter().zip(&requests) {
        let doubled: Vec<f32> = inputs[0].f32s().iter().map(|x| 2.0 * x).collect();
        assert_eq!(answer.outputs, [f32s(&inputs[0].shape, &doubled).named("y")]);
    }
}
