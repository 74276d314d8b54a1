//! Whatever leaves memory and comes back, however the budget changes and whoever loads, unloads, cancels, expires or
//! shuts down meanwhile: every ticket has exactly one terminal event, answers are right, nothing is over budget that
//! could have been evicted, and in the end nothing is taken and no thread is left.
//!
//! `BLAZE_SEED` and `BLAZE_ROUNDS` are as for `interleavings`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::clock::now_ns;
use blaze::config::ModelConfig;
use blaze::engine::{Engine, Event, EventKind, Queue, RequestDescription};
use blaze::error::{Error, Status};
use common::{Answer, Random, Tensor, engine, f32s, load_json, model_path, must_end, request};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: u64 = 30;
const SUBMITTERS: usize = 2;
const SUBMITS: usize = 150;
/// User data of jobs.
const JOB: u64 = 1 << 40;

/// Models that compute the same, and what is asked of them.
struct Family {
    /// The first half stays loaded, the others come and go.
    configs: Vec<Value>,
    asked: Vec<(Tensor, Vec<f32>)>,
    /// With the least of them nothing may be over budget.
    budgets: [u64; 3],
}

fn mocks(random: &mut Random) -> Family {
    let mut config = |index: usize| {
        let (memory_bytes, load_latency_us) =
            ((1 + random.below(3)) << 20, random.below(2) * random.below(800));
        json!({
            "name": format!("m{index}"), "backend": "mock", "lanes": 1 + random.below(3),
            "progress": random.once_in(2),
            "batching": {"max_rows": 1 + random.below(9), "max_delay_us": random.below(300)},
            "mock": {"memory_bytes": memory_bytes, "load_latency_us": load_latency_us,
                     "latency_us": random.below(2) * random.below(200)},
        })
    };
    let configs = (0..8).map(&mut config).collect();
    let asked = (0..16).map(|x| {
        let x = x as f32;
        (f32s(&[1, 4], &[x, 1.0, 2.0, 3.0]), vec![2.0 * x + 1.0, 3.0, 5.0, 7.0])
    });
    Family { configs, asked: asked.collect(), budgets: [8 << 20, 10 << 20, 64 << 20] }
}

/// Several names of one file have their session in common.
fn perceptrons(random: &mut Random) -> Family {
    let mut config = |index: usize| {
        json!({
            "name": format!("m{index}"), "path": model_path("small"), "progress": random.once_in(2),
            "batching": {"max_rows": 1 + (index / 4 % 2) * 7}, "warmup": {"enabled": random.once_in(2)},
        })
    };
    let configs: Vec<Value> = (0..6).map(&mut config).collect();
    let engine = engine(json!({"threads": 1}));
    let model = load_json(&engine, configs[0].clone()).unwrap();
    let asked = (0..8).map(|number| {
        let input = f32s(
            &[1, 64],
            &(0..64).map(|at| ((at * 7 + number * 13) % 17) as f32 / 17.0).collect::<Vec<_>>(),
        );
        let want = common::run(&engine, model, std::slice::from_ref(&input))[0].f32s();
        (input, want)
    });
    Family { asked: asked.collect(), configs, budgets: [4 << 20, 5 << 20, 64 << 20] }
}

struct Round {
    engine: Engine,
    family: Family,
    queues: [Queue; 2],
    tickets: Mutex<Vec<u64>>,
    events: Mutex<Vec<Event>>,
    terminal: Mutex<HashMap<u64, u32>>,
    jobs: AtomicU64,
    over: AtomicBool,
    pumped: bool,
}

impl Round {
    fn any_model(&self, random: &mut Random) -> Option<u64> {
        let name = format!("m{}", random.below(self.family.configs.len() as u64));
        self.engine.find(&name).ok()
    }

    fn submit(&self, mut random: Random) {
        for _ in 0..SUBMITS {
            let Some(model) = self.any_model(&mut random) else { continue };
            let index = random.below(self.family.asked.len() as u64);
            let input = &self.family.asked[index as usize].0;
            let deadline_ns = if random.once_in(5) { now_ns() + random.below(2_000_000) } else { 0 };
            let borrowed = random.once_in(5);
            let description = RequestDescription {
                level: random.below(4) as usize,
                deadline_ns,
                user_data: index,
                inputs: [if borrowed { input.borrowed_input() } else { input.input() }].into_iter().collect(),
                ..request(model, &[])
            };
            match self.engine.submit(description, &self.queues[random.below(2) as usize]) {
                Ok(ticket) => self.tickets.lock().unwrap().push(ticket),
                Err(error) => self.check_refusal(&error),
            }
            pause(&mut random);
        }
    }

