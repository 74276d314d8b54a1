//! Batches, as hosts see them: requests of many shapes and sizes, padded and trimmed, joined and run again, and what
//! stays of them for as long as somebody holds an event.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unsafe_code)] // output buffers are the host's promise

mod common;

use blaze::clock::now_ns;
use blaze::engine::{Engine, Event, ModelId, OutputBuffer, OutputData, Queue, RequestDescription};
use blaze::error::{Error, Status};
use blaze::tensor::{CallerBuffer, DType};
use common::{
    A_MINUTE, Answer, Random, Tensor, batching_engine, bytes, engine, f32s, i64s, is_batched, load,
    load_json, model_path, must_end, next_event, request, run, run_together, threaded_engine, try_run,
};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Loads a mock model; `config` has what is not the default.
fn load_mock(engine: &Engine, name: &str, config: Value) -> ModelId {
    try_load_mock(engine, name, config).unwrap_or_else(|error| panic!("{error}"))
}

fn try_load_mock(engine: &Engine, name: &str, mut config: Value) -> Result<ModelId, Error> {
    config["name"] = name.into();
    config["backend"] = "mock".into();
    load_json(engine, config)
}

/// A mock model of one input and one output of these dimensions.
fn load_shaped(engine: &Engine, name: &str, dims: Value, batching: Value, latency_us: u64) -> ModelId {
    let mock = json!({
        "inputs": [{"name": "x", "shape": dims}], "outputs": [{"name": "y", "shape": dims}],
        "latency_us": latency_us,
    });
    load_mock(engine, name, json!({"batching": batching, "mock": mock}))
}

/// A tensor whose elements are `first`, `first + 1`, …
fn counting(shape: &[i64], first: usize) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    f32s(shape, &(first..first + count).map(|value| value as f32).collect::<Vec<_>>())
}

/// What `affine` makes of `x`.
fn affine(x: &Tensor) -> Tensor {
    f32s(&x.shape, &x.f32s().iter().map(|x| 2.0 * x + 1.0).collect::<Vec<_>>()).named("y")
}

fn submit(engine: &Engine, model: ModelId, queue: &Queue, inputs: &[Tensor], user_data: u64) -> u64 {
    engine.submit(RequestDescription { user_data, ..request(model, inputs) }, queue).unwrap()
}

/// Submits all of them, and returns their answers in the same order; the host's threads work, if the engine has none.
fn all_answers(engine: &Engine, model: ModelId, inputs: &[Tensor]) -> Vec<Answer> {
    let queue = engine.create_queue(inputs.len() as u32).unwrap();
    for (index, input) in inputs.iter().enumerate() {
        submit(engine, model, &queue, std::slice::from_ref(input), index as u64);
    }
    let mut answers: Vec<Answer> = inputs.iter().map(|_| next_event(&queue)).collect();
    answers.sort_by_key(|answer| answer.user_data);
    answers
}

/// All of them are answered with 2x + 1, each of its own shape.
fn assert_affine(engine: &Engine, model: ModelId, inputs: &[Tensor]) {
    for (answer, input) in all_answers(engine, model, inputs).iter().zip(inputs) {
        assert_eq!(answer.status, Status::Ok, "{:?}: {:?}", input.shape, answer.text);
        assert_eq!(answer.outputs, [affine(input)]);
    }
}

fn batches_and_rows(engine: &Engine) -> (u64, u64) {
    let metrics = engine.metrics();
    (metrics.batches, metrics.rows)
}

fn with_outputs<'a>(
    model: ModelId,
    inputs: &'a [Tensor],
    buffers: &'a mut [Vec<u8>],
) -> RequestDescription<'a> {
    let buffer = |bytes: &'a mut Vec<u8>| {
        // SAFETY: the tests keep the buffers until the engine is gone.
        let buffer = unsafe { CallerBuffer::new(bytes.as_mut_ptr(), bytes.len()) };
        OutputBuffer { name: None, dtype: DType::F32, data: OutputData::Host(buffer) }
    };
    RequestDescription { outputs: buffers.iter_mut().map(buffer).collect(), ..request(model, inputs) }
}

// ---- buckets of rows

#[test]
fn buckets_must_rise_to_max_rows() {
    let engine = batching_engine();
    let error = |buckets: Value| {
        try_load_mock(&engine, "m", json!({"batching": {"max_rows": 8, "buckets": buckets}})).unwrap_err()
    };
    for buckets in [json!([4]), json!([4, 16]), json!([0, 8]), json!([8, 4]), json!([4, 4, 8])] {
        let error = error(buckets);
        assert_eq!(error.status, Status::InvalidConfig);
        assert!(error.message.contains("batching.buckets"), "{}", error.message);
    }
    assert_eq!(error(json!("8")).status, Status::InvalidConfig);
}

#[test]
fn rows_are_padded_to_buckets_and_nobody_sees_it() {
    let engine = batching_engine();
    let model = load_mock(&engine, "m", json!({"batching": {"max_rows": 8, "buckets": [3, 8]}}));
    for count in [1, 2, 3, 4, 7, 8, 9, 17] {
        let inputs: Vec<Tensor> = (0..count).map(|index| counting(&[1, 4], 100 * index)).collect();
        assert_affine(&engine, model, &inputs);
    }
    assert_eq!(batches_and_rows(&engine).1, 1 + 2 + 3 + 4 + 7 + 8 + 9 + 17); // requests' rows only
}

#[test]
fn a_real_model_runs_in_buckets() {
    let engine = batching_engine();
    let config = json!({"name": "m", "path": model_path("two_in_two_out"), "batching": {"max_rows": 8, "buckets": [4, 8]}});
    let model = load_json(&engine, config).unwrap();
    assert!(is_batched(&engine, model));
    let requests: Vec<Vec<Tensor>> = (1..4)
        .map(|rows: usize| {
            let size = common::info(&engine, model)["inputs"][0]["shape"][1].as_i64().unwrap_or(3);
            vec![counting(&[rows as i64, size], 10 * rows), counting(&[rows as i64, size], 7 * rows)]
        })
        .collect();
    for (answer, inputs) in run_together(&engine, model, &requests).iter().zip(&requests) {
        let pairs = || inputs[0].f32s().into_iter().zip(inputs[1].f32s());
        assert_eq!(answer.outputs[0].f32s(), pairs().map(|(a, b)| a + b).collect::<Vec<_>>());
        assert_eq!(answer.outputs[1].f32s(), pairs().map(|(a, b)| a * b).collect::<Vec<_>>());
        assert_eq!([&answer.outputs[0].shape, &answer.outputs[1].shape], [&inputs[0].shape; 2]);
    }
}

