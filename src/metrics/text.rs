//! Metrics as text: Prometheus exposition and JSON.

use super::models::outcomes;
use super::{Counts, Gauges, Metrics, ModelMetrics, OUTCOMES, Totals, models as of_models};
use crate::features::PLUGINS;
use serde_json::{Value, json as object};
use std::fmt::Write;

/// Upper bounds of exported histogram buckets, as powers of two of nanoseconds: 1 µs to 17 s.
const BUCKET_BITS: [u32; 13] = [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34];

/// Upper bounds of buckets of rows, as powers of two.
const SIZE_BITS: [u32; 9] = [0, 1, 2, 3, 4, 5, 6, 8, 10];

/// Prometheus' text exposition format, version 0.0.4. `totals` are those of all models, past ones too.
pub fn prometheus(metrics: &Metrics, totals: &Totals, gauges: &Gauges, models: &[ModelMetrics]) -> String {
    let mut text = Exposition(String::with_capacity(16 << 10));
    text.family("blaze_requests_accepted_total", "counter", "Requests accepted by submit.");
    text.sample("blaze_requests_accepted_total", &[], gauges.accepted);
    text.family("blaze_requests_rejected_total", "counter", "Submits refused, by reason.");
    for (reason, count) in metrics.rejections.each() {
        text.sample("blaze_requests_rejected_total", &[("reason", reason)], count);
    }
    text.family("blaze_requests_total", "counter", "Accepted requests that have ended, by outcome.");
    for (outcome, count) in OUTCOMES.into_iter().zip(totals.outcomes) {
        text.sample("blaze_requests_total", &[("outcome", outcome)], count);
    }
    text.family("blaze_batches_total", "counter", "Batches run.");
    text.sample("blaze_batches_total", &[], totals.batches);
    text.family("blaze_batch_rows_total", "counter", "Rows in the batches run.");
    text.sample("blaze_batch_rows_total", &[], totals.rows);
    text.family("blaze_requests_in_flight", "gauge", "Accepted requests that have not ended.");
    text.sample("blaze_requests_in_flight", &[], gauges.in_flight);
    text.family("blaze_queue_depth", "gauge", "Requests that no lane has taken yet.");
    text.sample("blaze_queue_depth", &[], gauges.queue_depth);
    text.family(
        "blaze_memory_used_bytes",
        "gauge",
        "Bytes in the engine's ledger: models, buffers and caches.",
    );
    text.sample("blaze_memory_used_bytes", &[], gauges.memory_bytes);
    text.family(
        "blaze_memory_bytes",
        "gauge",
        "The same by what takes it; idle buffers are among the buffers.",
    );
    for (kind, bytes) in gauges.memory {
        text.sample("blaze_memory_bytes", &[("kind", kind)], bytes);
    }
    if let Some(budget) = gauges.budget_bytes {
        text.family("blaze_memory_budget_bytes", "gauge", "The most bytes that may be taken.");
        text.sample("blaze_memory_budget_bytes", &[], budget);
    }
    if PLUGINS.built {
        gauges.devices.write(&mut text);
    }
    text.family("blaze_models_evicted", "gauge", "Models that are not in memory just now.");
    text.sample("blaze_models_evicted", &[], gauges.evicted);
    text.family("blaze_evictions_total", "counter", "Models that left memory for others.");
    text.sample("blaze_evictions_total", &[], metrics.evictions.get());
    text.family("blaze_model_misses_total", "counter", "Requests for a model that was not in memory.");
    text.sample("blaze_model_misses_total", &[], metrics.misses.get());
    let reloads = metrics.reloads.counts();
    text.histogram("blaze_reload_duration_seconds", "What it took models to come back.", &reloads);
    text.family("blaze_models", "gauge", "Loaded models, by state.");
    for (state, count) in gauges.models {
        text.sample("blaze_models", &[("state", state)], count);
    }
    let durations = [
        ("request", "From submit to the end, of requests that ended well.", &totals.total),
        ("queue", "From submit until a lane took the request.", &totals.queued),
        ("batch_wait", "For how long batches were held open for more rows; those that were.", &totals.held),
        ("compute", "Inside the backend, per batch.", &totals.computed),
        ("copy", "Moving rows together, padding, and handing results out, per batch.", &totals.copied),
    ];
    for (name, help, counts) in durations {
        text.histogram(&format!("blaze_{name}_duration_seconds"), help, counts);
    }
    text.family("blaze_batch_rows", "histogram", "Rows of each batch.");
    text.sizes("blaze_batch_rows", &[], &totals.batch_rows);
    text.family("blaze_events_waiting", "gauge", "Events that are ready and that the host has not taken.");
    text.sample("blaze_events_waiting", &[], gauges.events_waiting);
    if !gauges.threads_cpu_ns.is_empty() {
        let name = "blaze_thread_cpu_seconds_total";
        text.family(name, "counter", "CPU time of the threads that compute.");
        for (thread, ns) in &gauges.threads_cpu_ns {
            text.sample(name, &[("thread", thread)], *ns as f64 / 1e9);
        }
    }
    of_models::write(&mut text, models);
    text.0
}

pub(super) struct Exposition(pub String);

