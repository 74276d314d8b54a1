//! How soon a target that fails is left alone, and how soon it has its share again when it is well.

use crate::Bench;
use crate::abi::{Engine, Queue, Request, now_ns};
use crate::load::{Outcome, arrivals, median, open_loop};
use crate::mocks::{Switch, load, route};
use crate::report::Goal;
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

const MS: u64 = 1_000_000;

/// What `blaze_route_info` said of the target at a time.
struct Seen {
    at_ns: u64,
    failed: u64,
    requests: u64,
    is_closed: bool,
}

struct Found {
    /// From the first failure until the breaker was open.
    out_ms: f64,
    /// Requests that the target failed until then.
    failures: u64,
    /// Requests that it got from then until it was well.
    probes: u64,
    /// From when it was well until the breaker was closed.
    closed_ms: f64,
    /// From when it was well until it had its share.
    back_ms: f64,
    failed: usize,
}

fn run(seed: u64, ill: Duration) -> Found {
    let switch = Switch::new("recovery");
    let engine = Engine::new(&json!({"threads": 8}));
    let fault = json!({"kind": "error", "while_exists": switch.path()});
    let models: Vec<u64> = (0..4)
        .map(|index| load(&engine, index, 1, 1000, if index == 1 { json!([fault]) } else { json!([]) }))
        .collect();
    let id = route(&engine, "route", &[1; 4], json!({}));
    let (mut queue, mut request) = (Queue::new(&engine, 1 << 14), Request::new(id));
    let (on, rest) = (Duration::from_millis(300), Duration::from_millis(1300));
    let due = arrivals(on + ill + rest, seed, |_| 1500.0);
    let (over, off_ns) = (AtomicBool::new(false), AtomicU64::new(0));
    let start_ns = now_ns();
    let (outcomes, seen) = scope(|scope| {
        scope.spawn(|| {
            sleep(on);
            switch.on();
            sleep(ill);
            switch.off();
            off_ns.store(now_ns() - start_ns, Ordering::SeqCst);
        });
        let watch = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let info = engine.info(id);
                let target = &info["targets"][1];
                seen.push(Seen {
                    at_ns: now_ns() - start_ns,
                    failed: target["failed"].as_u64().unwrap(),
                    requests: target["requests"].as_u64().unwrap(),
                    is_closed: target["breaker"]["state"] == "closed",
                });
                sleep(Duration::from_micros(500));
            }
            seen
        });
        let outcomes = open_loop(&mut queue, &mut request, start_ns, &due, None, |_, _| ());
        over.store(true, Ordering::Relaxed);
        (outcomes, watch.join().unwrap())
    });
    let off = off_ns.load(Ordering::SeqCst);
    found(&outcomes, &seen, models[1], off)
}

fn found(outcomes: &[Outcome], seen: &[Seen], model: u64, off: u64) -> Found {
    const NEVER: f64 = 1e6;
    let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / MS as f64;
    let failed = outcomes.iter().filter(|one| !one.is_ok()).count();
    let first = seen.iter().position(|one| one.failed > 0);
    let out = seen.iter().position(|one| !one.is_closed);
    let (Some(first), Some(out)) = (first, out) else {
        return Found { out_ms: NEVER, failures: 0, probes: 0, closed_ms: NEVER, back_ms: NEVER, failed };
    };
    let well = seen.iter().rposition(|one| one.at_ns <= off).unwrap_or(out);
    let closed = seen.iter().find(|one| one.at_ns > off && one.is_closed);
    // Of what was due in 40 ms, some 60 requests, it has answered nine tenths of its quarter.
    let mut at = off;
    let back = loop {
        let window = at..at + 40 * MS;
        let these = outcomes.iter().filter(|one| window.contains(&one.due_ns));
        let (own, all) =
            these.fold((0, 0), |(own, all), one| (own + usize::from(one.model == model), all + 1));
        if all == 0 {
            break NEVER;
        }
        if own as f64 >= 0.9 * 0.25 * f64::from(all) {
            break ms(off, at);
        }
        at += 2 * MS;
    };
    Found {
        // The failure came after the poll before the one that saw it.
        out_ms: ms(seen[first.saturating_sub(1)].at_ns, seen[out].at_ns),
        failures: seen[out].failed,
        probes: seen[well].requests - seen[out].requests,
        closed_ms: closed.map_or(NEVER, |one| ms(off, one.at_ns)),
        back_ms: back,
        failed,
    }
}

pub fn measure(bench: &mut Bench) {
    let repeats = bench.pick(2, 7);
    // Long enough for the longest pauses between probes, and of several lengths.
    let least = bench.pick(500, 1200);
    let all: Vec<Found> = (0..repeats).map(|n| run(n + 1, Duration::from_millis(least + 137 * n))).collect();
    let mut add = |name: &str, goal: f64, of: &dyn Fn(&Found) -> f64, note: String| {
        let values: Vec<f64> = all.iter().map(of).collect();
        let worst = values.iter().copied().fold(0.0, f64::max);
        let note = format!("median {:.1}, of {repeats}{note}", median(&values));
        bench.add(format!("recovery: {name}, worst"), worst, Goal::AtMost(goal), "ms", note);
        bench.must_stay_below(10.0 * goal);
    };
    let list =
        |of: &dyn Fn(&Found) -> u64| all.iter().map(|one| of(one).to_string()).collect::<Vec<_>>().join(" ");
    let failures = list(&|one| one.failures);
    add(
        "out after the first failure",
        100.0,
        &|one| one.out_ms,
        format!("; failures until then: {failures}"),
    );
    let probes = list(&|one| one.probes);
    add(
        "breaker closed after it is well",
        1000.0,
        &|one| one.closed_ms,
        format!("; probes before: {probes}"),
    );
    add("back with its share after it is well", 1000.0, &|one| one.back_ms, String::new());
    let failed: usize = all.iter().map(|one| one.failed).sum();
    bench.add("recovery: failed requests".into(), failed as f64, Goal::AtMost(0.0), "", String::new());
}
