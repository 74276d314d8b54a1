//! The warden: a thread that looks after routes while requests are under way, and after models that have failed. It finds
//! attempts that take too long, asks targets how they are, lets waiting requests in, and has failed models rebuilt.

use super::lifecycle::Core;
use super::model::{Model, ModelState};
use super::relay::Reason;
use super::routes::{PlanPin, Way, each_routed};
use super::routing::Attempt;
use super::table::Pin;
use super::{Ticket, warm_up};
use crate::clock::now_ns;
use crate::error::{Result, Status};
use crate::router::{Bars, State, Tally};
use crate::scheduler::bell::Bell;
use crate::scheduler::jobs::spawn;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, lock};
use std::sync::Arc;
use std::thread::JoinHandle;

const MS: u64 = 1_000_000;
/// How often it looks while requests are under way.
const TICK_NS: u64 = 2 * MS;
/// After the last request it goes on looking for so long, so often.
const LINGER_NS: u64 = 1000 * MS;
const LINGER_TICK_NS: u64 = 20 * MS;
/// How often it works out what is slow.
const JUDGE_NS: u64 = 20 * MS;
/// What is learned to be slow takes at least so long: a machine's own pauses are not the target's.
const SLOW_NS: u64 = 2 * MS;
/// Without anything seen of a target, an attempt is waited for so long.
const PATIENCE_NS: u64 = 10_000 * MS;
/// Synthetic requests that fail in a row make a target unwell.
const UNWELL_AFTER: u32 = 2;
/// How long after a failed model has failed again it is tried once more: at first, and at most.
const PROVE_NS: (u64, u64) = (100 * MS, 400 * MS);
/// How long after a failed rebuild another is tried: at first, and at most.
const REBUILD_NS: (u64, u64) = (100 * MS, 10_000 * MS);
/// How long a rebuilt model's first request is waited for.
const PROOF_NS: u64 = 10_000 * MS;

/// What wakes the warden, and its thread.
#[derive(Default)]
pub struct Warden {
    bell: Bell,
    /// Something is to be looked at.
    called: AtomicBool,
    /// Nothing was under way when it last looked: who begins something must call.
    rests: AtomicBool,
    stopped: AtomicBool,
    runs: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Requests wait for attempts that have taken too long.
    stuck: AtomicBool,
    judged_ns: AtomicU64,
    /// Attempts that had begun when it last looked, and when that has changed.
    begun: AtomicU64,
    lively_ns: AtomicU64,
    /// For an engine without threads: when to look again.
    next_ns: AtomicU64,
}

/// A way's synthetic requests.
#[derive(Default)]
pub struct Check {
    state: Mutex<CheckState>,
    /// How the latest has ended: see `Check::ended`.
    result: AtomicU32,
}

#[derive(Default)]
struct CheckState {
    next_ns: u64,
    /// The one that is under way, and since when.
    sent: Option<(Ticket, u64)>,
    failures: u32,
    last_error: Option<String>,
}

const ENDED_WELL: u32 = 1;
const ENDED_BADLY: u32 = 2;

impl Check {
    /// A synthetic request has ended.
    pub fn ended(&self, status: Status) {
        let result = if status == Status::Ok { ENDED_WELL } else { ENDED_BADLY };
        self.result.store(result, Ordering::SeqCst);
    }

    /// Why the latest one failed, if it did.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.state).last_error.clone()
    }
}

/// Rebuilding of a model that has failed.
#[derive(Default)]
pub struct Mending {
    state: Mutex<MendingState>,
    underway: AtomicBool,
    /// How often it was rebuilt, and how often that has helped.
    pub rebuilt: AtomicU64,
    pub recovered: AtomicU64,
}

#[derive(Default)]
struct MendingState {
    /// When it is tried next, or, if its device is lost, rebuilt.
    next_ns: u64,
    wait_ns: u64,
    /// From when on it may be rebuilt.
    rebuild_ns: u64,
    rebuild_wait_ns: u64,
}

impl MendingState {
    /// It is tried now. Whether it is also rebuilt if that shows it to be broken still.
    fn try_now(&mut self, now: u64, lost: bool) -> bool {
        // One that was well for long begins anew.
        if now > self.next_ns.max(self.rebuild_ns) + 6 * REBUILD_NS.1 {
            (self.wait_ns, self.rebuild_wait_ns) = (0, 0);
        }
        let rebuilds = now >= self.rebuild_ns;
        if rebuilds {
            self.rebuild_wait_ns = (self.rebuild_wait_ns * 2).clamp(REBUILD_NS.0, REBUILD_NS.1);
            self.rebuild_ns = now + self.rebuild_wait_ns;
        }
        self.wait_ns = (self.wait_ns * 2).clamp(PROVE_NS.0, PROVE_NS.1);
        self.next_ns = if lost { self.rebuild_ns } else { now + self.wait_ns };
        rebuilds
    }
}