// ---- padded axes

#[test]
fn an_axis_that_no_input_has_is_refused_at_load() {
    let engine = batching_engine();
    let load = |axes: Value| {
        let mock = json!({"inputs": [{"name": "x", "shape": ["batch", "seq"]}], "outputs": [{"name": "y", "shape": ["batch", "seq"]}]});
        try_load_mock(&engine, "m", json!({"batching": {"axes": axes}, "mock": mock}))
    };
    for name in ["other", "batch", ""] {
        let error = load(json!({name: {"buckets": [4]}})).unwrap_err();
        assert_eq!(error.status, Status::InvalidConfig);
        assert!(error.message.contains(&format!("batching.axes.{name}")), "{}", error.message);
    }
    for buckets in [json!([]), json!([0]), json!([4, 4]), json!([8, 4])] {
        assert_eq!(load(json!({"seq": {"buckets": buckets}})).unwrap_err().status, Status::InvalidConfig);
    }
    load(json!({"seq": {"buckets": [4]}})).unwrap();
}

#[test]
fn padded_axes_are_trimmed_to_each_requests_own_size() {
    let engine = batching_engine();
    let batching = json!({"axes": {"seq": {"buckets": [4, 8]}}});
    let model = load_shaped(&engine, "m", json!(["batch", "seq"]), batching, 0);
    let inputs: Vec<Tensor> = (1..=8)
        .flat_map(|size| (1..4).map(move |rows| counting(&[rows, size], 100 * size as usize)))
        .collect();
    assert_affine(&engine, model, &inputs);
    assert_eq!(engine.metrics().batches, 2); // one for each bucket
}

#[test]
fn several_axes_are_padded_at_once_also_outer_ones() {
    let engine = batching_engine();
    let batching = json!({"axes": {"h": {"buckets": [2, 5]}, "w": {"buckets": [3, 4]}}});
    let model = load_shaped(&engine, "m", json!(["batch", "h", 2, "w"]), batching, 0);
    let mut inputs = Vec::new();
    for rows in 1..4 {
        for h in 1..=5 {
            inputs.extend((1..=4).map(|w| counting(&[rows, h, 2, w], (100 * h + w) as usize)));
        }
    }
    assert_affine(&engine, model, &inputs);
    assert_eq!(engine.metrics().batches, 4);
}

#[test]
fn padding_is_zeros_whatever_was_there_before() {
    let engine = batching_engine();
    // The output has the padded size as its fixed one, so what the model was given can be seen.
    let mock = json!({
        "inputs": [{"name": "x", "shape": ["batch", "seq"]}], "outputs": [{"name": "y", "shape": ["batch", 4]}],
    });
    let config = json!({"batching": {"axes": {"seq": {"buckets": [4]}}}, "mock": mock});
    let model = load_mock(&engine, "m", config);
    let full = f32s(&[2, 4], &[9.0; 8]);
    assert_eq!(run(&engine, model, std::slice::from_ref(&full))[0].f32s(), [19.0; 8]);
    let short = f32s(&[2, 1], &[5.0, 6.0]);
    let seen = run(&engine, model, std::slice::from_ref(&short))[0].f32s();
    assert_eq!(seen, [11.0, 1.0, 1.0, 1.0, 13.0, 1.0, 1.0, 1.0]);
}

#[test]
fn a_size_over_the_largest_bucket_is_refused_by_the_axis_name() {
    let engine = batching_engine();
    let batching = json!({"axes": {"seq": {"buckets": [4, 8]}}});
    let model = load_shaped(&engine, "m", json!(["batch", "seq"]), batching, 0);
    let queue = engine.create_queue(4).unwrap();
    let input = [counting(&[1, 9], 0)];
    let errors = [
        engine.submit(request(model, &input), &queue).unwrap_err(),
        try_run(&engine, model, &input).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.status, Status::InvalidShape);
        assert!(error.message.contains("\"seq\""), "{}", error.message);
    }
    assert_affine(&engine, model, &[counting(&[1, 8], 0)]);
    assert_eq!((engine.metrics().in_flight, queue.is_busy()), (0, false));
}

#[test]
fn an_axis_of_size_zero_is_padded_too() {
    let engine = batching_engine();
    let batching = json!({"axes": {"h": {"buckets": [2]}, "w": {"buckets": [2]}}});
    let model = load_shaped(&engine, "m", json!(["batch", "h", "w"]), batching, 0);
    assert_affine(
        &engine,
        model,
        &[counting(&[2, 0, 2], 0), counting(&[2, 2, 0], 0), counting(&[1, 0, 1], 0), counting(&[2, 2, 1], 5)],
    );
}

#[test]
fn padded_outputs_go_trimmed_to_the_callers_buffers() {
    let engine = batching_engine();
    let batching = json!({"axes": {"seq": {"buckets": [8]}}});
    let model = load_shaped(&engine, "m", json!(["batch", "seq"]), batching, 0);
    let queue = engine.create_queue(4).unwrap();
    let inputs = [[counting(&[3, 5], 0)], [counting(&[2, 3], 50)]];
    let mut buffers = [vec![vec![7u8; 3 * 5 * 4]], vec![vec![7u8; 2 * 3 * 4]]];
    for (inputs, buffers) in inputs.iter().zip(&mut buffers) {
        engine.submit(with_outputs(model, inputs, buffers), &queue).unwrap();
    }
    for (inputs, buffers) in inputs.iter().zip(&buffers) {
        let answer = next_event(&queue);
        assert_eq!((answer.status, answer.text), (Status::Ok, None));
        assert_eq!(answer.outputs, [affine(&inputs[0])]);
        assert_eq!(buffers[0], affine(&inputs[0]).bytes());
    }
}

#[test]
fn padding_works_without_joining_too() {
    let engine = batching_engine();
    let batching = json!({"max_rows": 1, "axes": {"seq": {"buckets": [4, 8]}}});
    let model = load_shaped(&engine, "m", json!(["batch", "seq"]), batching, 0);
    let inputs: Vec<Tensor> = (1..=8).map(|size| counting(&[1 + size % 3, size], 10)).collect();
    assert_affine(&engine, model, &inputs);
}

