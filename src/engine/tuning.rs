//! Tuning of an engine's models while they work: measures windows, has the tuner say what to try, and makes it so. What
//! offline and online tuning share, and the report.

use super::lifecycle::{Core, Engine};
use super::model::Model;
use crate::clock::now_ns;
use crate::config::{TuningConfig, TuningMode};
use crate::features::TUNING;
use crate::metrics::Totals;
use crate::panics::catch;
use crate::scheduler::bell::Bell;
use crate::scheduler::jobs::spawn;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock, try_lock};
use crate::tuning::{Advice, Bounds, Change, Goal, Picture, Seen, Settings, Step, Tuner, Window};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

const MS: u64 = 1_000_000;
/// A window is so long at least, and at most if a model has not run enough batches in it.
const WINDOW_NS: (u64, u64) = (100 * MS, 400 * MS);
const ENOUGH_BATCHES: u64 = 16;
/// Where repeated windows lie so far apart, they are twice as long.
const NOISY: f64 = 0.15;
/// How often to look whether it is over.
const LOOK_NS: u64 = 25 * MS;
/// After a change requests that came before it are left out, for as long as the slowest of them take: at least and at most.
const SETTLE_NS: (u64, u64) = (10 * MS, 200 * MS);
/// How long to wait between windows when there is nothing to try: without a goal, and with one.
const WATCH_NS: (u64, u64) = (900 * MS, 100 * MS);

/// An engine's tuning.
#[derive(Default)]
pub struct Tuning {
    /// `blaze_tune` is at work.
    pub offline: AtomicBool,
    /// Held by whoever changes settings to learn from it.
    pub turn: Mutex<()>,
    /// The latest report of `blaze_tune`.
    pub searched: Mutex<Option<Value>>,
    online: Mutex<Option<Online>>,
    bell: Bell,
    /// There was no traffic: who runs a batch wakes it.
    rests: AtomicBool,
    stopped: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// For an engine without threads: when to look again.
    next_ns: AtomicU64,
}

struct Online {
    tuner: Tuner,
    phase: Phase,
    /// The highest p99 of the latest window.
    p99_ns: u64,
    advice: BTreeMap<u64, Option<Advice>>,
    /// What was kept in files.
    saved: BTreeMap<u64, Settings>,
}

enum Phase {
    Resting,
    /// The next window begins then.
    Settling(u64),
    Measuring {
        since_ns: u64,
        before: BTreeMap<u64, Totals>,
    },
}

/// A model with a key that is its own for as long as the engine lives.
type Keyed = (u64, Arc<Model>);

impl Online {
    fn new(config: &TuningConfig) -> Self {
        Online {
            tuner: Tuner::new(config.level, Goal::new(config.objective, config.p99_ms)),
            phase: Phase::Resting,
            p99_ns: 0,
            advice: BTreeMap::new(),
            saved: BTreeMap::new(),
        }
    }
}

impl Tuning {
    /// A batch was run.
    #[inline]
    pub fn notice(&self) {
        if self.rests.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        self.next_ns.store(0, Ordering::Relaxed);
        if self.rests.swap(false, Ordering::SeqCst) {
            self.bell.ring_all();
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.bell.ring_all();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join(); // it does not panic
        }
    }
}

impl Core {
    /// Has the engine tune itself, if that is wanted.
    pub fn start_tuning(self: &Arc<Self>) {
        let config = &self.config.tuning;
        if !TUNING.built || config.mode == TuningMode::Off {
            return;
        }
        *lock(&self.tuning.online) = Some(Online::new(config));
        self.tuning.rests.store(true, Ordering::SeqCst);
        self.tuning.next_ns.store(u64::MAX, Ordering::Relaxed);
        if self.config.threads == Some(0) {
            return;
        }
        let core = Arc::clone(self);
        let run = move || {
            let tuning = &core.tuning;
            let stopped = || tuning.stopped.load(Ordering::SeqCst);
            while !stopped() {
                let next = core.tick(now_ns());
                let called = || next == u64::MAX && !tuning.rests.load(Ordering::SeqCst);
                tuning.bell.sleep(next, || stopped() || called());
            }
            core.keep_learned();
        };
        match spawn("blaze-tuning", run) {
            Ok(thread) => *lock(&self.tuning.thread) = Some(thread),
            Err(error) => self.logger.error("tuning", format_args!("{error}")),
        }
    }

    /// For an engine without threads: looks after tuning, if it is time.
    pub fn tune_if_due(self: &Arc<Self>) {
        let tuning = &self.tuning;
        if TUNING.built
            && self.config.tuning.mode != TuningMode::Off
            && self.config.threads == Some(0)
            && now_ns() >= tuning.next_ns.load(Ordering::Relaxed)
        {
            let next = self.tick(now_ns());
            tuning.next_ns.store(next, Ordering::Relaxed);
        }
    }

