//! The one clock: deadlines, timings and waits are all in its nanoseconds.

pub use crate::platform::now_ns;
use std::time::Duration;

/// A wait of `ns` nanoseconds that condition variables can bear: at most one year.
pub fn wait_duration(ns: u64) -> Duration {
    Duration::from_nanos(ns.min(365 * 24 * 3600 * 1_000_000_000))
}
