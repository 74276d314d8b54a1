//! What profiling costs: the same traffic with and without, in turns so short that the machine's moods hit both.
#![allow(unsafe_code)]

use crate::Bench;
use crate::abi::{Engine, Queue, Request, fail};
use crate::report::Goal;
use blaze::ffi::profile::{BLAZE_REPORT_JSON, blaze_profile_report, blaze_profile_start, blaze_profile_stop};
use blaze::ffi::status::BLAZE_STATUS_OK;
use blaze::ffi::tensor::{BLAZE_DTYPE_F32, blaze_tensor};
use serde_json::json;
use std::ffi::CString;
use std::mem::zeroed;
use std::path::Path;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

/// What is compared: a name, and what is given to `blaze_profile_start`; `None`: no profile.
const STATES: [(&str, Option<&str>); 4] = [
    ("off", None),
    ("off again", None),
    ("basic", Some(r#"{"level": "basic"}"#)),
    ("detailed", Some(r#"{"level": "detailed"}"#)),
];

const IN_FLIGHT: usize = 64;

/// A request of one row with so many elements, and what it points to.
struct Row {
    request: Request,
    _tensor: Box<blaze_tensor>,
    _shape: Box<[i64; 2]>,
    _data: Box<[f32]>,
}

impl Row {
    fn new(engine: &Engine, name: &str, elements: usize) -> Row {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/models/{name}.onnx"));
        let model = engine.load(&json!({"name": name, "path": path, "batching": {"max_rows": 64}}));
        let mut data = vec![0.5_f32; elements].into_boxed_slice();
        let shape = Box::new([1, elements as i64]);
        // SAFETY: a plain struct of numbers and pointers, for which zero is a value.
        let mut tensor: Box<blaze_tensor> = Box::new(unsafe { zeroed() });
        tensor.struct_size = size_of::<blaze_tensor>() as u32;
        tensor.dtype = BLAZE_DTYPE_F32;
        tensor.shape = shape.as_ptr();
        tensor.rank = 2;
        tensor.data = data.as_mut_ptr().cast();
        tensor.size_bytes = size_of_val(&*data);
        let mut request = Request::new(model);
        request.request.inputs = &raw const *tensor;
        Row { request, _tensor: tensor, _shape: shape, _data: data }
    }
}

/// Requests a second with so many in flight.
fn in_flight(queue: &mut Queue<'_>, request: &Request, slice: Duration) -> f64 {
    let submit = |queue: &Queue<'_>, count: usize| {
        for _ in 0..count {
            if queue.submit(request) != BLAZE_STATUS_OK {
                fail("blaze_submit: refused");
            }
        }
    };
    submit(queue, IN_FLIGHT);
    let (start, mut done) = (Instant::now(), 0);
    let elapsed = loop {
        let count = queue.collect();
        done += count;
        let elapsed = start.elapsed();
        if elapsed >= slice {
            let mut left = IN_FLIGHT - count;
            while left > 0 {
                left -= queue.collect();
            }
            break elapsed;
        }
        submit(queue, count);
    };
    done as f64 / elapsed.as_secs_f64()
}

/// Requests a second, one after the other, on this thread.
fn one_by_one(engine: &Engine, request: &Request, slice: Duration) -> f64 {
    let (start, mut done) = (Instant::now(), 0_u64);
    loop {
        for _ in 0..8 {
            engine.infer(request);
        }
        done += 8;
        let elapsed = start.elapsed();
        if elapsed >= slice {
            return done as f64 / elapsed.as_secs_f64();
        }
    }
}

/// Does `work` while the engine is profiled.
fn with_profile<T>(engine: &Engine, config: Option<&str>, work: impl FnOnce() -> T) -> T {
    let Some(config) = config else { return work() };
    let config = CString::new(config).expect("JSON has no NUL");
    // SAFETY: the engine lives, the string is NUL-terminated; the rest may be NULL.
    let started = unsafe { blaze_profile_start(engine.pointer(), config.as_ptr(), null_mut()) };
    let result = work();
    // SAFETY: as above.
    let stopped = unsafe { blaze_profile_stop(engine.pointer(), null_mut()) };
    if (started, stopped) != (BLAZE_STATUS_OK, BLAZE_STATUS_OK) {
        fail("the profiler cannot be started or stopped");
    }
    result
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn measure(bench: &mut Bench) {
    for (name, elements, most) in [("tiny", 4, [3.0, 8.0]), ("small", 64, [1.0, 5.0])] {
        let engine = Engine::new(&json!({}));
        let row = Row::new(&engine, name, elements);
        let mut queue = Queue::new(&engine, 1024);
        compare(bench, &format!("{name}, 64 in flight"), most, &engine, |slice| {
            in_flight(&mut queue, &row.request, slice)
        });
        compare(bench, &format!("{name}, blaze_infer"), most, &engine, |slice| {
            one_by_one(&engine, &row.request, slice)
        });
        how_long_a_report_takes(bench, name, &engine);
    }
}

fn compare(
    bench: &mut Bench,
    name: &str,
    most: [f64; 2],
    engine: &Engine,
    mut traffic: impl FnMut(Duration) -> f64,
) {
    let rounds = bench.pick(12, 120);
    let slice = Duration::from_millis(bench.pick(20, 50));
    let mut ratios: [Vec<f64>; STATES.len()] = Default::default();
    let mut plain = Vec::new();
    traffic(slice * 2);
    for round in 0..rounds {
        let mut rates = [0.0; STATES.len()];
        for turn in 0..STATES.len() {
            // Forwards and backwards in turn, each time from another one on.
            let at = if round % 2 == 0 { turn } else { STATES.len() - 1 - turn };
            let at = (at + round / 2) % STATES.len();
            rates[at] = with_profile(engine, STATES[at].1, || traffic(slice));
        }
        plain.push(rates[0]);
        for (ratios, rate) in ratios.iter_mut().zip(rates) {
            ratios.push(rate / ((rates[0] + rates[1]) / 2.0));
        }
    }
    let rate = median(&mut plain);
    for (at, (state, _)) in STATES.iter().enumerate().skip(1) {
        let values = &mut ratios[at];
        let middle = median(values);
        let quarter = values.len() / 4;
        let spread = (values[values.len() - 1 - quarter] - values[quarter]) / 2.0 * 100.0;
        let cost = (1.0 - middle) * 100.0;
        let goal = match at {
            2 => Goal::AtMost(most[0]),
            3 => Goal::AtMost(most[1]),
            _ => Goal::None,
        };
        let error = spread / (values.len() as f64).sqrt() * 1.25;
        let note =
            format!("of {rate:.0}/s; half of the rounds within ±{spread:.1} %, the median ±{error:.2} %");
        bench.add(format!("profile {state}: {name}"), cost, goal, "% slower", note);
        if at == 2 {
            bench.must_stay_below(10.0);
        }
    }
}

fn how_long_a_report_takes(bench: &mut Bench, name: &str, engine: &Engine) {
    let (start, mut needed) = (Instant::now(), 0);
    // SAFETY: the engine lives; with capacity 0 only the size is written.
    let status = unsafe {
        blaze_profile_report(engine.pointer(), BLAZE_REPORT_JSON, null_mut(), 0, &mut needed, null_mut())
    };
    if status != BLAZE_STATUS_OK {
        fail("blaze_profile_report has failed");
    }
    let ms = start.elapsed().as_secs_f64() * 1000.0;
    bench.add(format!("a report: {name}"), ms, Goal::None, "ms", format!("{needed} bytes of JSON"));
}
