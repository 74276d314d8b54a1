//! Rules about what comes in, what is handed out, and what fails on the way.

use super::finding::{Finding, Subject, evidence};
use super::view::{View, duration, share};
use crate::profile::{RoutePicture, TargetPicture};
use serde_json::{Value, json};

/// A shorter wait for the host is how hosts look that take many events at once, or whose thread does not always get a core.
const SLOW_NS: f64 = 5e6;
/// With fewer attempts than this nothing is said of a target, and with fewer failures nothing of a model.
const FEW_ATTEMPTS: u64 = 20;
const FEW_FAILURES: u64 = 5;
/// Strategies that find out by themselves who is slow.
const LEARNS: [&str; 4] = ["least_response_time", "adaptive", "least_loaded", "power_of_two"];

/// Events wait for the host longer than requests took.
pub fn slow_consumer(view: &View<'_>, findings: &mut Vec<Finding>) {
    let ended = view.ended();
    if !view.is_long() || ended < FEW_ATTEMPTS {
        return;
    }
    // What waits on average is how many come in a time, times how long each waits.
    let waited_ns = view.picture.events_waiting * view.seconds * 1e9 / ended as f64;
    let total: u64 = view.picture.models.iter().map(|model| model.total.sum_ns).sum();
    let took_ns = total as f64 / view.picture.models.iter().map(|model| model.ok).sum::<u64>().max(1) as f64;
    if waited_ns < SLOW_NS || waited_ns < 0.5 * took_ns {
        return;
    }
    let all_ns = waited_ns + took_ns;
    findings.push(Finding {
        bottleneck: "slow_consumer",
        subject: Subject::Host,
        score: waited_ns / all_ns,
        evidence: evidence([
            ("events waiting", view.picture.events_waiting, "events"),
            ("an event waits, mean", waited_ns, "ns"),
            ("request, mean", took_ns, "ns"),
        ]),
        explanation: format!(
            "Results wait {:.1} ms for the host to take them, after requests that took {:.1} ms.",
            waited_ns / 1e6,
            took_ns / 1e6
        ),
        advice: "Take events as they come: with blaze_wait, or when the descriptor of blaze_queue_fd is ready, in a thread \
                 that does nothing else for long."
            .into(),
        change: json!({"host": {"collect": "wait"}}),
        figure: "answer_mean_ns",
        expected: duration(all_ns, took_ns),
    });
}

fn attempts(target: &TargetPicture) -> u64 {
    target.ok + target.failed + target.given_up
}

/// One target of a route fails, or is slow, and the others do not and are not.
pub fn poisoned_target(view: &View<'_>, findings: &mut Vec<Finding>) {
    for route in view.picture.routes.iter().filter(|_| view.is_long()) {
        let first =
            route.targets.iter().filter(|target| attempts(target) > 0).map(|target| target.tier).min();
        let peers: Vec<&TargetPicture> =
            route.targets.iter().filter(|target| Some(target.tier) == first).collect();
        for target in peers.iter().filter(|target| attempts(target) >= FEW_ATTEMPTS) {
            let others: Vec<&TargetPicture> = peers
                .iter()
                .copied()
                .filter(|other| other.name != target.name && attempts(other) >= FEW_ATTEMPTS)
                .collect();
            if others.is_empty() {
                continue;
            }
            findings.extend(failing_target(route, target, &others));
            findings.extend(slow_target(route, target, &others));
        }
    }
}

