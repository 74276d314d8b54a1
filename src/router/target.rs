//! A target: one way to serve a route, what is known of it, and whether it may be asked.

use super::adaptive::{Arm, Lesson};
use super::breaker::{Breaker, Change, State};
use super::ewma::PeakEwma;
use crate::config::{BreakerConfig, TargetConfig};
use crate::metrics::{Counter, Histogram};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, lock};
use std::ffi::CString;
use std::sync::{Arc, Weak};

/// Reasons not to ask a target.
pub struct Bars;

impl Bars {
    /// There is no such model just now.
    pub const UNBOUND: u32 = 1;
    /// The host has said so.
    pub const DRAINING: u32 = 2;
    /// Its breaker is not closed.
    pub const TRIPPED: u32 = 4;
    /// Its model has failed, and is not rebuilt yet.
    pub const FAILED: u32 = 8;
    /// Synthetic requests to it fail.
    pub const UNWELL: u32 = 16;
    /// These it cannot be asked with, the others only when nobody else is left.
    pub const HARD: u32 = Self::UNBOUND | Self::DRAINING;
}

/// The targets of a route, as far as one needs to know of the others.
#[derive(Default)]
pub struct Peers {
    all: Mutex<Vec<Weak<Target>>>,
}

impl Peers {
    pub fn set(&self, targets: &[Arc<Target>]) {
        *lock(&self.all) = targets.iter().map(Arc::downgrade).collect();
    }
}

/// How calls ended that one run of a batch has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    pub calls: u32,
    pub failed: u32,
    /// Of those that ended well.
    pub slow: u32,
    /// Of all calls together, from the attempt's beginning to its end.
    pub latency_ns: u64,
    pub longest_ns: u64,
}

impl Tally {
    /// Takes one call in.
    pub fn add(&mut self, latency_ns: u64, failed: bool, slow_ns: u64) {
        self.calls += 1;
        self.failed += u32::from(failed);
        self.slow += u32::from(!failed && latency_ns > slow_ns);
        self.latency_ns = self.latency_ns.saturating_add(latency_ns);
        self.longest_ns = self.longest_ns.max(latency_ns);
    }
}

#[repr(align(64))]
struct Hot {
    in_flight: AtomicU32,
    requests: AtomicU64,
}

/// One way to serve a route.
#[repr(align(64))]
pub struct Target {
    /// The model's name, as the route's configuration has it.
    pub name: String,
    pub c_name: CString,
    /// The model's handle; 0: there is none just now.
    pub model: AtomicU64,
    pub weight: AtomicU32,
    pub tier: AtomicU32,
    /// 0: no limit.
    concurrency: AtomicU32,
    bars: AtomicU32,
    /// Calls that take longer are slow.
    pub slow_ns: AtomicU64,
    /// The same for probes, which find it with little to do.
    pub slow_probe_ns: AtomicU64,
    hot: Hot,
    /// Peak EWMA of response times, in nanoseconds.
    pub latency: PeakEwma,
    /// What calls usually take, over a much longer time; of calls that ended well.
    pub usual: PeakEwma,
    /// The share of calls that fail, of late.
    pub failures: PeakEwma,
    /// What `adaptive` has learned of it.
    pub arm: Arm,
    /// Whether it learns: for `adaptive` alone, since it costs something.
    pub learns: AtomicBool,
    pub breaker: Breaker,
    peers: Arc<Peers>,
    /// Response times of calls that ended well.
    pub times: Histogram,
    pub succeeded: Counter,
    pub failed: Counter,
    pub slow: Counter,
    /// Attempts that ended with neither: cancelled, expired, or answered by another target first.
    pub given_up: Counter,
    /// When the last call failed; 0: none has.
    pub failed_ns: AtomicU64,
}

/// How long `usual` remembers.
const USUAL_NS: u64 = 30_000_000_000;

impl Target {
    pub fn new(config: &TargetConfig, breaker: BreakerConfig, peers: &Arc<Peers>) -> Arc<Self> {
        let target = Target {
            c_name: CString::new(config.model.as_str()).unwrap_or_default(),
            name: config.model.clone(),
            model: AtomicU64::new(0),
            weight: AtomicU32::new(0),
            tier: AtomicU32::new(0),
            concurrency: AtomicU32::new(0),
            bars: AtomicU32::new(Bars::UNBOUND),
            slow_ns: AtomicU64::new(u64::MAX),
            slow_probe_ns: AtomicU64::new(u64::MAX),
            hot: Hot { in_flight: AtomicU32::new(0), requests: AtomicU64::new(0) },
            latency: PeakEwma::default(),
            usual: PeakEwma::default(),
            failures: PeakEwma::default(),
            arm: Arm::default(),
            learns: AtomicBool::new(true),
            breaker: Breaker::new(breaker),
            peers: Arc::clone(peers),
            times: Histogram::default(),
            succeeded: Counter::default(),
            failed: Counter::default(),
            slow: Counter::default(),
            given_up: Counter::default(),
            failed_ns: AtomicU64::new(0),
        };
        target.configure(config);
        Arc::new(target)
    }