    fn infer(&self, mut random: Random) {
        while !self.over.load(Ordering::Acquire) {
            let Some(model) = self.any_model(&mut random) else { continue };
            let (input, want) = &self.family.asked[random.below(self.family.asked.len() as u64) as usize];
            let timeout_ns = if random.once_in(3) { random.below(3_000_000) } else { common::A_MINUTE };
            match self.engine.infer(request(model, std::slice::from_ref(input)), timeout_ns) {
                Ok(event) => assert_close(&Answer::from(event).outputs[0].f32s(), want),
                Err(error) if error.status == Status::Timeout => (),
                Err(error) => self.check_refusal(&error),
            }
        }
    }

    fn cancel(&self, mut random: Random) {
        while !self.over.load(Ordering::Acquire) {
            let latest = {
                let tickets = self.tickets.lock().unwrap();
                let back = random.below(8) as usize;
                tickets.len().checked_sub(back + 1).map(|at| tickets[at])
            };
            if let Some(ticket) = latest {
                let _ = self.engine.cancel(ticket);
            }
            pause(&mut random);
        }
    }

    fn note(&self, event: Event) {
        if event.kind == EventKind::Done {
            *self.terminal.lock().unwrap().entry(event.ticket).or_default() += 1;
        }
        self.events.lock().unwrap().push(event);
    }

    fn poll(&self, mut random: Random) {
        while !self.over.load(Ordering::Acquire) {
            let queue = &self.queues[random.below(2) as usize];
            queue.wait(random.below(9) as usize, random.below(300_000), |event| self.note(event));
            if random.once_in(6) {
                self.release();
            }
        }
    }

    fn check_refusal(&self, error: &Error) {
        let allowed = [Status::QueueFull, Status::ShutDown, Status::NotFound];
        assert!(allowed.contains(&error.status) || self.may_be_short(error.status), "{error}");
    }

    /// Without threads an unload in the background waits for the host's, and with it the room that it would make.
    fn may_be_short(&self, status: Status) -> bool {
        self.pumped && status == Status::OverBudget
    }

    fn release(&self) {
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        for event in events {
            if event.kind == EventKind::Done && event.user_data < JOB && event.outputs_count > 0 {
                assert_eq!(event.status, Status::Ok);
                let want = &self.family.asked[event.user_data as usize].1;
                assert_close(&Answer::from(event).outputs[0].f32s(), want);
            } else {
                let text = event.payload.as_ref().and_then(|payload| payload.text());
                let allowed = [Status::Ok, Status::Cancelled, Status::Expired, Status::ShutDown];
                let fine = allowed.contains(&event.status) || self.may_be_short(event.status);
                assert!(fine, "{:?}: {text:?}", event.status);
            }
        }
    }

    fn come_and_go(&self, mut random: Random) {
        while !self.over.load(Ordering::Acquire) {
            let half = self.family.configs.len() / 2;
            let index = half + random.below(half as u64) as usize;
            let config = ModelConfig::from_json(&self.family.configs[index].to_string()).unwrap();
            let queue = &self.queues[random.below(2) as usize];
            let own = self.engine.find(&format!("m{index}"));
            let job = JOB + self.jobs.fetch_add(1, Ordering::Relaxed);
            let ticket = match (random.below(4), own) {
                (0, _) => {
                    self.engine.load(config, None).err().iter().for_each(|error| self.check_refusal(error));
                    continue;
                }
                (1, Ok(model)) => {
                    self.engine.unload(model).err().iter().for_each(|error| self.check_refusal(error));
                    continue;
                }
                (2, Ok(model)) => self.engine.unload_async(model, queue),
                _ => self.engine.load_async(config, queue, job),
            };
            match ticket {
                Ok(ticket) => {
                    self.tickets.lock().unwrap().push(ticket);
                    if random.once_in(3) {
                        let _ = self.engine.cancel(ticket);
                    }
                }
                Err(error) => self.check_refusal(&error),
            }
            pause(&mut random);
        }
    }

    fn squeeze(&self, mut random: Random) {
        while !self.over.load(Ordering::Acquire) {
            match random.below(5) {
                0 => self.engine.trim(),
                1 => drop(self.engine.health_json()),
                2 => drop(self.engine.metrics_json()),
                _ => self.engine.set_budget(Some(self.family.budgets[random.below(3) as usize])),
            }
            std::thread::sleep(Duration::from_micros(random.below(2000)));
        }
    }

    fn pump(&self, mut random: Random) {
        while !self.over.load(Ordering::Acquire) {
            self.engine.pump(random.below(300_000)).unwrap();
            pause(&mut random);
        }
    }
}

fn assert_close(got: &[f32], want: &[f32]) {
    let close = got.len() == want.len() && got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-4);
    assert!(close, "{got:?} {want:?}");
}

fn pause(random: &mut Random) {
    match random.below(8) {
        0 => std::thread::sleep(Duration::from_micros(random.below(200))),
        1..4 => std::thread::yield_now(),
        _ => (),
    }
}

