//! What grows: requests over time, loaded models, producers.

use crate::Bench;
use crate::abi::{Engine, Queue, Request};
use crate::load::{Until, closed_loop, throughput};
use crate::models::TINY;
use crate::report::Goal;
use crate::stats::alternate;
use std::time::Duration;

const IN_FLIGHT: usize = 64;
const MODELS: usize = 64;

pub fn measure(bench: &mut Bench) {
    age(bench);
    many_models(bench);
    producers(bench);
}

/// An engine that has served a million requests, against one that has served a thousand.
fn age(bench: &mut Bench) {
    let name = "tiny, 64 in flight, after 1 M requests against after 1 k";
    if !bench.wants(name) {
        return;
    }
    let old = Engine::new();
    let mut old_request = old.request(&TINY);
    let mut old_queue = Queue::new(&old, 4096);
    throughput(&mut old_queue, &mut old_request, IN_FLIGHT, Until::Completed(1_000_000));
    // Counted, not timed: with time, a fast engine would be old at the end of it.
    let some = Until::Completed(bench.pick(50_000, 200_000));
    let pairs = alternate(
        bench.plan(),
        |_| {
            let young = Engine::new();
            let mut request = young.request(&TINY);
            let mut queue = Queue::new(&young, 4096);
            throughput(&mut queue, &mut request, IN_FLIGHT, Until::Completed(1_000));
            throughput(&mut queue, &mut request, IN_FLIGHT, some)
        },
        |_| {
            // As the young one, so that neither starts with a sleeping lane.
            throughput(&mut old_queue, &mut old_request, IN_FLIGHT, Until::Completed(1_000));
            throughput(&mut old_queue, &mut old_request, IN_FLIGHT, some)
        },
    );
    bench.add_pairs(name.into(), &pairs, Goal::RatioAtLeast(0.9), "requests/s");
}

/// An engine with 64 models against one with a single model: traffic to one of them, and to all in turn.
fn many_models(bench: &mut Bench) {
    let to_one = "tiny, 64 in flight, to one of 64 models against a single one";
    let to_all = "tiny, 64 in flight, to 64 models in turn against a single one";
    if !bench.wants(to_one) && !bench.wants(to_all) {
        return;
    }
    let (single, many) = (Engine::new(), Engine::new());
    let mut single_request = single.request(&TINY);
    let mut single_queue = Queue::new(&single, 4096);
    let mut requests: Vec<Request> = (0..MODELS)
        .map(|number| Request::new(many.load_as(&TINY, &format!("tiny{number}")), &TINY))
        .collect();
    let mut queue = Queue::new(&many, 4096);
    let mut baseline =
        |slice| throughput(&mut single_queue, &mut single_request, IN_FLIGHT, Until::Elapsed(slice));
    if bench.wants(to_one) {
        let request = &mut requests[MODELS / 2];
        let pairs = alternate(bench.plan(), &mut baseline, |slice| {
            throughput(&mut queue, request, IN_FLIGHT, Until::Elapsed(slice))
        });
        bench.add_pairs(to_one.into(), &pairs, Goal::RatioAtLeast(0.9), "requests/s");
    }
    if bench.wants(to_all) {
        let mut turn = 0;
        let pairs = alternate(bench.plan(), &mut baseline, |slice| {
            let submit = |queue: &Queue<'_>| {
                turn = (turn + 1) % MODELS;
                queue.submit(&mut requests[turn], 0)
            };
            closed_loop(&mut queue, IN_FLIGHT, Until::Elapsed(slice), submit, |_| ())
        });
        bench.add_pairs(to_all.into(), &pairs, Goal::None, "requests/s");
    }
}

/// Several threads, each with a completion queue of its own, against one; the requests in flight are shared out.
fn producers(bench: &mut Bench) {
    for count in [2, 4, 8] {
        let name = format!("tiny, 256 in flight, {count} producers against one");
        if !bench.wants(&name) {
            continue;
        }
        let engine = Engine::new();
        let handle = engine.load_as(&TINY, TINY.name);
        let mut queues: Vec<_> =
            (0..count).map(|_| (Queue::new(&engine, 4096), Request::new(handle, &TINY))).collect();
        let mut single = (Queue::new(&engine, 4096), Request::new(handle, &TINY));
        let pairs = alternate(
            bench.plan(),
            |slice| together(std::slice::from_mut(&mut single), slice),
            |slice| together(&mut queues, slice),
        );
        bench.add_pairs(name, &pairs, Goal::None, "requests/s");
    }
}

fn together(producers: &mut [(Queue<'_>, Request)], slice: Duration) -> f64 {
    let each = 256 / producers.len();
    std::thread::scope(|scope| {
        let threads: Vec<_> = producers
            .iter_mut()
            .map(|(queue, request)| {
                scope.spawn(move || throughput(queue, request, each, Until::Elapsed(slice)))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
    })
}