    /// Takes a changed configuration over.
    pub fn configure(&self, config: &TargetConfig) {
        self.weight.store(config.weight, Ordering::Relaxed);
        self.tier.store(config.tier, Ordering::Relaxed);
        self.concurrency.store(config.concurrency.unwrap_or(0), Ordering::Relaxed);
    }

    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.hot.in_flight.load(Ordering::Relaxed)
    }

    /// Attempts that were ever begun.
    pub fn requests(&self) -> u64 {
        self.hot.requests.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn bars(&self) -> u32 {
        self.bars.load(Ordering::Relaxed)
    }

    /// Sets or lifts a bar; returns whether that changed anything.
    pub fn bar(&self, bar: u32, set: bool) -> bool {
        let old = match set {
            true => self.bars.fetch_or(bar, Ordering::SeqCst),
            false => self.bars.fetch_and(!bar, Ordering::SeqCst),
        };
        (old & bar != 0) != set
    }

    /// Whether it has all the calls that it may.
    #[inline]
    pub fn is_full(&self) -> bool {
        let most = self.concurrency.load(Ordering::Relaxed);
        most != 0 && self.in_flight() >= most
    }

    /// An attempt begins.
    #[inline]
    pub fn begin(&self) {
        self.hot.in_flight.fetch_add(1, Ordering::Relaxed);
        self.hot.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Attempts are over.
    #[inline]
    pub fn end(&self, count: u32) {
        self.hot.in_flight.fetch_sub(count, Ordering::Relaxed);
    }

    /// Takes in how calls ended. Returns what that did to the breaker.
    pub fn record(&self, tally: Tally, why: &str, now_ns: u64, memory_ns: u64) -> Option<Change> {
        let good = tally.calls - tally.failed;
        let mean_ns = tally.latency_ns as f32 / tally.calls.max(1) as f32;
        let share = tally.failed as f32 / tally.calls.max(1) as f32;
        self.latency.add(mean_ns, now_ns, memory_ns, true);
        if tally.failed > 0 || self.failures.get() > 0.0 {
            self.failures.add(share, now_ns, memory_ns, false);
        }
        let in_flight = self.in_flight();
        if self.learns.load(Ordering::Relaxed) {
            self.arm.learn(&Lesson {
                latency_ns: mean_ns,
                longest_ns: tally.longest_ns,
                calls: tally.calls,
                failed: tally.failed,
                in_flight: in_flight.saturating_add(tally.calls),
                ended: (self.requests() as u32).wrapping_sub(in_flight),
                now_ns,
                memory_ns,
            });
        }
        if good > 0 {
            self.succeeded.add(u64::from(good));
            if tally.slow > 0 {
                self.slow.add(u64::from(tally.slow));
            }
        }
        let mut change = None;
        if good > 0 {
            change = self.breaker.succeeded(good, tally.slow, now_ns, || self.others_can());
        }
        if tally.failed == 0 {
            // What is slow becomes usual, but only by and by.
            let usual = self.usual.get();
            let most = if usual > 0.0 { usual * 1.5 } else { f32::MAX };
            self.usual.add(mean_ns.min(most), now_ns, USUAL_NS, false);
            return self.changed(change);
        }
        self.failed.add(u64::from(tally.failed));
        self.failed_ns.store(now_ns, Ordering::Relaxed);
        let failing = self.breaker.failed(tally.failed, now_ns, why, || self.others_can());
        self.changed(failing.or(change))
    }

    /// A call was given up after so long, because another target has answered; whether it was slow.
    pub fn outrun(&self, age_ns: u64, slow: bool, now_ns: u64, memory_ns: u64) -> Option<Change> {
        let age = age_ns as f32;
        if age > self.latency.get() {
            self.latency.add(age, now_ns, memory_ns, true);
        }
        if !slow {
            return None;
        }
        self.slow.add(1);
        let change = self.breaker.succeeded(1, 1, now_ns, || self.others_can());
        self.changed(change)
    }

    /// Takes one of the places for probes of a breaker that is not closed; to be given back with `breaker.probed`.
    pub fn try_probe(&self, now_ns: u64) -> (bool, Option<Change>) {
        let (probes, change) = self.breaker.try_probe(now_ns);
        (probes, self.changed(change))
    }

    fn changed(&self, change: Option<Change>) -> Option<Change> {
        if change.is_some() {
            self.bar(Bars::TRIPPED, self.breaker.state() != State::Closed);
        }
        change
    }

    /// Whether another target of the route would take what comes. Who asks is about to leave them alone with it, so only
    /// one may at a time: the answer holds until the breaker has opened.
    fn others_can(&self) -> Option<impl Sized + use<'_>> {
        let peers = lock(&self.peers.all);
        let can = |peer: &Weak<Target>| {
            peer.upgrade().is_some_and(|peer| !std::ptr::eq(&*peer, self) && peer.bars() == 0)
        };
        peers.iter().any(can).then_some(peers)
    }
}
