//! In steady state a request allocates nothing: counted by an allocator, in all threads of the process.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::config::RouteConfig;
use blaze::engine::{Engine, ModelId, Queue, RequestDescription};
use common::{A_MINUTE, Tensor, engine, f32s, load, load_json, request};
use serde_json::json;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// The system's allocator, with a count. ONNX Runtime's own allocator is not seen.
struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);
/// What is counted is the whole process's, so one test counts at a time.
static TURN: Mutex<()> = Mutex::new(());

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(u64::from(COUNTING.load(SeqCst)), SeqCst);
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations during `work`.
fn count(work: impl FnOnce()) -> u64 {
    COUNT.store(0, SeqCst);
    COUNTING.store(true, SeqCst);
    work();
    COUNTING.store(false, SeqCst);
    COUNT.load(SeqCst)
}

/// Keeps `in_flight` requests in flight until `total` have ended, and drops every event.
fn closed_loop(engine: &Engine, queue: &Queue, model: ModelId, input: &Tensor, in_flight: u32, total: u32) {
    let (mut sent, mut ended) = (0, 0);
    while ended < total {
        while sent - ended < in_flight && sent < total {
            let mut description = RequestDescription { model, level: 1, ..RequestDescription::default() };
            description.inputs.push(input.input());
            engine.submit_ref(&description, queue).unwrap();
            sent += 1;
        }
        let taken = queue.wait(256, A_MINUTE, |event| assert_eq!(event.outputs_count, 1));
        assert!(taken > 0, "an event comes");
        ended += taken as u32;
    }
}

/// An engine without what is done ten times a second however many requests there are.
fn quiet() -> Engine {
    engine(json!({"metrics": {"trends": false}}))
}

fn check(engine: &Engine, model: ModelId, input: &Tensor) {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let queue = engine.create_queue(1024).unwrap();
    // One in flight needs two wake-ups for each request, which take long on a busy machine.
    for (in_flight, total) in [(1, 20_000), (64, 100_000), (256, 100_000)] {
        closed_loop(engine, &queue, model, input, in_flight, total / 5);
        // A pool still grows by a batch now and then, when a lane falls behind as it never has on a busy machine: that is
        // a few hundred allocations. One for each request would be `total`, one for each batch at least 1,500.
        let mut counts = Vec::new();
        let at_rest = (0..10).any(|_| {
            counts.push(count(|| closed_loop(engine, &queue, model, input, in_flight, total)));
            counts.last().is_some_and(|&count| count < 1_000)
        });
        assert!(at_rest, "{in_flight} in flight: {counts:?} allocations in {total} requests");
    }
}

#[test]
fn submit_run_and_release_allocate_nothing() {
    let engine = quiet();
    check(&engine, load(&engine, "tiny"), &f32s(&[1, 4], &[1.0; 4]));
    check(&engine, load(&engine, "small"), &f32s(&[1, 64], &[0.5; 64]));
}

#[test]
fn neither_the_mock_backend_nor_a_model_that_is_not_batched_allocates() {
    let engine = quiet();
    let joined = load_json(&engine, json!({"name": "joined", "backend": "mock"})).unwrap();
    check(&engine, joined, &f32s(&[1, 4], &[1.0; 4]));
    let single =
        load_json(&engine, json!({"name": "single", "backend": "mock", "batching": {"max_rows": 1}}))
            .unwrap();
    check(&engine, single, &f32s(&[1, 4], &[1.0; 4]));
}

#[test]
fn a_route_allocates_nothing() {
    let engine = quiet();
    let targets = ["a", "b", "c", "d"].map(|name| {
        load_json(&engine, json!({"name": name, "backend": "mock"})).unwrap();
        json!({"model": name})
    });
    for strategy in ["round_robin", "adaptive"] {
        let config = json!({"name": strategy, "strategy": strategy, "targets": targets});
        let route = engine.create_route(RouteConfig::from_json(&config.to_string()).unwrap()).unwrap();
        check(&engine, route, &f32s(&[1, 4], &[1.0; 4]));
        let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let inputs = [f32s(&[1, 4], &[1.0; 4])];
        let infer = || (0..1000).for_each(|_| drop(engine.infer(request(route, &inputs), A_MINUTE).unwrap()));
        infer();
        assert!([(); 3].map(|()| count(infer)).contains(&0), "{strategy}");
    }
}

#[test]
fn infer_allocates_nothing() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // With all that an engine does by default: in most of the turns its observer, ten times a second, has nothing to do.
    let engine = engine(json!({}));
    let (model, input) = (load(&engine, "tiny"), [f32s(&[1, 4], &[1.0; 4])]);
    let infer = || (0..1000).for_each(|_| drop(engine.infer(request(model, &input), A_MINUTE).unwrap()));
    infer();
    assert!((0..50).any(|_| count(infer) == 0));
}
