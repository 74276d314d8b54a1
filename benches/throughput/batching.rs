//! Throughput with many requests in flight, against direct calls and against ready-made batches.

use crate::Bench;
use crate::abi::{Engine, Queue};
use crate::direct::Direct;
use crate::load::{Until, direct_throughput, throughput};
use crate::models::{LARGE, MAX_ROWS, Model, SMALL, TINY};
use crate::report::Goal;
use crate::stats::alternate;
use std::time::Duration;

/// What a row is compared with.
#[derive(Clone, Copy)]
enum Baseline {
    /// One thread that calls `Run` for each request.
    Direct,
    /// The same with two threads.
    TwoThreads,
    /// `Run` on batches that somebody else has made: what no batching can be faster than.
    Ceiling,
}

pub fn measure(bench: &mut Bench) {
    use Baseline::{Ceiling, Direct, TwoThreads};
    let targets = [
        (&TINY, 64, Direct, 8.0),
        (&TINY, 256, Direct, 12.0),
        (&SMALL, 64, Ceiling, 0.75),
        (&SMALL, 256, Ceiling, 0.92),
        (&LARGE, 64, Ceiling, 0.86),
        (&LARGE, 256, Ceiling, 0.97),
    ];
    for (model, in_flight, baseline, target) in targets {
        row(bench, model, in_flight, baseline, Goal::RatioAtLeast(target));
    }
    row(bench, &TINY, 64, TwoThreads, Goal::None);
    row(bench, &SMALL, 64, TwoThreads, Goal::None);
}

fn row(bench: &mut Bench, model: &'static Model, in_flight: usize, baseline: Baseline, goal: Goal) {
    let mut name = format!("{}, {in_flight} in flight", model.name);
    if matches!(baseline, Baseline::TwoThreads) {
        name += ", against direct calls from two threads";
    }
    if !bench.wants(&name) {
        return;
    }
    let engine = Engine::new();
    let mut request = engine.request(model);
    let mut queue = Queue::new(&engine, 4096);
    let direct = Direct::new(model);
    let blaze = |slice| throughput(&mut queue, &mut request, in_flight, Until::Elapsed(slice));
    let pairs = match baseline {
        Baseline::Direct => {
            let mut one = direct.values(1);
            alternate(bench.plan(), |slice| direct_throughput(&mut one, 1, slice), blaze)
        }
        Baseline::TwoThreads => alternate(bench.plan(), |slice| two_threads(&direct, slice), blaze),
        Baseline::Ceiling => {
            let mut full = direct.values(MAX_ROWS);
            alternate(bench.plan(), |slice| direct_throughput(&mut full, MAX_ROWS, slice), blaze)
        }
    };
    bench.add_pairs(name, &pairs, goal, "requests/s");
}

fn two_threads(direct: &Direct, slice: Duration) -> f64 {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..2).map(|_| scope.spawn(|| direct_throughput(&mut direct.values(1), 1, slice))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
    })
}
