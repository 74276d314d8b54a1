//! How the engine is: whether it lives, whether it is ready, and if not, why not.

use super::lifecycle::{Core, Engine};
use super::model::{Model, ModelState};
use super::routes::Way;
use super::warden::state_of;
use crate::backend::onnx;
use crate::clock::now_ns;
use crate::router::Bars;
use crate::sync::{Mutex, Ordering, lock};
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The engine's health in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct HealthSnapshot {
    /// Nothing is wrong, and the engine takes requests.
    pub ok: bool,
    /// No model can work, the engine is shut down, or nothing gets done.
    pub failed: bool,
    /// Work that there is gets done.
    pub live: bool,
    /// Requests are taken, and every model and route can answer.
    pub ready: bool,
    pub accepting: bool,
    pub models_ready: u32,
    pub models_degraded: u32,
    pub models_failed: u32,
    /// Of those that are not failed: models that take much longer than they used to.
    pub models_slow: u32,
    pub queue_depth: u64,
    pub in_flight: u64,
    pub memory_bytes: u64,
}

impl HealthSnapshot {
    /// `ok`, `degraded` or `failed`.
    pub fn state_name(&self) -> &'static str {
        match (self.ok, self.failed) {
            (true, _) => "ok",
            (_, true) => "failed",
            _ => "degraded",
        }
    }
}

/// So often in a window is health found out anew; who asks more often gets the latest answer.
const FRESH: u32 = 16;
const NUMBERS_WINDOW_NS: u64 = 10_000_000;
const TEXT_WINDOW_NS: u64 = 100_000_000;

/// What was found out, kept for whoever asks at a high rate.
pub struct Cached<T> {
    window_ns: u64,
    kept: Mutex<Kept<T>>,
}

struct Kept<T> {
    window_began_ns: u64,
    asked: u32,
    /// With what things were like that are never told late.
    latest: Option<(u64, T)>,
}

impl<T: Clone> Cached<T> {
    fn new(window_ns: u64) -> Self {
        Cached { window_ns, kept: Mutex::new(Kept { window_began_ns: 0, asked: 0, latest: None }) }
    }

    /// The latest answer if many were found just now and things are as they were, or else a new one.
    fn get(&self, now: u64, state: u64, find: impl FnOnce() -> T) -> T {
        let mut kept = lock(&self.kept);
        if now.saturating_sub(kept.window_began_ns) >= self.window_ns {
            (kept.window_began_ns, kept.asked) = (now, 0);
        }
        kept.asked = kept.asked.saturating_add(1);
        if kept.asked > FRESH
            && let Some((_, latest)) = kept.latest.as_ref().filter(|(then, _)| *then == state)
        {
            return latest.clone();
        }
        // Not under the lock: finding out takes others.
        drop(kept);
        let found = find();
        lock(&self.kept).latest = Some((state, found.clone()));
        found
    }
}

/// Latest answers.
pub struct HealthCache {
    numbers: Cached<HealthSnapshot>,
    text: Cached<Arc<str>>,
}

impl Default for HealthCache {
    fn default() -> Self {
        HealthCache { numbers: Cached::new(NUMBERS_WINDOW_NS), text: Cached::new(TEXT_WINDOW_NS) }
    }
}

/// Something that is not as it should be.
struct Problem {
    /// `engine`, `model`, `route`, `target` or `repository`, and its name.
    subject: &'static str,
    name: String,
    /// Rather than degraded.
    failed: bool,
    /// The engine is not ready because of it.
    blocks: bool,
    reason: String,
}

impl Problem {
    fn report(&self) -> Value {
        json!({
            "subject": self.subject,
            "name": self.name,
            "level": if self.failed { "failed" } else { "degraded" },
            "blocks_readiness": self.blocks,
            "reason": self.reason,
        })
    }

    fn text(&self) -> String {
        match self.name.as_str() {
            "" => format!("{}: {}", self.subject, self.reason),
            name => format!("{} {name}: {}", self.subject, self.reason),
        }
    }
}

impl Engine {
    /// The engine's health in numbers. Cheap at any rate.
    pub fn health(&self) -> HealthSnapshot {
        let core = self.core();
        core.look_if_due();
        core.health_cache.numbers.get(now_ns(), core.condition(), || core.health())
    }

    /// The engine's health with every model's, and the libraries in use. Cheap at any rate.
    pub fn health_json(&self) -> Arc<str> {
        let core = self.core();
        core.look_if_due();
        core.health_cache.text.get(now_ns(), core.condition(), || core.health_report().to_string().into())
    }
}

