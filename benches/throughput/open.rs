//! Latency under an open load: requests that arrive when they arrive.

use crate::Bench;
use crate::abi::{Engine, Queue};
use crate::load::{Until, open_loop, throughput};
use crate::models::SMALL;
use crate::report::{Goal, Row};
use crate::stats::{Samples, median};
use std::time::Duration;

pub fn measure(bench: &mut Bench) {
    let name = |percent: u32| format!("small, open load at {percent} % of capacity, p99 against p50");
    let goals = [(70, Goal::RatioAtMost(3.0)), (50, Goal::None), (30, Goal::None)];
    if !goals.iter().any(|(percent, _)| bench.wants(&name(*percent))) {
        return;
    }
    let engine = Engine::new();
    let mut request = engine.request(&SMALL);
    let mut queue = Queue::new(&engine, 65_536);
    let mut samples = Samples::new();

    let slice = Until::Elapsed(Duration::from_millis(bench.pick(150, 400)));
    throughput(&mut queue, &mut request, 256, slice);
    let capacity = median((0..3).map(|_| throughput(&mut queue, &mut request, 256, slice)).collect());

    let (rounds, duration) = bench.pick((3, Duration::from_millis(400)), (5, Duration::from_millis(1_500)));
    for (percent, goal) in goals {
        if !bench.wants(&name(percent)) {
            continue;
        }
        let (mut p50s, mut p99s, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let per_second = capacity * f64::from(percent) / 100.0;
            open_loop(&mut queue, &mut request, per_second, duration, &mut samples);
            let (p50, p99) = (samples.quantile_us(0.5), samples.quantile_us(0.99));
            p50s.push(p50);
            p99s.push(p99);
            ratios.push(p99 / p50);
        }
        bench.add(Row {
            name: name(percent),
            blaze: median(p99s),
            baseline: Some(median(p50s)),
            ratio: Some(median(ratios)),
            goal,
            unit: "µs (ratio: p99/p50)",
        });
    }
}
