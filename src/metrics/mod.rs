//! Counters, gauges and latency histograms, and their text forms.

mod devices;
mod histogram;
mod models;
pub mod routes;
mod text;
mod traffic;

pub use devices::{DeviceGauges, DeviceMemory, DeviceReport};
pub use histogram::{Counts, Histogram};
pub use models::{ModelMetrics, within_bounds};
pub use routes::{RouteMetrics, TargetMetrics, TenantMetrics};
pub use text::{json, prometheus};
pub use traffic::{Ended, Fleet, OUTCOMES, Stripe, Totals, Traffic};

use crate::error::Status;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only rises.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Refused submits, by reason.
#[derive(Default)]
pub struct Rejections {
    pub queue_full: Counter,
    pub over_budget: Counter,
    pub rate_limited: Counter,
    pub over_quota: Counter,
    pub invalid: Counter,
    pub shut_down: Counter,
    pub other: Counter,
}

impl Rejections {
    /// Counts one submit refused with `status`.
    pub fn count(&self, status: Status) {
        let counter = match status {
            Status::QueueFull => &self.queue_full,
            Status::OverBudget | Status::OutOfMemory => &self.over_budget,
            Status::RateLimited => &self.rate_limited,
            Status::OverQuota => &self.over_quota,
            Status::ShutDown => &self.shut_down,
            _ if (100..300).contains(&status.code()) => &self.invalid,
            _ => &self.other,
        };
        counter.add(1);
    }

    /// Names as in the `reason` label, with the counts.
    pub fn each(&self) -> [(&'static str, u64); 7] {
        [
            ("queue_full", self.queue_full.get()),
            ("over_budget", self.over_budget.get()),
            ("rate_limited", self.rate_limited.get()),
            ("over_quota", self.over_quota.get()),
            ("invalid", self.invalid.get()),
            ("shut_down", self.shut_down.get()),
            ("other", self.other.get()),
        ]
    }

    pub fn total(&self) -> u64 {
        self.each().iter().map(|(_, count)| count).sum()
    }
}

/// An engine's metrics.
#[derive(Default)]
pub struct Metrics {
    /// What its models count.
    pub fleet: Fleet,
    pub rejections: Rejections,
    /// Models that left memory for others.
    pub evictions: Counter,
    /// What it took them to come back.
    pub reloads: Histogram,
    /// Requests for a model that was not in memory.
    pub misses: Counter,
}

/// What is read at the moment of asking rather than counted.
pub struct Gauges {
    pub accepted: u64,
    pub in_flight: u64,
    pub queue_depth: u64,
    pub memory_bytes: u64,
    /// What the memory is taken by: models, buffers, buffers that nobody uses just now, caches.
    pub memory: [(&'static str, u64); 4],
    /// The most that it may be.
    pub budget_bytes: Option<u64>,
    pub devices: DeviceGauges,
    /// Models by state: ready, degraded, failed.
    pub models: [(&'static str, u64); 3],
    /// Models that left memory for others, and would come back for a request.
    pub evicted: u64,
    /// Events that are ready and that the host has not taken.
    pub events_waiting: u64,
    /// CPU time of the threads that compute, in nanoseconds, by their name.
    pub threads_cpu_ns: Vec<(String, u64)>,
}
