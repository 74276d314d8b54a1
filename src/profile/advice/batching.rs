//! Rules about how requests are joined.

use super::finding::{Finding, Subject, evidence};
use super::view::{View, duration, score_of_speedup, share};
use serde_json::{Map, Value, json};

/// The largest batch that is ever proposed.
const MOST_ROWS: u32 = 1024;
/// A larger batch must promise this many times the throughput.
const LEAST_GAIN: f64 = 1.25;

/// Batches are full, more rows wait than would fit, runs take most of the time, and larger runs cost less for each row.
pub fn batch_too_small(view: &View<'_>, findings: &mut Vec<Finding>) {
    for seen in view.models().filter(|seen| seen.model.joins) {
        let (model, now) = (seen.model, seen.model.settings.max_rows);
        let waiting = model.queue_depth * seen.rows_per_request;
        if !seen.has_full_batches() || waiting < f64::from(now) || seen.busy < 0.5 {
            continue;
        }
        let Some((fixed, row)) = seen.cost_line() else { continue };
        // As many as there are for each lane, but no more than it takes for what every run costs to count for little.
        let there_are = waiting / seen.places + model.rows_per_batch.mean;
        let enough = if row > 0.0 { 16.0 * fixed / row } else { f64::from(MOST_ROWS) };
        let rows =
            (there_are.min(enough).ceil() as u32).clamp(1, MOST_ROWS).next_power_of_two().min(MOST_ROWS);
        let Some(ratio) = seen.row_cost_ratio(now, rows).filter(|_| rows > now) else { continue };
        let times = 1.0 / (1.0 - seen.busy * (1.0 - ratio));
        if times < LEAST_GAIN {
            continue;
        }
        let mut batching = json!({"max_rows": rows});
        if !model.settings.buckets.is_empty() {
            let mut buckets = model.settings.buckets.clone();
            buckets.push(rows);
            batching["buckets"] = buckets.into();
        }
        findings.push(Finding {
            bottleneck: "batch_too_small",
            subject: Subject::Model(model.name.clone()),
            score: score_of_speedup(times) * seen.weight,
            evidence: evidence([
                ("max_rows", f64::from(now), "rows"),
                ("rows per batch, median", model.rows_per_batch.p50 as f64, "rows"),
                ("rows waiting", waiting, "rows"),
                ("time in the backend", seen.busy, "share of lanes"),
                ("a run costs", fixed, "ns"),
                ("and each row besides", row, "ns"),
            ]),
            explanation: format!(
                "Batches are full at {now} rows while {waiting:.0} more wait. A run of {rows} rows costs {:.0} % of what \
                 runs of {now} cost for each row.",
                100.0 * ratio
            ),
            advice: format!("Set batching.max_rows to {rows}."),
            change: json!({"model": model.name, "batching": batching}),
            figure: "throughput_rows_per_s",
            expected: seen.rate(times),
        });
    }
}

/// Requests wait for a model that computes them one by one.
pub fn not_batched(view: &View<'_>, findings: &mut Vec<Finding>) {
    for seen in view.models().filter(|seen| !seen.model.joins) {
        let model = seen.model;
        if seen.busy < 0.6 || seen.backlog < 2.0 * seen.places {
            continue;
        }
        // What joining brings is known only once it was done: half of a short run is overhead, little of a long one.
        let run_ns = model.computed.mean_ns();
        let times = if run_ns < 2e6 { 2.0 } else { 1.5 };
        let because = model.not_joined_because.as_deref().unwrap_or("the model does not say why");
        let is_setting = model.settings.max_rows == 1;
        let rows = (model.queue_depth.ceil().clamp(8.0, 64.0) as u32).next_power_of_two();
        findings.push(Finding {
            bottleneck: "not_batched",
            subject: Subject::Model(model.name.clone()),
            score: score_of_speedup(times) * seen.weight,
            evidence: evidence([
                ("requests waiting", model.queue_depth, "requests"),
                ("time in the backend", seen.busy, "share of lanes"),
                ("run, mean", run_ns, "ns"),
            ]),
            explanation: format!(
                "Every request is a run of its own ({because}), and {:.0} wait for their turn.",
                model.queue_depth
            ),
            advice: match is_setting {
                true => format!("Set batching.max_rows to {rows}."),
                false => "Export the model with a symbolic first axis in all inputs and outputs, and rows that do not \
                          depend on each other."
                    .into(),
            },
            change: match is_setting {
                true => json!({"model": model.name, "batching": {"max_rows": rows}}),
                false => Value::Null,
            },
            figure: "throughput_rows_per_s",
            expected: seen.rate(times),
        });
    }
}