fn play(seed: u64, family: fn(&mut Random) -> Family) {
    let mut random = Random::new(seed);
    let threads = [json!(null), json!(0), json!(1), json!(2)][random.below(4) as usize].clone();
    let family = family(&mut random);
    let budget = family.budgets[random.below(2) as usize];
    let concurrency = 1 + random.below(3);
    let engine = engine(json!({
        "threads": threads, "queue": {"capacity": 40 + random.below(400)},
        "memory": {"budget_bytes": budget}, "loading": {"concurrency": concurrency},
    }));
    for config in &family.configs[..family.configs.len() / 2] {
        load_json(&engine, config.clone()).unwrap();
    }
    let queues = [engine.create_queue(400).unwrap(), engine.create_queue(30).unwrap()];
    let round = Round {
        engine,
        family,
        queues,
        tickets: Mutex::default(),
        events: Mutex::default(),
        terminal: Mutex::default(),
        jobs: AtomicU64::new(0),
        over: AtomicBool::new(false),
        pumped: threads == 0,
    };
    let mut fork = || Random::new(random.next());
    std::thread::scope(|scope| {
        let round = &round;
        let mut workers = Vec::new();
        for _ in 0..SUBMITTERS {
            let random = fork();
            workers.push(scope.spawn(move || round.submit(random)));
        }
        if fork().once_in(3) {
            let mut random = fork();
            workers.push(scope.spawn(move || {
                std::thread::sleep(Duration::from_micros(random.below(20_000)));
                round.engine.shutdown(random.below(5_000_000));
            }));
        }
        let works: [fn(&Round, Random); 6] =
            [Round::poll, Round::poll, Round::cancel, Round::infer, Round::come_and_go, Round::squeeze];
        for work in works {
            let random = fork();
            scope.spawn(move || work(round, random));
        }
        if threads == 0 {
            for _ in 0..2 {
                let random = fork();
                scope.spawn(move || round.pump(random));
            }
        }
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        round.over.store(true, Ordering::Release);
        assert!(ended.iter().all(Result::is_ok));
    });
    round.engine.shutdown(0);
    check(round, threads == 0);
}

fn check(round: Round, pumped: bool) {
    for queue in &round.queues {
        while queue.poll(7, |event| round.note(event)) > 0 {}
    }
    let tickets = round.tickets.lock().unwrap().clone();
    {
        let terminal = round.terminal.lock().unwrap();
        assert_eq!(terminal.len(), tickets.len(), "tickets with terminal events, and tickets");
        for ticket in &tickets {
            assert_eq!(terminal.get(ticket), Some(&1), "{ticket:#x}");
        }
    }
    round.release();
    // Nothing is taken once all models are unloaded. What runs in the background may still be about to end.
    let began = Instant::now();
    let names = || (0..round.family.configs.len()).map(|index| format!("m{index}"));
    loop {
        while pumped && round.engine.pump(0).unwrap() > 0 {}
        // The second event of a request that lends its memory comes when its run is over.
        for queue in &round.queues {
            while queue.poll(7, |event| assert_eq!(event.kind, EventKind::BuffersReleased)) > 0 {}
        }
        for id in names().filter_map(|name| round.engine.find(&name).ok()) {
            let _ = round.engine.unload(id);
        }
        round.engine.trim();
        let used = round.engine.health().memory_bytes;
        if used == 0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{used} bytes: {}", round.engine.health_json());
        std::thread::sleep(Duration::from_millis(1));
    }
    let Round { engine, queues, .. } = round;
    drop(engine);
    for queue in &queues {
        // A request that lends its memory has a second event, when its run is over.
        while queue.poll(7, |event| assert_eq!(event.kind, EventKind::BuffersReleased)) > 0 {}
        assert!(!queue.is_busy());
    }
    assert_no_threads();
}

/// The system forgets a thread a moment after it was joined.
fn assert_no_threads() {
    let Ok(_) = std::fs::read_dir("/proc/self/task") else { return };
    let names = || -> Vec<String> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let comm = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
        tasks.filter_map(comm).filter(|name| name.starts_with("blaze-")).collect()
    };
    let began = Instant::now();
    while !names().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", names());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One after the other: no other test's threads are there.
#[test]
fn models_come_and_go_and_nothing_is_lost() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("BLAZE_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    let rounds = number("BLAZE_ROUNDS").unwrap_or(ROUNDS);
    for (kind, family, rounds) in
        [("mock", mocks as fn(&mut Random) -> Family, rounds), ("onnx", perceptrons, rounds / 3)]
    {
        for seed in first..first + rounds {
            let ended = std::panic::catch_unwind(|| must_end("the round", move || play(seed, family)));
            assert!(ended.is_ok(), "{kind}: it failed with BLAZE_SEED={seed}; what follows from it may vary");
        }
    }
}
