//! Pictures of what went on: what was counted at two moments, and what lies between.

use super::lifecycle::{Core, Engine};
use super::model::Model;
use super::observer::{Gauges, Seen};
use super::routes::Plan;
use crate::error::Status;
use crate::metrics::{Counts, Totals};
use crate::platform;
use crate::profile::{
    MemoryPicture, ModelPicture, Picture, RoutePicture, SettingsInForce, Spread, TargetPicture, Times,
};
use crate::router::Target;
use crate::scheduler::selfcheck::Verdict;
use crate::sync::{AtomicU64, Ordering};
use std::collections::HashMap;

/// What was counted up to a moment.
#[derive(Clone, Default)]
pub struct Mark {
    pub at_ns: u64,
    pub cpu_ns: u64,
    pub idle_ns: Option<u64>,
    gauges: Gauges,
    rejected: Vec<(&'static str, u64)>,
    evictions: u64,
    misses: u64,
    reloads: u64,
    /// By name.
    models: HashMap<String, ModelMark>,
    /// By the route's and the target's name.
    targets: HashMap<(String, String), TargetMark>,
    /// Failovers, hedges, timeouts, exhausted.
    routes: HashMap<String, [u64; 4]>,
}

#[derive(Clone, Default)]
struct ModelMark {
    totals: Totals,
    queued: f64,
    misses: u64,
    evictions: u64,
    reloads: u64,
    reload_ns: u64,
}

#[derive(Clone, Default)]
struct TargetMark {
    ok: u64,
    failed: u64,
    slow: u64,
    given_up: u64,
    opened: u64,
    times: Counts,
}

impl Mark {
    pub fn new(core: &Core, seen: &Seen, now: u64) -> Mark {
        let metrics = &core.metrics;
        let mut mark = Mark {
            at_ns: now,
            cpu_ns: platform::process_cpu_ns().unwrap_or(0),
            idle_ns: platform::machine_idle_ns(),
            gauges: seen.sums.gauges,
            rejected: metrics.rejections.each().to_vec(),
            evictions: metrics.evictions.get(),
            misses: metrics.misses.get(),
            reloads: metrics.reloads.count(),
            ..Mark::default()
        };
        for (_, model) in core.models.all() {
            let report = model.residence.report();
            let queued = seen.sums.queued.get(&model.traffic.key()).copied().unwrap_or_default();
            let of_model = ModelMark {
                totals: model.traffic.totals(),
                queued,
                misses: model.traffic.misses.get(),
                evictions: report.evictions,
                reloads: report.reloads,
                reload_ns: report.reloading_ns,
            };
            mark.models.insert(model.full_name().to_owned(), of_model);
        }
        for (_, plan) in core.routes.all() {
            let name = &plan.route.name;
            for target in &plan.targets {
                mark.targets.insert((name.clone(), target.name.clone()), TargetMark::of(target));
            }
            mark.routes.insert(name.clone(), counters(&plan));
        }
        mark
    }
}

fn counters(plan: &Plan) -> [u64; 4] {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &plan.route.counters;
    [get(&counters.failovers), get(&counters.hedges), get(&counters.timeouts), get(&counters.exhausted)]
}

impl TargetMark {
    fn of(target: &Target) -> Self {
        TargetMark {
            ok: target.succeeded.get(),
            failed: target.failed.get(),
            slow: target.slow.get(),
            given_up: target.given_up.get(),
            opened: target.breaker.openings(),
            times: target.times.counts(),
        }
    }
}

impl Engine {
    /// What went on in the last ten to twenty seconds in which anything did.
    pub fn picture(&self) -> Picture {
        self.core().picture()
    }

    /// What the engine did in the last minutes, hours and days, as JSON: see `Trends::to_json`.
    pub fn trends_json(&self) -> String {
        self.core().look_if_due();
        self.core().trends().to_string()
    }
}

fn times(counts: &Counts) -> Times {
    let [p50_ns, p90_ns, p99_ns] = counts.quantiles([0.5, 0.9, 0.99]);
    Times { count: counts.count(), sum_ns: counts.sum(), p50_ns, p90_ns, p99_ns }
}

impl Core {
    /// What went on in the last ten to twenty seconds in which anything did.
    pub fn picture(&self) -> Picture {
        self.look_if_due();
        let (begin, end) = self.marks();
        let looks = (end.gauges.looks - begin.gauges.looks).max(1.0);
        let mean = |gauge: fn(&Gauges) -> f64| (gauge(&end.gauges) - gauge(&begin.gauges)) / looks;
        let before =
            |reason| begin.rejected.iter().find(|(other, _)| *other == reason).map_or(0, |(_, n)| *n);
        let since = |end: u64, begin: u64| end.saturating_sub(begin);
        let models = self.models.all();
        let plans = self.routes.all();
        let mut memory = MemoryPicture {
            budget_bytes: self.ledger.limit(),
            used_bytes: self.ledger.used(),
            evictions: since(end.evictions, begin.evictions),
            reloads: since(end.reloads, begin.reloads),
            misses: since(end.misses, begin.misses),
            ..MemoryPicture::default()
        };
        let by_kind: HashMap<&str, u64> = self.memory_by_kind().into_iter().collect();
        let kind = |name: &str| by_kind.get(name).copied().unwrap_or_default();
        memory.models_bytes = kind("models");
        memory.buffers_bytes = kind("buffers");
        memory.idle_buffers_bytes = kind("idle_buffers");
        let pictures: Vec<ModelPicture> = models
            .iter()
            .filter_map(|(_, model)| {
                let name = model.full_name();
                let end = end.models.get(name)?;
                let none = ModelMark::default();
                let begin = begin.models.get(name).unwrap_or(&none);
                Some(self.model_picture(model, begin, end, looks))
            })
            .collect();
        memory.wanted_bytes = pictures.iter().map(|model| model.memory_bytes).sum();
        // Before anything has happened, or if nobody looks, there is no time to speak of.
        let began_ns = if begin.at_ns == 0 { end.at_ns } else { begin.at_ns };
        let seconds = end.at_ns.saturating_sub(began_ns) as f64 / 1e9;
        let idle = begin.idle_ns.zip(end.idle_ns).map(|(begin, end)| since(end, begin) as f64 / 1e9);
        Picture {
            seconds,
            machine_idle_cores: idle.map(|idle| idle / seconds.max(1e-9)),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            threads: self.crew.size() as u32,
            intra_op_threads: self.config.onnxruntime.intra_op_threads,
            process_cpu_seconds: since(end.cpu_ns, begin.cpu_ns) as f64 / 1e9,
            models: pictures,
            routes: plans.iter().map(|(_, plan)| picture_of_route(plan, &begin, &end)).collect(),
            memory,
            in_flight: mean(|gauges| gauges.in_flight),
            events_waiting: mean(|gauges| gauges.events_waiting),
            places_taken: mean(|gauges| gauges.places_taken),
            places: self.table.places().1,
            rejected: end.rejected.iter().map(|&(why, count)| (why, since(count, before(why)))).collect(),
        }
    }

