//! Ways to put load on: closed loops, single calls, and arrivals on a schedule.

use crate::abi::{Queue, Request, fail};
use crate::direct::Values;
use crate::stats::Samples;
use std::time::{Duration, Instant};

/// When a loop ends.
#[derive(Clone, Copy)]
pub enum Until {
    Elapsed(Duration),
    Completed(u64),
}

/// Keeps so many requests in flight; returns requests per second. `submit` hands one in, or says that all is full;
/// `taken` gets the user data of each that has ended. Waits for the last ones, which do not count.
pub fn closed_loop(
    queue: &mut Queue<'_>,
    in_flight: usize,
    until: Until,
    mut submit: impl FnMut(&Queue<'_>) -> bool,
    mut taken: impl FnMut(u64),
) -> f64 {
    let (mut now_in_flight, mut completed) = (0, 0);
    let start = Instant::now();
    let rate = loop {
        while now_in_flight < in_flight && submit(queue) {
            now_in_flight += 1;
        }
        let count = queue.wait();
        queue.release(count, &mut taken);
        now_in_flight -= count;
        completed += count as u64;
        let elapsed = start.elapsed();
        let over = match until {
            Until::Elapsed(limit) => elapsed >= limit,
            Until::Completed(limit) => completed >= limit,
        };
        if over {
            break completed as f64 / elapsed.as_secs_f64();
        }
    };
    while now_in_flight > 0 {
        let count = queue.wait();
        queue.release(count, &mut taken);
        now_in_flight -= count;
    }
    rate
}

/// A closed loop with one request that nothing else is measured in: requests per second.
pub fn throughput(queue: &mut Queue<'_>, request: &mut Request, in_flight: usize, until: Until) -> f64 {
    closed_loop(queue, in_flight, until, |queue| queue.submit(request, 0), |_| ())
}

/// Runs one batch after the other; returns rows per second.
pub fn direct_throughput(values: &mut Values<'_>, rows: usize, slice: Duration) -> f64 {
    let (start, mut runs) = (Instant::now(), 0_u64);
    loop {
        // The clock is looked at seldom enough to cost nothing, and often enough for the slowest model.
        for _ in 0..4 {
            values.run();
        }
        runs += 4;
        let elapsed = start.elapsed();
        if elapsed >= slice {
            return (runs * rows as u64) as f64 / elapsed.as_secs_f64();
        }
    }
}

/// The median duration of a call, in microseconds.
pub fn call_p50_us(slice: Duration, samples: &mut Samples, mut call: impl FnMut() -> u64) -> f64 {
    samples.clear();
    let start = Instant::now();
    while start.elapsed() < slice {
        samples.push(call());
    }
    samples.quantile_us(0.5)
}

/// How long something takes, in nanoseconds.
#[inline]
pub fn time(work: impl FnOnce()) -> u64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as u64
}

/// One request through a lane: from before submit until its event is there, in nanoseconds.
#[inline]
pub fn round_trip(queue: &mut Queue<'_>, request: &mut Request) -> u64 {
    let start = Instant::now();
    if !queue.submit(request, 0) {
        fail("blaze_submit: QUEUE_FULL with nothing in flight");
    }
    let count = queue.wait();
    let elapsed = start.elapsed().as_nanos() as u64;
    queue.release(count, |_| ());
    elapsed
}

/// Sends requests when they are due, whatever became of earlier ones. Arrivals are a Poisson process with a fixed
/// seed. Latency runs from the time a request was due, also when it was sent late, so that a stall counts for all
/// requests that it delayed.
pub fn open_loop(
    queue: &mut Queue<'_>,
    request: &mut Request,
    per_second: f64,
    duration: Duration,
    samples: &mut Samples,
) {
    samples.clear();
    let arrivals = arrivals(per_second, duration);
    let (mut sent, mut done, mut last) = (0, 0, 0);
    let start = Instant::now();
    while done < arrivals.len() {
        let now = start.elapsed().as_nanos() as u64;
        // A few at a time, so that events are taken also while it is late.
        let due = arrivals[sent..].iter().take(64).take_while(|due| **due <= now);
        for due in due {
            if !queue.submit(request, *due) {
                break;
            }
            sent += 1;
        }
        let count = queue.poll();
        if count > 0 {
            let now = start.elapsed().as_nanos() as u64;
            queue.release(count, |due| samples.push(now - due));
            done += count;
            last = now;
        } else if done < sent && now > last + 5_000_000_000 && now > arrivals[done] + 5_000_000_000 {
            fail("blaze_poll: no event has come for 5 s though requests are in flight");
        }
    }
}

/// Times in nanoseconds.
fn arrivals(per_second: f64, duration: Duration) -> Vec<u64> {
    let (mut random, mut at) = (0x9E37_79B9_7F4A_7C15_u64, 0.0);
    let end = duration.as_nanos() as f64;
    let mut arrivals = Vec::with_capacity((per_second * duration.as_secs_f64() * 1.1) as usize + 16);
    loop {
        // xorshift64*: the upper 53 bits as a number in (0, 1].
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        let uniform = ((random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        at -= uniform.ln() * 1e9 / per_second;
        if at >= end {
            return arrivals;
        }
        arrivals.push(at as u64);
    }
}
