//! Things that happen at the same time, one at a time: what `tests/interleavings.rs` finds by chance, or might.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::engine::{Engine, ModelId, Queue};
use blaze::error::Status;
use common::{A_MINUTE, Answer, Random, Tensor, engine, f32s, load_json, must_end, next_event, request};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Loads a mock model; `config` has what is not the default.
fn load_mock(engine: &Engine, name: &str, mut config: Value) -> ModelId {
    config["name"] = name.into();
    config["backend"] = "mock".into();
    load_json(engine, config).unwrap()
}

fn input() -> [Tensor; 1] {
    [f32s(&[1, 4], &[0.0; 4])]
}

fn submit(engine: &Engine, model: ModelId, queue: &Queue) -> u64 {
    engine.submit(request(model, &input()), queue).unwrap()
}

/// Returns when everything that was submitted is in a run.
fn wait_until_inside(engine: &Engine) {
    while engine.metrics().queue_depth > 0 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20)); // from the queue into the run
}

/// The next event, without `wait`, which would work for an engine without threads.
fn poll_one(queue: &Queue) -> Answer {
    let mut taken = None;
    while queue.poll(1, |event| taken = Some(Answer::from(event))) == 0 {
        std::thread::yield_now();
    }
    taken.unwrap()
}

/// Also the second one: a consumer that is turned away does not let the next one in.
#[test]
fn a_queue_has_one_consumer_at_a_time() {
    let engine = engine(json!({}));
    let (model, queue) = (load_mock(&engine, "m", json!({})), engine.create_queue(4).unwrap());
    for _ in 0..3 {
        submit(&engine, model, &queue);
    }
    engine.shutdown(A_MINUTE);
    let others = |_| [queue.poll(1, drop), queue.poll(1, drop), queue.wait(1, 1000, drop)];
    let mut meanwhile = [9; 3];
    assert_eq!(queue.poll(1, |event| meanwhile = others(event)), 1);
    assert_eq!(meanwhile, [0; 3]);
    assert_eq!(queue.poll(9, drop), 2);
}

/// The first requests of a batch go away while a lane is still collecting the others.
#[test]
fn cancelling_some_of_a_batch_leaves_the_others_alone() {
    let engine = engine(json!({"threads": 0}));
    let (model, queue) = (load_mock(&engine, "m", json!({})), engine.create_queue(64).unwrap());
    let mut random = Random::new(5);
    for _ in 0..500 {
        let tickets = [0; 64].map(|_| submit(&engine, model, &queue));
        let cancelled = &tickets[..48];
        let (ready, spin) = (AtomicBool::new(false), random.below(2000));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ready.store(true, Ordering::Release);
                (0..spin).for_each(|_| std::hint::spin_loop());
                for &ticket in cancelled {
                    let _ = engine.cancel(ticket); // unless it has ended
                }
            });
            while !ready.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            while engine.pump(0).unwrap() > 0 {}
        });
        for answer in [0; 64].map(|_| next_event(&queue)) {
            let may_be_cancelled = cancelled.contains(&answer.ticket) && answer.status == Status::Cancelled;
            assert!(
                answer.status == Status::Ok || may_be_cancelled,
                "{:?}: {:?}",
                answer.status,
                answer.text
            );
        }
    }
}

/// A batch that failed is run again one by one; then each request's run is its own.
#[test]
fn a_request_that_is_run_again_alone_can_be_cancelled() {
    must_end("pumping", || {
        let engine = engine(json!({"threads": 0}));
        let faults = json!([{"kind": "error", "count": 1}, {"kind": "hang", "after": 2, "count": 1}]);
        let model = load_mock(&engine, "m", json!({"mock": {"faults": faults}}));
        let queue = engine.create_queue(4).unwrap();
        // Run 0, of all three, fails; run 1, of the first, works; run 2, of the second, hangs; run 3 works.
        let tickets = [0; 3].map(|_| submit(&engine, model, &queue));
        std::thread::scope(|scope| {
            scope.spawn(|| while engine.pump(0).unwrap() > 0 {});
            let first = poll_one(&queue);
            assert_eq!((first.ticket, first.status), (tickets[0], Status::Ok));
            // Until the second is in its run: cancelled before that it would not run, and run 2 would be the third's.
            std::thread::sleep(Duration::from_millis(500));
            engine.cancel(tickets[1]).unwrap();
            let (second, third) = (poll_one(&queue), poll_one(&queue));
            assert_eq!((second.ticket, second.status), (tickets[1], Status::Cancelled));
            assert_eq!((third.ticket, third.status), (tickets[2], Status::Ok));
        });
    });
}

/// With "threads": 1 one run at a time is computed; whoever waits for its turn still waits no longer than it said.
#[test]
fn a_call_that_waits_for_another_models_run_ends_at_its_timeout() {
    must_end("infer", || {
        let engine = engine(json!({"threads": 1}));
        let slow = load_mock(&engine, "slow", json!({"mock": {"faults": [{"kind": "hang"}]}}));
        let (quick, queue) = (load_mock(&engine, "quick", json!({})), engine.create_queue(4).unwrap());
        submit(&engine, slow, &queue);
        wait_until_inside(&engine);
        let error = engine.infer(request(quick, &input()), 50_000_000).err().unwrap();
        assert_eq!(error.status, Status::Timeout);
    });
}

/// One thread of the host's is inside a run; another unloads the model, for which a request is still queued.
#[test]
fn a_model_that_another_thread_pumps_can_be_unloaded() {
    must_end("unloading", || {
        let engine = engine(json!({"threads": 0}));
        let slow = json!({"batching": {"max_rows": 1}, "mock": {"latency_us": 200_000}});
        let (model, queue) = (load_mock(&engine, "m", slow), engine.create_queue(4).unwrap());
        submit(&engine, model, &queue);
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(engine.pump(0).unwrap(), 1));
            wait_until_inside(&engine);
            submit(&engine, model, &queue);
            engine.unload(model).unwrap();
        });
        assert_eq!([poll_one(&queue).status, poll_one(&queue).status], [Status::Ok; 2]);
    });
}

/// While it is cancelled another one joins its batch, which starts to run.
#[test]
fn a_request_that_is_cancelled_does_not_take_another_with_it() {
    must_end("cancelling", || {
        let engine = engine(json!({"threads": 2}));
        let model =
            load_mock(&engine, "m", json!({"mock": {"latency_us": 5}, "batching": {"max_delay_us": 0}}));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let queue = engine.create_queue(1).unwrap();
                    while !over.load(Ordering::Acquire) {
                        let _ = engine.cancel(submit(&engine, model, &queue)); // unless it has ended
                        next_event(&queue);
                    }
                });
            }
            let queue = engine.create_queue(1).unwrap();
            let statuses: Vec<Status> = (0..10_000)
                .map(|_| {
                    submit(&engine, model, &queue);
                    next_event(&queue).status
                })
                .collect();
            over.store(true, Ordering::Release);
            assert!(statuses.iter().all(|&status| status == Status::Ok));
        });
    });
}
