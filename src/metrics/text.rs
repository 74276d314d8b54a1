//! Metrics as text: Prometheus exposition and JSON.

use super::{Gauges, Histogram, Metrics, ModelTraffic};
use serde_json::{Value, json as object};
use std::fmt::Write;

/// Upper bounds of exported histogram buckets, as powers of two of nanoseconds: 1 µs to 17 s.
const BUCKET_BITS: [u32; 13] = [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34];

/// Prometheus' text exposition format, version 0.0.4.
pub fn prometheus(metrics: &Metrics, gauges: &Gauges, models: &[ModelTraffic<'_>]) -> String {
    let mut text = Exposition(String::with_capacity(8 << 10));
    let traffic = &metrics.traffic;
    text.family("blaze_requests_accepted_total", "counter", "Requests accepted by submit.");
    text.sample("blaze_requests_accepted_total", &[], gauges.accepted);
    text.family("blaze_requests_rejected_total", "counter", "Submits refused, by reason.");
    for (reason, count) in metrics.rejections.each() {
        text.sample("blaze_requests_rejected_total", &[("reason", reason)], count);
    }
    text.family("blaze_requests_total", "counter", "Accepted requests that have ended, by outcome.");
    for (outcome, count) in traffic.outcomes.each() {
        text.sample("blaze_requests_total", &[("outcome", outcome)], count);
    }
    text.family("blaze_batches_total", "counter", "Batches run.");
    text.sample("blaze_batches_total", &[], traffic.batches.get());
    text.family("blaze_batch_rows_total", "counter", "Rows in the batches run.");
    text.sample("blaze_batch_rows_total", &[], traffic.rows.get());
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
    text.family("blaze_models_evicted", "gauge", "Models that are not in memory just now.");
    text.sample("blaze_models_evicted", &[], gauges.evicted);
    text.family("blaze_evictions_total", "counter", "Models that left memory for others.");
    text.sample("blaze_evictions_total", &[], metrics.evictions.get());
    text.family("blaze_model_misses_total", "counter", "Requests for a model that was not in memory.");
    text.sample("blaze_model_misses_total", &[], metrics.misses.get());
    text.histogram("blaze_reload_duration_seconds", "What it took models to come back.", &metrics.reloads);
    text.family("blaze_models", "gauge", "Loaded models, by state.");
    for (state, count) in gauges.models {
        text.sample("blaze_models", &[("state", state)], count);
    }
    text.histogram(
        "blaze_request_duration_seconds",
        "From submit to the end, of requests that ended well.",
        &metrics.total,
    );
    text.histogram("blaze_queue_duration_seconds", "From submit to the start of the batch.", &metrics.queued);
    text.histogram("blaze_compute_duration_seconds", "Inside the backend, per batch.", &metrics.computed);

    text.family("blaze_model_requests_total", "counter", "Ended requests, by model and outcome.");
    for model in models {
        for (outcome, count) in model.traffic.outcomes.each() {
            text.sample("blaze_model_requests_total", &[("model", model.name), ("outcome", outcome)], count);
        }
    }
    text.family("blaze_model_batches_total", "counter", "Batches run, by model.");
    for model in models {
        text.sample("blaze_model_batches_total", &[("model", model.name)], model.traffic.batches.get());
    }
    text.family("blaze_model_batch_rows_total", "counter", "Rows in the batches run, by model.");
    for model in models {
        text.sample("blaze_model_batch_rows_total", &[("model", model.name)], model.traffic.rows.get());
    }
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

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for (bits, count) in BUCKET_BITS.into_iter().zip(histogram.cumulative(BUCKET_BITS)) {
            let bound = (1u64 << bits) as f64 / 1e9;
            self.sample(&bucket, &[("le", &bound.to_string())], count);
        }
        let count = histogram.count();
        self.sample(&bucket, &[("le", "+Inf")], count);
        self.sample(&format!("{name}_sum"), &[], histogram.sum() as f64 / 1e9);
        self.sample(&format!("{name}_count"), &[], count);
    }
}

/// A label value in the exposition format.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The same figures as JSON; durations in nanoseconds.
pub fn json(metrics: &Metrics, gauges: &Gauges, models: &[ModelTraffic<'_>]) -> Value {
    let counts = |pairs: &[(&'static str, u64)]| -> Value {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), Value::from(*count))).collect()
    };
    let models: Vec<Value> = models
        .iter()
        .map(|model| {
            object!({
                "name": model.name,
                "accepted": model.accepted,
                "outcomes": counts(&model.traffic.outcomes.each()),
                "batches": model.traffic.batches.get(),
                "rows": model.traffic.rows.get(),
            })
        })
        .collect();
    object!({
        "requests": {
            "accepted": gauges.accepted,
            "rejected": counts(&metrics.rejections.each()),
            "outcomes": counts(&metrics.traffic.outcomes.each()),
            "in_flight": gauges.in_flight,
        },
        "batches": metrics.traffic.batches.get(),
        "rows": metrics.traffic.rows.get(),
        "queue_depth": gauges.queue_depth,
        "memory_used_bytes": gauges.memory_bytes,
        "memory_bytes": counts(&gauges.memory),
        "memory_budget_bytes": gauges.budget_bytes,
        "models_evicted": gauges.evicted,
        "evictions": metrics.evictions.get(),
        "model_misses": metrics.misses.get(),
        "reload_ns": durations(&metrics.reloads),
        "duration_ns": durations(&metrics.total),
        "queued_ns": durations(&metrics.queued),
        "computed_ns": durations(&metrics.computed),
        "models": models,
    })
}

pub(super) fn durations(histogram: &Histogram) -> Value {
    let [p50, p90, p99, p999] = histogram.quantiles([0.5, 0.9, 0.99, 0.999]);
    object!({
        "count": histogram.count(), "sum": histogram.sum(), "max": histogram.max(),
        "p50": p50, "p90": p90, "p99": p99, "p999": p999,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposition_has_a_type_for_every_sample_and_rising_buckets() {
        let metrics = Metrics::default();
        [500, 5_000, 5_000_000].into_iter().for_each(|ns| metrics.total.record(ns));
        let gauges = Gauges {
            accepted: 3,
            in_flight: 1,
            queue_depth: 2,
            memory_bytes: 3,
            memory: [("models", 1), ("buffers", 2), ("idle_buffers", 1), ("caches", 0)],
            budget_bytes: Some(9),
            evicted: 0,
            models: [("ready", 1), ("degraded", 0), ("failed", 0)],
        };
        let models = [ModelTraffic { name: "a\"b:1", accepted: 3, traffic: &metrics.traffic }];
        let text = prometheus(&metrics, &gauges, &models);
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
        assert_eq!(json(&metrics, &gauges, &models)["duration_ns"]["count"], 3);
    }
}