impl Warden {
    /// Has it look at once.
    pub fn wake(&self) {
        if !self.called.swap(true, Ordering::SeqCst) {
            self.bell.ring();
        }
    }

    /// For who has begun an attempt: has it watched.
    #[inline]
    pub fn look(&self) {
        if self.rests.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Whether requests have come of late: they may come again, and need not call then.
    fn is_lively(&self, begun: u64, now: u64) -> bool {
        if self.begun.swap(begun, Ordering::Relaxed) != begun {
            self.lively_ns.store(now, Ordering::Relaxed);
        }
        now < self.lively_ns.load(Ordering::Relaxed).saturating_add(LINGER_NS)
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.called.store(true, Ordering::SeqCst);
        self.bell.ring_all();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join(); // it does not panic
        }
    }
}

impl Core {
    /// Starts the warden, unless it runs.
    pub fn start_warden(self: &Arc<Self>) {
        let warden = &self.warden;
        if self.config.threads == Some(0) || warden.runs.swap(true, Ordering::SeqCst) {
            return;
        }
        let core = Arc::clone(self);
        let thread = spawn("blaze-warden", move || {
            let warden = &core.warden;
            while !warden.stopped.load(Ordering::SeqCst) {
                warden.called.store(false, Ordering::SeqCst);
                let until = core.tend(now_ns());
                warden.bell.sleep(until, || warden.called.load(Ordering::SeqCst));
            }
        });
        match thread {
            Ok(thread) => *lock(&warden.thread) = Some(thread),
            Err(error) => {
                warden.runs.store(false, Ordering::SeqCst);
                self.logger.error("route", format_args!("nobody looks after routes: {error}"));
            }
        }
    }

    /// For an engine without threads.
    pub fn tend_if_due(self: &Arc<Self>) {
        let warden = &self.warden;
        let now = now_ns();
        if warden.called.swap(false, Ordering::SeqCst) || now >= warden.next_ns.load(Ordering::Relaxed) {
            let next = self.tend(now);
            warden.next_ns.store(next, Ordering::Relaxed);
        }
    }

    /// Looks after everything once. Returns when to look again.
    fn tend(self: &Arc<Self>, now: u64) -> u64 {
        let mut next = self.tend_models(now);
        if self.routes.is_empty() {
            self.routes.sweep(self);
            return next;
        }
        // Before the look: what begins from here on calls.
        self.warden.rests.store(true, Ordering::SeqCst);
        let mut begun = 0u64;
        let judges = now >= self.warden.judged_ns.load(Ordering::Relaxed) + JUDGE_NS;
        if judges {
            self.warden.judged_ns.store(now, Ordering::Relaxed);
        }
        let mut underway = self.warden.stuck.load(Ordering::Relaxed);
        self.routes.each(|plan| {
            self.rebind(plan);
            plan.ways.iter().for_each(|way| way.tell(way.untold(), self));
            begun = begun.wrapping_add(plan.requests());
            underway |= plan.targets.iter().any(|target| target.in_flight() > 0) || plan.route.has_waiting();
            if judges {
                self.judge(plan);
            }
            self.let_in(plan);
            next = next.min(self.check_targets(plan, now));
        });
        let lively = self.warden.is_lively(begun, now);
        if underway || lively {
            self.warden.rests.store(false, Ordering::SeqCst);
            next = next.min(now + LINGER_TICK_NS);
        }
        if underway {
            let mut stuck = false;
            self.table.each(|pin| each_routed(self, pin, |_, member| stuck |= self.watch(pin, member, now)));
            self.warden.stuck.store(stuck, Ordering::Relaxed);
            next = next.min(now + TICK_NS);
        }
        self.routes.sweep(self);
        next
    }

