//! Rules about lanes, threads, providers and runs.

use super::finding::{Finding, Subject, evidence};
use super::view::{View, duration, score_of_speedup};
use serde_json::{Value, json};

/// As much of a core must be idle for more lanes or threads to be proposed.
const IDLE_CORE: f64 = 0.4;
/// As many batches must wait: half of one always does where requests come evenly, and is joined while the lane computes.
const LEAST_BACKLOG: f64 = 0.8;
/// Runs that requests wait for where lanes are too few, unless batches are full.
const LONG_WAIT: f64 = 1.25;
/// How many lanes more are proposed at once.
const MOST_TIMES: f64 = 8.0;
const MOST_LANES: f64 = 256.0;

/// All lanes of a model compute all the time, batches wait for them, and cores are idle.
pub fn lane_saturated(view: &View<'_>, findings: &mut Vec<Finding>) {
    let threads = f64::from(view.picture.threads);
    for seen in view.models() {
        let (model, lanes) = (seen.model, f64::from(seen.model.settings.lanes));
        let busy = if model.on_shared_threads { seen.busy.max(view.shared_busy()) } else { seen.busy };
        // What does not compute on the CPU needs no core.
        let has_room = view.idle_cores >= IDLE_CORE || !(seen.is_on_cpu() || model.on_shared_threads);
        // Who comes while a lane computes waits for a part of that run; batches that are not full take in whatever comes.
        let run_ns = model.computed.mean_ns();
        let is_waiting = seen.has_full_batches() || model.queued.mean_ns() >= LONG_WAIT * run_ns;
        let is_behind = seen.backlog >= LEAST_BACKLOG && is_waiting;
        if busy < 0.75 || !is_behind || !has_room || threads < 1.0 {
            continue;
        }
        // A lane that computes takes a core, and others only as much as is idle.
        let cores = (threads + view.idle_cores).min(f64::from(view.picture.cores));
        let wanted = seen.places * (1.0 + seen.backlog.min(MOST_TIMES - 1.0));
        let by_threads = model.on_shared_threads && lanes >= threads;
        let (places, advice, change) = if by_threads {
            let places = cores.min(wanted).floor();
            (places, format!("Set threads to {places}."), json!({"engine": {"threads": places as u32}}))
        } else {
            let most = if model.on_shared_threads { threads } else { MOST_LANES };
            let most = if seen.is_on_cpu() { most.min(f64::from(view.picture.cores)) } else { most };
            let places = wanted.min(most).floor();
            let change = json!({"model": model.name, "lanes": places as u32});
            (places, format!("Set lanes to {places}."), change)
        };
        if places <= seen.places {
            continue;
        }
        let mut times = (places / seen.places).min(1.0 + seen.backlog);
        if seen.is_on_cpu() {
            times = times.min((seen.places + view.idle_cores) / seen.places);
        }
        let times = 1.0 + (times - 1.0) * busy;
        findings.push(Finding {
            bottleneck: "lane_saturated",
            subject: Subject::Model(model.name.clone()),
            score: score_of_speedup(times) * seen.weight,
            evidence: evidence([
                ("batches computed at once, at most", seen.places, "batches"),
                ("time in the backend", busy, "share of lanes"),
                ("batches waiting", seen.backlog, "batches"),
                ("idle", view.idle_cores, "cores"),
                ("queued, mean", model.queued.mean_ns(), "ns"),
                ("run, mean", model.computed.mean_ns(), "ns"),
            ]),
            explanation: format!(
                "Its lanes are in the backend for {:.0} % of the time and {:.1} batches wait for them, while {:.1} of {} \
                 cores are idle.",
                100.0 * busy, seen.backlog, view.idle_cores, view.picture.cores
            ),
            advice,
            change,
            figure: "throughput_rows_per_s",
            expected: seen.rate(times),
        });
    }
}

/// Runs ask for more threads at once than there are cores.
pub fn intra_op_oversubscribed(view: &View<'_>, findings: &mut Vec<Finding>) {
    let cores = f64::from(view.picture.cores.max(1));
    let models: Vec<_> = view.models().filter(|seen| seen.is_on_cpu() && seen.busy >= 0.2).collect();
    let Some(worst) = models.iter().max_by_key(|seen| seen.model.settings.intra_op_threads) else { return };
    let each = f64::from(worst.model.settings.intra_op_threads);
    let places: f64 = models.iter().map(|seen| seen.places).sum();
    let at_once = places.min(f64::from(view.picture.threads.max(1)));
    let used = view.picture.process_cpu_seconds / view.seconds;
    // They spin while they wait for each other, so the cores are in use.
    if each < 2.0 || each * at_once < 1.5 * cores || view.idle_cores > 0.4 * cores {
        return;
    }
    let better = (cores / at_once).floor().max(1.0);
    let busy = models.iter().map(|seen| seen.busy).fold(0.0, f64::max);
    let (key, change) = if worst.model.settings.intra_op_threads == view.picture.intra_op_threads {
        let change = json!({"engine": {"onnxruntime": {"intra_op_threads": better as u32}}});
        ("onnxruntime.intra_op_threads", change)
    } else {
        (
            "the model's intra_op_threads",
            json!({"model": worst.model.name, "intra_op_threads": better as u32}),
        )
    };
    let score = 0.6 * (1.0 - cores / (each * at_once)) * busy;
    findings.push(Finding {
        bottleneck: "intra_op_oversubscribed",
        subject: Subject::Engine,
        score,
        evidence: evidence([
            ("intra_op_threads", each, "threads"),
            ("batches computed at once", at_once, "batches"),
            ("cores", cores, "cores"),
            ("CPU time of the process", used, "cores"),
            ("run, mean", worst.model.computed.mean_ns(), "ns"),
        ]),
        explanation: format!(
            "Runs use up to {:.0} threads at once on {cores:.0} cores: they take turns, and wait for each other at the end \
             of every operator.",
            each * at_once
        ),
        advice: format!("Set {key} to {better:.0}."),
        change,
        figure: "throughput_rows_per_s",
        expected: worst.rate(1.0 / (1.0 - score)),
    });
}

