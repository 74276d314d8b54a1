//! The observer: looks at the engine ten times a second while requests come, and sleeps while none do. What it sees are
//! the trends, what is usual for each model, and where the time goes of which pictures are made.
//!
//! Nobody waits for it, and lanes only look at one flag for it, once for each batch. In an engine without threads it looks
//! when the host pumps, and when it is asked.

use super::lifecycle::Core;
use super::model::Model;
use super::pictures::Mark;
use crate::clock::now_ns;
use crate::features::PROFILER;
use crate::log::Field;
use crate::metrics::Counts;
use crate::platform;
use crate::profile::{Baseline, Levels, Reading, Trends};
use crate::scheduler::bell::Bell;
use crate::scheduler::jobs::spawn;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock, try_lock};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

/// How often it looks.
const LOOK_NS: u64 = 100_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// After so long without anything to see it sleeps.
const LINGER_NS: u64 = 2 * SECOND_NS;
/// A picture is of the time since the mark before the last, of which one is made so often.
const MARK_NS: u64 = 10 * SECOND_NS;
/// Fewer requests in a second have no 99th percentile that is worth the name.
const FEW: u64 = 50;
/// If requests wait and no batch has ended for so long, the engine is stuck.
const STUCK_NS: u64 = 10 * SECOND_NS;

#[derive(Default)]
pub struct Observer {
    bell: Bell,
    /// It looks, or is about to.
    awake: AtomicBool,
    stopped: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    seen: Mutex<Seen>,
    /// Since when requests wait and no batch ends; 0: not so.
    stuck_since_ns: AtomicU64,
}

/// What is known of how fast a model is.
#[derive(Default)]
pub struct Performance {
    /// The 99th percentile of the latest second in which there was one, and what it usually is; 0: not known.
    pub p99_ns: AtomicU64,
    pub usual_p99_ns: AtomicU64,
    pub is_slow: AtomicBool,
}

/// What the observer remembers.
#[derive(Default)]
pub struct Seen {
    looked_ns: u64,
    /// Requests that have ended and batches that were run, and when that last changed.
    progress: (u64, u64),
    progress_ns: u64,
    rests: bool,
    read_ns: u64,
    trends: Trends,
    pub sums: Sums,
    /// Where pictures begin: the mark before the last.
    older: Mark,
    old: Mark,
    /// How things were when it went to rest.
    last: Option<Mark>,
    watches: HashMap<String, Watch>,
}

/// Sums of what was seen of the gauges, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    pub looks: f64,
    pub in_flight: f64,
    pub queue_depth: f64,
    pub events_waiting: f64,
    pub places_taken: f64,
}

#[derive(Default)]
pub struct Sums {
    pub gauges: Gauges,
    /// Requests that wait for a lane, by the key of their model's traffic.
    pub queued: HashMap<usize, f64>,
}

#[derive(Default)]
struct Watch {
    total: Counts,
    baseline: Baseline,
}

impl Observer {
    /// For lanes: there is something to see.
    #[inline]
    pub fn notice(&self) {
        if !self.awake.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        self.awake.store(true, Ordering::SeqCst);
        self.bell.ring_all();
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.bell.ring_all();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join(); // it does not panic
        }
    }

    /// For how long requests have been waiting though nothing gets done; `None`: not for so long that it means anything.
    pub fn stuck_ns(&self, now: u64) -> Option<u64> {
        let since = self.stuck_since_ns.load(Ordering::Relaxed);
        let stuck = now.saturating_sub(since);
        (since != 0 && stuck >= STUCK_NS).then_some(stuck)
    }
}

impl Core {
    /// Starts the observer's thread, if the engine may have one.
    pub fn start_observer(self: &Arc<Self>) {
        let mut thread = lock(&self.observer.thread);
        if self.config.threads == Some(0) || !self.config.metrics.trends || thread.is_some() {
            return;
        }
        let core = Arc::clone(self);
        match spawn("blaze-observer", move || core.observe()) {
            Ok(started) => *thread = Some(started),
            Err(error) => self.logger.warn("health", format_args!("there are no trends: {error}")),
        }
    }

    fn observe(self: &Arc<Self>) {
        let observer = &self.observer;
        let stopped = || observer.stopped.load(Ordering::SeqCst);
        while !stopped() {
            if self.look(now_ns()) {
                observer.bell.sleep(now_ns() + LOOK_NS, stopped);
                continue;
            }
            // Whoever runs a batch from here on wakes it; what was run meanwhile is seen when the next one is.
            observer.awake.store(false, Ordering::SeqCst);
            let called = || stopped() || observer.awake.load(Ordering::SeqCst);
            observer.bell.sleep(u64::MAX, called);
        }
    }

    /// For threads of the host's: looks, if that is due and nobody does.
    pub fn look_if_due(&self) {
        if self.config.threads == Some(0) && self.config.metrics.trends {
            let now = now_ns();
            let due = try_lock(&self.observer.seen).is_some_and(|seen| now >= seen.looked_ns + LOOK_NS);
            if due {
                self.look(now);
            }
        }
    }