    /// Works out what is slow for each target, and how long to wait for it.
    fn judge(&self, plan: &PlanPin<'_>) {
        let config = &plan.config;
        for (index, way) in plan.ways.iter().enumerate() {
            let target = &way.target;
            let others = plan.targets.iter().enumerate().filter(|(other, _)| *other != index);
            let latencies = others.map(|(_, other)| other.usual.get()).filter(|&latency| latency > 0.0);
            let best_other = latencies.fold(f32::INFINITY, f32::min);
            let usual = target.usual.get();
            // What all have to bear is not this one's fault; but a probe finds it with little to do.
            let base = if best_other.is_finite() { usual.max(best_other) } else { usual };
            let slow = |base: f32| match config.breaker.slow_ms {
                Some(ms) => (ms * MS as f64) as u64,
                None if config.breaker.slow_factor == 0.0 || usual == 0.0 => u64::MAX,
                None => ((f64::from(base) * config.breaker.slow_factor) as u64).max(SLOW_NS),
            };
            target.slow_ns.store(slow(base), Ordering::Relaxed);
            target.slow_probe_ns.store(slow(usual), Ordering::Relaxed);
            let failed = self.models.pin(target.model.load(Ordering::Relaxed), false);
            let failed = failed.is_ok_and(|model| model.state() == ModelState::Failed);
            if target.bar(Bars::FAILED, failed) {
                let what = if failed { "has failed" } else { "works again" };
                let (route, target) = (&plan.route.name, &target.name);
                self.logger
                    .with(&[("route", route.into()), ("target", target.into())])
                    .warn("route", format_args!("{route}: the model of {target} {what}"));
            }
            let seen = |share: f64| {
                let quantile = |target: &crate::router::Target| target.times.quantile(share);
                let own = quantile(target);
                if own > 0 {
                    own
                } else {
                    plan.targets.iter().map(|target| quantile(target)).max().unwrap_or(0)
                }
            };
            let timeout_ns = match config.retry.attempt_timeout_ms {
                Some(0) => u64::MAX,
                Some(ms) => u64::from(ms) * MS,
                None => match seen(0.99) {
                    0 => PATIENCE_NS,
                    p99 => (10 * p99).max(100 * MS),
                },
            };
            way.timeout_ns.store(timeout_ns, Ordering::Relaxed);
            way.seldom_ns.store(seen(0.99), Ordering::Relaxed);
            let hedge_ns = config.hedge.quantile.map_or(u64::MAX, |share| match seen(share) {
                0 => u64::MAX,
                quantile => quantile.max((config.hedge.minimum_ms * MS as f64) as u64),
            });
            way.hedge_ns.store(hedge_ns, Ordering::Relaxed);
        }
    }

    /// Looks at one attempt: whether it takes too long. Returns whether it is to be looked at again though nothing of it
    /// counts as under way.
    fn watch(self: &Arc<Self>, pin: &Pin<'_>, member: usize, now: u64) -> bool {
        let hop = &pin.cold(member).hop;
        let Some(flags) = pin.flags(member).filter(|_| !pin.resolved.is_set(member)) else { return false };
        let Some(way) = hop.way().filter(|_| !pin.has_spoken(member)) else { return false };
        if !hop.is_open() {
            return flags.routed && hop.is_stuck(&self.table) && self.go_on(pin, member, now);
        }
        let age_ns = now.saturating_sub(pin.submitted_ns(member));
        if age_ns >= way.timeout_ns.load(Ordering::Relaxed) {
            let Some(taken) = hop.take_late() else { return false };
            // When all targets are as slow, it is not this one's fault.
            let slow_ns = way.target.slow_ns.load(Ordering::Relaxed);
            if slow_ns != u64::MAX && age_ns <= slow_ns {
                taken.way.give_up(taken.probes);
            } else {
                let mut tally = Tally::default();
                tally.add(age_ns, true, u64::MAX);
                let why = format!("no answer for {:.1} ms", age_ns as f64 / MS as f64);
                taken.way.record(tally, u32::from(taken.probes), &why, now, self);
            }
            way.route.counters.timeouts.fetch_add(1, Ordering::Relaxed);
            if flags.routed {
                return self.go_on(pin, member, now);
            }
            return self.table.pin(hop.parent()).is_some_and(|(parent, at)| self.go_on(&parent, at, now));
        }
        if !flags.routed || hop.begun() > 1 {
            return false;
        }
        if age_ns >= way.hedge_ns.load(Ordering::Relaxed) {
            let _ = self.try_again(pin, member, Reason::Hedge); // it is not needed
        } else if age_ns >= way.patience_ns(pin.submitted_ns(member), pin.deadline_of(member)) {
            let _ = self.try_again(pin, member, Reason::Failover); // the first may still make it
        }
        false
    }

