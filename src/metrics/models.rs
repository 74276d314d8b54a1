//! What metrics say about each model.

use super::text::{Exposition, durations};
use super::{Counts, OUTCOMES, Totals};
use serde_json::{Value, json};

/// So many models are told apart; those beyond are summed up, so that a scrape stays small.
const MOST: usize = 100;
/// The name of their sum: no model's, which have a colon.
const OTHERS: &str = "(others)";

/// A model's counters and gauges.
#[derive(Clone, Debug, Default)]
pub struct ModelMetrics {
    /// `name:version`.
    pub name: String,
    pub accepted: u64,
    pub totals: Totals,
    /// Requests that no lane has taken yet.
    pub queue_depth: u64,
    /// The most rows that a batch may have.
    pub max_rows: u32,
    pub lanes: u32,
    /// Bytes of the model itself, and of its batches.
    pub memory_bytes: u64,
    pub buffer_bytes: u64,
    pub evictions: u64,
    pub reloads: u64,
}

impl ModelMetrics {
    /// Rows that batches had, as a share of those that they had room for.
    fn fill(&self) -> f64 {
        let room = self.totals.batches as f64 * f64::from(self.max_rows);
        if room == 0.0 { 0.0 } else { self.totals.rows as f64 / room }
    }
}

/// The same, with all models beyond a number that is fit for a scrape as one.
pub fn within_bounds(mut models: Vec<ModelMetrics>) -> Vec<ModelMetrics> {
    if models.len() > MOST {
        let mut others = ModelMetrics { name: OTHERS.to_owned(), ..ModelMetrics::default() };
        for model in models.drain(MOST..) {
            others.accepted += model.accepted;
            others.totals.add(&model.totals);
            others.queue_depth += model.queue_depth;
            others.max_rows = others.max_rows.max(model.max_rows);
            others.lanes += model.lanes;
            others.memory_bytes += model.memory_bytes;
            others.buffer_bytes += model.buffer_bytes;
            others.evictions += model.evictions;
            others.reloads += model.reloads;
        }
        models.push(others);
    }
    models
}

type Number = (&'static str, &'static str, &'static str, fn(&ModelMetrics) -> f64);
type Distribution = (&'static str, &'static str, fn(&ModelMetrics) -> &Counts);

pub(super) fn write(text: &mut Exposition, models: &[ModelMetrics]) {
    if models.is_empty() {
        return;
    }
    let name = "blaze_model_requests_total";
    text.family(name, "counter", "Ended requests, by model and outcome.");
    for model in models {
        for (outcome, count) in OUTCOMES.into_iter().zip(model.totals.outcomes) {
            text.sample(name, &[("model", &model.name), ("outcome", outcome)], count);
        }
    }
    let numbers: [Number; 14] = [
        ("batches_total", "counter", "Batches run, by model.", |m| m.totals.batches as f64),
        ("batch_rows_total", "counter", "Rows in the batches run, by model.", |m| m.totals.rows as f64),
        ("input_bytes_total", "counter", "Bytes of inputs computed, by model.", |m| {
            m.totals.input_bytes as f64
        }),
        ("padding_bytes_total", "counter", "Those of them that were padding.", |m| {
            m.totals.padding_bytes as f64
        }),
        ("steps_total", "counter", "Those of the batches that were steps.", |m| m.totals.steps as f64),
        ("tokens_total", "counter", "Pieces of text that requests have sent in steps.", |m| {
            m.totals.tokens as f64
        }),
        ("evictions_total", "counter", "How often the model left memory for others.", |m| m.evictions as f64),
        ("reloads_total", "counter", "How often it came back.", |m| m.reloads as f64),
        ("batch_fill_ratio", "gauge", "Rows in the batches run, as a share of max_rows.", |m| m.fill()),
        ("queue_depth", "gauge", "Requests that no lane has taken yet.", |m| m.queue_depth as f64),
        ("lanes", "gauge", "Batches that may be computed at once.", |m| f64::from(m.lanes)),
        ("max_rows", "gauge", "The most rows that a batch may have.", |m| f64::from(m.max_rows)),
        ("memory_bytes", "gauge", "Bytes of the model.", |m| m.memory_bytes as f64),
        ("buffer_bytes", "gauge", "Bytes of its batches.", |m| m.buffer_bytes as f64),
    ];
    for (name, kind, help, value) in numbers {
        let name = format!("blaze_model_{name}");
        text.family(&name, kind, help);
        models.iter().for_each(|model| text.sample(&name, &[("model", &model.name)], value(model)));
    }
    let durations: [Distribution; 5] = [
        ("request", "From submit to the end, of requests that ended well.", |m| &m.totals.total),
        ("queue", "From submit until a lane took the request.", |m| &m.totals.queued),
        ("batch_wait", "For how long batches were held open for more rows; those that were.", |m| {
            &m.totals.held
        }),
        ("compute", "Inside the backend, per batch.", |m| &m.totals.computed),
        ("copy", "Moving rows together, padding, and handing results out, per batch.", |m| &m.totals.copied),
    ];
    for (name, help, counts) in durations {
        let name = format!("blaze_model_{name}_duration_seconds");
        text.family(&name, "histogram", help);
        for model in models {
            text.durations(&name, &[("model", &model.name)], counts(model));
        }
    }
    let name = "blaze_model_batch_rows";
    text.family(name, "histogram", "Rows of each batch, by model.");
    for model in models {
        text.sizes(name, &[("model", &model.name)], &model.totals.batch_rows);
    }
}

pub(super) fn json(models: &[ModelMetrics]) -> Vec<Value> {
    let of_model = |model: &ModelMetrics| {
        let totals = &model.totals;
        json!({
            "name": model.name,
            "accepted": model.accepted,
            "outcomes": outcomes(totals.outcomes),
            "batches": totals.batches,
            "rows": totals.rows,
            "input_bytes": totals.input_bytes,
            "padding_bytes": totals.padding_bytes,
            "steps": totals.steps,
            "tokens": totals.tokens,
            "batch_fill": model.fill(),
            "batch_rows": durations(&totals.batch_rows),
            "duration_ns": durations(&totals.total),
            "queued_ns": durations(&totals.queued),
            "batch_wait_ns": durations(&totals.held),
            "computed_ns": durations(&totals.computed),
            "copied_ns": durations(&totals.copied),
            "queue_depth": model.queue_depth,
            "lanes": model.lanes,
            "max_rows": model.max_rows,
            "memory_bytes": model.memory_bytes,
            "buffer_bytes": model.buffer_bytes,
            "evictions": model.evictions,
            "reloads": model.reloads,
        })
    };
    models.iter().map(of_model).collect()
}

pub(super) fn outcomes(ended: [u64; OUTCOMES.len()]) -> Value {
    OUTCOMES.into_iter().zip(ended).map(|(name, count)| (name.to_owned(), Value::from(count))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_models_there_are_a_scrape_has_a_hundred_and_their_rest() {
        let model = |number: u64| ModelMetrics {
            name: format!("m{number}:1"),
            accepted: number,
            max_rows: 8,
            ..ModelMetrics::default()
        };
        assert_eq!(within_bounds((0..100).map(model).collect()).len(), 100);
        let bounded = within_bounds((0..250).map(model).collect());
        assert_eq!((bounded.len(), bounded[100].name.as_str()), (101, "(others)"));
        assert_eq!(bounded.iter().map(|model| model.accepted).sum::<u64>(), (0..250).sum::<u64>());
    }
}
