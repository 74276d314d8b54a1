//! What Blaze costs besides time to the answer: submit itself, allocations, idle CPU time, the library's size.

use crate::abi::{Engine, Queue};
use crate::load::{Until, closed_loop, throughput, time};
use crate::models::{LARGE, SMALL, TINY, root};
use crate::report::{Goal, Row};
use crate::stats::{Samples, alternate};
use crate::{Bench, allocations};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub fn measure(bench: &mut Bench) {
    submit(bench);
    heap(bench);
    idle(bench);
    size(bench);
}

fn submit(bench: &mut Bench) {
    let name = "small, blaze_submit with 64 in flight, p99";
    if !bench.wants(name) {
        return;
    }
    let engine = Engine::new();
    let mut request = engine.request(&SMALL);
    let mut queue = Queue::new(&engine, 4096);
    let (mut clock_samples, mut samples) = (Samples::new(), Samples::new());
    let pairs = alternate(
        bench.plan(),
        |slice| {
            // What the clock says of nothing.
            clock_samples.clear();
            let start = Instant::now();
            while start.elapsed() < slice / 10 {
                clock_samples.push(time(|| ()));
            }
            clock_samples.quantile_us(0.99)
        },
        |slice| {
            samples.clear();
            let submit = |queue: &Queue<'_>| {
                let mut accepted = false;
                samples.push(time(|| accepted = queue.submit(&mut request, 0)));
                accepted
            };
            closed_loop(&mut queue, 64, Until::Elapsed(slice), submit, |_| ());
            samples.quantile_us(0.99)
        },
    );
    bench.add_pairs(name.into(), &pairs, Goal::BlazeBelow(2.0), "µs");
}

fn heap(bench: &mut Bench) {
    let name = "small, heap allocations with 64 in flight";
    if !bench.wants(name) {
        return;
    }
    let engine = Engine::new();
    let mut request = engine.request(&SMALL);
    let mut queue = Queue::new(&engine, 4096);
    throughput(&mut queue, &mut request, 64, Until::Completed(20_000));
    let requests = 100_000;
    let allocations = allocations::during(|| {
        throughput(&mut queue, &mut request, 64, Until::Completed(requests));
    });
    bench.add(Row {
        name: name.into(),
        blaze: allocations as f64 / requests as f64,
        baseline: None,
        ratio: None,
        goal: Goal::BlazeAtMost(0.0),
        unit: "allocations/request",
    });
}

fn idle(bench: &mut Bench) {
    let name = "idle engine with three loaded models, CPU time";
    if !bench.wants(name) {
        return;
    }
    let engine = Engine::new();
    let mut queue = Queue::new(&engine, 4096);
    for model in [&TINY, &SMALL, &LARGE] {
        // Traffic first: an engine that was never used has more reasons to be quiet.
        throughput(&mut queue, &mut engine.request(model), 64, Until::Completed(1_000));
    }
    sleep(Duration::from_millis(500));
    let (before, start) = (cpu_time(), Instant::now());
    sleep(Duration::from_secs(bench.pick(1, 3)));
    let used = cpu_time().saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
    bench.add(Row {
        name: name.into(),
        blaze: used * 100.0,
        baseline: None,
        ratio: None,
        goal: Goal::BlazeBelow(0.1),
        unit: "% of a core",
    });
}

/// What the process has used so far, in all threads, in the kernel and outside.
#[allow(unsafe_code)]
fn cpu_time() -> Duration {
    // SAFETY: a plain struct of numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is good for writing.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

fn size(bench: &mut Bench) {
    let name = "stripped libblaze.so, size";
    if !bench.wants(name) {
        return;
    }
    let built = root().join("target/release/libblaze.so");
    let stripped = root().join("target/bench/libblaze.stripped.so");
    if !built.exists() {
        eprintln!("{name}: left out, because target/release/libblaze.so is not built");
        return;
    }
    // Without `strip` the size of what was built is an upper bound.
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(&built).status();
    let file = if strip.is_ok_and(|status| status.success()) { &stripped } else { &built };
    let bytes = std::fs::metadata(file).expect("it was just written").len();
    bench.add(Row {
        name: name.into(),
        blaze: bytes as f64 / 1e6,
        baseline: None,
        ratio: None,
        goal: Goal::BlazeBelow(4.0),
        unit: "MB",
    });
}