impl Exposition {
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")),
        };
    }

    fn histogram(&mut self, name: &str, help: &str, counts: &Counts) {
        self.family(name, "histogram", help);
        self.durations(name, &[], counts);
    }

    /// The samples of a histogram of nanoseconds.
    pub fn durations(&mut self, name: &str, labels: &[(&str, &str)], counts: &Counts) {
        let bounds = BUCKET_BITS.map(|bits| ((1u64 << bits) as f64 / 1e9).to_string());
        self.buckets(name, labels, counts, &bounds, counts.cumulative(BUCKET_BITS), 1e9);
    }

    /// The samples of a histogram of numbers.
    pub fn sizes(&mut self, name: &str, labels: &[(&str, &str)], counts: &Counts) {
        let bounds = SIZE_BITS.map(|bits| (1u64 << bits).to_string());
        // Whole numbers: those up to a bound are those below the next one.
        let below = SIZE_BITS.map(|bits| counts.at_most(1 << bits));
        self.buckets(name, labels, counts, &bounds, below, 1.0);
    }

    fn buckets<const N: usize>(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        counts: &Counts,
        bounds: &[String; N],
        below: [u64; N],
        unit: f64,
    ) {
        let bucket = format!("{name}_bucket");
        let total = counts.count();
        let bounds = bounds.iter().map(String::as_str).chain(["+Inf"]);
        for (bound, count) in bounds.zip(below.into_iter().chain([total])) {
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound)]).collect();
            self.sample(&bucket, &labels, count);
        }
        self.sample(&format!("{name}_sum"), labels, counts.sum() as f64 / unit);
        self.sample(&format!("{name}_count"), labels, total);
    }
}

/// A label value in the exposition format.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The same figures as JSON; durations in nanoseconds.
pub fn json(metrics: &Metrics, totals: &Totals, gauges: &Gauges, models: &[ModelMetrics]) -> Value {
    let counts = |pairs: &[(&'static str, u64)]| -> Value {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), Value::from(*count))).collect()
    };
    let threads: serde_json::Map<String, Value> =
        gauges.threads_cpu_ns.iter().map(|(name, ns)| (name.clone(), (*ns).into())).collect();
    object!({
        "requests": {
            "accepted": gauges.accepted,
            "rejected": counts(&metrics.rejections.each()),
            "outcomes": outcomes(totals.outcomes),
            "in_flight": gauges.in_flight,
        },
        "batches": totals.batches,
        "rows": totals.rows,
        "batch_rows": durations(&totals.batch_rows),
        "queue_depth": gauges.queue_depth,
        "events_waiting": gauges.events_waiting,
        "memory_used_bytes": gauges.memory_bytes,
        "memory_bytes": counts(&gauges.memory),
        "memory_budget_bytes": gauges.budget_bytes,
        "device_memory_bytes": gauges.devices.memory_json(),
        "devices": gauges.devices.reports_json(),
        "models_evicted": gauges.evicted,
        "evictions": metrics.evictions.get(),
        "model_misses": metrics.misses.get(),
        "reload_ns": durations(&metrics.reloads.counts()),
        "duration_ns": durations(&totals.total),
        "queued_ns": durations(&totals.queued),
        "batch_wait_ns": durations(&totals.held),
        "computed_ns": durations(&totals.computed),
        "copied_ns": durations(&totals.copied),
        "threads_cpu_ns": threads,
        "models": of_models::json(models),
    })
}

pub(super) fn durations(counts: &Counts) -> Value {
    let [p50, p90, p99, p999] = counts.quantiles([0.5, 0.9, 0.99, 0.999]);
    object!({
        "count": counts.count(), "sum": counts.sum(), "max": counts.max(),
        "p50": p50, "p90": p90, "p99": p99, "p999": p999,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::DeviceGauges;

    #[test]
    fn exposition_has_a_type_for_every_sample_and_rising_buckets() {
        let metrics = Metrics::default();
        let traffic = metrics.fleet.join();
        [500, 5_000, 5_000_000].into_iter().for_each(|ns| traffic.here().total.record(ns));
        [1, 2, 3, 64].into_iter().for_each(|rows| traffic.here().batch_rows.record(rows));
        let totals = metrics.fleet.totals();
        let gauges = Gauges {
            accepted: 3,
            in_flight: 1,
            queue_depth: 2,
            memory_bytes: 3,
            memory: [("models", 1), ("buffers", 2), ("idle_buffers", 1), ("caches", 0)],
            budget_bytes: Some(9),
            devices: DeviceGauges::default(),
            evicted: 0,
            models: [("ready", 1), ("degraded", 0), ("failed", 0)],
            events_waiting: 0,
            threads_cpu_ns: vec![("blaze-0".to_owned(), 5)],
        };
        let (name, totals_too) = ("a\"b:1".to_owned(), totals.clone());
        let models = [ModelMetrics { name, accepted: 3, totals: totals_too, ..ModelMetrics::default() }];
        let text = prometheus(&metrics, &totals, &gauges, &models);
        let typed: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let known = ["", "_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| name.strip_suffix(suffix).is_some_and(|name| typed.contains(&name)));
            assert!(known, "{line}");
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
        }
        assert!(text.contains(r#"blaze_model_requests_total{model="a\"b:1",outcome="ok"} 0"#));
        let bucket = |le: &str| {
            text.contains(&format!(
                "blaze_request_duration_seconds_bucket{{le=\"{le}\"}} {}",
                match le {
                    "0.000001024" => 1,
                    "0.000016384" => 2,
                    _ => 3,
                }
            ))
        };
        assert!(bucket("0.000001024") && bucket("0.000016384") && bucket("+Inf"), "{text}");
        for (bound, count) in [("1", 1), ("2", 2), ("4", 3), ("32", 3), ("64", 4), ("+Inf", 4)] {
            let line = format!("blaze_batch_rows_bucket{{le=\"{bound}\"}} {count}\n");
            assert!(text.contains(&line), "{line} {text}");
        }
        let json = json(&metrics, &totals, &gauges, &models);
        assert_eq!(
            (&json["duration_ns"]["count"], &json["models"][0]["batch_rows"]["max"]),
            (&3.into(), &64.into())
        );
    }
}
