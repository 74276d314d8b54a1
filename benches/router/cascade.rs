//! One of four targets falls ill while the other three can just take what comes, and requests must be answered soon: how
//! many fail in all, whatever the target and the reason.

use crate::Bench;
use crate::abi::{Engine, Queue, Request, now_ns};
use crate::faults::ills;
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

fn run(config: &Value, fault: &Value, length: Duration) -> Vec<Outcome> {
    let switch = Switch::new("cascade");
    let mut fault = fault.clone();
    fault["while_exists"] = json!(switch.path());
    let engine = Engine::new(&json!({"threads": 8}));
    for index in 0..4 {
        load(&engine, index, 1, LATENCY_US, if index == 1 { json!([fault]) } else { json!([]) });
    }
    let id = route(&engine, "route", &[1; 4], config.clone());
    let (mut queue, mut request) = (Queue::new(&engine, 1 << 14), Request::new(id));
    let due = arrivals(ON + length, 5, |_| PER_SECOND);
    let outcomes = scope(|scope| {
        scope.spawn(|| {
            sleep(ON);
            switch.on();
        });
        open_loop(&mut queue, &mut request, now_ns(), &due, Some(DEADLINE), |_, _| ())
    });
    switch.off();
    outcomes.into_iter().filter(|one| one.due_ns >= ON.as_nanos() as u64).collect()
}

pub fn measure(bench: &mut Bench) {
    let length = bench.pick(Duration::from_millis(1500), Duration::from_millis(4000));
    let naive_retry = json!({"attempts": 4, "budget": 1.0, "reserve": 1_000_000});
    let off = json!({"enabled": false});
    let kinds = [
        (
            "no breaker, no failover",
            json!({"breaker": off, "retry": {"attempts": 1, "attempt_timeout_ms": 0}}),
        ),
        ("naive retries", json!({"breaker": off, "retry": naive_retry})),
        ("as by default", json!({})),
        ("as by default, attempts of 20 ms", json!({"retry": {"attempt_timeout_ms": 20}})),
    ];
    for (name, fault) in ills(LATENCY_US) {
        let failed: Vec<(usize, usize)> = kinds
            .iter()
            .map(|(_, config)| {
                let outcomes = run(config, &fault, length);
                (outcomes.iter().filter(|one| !one.is_ok()).count(), outcomes.len())
            })
            .collect();
        for ((kind, _), (failed, count)) in kinds.iter().zip(&failed).take(2) {
            bench.add(
                format!("cascade: {name}: {kind}"),
                *failed as f64,
                Goal::None,
                "",
                format!("of {count} failed"),
            );
        }
        let base = failed[0].0.max(1) as f64;
        for ((kind, _), (failed, count)) in kinds.iter().zip(&failed).skip(2) {
            let goal = if *kind == "as by default" { Goal::AtMost(5.0) } else { Goal::None };
            let note = format!("{failed} of {count} failed");
            let name = format!("cascade: {name}: {kind}: left of it");
            bench.add(name, *failed as f64 * 100.0 / base, goal, "%", note);
        }
    }
}
