//! Tuning: how close an engine that begins with bad settings comes to the best point of a grid, and how soon.
#![allow(unsafe_code)]

use crate::Bench;
use crate::abi::{Engine, Queue, Request, fail, now_ns};
use crate::report::Goal;
use blaze::ffi::handles::blaze_model;
use blaze::ffi::status::BLAZE_STATUS_OK;
use blaze::ffi::tuning::{blaze_model_configure, blaze_tune_report};
use serde_json::{Value, json};
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

/// Requests at once.
const IN_FLIGHT: usize = 256;
/// Latencies and throughput are looked at by so much time.
const SLICE_NS: u64 = 200_000_000;
/// What part of the best is to be reached, and for how long the goal may be broken, in seconds.
const SHARE: f64 = 0.9;
const BROKEN_SECONDS: f64 = 2.0;

struct Model {
    name: &'static str,
    inputs: usize,
    folder: &'static str,
}

const TINY: Model = Model { name: "tiny", inputs: 4, folder: "tests/models" };
const SMALL: Model = Model { name: "small", inputs: 64, folder: "tests/models" };
const LARGE: Model = Model { name: "large", inputs: 784, folder: "target/bench/models" };

fn path(model: &Model) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join(model.folder).join(format!("{}.onnx", model.name));
    if !path.exists() {
        fail(&format!("{} is missing: `make target/bench/models/large.onnx` makes it", path.display()));
    }
    path
}

/// What a slice of time came to: requests per second of each model, and the p99 of all, in milliseconds.
struct Slice {
    rates: Vec<f64>,
    p99_ms: f64,
}

impl Slice {
    /// One figure for several models: the geometric mean.
    fn rate(&self) -> f64 {
        mean(&self.rates)
    }
}

fn mean(rates: &[f64]) -> f64 {
    (rates.iter().map(|rate| rate.max(1e-3).ln()).sum::<f64>() / rates.len() as f64).exp()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// An engine with models, and a closed loop over them.
struct Rig<'e> {
    engine: &'e Engine,
    handles: Vec<blaze_model>,
    requests: Vec<Request>,
    queues: Vec<Queue<'e>>,
    in_flight: Vec<usize>,
}

fn engine(tuning: &Value) -> Engine {
    Engine::new(&json!({"tuning": tuning}))
}

impl<'e> Rig<'e> {
    fn new(engine: &'e Engine, models: &[Model], settings: &Value) -> Self {
        let load = |model: &Model| {
            let mut config = json!({"name": model.name, "path": path(model)});
            if let (Some(config), Some(settings)) = (config.as_object_mut(), settings.as_object()) {
                config.extend(settings.clone());
            }
            engine.load(&config)
        };
        let handles: Vec<blaze_model> = models.iter().map(load).collect();
        let row = |model: &Model| (0..model.inputs).map(|at| at as f32 / model.inputs as f32 - 0.5).collect();
        let request = |(handle, model): (&blaze_model, &Model)| {
            let row: Vec<f32> = row(model);
            Request::with_row(*handle, &row)
        };
        let requests = handles.iter().zip(models).map(request).collect();
        let queues = models.iter().map(|_| Queue::new(engine, 4096)).collect();
        Rig { engine, requests, queues, in_flight: vec![0; models.len()], handles }
    }

    fn configure(&self, settings: &Value) {
        let json = CString::new(settings.to_string()).expect("JSON has no NUL");
        for &handle in &self.handles {
            // SAFETY: the engine lives, and the string ends in a NUL.
            let status =
                unsafe { blaze_model_configure(self.engine.pointer(), handle, json.as_ptr(), null_mut()) };
            if status != BLAZE_STATUS_OK {
                fail(&format!("blaze_model_configure: status {status}"));
            }
        }
    }

    fn report(&self) -> Value {
        let mut buffer = vec![0_u8; 1 << 20];
        // SAFETY: the engine lives, and there is room for as many bytes.
        let status = unsafe {
            let (start, room) = (buffer.as_mut_ptr().cast(), buffer.len());
            blaze_tune_report(self.engine.pointer(), start, room, null_mut())
        };
        if status != BLAZE_STATUS_OK {
            fail(&format!("blaze_tune_report: status {status}"));
        }
        let text = CStr::from_bytes_until_nul(&buffer).expect("a NUL is at its end");
        serde_json::from_slice(text.to_bytes()).expect("it is JSON")
    }