#[test]
fn rows_beyond_max_rows_are_padded_too() {
    let engine = batching_engine();
    let batching = json!({"max_rows": 4, "axes": {"seq": {"buckets": [4]}}});
    let model = load_shaped(&engine, "m", json!(["batch", "seq"]), batching, 0);
    assert_affine(&engine, model, &[counting(&[9, 3], 0), counting(&[2, 3], 0), counting(&[9, 4], 0)]);
}

#[test]
fn a_real_model_is_padded_and_trimmed() {
    let engine = batching_engine();
    let info = {
        let model = load(&engine, "axis_named_batch");
        common::info(&engine, model)
    };
    let name = info["inputs"][0]["shape"][1].as_str().expect("a symbolic axis").to_owned();
    let config = json!({
        "name": "padded", "path": model_path("axis_named_batch"), "batching": {"axes": {name: {"buckets": [4, 9]}}},
    });
    let model = load_json(&engine, config).unwrap();
    let inputs: Vec<Tensor> =
        (1..=9).map(|size| counting(&[1 + size % 3, size], 10 * size as usize)).collect();
    for (answer, input) in all_answers(&engine, model, &inputs).iter().zip(&inputs) {
        assert_eq!(answer.status, Status::Ok, "{:?}", answer.text);
        assert_eq!(answer.outputs[0].shape, input.shape);
        assert_eq!(answer.outputs[0].f32s(), input.f32s().iter().map(|x| 2.0 * x).collect::<Vec<_>>());
    }
}

/// The declared shape of `y` says that it is as long as `z`, and it is not.
#[test]
fn an_output_that_is_not_as_long_as_its_padded_axis_harms_nobody() {
    must_end("a lying model", || {
        let engine = threaded_engine();
        let mock = json!({
            "inputs": [{"name": "x", "shape": ["batch", "a"]}, {"name": "z", "shape": ["batch", "b"]}],
            "outputs": [{"name": "y", "shape": ["batch", "b"]}, {"name": "w", "shape": ["batch", "unknown"]}],
        });
        let axes = json!({"b": {"buckets": [8]}});
        let model = load_mock(&engine, "m", json!({"batching": {"axes": axes}, "mock": mock}));
        let queue = engine.create_queue(4).unwrap();
        for _ in 0..2 {
            submit(&engine, model, &queue, &[counting(&[3, 2], 0), counting(&[3, 7], 0)], 0);
            let mut events = 0;
            queue.wait(1, 5_000_000_000, |event| {
                events += 1;
                drop(event);
            });
            assert_eq!(events, 1, "an event comes, whatever it says");
        }
    });
}

// ---- many shapes

#[test]
fn more_shapes_than_are_remembered_are_all_answered() {
    must_end("many shapes", || {
        for engine in [threaded_engine(), batching_engine()] {
            let model = load_shaped(&engine, "m", json!(["batch", "n"]), json!({}), 0);
            for round in 0..3 {
                let inputs: Vec<Tensor> = (1..=150).map(|n| counting(&[1 + n % 3, n], round)).collect();
                assert_affine(&engine, model, &inputs);
            }
        }
    });
}

#[test]
fn infer_answers_more_shapes_than_are_remembered() {
    must_end("many shapes", || {
        let engine = threaded_engine();
        let model = load_shaped(&engine, "m", json!(["batch", "n"]), json!({}), 0);
        std::thread::scope(|scope| {
            for first in 0..4 {
                let engine = &engine;
                scope.spawn(move || {
                    for n in (1..=160).map(|n| 1 + (n + 40 * first) % 160) {
                        let input = counting(&[2, n], n as usize);
                        assert_eq!(run(engine, model, std::slice::from_ref(&input)), [affine(&input)]);
                    }
                });
            }
        });
    });
}

#[test]
fn no_shape_starves_beside_another_that_never_stops() {
    must_end("starving", || {
        let engine = threaded_engine();
        let model = load_shaped(&engine, "m", json!(["batch", "n"]), json!({"max_rows": 4}), 200);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let queue = engine.create_queue(64).unwrap();
                    let input = [counting(&[1, 1], 0)];
                    let mut outstanding = 0;
                    while !over.load(Ordering::Acquire) {
                        while outstanding < 64 {
                            submit(&engine, model, &queue, &input, 0);
                            outstanding += 1;
                        }
                        outstanding -= queue.wait(64, A_MINUTE, drop);
                    }
                    while outstanding > 0 {
                        outstanding -= queue.wait(64, A_MINUTE, drop);
                    }
                });
            }
            let inputs: Vec<Tensor> = (2..=100).map(|n| counting(&[1, n], n as usize)).collect();
            assert_affine(&engine, model, &inputs);
            over.store(true, Ordering::Release);
        });
    });
}

#[test]
fn requests_of_several_rows_share_batches() {
    let engine = batching_engine();
    let model = load_mock(&engine, "m", json!({"batching": {"max_rows": 16}}));
    let mut random = Random::new(3);
    for _ in 0..50 {
        let inputs: Vec<Tensor> =
            (0..40).map(|index| counting(&[1 + random.below(16) as i64, 4], 100 * index)).collect();
        assert_affine(&engine, model, &inputs);
    }
}

#[test]
fn more_rows_than_max_rows_run_alone() {
    let engine = batching_engine();
    let model = load_mock(&engine, "m", json!({"batching": {"max_rows": 4}}));
    let inputs: Vec<Tensor> = (1..=90).map(|rows| counting(&[rows, 4], 7)).collect();
    assert_affine(&engine, model, &inputs);
}

#[test]
fn a_real_model_with_outputs_of_unknown_shape_answers_right() {
    let engine = batching_engine();
    let model = load(&engine, "nonzero");
    let inputs: Vec<Tensor> = (1..=3).map(|n| f32s(&[n], &vec![1.0; n as usize])).collect();
    let fits = common::info(&engine, model)["inputs"][0]["shape"].as_array().unwrap().len() == 1;
    if fits {
        for (answer, input) in all_answers(&engine, model, &inputs).iter().zip(&inputs) {
            let want = i64s(&[1, input.shape[0]], &(0..input.shape[0]).collect::<Vec<_>>()).named("y");
            assert_eq!(answer.outputs, [want]);
        }
    }
}

