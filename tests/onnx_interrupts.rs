//! Runs inside ONNX Runtime that nobody wants any more: `slow_loop` takes over an hour unless it is ended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::clock::now_ns;
use blaze::engine::{Engine, EventFlags, EventKind, ModelId, Queue, RequestDescription, Ticket};
use blaze::error::Status;
use common::{
    A_MINUTE, Tensor, engine, f32s, i64s, load_json, model_path, must_end, next_event, request, run,
    threaded_engine,
};
use serde_json::json;
use std::time::Duration;

const SOON: u64 = 200_000_000;

fn hour() -> [Tensor; 1] {
    [i64s(&[], &[1_000_000_000])]
}

fn load(engine: &Engine, lanes: u32) -> ModelId {
    load_json(engine, json!({"name": "slow_loop", "path": model_path("slow_loop"), "lanes": lanes})).unwrap()
}

/// Submits an hour's work, and returns when a lane is at it.
fn start(engine: &Engine, model: ModelId, queue: &Queue) -> Ticket {
    let ticket = engine.submit(request(model, &hour()), queue).unwrap();
    wait_until_inside(engine);
    ticket
}

fn wait_until_inside(engine: &Engine) {
    while engine.metrics().queue_depth > 0 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(50)); // from the queue into ONNX Runtime
}

/// Whether the lane is free again: a request that comes now is answered.
fn assert_works(engine: &Engine, model: ModelId) {
    assert_eq!(run(engine, model, &[i64s(&[], &[5])]), [f32s(&[], &[5.0]).named("y")]);
}

#[test]
fn a_cancelled_run_ends_at_once() {
    let engine = threaded_engine();
    let (model, queue) = (load(&engine, 1), engine.create_queue(4).unwrap());
    let ticket = start(&engine, model, &queue);
    engine.cancel(ticket).unwrap();
    let event = next_event(&queue);
    assert_eq!((event.kind, event.status, event.ticket), (EventKind::Done, Status::Cancelled, ticket));
    assert_works(&engine, model);
    assert_eq!(engine.cancel(ticket).unwrap_err().status, Status::NotFound);
    assert!(engine.health().ok, "ending a run is no fault of the model's");
}

#[test]
fn a_run_ends_at_its_deadline() {
    let engine = threaded_engine();
    let (model, queue) = (load(&engine, 1), engine.create_queue(4).unwrap());
    let inputs = hour();
    let deadline_ns = now_ns() + SOON;
    engine.submit(RequestDescription { deadline_ns, ..request(model, &inputs) }, &queue).unwrap();
    let event = next_event(&queue);
    assert!(now_ns() >= deadline_ns);
    assert_eq!((event.kind, event.status), (EventKind::Done, Status::Expired));
    assert_works(&engine, model);
    assert!(engine.health().ok);
}

#[test]
fn a_call_that_waits_ends_at_its_timeout() {
    let engine = threaded_engine();
    let model = load(&engine, 1);
    let error = engine.infer(request(model, &hour()), SOON).err().unwrap();
    assert_eq!(error.status, Status::Timeout);
    let deadline_ns = now_ns() + SOON;
    let inputs = hour();
    let sooner = RequestDescription { deadline_ns, ..request(model, &inputs) };
    assert_eq!(engine.infer(sooner, A_MINUTE).err().unwrap().status, Status::Expired);
    assert_works(&engine, model);
}

/// The host hears of the end at once, and of its buffers when ONNX Runtime has let go of them.
#[test]
fn borrowed_inputs_come_back_after_the_run() {
    let inputs = hour();
    let engine = threaded_engine();
    let (model, queue) = (load(&engine, 1), engine.create_queue(4).unwrap());
    let borrowing = RequestDescription {
        inputs: [inputs[0].borrowed_input()].into_iter().collect(),
        ..request(model, &[])
    };
    let ticket = engine.submit(borrowing, &queue).unwrap();
    wait_until_inside(&engine);
    engine.cancel(ticket).unwrap();
    let (first, second) = (next_event(&queue), next_event(&queue));
    assert_eq!((first.kind, first.status), (EventKind::Done, Status::Cancelled));
    assert_eq!(first.flags, EventFlags { more: true, buffers_released: false });
    assert_eq!((second.kind, second.ticket), (EventKind::BuffersReleased, ticket));
    assert_eq!(second.flags, EventFlags { more: false, buffers_released: true });
    drop(engine);
    assert!(!queue.is_busy());
}