    /// Keeps requests in flight for so long.
    fn slice(&mut self, for_ns: u64) -> Slice {
        let models = self.requests.len();
        let each = IN_FLIGHT / models;
        let (mut done, mut times) = (vec![0_u64; models], Vec::with_capacity(1 << 16));
        let began = now_ns();
        let mut now = began;
        while now < began + for_ns {
            for (model, done) in done.iter_mut().enumerate() {
                let (request, queue) = (&mut self.requests[model], &mut self.queues[model]);
                request.request.user_data = now_ns();
                while self.in_flight[model] < each {
                    if queue.submit(request) != BLAZE_STATUS_OK {
                        fail("a request was refused");
                    }
                    self.in_flight[model] += 1;
                }
                let mut seen = 0_u64;
                // One model is waited for; several are looked at in turn.
                let wait_ns = if models == 1 { SLICE_NS } else { 20_000 };
                let count = queue.wait(wait_ns, |ended| {
                    if ended.status != BLAZE_STATUS_OK {
                        fail(&format!("a request has failed with status {}", ended.status));
                    }
                    // Some are enough.
                    if seen.is_multiple_of(8) {
                        times.push(ended.user_data);
                    }
                    seen += 1;
                });
                now = now_ns();
                let first = times.len() - seen.div_ceil(8) as usize;
                times[first..].iter_mut().for_each(|time| *time = now.saturating_sub(*time));
                self.in_flight[model] -= count;
                *done += count as u64;
            }
        }
        let seconds = (now - began) as f64 / 1e9;
        times.sort_unstable();
        let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(0);
        Slice { rates: done.iter().map(|&done| done as f64 / seconds).collect(), p99_ms: p99 as f64 / 1e6 }
    }

    /// For a turn: how fast it is as it is set.
    fn best(&mut self) -> f64 {
        self.slice(SLICE_NS / 4); // awake
        let rate = self.slice(SLICE_NS).rate();
        self.finish();
        rate
    }

    fn finish(&mut self) {
        for (queue, in_flight) in self.queues.iter_mut().zip(&mut self.in_flight) {
            while *in_flight > 0 {
                *in_flight -= queue.collect();
            }
        }
    }
}

fn settings(rows: u32, delay_us: u32, lanes: u32) -> Value {
    json!({"batching": {"max_rows": rows, "max_delay_us": delay_us}, "lanes": lanes})
}

/// The best point of a grid: its settings, how fast it is, and its p99.
fn grid(bench: &Bench, rig: &mut Rig<'_>, goal_ms: f64) -> (Value, f64, f64) {
    let time = bench.pick(100_000_000, 300_000_000);
    let mut best = (Value::Null, 0.0, 0.0);
    let mut points = Vec::new();
    for lanes in [1, 2] {
        for delay_us in [0, 200] {
            for rows in [2, 16, 32, 64, 128, 256] {
                let settings = settings(rows, delay_us, lanes);
                rig.configure(&settings);
                rig.slice(time / 3);
                let slice = rig.slice(time);
                points.push((settings, slice.rate(), slice.p99_ms));
            }
        }
    }
    points.retain(|(_, _, p99_ms)| *p99_ms <= goal_ms);
    points.sort_by(|one, other| other.1.total_cmp(&one.1));
    // The best ones again: no lucky run decides.
    for (settings, ..) in points.iter().take(3) {
        rig.configure(settings);
        rig.slice(time / 3);
        let slices: Vec<Slice> = (0..3).map(|_| rig.slice(time)).collect();
        let rate = median(slices.iter().map(Slice::rate).collect());
        if rate > best.1 {
            best = (settings.clone(), rate, median(slices.iter().map(|slice| slice.p99_ms).collect()));
        }
    }
    best
}

/// A run of an engine that tunes itself.
struct Run {
    slices: Vec<Slice>,
    ended: Value,
    /// How fast it was in the end, and what it was compared with, in turn with it.
    rate: f64,
    other: f64,
}

fn tuned(bench: &Bench, models: &[Model], tuning: &Value, mut other: impl FnMut() -> f64) -> Run {
    let engine = engine(tuning);
    let mut rig = Rig::new(&engine, models, &settings(2, 2_000, 1));
    let most = bench.pick(15_000_000_000, 30_000_000_000) / SLICE_NS;
    let (mut slices, mut settled) = (Vec::new(), 0);
    while slices.len() < most as usize && settled < 3 {
        slices.push(rig.slice(SLICE_NS));
        if slices.len().is_multiple_of(5) {
            let report = rig.report();
            let all = report["models"]
                .as_array()
                .is_some_and(|models| models.iter().all(|model| model["state"] == "settled"));
            settled = if all { settled + 1 } else { 0 };
        }
    }
    let ended = rig.report();
    // The machine is not as fast in one minute as in another.
    let mut pairs = Vec::new();
    for _ in 0..11 {
        rig.slice(SLICE_NS / 4); // awake
        let own = rig.slice(SLICE_NS).rate();
        rig.finish();
        pairs.push((own, other()));
    }
    if std::env::var_os("BLAZE_STEPS").is_some() {
        for model in ended["models"].as_array().into_iter().flatten() {
            eprintln!("{}: {}", model["name"], model["settings"]);
            for step in model["steps"].as_array().into_iter().flatten() {
                eprintln!("    {} {} {} -> {}", step["ratio"], step["kept"], step["from"], step["to"]);
            }
        }
    }
    let rate = median(pairs.iter().map(|pair| pair.0).collect());
    let other = median(pairs.iter().map(|pair| pair.1).collect());
    Run { slices, ended, rate, other }
}