/// The second output's size is not that of any input: the backend makes the outputs.
#[test]
fn outputs_of_unknown_sizes_are_split_by_rows_and_trimmed() {
    let engine = batching_engine();
    let mock = json!({
        "inputs": [{"name": "x", "shape": ["batch", "seq"]}],
        "outputs": [{"name": "y", "shape": ["batch", "seq"]}, {"name": "w", "shape": ["batch", "unknown"]}],
    });
    for axes in [json!({}), json!({"seq": {"buckets": [4, 8]}})] {
        let name = axes.to_string().replace(['"', ':'], "");
        let padded = axes != json!({});
        let model = load_mock(&engine, &name, json!({"batching": {"axes": axes}, "mock": mock}));
        let inputs: Vec<Tensor> =
            (1..=12).map(|n| counting(&[1 + n % 3, 1 + n % 8], 10 * n as usize)).collect();
        for (answer, input) in all_answers(&engine, model, &inputs).iter().zip(&inputs) {
            assert_eq!(answer.status, Status::Ok, "{:?}", answer.text);
            assert_eq!(answer.outputs[0], affine(input));
            let size = match input.shape[1] {
                size if !padded => size,
                ..=4 => 4,
                _ => 8,
            };
            assert_eq!(answer.outputs[1].shape, [input.shape[0], size]);
        }
    }
}

// ---- priorities and deadlines

/// The order in which requests of these levels are answered, submitted in this order, each alone in its batch.
fn order(aging_ms: u32, levels: &[usize], pause_ms: u64) -> Vec<usize> {
    let engine = batching_engine();
    let config = json!({"batching": {"max_rows": 1, "priority_aging_ms": aging_ms}});
    let (model, queue) = (load_mock(&engine, "m", config), engine.create_queue(64).unwrap());
    let input = [counting(&[1, 4], 0)];
    for (index, &level) in levels.iter().enumerate() {
        let description = RequestDescription { level, user_data: index as u64, ..request(model, &input) };
        engine.submit(description, &queue).unwrap();
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    levels.iter().map(|_| next_event(&queue).user_data as usize).collect()
}

#[test]
fn the_most_urgent_goes_first_and_equals_in_their_order() {
    assert_eq!(order(10_000, &[0, 1, 2, 3, 3, 2, 1, 0], 0), [3, 4, 2, 5, 1, 6, 0, 7]);
}

#[test]
fn what_has_waited_for_long_goes_before_what_is_urgent() {
    assert_eq!(order(1, &[0, 1, 2, 3], 20), [0, 1, 2, 3]);
}

#[test]
fn the_lowest_priority_is_answered_under_a_stream_of_the_highest() {
    must_end("starving", || {
        let engine = threaded_engine();
        let config =
            json!({"batching": {"max_rows": 2, "priority_aging_ms": 20}, "mock": {"latency_us": 300}});
        let model = load_mock(&engine, "m", config);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let queue = engine.create_queue(32).unwrap();
                let input = [counting(&[1, 4], 0)];
                let mut outstanding = 0;
                while !over.load(Ordering::Acquire) {
                    while outstanding < 32 {
                        engine
                            .submit(RequestDescription { level: 3, ..request(model, &input) }, &queue)
                            .unwrap();
                        outstanding += 1;
                    }
                    outstanding -= queue.wait(32, A_MINUTE, drop);
                }
                while outstanding > 0 {
                    outstanding -= queue.wait(32, A_MINUTE, drop);
                }
            });
            let queue = engine.create_queue(1).unwrap();
            let input = [counting(&[1, 4], 0)];
            for _ in 0..5 {
                engine.submit(RequestDescription { level: 0, ..request(model, &input) }, &queue).unwrap();
                assert_eq!(next_event(&queue).status, Status::Ok);
            }
            over.store(true, Ordering::Release);
        });
    });
}

#[test]
fn requests_expire_in_the_queue_and_in_the_run_and_leave_the_others_alone() {
    must_end("expiring", || {
        let engine = threaded_engine();
        let model =
            load_mock(&engine, "m", json!({"batching": {"max_rows": 4}, "mock": {"latency_us": 50_000}}));
        let queue = engine.create_queue(64).unwrap();
        let input = [counting(&[1, 4], 0)];
        let submit = |user_data: u64, after_ms: u64| {
            let deadline_ns = if after_ms == 0 { 0 } else { now_ns() + 1_000_000 * after_ms };
            engine
                .submit(RequestDescription { user_data, deadline_ns, ..request(model, &input) }, &queue)
                .unwrap();
        };
        submit(0, 20); // expires in its run, alone, which is interrupted
        std::thread::sleep(Duration::from_millis(5));
        for user_data in 1..=4 {
            submit(user_data, if user_data == 2 { 40 } else { 0 }); // in the run
        }
        submit(5, 10); // in the queue
        submit(6, 0);
        let mut answers: Vec<Answer> = (0..7).map(|_| next_event(&queue)).collect();
        answers.sort_by_key(|answer| answer.user_data);
        for answer in &answers {
            let late = [0, 2, 5].contains(&answer.user_data);
            assert_eq!(
                answer.status,
                if late { Status::Expired } else { Status::Ok },
                "{}",
                answer.user_data
            );
            assert_eq!(answer.outputs, if late { vec![] } else { vec![affine(&input[0])] });
        }
    });
}

#[test]
fn cancelled_rows_are_left_out_of_the_run() {
    let engine = batching_engine();
    let (model, queue) = (load_mock(&engine, "m", json!({})), engine.create_queue(64).unwrap());
    let inputs: Vec<Tensor> =
        (0..20).map(|index| counting(&[1 + index % 3, 4], 100 * index as usize)).collect();
    let tickets: Vec<u64> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| submit(&engine, model, &queue, std::slice::from_ref(input), index as u64))
        .collect();
    let kept = |index: usize| index % 4 == 3;
    for (index, &ticket) in tickets.iter().enumerate().filter(|(index, _)| !kept(*index)) {
        engine.cancel(ticket).unwrap_or_else(|error| panic!("{index}: {error}"));
        assert_eq!(engine.cancel(ticket).unwrap_err().status, Status::NotFound);
    }
    for _ in &tickets {
        let answer = next_event(&queue);
        let index = answer.user_data as usize;
        match kept(index) {
            true => assert_eq!((answer.status, answer.outputs), (Status::Ok, vec![affine(&inputs[index])])),
            false => assert_eq!((answer.status, answer.outputs), (Status::Cancelled, vec![])),
        }
    }
    let rows: i64 = (0..20).filter(|&index| kept(index)).map(|index| inputs[index].shape[0]).sum();
    assert_eq!(batches_and_rows(&engine), (1, rows as u64));
    assert!(!queue.is_busy());
}