impl Core {
    /// A number that changes when a model or a route does: comes, goes, leaves memory, fails. Cheap.
    fn condition(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.models.changes(), self.table.is_closed(), self.metrics.evictions.get()).hash(&mut hasher);
        self.models.each(|model| {
            let residence = &model.residence;
            (residence.epoch(), residence.is_away(), model.failures(), model.is_lost()).hash(&mut hasher);
            model.performance.is_slow.load(Ordering::Relaxed).hash(&mut hasher);
        });
        self.routes.each(|plan| {
            let states = plan.targets.iter().map(|target| (target.bars(), target.breaker.state() as u64));
            states.for_each(|state| state.hash(&mut hasher));
        });
        hasher.finish()
    }

    pub(super) fn health(&self) -> HealthSnapshot {
        let mut health = HealthSnapshot {
            accepting: !self.table.is_closed(),
            live: self.observer.stuck_ns(now_ns()).is_none(),
            in_flight: self.table.unresolved(None, false),
            queue_depth: self.table.unresolved(None, true),
            memory_bytes: self.ledger.used(),
            ..HealthSnapshot::default()
        };
        self.models.each(|model| match model.state() {
            ModelState::Failed => health.models_failed += 1,
            state => {
                *match state {
                    ModelState::Degraded => &mut health.models_degraded,
                    _ => &mut health.models_ready,
                } += 1;
                health.models_slow += u32::from(model.performance.is_slow.load(Ordering::Relaxed));
            }
        });
        let routes_stand = !self.routes_in_trouble();
        let models_stand = health.models_degraded + health.models_failed + health.models_slow == 0;
        let well = models_stand && routes_stand && !self.repository.is_in_trouble();
        health.ok = health.accepting && health.live && well;
        health.ready = health.accepting && health.live && health.models_failed == 0 && routes_stand;
        health.failed = !health.accepting
            || !health.live
            || (health.models_failed > 0 && health.models_ready + health.models_degraded == 0);
        health
    }

    fn health_report(&self) -> Value {
        let (health, models) = (self.health(), self.models.all());
        let waiting = self.table.unresolved_by_model();
        let problems = self.problems(&models);
        let blocking = problems.iter().filter(|problem| problem.blocks);
        let of_model = |model: &Model| {
            let queued = waiting.get(&model.traffic.key()).map_or(0, |(_, queued)| *queued);
            model.health_report(queued)
        };
        json!({
            "state": health.state_name(),
            "live": health.live,
            "ready": health.ready,
            "not_ready_because": blocking.map(Problem::text).collect::<Vec<_>>(),
            "problems": problems.iter().map(Problem::report).collect::<Vec<_>>(),
            "accepting": health.accepting,
            "version": crate::VERSION,
            "models": models.iter().map(|(_, model)| of_model(model)).collect::<Vec<_>>(),
            "loading": self.models.coming(),
            "queue_depth": health.queue_depth,
            "in_flight": health.in_flight,
            "memory": self.memory_report(),
            "routes": self.report_routes(),
            "tenants": self.report_tenants(),
            "recent": self.history.entries(),
            "repository": self.repository.report(),
            "onnxruntime": onnx::loaded(),
            "plugins": *lock(&self.plugged),
            "backends": self.backends.reports(),
        })
    }

    /// Whatever is not as it should be, the engine's own troubles first.
    fn problems(&self, models: &[(u64, Arc<Model>)]) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut engine = |reason: String| {
            let (subject, name) = ("engine", String::new());
            problems.push(Problem { subject, name, failed: true, blocks: true, reason });
        };
        if self.table.is_closed() {
            engine("it is shut down".to_owned());
        }
        if let Some(stuck_ns) = self.observer.stuck_ns(now_ns()) {
            let seconds = stuck_ns / 1_000_000_000;
            engine(format!("requests wait, and no batch has ended for {seconds} s"));
        }
        problems.extend(models.iter().filter_map(|(_, model)| model.problem()));
        for (_, plan) in self.routes.all() {
            self.rebind(&plan);
            let name = &plan.route.name;
            let targets = plan.ways.iter().filter_map(|way| Some((way, way.why_not_ready()?)));
            problems.extend(targets.map(|(way, (failed, reason))| Problem {
                subject: "target",
                name: format!("{} of {name}", way.target.name),
                failed,
                blocks: false,
                reason,
            }));
            if plan.targets.iter().all(|target| target.bars() & !Bars::TRIPPED != 0) {
                let reason = "none of its targets can be asked".to_owned();
                let (subject, name) = ("route", name.clone());
                problems.push(Problem { subject, name, failed: true, blocks: true, reason });
            }
        }
        if self.repository.is_in_trouble() {
            let reason =
                "it cannot be read, or a model has no version that works; see \"repository\"".to_owned();
            let (subject, name) = ("repository", String::new());
            problems.push(Problem { subject, name, failed: false, blocks: false, reason });
        }
        problems
    }
}

