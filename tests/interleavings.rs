//! Every accepted ticket gets exactly one terminal event, whatever happens at the same time: submitting,
//! cancelling, deadlines, failing runs, polling, pumping and shutting down, from many threads and at random.
//!
//! `BLAZE_SEED=N cargo test --test interleavings` begins with the round of a failure's seed; `BLAZE_ROUNDS=N`
//! says how many follow it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::clock::now_ns;
use blaze::engine::{Engine, Event, EventKind, ModelId, Queue, RequestDescription};
use blaze::error::Status;
use common::{Answer, Random, Tensor, engine, f32s, load_json, must_end, request};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const ROUNDS: u64 = 60;
const SUBMITTERS: usize = 2;
const SUBMITS: usize = 200;

/// What is known of an accepted request.
struct Accepted {
    ticket: u64,
    /// Which of its submitter's inputs it has, and the number of its first row: see `inputs`.
    user_data: u64,
    borrowed: bool,
    deadline_ns: u64,
    cancels: u32,
}

/// One round's engine, and what its threads note down.
struct Round {
    engine: Engine,
    model: ModelId,
    queues: [Queue; 2],
    accepted: Mutex<Vec<Accepted>>,
    events: Mutex<Vec<(u64, Event)>>,
    infers: Mutex<Vec<Status>>,
    refused: Mutex<Vec<Status>>,
    over: AtomicBool,
}

/// A model that fails now and then, and an engine with few or many threads and little or much room.
fn configuration(random: &mut Random) -> (Value, Value) {
    let threads = [json!(null), json!(0), json!(1), json!(2)][random.below(4) as usize].clone();
    let mut faults = vec![];
    for kind in ["error", "panic", "out_of_memory", "slow"] {
        if random.once_in(3) {
            faults.push(json!({"kind": kind, "after": random.below(9), "every": 5 + random.below(20), "latency_us": 900}));
        }
    }
    if threads != 0 && random.once_in(3) {
        // Only a thread of the engine's own lets go of what nobody wants any more.
        faults.push(json!({"kind": "hang", "after": random.below(50), "every": 40, "count": 2}));
    }
    let steps = if random.once_in(3) { 1 + random.below(6) } else { 0 };
    let lanes = 1 + if steps > 0 { 0 } else { random.below(3) };
    let model = json!({
        "name": "m", "backend": "mock", "lanes": lanes,
        "batching": {"max_rows": 1 + random.below(20), "max_delay_us": random.below(300)},
        "mock": {"latency_us": random.below(2) * random.below(200), "faults": faults, "steps": steps},
    });
    (json!({"threads": threads, "queue": {"capacity": 8 + random.below(200)}}), model)
}

/// One request of each submitter after the other: one to three rows, and every element a number of its own.
fn inputs() -> Vec<Tensor> {
    let tensor = |index: usize| {
        let rows = 1 + index % 3;
        let values: Vec<f32> = (0..4 * rows).map(|element| (16 * index + element) as f32).collect();
        f32s(&[rows as i64, 4], &values)
    };
    (0..SUBMITTERS * SUBMITS).map(tensor).collect()
}

impl Round {
    fn submit(&self, mut random: Random, inputs: &[Tensor], first: usize) {
        for (index, input) in inputs.iter().enumerate().skip(first).take(SUBMITS) {
            let borrowed = random.once_in(4);
            let deadline_ns = if random.once_in(4) { now_ns() + random.below(400_000) } else { 0 };
            let description = RequestDescription {
                level: random.below(4) as usize,
                deadline_ns,
                user_data: index as u64,
                inputs: [if borrowed { input.borrowed_input() } else { input.input() }].into_iter().collect(),
                ..request(self.model, &[])
            };
            match self.engine.submit(description, &self.queues[random.below(2) as usize]) {
                Ok(ticket) => {
                    let user_data = index as u64;
                    let accepted = Accepted { ticket, user_data, borrowed, deadline_ns, cancels: 0 };
                    self.accepted.lock().unwrap().push(accepted);
                }
                Err(error) => self.refused.lock().unwrap().push(error.status),
            }
            pause(&mut random);
        }
    }

    fn cancel(&self, mut random: Random) {
        while !self.over.load(Ordering::Acquire) {
            {
                let mut accepted = self.accepted.lock().unwrap();
                let latest = accepted.len() as u64;
                if latest > 0 {
                    let index = latest - 1 - random.below(latest.min(8));
                    let request = &mut accepted[index as usize];
                    request.cancels += u32::from(self.engine.cancel(request.ticket).is_ok());
                }
            }
            pause(&mut random);
        }
    }