// ---- failures

#[test]
fn after_a_joined_run_has_failed_each_request_has_its_own_end() {
    let engine = batching_engine();
    // Run 0 is the joined one; runs 1 to 6 are the requests', of which the third and the fifth fail.
    let faults = json!([
        {"kind": "error", "count": 1}, {"kind": "error", "after": 3, "count": 1},
        {"kind": "out_of_memory", "after": 5, "count": 1},
    ]);
    let (model, queue) =
        (load_mock(&engine, "m", json!({"mock": {"faults": faults}})), engine.create_queue(64).unwrap());
    let inputs: Vec<Tensor> =
        (0..6).map(|index| counting(&[1 + index % 3, 4], 100 * index as usize)).collect();
    let answers = |queue: &Queue| {
        let mut answers: Vec<Answer> = (0..6).map(|_| next_event(queue)).collect();
        answers.sort_by_key(|answer| answer.user_data);
        answers
    };
    for (index, input) in inputs.iter().enumerate() {
        submit(&engine, model, &queue, std::slice::from_ref(input), index as u64);
    }
    for (index, answer) in answers(&queue).into_iter().enumerate() {
        match index {
            2 => {
                assert_eq!(answer.status, Status::BackendFailed);
                assert!(answer.text.unwrap().contains("run 3"));
            }
            4 => {
                assert_eq!(answer.status, Status::OutOfMemory);
                assert!(answer.text.unwrap().contains("run 5"));
            }
            _ => {
                assert_eq!((answer.status, answer.text), (Status::Ok, None));
                assert_eq!(answer.outputs, [affine(&inputs[index])]);
            }
        }
    }
    // Nothing of that is left when the batch is used again.
    for (index, input) in inputs.iter().enumerate() {
        submit(&engine, model, &queue, std::slice::from_ref(input), index as u64);
    }
    for (answer, input) in answers(&queue).into_iter().zip(&inputs) {
        assert_eq!((answer.status, answer.text, answer.outputs), (Status::Ok, None, vec![affine(input)]));
    }
}

#[test]
fn a_run_again_keeps_paddings_and_caller_buffers_right() {
    let engine = batching_engine();
    let mock = json!({
        "inputs": [{"name": "x", "shape": ["batch", "seq"]}], "outputs": [{"name": "y", "shape": ["batch", "seq"]}],
        "faults": [{"kind": "error", "count": 1}],
    });
    let config = json!({"batching": {"max_rows": 16, "buckets": [4, 16], "axes": {"seq": {"buckets": [8]}}}, "mock": mock});
    let (model, queue) = (load_mock(&engine, "m", config), engine.create_queue(8).unwrap());
    let inputs: Vec<[Tensor; 1]> = (1..=4).map(|n| [counting(&[n, 2 * n - 1], 50 * n as usize)]).collect();
    let mut buffers: Vec<Vec<Vec<u8>>> =
        inputs.iter().map(|input| vec![vec![0; input[0].bytes().len()]]).collect();
    for (index, (input, buffers)) in inputs.iter().zip(&mut buffers).enumerate() {
        let description =
            RequestDescription { user_data: index as u64, ..with_outputs(model, input, buffers) };
        engine.submit(description, &queue).unwrap();
    }
    for _ in &inputs {
        let answer = next_event(&queue);
        let index = answer.user_data as usize;
        assert_eq!((answer.status, answer.text), (Status::Ok, None));
        assert_eq!(answer.outputs, [affine(&inputs[index][0])]);
        assert_eq!(buffers[index][0], affine(&inputs[index][0]).bytes());
    }
}

#[test]
fn a_buffer_that_is_too_small_fails_its_own_request_only() {
    let engine = batching_engine();
    let (model, queue) = (load_mock(&engine, "m", json!({})), engine.create_queue(8).unwrap());
    let inputs: Vec<[Tensor; 1]> = (1..=4).map(|n| [counting(&[n, 4], 50 * n as usize)]).collect();
    let sizes = [16, 31, 49, 0];
    let mut buffers: Vec<Vec<Vec<u8>>> = sizes.iter().map(|&size| vec![vec![0; size]]).collect();
    for (index, (input, buffers)) in inputs.iter().zip(&mut buffers).enumerate() {
        let description = match index {
            3 => request(model, input), // brings none
            _ => with_outputs(model, input, buffers),
        };
        engine.submit(RequestDescription { user_data: index as u64, ..description }, &queue).unwrap();
    }
    for _ in &inputs {
        let answer = next_event(&queue);
        let index = answer.user_data as usize;
        if index == 1 {
            assert_eq!((answer.status, answer.outputs.len()), (Status::BufferTooSmall, 0));
            assert!(answer.text.unwrap().contains("32 bytes"));
            continue;
        }
        assert_eq!(answer.status, Status::Ok);
        let want = affine(&inputs[index][0]);
        assert!(index == 3 || buffers[index][0].starts_with(want.bytes()));
        assert_eq!(answer.outputs, [want]);
    }
    assert_eq!((engine.metrics().failed, engine.metrics().ok), (1, 3));
    assert_eq!(engine.metrics().batches, 1);
}

// ---- events and queues

/// Takes the next event without copying it.
fn take(queue: &Queue) -> Event {
    let mut taken = None;
    queue.wait(1, A_MINUTE, |event| taken = Some(event));
    taken.expect("an event comes")
}