    fn model_picture(&self, model: &Model, begin: &ModelMark, end: &ModelMark, looks: f64) -> ModelPicture {
        let totals = end.totals.since(&begin.totals);
        let (config, provider) = (model.config(), model.provider());
        let rows = &totals.batch_rows;
        let costs = &model.queue.costs;
        let powers = (0..17).map(|bits| 1u32 << bits).take_while(|&rows| rows <= 1 << 16);
        ModelPicture {
            name: model.full_name().to_owned(),
            backend: config.backend.clone(),
            settings: settings_of(model),
            joins: model.joins_rows() || model.is_stepwise(),
            not_joined_because: match &model.batching {
                Verdict::Independent => None,
                Verdict::Alone(reason) => Some(reason.clone()),
            },
            on_shared_threads: model.by_crew,
            providers: config.providers.clone(),
            provider: provider.used,
            providers_rejected: provider
                .rejected
                .into_iter()
                .map(|rejected| (rejected.provider, rejected.reason))
                .collect(),
            ok: totals.of(Status::Ok),
            failed: totals.of(Status::BackendFailed),
            expired: totals.of(Status::Expired),
            cancelled: totals.of(Status::Cancelled),
            batches: totals.batches,
            rows: totals.rows,
            rows_per_batch: Spread {
                mean: rows.mean(),
                p50: rows.quantile(0.5),
                p90: rows.quantile(0.9),
                max: rows.max(),
            },
            input_bytes: totals.input_bytes,
            padding_bytes: totals.padding_bytes,
            total: times(&totals.total),
            queued: times(&totals.queued),
            held: times(&totals.held),
            copied: times(&totals.copied),
            computed: times(&totals.computed),
            patience: times(&totals.patience),
            queue_depth: (end.queued - begin.queued).max(0.0) / looks,
            run_costs: powers.filter_map(|rows| Some((rows, costs.known(rows as usize)?))).collect(),
            misses: end.misses.saturating_sub(begin.misses),
            evictions: end.evictions.saturating_sub(begin.evictions),
            reloads: end.reloads.saturating_sub(begin.reloads),
            reload_seconds: end.reload_ns.saturating_sub(begin.reload_ns) as f64 / 1e9,
            memory_bytes: model.residence.report().bytes,
            operators: self.table.spans.operator_shares(model.full_name()),
        }
    }
}

fn settings_of(model: &Model) -> SettingsInForce {
    let config = model.config();
    let axes = &config.batching.axes;
    SettingsInForce {
        max_rows: model.queue.max_rows() as u32,
        max_delay_us: model.queue.max_delay_us(),
        lanes: model.lanes(),
        intra_op_threads: model.intra_op_threads.load(Ordering::Relaxed),
        buckets: config.batching.buckets.clone(),
        axes: axes.iter().map(|(name, axis)| (name.clone(), axis.buckets.clone())).collect(),
        warmup: config.warmup.enabled,
        pinned: config.pinned,
    }
}

fn picture_of_route(plan: &Plan, begin: &Mark, end: &Mark) -> RoutePicture {
    let name = &plan.route.name;
    let [failovers, hedges, timeouts, exhausted] = {
        let now = end.routes.get(name).copied().unwrap_or_default();
        let before = begin.routes.get(name).copied().unwrap_or_default();
        std::array::from_fn(|at| now[at].saturating_sub(before[at]))
    };
    RoutePicture {
        name: name.clone(),
        strategy: plan.config.strategy.name.clone(),
        targets: plan.targets.iter().map(|target| picture_of_target(name, target, begin, end)).collect(),
        failovers,
        hedges,
        timeouts,
        exhausted,
    }
}

fn picture_of_target(route: &str, target: &Target, begin: &Mark, end: &Mark) -> TargetPicture {
    let key = (route.to_owned(), target.name.clone());
    let now = end.targets.get(&key).cloned().unwrap_or_default();
    let before = begin.targets.get(&key).cloned().unwrap_or_default();
    TargetPicture {
        name: target.name.clone(),
        tier: target.tier.load(Ordering::Relaxed),
        ok: now.ok.saturating_sub(before.ok),
        failed: now.failed.saturating_sub(before.failed),
        slow: now.slow.saturating_sub(before.slow),
        given_up: now.given_up.saturating_sub(before.given_up),
        times: times(&now.times.since(&before.times)),
        opened: now.opened.saturating_sub(before.opened),
        is_open: target.breaker.state().name() == "open",
    }
}