/// After how many seconds it was first as fast as this for a second.
fn reached(run: &Run, goal: f64) -> Option<f64> {
    let rates: Vec<f64> = run.slices.iter().map(Slice::rate).collect();
    let first = rates.windows(5).position(|five| five.iter().sum::<f64>() / 5.0 >= goal);
    first.map(|slices| (slices + 5) as f64 * SLICE_NS as f64 / 1e9)
}

fn describe(run: &Run) -> String {
    let models = run.ended["models"].as_array().into_iter().flatten();
    let one = |model: &Value| {
        let settings = &model["settings"];
        let of = |key: &str| settings[key].as_u64().unwrap_or(0);
        format!(
            "{} {}/{}/{}/{}",
            model["name"].as_str().unwrap_or(""),
            of("max_rows"),
            of("max_delay_us"),
            of("lanes"),
            of("intra_op_threads")
        )
    };
    models.map(one).collect::<Vec<_>>().join(", ")
}

pub fn measure(bench: &mut Bench) {
    let cases: [(&str, &[Model]); 4] =
        [("tiny", &[TINY]), ("small", &[SMALL]), ("large", &[LARGE]), ("mixed", &[TINY, SMALL, LARGE])];
    let only = std::env::var("BLAZE_CASE").ok();
    let is_wanted = |name: &str| only.as_ref().is_none_or(|only| only == name);
    for (name, models) in cases.into_iter().filter(|(name, _)| is_wanted(name)) {
        let plain = engine(&json!({}));
        let mut rig = Rig::new(&plain, models, &settings(64, 200, 1));
        let (best, rate, _) = grid(bench, &mut rig, f64::INFINITY);
        bench.add(
            format!("{name}: best point of the grid"),
            rate,
            Goal::None,
            "requests/s",
            best.to_string(),
        );
        for level in ["balanced", "aggressive"] {
            rig.configure(&best);
            rig.finish();
            let run = tuned(bench, models, &json!({"mode": "on", "level": level}), || rig.best());
            let (end, rate) = (run.rate, run.other);
            let reached = reached(&run, SHARE * rate);
            let note =
                format!("{end:.0} requests/s, {:.0} at first; {}", run.slices[0].rate(), describe(&run));
            bench.add(
                format!("{name}, {level}: the best point over what tuning has reached"),
                rate / end,
                Goal::AtMost(1.0 / SHARE),
                "times",
                note,
            );
            bench.must_stay_below(2.0);
            let seconds = reached.unwrap_or(f64::INFINITY);
            let name = format!("{name}, {level}: until 90 % of the best point");
            bench.add(name, seconds, Goal::AtMost(30.0), "s", String::new());
        }
        rig.finish();
    }
    if is_wanted("goals") {
        goals(bench);
    }
}

/// With a goal for the p99.
fn goals(bench: &mut Bench) {
    for (name, models) in [("tiny", [TINY]), ("small", [SMALL]), ("large", [LARGE])] {
        let plain = engine(&json!({}));
        let mut rig = Rig::new(&plain, &models, &settings(64, 200, 1));
        let (_, _, p99_ms) = grid(bench, &mut rig, f64::INFINITY);
        // Twice what the fastest point has, which bad settings do not.
        let goal_ms = 2.0 * p99_ms;
        let (best, ..) = grid(bench, &mut rig, goal_ms);
        rig.configure(&best);
        rig.finish();
        for level in ["balanced", "aggressive"] {
            let tuning = json!({"mode": "on", "level": level, "objective": "latency", "p99_ms": goal_ms});
            let run = tuned(bench, &models, &tuning, || rig.best());
            let (mut now, mut longest) = (0, 0);
            for slice in &run.slices {
                now = if slice.p99_ms > goal_ms { now + 1 } else { 0 };
                longest = longest.max(now);
            }
            let broken = run.slices.iter().filter(|slice| slice.p99_ms > goal_ms).count();
            let note = format!(
                "goal {goal_ms:.2} ms, {:.2} ms at first; {broken} of {} windows above; {:.2} of the best point {best}; {}",
                run.slices[0].p99_ms,
                run.slices.len(),
                run.rate / run.other,
                describe(&run),
            );
            bench.add(
                format!("{name}, {level}: longest time above the p99 goal"),
                f64::from(longest) * SLICE_NS as f64 / 1e9,
                Goal::AtMost(BROKEN_SECONDS),
                "s",
                note,
            );
        }
    }
}