#[test]
fn what_an_event_shows_stays_while_batches_are_used_again() {
    let engine = batching_engine();
    let (model, queue) =
        (load_mock(&engine, "m", json!({"batching": {"max_rows": 5}})), engine.create_queue(64).unwrap());
    let mut random = Random::new(11);
    let mut held: Vec<(Event, Tensor)> = Vec::new();
    for round in 0..400usize {
        let inputs: Vec<Tensor> = (0..7)
            .map(|index| counting(&[1 + random.below(3) as i64, 4], 16 * (7 * round + index)))
            .collect();
        for (index, input) in inputs.iter().enumerate() {
            submit(&engine, model, &queue, std::slice::from_ref(input), index as u64);
        }
        for _ in &inputs {
            let event = take(&queue);
            let input = inputs[event.user_data as usize].clone();
            held.push((event, input));
        }
        while held.len() > 50 {
            let (event, input) = held.swap_remove(random.below(held.len() as u64) as usize);
            assert_eq!(Answer::from(event).outputs, [affine(&input)]);
        }
    }
    drop(queue);
    drop(engine);
    let (first, second) = held.split_at_mut(25);
    assert_eq!((first.len(), second.len()), (25, 25));
    let half = held.split_off(25);
    std::thread::spawn(move || {
        for (event, input) in half {
            assert_eq!(Answer::from(event).outputs, [affine(&input)]);
        }
    })
    .join()
    .unwrap();
    for (event, input) in held {
        assert_eq!(Answer::from(event).outputs, [affine(&input)]);
    }
}

#[test]
fn a_ticket_of_an_earlier_lap_is_nobodys() {
    let engine = batching_engine();
    let (model, queue) = (load_mock(&engine, "m", json!({})), engine.create_queue(4).unwrap());
    let input = [counting(&[1, 4], 0)];
    let mut old = Vec::new();
    for _ in 0..100 {
        old.push(submit(&engine, model, &queue, &input, 0));
        assert_eq!(take(&queue).status, Status::Ok);
    }
    let now = submit(&engine, model, &queue, &input, 0);
    assert!(!old.contains(&now));
    assert!(old.iter().all(|&ticket| engine.cancel(ticket).unwrap_err().status == Status::NotFound));
    assert_eq!(take(&queue).status, Status::Ok);
}

#[test]
fn an_engine_goes_on_after_a_queue_was_dropped_with_events_outstanding() {
    must_end("a dropped queue", || {
        let engine = engine(json!({"queue": {"capacity": 40}}));
        let model =
            load_mock(&engine, "m", json!({"batching": {"max_rows": 8}, "mock": {"latency_us": 500}}));
        for round in 0..60 {
            let (queue, other) = (engine.create_queue(16).unwrap(), engine.create_queue(16).unwrap());
            let inputs: Vec<Tensor> = (0..16).map(|index| counting(&[1, 4], 10 * index)).collect();
            for input in &inputs {
                submit(&engine, model, &queue, std::slice::from_ref(input), 0);
            }
            for (index, input) in inputs.iter().enumerate() {
                let description = RequestDescription {
                    user_data: index as u64,
                    ..request(model, std::slice::from_ref(input))
                };
                while engine.submit(description_of(&description), &other).is_err() {
                    std::thread::yield_now(); // what the dropped queue had is not gone yet
                }
            }
            (0..round % 5).for_each(|_| drop(take(&queue)));
            drop(queue);
            for _ in &inputs {
                let answer = next_event(&other);
                assert_eq!(answer.outputs, [affine(&inputs[answer.user_data as usize])]);
            }
        }
        while engine.metrics().in_flight > 0 {
            std::thread::yield_now();
        }
    });
}

/// Of a batch whose first events were taken the others are thrown away with the queue.
#[test]
fn a_queue_that_was_polled_in_part_gives_everything_back() {
    let engine = engine(json!({"threads": 0, "queue": {"capacity": 8}}));
    let model = load_mock(&engine, "m", json!({}));
    let input = [counting(&[1, 4], 0)];
    for _ in 0..10 {
        let queue = engine.create_queue(8).unwrap();
        for _ in 0..8 {
            submit(&engine, model, &queue, &input, 0);
        }
        drop(take(&queue));
        drop(queue);
    }
    assert_eq!(engine.metrics().in_flight, 0);
}

/// The same description again.
fn description_of<'a>(description: &RequestDescription<'a>) -> RequestDescription<'a> {
    let input = |input: &blaze::engine::InputTensor<'a>| {
        let blaze::engine::InputData::Copy(bytes) = &input.data else { panic!("only what is copied") };
        blaze::engine::InputTensor { data: blaze::engine::InputData::Copy(bytes), ..*input }
    };
    RequestDescription {
        model: description.model,
        level: description.level,
        deadline_ns: description.deadline_ns,
        user_data: description.user_data,
        inputs: description.inputs.iter().map(input).collect(),
        outputs: Default::default(),
        ..Default::default()
    }
}

#[test]
fn capacities_are_exact() {
    let engine = engine(json!({"threads": 0, "queue": {"capacity": 10}}));
    let model = load_mock(&engine, "m", json!({"batching": {"max_rows": 3}}));
    let (large, small) = (engine.create_queue(20).unwrap(), engine.create_queue(4).unwrap());
    let input = [counting(&[1, 4], 0)];
    let try_submit =
        |queue: &Queue| engine.submit(request(model, &input), queue).map_err(|error| error.status);
    for _ in 0..20 {
        for _ in 0..4 {
            try_submit(&small).unwrap();
        }
        assert_eq!(try_submit(&small), Err(Status::QueueFull));
        for _ in 0..6 {
            try_submit(&large).unwrap();
        }
        assert_eq!(try_submit(&large), Err(Status::QueueFull));
        let mut events: Vec<Event> = (0..6).map(|_| take(&large)).collect();
        assert_eq!(try_submit(&large), Err(Status::QueueFull)); // they are not released
        for _ in 0..6 {
            events.pop();
            try_submit(&large).unwrap();
            assert_eq!(try_submit(&large), Err(Status::QueueFull));
        }
        (0..6).for_each(|_| drop(take(&large)));
        (0..4).for_each(|_| drop(take(&small)));
        assert!(!large.is_busy() && !small.is_busy());
    }
}

