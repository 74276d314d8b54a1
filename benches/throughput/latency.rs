//! Latency of one request at a time: on the calling thread, through a lane, and through a lane that has gone to sleep.

use crate::Bench;
use crate::abi::{Engine, Queue, Request};
use crate::direct::{Direct, Values};
use crate::load::{call_p50_us, round_trip, time};
use crate::models::{Model, SMALL, TINY};
use crate::report::{Goal, Row};
use crate::stats::{Samples, alternate, median};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread::{Thread, park, sleep};
use std::time::Duration;

pub fn measure(bench: &mut Bench) {
    for model in [&TINY, &SMALL] {
        idle_infer(bench, model);
    }
    for model in [&TINY, &SMALL] {
        steady_lane(bench, model);
    }
    after_silence(bench);
}

fn idle_infer(bench: &mut Bench, model: &'static Model) {
    let name = format!("{}, blaze_infer, idle, p50", model.name);
    if !bench.wants(&name) {
        return;
    }
    let engine = Engine::new();
    let request = engine.request(model);
    calls(bench, name, model, 1.0, || time(|| engine.infer(&request)));
}

fn steady_lane(bench: &mut Bench, model: &'static Model) {
    let name = format!("{}, submit to wait, one in flight, p50", model.name);
    if !bench.wants(&name) {
        return;
    }
    let engine = Engine::new();
    let mut request = engine.request(model);
    let mut queue = Queue::new(&engine, 16);
    calls(bench, name, model, 2.0, || round_trip(&mut queue, &mut request));
}

/// Compares a call with a direct one, which it may take so many microseconds longer than.
fn calls(
    bench: &mut Bench,
    name: String,
    model: &'static Model,
    allowance_us: f64,
    mut call: impl FnMut() -> u64,
) {
    let direct = Direct::new(model);
    let mut values = direct.values(1);
    let (mut direct_samples, mut samples) = (Samples::new(), Samples::new());
    let pairs = alternate(
        bench.plan(),
        |slice| call_p50_us(slice, &mut direct_samples, || time(|| values.run())),
        |slice| call_p50_us(slice, &mut samples, &mut call),
    );
    bench.add_pairs(name, &pairs, Goal::BlazeAtMost(pairs.baseline + allowance_us), "µs");
}

/// A model that is asked once in a long while.
struct Rare<'e> {
    name: String,
    values: Values<'e>,
    queue: Queue<'e>,
    request: Request,
    direct_us: Vec<f64>,
    blaze_us: Vec<f64>,
}

/// All models take turns with one measurement of the system's own wake-ups, each after a silence of its own.
fn after_silence(bench: &mut Bench) {
    let name = |model: &Model| format!("{}, submit to wait after 1 s of silence, p50", model.name);
    let wanted: Vec<_> = [&TINY, &SMALL].into_iter().filter(|model| bench.wants(&name(model))).collect();
    let wake_up = "the system's own wake-up round trip after 1 s of silence, p50";
    if wanted.is_empty() && !bench.wants(wake_up) {
        return;
    }
    let engine = Engine::new();
    let directs: Vec<_> = wanted.iter().map(|model| (*model, Direct::new(model))).collect();
    let mut models: Vec<_> = directs
        .iter()
        .map(|(model, direct)| Rare {
            name: name(model),
            values: direct.values(1),
            queue: Queue::new(&engine, 16),
            request: engine.request(model),
            direct_us: Vec::new(),
            blaze_us: Vec::new(),
        })
        .collect();
    let mut wake_ups_us = Vec::new();
    with_partner(|wake_up| {
        for _ in 0..bench.pick(3, 12) {
            for model in &mut models {
                model.direct_us.push(silently(|| time(|| model.values.run())));
                model.blaze_us.push(silently(|| round_trip(&mut model.queue, &mut model.request)));
            }
            wake_ups_us.push(silently(|| time(wake_up)));
        }
    });
    let wake_up_us = median(wake_ups_us);
    for model in models {
        let (direct_us, blaze_us) = (median(model.direct_us), median(model.blaze_us));
        bench.add(Row {
            name: model.name,
            blaze: blaze_us,
            baseline: Some(direct_us),
            ratio: Some(blaze_us / direct_us),
            goal: Goal::BlazeAtMost(direct_us + 1.3 * wake_up_us),
            unit: "µs",
        });
    }
    bench.add(Row {
        name: wake_up.into(),
        blaze: wake_up_us,
        baseline: None,
        ratio: None,
        goal: Goal::None,
        unit: "µs",
    });
}

fn silently(measure: impl FnOnce() -> u64) -> f64 {
    sleep(Duration::from_secs(1));
    measure() as f64 / 1e3
}

/// Gives `work` a function that wakes a parked thread and parks until that one wakes it in turn: what a hand-over
/// to a sleeping lane and back costs the system at least.
fn with_partner(work: impl FnOnce(&dyn Fn())) {
    let (asked, answered, over) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let here = std::thread::current();
    std::thread::scope(|scope| {
        let partner = scope.spawn(|| answer(&here, &asked, &answered, &over));
        work(&|| {
            let number = asked.fetch_add(1, SeqCst) + 1;
            partner.thread().unpark();
            while answered.load(SeqCst) != number {
                park();
            }
        });
        over.store(true, SeqCst);
        partner.thread().unpark();
    });
}

fn answer(asker: &Thread, asked: &AtomicU32, answered: &AtomicU32, over: &AtomicBool) {
    while !over.load(SeqCst) {
        let number = asked.load(SeqCst);
        if answered.swap(number, SeqCst) != number {
            asker.unpark();
        }
        park();
    }
}
