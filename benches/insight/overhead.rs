//! What metrics and profiling cost: the same traffic through engines with and without, in turns so short that the machine's
//! moods hit all of them. The engines are made anew several times, since where their memory happens to be matters as much as
//! what is measured. Beside the requests a second, the CPU time of a request, which other programs on the same cores change
//! less.
#![allow(unsafe_code)]

use crate::Bench;
use crate::abi::{Engine, Queue, Request, fail};
use crate::report::Goal;
use blaze::ffi::profile::{BLAZE_REPORT_JSON, blaze_profile_report};
use blaze::ffi::status::{BLAZE_STATUS_BUFFER_TOO_SMALL, BLAZE_STATUS_OK};
use blaze::ffi::tensor::{BLAZE_DTYPE_F32, blaze_tensor};
use serde_json::{Value, json};
use std::mem::zeroed;
use std::path::Path;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

/// What is compared: a name, the engine's configuration, and its targets for `tiny` and `small`, in percent.
struct State {
    name: &'static str,
    config: &'static str,
    most: [Option<f64>; 2],
}

const STATES: [State; 5] = [
    State {
        name: "nothing",
        config: r#"{"metrics": {"histograms": false, "trends": false}}"#,
        most: [None; 2],
    },
    State {
        name: "nothing again",
        config: r#"{"metrics": {"histograms": false, "trends": false}}"#,
        most: [None; 2],
    },
    State { name: "metrics", config: "{}", most: [None; 2] },
    State {
        name: "metrics and basic profiling",
        config: r#"{"profile": {"level": "basic"}}"#,
        most: [Some(3.0), Some(1.0)],
    },
    State {
        name: "metrics and detailed profiling",
        config: r#"{"profile": {"level": "detailed"}}"#,
        most: [None, Some(5.0)],
    },
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

/// Requests a second, and how many for each second of CPU time.
type Rates = [f64; 2];

/// CPU time of the process so far, in seconds.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// With so many in flight.
fn in_flight(engine: &Engine, request: &Request, slice: Duration) -> Rates {
    let mut queue = Queue::new(engine, 1024);
    let submit = |queue: &Queue<'_>, count: usize| {
        for _ in 0..count {
            if queue.submit(request) != BLAZE_STATUS_OK {
                fail("blaze_submit: refused");
            }
        }
    };
    submit(&queue, IN_FLIGHT);
    let (start, cpu, mut done) = (Instant::now(), cpu_seconds(), 0);
    let elapsed = loop {
        let count = queue.collect();
        done += count;
        let elapsed = start.elapsed();
        if elapsed >= slice {
            let cpu = cpu_seconds() - cpu;
            let mut left = IN_FLIGHT - count;
            while left > 0 {
                left -= queue.collect();
            }
            break [elapsed.as_secs_f64(), cpu];
        }
        submit(&queue, count);
    };
    elapsed.map(|seconds| done as f64 / seconds)
}