    fn infer(&self, mut random: Random, inputs: &[Tensor]) {
        while !self.over.load(Ordering::Acquire) {
            let input = &inputs[random.below(inputs.len() as u64) as usize];
            let description = request(self.model, std::slice::from_ref(input));
            let status = match self.engine.infer(description, random.below(2_000_000)) {
                Ok(event) => Answer::from(event).status,
                Err(error) => error.status,
            };
            self.infers.lock().unwrap().push(status);
            pause(&mut random);
        }
    }

    /// Several threads may try at once; those that come second get nothing.
    fn poll(&self, mut random: Random) {
        while !self.over.load(Ordering::Acquire) {
            let queue = &self.queues[random.below(2) as usize];
            let limit = random.below(9) as usize;
            let take = |event| self.events.lock().unwrap().push((now_ns(), event));
            match random.once_in(2) {
                true => queue.poll(limit, take),
                false => queue.wait(limit, random.below(300_000), take),
            };
            if random.once_in(3) {
                self.events.lock().unwrap().iter_mut().for_each(check_and_release);
            }
        }
    }

    fn pump(&self, mut random: Random) {
        while !self.over.load(Ordering::Acquire) {
            let _ = self.engine.pump(random.below(300_000)); // fails, rightly, if the engine has threads
            pause(&mut random);
        }
    }

    fn shut_down(&self, mut random: Random) {
        std::thread::sleep(Duration::from_micros(random.below(8000)));
        self.engine.shutdown(random.below(2_000_000));
    }

    /// Requests that the model has still end as usual.
    fn unload(&self, mut random: Random) {
        std::thread::sleep(Duration::from_micros(random.below(8000)));
        self.engine.unload(self.model).unwrap();
    }

    fn take_all(&self) {
        for queue in &self.queues {
            while queue.poll(7, |event| self.events.lock().unwrap().push((now_ns(), event))) > 0 {}
        }
    }
}

/// Sometimes a little, mostly none, so that all kinds of orders come up.
fn pause(random: &mut Random) {
    match random.below(8) {
        0 => std::thread::sleep(Duration::from_micros(random.below(100))),
        1..4 => std::thread::yield_now(),
        _ => (),
    }
}

/// Every answer is that of its own input: y = 2x + 1. Texts are kept for `check_request`.
fn check_and_release((_, event): &mut (u64, Event)) {
    if event.kind == EventKind::Token {
        return;
    }
    let Some(payload) = event.payload.take() else { return };
    if event.status == Status::Ok {
        let kept = Event { payload: Some(payload), ..copy(event) };
        let answer = Answer::from(kept);
        let (x, rows) = (16 * event.user_data, 1 + event.user_data % 3);
        let want: Vec<f32> = (x..x + 4 * rows).map(|x| (2 * x + 1) as f32).collect();
        assert_eq!(answer.outputs, [f32s(&[rows as i64, 4], &want).named("y")]);
    }
}

/// An event without what it holds.
fn copy(event: &Event) -> Event {
    Event { payload: None, ..*event }
}

fn play(seed: u64) {
    let mut random = Random::new(seed);
    let (engine_config, model_config) = configuration(&mut random);
    let steps = model_config["mock"]["steps"].as_u64().unwrap();
    let may_hang = model_config.to_string().contains("hang");
    let inputs = inputs(); // before the engine, and so dropped after it
    let engine = engine(engine_config.clone());
    let model = load_json(&engine, model_config).unwrap();
    let mut queue = || engine.create_queue(2 + random.below(60) as u32).unwrap();
    let queues = [queue(), queue()];
    let round = Round {
        engine,
        model,
        queues,
        accepted: Mutex::default(),
        events: Mutex::default(),
        infers: Mutex::default(),
        refused: Mutex::default(),
        over: AtomicBool::new(false),
    };
    let mut fork = || Random::new(random.next());
    std::thread::scope(|scope| {
        let (round, inputs) = (&round, inputs.as_slice());
        let mut workers = Vec::new();
        for submitter in 0..SUBMITTERS {
            let random = fork();
            workers.push(scope.spawn(move || round.submit(random, inputs, submitter * SUBMITS)));
        }
        let (end, random) = (fork().below(4), fork());
        match end {
            0 if !may_hang => workers.push(scope.spawn(move || round.unload(random))),
            1 | 2 => workers.push(scope.spawn(move || round.shut_down(random))),
            _ => (),
        }
        for _ in 0..2 {
            let (a, b, c, d) = (fork(), fork(), fork(), fork());
            scope.spawn(move || round.poll(a));
            scope.spawn(move || round.cancel(b));
            scope.spawn(move || round.infer(c, inputs));
            if engine_config["threads"] == 0 {
                scope.spawn(move || round.pump(d));
            }
        }
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        round.over.store(true, Ordering::Release);
        assert!(ended.iter().all(Result::is_ok));
    });
    round.engine.shutdown(0);
    round.take_all();
    check_metrics(&round);
    check(round, steps);
}