fn failing_target(
    route: &RoutePicture,
    target: &TargetPicture,
    others: &[&TargetPicture],
) -> Option<Finding> {
    let failed = target.failed as f64 / attempts(target) as f64;
    let fail_too = others.iter().map(|other| other.failed).sum::<u64>() as f64
        / others.iter().map(|other| attempts(other)).sum::<u64>().max(1) as f64;
    if failed < 0.1 || target.failed < FEW_FAILURES || fail_too > 0.3 * failed {
        return None;
    }
    let all: u64 = others.iter().map(|other| attempts(other)).sum::<u64>() + attempts(target);
    let wasted = target.failed as f64 / all as f64;
    Some(Finding {
        bottleneck: "poisoned_target",
        subject: Subject::Target(route.name.clone(), target.name.clone()),
        score: wasted.max(0.25 * failed),
        evidence: evidence([
            ("attempts there that failed", failed, "share of attempts"),
            ("attempts elsewhere that failed", fail_too, "share of attempts"),
            ("failovers", route.failovers as f64, "attempts"),
            ("its breaker opened", target.opened as f64, "times"),
        ]),
        explanation: format!(
            "{:.0} % of what route {} sends to {} fails and must be tried elsewhere; of the others' {:.1} % do.",
            100.0 * failed,
            route.name,
            target.name,
            100.0 * fail_too
        ),
        advice: format!(
            "Take {} out of the route (blaze_route_target_drain) until it is well; blaze_health_json says how it failed.",
            target.name
        ),
        change: json!({"route": route.name, "remove_targets": [target.name]}),
        figure: "failed_attempts_share",
        expected: share(wasted, wasted.min(fail_too)),
    })
}

fn slow_target(route: &RoutePicture, target: &TargetPicture, others: &[&TargetPicture]) -> Option<Finding> {
    let mut usual: Vec<u64> =
        others.iter().filter(|other| other.ok > 0).map(|other| other.times.p50_ns).collect();
    usual.sort_unstable();
    let usual_ns = *usual.get(usual.len() / 2)? as f64;
    let (count, own_ns) = (target.times.count, target.times.p50_ns as f64);
    let all: u64 = others.iter().map(|other| other.times.count).sum::<u64>() + count;
    let sum: u64 = others.iter().map(|other| other.times.sum_ns).sum::<u64>() + target.times.sum_ns;
    let part = count as f64 / all.max(1) as f64;
    if usual_ns <= 0.0 || own_ns < 2.5 * usual_ns || own_ns - usual_ns < 200_000.0 || part < 0.08 {
        return None;
    }
    let others_count = all - count;
    let others_ns = (sum - target.times.sum_ns) as f64 / others_count.max(1) as f64;
    let mean_ns = sum as f64 / all.max(1) as f64;
    let saved = (1.0 - others_ns / mean_ns).max(0.0);
    let learns = LEARNS.contains(&route.strategy.as_str());
    Some(Finding {
        bottleneck: "poisoned_target",
        subject: Subject::Target(route.name.clone(), target.name.clone()),
        score: saved,
        evidence: evidence([
            ("answers there, median", own_ns, "ns"),
            ("answers elsewhere, median", usual_ns, "ns"),
            ("answers that came from there", part, "share of answers"),
            ("its breaker opened", target.opened as f64, "times"),
        ]),
        explanation: format!(
            "Route {} has {:.0} % of its answers from {}, which takes {:.1} times as long as the others.",
            route.name,
            100.0 * part,
            target.name,
            own_ns / usual_ns
        ),
        advice: match learns {
            true => format!("Take {} out of the route until it is well.", target.name),
            false => {
                "Set the route's strategy to \"least_response_time\", which sends less to who is slow.".into()
            }
        },
        change: match learns {
            true => json!({"route": route.name, "remove_targets": [target.name]}),
            false => json!({"route": route.name, "strategy": "least_response_time"}),
        },
        figure: "request_mean_ns",
        expected: duration(mean_ns, mean_ns * (1.0 - saved)),
    })
}

/// Many of a model's requests fail.
pub fn failing_model(view: &View<'_>, findings: &mut Vec<Finding>) {
    for model in &view.picture.models {
        let failed = model.failed as f64 / (model.ok + model.failed).max(1) as f64;
        if failed < 0.02 || model.failed < FEW_FAILURES || !view.is_long() {
            continue;
        }
        let all = view.ended().max(1) as f64;
        findings.push(Finding {
            bottleneck: "failing_model",
            subject: Subject::Model(model.name.clone()),
            score: (model.failed as f64 / all).max(0.5 * failed),
            evidence: evidence([
                ("failed", failed, "share of requests"),
                ("failed requests", model.failed as f64, "requests"),
                ("requests that ended well", model.ok as f64, "requests"),
            ]),
            explanation: format!("{:.1} % of its requests fail.", 100.0 * failed),
            advice: "See in blaze_health_json and in the log how it failed, and give what it serves a route with a second \
                     model to fall back to."
                .into(),
            change: Value::Null,
            figure: "failed_share",
            expected: share(failed, 0.0),
        });
    }
}