    /// Looks. Returns whether there will be something to see soon.
    fn look(&self, now: u64) -> bool {
        self.sample_memory_if_due(now);
        let seen = &mut *lock(&self.observer.seen);
        let progress = self.metrics.fleet.progress();
        let waiting = self.table.unresolved_by_model();
        let in_flight: u64 = waiting.values().map(|(unresolved, _)| unresolved).sum();
        let queue_depth: u64 = waiting.values().map(|(_, queued)| queued).sum();
        seen.looked_ns = now;
        let has_moved = progress != seen.progress;
        let resumes = (seen.rests && (has_moved || in_flight > 0)) || seen.progress_ns == 0;
        if resumes {
            seen.resume(self, now);
        }
        if resumes || has_moved {
            (seen.progress, seen.progress_ns) = (progress, now);
        }
        let stuck = in_flight > 0 && now.saturating_sub(seen.progress_ns) >= LOOK_NS;
        let since = if stuck { seen.progress_ns } else { 0 };
        self.observer.stuck_since_ns.store(since, Ordering::Relaxed);
        let gauges = Levels {
            in_flight: in_flight as f64,
            queue_depth: queue_depth as f64,
            events_waiting: self.table.events_waiting(in_flight) as f64,
            memory_bytes: self.ledger.used() as f64,
        };
        seen.sums.add(&gauges, self.table.places().0);
        for (key, (_, queued)) in waiting {
            *seen.sums.queued.entry(key).or_default() += queued as f64;
        }
        if now.saturating_sub(seen.read_ns) >= SECOND_NS {
            seen.read(self, now, gauges);
        }
        let rests = now.saturating_sub(seen.progress_ns) >= LINGER_NS && in_flight == 0;
        // Only pictures are made of marks, and only profiles and advice of those.
        if PROFILER.built && rests && !seen.rests {
            let mut last = Mark::new(self, seen, now);
            last.at_ns = seen.progress_ns;
            seen.last = Some(last);
        }
        seen.rests = rests;
        !rests
    }

    /// Where a picture begins, and where it ends.
    pub(super) fn marks(&self) -> (Mark, Mark) {
        let now = now_ns();
        let seen = &mut *lock(&self.observer.seen);
        let end = match &seen.last {
            Some(last) if seen.rests && self.metrics.fleet.progress() == seen.progress => last.clone(),
            _ => Mark::new(self, seen, now),
        };
        (seen.older.clone(), end)
    }

    /// The trends, as JSON.
    pub fn trends(&self) -> Value {
        lock(&self.observer.seen).trends.to_json()
    }
}

impl Sums {
    fn add(&mut self, gauges: &Levels, places_taken: u32) {
        self.gauges.looks += 1.0;
        self.gauges.in_flight += gauges.in_flight;
        self.gauges.queue_depth += gauges.queue_depth;
        self.gauges.events_waiting += gauges.events_waiting;
        self.gauges.places_taken += f64::from(places_taken);
    }
}

impl Seen {
    /// Something happens again, after a time in which nothing did.
    fn resume(&mut self, core: &Core, now: u64) {
        let mut begin = self.last.take().unwrap_or_default();
        begin.at_ns = now;
        begin.cpu_ns = platform::process_cpu_ns().unwrap_or(0);
        begin.idle_ns = platform::machine_idle_ns();
        (self.older, self.old) = (begin.clone(), begin);
        let reading = self.reading(core, now, Levels::default());
        self.trends.resume(&reading);
        self.read_ns = now;
    }

    fn reading(&self, core: &Core, now: u64, gauges: Levels) -> Reading {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Reading {
            at_ns: now,
            unix_s: since_1970.map_or(0.0, |time| (time.as_secs_f64() * 1000.0).round() / 1000.0),
            totals: core.metrics.fleet.totals(),
            rejected: core.metrics.rejections.total(),
            cpu_ns: platform::process_cpu_ns().unwrap_or(0),
            gauges,
        }
    }

    /// What is done once a second.
    fn read(&mut self, core: &Core, now: u64, gauges: Levels) {
        self.read_ns = now;
        let reading = self.reading(core, now, gauges);
        self.trends.add(&reading);
        let models = core.models.all();
        self.watches.retain(|name, _| models.iter().any(|(_, model)| model.full_name() == name));
        // How long a stepwise request takes is its own matter.
        for (_, model) in models.iter().filter(|(_, model)| !model.is_stepwise()) {
            self.watch(core, model);
        }
        if now.saturating_sub(self.old.at_ns) >= MARK_NS {
            let keys: Vec<usize> = models.iter().map(|(_, model)| model.traffic.key()).collect();
            self.sums.queued.retain(|key, _| keys.contains(key));
            if !PROFILER.built {
                self.old.at_ns = now;
                return;
            }
            let newest = Mark::new(core, self, now);
            self.older = std::mem::replace(&mut self.old, newest);
        }
    }

    /// Holds a model's latest second against what is usual for it.
    fn watch(&mut self, core: &Core, model: &Model) {
        let total = model.traffic.total_times();
        let watch = self.watches.entry(model.full_name().to_owned()).or_default();
        let latest = total.since(&watch.total);
        if latest.count() < FEW {
            return;
        }
        watch.total = total;
        let p99_ns = latest.quantile(0.99);
        let change = watch.baseline.add(p99_ns);
        let usual_ns = watch.baseline.usual_ns();
        let performance = &model.performance;
        performance.p99_ns.store(p99_ns, Ordering::Relaxed);
        performance.usual_p99_ns.store(usual_ns, Ordering::Relaxed);
        performance.is_slow.store(watch.baseline.is_slow(), Ordering::Relaxed);
        let (name, ms) = (model.full_name(), |ns: u64| ns as f64 / 1e6);
        let fields = [("model", Field::Text(name))];
        let logger = core.logger.with(&fields);
        match change {
            Some(true) => logger.warn(
                "health",
                format_args!("{name} is slow: p99 {:.2} ms, usually {:.2} ms", ms(p99_ns), ms(usual_ns)),
            ),
            Some(false) => logger.warn("health", format_args!("{name} is as fast as usual again")),
            None => (),
        }
    }
}
