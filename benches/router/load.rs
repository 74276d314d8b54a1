//! Ways to put load on: a closed loop, and arrivals on a schedule.

use crate::abi::{Queue, Request, fail, now_ns};
use blaze::ffi::request::blaze_request;
use blaze::ffi::status::BLAZE_STATUS_OK;
use std::time::{Duration, Instant};

/// Numbers that are the same in each run.
pub struct Random(pub u64);

impl Random {
    /// In (0, 1]: xorshift64*.
    pub fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

/// When requests are due, in nanoseconds from the beginning: a Poisson process whose rate is `per_second(at)`.
pub fn arrivals(duration: Duration, seed: u64, per_second: impl Fn(u64) -> f64) -> Vec<u64> {
    let (mut random, mut at, mut due) = (Random(0x9E37_79B9_7F4A_7C15 ^ (seed << 20)), 0.0, Vec::new());
    loop {
        at -= random.next().ln() * 1e9 / per_second(at as u64);
        if at >= duration.as_nanos() as f64 {
            return due;
        }
        due.push(at as u64);
    }
}

/// What became of a request.
#[derive(Clone, Copy, Default)]
pub struct Outcome {
    /// From the beginning.
    pub due_ns: u64,
    /// From when it was due until the host had its event.
    pub latency_ns: u64,
    pub status: i32,
    pub model: u64,
}

impl Outcome {
    pub fn is_ok(&self) -> bool {
        self.status == BLAZE_STATUS_OK
    }
}

/// Sends requests when they are due, whatever became of earlier ones, and returns what became of each. Latency runs from
/// the time a request was due, also when it was sent late, so that a stall counts for all requests that it delayed.
/// `prepare` may change each request; its deadline is `deadline` after it was due.
pub fn open_loop(
    queue: &mut Queue<'_>,
    request: &mut Request,
    start_ns: u64,
    due: &[u64],
    deadline: Option<Duration>,
    mut prepare: impl FnMut(&mut blaze_request, usize),
) -> Vec<Outcome> {
    const PENDING: i32 = -1;
    let mut outcomes: Vec<Outcome> =
        due.iter().map(|&due_ns| Outcome { due_ns, status: PENDING, ..Outcome::default() }).collect();
    let (mut sent, mut ended, mut last) = (0, 0, now_ns());
    while ended < due.len() {
        let now = now_ns().saturating_sub(start_ns);
        // A few at a time, so that events are taken also while it is late.
        for _ in 0..32 {
            if sent == due.len() || due[sent] > now {
                break;
            }
            let one = &mut request.request;
            one.user_data = sent as u64;
            one.deadline_ns =
                deadline.map_or(0, |deadline| start_ns + due[sent] + deadline.as_nanos() as u64);
            prepare(one, sent);
            let status = queue.submit(request);
            if status != BLAZE_STATUS_OK {
                outcomes[sent].status = status;
                ended += 1;
            }
            sent += 1;
        }
        let timeout = match due.get(sent) {
            Some(next) => next.saturating_sub(now_ns().saturating_sub(start_ns)),
            None => 50_000_000,
        };
        let mut at = None;
        let count = queue.wait(timeout, |event| {
            let at = *at.get_or_insert_with(|| now_ns().saturating_sub(start_ns));
            let outcome = &mut outcomes[event.user_data as usize];
            if outcome.status != PENDING {
                fail(&format!("two events for request {}", event.user_data));
            }
            outcome.latency_ns = at.saturating_sub(outcome.due_ns);
            (outcome.status, outcome.model) = (event.status, event.model);
        });
        ended += count;
        let now = now_ns();
        if count > 0 || sent < due.len() {
            last = now;
        } else if now > last + 10_000_000_000 {
            fail(&format!("{} events have not come for 10 s", due.len() - ended));
        }
    }
    outcomes
}

/// Keeps so many requests in flight; returns nanoseconds per request. Waits for the last ones, which do not count.
pub fn closed_loop(
    queue: &mut Queue<'_>,
    request: &mut Request,
    in_flight: usize,
    slice: Duration,
    mut prepare: impl FnMut(&mut blaze_request),
) -> f64 {
    let (mut under_way, mut completed) = (0, 0);
    let start = Instant::now();
    let ns = loop {
        while under_way < in_flight {
            prepare(&mut request.request);
            let status = queue.submit(request);
            if status != BLAZE_STATUS_OK {
                fail(&format!("blaze_submit: status {status}"));
            }
            under_way += 1;
        }
        let count = queue.collect();
        under_way -= count;
        completed += count;
        let elapsed = start.elapsed();
        if elapsed >= slice {
            break elapsed.as_nanos() as f64 / completed as f64;
        }
    };
    while under_way > 0 {
        under_way -= queue.collect();
    }
    ns
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

pub fn quantile(values: &mut [u64], share: f64) -> u64 {
    if values.is_empty() {
        return 0;
    }
    let index = ((values.len() - 1) as f64 * share).round() as usize;
    *values.select_nth_unstable(index).1
}