/// One after the other, on this thread.
fn one_by_one(engine: &Engine, request: &Request, slice: Duration) -> Rates {
    let (start, cpu, mut done) = (Instant::now(), cpu_seconds(), 0_u64);
    loop {
        for _ in 0..8 {
            engine.infer(request);
        }
        done += 8;
        let elapsed = start.elapsed();
        if elapsed >= slice {
            return [elapsed.as_secs_f64(), cpu_seconds() - cpu].map(|seconds| done as f64 / seconds);
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn measure(bench: &mut Bench) {
    for (model, (name, elements)) in [("tiny", 4), ("small", 64)].into_iter().enumerate() {
        compare(bench, model, &format!("{name}, 64 in flight"), name, elements, in_flight);
        compare(bench, model, &format!("{name}, blaze_infer"), name, elements, one_by_one);
        how_long_a_report_takes(bench, name, elements);
    }
}

/// An engine that is driven, and what it is driven with.
struct Rig {
    row: Row,
    engine: Engine,
}

impl Rig {
    fn new(config: &str, name: &str, elements: usize) -> Rig {
        let config: Value = serde_json::from_str(config).expect("a state's configuration is JSON");
        let engine = Engine::new(&config);
        Rig { row: Row::new(&engine, name, elements), engine }
    }
}

fn compare(
    bench: &mut Bench,
    model: usize,
    title: &str,
    name: &str,
    elements: usize,
    traffic: fn(&Engine, &Request, Duration) -> Rates,
) {
    let (sets, rounds) = bench.pick((2, 5), (8, 12));
    let slice = Duration::from_millis(bench.pick(20, 40));
    let mut ratios: [[Vec<f64>; 2]; STATES.len()] = Default::default();
    let mut plain = Vec::new();
    for set in 0..sets {
        let mut rigs: Vec<Option<Rig>> = STATES.iter().map(|_| None).collect();
        for turn in 0..STATES.len() {
            let at = (turn + set) % STATES.len();
            rigs[at] = Some(Rig::new(STATES[at].config, name, elements));
        }
        let rigs: Vec<Rig> = rigs.into_iter().flatten().collect();
        for rig in &rigs {
            traffic(&rig.engine, &rig.row.request, slice * 2);
        }
        for round in 0..rounds {
            let mut rates = [[0.0; 2]; STATES.len()];
            for turn in 0..STATES.len() {
                // Forwards and backwards in turn, each time from another one on.
                let at = if round % 2 == 0 { turn } else { STATES.len() - 1 - turn };
                let at = (at + round / 2) % STATES.len();
                let rig = &rigs[at];
                traffic(&rig.engine, &rig.row.request, slice / 4); // awake, and its memory in the caches
                rates[at] = traffic(&rig.engine, &rig.row.request, slice);
            }
            plain.push(rates[0][0]);
            for (ratios, rate) in ratios.iter_mut().zip(rates) {
                for (what, ratios) in ratios.iter_mut().enumerate() {
                    ratios.push(rate[what] / ((rates[0][what] + rates[1][what]) / 2.0));
                }
            }
        }
    }
    let rate = median(&mut plain);
    for (state, ratios) in STATES.iter().zip(&mut ratios).skip(1) {
        let of_cpu = (1.0 - median(&mut ratios[1])) * 100.0;
        let values = &mut ratios[0];
        let middle = median(values);
        let quarter = values.len() / 4;
        let spread = (values[values.len() - 1 - quarter] - values[quarter]) / 2.0 * 100.0;
        let cost = (1.0 - middle) * 100.0;
        let error = spread / (values.len() as f64).sqrt() * 1.25;
        let note = format!(
            "of {rate:.0}/s; half of the rounds within ±{spread:.1} %, the median ±{error:.2} %; {of_cpu:.2} % fewer for each second of CPU time"
        );
        let goal = state.most[model].map_or(Goal::None, Goal::AtMost);
        bench.add(format!("{}: {title}", state.name), cost, goal, "% slower", note);
        if state.most[model].is_some() {
            bench.must_stay_below(12.0);
        }
    }
}

fn how_long_a_report_takes(bench: &mut Bench, name: &str, elements: usize) {
    let rig = Rig::new(STATES[4].config, name, elements);
    in_flight(&rig.engine, &rig.row.request, Duration::from_millis(500));
    let (start, mut needed) = (Instant::now(), 0);
    let engine = rig.engine.pointer();
    // SAFETY: the engine lives; with capacity 0 only the size is written.
    let status =
        unsafe { blaze_profile_report(engine, BLAZE_REPORT_JSON, null_mut(), 0, &mut needed, null_mut()) };
    // What is asked for is the size, for which the report has to be made.
    if !matches!(status, BLAZE_STATUS_OK | BLAZE_STATUS_BUFFER_TOO_SMALL) {
        fail("blaze_profile_report has failed");
    }
    let ms = start.elapsed().as_secs_f64() * 1000.0;
    bench.add(format!("a report: {name}"), ms, Goal::None, "ms", format!("{needed} bytes of JSON"));
}