/// Batches are held open for so long that deadlines pass, or that it is a good part of what a request takes, and are not
/// much fuller for it.
pub fn delay_too_long(view: &View<'_>, findings: &mut Vec<Finding>) {
    for seen in view.models().filter(|seen| seen.model.joins && seen.model.settings.max_delay_us > 0) {
        let model = seen.model;
        let held_ns = model.held.sum_ns as f64 / model.batches.max(1) as f64;
        let ended = (model.ok + model.expired).max(1) as f64;
        let expired = model.expired as f64 / ended;
        let patience_ns = model.patience.p50_ns as f64;
        let run_ns = model.computed.mean_ns();
        let has_deadlines = model.patience.count as f64 >= 0.2 * ended && patience_ns > 0.0;
        // Without the wait they would have been in time.
        let misses = has_deadlines && expired >= 0.02 && held_ns >= 0.1 * patience_ns && run_ns < patience_ns;
        let total_ns = model.total.mean_ns().max(1.0);
        let part = (held_ns / total_ns).min(1.0);
        let drags = held_ns >= 500_000.0
            && part >= 0.25
            && (model.rows_per_batch.p50 as f64) < 0.5 * f64::from(model.settings.max_rows);
        // What waits because lanes compute would wait all the same.
        if !(misses || drags) || seen.busy >= 0.85 {
            continue;
        }
        let spare_ns = if misses { (patience_ns - run_ns).max(0.0) / 10.0 } else { held_ns / 10.0 };
        let delay_us = (spare_ns.min(held_ns / 10.0) / 1000.0).floor() as u32;
        let delay_us = delay_us.min(model.settings.max_delay_us / 2);
        let explanation = match misses {
            true => format!(
                "Batches are held open for {:.1} ms on average to fill up, of the {:.1} ms that requests have, and {:.1} % \
                 of them expire.",
                held_ns / 1e6,
                patience_ns / 1e6,
                100.0 * expired
            ),
            false => format!(
                "Batches are held open for {:.1} ms on average, {:.0} % of what a request takes, and are hardly fuller \
                 for it.",
                held_ns / 1e6,
                100.0 * part
            ),
        };
        findings.push(Finding {
            bottleneck: "delay_too_long",
            subject: Subject::Model(model.name.clone()),
            score: part.max(if misses { expired } else { 0.0 }) * seen.weight,
            evidence: evidence([
                ("max_delay_us", f64::from(model.settings.max_delay_us), "us"),
                ("held open, mean", held_ns, "ns"),
                ("run, mean", run_ns, "ns"),
                ("request, mean", total_ns, "ns"),
                ("time until the deadline, median", patience_ns, "ns"),
                ("expired", expired, "share of requests"),
                ("rows per batch, median", model.rows_per_batch.p50 as f64, "rows"),
            ]),
            explanation,
            advice: format!("Set batching.max_delay_us to {delay_us}."),
            change: json!({"model": model.name, "batching": {"max_delay_us": delay_us}}),
            figure: if misses { "expired_share" } else { "request_mean_ns" },
            expected: match misses {
                true => share(expired, 0.0),
                false => duration(total_ns, total_ns * (1.0 - part) + f64::from(delay_us) * 1000.0),
            },
        });
    }
}

/// Much of what is computed is zeros that fill batches or axes up.
pub fn padding_waste(view: &View<'_>, findings: &mut Vec<Finding>) {
    for seen in view.models() {
        let model = seen.model;
        let padding = model.padding_bytes as f64 / model.input_bytes.max(1) as f64;
        let total_ns = model.total.mean_ns().max(1.0);
        // Requests that wait wait for runs.
        let in_runs = ((model.computed.mean_ns() + model.queued.mean_ns()) / total_ns).min(1.0);
        // A fifth of a run is taken not to depend on its size.
        let saved = 0.8 * padding * in_runs;
        if padding < 0.3 || saved < 0.15 || seen.busy < 0.1 {
            continue;
        }
        let batching = match model.settings.buckets.is_empty() {
            false => json!({"buckets": more_buckets(
                &model.settings.buckets, &[model.rows_per_batch.p50, model.rows_per_batch.p90],
            )}),
            true if model.settings.axes.is_empty() => continue,
            true => {
                let axis = |(name, sizes): &(String, Vec<u32>)| {
                    (name.clone(), json!({"buckets": more_buckets(sizes, &[])}))
                };
                json!({"axes": model.settings.axes.iter().map(axis).collect::<Map<_, _>>()})
            }
        };
        findings.push(Finding {
            bottleneck: "padding_waste",
            subject: Subject::Model(model.name.clone()),
            score: saved * seen.weight,
            evidence: evidence([
                ("padding", padding, "share of input bytes"),
                ("rows per batch, median", model.rows_per_batch.p50 as f64, "rows"),
                ("in runs or waiting for them", in_runs, "share of a request's time"),
                ("run, mean", model.computed.mean_ns(), "ns"),
            ]),
            explanation: format!(
                "{:.0} % of what is computed is zeros that fill up the sizes that were configured.",
                100.0 * padding
            ),
            advice: "Add sizes between those that there are.".into(),
            change: json!({"model": model.name, "batching": batching}),
            figure: "request_mean_ns",
            expected: duration(total_ns, total_ns * (1.0 - saved)),
        });
    }
}

/// The sizes, with all powers of two below the largest, and those that are wanted most.
fn more_buckets(sizes: &[u32], wanted: &[u64]) -> Vec<u32> {
    let most = sizes.iter().copied().max().unwrap_or(1);
    let powers = (0..32).map(|at| 1u32 << at);
    let wanted = wanted.iter().filter_map(|&size| u32::try_from(size).ok()).filter(|&size| size > 0);
    let mut all: Vec<u32> =
        sizes.iter().copied().chain(powers).chain(wanted).filter(|&size| size <= most).collect();
    all.sort_unstable();
    all.dedup();
    all
}