    /// Looks after tuning; returns when to do so again, which is never if there is no traffic.
    pub fn tick(self: &Arc<Self>, now: u64) -> u64 {
        let result = catch(|| Ok(self.tick_once(now)));
        result.unwrap_or_else(|error| {
            self.logger.error("tuning", format_args!("{error}"));
            now + WATCH_NS.0
        })
    }

    fn tick_once(self: &Arc<Self>, now: u64) -> u64 {
        let tuning = &self.tuning;
        let later = now + WATCH_NS.0;
        // `blaze_tune` has its turn.
        let Some(_turn) = try_lock(&tuning.turn).filter(|_| !tuning.offline.load(Ordering::SeqCst)) else {
            return later;
        };
        let models = self.keyed_models();
        let (change, next) = {
            let mut online = lock(&tuning.online);
            let Some(online) = online.as_mut() else { return u64::MAX };
            match &online.phase {
                Phase::Settling(until) if now < *until => return *until,
                Phase::Resting | Phase::Settling(_) => {
                    let before = models.iter().map(|(key, model)| (*key, model.traffic.totals())).collect();
                    online.phase = Phase::Measuring { since_ns: now, before };
                    return now + WINDOW_NS.0;
                }
                Phase::Measuring { since_ns, before } => {
                    let elapsed = now.saturating_sub(*since_ns);
                    let few = |(key, model): &Keyed| {
                        let count =
                            before.get(key).map_or(0, |before| model.traffic.batches() - before.batches);
                        (1..ENOUGH_BATCHES).contains(&count)
                    };
                    let noise = online.tuner.noise();
                    let least = WINDOW_NS.0 + (noise / NOISY * WINDOW_NS.0 as f64) as u64;
                    let least = least.min(WINDOW_NS.1 / 2);
                    if elapsed < least || (elapsed < WINDOW_NS.1 && models.iter().any(few)) {
                        return now + LOOK_NS.min(WINDOW_NS.0.saturating_sub(elapsed).max(LOOK_NS));
                    }
                    let seen = self.window_of(&models, before, elapsed);
                    self.end_window(online, &models, &seen, now)
                }
            }
        };
        if let Some(change) = change
            && let Some((_, model)) = models.iter().find(|(key, _)| *key == change.model)
            && let Err(error) = self.change(model, |_| change.settings)
        {
            let name = &model.full_name;
            self.logger.debug("tuning", format_args!("{name}: {} cannot be: {error}", change.settings));
            if let Some(online) = lock(&tuning.online).as_mut() {
                online.tuner.failed(change.model);
            }
        }
        next
    }

    /// Models that there are, each once.
    fn keyed_models(&self) -> Vec<Keyed> {
        let mut models: Vec<Keyed> = Vec::new();
        for (id, model) in self.models.all() {
            match models.iter_mut().find(|(_, other)| Arc::ptr_eq(other, &model)) {
                Some((key, _)) => *key = id.min(*key), // its name has a handle of its own
                None => models.push((id, model)),
            }
        }
        models
    }

    /// What has happened in a window.
    fn window_of(&self, models: &[Keyed], before: &BTreeMap<u64, Totals>, elapsed_ns: u64) -> Picture {
        let mut picture = Picture::new();
        for (key, model) in models {
            let Some(before) = before.get(key) else { continue };
            let done = model.traffic.totals().since(before);
            let requests = done.ended();
            if requests == 0 || done.batches == 0 {
                continue;
            }
            let per_second = |count: u64| count as f64 * 1e9 / elapsed_ns.max(1) as f64;
            let window = Window {
                requests,
                requests_per_second: per_second(requests),
                rows_per_second: per_second(done.rows),
                p99_ns: done.total.quantile(0.99),
                batch_rows: done.rows as f64 / done.batches as f64,
                batch_ns: done.computed.mean(),
                busy: done.computed.sum() as f64 / elapsed_ns.max(1) as f64,
            };
            let settings = model.settings();
            let mut bounds = model.bounds(self);
            if !model.config.tuning {
                bounds = Bounds::fixed(&settings);
            }
            picture.insert(*key, Seen { settings, bounds, window });
        }
        picture
    }