fn check_metrics(round: &Round) {
    let metrics = round.engine.metrics();
    let ended = metrics.ok + metrics.failed + metrics.cancelled + metrics.expired + metrics.shut_down;
    assert_eq!((metrics.in_flight, metrics.accepted), (0, ended));
    let cancelled = round.accepted.lock().unwrap().iter().filter(|request| request.cancels > 0).count();
    assert_eq!(metrics.cancelled, cancelled as u64);
}

/// After the shutdown all terminal events are there; after the engine's end all buffers are released.
fn check(round: Round, steps: u64) {
    let terminal = |events: &[(u64, Event)]| {
        let done = events.iter().filter(|(_, event)| event.kind == EventKind::Done);
        done.map(|(_, event)| event.ticket).collect::<Vec<_>>()
    };
    let before = terminal(&round.events.lock().unwrap()).len();
    let Round { engine, queues, accepted, events, infers, refused, .. } = round;
    drop(engine);
    let mut events = events.into_inner().unwrap();
    for queue in &queues {
        while queue.poll(7, |event| events.push((now_ns(), event))) > 0 {}
        assert!(!queue.is_busy());
    }
    events.iter_mut().for_each(check_and_release); // outlives the engine
    let accepted = accepted.into_inner().unwrap();
    assert_eq!((before, terminal(&events).len()), (accepted.len(), accepted.len()), "terminal events");

    let mut by_ticket: HashMap<u64, Vec<&(u64, Event)>> = HashMap::new();
    events.iter().for_each(|event| by_ticket.entry(event.1.ticket).or_default().push(event));
    assert_eq!(by_ticket.len(), accepted.len(), "a ticket, or events of no ticket");
    for request in &accepted {
        check_request(request, &by_ticket[&request.ticket], steps);
    }
    let refusals = [Status::QueueFull, Status::ShutDown, Status::NotFound];
    assert!(refused.into_inner().unwrap().iter().all(|status| refusals.contains(status)));
    // Nobody has the tickets of `infer`, so nobody can have cancelled them.
    assert!(!infers.into_inner().unwrap().contains(&Status::Cancelled), "infer: cancelled by nobody");
}

/// A request's events are one that is terminal, with a cause, and one more only if that said so. Before it comes what the
/// request has said, with no gap, and all of it if it ended well.
fn check_request(request: &Accepted, events: &[&(u64, Event)], steps: u64) {
    let is_said = |event: &Event| matches!(event.kind, EventKind::Token | EventKind::Progress);
    let (said, events) = events.split_at(events.iter().take_while(|(_, event)| is_said(event)).count());
    let (at_ns, first) = events[0];
    let status = first.status;
    let story = || format!("request {}: {status:?}, {} cancels", request.user_data, request.cancels);
    let text: String = said.iter().filter_map(|(_, event)| event.payload.as_ref()?.text()).collect();
    let all: String = (1..=steps).map(|step| format!("step {step} ")).collect();
    assert!(all.starts_with(&text), "{}: {text}", story());
    assert!(status != Status::Ok || text == all, "{}: {text}", story());
    assert!(
        said.iter().all(|(_, event)| event.flags.more && event.user_data == request.user_data),
        "{}",
        story()
    );
    assert_eq!((first.kind, first.user_data), (EventKind::Done, request.user_data), "{}", story());
    assert_eq!(first.flags.more, !first.flags.buffers_released, "{}", story());
    assert_eq!(events.len(), 1 + usize::from(first.flags.more), "{}", story());
    if let Some((_, second)) = events.get(1) {
        assert!(request.borrowed && second.kind == EventKind::BuffersReleased, "{}", story());
        assert!(second.flags.buffers_released && !second.flags.more, "{}", story());
    }
    assert_eq!(request.cancels, u32::from(status == Status::Cancelled), "{}", story());
    match status {
        Status::Expired => assert!((1..=*at_ns).contains(&request.deadline_ns), "{}", story()),
        Status::Ok | Status::Cancelled | Status::ShutDown => (),
        Status::BackendFailed | Status::Internal | Status::OutOfMemory => (),
        _ => panic!("{}", story()),
    }
}

#[test]
fn every_ticket_has_exactly_one_terminal_event() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("BLAZE_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    for seed in first..first + number("BLAZE_ROUNDS").unwrap_or(ROUNDS) {
        let ended = std::panic::catch_unwind(|| must_end("the round", move || play(seed)));
        assert!(ended.is_ok(), "it failed with BLAZE_SEED={seed}; what follows from it may vary");
    }
}
