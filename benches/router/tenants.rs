//! What a tenant that asks for ten times what it may does to three others.

use crate::Bench;
use crate::abi::{Engine, Queue, Request, now_ns};
use crate::load::{arrivals, median, open_loop, quantile};
use crate::mocks::{load, route};
use crate::report::Goal;
use serde_json::{Value, json};
use std::thread::scope;
use std::time::Duration;

const ABUSER: u64 = 9;
const LATENCY_US: u64 = 2000;

struct Case {
    name: &'static str,
    limits_of_abuser: Value,
    limits_of_route: Value,
    /// Ten times what it may.
    abuse_per_second: f64,
    /// Of each of the three others.
    good_per_second: f64,
}

/// Four targets with two lanes of 2 ms: 4000 requests/s.
fn cases() -> [Case; 3] {
    [
        Case {
            name: "limit of 300 requests/s",
            limits_of_abuser: json!({"requests_per_second": 300, "burst": 10}),
            limits_of_route: json!({}),
            abuse_per_second: 3000.0,
            good_per_second: 300.0,
        },
        Case {
            // Two at once are 1000 a second.
            name: "limit of 2 at once, and a waiting room",
            limits_of_abuser: json!({"concurrency": 2}),
            limits_of_route: json!({"concurrency": 8, "waiting": 1000}),
            abuse_per_second: 10_000.0,
            good_per_second: 300.0,
        },
        Case {
            // A quarter of what there is, for each of four, are 1000 a second.
            name: "no limit but its turn in the waiting room",
            limits_of_abuser: json!({}),
            limits_of_route: json!({"concurrency": 8, "waiting": 200}),
            abuse_per_second: 10_000.0,
            good_per_second: 300.0,
        },
    ]
}

/// The good ones' p99, in milliseconds, and how many of their and the other's requests went wrong.
struct Found {
    p99_ms: f64,
    good_failed: usize,
    refused: f64,
}

impl Case {
    fn run(&self, abused: bool, length: Duration, seed: u64) -> Found {
        let engine = Engine::new(&json!({"threads": 10}));
        for index in 0..4 {
            load(&engine, index, 2, LATENCY_US, json!([]));
        }
        engine.tenant(&json!({"id": ABUSER, "limits": self.limits_of_abuser}));
        (1..=3).for_each(|id| engine.tenant(&json!({ "id": id })));
        let config = json!({"strategy": "least_connections", "limits": self.limits_of_route});
        let id = route(&engine, "route", &[1; 4], config);
        let start = now_ns() + 5_000_000;
        let (good, abuse) = scope(|scope| {
            let abuse = abused.then(|| {
                scope.spawn(|| {
                    let (mut queue, mut request) = (Queue::new(&engine, 1 << 15), Request::new(id));
                    request.request.tenant_id = ABUSER;
                    // In handfuls, as from a loop that is woken each millisecond.
                    let due: Vec<u64> = arrivals(length, seed + 50, |_| self.abuse_per_second)
                        .iter()
                        .map(|due| due / 1_000_000 * 1_000_000)
                        .collect();
                    open_loop(&mut queue, &mut request, start, &due, None, |_, _| ())
                })
            });
            let (mut queue, mut request) = (Queue::new(&engine, 1 << 14), Request::new(id));
            let due = arrivals(length, seed, |_| 3.0 * self.good_per_second);
            let good = open_loop(&mut queue, &mut request, start, &due, None, |request, number| {
                request.tenant_id = 1 + number as u64 % 3;
            });
            (good, abuse.map(|abuse| abuse.join().unwrap()).unwrap_or_default())
        });
        let settled = good.iter().filter(|one| one.due_ns > 100_000_000);
        let mut latencies: Vec<u64> = settled.map(|one| one.latency_ns).collect();
        Found {
            p99_ms: quantile(&mut latencies, 0.99) as f64 / 1e6,
            good_failed: good.iter().filter(|one| !one.is_ok()).count(),
            refused: abuse.iter().filter(|one| !one.is_ok()).count() as f64 / abuse.len().max(1) as f64,
        }
    }
}

pub fn measure(bench: &mut Bench) {
    let (rounds, length) = bench.pick((1, Duration::from_millis(600)), (9, Duration::from_millis(700)));
    for case in cases() {
        let (mut alone, mut beside, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut failed, mut refused) = (0, Vec::new());
        for round in 0..rounds {
            let (one, other) = (case.run(false, length, 1 + round), case.run(true, length, 1 + round));
            ratios.push(other.p99_ms / one.p99_ms);
            alone.push(one.p99_ms);
            beside.push(other.p99_ms);
            refused.push(other.refused * 100.0);
            failed += one.good_failed + other.good_failed;
        }
        let note = format!(
            "alone {:.2} ms, beside it {:.2} ms; of its requests {:.0} % refused",
            median(&alone),
            median(&beside),
            median(&refused)
        );
        bench.add(
            format!("tenants: {}: p99 of the others", case.name),
            median(&ratios),
            Goal::AtMost(1.5),
            "times",
            note,
        );
        let name = format!("tenants: {}: failed requests of the others", case.name);
        bench.add(name, failed as f64, Goal::AtMost(0.0), "", String::new());
    }
}
