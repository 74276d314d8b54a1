//! What the engine has counted: as a struct, as JSON, and for Prometheus.

use super::health::HealthSnapshot;
use super::lifecycle::{Core, Engine};
use super::model::Model;
use crate::error::Status;
use crate::metrics::{self, Gauges, Metrics, ModelMetrics, Totals, within_bounds};
use crate::sync::Ordering;

/// The engine's counters at one moment. Durations are in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetricsSnapshot {
    pub accepted: u64,
    pub rejected: u64,
    pub ok: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub expired: u64,
    pub shut_down: u64,
    pub batches: u64,
    pub rows: u64,
    pub in_flight: u64,
    pub queue_depth: u64,
    pub memory_bytes: u64,
    /// p50, p90, p99, p99.9.
    pub duration_ns: [u64; 4],
    pub duration_max_ns: u64,
    pub queued_ns: [u64; 4],
    pub computed_ns: [u64; 4],
    pub batch_wait_ns: [u64; 4],
    pub copied_ns: [u64; 4],
    pub events_waiting: u64,
    pub evictions: u64,
    pub model_misses: u64,
}

const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

impl Engine {
    /// The engine's counters.
    pub fn metrics(&self) -> MetricsSnapshot {
        let core = self.core();
        let (totals, health) = (core.metrics.fleet.totals(), core.health());
        MetricsSnapshot {
            accepted: core.accepted(totals.ended(), &health),
            rejected: core.metrics.rejections.total(),
            ok: totals.of(Status::Ok),
            failed: totals.of(Status::BackendFailed),
            cancelled: totals.of(Status::Cancelled),
            expired: totals.of(Status::Expired),
            shut_down: totals.of(Status::ShutDown),
            batches: totals.batches,
            rows: totals.rows,
            in_flight: health.in_flight,
            queue_depth: health.queue_depth,
            memory_bytes: health.memory_bytes,
            duration_ns: totals.total.quantiles(QUANTILES),
            duration_max_ns: totals.total.max(),
            queued_ns: totals.queued.quantiles(QUANTILES),
            computed_ns: totals.computed.quantiles(QUANTILES),
            batch_wait_ns: totals.held.quantiles(QUANTILES),
            copied_ns: totals.copied.quantiles(QUANTILES),
            events_waiting: core.table.events_waiting(health.in_flight),
            evictions: core.metrics.evictions.get(),
            model_misses: core.metrics.misses.get(),
        }
    }

    /// The counters in Prometheus' text format.
    pub fn metrics_prometheus(&self) -> String {
        let mut text = self.with_metrics(metrics::prometheus);
        if !self.core().routes.is_empty() || self.core().table.tenants.is_used() {
            text.push_str(&self.core().with_route_metrics(metrics::routes::prometheus));
        }
        text
    }

    /// The counters as JSON.
    pub fn metrics_json(&self) -> String {
        let mut json = self.with_metrics(metrics::json);
        (json["routes"], json["tenants"]) = self.core().with_route_metrics(metrics::routes::json);
        json.to_string()
    }

    fn with_metrics<R>(&self, write: impl FnOnce(&Metrics, &Totals, &Gauges, &[ModelMetrics]) -> R) -> R {
        let core = self.core();
        let (totals, health) = (core.metrics.fleet.totals(), core.health());
        let models = core.models.all();
        let gauges = Gauges {
            accepted: core.accepted(totals.ended(), &health),
            in_flight: health.in_flight,
            queue_depth: health.queue_depth,
            memory_bytes: health.memory_bytes,
            memory: core.memory_by_kind(),
            budget_bytes: core.ledger.limit(),
            devices: core.device_gauges(),
            evicted: models.iter().filter(|(_, model)| model.residence.is_away()).count() as u64,
            models: [
                ("ready", health.models_ready.into()),
                ("degraded", health.models_degraded.into()),
                ("failed", health.models_failed.into()),
            ],
            events_waiting: core.table.events_waiting(health.in_flight),
            threads_cpu_ns: core.threads_cpu_ns(),
        };
        let waiting = core.table.unresolved_by_model();
        let metrics = models.iter().map(|(_, model)| {
            let (unresolved, queued) = waiting.get(&model.traffic.key()).copied().unwrap_or_default();
            metrics_of(model, unresolved, queued)
        });
        write(&core.metrics, &totals, &gauges, &within_bounds(metrics.collect()))
    }
}

fn metrics_of(model: &Model, unresolved: u64, queue_depth: u64) -> ModelMetrics {
    let (totals, report) = (model.traffic.totals(), model.residence.report());
    ModelMetrics {
        name: model.full_name().to_owned(),
        accepted: unresolved + totals.ended(),
        totals,
        queue_depth,
        max_rows: model.queue.max_rows() as u32,
        lanes: model.lanes(),
        memory_bytes: report.bytes,
        buffer_bytes: model.traffic.buffer_bytes.load(Ordering::Relaxed),
        evictions: report.evictions,
        reloads: report.reloads,
    }
}

impl Core {
    /// Requests accepted since the start: those that have ended, and those that have not.
    fn accepted(&self, ended: u64, health: &HealthSnapshot) -> u64 {
        let now = ended + health.in_flight;
        // The two are not read in the same moment; what is reported must not fall all the same.
        self.most_accepted.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// CPU time of the threads that compute, by their name.
    pub fn threads_cpu_ns(&self) -> Vec<(String, u64)> {
        let mut threads = self.crew.cpu_ns();
        for (_, model) in self.models.all() {
            threads.extend(crate::platform::threads_cpu_ns(crate::sync::lock(&model.lanes).iter()));
        }
        threads
    }
}
