//! One of four targets falls ill while the other three can just take what comes, and requests must be answered soon: how
//! many fail in all, whatever the target and the reason.

use crate::Bench;
use crate::abi::{Engine, Queue, Request, now_ns};
use crate::faults::{BASELINE, ills};
use crate::load::{Outcome, arrivals, open_loop};
use crate::mocks::{Switch, load, route};
use crate::report::Goal;
use serde_json::{Value, json};
use std::thread::{scope, sleep};
use std::time::Duration;

const LATENCY_US: u64 = 4000;
/// 85 % of what three targets can do.
const PER_SECOND: f64 = 3.0 * 250.0 * 0.85;
const DEADLINE: Duration = Duration::from_millis(50);
const ON: Duration = Duration::from_millis(500);

/// Without a configuration the host asks the models in turn itself.
fn run(config: Option<&Value>, fault: &Value, length: Duration) -> Vec<Outcome> {
    let switch = Switch::new("cascade");
    let mut fault = fault.clone();
    fault["while_exists"] = json!(switch.path());
    let engine = Engine::new(&json!({"threads": 8}));
    let faults = |index| if index == 1 { json!([fault]) } else { json!([]) };
    let models = [0, 1, 2, 3].map(|index| load(&engine, index, 1, LATENCY_US, faults(index)));
    let id = route(&engine, "route", &[1; 4], config.cloned().unwrap_or_default());
    let (mut queue, mut request) = (Queue::new(&engine, 1 << 14), Request::new(id));
    let due = arrivals(ON + length, 5, |_| PER_SECOND);
    let outcomes = scope(|scope| {
        scope.spawn(|| {
            sleep(ON);
            switch.on();
        });
        open_loop(&mut queue, &mut request, now_ns(), &due, Some(DEADLINE), |request, number| {
            if config.is_none() {
                request.model = models[number % 4];
            }
        })
    });
    switch.off();
    outcomes.into_iter().filter(|one| one.due_ns >= ON.as_nanos() as u64).collect()
}

pub fn measure(bench: &mut Bench) {
    let length = bench.pick(Duration::from_millis(1000), Duration::from_millis(3000));
    let naive_retry = json!({"attempts": 4, "budget": 1.0, "reserve": 1_000_000});
    let off = json!({"enabled": false});
    let kinds = [
        (BASELINE, None, Goal::None),
        ("no breaker, naive retries", Some(json!({"breaker": off, "retry": naive_retry})), Goal::None),
        ("as by default", Some(json!({})), Goal::AtMost(5.0)),
        ("attempts of 20 ms", Some(json!({"retry": {"attempt_timeout_ms": 20}})), Goal::None),
    ];
    for (name, fault) in ills(LATENCY_US) {
        if bench.quick && name != "fails always" {
            continue;
        }
        let mut base = 0;
        for (kind, config, goal) in &kinds {
            let outcomes = run(config.as_ref(), &fault, length);
            let failed = outcomes.iter().filter(|one| !one.is_ok()).count();
            if *kind == BASELINE {
                base = failed.max(1);
            }
            let note = format!("{failed} of {} failed", outcomes.len());
            let left = failed as f64 * 100.0 / base as f64;
            bench.add(format!("cascade: {name}: failed requests, {kind}"), left, *goal, "%", note);
        }
    }
}
