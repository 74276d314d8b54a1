//! Models from memory: whatever the bytes are, the load ends with a status, and what was loaded answers or says why not.
//!
//! Half of the mutations keep the protobuf's structure, so that they get past ONNX Runtime's parser.
#![no_main]

use blaze_fuzz::*;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use std::sync::OnceLock;

/// The most a model may have, in elements of one input.
const MOST_ELEMENTS: i64 = 1 << 16;

/// One engine: whatever a model does, the next one must find it well.
fn host() -> *mut blaze_engine {
    static HOST: OnceLock<usize> = OnceLock::new();
    let engine = *HOST.get_or_init(|| {
        let config =
            cr#"{"threads": 1, "memory": {"budget_bytes": 268435456, "pool_bytes": 0, "tune_heap": false}}"#;
        engine(config).expect("an engine") as usize
    });
    engine as *mut blaze_engine
}

/// An input's size: what the model leaves open is 1.
fn shape(input: &serde_json::Value) -> Option<Vec<i64>> {
    let shape: Vec<i64> = input["shape"].as_array()?.iter().map(|size| size.as_i64().unwrap_or(1)).collect();
    let elements = shape.iter().try_fold(1i64, |all, &size| all.checked_mul(size))?;
    (0..=MOST_ELEMENTS).contains(&elements).then_some(shape)
}

/// Zeroes for one request, if the model's inputs are of a size for it.
fn request(info: &serde_json::Value) -> Option<Vec<(u32, Vec<i64>, Vec<u8>)>> {
    let inputs = info["inputs"].as_array()?;
    inputs
        .iter()
        .map(|input| {
            let dtype = blaze::tensor::DType::ALL
                .into_iter()
                .find(|dtype| Some(dtype.name()) == input["dtype"].as_str())
                .filter(|&dtype| dtype != blaze::tensor::DType::String)?;
            let shape = shape(input)?;
            let bytes = blaze::tensor::size_bytes(dtype, &shape).ok()?;
            Some((dtype.code(), shape, vec![0; bytes]))
        })
        .collect()
}

fuzz_target!(|data: &[u8]| {
    let engine = host();
    let config = cr#"{"name": "m", "warmup": false, "recovery": false}"#;
    let (mut model, mut error) = (0, no_error());
    // SAFETY: all pointers are valid during the calls.
    unsafe {
        let status = blaze_model_load_memory(
            engine,
            config.as_ptr(),
            data.as_ptr().cast(),
            data.len(),
            &mut model,
            &mut error,
        );
        check(status, &error);
        if status != BLAZE_STATUS_OK {
            return;
        }
        let info =
            text(|to, room, needed| blaze_model_info(engine, model, to, room, needed)).expect("a text");
        let info = serde_json::from_str(&info).expect("JSON");
        if let Some(inputs) = request(&info) {
            let tensors: Vec<blaze_tensor> = inputs
                .iter()
                .map(|(dtype, shape, data)| {
                    let mut tensor = new_tensor();
                    (tensor.dtype, tensor.shape, tensor.rank) = (*dtype, shape.as_ptr(), shape.len() as u32);
                    (tensor.data, tensor.size_bytes) = (data.as_ptr().cast_mut().cast(), data.len());
                    tensor
                })
                .collect();
            let mut request = new_request();
            request.model = model;
            (request.inputs, request.inputs_count) = (tensors.as_ptr(), tensors.len() as u32);
            // A loop without an end is cut.
            request.deadline_ns = blaze_now_ns() + 300_000_000;
            let mut event = new_event();
            let status = blaze_infer(engine, &request, u64::MAX, &mut event, &mut error);
            check(status, &error);
            if status == BLAZE_STATUS_OK {
                for index in 0..event.outputs_count {
                    let mut view = new_tensor();
                    assert_eq!(blaze_event_output(&event, index, &mut view), BLAZE_STATUS_OK);
                    let bytes = std::slice::from_raw_parts(view.data.cast::<u8>(), view.size_bytes);
                    std::hint::black_box(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
                }
                blaze_event_release(&mut event);
            }
        }
        let unloaded = blaze_model_unload(engine, model, std::ptr::null_mut(), std::ptr::null_mut());
        assert_eq!(unloaded, BLAZE_STATUS_OK);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed & 1 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    match wire::mutate(&data[..size], max_size, seed) {
        Some(changed) => {
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});
