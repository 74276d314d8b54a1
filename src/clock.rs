//! The one clock: deadlines, timings and waits are all in its nanoseconds.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nanoseconds on a monotonic clock. Starts at an arbitrary point; never 0, so that 0 can mean "none".
pub fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed().as_nanos();
    u64::try_from(elapsed).unwrap_or(u64::MAX - 1) + 1
}

/// A wait of `ns` nanoseconds that condition variables can bear: at most one year.
pub fn wait_duration(ns: u64) -> Duration {
    Duration::from_nanos(ns.min(365 * 24 * 3600 * 1_000_000_000))
}