    fn end_window(
        &self,
        online: &mut Online,
        models: &[Keyed],
        seen: &Picture,
        now: u64,
    ) -> (Option<Change>, u64) {
        online.tuner.retain(|key| models.iter().any(|(other, _)| *other == key));
        online.advice.retain(|key, _| models.iter().any(|(other, _)| other == key));
        if seen.is_empty() {
            let change = online.tuner.rest();
            online.phase = Phase::Resting;
            self.keep(online, models, |_| true);
            self.tuning.rests.store(true, Ordering::SeqCst);
            return (change, u64::MAX);
        }
        online.p99_ns = seen.values().map(|seen| seen.window.p99_ns).max().unwrap_or(0);
        let watch_ns = if self.config.tuning.p99_ms.is_some() { WATCH_NS.1 } else { WATCH_NS.0 };
        if self.config.tuning.mode == TuningMode::Observe {
            self.advise(online, models, seen);
            online.phase = Phase::Settling(now + WATCH_NS.0);
            return (None, now + WATCH_NS.0);
        }
        let last = online.tuner.steps_taken();
        let change = online.tuner.step(seen);
        let taken = (online.tuner.steps_taken() - last) as usize;
        online.tuner.steps().rev().take(taken).for_each(|step| self.log_step(models, step));
        let is_settled = seen.keys().all(|&key| online.tuner.is_settled(key) == Some(true));
        let wait_ns = match change {
            Some(_) => online.p99_ns.clamp(SETTLE_NS.0, SETTLE_NS.1),
            None if is_settled => watch_ns,
            None => 0,
        };
        if is_settled {
            self.keep(online, models, |key| seen.contains_key(&key));
        }
        online.phase = Phase::Settling(now + wait_ns);
        (change, now + wait_ns)
    }

    /// Says what would be changed, by what runs have cost.
    fn advise(&self, online: &mut Online, models: &[Keyed], seen: &Picture) {
        for (key, seen) in seen {
            let Some((_, model)) = models.iter().find(|(other, _)| other == key) else { continue };
            let advice = Advice::new(seen, |rows| model.queue.costs.of(rows));
            let before = online.advice.insert(*key, advice.clone());
            if let Some(advice) = advice
                && before.flatten().is_none_or(|before| before.settings != advice.settings)
            {
                let name = &model.full_name;
                self.logger.info("tuning", format_args!("{name}: {advice}"));
            }
        }
    }

    fn log_step(&self, models: &[Keyed], step: &Step) {
        let Some((_, model)) = models.iter().find(|(key, _)| *key == step.model) else { return };
        let (name, from, to, ratio) = (&model.full_name, step.from, step.to, step.ratio);
        match step.kept {
            true => self.logger.info("tuning", format_args!("{name}: {from} -> {to}: {ratio:.2} times")),
            false => self.logger.debug("tuning", format_args!("{name}: {to}: {ratio:.2} times, not kept")),
        }
    }

    /// Keeps in files what was learned of models.
    fn keep(&self, online: &mut Online, models: &[Keyed], which: impl Fn(u64) -> bool) {
        if self.config.tuning.directory.is_none() {
            return;
        }
        for (key, model) in models {
            let Some(best) = online.tuner.best(*key).filter(|_| which(*key)) else { continue };
            let learned = online.tuner.has_learned(*key) && online.saved.get(key) != Some(&best);
            if learned {
                online.saved.insert(*key, best);
                self.save_learned(model, &best, online.tuner.rows_per_second(*key));
            }
        }
    }

    fn keep_learned(&self) {
        let models = self.keyed_models();
        if let Some(online) = lock(&self.tuning.online).as_mut() {
            self.keep(online, &models, |_| true);
        }
    }
}

impl Engine {
    /// The latest report of `blaze_tune`, and what tuning has learned while the engine works, as JSON.
    pub fn tune_report(&self) -> String {
        let core = self.core();
        let online = lock(&core.tuning.online);
        let describe = |(key, model): &Keyed| {
            let mut report = json!({
                "name": model.full_name,
                "settings": model.settings(),
                "bounds": model.bounds(core),
                "tuned": model.config.tuning,
            });
            if let Some(online) = online.as_ref() {
                let observes = core.config.tuning.mode == TuningMode::Observe;
                report["state"] = match online.tuner.is_settled(*key) {
                    _ if observes => "observed",
                    None => "waiting",
                    Some(true) => "settled",
                    Some(false) => "searching",
                }
                .into();
                let steps = online.tuner.steps().filter(|step| step.model == *key);
                report["steps"] = steps.map(Step::report).collect();
                report["advice"] = online.advice.get(key).cloned().flatten().map(|it| it.report()).into();
            }
            report
        };
        let models: Vec<Value> = core.keyed_models().iter().map(describe).collect();
        json!({
            "mode": core.config.tuning.mode,
            "noise": online.as_ref().map(|online| online.tuner.noise()),
            "models": models,
            "searching": core.tuning.offline.load(Ordering::SeqCst),
            "search": *lock(&core.tuning.searched),
        })
        .to_string()
    }
}
