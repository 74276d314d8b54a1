//! What holds an engine back, with evidence, and what to do about it: pure rules over a `Picture`.
//!
//! A rule looks at one picture and says what it finds, if anything. What is found is scored on one scale, the share of
//! time or of requests that a cure would win, so that rules can be held against each other without knowing each other.
//! The one thing that they must know is kept in one table, `EXPLAINS`: which finding has which others as symptoms.

mod batching;
mod compute;
mod finding;
mod memory;
mod traffic;
mod view;

#[cfg(test)]
mod tests;

pub use finding::{Evidence, Expected, Finding, Subject};

use super::Picture;
use serde_json::{Value, json};
use view::View;

type Rule = fn(&View<'_>, &mut Vec<Finding>);

const RULES: [Rule; 16] = [
    batching::batch_too_small,
    batching::not_batched,
    batching::delay_too_long,
    batching::padding_waste,
    compute::lane_saturated,
    compute::intra_op_oversubscribed,
    compute::provider_fell_back,
    compute::dominant_operator,
    compute::warmup_missing,
    memory::memory_thrash,
    memory::cold_loads,
    traffic::slow_consumer,
    traffic::poisoned_target,
    traffic::failing_model,
    traffic::queue_capacity,
    traffic::overload,
];

/// What promises less than this is not worth anybody's time.
const LEAST_SCORE: f64 = 0.05;
/// What a cause leaves of the score of its symptoms.
const DAMPED: f64 = 0.2;

/// Causes and what they look like besides. A symptom counts as explained if it is about the same subject as the cause, or
/// if either is about the whole engine or a route.
const EXPLAINS: [(&str, &[&str]); 10] = [
    (
        "memory_thrash",
        &["cold_loads", "delay_too_long", "lane_saturated", "queue_capacity", "warmup_missing"],
    ),
    ("cold_loads", &["delay_too_long", "lane_saturated", "queue_capacity", "warmup_missing"]),
    ("batch_too_small", &["lane_saturated", "queue_capacity", "dominant_operator"]),
    ("not_batched", &["lane_saturated", "queue_capacity", "dominant_operator"]),
    ("padding_waste", &["batch_too_small", "lane_saturated", "dominant_operator"]),
    (
        "intra_op_oversubscribed",
        &["batch_too_small", "lane_saturated", "dominant_operator", "warmup_missing"],
    ),
    ("provider_fell_back", &["batch_too_small", "dominant_operator", "lane_saturated", "not_batched"]),
    (
        "poisoned_target",
        &["failing_model", "lane_saturated", "queue_capacity", "batch_too_small", "not_batched"],
    ),
    ("slow_consumer", &["queue_capacity"]),
    ("delay_too_long", &["queue_capacity"]),
];

/// What holds the engine back, the worst first.
pub fn advise(picture: &Picture) -> Vec<Finding> {
    let view = View::new(picture);
    let mut findings = Vec::new();
    for rule in RULES {
        rule(&view, &mut findings);
    }
    findings.retain(|finding| finding.score >= LEAST_SCORE);
    damp(&mut findings);
    // That no setting helps is only so if none was found.
    if findings.iter().any(|finding| finding.bottleneck != "overload") {
        findings.retain(|finding| finding.bottleneck != "overload");
    }
    findings.retain(|finding| finding.score >= LEAST_SCORE);
    findings.sort_by(|a, b| b.score.total_cmp(&a.score));
    findings
}

/// Lowers the scores of what another finding explains, once, however many do.
fn damp(findings: &mut [Finding]) {
    let is_explained = |symptom: &Finding| {
        findings.iter().any(|cause| {
            let symptoms =
                EXPLAINS.iter().find(|(name, _)| *name == cause.bottleneck).map_or(&[][..], |of| of.1);
            symptoms.contains(&symptom.bottleneck) && cause.subject.covers(&symptom.subject)
        })
    };
    let explained: Vec<bool> = findings.iter().map(is_explained).collect();
    for (finding, _) in findings.iter_mut().zip(explained).filter(|(_, explained)| *explained) {
        finding.score *= DAMPED;
    }
}

/// What holds the engine back, as `blaze_advice_json` says it and reports have it in them.
pub fn report(picture: &Picture) -> Value {
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    json!({"window_seconds": round(picture.seconds), "findings": advise(picture)})
}
