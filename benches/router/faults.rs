//! One of four targets falls ill under load: what the host sees of it, with each strategy.

use crate::Bench;
use crate::abi::{Engine, Queue, Request, now_ns};
use crate::load::{Outcome, Random, arrivals, median, open_loop, quantile};
use crate::mocks::{STRATEGIES, Switch, load, route};
use crate::report::Goal;
use serde_json::{Value, json};
use std::thread::{scope, sleep};
use std::time::Duration;

const LATENCY_US: u64 = 1000;
const PER_SECOND: f64 = 1200.0;
/// For every request.
const DEADLINE: Duration = Duration::from_millis(500);

/// A host that asks the four models in turn itself: what the others are compared with. (A route's targets are also left
/// alone when their model has failed some runs in a row, with its breaker disabled too.)
pub const BASELINE: &str = "host's own round robin";

/// What may befall a target: a name, and the mock's fault.
pub fn ills(latency_us: u64) -> [(&'static str, Value); 4] {
    [
        ("10 times slower", json!({"kind": "slow", "latency_us": 9 * latency_us})),
        ("fails always", json!({"kind": "error"})),
        ("fails 30 %", json!({"kind": "error", "share": 0.3})),
        ("hangs", json!({"kind": "hang"})),
    ]
}

/// When the switch is on, and when all is over.
#[derive(Clone, Copy)]
struct Times {
    on: Duration,
    off: Duration,
    end: Duration,
}

fn run(strategy: &str, fault: &Value, times: Times, seed: u64) -> Vec<Outcome> {
    let switch = Switch::new("fault");
    let mut fault = fault.clone();
    fault["while_exists"] = json!(switch.path());
    let engine = Engine::new(&json!({"threads": 8}));
    let faults = |index| if index == 1 { json!([fault]) } else { json!([]) };
    let models = [0, 1, 2, 3].map(|index| load(&engine, index, 1, LATENCY_US, faults(index)));
    let config = if strategy == BASELINE { json!({}) } else { json!({ "strategy": strategy }) };
    let id = route(&engine, "route", &[1; 4], config);
    let (mut queue, mut request) = (Queue::new(&engine, 1 << 14), Request::new(id));
    let due = arrivals(times.end, seed, |_| PER_SECOND);
    let mut keys = Random(seed + 77);
    scope(|scope| {
        scope.spawn(|| {
            sleep(times.on);
            switch.on();
            sleep(times.off - times.on);
            switch.off();
        });
        open_loop(&mut queue, &mut request, now_ns(), &due, Some(DEADLINE), |request, number| {
            if strategy == BASELINE {
                request.model = models[number % 4];
            }
            request.route_key = (keys.next() * 1e6) as u64;
            request.tenant_id = if strategy == "client_hash" { 1 + request.route_key % 1000 } else { 0 };
        })
    })
}

/// Of the requests that were due in a time: how many there were, and the shares, in percent, that failed and were slow.
fn shares(outcomes: &[Outcome], from: Duration, to: Duration, slow_ns: f64) -> (usize, f64, f64) {
    let time = from.as_nanos() as u64..to.as_nanos() as u64;
    let these: Vec<&Outcome> = outcomes.iter().filter(|one| time.contains(&one.due_ns)).collect();
    let failed = these.iter().filter(|one| !one.is_ok()).count();
    let slow = these.iter().filter(|one| one.is_ok() && one.latency_ns as f64 > slow_ns).count();
    let percent = |count: usize| count as f64 * 100.0 / these.len().max(1) as f64;
    (these.len(), percent(failed), percent(slow))
}

pub fn measure(bench: &mut Bench) {
    let ms = Duration::from_millis;
    let times = bench.pick(
        Times { on: ms(300), off: ms(700), end: ms(1000) },
        Times { on: ms(500), off: ms(1300), end: ms(1900) },
    );
    let strategies: Vec<&str> = bench.pick(vec!["round_robin", "adaptive"], STRATEGIES.to_vec());
    let ills = ills(LATENCY_US);
    let mut healthy = Vec::new();
    // Requests due while the target is ill, and afterwards, by strategy.
    let mut found: Vec<Vec<Vec<Outcome>>> = Vec::new();
    for (_, fault) in &ills {
        let mut of_fault = Vec::new();
        for (number, strategy) in [BASELINE].iter().chain(&strategies).enumerate() {
            let outcomes = run(strategy, fault, times, 1 + number as u64);
            let before = |one: &&Outcome| {
                one.due_ns > 100_000_000 && one.due_ns < times.on.as_nanos() as u64 - 20_000_000
            };
            let mut latencies: Vec<u64> = outcomes.iter().filter(before).map(|one| one.latency_ns).collect();
            healthy.push(quantile(&mut latencies, 0.99) as f64);
            of_fault.push(outcomes);
        }
        found.push(of_fault);
    }
    let p99_ns = median(&healthy);
    let slow_ns = 3.0 * p99_ns;
    let note = format!("slow is what takes longer than 3 times that, {:.1} ms", slow_ns / 1e6);
    bench.add("faults: p99 while all is well".into(), p99_ns / 1e6, Goal::None, "ms", note);
    for ((name, _), of_fault) in ills.iter().zip(&found) {
        for (number, outcomes) in of_fault.iter().enumerate() {
            let (count, failed, slow) = shares(outcomes, times.on, times.off, slow_ns);
            let (_, later_failed, later_slow) = shares(outcomes, times.off, times.end, slow_ns);
            let (strategy, goal) = match number {
                0 => (BASELINE, Goal::None),
                _ => (strategies[number - 1], Goal::AtMost(0.1)),
            };
            let note = format!(
                "of {count}; slow {slow:.2} %; after it is well: failed {later_failed:.2} %, slow {later_slow:.2} %"
            );
            bench.add(format!("faults: {name}: failed, {strategy}"), failed, goal, "%", note);
            if number > 0 && !name.ends_with("slower") {
                bench.must_stay_below(15.0);
            }
        }
    }
    for (number, strategy) in strategies.iter().enumerate() {
        let after =
            |outcomes: &Vec<Vec<Outcome>>| shares(&outcomes[number + 1], times.off, times.end, slow_ns).1;
        let worst = found.iter().map(after).fold(0.0, f64::max);
        let name = format!("faults: recovers: failed, {strategy}");
        bench.add(name, worst, Goal::AtMost(0.1), "%", "the worst of the four faults".into());
        bench.must_stay_below(15.0);
    }
}