/// Submits are refused because too many requests are alive, though more could be done.
pub fn queue_capacity(view: &View<'_>, findings: &mut Vec<Finding>) {
    let refused = view.rejected("queue_full");
    let ended = view.ended();
    let part = refused as f64 / (refused + ended).max(1) as f64;
    let places = view.picture.places;
    if !view.is_long() || refused < 20 || part < 0.01 || is_overloaded(view) {
        return;
    }
    let taken = view.picture.places_taken / f64::from(places.max(1));
    // What came at once, and as much again, for what is not released yet when more comes.
    let times = (2.0 / (1.0 - part)).clamp(4.0, 64.0);
    let wanted = ((f64::from(places) * times) as u32).next_power_of_two().min(1 << 24);
    // If few of them are taken, it is some completion queue that is full.
    if taken < 0.02 || wanted <= places {
        return;
    }
    findings.push(Finding {
        bottleneck: "queue_capacity",
        subject: Subject::Engine,
        score: part,
        evidence: evidence([
            ("refused with QUEUE_FULL", part, "share of submits"),
            ("queue.capacity", f64::from(places), "requests"),
            ("places taken, mean", view.picture.places_taken, "requests"),
        ]),
        explanation: format!(
            "{:.0} % of submits are refused, since {places} requests are alive already, while the engine could take more.",
            100.0 * part
        ),
        advice: format!("Set queue.capacity to {wanted}, or have fewer requests alive at once."),
        change: json!({"engine": {"queue": {"capacity": wanted}}}),
        figure: "rejected_share",
        expected: share(part, 0.0),
    });
}

/// Whether more comes than the machine can do, as it is configured: lanes with full batches compute all the time, or they
/// compute much and no core is idle.
fn is_overloaded(view: &View<'_>) -> bool {
    let no_core = view.idle_cores < 0.05 * f64::from(view.picture.cores);
    view.models().any(|seen| match seen.has_full_batches() {
        true => seen.busy >= 0.9 || (seen.busy >= 0.5 && no_core),
        false => seen.busy >= 0.5 && no_core && seen.is_on_cpu(),
    })
}

/// Requests are refused or expire because more come than can be done, and no setting would help.
pub fn overload(view: &View<'_>, findings: &mut Vec<Finding>) {
    let refused = view.rejected("queue_full");
    let expired: u64 = view.picture.models.iter().map(|model| model.expired).sum();
    let all = (refused + view.ended()).max(1);
    let lost = (refused + expired) as f64 / all as f64;
    if !view.is_long() || lost < 0.05 || refused + expired < FEW_ATTEMPTS || !is_overloaded(view) {
        return;
    }
    let done = (all - refused - expired) as f64 / view.seconds;
    findings.push(Finding {
        bottleneck: "overload",
        subject: Subject::Engine,
        score: lost,
        evidence: evidence([
            ("refused with QUEUE_FULL", refused as f64, "requests"),
            ("expired", expired as f64, "requests"),
            ("requests that ended otherwise", done, "requests/s"),
            ("idle", view.idle_cores, "cores"),
        ]),
        explanation: format!(
            "More requests come than this machine can answer: {:.0} % are refused or expire, and it answers {done:.0} a \
             second.",
            100.0 * lost
        ),
        advice: "No setting helps: send less, use a smaller model or a faster machine, or set limits so that what is \
                 accepted is answered in time."
            .into(),
        change: Value::Null,
        figure: "rejected_share",
        expected: None,
    });
}