/// A provider was asked for and cannot be used. That is so whether or not there is traffic.
pub fn provider_fell_back(view: &View<'_>, findings: &mut Vec<Finding>) {
    for model in &view.picture.models {
        let Some((wanted, why)) = model.providers_rejected.first() else { continue };
        let seen = view.see(model);
        findings.push(Finding {
            bottleneck: "provider_fell_back",
            subject: Subject::Model(model.name.clone()),
            // What the provider would bring cannot be known without it; those that are asked for mostly bring much.
            score: 0.8 * seen.weight,
            evidence: evidence([
                ("providers that cannot be used", model.providers_rejected.len() as f64, "providers"),
                ("run, mean", model.computed.mean_ns(), "ns"),
                ("time in the backend", seen.busy, "share of lanes"),
            ]),
            explanation: format!("It was to run on {wanted}, and runs on {}: {}", model.provider, sentence(why)),
            advice: format!(
                "Use an ONNX Runtime library that has {wanted}, with its driver installed; or take it from providers if \
                 it is not meant to be there."
            ),
            change: Value::Null,
            figure: "throughput_rows_per_s",
            expected: None,
        });
    }
}

/// One operator takes most of a model's runs.
pub fn dominant_operator(view: &View<'_>, findings: &mut Vec<Finding>) {
    for seen in view.models() {
        let model = seen.model;
        let Some(operator) = model.operators.first().filter(|operator| operator.share >= 0.5) else {
            continue;
        };
        let total_ns = model.total.mean_ns().max(1.0);
        let run_ns = model.computed.mean_ns();
        let in_runs = (run_ns / total_ns).min(1.0);
        if model.operators.len() < 2 || (in_runs < 0.5 && seen.busy < 0.5) {
            continue;
        }
        let threads = f64::from(model.settings.intra_op_threads.max(1));
        let cores = (threads + view.idle_cores.floor()).min(f64::from(view.picture.cores));
        let share = operator.share * in_runs.max(seen.busy);
        let splits =
            seen.is_on_cpu() && cores > threads && seen.backlog < 0.5 && operator.mean_ns >= 100_000.0;
        // Threads wait for each other; another kind of operator is taken to save a third.
        let saved = if splits { 0.7 * share * (1.0 - threads / cores) } else { 0.33 * share };
        findings.push(Finding {
            bottleneck: "dominant_operator",
            subject: Subject::Model(model.name.clone()),
            score: saved * seen.weight,
            evidence: evidence([
                (operator.name.as_str(), operator.share, "share of operators' time"),
                ("each time, mean", operator.mean_ns, "ns"),
                ("run, mean", run_ns, "ns"),
                ("idle", view.idle_cores, "cores"),
            ]),
            explanation: format!(
                "{} ({}) takes {:.0} % of the time of all operators.",
                operator.name,
                operator.kind,
                100.0 * operator.share
            ),
            advice: match splits {
                true => format!("Set the model's intra_op_threads to {cores:.0}, so that idle cores help with it."),
                false => format!(
                    "Have less of it in the model: a quantised or fused {}, or another operator that does the same.",
                    operator.kind
                ),
            },
            change: match splits {
                true => json!({"model": model.name, "intra_op_threads": cores as u32}),
                false => Value::Null,
            },
            figure: "request_mean_ns",
            expected: duration(total_ns, total_ns * (1.0 - saved)),
        });
    }
}

/// A model that was not warmed up has had a few runs that took far longer than all others.
pub fn warmup_missing(view: &View<'_>, findings: &mut Vec<Finding>) {
    for seen in view.models().filter(|seen| !seen.model.settings.warmup) {
        let model = seen.model;
        let (computed, total_ns) = (&model.computed, model.total.mean_ns().max(1.0));
        let usual_ns = computed.p50_ns as f64;
        let unusual_ns = computed.sum_ns as f64 - usual_ns * computed.count as f64;
        let part = unusual_ns / (computed.sum_ns as f64).max(1.0);
        let is_even = computed.p90_ns as f64 <= 2.0 * usual_ns;
        if !is_even || part < 0.2 || unusual_ns < 20e6 || usual_ns <= 0.0 {
            continue;
        }
        let lost = part * seen.busy.max(computed.mean_ns() / total_ns).min(1.0);
        findings.push(Finding {
            bottleneck: "warmup_missing",
            subject: Subject::Model(model.name.clone()),
            score: lost * seen.weight,
            evidence: evidence([
                ("run, median", usual_ns, "ns"),
                ("run, mean", computed.mean_ns(), "ns"),
                ("beyond the median, all runs together", unusual_ns, "ns"),
            ]),
            explanation: format!(
                "A few runs took {:.0} ms longer than usual, together: the first of each size, since the model is not run \
                 at load.",
                unusual_ns / 1e6
            ),
            advice: "Set warmup to true.".into(),
            change: json!({"model": model.name, "warmup": true}),
            figure: "request_mean_ns",
            expected: duration(total_ns, total_ns * (1.0 - lost)),
        });
    }
}

/// With one full stop at its end.
fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches(['.', '\n', ' ']))
}
