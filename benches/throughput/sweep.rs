//! Throughput and latency against the number of requests in flight, for the picture.

use crate::Bench;
use crate::abi::{Engine, Queue};
use crate::direct::{Direct, Values};
use crate::load::{Until, closed_loop, throughput};
use crate::models::{LARGE, MAX_ROWS, Model, SMALL, TINY};
use crate::picture::{Panel, Point, Series};
use crate::stats::{Samples, median};
use std::time::{Duration, Instant};

const IN_FLIGHT: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

pub fn measure(bench: &Bench) -> Vec<Panel> {
    [&TINY, &SMALL, &LARGE].map(|model| panel(bench, model)).into()
}

fn panel(bench: &Bench, model: &'static Model) -> Panel {
    eprintln!("[{:5.1} s] picture: {}", bench.start.elapsed().as_secs_f64(), model.name);
    let engine = Engine::new();
    let mut request = engine.request(model);
    let mut queue = Queue::new(&engine, 4096);
    let direct = Direct::new(model);
    let mut one = direct.values(1);
    let mut samples = Samples::new();
    let slice = Duration::from_millis(bench.pick(30, 120));
    let rounds = bench.pick(1, 3);

    let (mut blaze, mut direct_calls, mut batches) = (Vec::new(), Vec::new(), Vec::new());
    for in_flight in IN_FLIGHT {
        let rows = in_flight.min(MAX_ROWS);
        let mut batch = direct.values(rows);
        let (mut of_blaze, mut of_direct, mut of_batches) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            of_direct.push(in_turn(&mut one, 1, in_flight, slice, &mut samples));
            of_batches.push(in_turn(&mut batch, rows, in_flight, slice, &mut samples));
            // Twice, because reading the clock for each request would cost the fastest model its speed.
            let per_second = throughput(&mut queue, &mut request, in_flight, Until::Elapsed(slice));
            samples.clear();
            let every = if in_flight < 8 { 1 } else { 8 };
            let (start, mut number) = (Instant::now(), 0_u64);
            let submit = |queue: &Queue<'_>| {
                number += 1;
                let stamp = if number.is_multiple_of(every) { start.elapsed().as_nanos() as u64 } else { 0 };
                queue.submit(&mut request, stamp)
            };
            let taken = |stamp| {
                if stamp > 0 {
                    samples.push(start.elapsed().as_nanos() as u64 - stamp);
                }
            };
            closed_loop(&mut queue, in_flight, Until::Elapsed(slice), submit, taken);
            of_blaze.push(point(in_flight, per_second, &mut samples));
        }
        blaze.push(middle(of_blaze));
        direct_calls.push(middle(of_direct));
        batches.push(middle(of_batches));
    }
    let series = [
        Series { name: "Blaze", color: "#c2410c", points: blaze },
        Series { name: "direct calls, one thread", color: "#475569", points: direct_calls },
        Series { name: "ready-made batches", color: "#0f766e", points: batches },
    ];
    Panel { model: model.name, series }
}

/// One thread that runs batch after batch while so many requests wait their turn: a request that comes when another
/// has ended is served after all that were there before it.
fn in_turn(
    values: &mut Values<'_>,
    rows: usize,
    in_flight: usize,
    slice: Duration,
    samples: &mut Samples,
) -> Point {
    samples.clear();
    let batches_in_flight = in_flight / rows;
    let mut ends = vec![0; batches_in_flight];
    let (start, mut runs) = (Instant::now(), 0);
    loop {
        values.run();
        let now = start.elapsed().as_nanos() as u64;
        let slot = runs % batches_in_flight;
        // The first ones have waited for none before them.
        if runs >= batches_in_flight {
            samples.push(now - ends[slot]);
        }
        ends[slot] = now;
        runs += 1;
        if now >= slice.as_nanos() as u64 && runs >= 2 * batches_in_flight {
            let per_second = (runs * rows) as f64 * 1e9 / now as f64;
            return point(in_flight, per_second, samples);
        }
    }
}

fn point(in_flight: usize, per_second: f64, samples: &mut Samples) -> Point {
    Point { in_flight, per_second, p50_us: samples.quantile_us(0.5), p99_us: samples.quantile_us(0.99) }
}

fn middle(points: Vec<Point>) -> Point {
    let of = |value: fn(&Point) -> f64| median(points.iter().map(value).collect());
    Point {
        in_flight: points[0].in_flight,
        per_second: of(|point| point.per_second),
        p50_us: of(|point| point.p50_us),
        p99_us: of(|point| point.p99_us),
    }
}
