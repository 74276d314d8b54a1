//! Rules about models that leave memory and come back.

use super::finding::{Finding, Subject, evidence};
use super::view::{View, duration};
use serde_json::{Value, json};

/// Models come back all the time: that takes this part of the time, …
const THRASH: f64 = 0.25;
/// … and not only once in a while.
const FEW_RELOADS: u64 = 4;

/// What coming and going has cost.
struct Coming {
    reloads: u64,
    reload_seconds: f64,
    misses: u64,
    requests: u64,
    /// The mean of all requests now, and without reloads.
    now_ns: f64,
    then_ns: f64,
}

fn coming(view: &View<'_>) -> Option<Coming> {
    let models = &view.picture.models;
    let sum = |count: fn(&crate::profile::ModelPicture) -> u64| models.iter().map(count).sum::<u64>();
    let requests = sum(|model| model.ok);
    let reloads = sum(|model| model.reloads);
    if reloads == 0 || requests == 0 || !view.is_long() {
        return None;
    }
    let reload_seconds: f64 = models.iter().map(|model| model.reload_seconds).sum();
    let now_ns = sum(|model| model.total.sum_ns) as f64 / requests as f64;
    // Each request that missed has waited for a reload, and those that came meanwhile for the rest of it.
    let misses = sum(|model| model.misses);
    let waited: f64 = models
        .iter()
        .filter(|model| model.reloads > 0)
        .map(|model| model.misses as f64 * model.reload_seconds * 1e9 / model.reloads as f64)
        .map(|waited| if misses > reloads { waited / 2.0 } else { waited })
        .sum::<f64>()
        .max(reload_seconds * 1e9);
    let lost_ns = (waited / requests as f64).min(0.98 * now_ns);
    Some(Coming { reloads, reload_seconds, misses, requests, now_ns, then_ns: now_ns - lost_ns })
}

/// The budget that would do: all models in memory, the buffers that there are, and a tenth more.
fn budget_wanted(view: &View<'_>) -> Option<u64> {
    let memory = &view.picture.memory;
    let budget = memory.budget_bytes?;
    let wanted = memory.wanted_bytes + memory.buffers_bytes.saturating_sub(memory.idle_buffers_bytes);
    let wanted = wanted + wanted / 10 + (16 << 20);
    (memory.wanted_bytes > 0 && wanted > budget).then_some(wanted)
}

/// The models that are used do not fit into the budget together, so that they push each other out all the time.
pub fn memory_thrash(view: &View<'_>, findings: &mut Vec<Finding>) {
    let Some(coming) = coming(view) else { return };
    let part = coming.reload_seconds / view.seconds;
    if part < THRASH || coming.reloads < FEW_RELOADS {
        return;
    }
    findings.push(finding(
        view,
        &coming,
        "memory_thrash",
        "push each other out all the time",
        "request_mean_ns",
    ));
}

/// A model is out of memory now and then when a request comes for it, which then takes far longer than others.
pub fn cold_loads(view: &View<'_>, findings: &mut Vec<Finding>) {
    let Some(coming) = coming(view) else { return };
    let part = coming.reload_seconds / view.seconds;
    let one_ns = coming.reload_seconds * 1e9 / coming.reloads as f64;
    let few = part < THRASH || coming.reloads < FEW_RELOADS;
    // One that took no longer than a request does anyway is nothing to speak of.
    if !few || one_ns < 2.0 * coming.then_ns || one_ns < 1e6 {
        return;
    }
    findings.push(finding(
        view,
        &coming,
        "cold_loads",
        "push each other out now and then",
        "request_mean_ns",
    ));
}

fn finding(
    view: &View<'_>,
    coming: &Coming,
    bottleneck: &'static str,
    how: &str,
    figure: &'static str,
) -> Finding {
    let memory = &view.picture.memory;
    let budget = budget_wanted(view);
    let unit = "bytes";
    Finding {
        bottleneck,
        subject: Subject::Engine,
        score: 1.0 - coming.then_ns / coming.now_ns.max(1.0),
        evidence: evidence([
            ("budget", memory.budget_bytes.unwrap_or(0) as f64, unit),
            ("all models together", memory.wanted_bytes as f64, unit),
            ("reloads", coming.reloads as f64, "loads"),
            ("reloads took", coming.reload_seconds, "s"),
            ("requests that found their model gone", coming.misses as f64, "requests"),
            ("requests", coming.requests as f64, "requests"),
        ]),
        explanation: format!(
            "Models {how}: {} reloads in {:.1} s took {:.2} s, and {} requests waited for one.",
            coming.reloads, view.seconds, coming.reload_seconds, coming.misses
        ),
        advice: match budget {
            Some(bytes) => format!(
                "Set memory.budget_bytes to {bytes}, or, if there is no more, pin the models that matter most and unload \
                 those that do not."
            ),
            None => "Pin the models that matter most.".into(),
        },
        change: match budget {
            Some(bytes) => json!({"engine": {"memory": {"budget_bytes": bytes}}}),
            None => match view.picture.models.iter().max_by_key(|model| (model.misses, model.ok)) {
                Some(model) if !model.settings.pinned => json!({"model": model.name, "pinned": true}),
                _ => Value::Null,
            },
        },
        figure,
        expected: duration(coming.now_ns, coming.then_ns),
    }
}
