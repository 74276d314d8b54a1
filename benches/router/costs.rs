//! What a request costs more that goes through a route with four targets than one that goes to a model.

use crate::Bench;
use crate::abi::{Engine, Queue, Request};
use crate::load::{closed_loop, median};
use crate::mocks::{STRATEGIES, name, route};
use crate::report::Goal;
use blaze::ffi::request::blaze_request;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How much more a request may take, in nanoseconds.
const MORE_NS: f64 = 300.0;

/// Each with its own numbers, as in a host with many users; also those that go straight to the model.
fn numbers(strategy: &str) -> impl FnMut(&mut blaze_request) + use<> {
    let (mut count, client) = (0_u64, strategy == "client_hash");
    move |request| {
        count += 1;
        request.route_key = count;
        request.tenant_id = if client { 1 + count % 64 } else { 0 };
    }
}

/// Slices of `direct` and `routed` in turn: the medians of both and of what they differ by, in nanoseconds.
fn pairs(rounds: usize, mut direct: impl FnMut() -> f64, mut routed: impl FnMut() -> f64) -> [f64; 3] {
    direct();
    routed();
    let (mut directs, mut routeds, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // Each goes first every other time.
        let (one, other) = if round % 2 == 0 {
            let one = direct();
            (one, routed())
        } else {
            let other = routed();
            (direct(), other)
        };
        directs.push(one);
        routeds.push(other);
        differences.push(other - one);
    }
    [median(&directs), median(&routeds), median(&differences)]
}

fn infer_ns(
    engine: &Engine,
    request: &mut Request,
    slice: Duration,
    mut prepare: impl FnMut(&mut blaze_request),
) -> f64 {
    let (start, mut count) = (Instant::now(), 0);
    loop {
        for _ in 0..64 {
            prepare(&mut request.request);
            engine.infer(request);
        }
        count += 64;
        if start.elapsed() >= slice {
            return start.elapsed().as_nanos() as f64 / f64::from(count);
        }
    }
}

/// An engine with four models.
fn engine(config: &Value) -> (Engine, [u64; 4]) {
    let engine = Engine::new(config);
    let model =
        |index| engine.load(&json!({"name": name(index), "backend": "mock", "mock": {"compute": "echo"}}));
    let models = [0, 1, 2, 3].map(model);
    (engine, models)
}

pub fn measure(bench: &mut Bench) {
    let (rounds, slice) = bench.pick((5, Duration::from_millis(15)), (21, Duration::from_millis(30)));
    let (threaded, models) = engine(&json!({}));
    let mut queue = Queue::new(&threaded, 1024);
    let strategies: &[&str] = bench.pick(&["round_robin", "adaptive"], &STRATEGIES);
    for strategy in strategies {
        let id = route(&threaded, strategy, &[1; 4], json!({ "strategy": strategy }));
        let (mut direct, mut routed) = (Request::new(models[0]), Request::new(id));
        let (mut of_direct, mut of_routed) = (numbers(strategy), numbers(strategy));
        let times = pairs(
            rounds,
            || infer_ns(&threaded, &mut direct, slice, &mut of_direct),
            || infer_ns(&threaded, &mut routed, slice, &mut of_routed),
        );
        add(bench, format!("cost: blaze_infer, {strategy}"), times, Goal::AtMost(MORE_NS));
        let queue = std::cell::RefCell::new(&mut queue);
        let times = pairs(
            rounds,
            || closed_loop(&mut queue.borrow_mut(), &mut direct, 64, slice, &mut of_direct),
            || closed_loop(&mut queue.borrow_mut(), &mut routed, 64, slice, &mut of_routed),
        );
        add(
            bench,
            format!("cost: submit to collect, 64 in flight, {strategy}"),
            times,
            Goal::AtMost(MORE_NS),
        );
    }
    others(bench, rounds, slice);
}

/// What tells where it goes: beside a host that asks four models in turn itself, one target instead of four, and
/// everything on one thread.
fn others(bench: &mut Bench, rounds: usize, slice: Duration) {
    for (what, config, targets, in_turn) in [
        ("beside a host's own turns", json!({}), 4, true),
        ("one target", json!({}), 1, false),
        ("no threads", json!({"threads": 0}), 4, false),
        ("no threads, beside a host's own turns", json!({"threads": 0}), 4, true),
        ("no threads, one target", json!({"threads": 0}), 1, false),
    ] {
        let (engine, models) = engine(&config);
        let mut queue = Queue::new(&engine, 1024);
        let id = route(&engine, "route", &vec![1; targets], json!({}));
        let (mut direct, mut routed) = (Request::new(models[0]), Request::new(id));
        let mut turn = 0;
        let mut take_turns = |request: &mut blaze_request| {
            if in_turn {
                turn = (turn + 1) % 4;
                request.model = models[turn];
            }
        };
        let times = pairs(
            rounds,
            || infer_ns(&engine, &mut direct, slice, &mut take_turns),
            || infer_ns(&engine, &mut routed, slice, |_| ()),
        );
        // The same models called directly: what is left is the route.
        let goal = || if in_turn { Goal::AtMost(MORE_NS) } else { Goal::None };
        add(bench, format!("cost: blaze_infer, {what}"), times, goal());
        let queue = std::cell::RefCell::new(&mut queue);
        let times = pairs(
            rounds,
            || closed_loop(&mut queue.borrow_mut(), &mut direct, 64, slice, &mut take_turns),
            || closed_loop(&mut queue.borrow_mut(), &mut routed, 64, slice, |_| ()),
        );
        add(bench, format!("cost: submit to collect, 64 in flight, {what}"), times, goal());
    }
}

fn add(bench: &mut Bench, name: String, [direct, routed, more]: [f64; 3], goal: Goal) {
    let note = format!("direct {direct:.0} ns, routed {routed:.0} ns");
    bench.add(name, more, goal, "ns", note);
    bench.must_stay_below(20_000.0);
}