/// Cancelled, expired, failed and refused requests give their place back too.
#[test]
fn every_end_gives_the_place_back() {
    let engine = engine(json!({"threads": 0, "queue": {"capacity": 8}}));
    let model = load_mock(&engine, "m", json!({"mock": {"faults": [{"kind": "error", "every": 3}]}}));
    let queue = engine.create_queue(8).unwrap();
    let input = [counting(&[1, 4], 0)];
    for round in 0..60u64 {
        let tickets: Vec<u64> = (0..8)
            .map(|index| {
                let deadline_ns = if index % 4 == 1 { 1 } else { 0 };
                engine.submit(RequestDescription { deadline_ns, ..request(model, &input) }, &queue).unwrap()
            })
            .collect();
        assert_eq!(engine.submit(request(model, &input), &queue).unwrap_err().status, Status::QueueFull);
        if round % 2 == 0 {
            let _ = engine.cancel(tickets[2]);
        }
        assert!(try_run(&engine, model, &input).is_err()); // no place for it either
        (0..8).for_each(|_| drop(take(&queue)));
    }
    assert!(!queue.is_busy());
}

// ---- many threads and models

#[test]
fn several_lanes_answer_everything() {
    must_end("several lanes", || {
        let engine = engine(json!({"threads": 4}));
        let config = json!({"lanes": 4, "batching": {"max_rows": 8}, "mock": {"latency_us": 100}});
        let model = load_mock(&engine, "m", config);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let engine = &engine;
                scope.spawn(move || {
                    for round in 0..20 {
                        let inputs: Vec<Tensor> = (0..50)
                            .map(|index| counting(&[1 + index % 3, 4], (1000 * thread + 10 * round) as usize))
                            .collect();
                        assert_affine(engine, model, &inputs);
                    }
                });
            }
        });
    });
}

#[test]
fn sixty_four_models_take_turns() {
    must_end("many models", || {
        let engine = threaded_engine();
        let models: Vec<ModelId> = (0..64)
            .map(|index| load_mock(&engine, &format!("m{index}"), json!({"batching": {"max_rows": 4}})))
            .collect();
        let queue = engine.create_queue(1024).unwrap();
        for round in 0..20 {
            let input = [counting(&[2, 4], round)];
            for (index, &model) in models.iter().enumerate() {
                for _ in 0..5 {
                    submit(&engine, model, &queue, &input, index as u64);
                }
            }
            for _ in 0..5 * models.len() {
                let answer = next_event(&queue);
                assert_eq!((answer.status, answer.model), (Status::Ok, models[answer.user_data as usize]));
                assert_eq!(answer.outputs, [affine(&input[0])]);
            }
        }
    });
}

#[test]
fn infer_from_many_threads_on_one_model() {
    must_end("infer", || {
        let engine = threaded_engine();
        let model = load(&engine, "identity_f32");
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let engine = &engine;
                scope.spawn(move || {
                    for round in 0..300 {
                        let input = counting(&[1 + (round % 4) as i64, 4], 1000 * thread + round);
                        let outputs = run(engine, model, std::slice::from_ref(&input));
                        assert_eq!((&outputs[0].shape, outputs[0].f32s()), (&input.shape, input.f32s()));
                    }
                });
            }
        });
    });
}

#[test]
fn models_come_and_go_under_load() {
    must_end("reloading", || {
        let engine = threaded_engine();
        let config = json!({"batching": {"max_rows": 8}});
        let current = AtomicU64::new(load_mock(&engine, "m", config.clone()));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (engine, current, over) = (&engine, &current, &over);
                scope.spawn(move || {
                    let queue = engine.create_queue(32).unwrap();
                    let mut number = 0;
                    let mut outstanding = 0;
                    let check = |event: Event| {
                        let user_data = event.user_data as usize;
                        let answer = Answer::from(event);
                        assert_eq!(answer.status, Status::Ok);
                        assert_eq!(
                            answer.outputs,
                            [affine(&counting(&[1 + (user_data % 3) as i64, 4], user_data))]
                        );
                    };
                    while !over.load(Ordering::Acquire) {
                        let input = [counting(&[1 + (number % 3) as i64, 4], number)];
                        let model = current.load(Ordering::Acquire);
                        let outcome = match thread {
                            3 => engine.infer(request(model, &input), A_MINUTE).map(|event| {
                                assert_eq!(Answer::from(event).outputs, [affine(&input[0])]);
                            }),
                            _ => {
                                let description =
                                    RequestDescription { user_data: number as u64, ..request(model, &input) };
                                engine.submit(description, &queue).map(|_| outstanding += 1)
                            }
                        };
                        if let Err(error) = outcome {
                            assert!([Status::NotFound, Status::QueueFull].contains(&error.status), "{error}");
                            outstanding -= queue.wait(32, 1_000_000, check);
                        }
                        number += 1;
                        outstanding -= queue.poll(4, check);
                    }
                    while outstanding > 0 {
                        outstanding -= queue.wait(32, A_MINUTE, check);
                    }
                });
            }
            for _ in 0..100 {
                engine.unload(current.load(Ordering::Acquire)).unwrap();
                current.store(load_mock(&engine, "m", config.clone()), Ordering::Release);
                std::thread::sleep(Duration::from_millis(1));
            }
            over.store(true, Ordering::Release);
        });
    });
}

/// A call that computes on its own thread is in nobody's way.
#[test]
fn a_shutdown_ends_a_call_that_hangs_in_its_run() {
    must_end("shutdown", || {
        let engine = threaded_engine();
        let model = load_mock(&engine, "m", json!({"mock": {"faults": [{"kind": "hang"}]}}));
        std::thread::scope(|scope| {
            let call = scope
                .spawn(|| engine.infer(request(model, &[counting(&[1, 4], 0)]), u64::MAX).err().unwrap());
            while engine.metrics().in_flight == 0 {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(20));
            engine.shutdown(0);
            assert_eq!(call.join().unwrap().status, Status::ShutDown);
        });
    });
}

#[test]
fn a_call_that_computes_holds_nobody_up_but_its_models_unloading() {
    must_end("infer", || {
        let engine = threaded_engine();
        let model = load_mock(&engine, "m", json!({"mock": {"latency_us": 1_000_000}}));
        let (other, queue) = (load_mock(&engine, "other", json!({})), engine.create_queue(4).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| run(&engine, model, &[counting(&[1, 4], 0)]));
            while engine.metrics().in_flight == 0 {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(20));
            let start = now_ns();
            engine.unload_async(model, &queue).unwrap();
            assert_eq!(engine.find("other").unwrap(), other);
            assert_eq!(engine.health().models_ready, 1);
            run(&engine, other, &[counting(&[1, 4], 0)]);
            assert!(now_ns() - start < 500_000_000, "{} ms", (now_ns() - start) / 1_000_000);
            assert_eq!(next_event(&queue).status, Status::Ok);
        });
    });
}