impl Model {
    fn problem(&self) -> Option<Problem> {
        let state = self.state();
        let because = |what: String| match lock(&self.last_error).as_deref() {
            Some(error) => format!("{what}: {error}"),
            None => what,
        };
        let reason = match state {
            ModelState::Failed if self.is_lost() => because("its device is lost".to_owned()),
            ModelState::Failed => because(format!("its last {} runs have failed", self.failures())),
            ModelState::Degraded => because("its latest run has failed".to_owned()),
            ModelState::Ready if self.performance.is_slow.load(Ordering::Relaxed) => {
                let ms = |ns: &crate::sync::AtomicU64| ns.load(Ordering::Relaxed) as f64 / 1e6;
                let (now, usual) = (ms(&self.performance.p99_ns), ms(&self.performance.usual_p99_ns));
                format!("it is slow: its 99th percentile is {now:.2} ms, and usually {usual:.2} ms")
            }
            ModelState::Ready => return None,
        };
        let failed = state == ModelState::Failed;
        Some(Problem { subject: "model", name: self.full_name().to_owned(), failed, blocks: failed, reason })
    }

    fn health_report(&self, queue_depth: u64) -> Value {
        let provider = self.provider();
        let performance = &self.performance;
        json!({
            "name": self.config().name,
            "version": self.config().version(),
            "state": self.state().name(),
            "ready": self.state() != ModelState::Failed,
            "why": self.problem().map(|problem| problem.reason),
            "performance": {
                "p99_ns": performance.p99_ns.load(Ordering::Relaxed),
                "usual_p99_ns": performance.usual_p99_ns.load(Ordering::Relaxed),
                "slow": performance.is_slow.load(Ordering::Relaxed),
            },
            "residence": self.residence_name(),
            "rebuilt": self.mending.rebuilt.load(Ordering::Relaxed),
            "recovered": self.mending.recovered.load(Ordering::Relaxed),
            "memory": self.residence.report(),
            "device_bytes": self.residence.device_bytes(),
            "buffer_bytes": self.traffic.buffer_bytes.load(Ordering::Relaxed),
            "provider": provider.used,
            "providers_rejected": provider.rejected,
            "queue_depth": queue_depth,
        })
    }
}

impl Way {
    /// Whether it has failed rather than is degraded, and why; `None`: it is ready.
    pub fn why_not_ready(&self) -> Option<(bool, String)> {
        let target = &self.target;
        let state = state_of(self, now_ns());
        let reason = match state {
            "ready" => return None,
            "unbound" => "there is no such model".to_owned(),
            "draining" => "it is drained".to_owned(),
            _ if target.bars() & Bars::FAILED != 0 => "its model has failed".to_owned(),
            _ if target.bars() & Bars::UNWELL != 0 => "its checks fail".to_owned(),
            _ if target.bars() & Bars::TRIPPED != 0 => "its breaker is open".to_owned(),
            _ => "requests to it have failed lately".to_owned(),
        };
        let error = lock(&self.problem).clone().or_else(|| self.check.last_error());
        let reason = error.map_or(reason.clone(), |error| format!("{reason}: {error}"));
        Some((!matches!(state, "degraded" | "draining"), reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn who_asks_seldom_gets_a_new_answer_and_who_asks_often_the_latest() {
        let (cached, found, state) = (Cached::new(1000), Cell::new(0), Cell::new(1));
        let ask = |now| {
            cached.get(now, state.get(), || {
                found.set(found.get() + 1);
                found.get()
            })
        };
        for at in 1..=FRESH {
            assert_eq!(ask(5000), at, "the first few are new");
        }
        assert_eq!((ask(5100), ask(5999), found.get()), (FRESH, FRESH, FRESH));
        state.set(2);
        assert_eq!((ask(5999), ask(5999)), (FRESH + 1, FRESH + 1), "what has changed is told at once");
        assert_eq!((ask(6000), ask(6001)), (FRESH + 2, FRESH + 3));
    }
}
