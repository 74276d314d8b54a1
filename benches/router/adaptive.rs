//! `adaptive` against the best fixed strategy, which is another one in each scenario.

use crate::Bench;
use crate::abi::{Engine, Queue, Request, now_ns};
use crate::load::{arrivals, median, open_loop};
use crate::mocks::{Switch, load, route};
use crate::report::Goal;
use serde_json::{Value, json};
use std::thread::{scope, sleep};
use std::time::Duration;

/// The last one is what the others are compared with. Hashing does not look at how targets do, and is left out.
const COMPARED: [&str; 7] = [
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "least_response_time",
    "least_loaded",
    "power_of_two",
    "adaptive",
];

/// A failed request counts as one that takes so many times the base latency.
const FAILURE_FACTOR: f64 = 10.0;

struct Scenario {
    name: &'static str,
    /// Of each target: lanes, latency in microseconds, and the weight that suits both.
    targets: [(usize, u64, u32); 4],
    /// What the second target suffers, in the middle half of the time.
    fault: Option<Value>,
    per_second: f64,
    /// In the first 30 % of each 100 ms so many times as many requests come, and fewer in the rest.
    factor: f64,
}

fn scenarios() -> [Scenario; 4] {
    let equal = [(2, 1000, 1); 4];
    [
        Scenario {
            name: "latencies 1 1 2 4 ms",
            targets: [(2, 1000, 4), (2, 1000, 4), (2, 2000, 2), (2, 4000, 1)],
            fault: None,
            per_second: 2600.0,
            factor: 1.0,
        },
        Scenario {
            name: "one 10 times slower for a while",
            targets: equal,
            fault: Some(json!({"kind": "slow", "latency_us": 9000})),
            per_second: 2400.0,
            factor: 1.0,
        },
        Scenario {
            name: "one fails 30 % for a while",
            targets: equal,
            fault: Some(json!({"kind": "error", "share": 0.3})),
            per_second: 2400.0,
            factor: 1.0,
        },
        Scenario {
            name: "bursts to 90 %, lanes 4 2 1 1",
            targets: [(4, 2000, 4), (2, 2000, 2), (1, 2000, 1), (1, 2000, 1)],
            fault: None,
            per_second: 2400.0,
            factor: 1.5,
        },
    ]
}

impl Scenario {
    /// The mean cost of a request, in microseconds.
    fn run(&self, strategy: &str, length: Duration, seed: u64) -> f64 {
        let switch = Switch::new("adaptive");
        let faults = self.fault.iter().map(|fault| {
            let mut fault = fault.clone();
            fault["while_exists"] = json!(switch.path());
            fault
        });
        let faults: Vec<Value> = faults.collect();
        let engine = Engine::new(&json!({"threads": 10}));
        for (index, &(lanes, latency_us, _)) in self.targets.iter().enumerate() {
            load(&engine, index, lanes, latency_us, if index == 1 { json!(faults) } else { json!([]) });
        }
        let config = json!({
            "strategy": strategy, "breaker": {"enabled": false},
            "retry": {"attempts": 1, "attempt_timeout_ms": 0},
        });
        let id = route(&engine, "route", &self.targets.map(|(_, _, weight)| weight), config);
        let (mut queue, mut request) = (Queue::new(&engine, 1 << 15), Request::new(id));
        let due = arrivals(length, seed, |at| {
            let is_busy = at % 100_000_000 < 30_000_000;
            self.per_second * if is_busy { self.factor } else { (1.0 - 0.3 * self.factor) / 0.7 }
        });
        let outcomes = scope(|scope| {
            scope.spawn(|| {
                sleep(length / 4);
                switch.on();
                sleep(length / 2);
                switch.off();
            });
            open_loop(&mut queue, &mut request, now_ns(), &due, None, |_, _| ())
        });
        let base_us =
            self.targets.iter().map(|(_, latency_us, _)| *latency_us as f64).fold(f64::MAX, f64::min);
        let cost = |latency_ns: u64, is_ok: bool| match is_ok {
            true => latency_ns as f64 / 1e3,
            false => FAILURE_FACTOR * base_us,
        };
        outcomes.iter().map(|one| cost(one.latency_ns, one.is_ok())).sum::<f64>() / outcomes.len() as f64
    }
}

pub fn measure(bench: &mut Bench) {
    let (rounds, length) = bench.pick((1, Duration::from_millis(350)), (4, Duration::from_millis(900)));
    for (number, scenario) in scenarios().iter().enumerate() {
        // One list of rounds for each strategy.
        let mut costs = vec![Vec::new(); COMPARED.len()];
        for round in 0..rounds {
            for (strategy, costs) in COMPARED.iter().zip(&mut costs) {
                // The same arrivals for all.
                costs.push(scenario.run(strategy, length, 1 + round + 100 * number as u64));
            }
        }
        let adaptive = costs.pop().unwrap();
        let medians: Vec<f64> = costs.iter().map(|costs| median(costs)).collect();
        let best = (0..medians.len()).min_by(|one, other| medians[*one].total_cmp(&medians[*other])).unwrap();
        let ratios: Vec<f64> = adaptive.iter().zip(&costs[best]).map(|(one, other)| one / other).collect();
        // How far the rounds of the best one are apart tells what can be seen at all.
        let (least, most) = costs[best]
            .iter()
            .fold((f64::MAX, 0.0_f64), |(least, most), &cost| (least.min(cost), most.max(cost)));
        let all: Vec<String> =
            COMPARED.iter().zip(&medians).map(|(name, cost)| format!("{name} {cost:.0}")).collect();
        let note = format!(
            "adaptive {:.0} µs, best {}; its rounds differ by {:.0} %; {}",
            median(&adaptive),
            COMPARED[best],
            (most / least - 1.0) * 100.0,
            all.join(", ")
        );
        let name = format!("adaptive: {}: cost against the best", scenario.name);
        bench.add(name, median(&ratios), Goal::AtMost(1.05), "", note);
    }
}