#[test]
fn small_elements_are_padded_whole() {
    must_end("small elements", || {
        let engine = threaded_engine();
        for (dtype, name) in [(DType::I8, "i8"), (DType::F64, "f64"), (DType::I4, "i4"), (DType::U2, "u2")] {
            let tensor = |tensor: &str| json!({"name": tensor, "dtype": name, "shape": ["batch", "seq"]});
            let mock = json!({"inputs": [tensor("x")], "outputs": [tensor("y")], "compute": "echo"});
            let batching = json!({"axes": {"seq": {"buckets": [8]}}});
            let Ok(model) = try_load_mock(&engine, name, json!({"batching": batching, "mock": mock})) else {
                continue;
            };
            let size = match dtype {
                DType::I8 => 4,
                DType::F64 => 32,
                DType::I4 => 2,
                _ => 1,
            };
            let input: Vec<u8> = (1..=size).collect();
            let input = bytes(dtype, &[1, 4], &input);
            match try_run(&engine, model, std::slice::from_ref(&input)) {
                Ok(outputs) => assert_eq!(outputs, [input.named("y")]),
                Err(error) => {
                    assert!([Status::Unsupported, Status::InvalidShape].contains(&error.status), "{error}")
                }
            }
        }
    });
}

#[test]
fn an_engine_that_is_gone_leaves_nothing_in_a_queue_that_was_polled_in_part() {
    let engine = batching_engine();
    let (model, queue) = (load_mock(&engine, "m", json!({})), engine.create_queue(8).unwrap());
    for index in 0..8 {
        submit(&engine, model, &queue, &[counting(&[1, 4], index)], 0);
    }
    let event = take(&queue);
    drop(engine);
    drop(queue); // what is left is freed, which LeakSanitizer sees
    assert_eq!(Answer::from(event).outputs, [affine(&counting(&[1, 4], 0))]);
}

/// More members than fit into one word of marks, in two queues, some of them cancelled, taken in portions.
#[test]
fn batches_of_thousands_are_answered_in_portions() {
    let engine = batching_engine();
    for (name, max_rows, count) in [("m", 300u32, 300usize), ("large", 65_536, 9_000)] {
        let model = load_mock(&engine, name, json!({"batching": {"max_rows": max_rows}}));
        let queues = [engine.create_queue(10_000).unwrap(), engine.create_queue(10_000).unwrap()];
        for _ in 0..2 {
            let mut cancelled = 0;
            for index in 0..count {
                let input = [counting(&[1, 4], index)];
                let ticket = submit(&engine, model, &queues[index % 3 % 2], &input, index as u64);
                if index % 7 == 3 {
                    engine.cancel(ticket).unwrap();
                    cancelled += 1;
                }
            }
            let mut seen = vec![false; count];
            let mut answered = 0;
            for (number, queue) in queues.iter().enumerate() {
                let mut left = (0..count).filter(|index| index % 3 % 2 == number).count();
                while left > 0 {
                    left -= queue.wait(7, A_MINUTE, |event| {
                        let index = event.user_data as usize;
                        assert!(!std::mem::replace(&mut seen[index], true));
                        assert_eq!(event.status == Status::Cancelled, index % 7 == 3);
                        if event.status == Status::Ok {
                            answered += 1;
                            assert_eq!(Answer::from(event).outputs, [affine(&counting(&[1, 4], index))]);
                        }
                    });
                }
            }
            assert_eq!(answered + cancelled, count);
        }
        assert!(queues.iter().all(|queue| !queue.is_busy()));
    }
    assert_eq!(engine.metrics().in_flight, 0);
}

/// Two queues, caller's buffers, padding, a run that fails and one that fails again, all in one batch, again and again.
#[test]
fn everything_at_once_in_one_batch() {
    let engine = batching_engine();
    let mock = json!({
        "inputs": [{"name": "x", "shape": ["batch", "seq"]}], "outputs": [{"name": "y", "shape": ["batch", "seq"]}],
        "faults": [{"kind": "error", "every": 5}],
    });
    let config = json!({"batching": {"max_rows": 64, "axes": {"seq": {"buckets": [8]}}}, "mock": mock});
    let model = load_mock(&engine, "m", config);
    let queues = [engine.create_queue(64).unwrap(), engine.create_queue(64).unwrap()];
    let mut random = Random::new(17);
    for _ in 0..200 {
        let count = 2 + random.below(10) as usize;
        let inputs: Vec<[Tensor; 1]> = (0..count)
            .map(|index| [counting(&[1 + random.below(3) as i64, 1 + random.below(8) as i64], 50 * index)])
            .collect();
        let mut buffers: Vec<Vec<Vec<u8>>> = inputs
            .iter()
            .map(|input| vec![vec![0; input[0].bytes().len() - 4 * random.below(2) as usize]])
            .collect();
        let gives: Vec<bool> = inputs.iter().map(|_| random.once_in(2)).collect();
        for (index, (input, buffers)) in inputs.iter().zip(&mut buffers).enumerate() {
            let description =
                if gives[index] { with_outputs(model, input, buffers) } else { request(model, input) };
            let description = RequestDescription { user_data: index as u64, ..description };
            let ticket = engine.submit(description, &queues[index % 2]).unwrap();
            if random.once_in(5) {
                engine.cancel(ticket).unwrap();
            }
        }
        for index in 0..count {
            let answer = next_event(&queues[index % 2]);
            let index = answer.user_data as usize;
            let want = affine(&inputs[index][0]);
            let fits = !gives[index] || buffers[index][0].len() == want.bytes().len();
            match answer.status {
                Status::Ok => {
                    assert!(fits && answer.text.is_none());
                    assert!(!gives[index] || buffers[index][0] == want.bytes());
                    assert_eq!(answer.outputs, [want]);
                }
                Status::BufferTooSmall => assert!(!fits),
                Status::BackendFailed => assert!(answer.text.unwrap().contains("injected fault")),
                status => assert_eq!(status, Status::Cancelled),
            }
        }
    }
    assert_eq!(engine.metrics().in_flight, 0);
    assert!(queues.iter().all(|queue| !queue.is_busy()));
}