    /// An attempt of this request has taken too long: makes another one. If there is none, and the host has said how long
    /// attempts may take, the request has failed. Otherwise it waits for what may still come: true.
    fn go_on(self: &Arc<Self>, parent: &Pin<'_>, at: usize, now: u64) -> bool {
        if parent.resolved.is_set(at) || self.try_again(parent, at, Reason::Failover).is_ok() {
            return false;
        }
        let hop = &parent.cold(at).hop;
        if !hop.is_stuck(&self.table) {
            return false;
        }
        let gives_up = hop.way().is_some_and(|way| way.route.gives_up.load(Ordering::Relaxed));
        if gives_up && self.is_overdue(parent, at, now) {
            self.table.resolve_early(self.table.ticket_of(parent, at), Status::Timeout);
            return false;
        }
        true
    }

    /// Whether every attempt of a request that has not ended has taken as long as the host has said.
    fn is_overdue(&self, parent: &Pin<'_>, at: usize, now: u64) -> bool {
        let overdue = |pin: &Pin<'_>, member: usize| {
            let hop = &pin.cold(member).hop;
            let timeout_ns = hop.way().map_or(0, |way| way.timeout_ns.load(Ordering::Relaxed));
            hop.waits() || now.saturating_sub(pin.submitted_ns(member)) >= timeout_ns
        };
        let mut children = parent.cold(at).hop.children();
        overdue(parent, at)
            && children.all(|child| {
                let found = self.table.pin(child);
                found.is_none_or(|(pin, member)| pin.resolved.is_set(member) || overdue(&pin, member))
            })
    }

    /// Sends synthetic requests to targets, and learns from those that have ended. Returns when to look again.
    fn check_targets(self: &Arc<Self>, plan: &PlanPin<'_>, now: u64) -> u64 {
        let config = &plan.config.health;
        let Some(interval_ms) = config.interval_ms else { return u64::MAX };
        let interval_ns = u64::from(interval_ms) * MS;
        let timeout_ns = config.timeout_ms.map_or(interval_ns, |ms| u64::from(ms) * MS);
        let mut next = u64::MAX;
        for way in &plan.ways {
            let mut state = lock(&way.check.state);
            if let Some((ticket, since)) = state.sent {
                let result = way.check.result.swap(0, Ordering::SeqCst);
                let late = now >= since + timeout_ns;
                // It need not say all that it has to say.
                let answers = result == 0 && self.has_spoken(ticket);
                if result == 0 && !late && !answers {
                    next = next.min((now + TICK_NS).max(since + timeout_ns).min(now + 10 * TICK_NS));
                    continue;
                }
                state.sent = None;
                if result == 0 {
                    self.end_check(ticket, since, now, answers);
                }
                let error = match result {
                    _ if answers => None,
                    ENDED_WELL => None,
                    0 => Some(format!("no answer within {} ms", timeout_ns / MS)),
                    _ => Some("it failed".to_owned()),
                };
                self.note_check(way, &mut state, error);
            }
            if now >= state.next_ns {
                state.next_ns = now + interval_ns;
                if way.target.bars() & Bars::HARD == 0 {
                    way.check.result.store(0, Ordering::SeqCst);
                    way.target.begin();
                    let attempt = Attempt::new(way);
                    // If its target leaves the route meanwhile, nobody looks at it any more.
                    let deadline_ns = now + 2 * timeout_ns + 10 * TICK_NS;
                    match self.send_check(&attempt, deadline_ns) {
                        Ok(ticket) => state.sent = Some((ticket, now)),
                        Err(error) => {
                            way.give_up(false);
                            self.note_check(way, &mut state, Some(error.message));
                        }
                    }
                }
            }
            let due = if state.sent.is_some() { now + TICK_NS } else { state.next_ns };
            next = next.min(due);
        }
        next
    }

    fn note_check(&self, way: &Way, state: &mut CheckState, error: Option<String>) {
        state.failures = if error.is_some() { state.failures + 1 } else { 0 };
        state.last_error = error;
        let unwell = state.failures >= UNWELL_AFTER;
        if unwell != (way.target.bars() & Bars::UNWELL != 0) && (unwell || state.failures == 0) {
            way.target.bar(Bars::UNWELL, unwell);
            let what = state.last_error.as_deref().map_or("is well again".to_owned(), |why| {
                format!("is unwell: {} synthetic requests in a row failed: {why}", state.failures)
            });
            let (route, target) = (&way.route.name, &way.target.name);
            self.logger
                .with(&[("route", route.into()), ("target", target.into())])
                .warn("route", format_args!("{route}: {target} {what}"));
        }
    }

    /// Whether a request of a stepwise model has said something.
    fn has_spoken(&self, ticket: Ticket) -> bool {
        self.table.pin(ticket).is_some_and(|(pin, member)| pin.has_spoken(member))
    }

    /// Gives up a synthetic request: it `answers`, or has taken too long.
    fn end_check(&self, ticket: Ticket, since: u64, now: u64, answers: bool) {
        let Some((pin, member)) = self.table.pin(ticket) else { return };
        if let Some(taken) = pin.cold(member).hop.take() {
            let mut tally = Tally::default();
            tally.add(now.saturating_sub(since), !answers, u64::MAX);
            taken.way.record(
                tally,
                u32::from(taken.probes),
                "a synthetic request was not answered",
                now,
                self,
            );
        }
        drop(pin);
        self.table.resolve_early(ticket, if answers { Status::Cancelled } else { Status::Expired });
    }

    /// Has failed models rebuilt. Returns when to look again.
    fn tend_models(self: &Arc<Self>, now: u64) -> u64 {
        let mut next = u64::MAX;
        self.models.each(|model| {
            if !model.config.recovery || model.state() != ModelState::Failed || self.table.is_closed() {
                return;
            }
            let mending = &model.mending;
            if mending.underway.load(Ordering::SeqCst) {
                next = next.min(now + JUDGE_NS);
                return;
            }
            let mut state = lock(&mending.state);
            if now < state.next_ns {
                next = next.min(state.next_ns);
                return;
            }
            let rebuilds = state.try_now(now, model.is_lost());
            mending.underway.store(true, Ordering::SeqCst);
            let model = model.to_arc();
            self.start_work("blaze-rebuild", move |core| {
                core.mend(&model, rebuilds);
                model.mending.underway.store(false, Ordering::SeqCst);
                core.warden.wake();
            });
            next = next.min(now + JUDGE_NS);
        });
        next
    }

    /// Tries whether a failed model works, and if not, and it `rebuilds`, loads it anew and tries again.
    fn mend(self: &Arc<Self>, model: &Arc<Model>, rebuilds: bool) {
        if (!model.is_lost() && self.proves(model)) || !rebuilds {
            return;
        }
        let rebuilt = model.residence.is_away() || self.rebuild(model);
        model.mending.rebuilt.fetch_add(u64::from(rebuilt), Ordering::Relaxed);
        if rebuilt && self.proves(model) {
            model.mending.recovered.fetch_add(1, Ordering::Relaxed);
            self.logger
                .with(&[("model", (&model.full_name).into())])
                .warn("model", format_args!("{} was rebuilt and works", model.full_name));
        }
    }

    /// Whether a synthetic request to a model ends well.
    fn proves(self: &Arc<Self>, model: &Arc<Model>) -> bool {
        let until = now_ns() + PROOF_NS;
        let sent = self.send_proof(model);
        let ticket = match sent {
            Ok(ticket) => ticket,
            Err(error) => {
                let name = &model.full_name;
                self.logger
                    .with(&[("model", name.into())])
                    .debug("model", format_args!("{name}: no canary can be sent: {error}"));
                return false;
            }
        };
        loop {
            match self.table.pin(ticket) {
                Some((pin, member)) if !pin.resolved.is_set(member) => (),
                _ => return model.state() != ModelState::Failed,
            }
            if self.has_spoken(ticket) {
                model.record_outcome(None, &self.logger);
                self.table.resolve_early(ticket, Status::Cancelled);
                return model.state() != ModelState::Failed;
            }
            // Without threads nobody else brings it back into memory.
            let works = self.config.threads == Some(0) && self.jobs.run_one();
            if now_ns() >= until || (!works && self.pause(MS)) {
                self.table.resolve_early(ticket, Status::Expired);
                return false;
            }
        }
    }

    fn send_proof(self: &Arc<Self>, model: &Arc<Model>) -> Result<Ticket> {
        let id = self.models.find(&model.full_name)?;
        let pin = self.models.pin(id, false)?;
        let inputs = warm_up::example(self, &pin)?;
        self.submit_example(&pin, &inputs, None, now_ns() + 2 * PROOF_NS)
    }
}

/// How a target is, in a word.
pub fn state_of(way: &Way, now: u64) -> &'static str {
    let bars = way.target.bars();
    let lately = now.saturating_sub(way.target.failed_ns.load(Ordering::Relaxed)) < 1000 * MS;
    match bars {
        _ if bars & Bars::UNBOUND != 0 => "unbound",
        _ if bars & Bars::DRAINING != 0 => "draining",
        _ if bars & (Bars::FAILED | Bars::UNWELL) != 0 => "failed",
        _ if way.target.breaker.state() == State::Open => "failed",
        _ if bars != 0 || lately => "degraded",
        _ => "ready",
    }
}