#[test]
fn two_lanes_run_one_model_at_once() {
    let engine = threaded_engine();
    let (model, queue) = (load(&engine, 2), engine.create_queue(4).unwrap());
    let ticket = start(&engine, model, &queue);
    for _ in 0..3 {
        assert_works(&engine, model);
    }
    engine.submit(request(model, &[i64s(&[], &[7])]), &queue).unwrap();
    assert_eq!(next_event(&queue).outputs[0].f32s(), [7.0]);
    engine.cancel(ticket).expect("the first lane is still at it");
    assert_eq!(next_event(&queue).status, Status::Cancelled);
}

/// What waits behind the slow run is cancelled, expired or shut down without ever reaching a lane.
#[test]
fn queued_requests_end_without_waiting_for_the_lane() {
    let engine = threaded_engine();
    let (model, queue) = (load(&engine, 1), engine.create_queue(4).unwrap());
    let inputs = hour();
    start(&engine, model, &queue);
    let ticket = engine.submit(request(model, &inputs), &queue).unwrap();
    engine.cancel(ticket).unwrap();
    assert_eq!(next_event(&queue).status, Status::Cancelled);
    let deadline_ns = now_ns() + SOON;
    engine.submit(RequestDescription { deadline_ns, ..request(model, &inputs) }, &queue).unwrap();
    assert_eq!(next_event(&queue).status, Status::Expired);
    engine.submit(request(model, &inputs), &queue).unwrap();
    engine.shutdown(0);
    let statuses = [next_event(&queue).status, next_event(&queue).status];
    assert_eq!(statuses, [Status::ShutDown, Status::ShutDown]);
}

#[test]
fn dropping_an_engine_ends_the_runs_inside_it() {
    must_end("dropping the engine", || {
        let engine = threaded_engine();
        let (model, queue) = (load(&engine, 2), engine.create_queue(4).unwrap());
        for _ in 0..3 {
            engine.submit(request(model, &hour()), &queue).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
        drop(engine);
        let statuses = [next_event(&queue).status, next_event(&queue).status, next_event(&queue).status];
        assert_eq!(statuses, [Status::ShutDown; 3]);
    });
}

#[test]
fn a_drain_that_is_too_short_ends_the_runs_inside() {
    must_end("shutting down", || {
        let engine = threaded_engine();
        let (model, queue) = (load(&engine, 1), engine.create_queue(4).unwrap());
        start(&engine, model, &queue);
        engine.shutdown(SOON);
        assert_eq!(next_event(&queue).status, Status::ShutDown);
        assert_eq!(engine.submit(request(model, &hour()), &queue).unwrap_err().status, Status::ShutDown);
    });
}

/// Unloading waits for the model's requests, and cancelling them lets it go on.
#[test]
fn a_model_can_be_unloaded_once_its_run_is_cancelled() {
    must_end("unloading", || {
        let engine = threaded_engine();
        let (model, queue) = (load(&engine, 1), engine.create_queue(4).unwrap());
        let ticket = start(&engine, model, &queue);
        let unload = engine.unload_async(model, &queue).unwrap();
        engine.cancel(ticket).unwrap();
        let (first, second) = (next_event(&queue), next_event(&queue));
        assert_eq!((first.ticket, first.status), (ticket, Status::Cancelled));
        assert_eq!((second.ticket, second.status), (unload, Status::Ok));
        assert_eq!(engine.submit(request(model, &hour()), &queue).unwrap_err().status, Status::NotFound);
    });
}

/// Another thread of the host's can end what one thread is pumping.
#[test]
fn a_pumped_run_can_be_cancelled_from_another_thread() {
    must_end("pumping", || {
        let engine = engine(json!({"threads": 0}));
        let (model, queue) = (load(&engine, 1), engine.create_queue(4).unwrap());
        let ticket = engine.submit(request(model, &hour()), &queue).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                engine.cancel(ticket).unwrap();
            });
            assert_eq!(next_event(&queue).status, Status::Cancelled);
        });
    });
}
