//! Each rule with a picture that provokes it and one that nearly does; then what comes first.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::{Finding, Subject, advise, report};
use crate::profile::*;
use serde_json::{Value, json};

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

fn times(count: u64, each_ns: u64) -> Times {
    Times { count, sum_ns: count * each_ns, p50_ns: each_ns, p90_ns: each_ns, p99_ns: each_ns }
}

/// What a run takes.
fn run_ns(rows: u64) -> u64 {
    MS / 5 + rows * MS / 20
}

/// A model with 16,000 requests in 4 s, in batches of 8 of at most 64 rows.
fn model(name: &str) -> ModelPicture {
    ModelPicture {
        name: format!("{name}:1"),
        backend: "onnx".into(),
        settings: SettingsInForce {
            max_rows: 64,
            max_delay_us: 200,
            lanes: 1,
            intra_op_threads: 1,
            warmup: true,
            ..SettingsInForce::default()
        },
        joins: true,
        on_shared_threads: true,
        providers: vec!["cpu".into()],
        provider: "cpu".into(),
        ok: 16_000,
        batches: 2000,
        rows: 16_000,
        rows_per_batch: Spread { mean: 8.0, p50: 8, p90: 12, max: 20 },
        input_bytes: 16_000 * 256,
        total: times(16_000, 5 * MS / 4),
        queued: times(16_000, MS / 2),
        computed: times(2000, run_ns(8)),
        queue_depth: 0.5,
        run_costs: [1, 2, 4, 8, 16, 32, 64].map(|rows| (rows, run_ns(u64::from(rows)))).to_vec(),
        memory_bytes: 10 * MIB,
        ..ModelPicture::default()
    }
}

fn healthy() -> Picture {
    Picture {
        seconds: 4.0,
        cores: 4,
        threads: 4,
        process_cpu_seconds: 4.0,
        machine_idle_cores: Some(2.9),
        models: vec![model("m")],
        in_flight: 3.0,
        events_waiting: 0.1,
        places_taken: 3.0,
        places: 65_536,
        ..Picture::default()
    }
}

/// A healthy picture with something changed.
fn with(change: impl FnOnce(&mut Picture)) -> Picture {
    let mut picture = healthy();
    change(&mut picture);
    picture
}

/// The same, with something changed in its model.
fn with_model(change: impl FnOnce(&mut ModelPicture)) -> Picture {
    with(|picture| change(&mut picture.models[0]))
}

fn names(picture: &Picture) -> Vec<&'static str> {
    advise(picture).iter().map(|finding| finding.bottleneck).collect()
}

fn first(picture: &Picture) -> Finding {
    advise(picture).into_iter().next().expect("something is found")
}

/// So many rows at most, all batches full, the lane always busy, and as many requests in flight.
fn full(model: &mut ModelPicture, max_rows: u32, waiting: f64) {
    let run_ns = run_ns(max_rows.into());
    model.settings.max_rows = max_rows;
    model.run_costs.retain(|(rows, _)| *rows <= max_rows);
    model.rows_per_batch = Spread {
        mean: f64::from(max_rows),
        p50: max_rows.into(),
        p90: max_rows.into(),
        max: max_rows.into(),
    };
    model.batches = 3_900 * MS / run_ns;
    model.rows = model.batches * u64::from(max_rows);
    model.ok = model.rows;
    model.computed = times(model.batches, run_ns);
    model.queue_depth = waiting;
    model.total = times(model.ok, 20 * MS);
    model.queued = times(model.ok, 17 * MS);
}

#[test]
fn nothing_is_found_in_what_is_healthy_empty_or_too_little_to_tell() {
    assert_eq!(names(&healthy()), [] as [&str; 0]);
    assert_eq!(names(&Picture::default()), [] as [&str; 0]);
    let mut few = with_model(|model| full(model, 4, 250.0));
    assert!(!names(&few).is_empty());
    few.models[0].ok = 20;
    assert_eq!(names(&few), [] as [&str; 0]);
    let mut short = with_model(|model| full(model, 4, 250.0));
    short.seconds = 0.01;
    assert_eq!(names(&short), [] as [&str; 0]);
}

#[test]
fn batches_that_are_too_small() {
    let small = with_model(|model| full(model, 4, 252.0));
    let finding = first(&small);
    assert_eq!(finding.bottleneck, "batch_too_small");
    assert_eq!(finding.subject, Subject::Model("m:1".into()));
    assert_eq!(finding.change, json!({"model": "m:1", "batching": {"max_rows": 64}}));
    let expected = finding.expected.unwrap();
    // 0.4 ms for 4 rows against 3.4 ms for 64.
    let times = expected.to / expected.from;
    assert!((1.7..1.9).contains(&times), "{times}");
    assert!(finding.score > 0.4 && finding.figure == "throughput_rows_per_s");

    // Nobody waits; batches are not full; the lane has time; a larger run is not cheaper.
    assert_eq!(names(&with_model(|model| full(model, 4, 1.0))), [] as [&str; 0]);
    let half = with_model(|model| {
        full(model, 4, 252.0);
        model.rows_per_batch.p50 = 2;
    });
    assert!(!names(&half).contains(&"batch_too_small"));
    let idle = with_model(|model| {
        full(model, 4, 252.0);
        model.computed.sum_ns /= 4;
    });
    assert!(!names(&idle).contains(&"batch_too_small"));
    let dear = with_model(|model| {
        full(model, 4, 252.0);
        model.run_costs = [1, 2, 4].map(|rows| (rows, u64::from(rows) * MS / 2)).to_vec();
    });
    assert!(!names(&dear).contains(&"batch_too_small"));
}

#[test]
fn a_larger_batch_keeps_the_buckets_valid() {
    let picture = with_model(|model| {
        full(model, 4, 60.0);
        model.settings.buckets = vec![1, 4];
    });
    let expected = json!({"model": "m:1", "batching": {"max_rows": 64, "buckets": [1, 4, 64]}});
    assert_eq!(first(&picture).change, expected);
}

#[test]
fn requests_that_are_not_joined() {
    let alone = |because: &str, depth: f64| {
        with_model(|model| {
            full(model, 1, depth);
            (model.joins, model.not_joined_because) = (false, Some(because.into()));
        })
    };
    let finding = first(&alone("batching.max_rows is 1", 30.0));
    assert_eq!(finding.bottleneck, "not_batched");
    assert_eq!(finding.change, json!({"model": "m:1", "batching": {"max_rows": 32}}));
    let mut fixed = alone("the first axis is fixed", 30.0);
    fixed.models[0].settings.max_rows = 64;
    let finding = first(&fixed);
    assert_eq!((finding.bottleneck, finding.change), ("not_batched", Value::Null));
    assert!(finding.explanation.contains("the first axis is fixed"));
    assert!(!names(&alone("batching.max_rows is 1", 1.0)).contains(&"not_batched"));
}

#[test]
fn batches_that_are_held_open_past_deadlines() {
    let held = |expired: u64, held_ns: u64| {
        with_model(|model| {
            model.settings.max_delay_us = 50_000;
            model.expired = expired;
            model.patience = times(16_000, 15 * MS);
            model.held = times(2000, held_ns);
            model.total = times(16_000, 2 * MS + held_ns);
        })
    };
    let finding = first(&held(2400, 10 * MS));
    assert_eq!((finding.bottleneck, finding.figure), ("delay_too_long", "expired_share"));
    assert_eq!(finding.change, json!({"model": "m:1", "batching": {"max_delay_us": 1000}}));
    // It is not the wait; none expire.
    assert_eq!(names(&held(2400, MS / 10)), [] as [&str; 0]);
    assert_eq!(names(&with_model(|model| model.held = times(2000, MS / 10))), [] as [&str; 0]);

    // Without deadlines it is the part of the time that counts, unless the batches are the fuller for it.
    let drags = |rows| {
        with_model(|model| {
            model.held = times(2000, 6 * MS);
            model.total = times(16_000, 9 * MS);
            model.rows_per_batch.p50 = rows;
        })
    };
    let finding = first(&drags(8));
    assert_eq!((finding.bottleneck, finding.figure), ("delay_too_long", "request_mean_ns"));
    assert_eq!(names(&drags(60)), [] as [&str; 0]);
}

#[test]
fn runs_that_are_mostly_padding() {
    let padded = |percent: u64| {
        with_model(|model| {
            model.settings.buckets = vec![64];
            model.rows_per_batch = Spread { mean: 6.0, p50: 6, p90: 12, max: 14 };
            model.input_bytes = 1_000_000;
            model.padding_bytes = percent * 10_000;
        })
    };
    let finding = first(&padded(90));
    assert_eq!(finding.bottleneck, "padding_waste");
    let buckets = json!({"buckets": [1, 2, 4, 6, 8, 12, 16, 32, 64]});
    assert_eq!(finding.change, json!({"model": "m:1", "batching": buckets}));
    let expected = finding.expected.unwrap();
    assert!(expected.to < 0.5 * expected.from);
    assert_eq!(names(&padded(20)), [] as [&str; 0]);

    let mut axes = padded(90);
    axes.models[0].settings.buckets.clear();
    axes.models[0].settings.axes = vec![("sequence".into(), vec![8])];
    let change = json!({"axes": {"sequence": {"buckets": [1, 2, 4, 8]}}});
    assert_eq!(first(&axes).change["batching"], change);
}

#[test]
fn lanes_that_are_always_busy_while_cores_idle() {
    let saturated = |change: fn(&mut Picture)| {
        with(|picture| {
            full(&mut picture.models[0], 64, 200.0);
            change(picture);
        })
    };
    let finding = first(&saturated(|_| ()));
    assert_eq!(finding.bottleneck, "lane_saturated");
    assert_eq!(finding.change, json!({"model": "m:1", "lanes": 4}));

    let finding = first(&saturated(|picture| picture.threads = 1));
    assert_eq!(finding.change, json!({"engine": {"threads": 3}}));
    let elsewhere = first(&saturated(|picture| {
        (picture.models[0].on_shared_threads, picture.models[0].backend) = (false, "mock".into());
    }));
    assert_eq!(elsewhere.change, json!({"model": "m:1", "lanes": 4}));

    // Cores are not idle, whoever uses them; nothing waits; there is a lane to spare; nobody but the host has threads.
    for nearly in [
        saturated(|picture| picture.process_cpu_seconds = 15.6),
        saturated(|picture| picture.machine_idle_cores = Some(0.1)),
        saturated(|picture| picture.models[0].queue_depth = 20.0),
        saturated(|picture| picture.models[0].settings.lanes = 2),
        saturated(|picture| picture.threads = 0),
    ] {
        assert_eq!(names(&nearly), [] as [&str; 0]);
    }
}

#[test]
fn more_threads_than_cores() {
    let threads = |intra_op: u32, cpu_seconds: f64| {
        with(|picture| {
            picture.process_cpu_seconds = cpu_seconds;
            picture.models[0].settings.lanes = 4;
            picture.models[0].settings.intra_op_threads = intra_op;
            picture.intra_op_threads = intra_op;
            picture.models[0].computed.sum_ns *= 12;
        })
    };
    let finding = first(&threads(8, 15.0));
    assert_eq!(finding.bottleneck, "intra_op_oversubscribed");
    assert_eq!(finding.change, json!({"engine": {"onnxruntime": {"intra_op_threads": 1}}}));
    let mut own = threads(8, 15.0);
    own.intra_op_threads = 1;
    assert_eq!(first(&own).change, json!({"model": "m:1", "intra_op_threads": 1}));
    assert!(!names(&threads(1, 15.0)).contains(&"intra_op_oversubscribed"));
    assert!(!names(&threads(8, 2.0)).contains(&"intra_op_oversubscribed"));
}

#[test]
fn a_provider_that_cannot_be_used_needs_no_traffic() {
    let picture = with_model(|model| {
        *model = ModelPicture { name: "m:1".into(), provider: "cpu".into(), ..ModelPicture::default() };
        model.providers_rejected = vec![("cuda".into(), "not in this library".into())];
    });
    let finding = first(&picture);
    assert_eq!(finding.bottleneck, "provider_fell_back");
    assert_eq!((finding.change, finding.expected), (Value::Null, None));
    assert!(finding.explanation.contains("cuda") && finding.explanation.ends_with("not in this library."));
}

#[test]
fn an_operator_that_takes_most_of_the_time() {
    let operators = |share: f64, mean_ns: f64, idle: f64| {
        with(|picture| {
            picture.machine_idle_cores = Some(idle);
            picture.models[0].total = times(16_000, 7 * MS / 10);
            let operator = |name: &str, share| OperatorShare {
                name: name.into(),
                kind: "MatMul".into(),
                provider: "cpu".into(),
                share,
                mean_ns,
            };
            picture.models[0].operators = vec![operator("/fc2/MatMul", share), operator("/fc1/MatMul", 0.2)];
        })
    };
    let finding = first(&operators(0.8, 1.5e6, 2.9));
    assert_eq!(finding.bottleneck, "dominant_operator");
    assert_eq!(finding.evidence[0].figure, "/fc2/MatMul");
    assert_eq!(finding.change, json!({"model": "m:1", "intra_op_threads": 3}));
    assert_eq!(first(&operators(0.8, 1.5e6, 0.2)).change, Value::Null);
    assert_eq!(first(&operators(0.8, 5e3, 2.9)).change, Value::Null);
    assert_eq!(names(&operators(0.3, 1.5e6, 2.9)), [] as [&str; 0]);
}

#[test]
fn first_runs_that_nobody_made_at_load() {
    let cold = |warmup: bool, p90_ns: u64| {
        with_model(|model| {
            model.settings.warmup = warmup;
            model.computed.sum_ns += 3000 * MS;
            model.computed.p90_ns = p90_ns;
            model.total.sum_ns += 3000 * MS;
        })
    };
    let finding = first(&cold(false, MS));
    assert_eq!(finding.bottleneck, "warmup_missing");
    assert_eq!(finding.change, json!({"model": "m:1", "warmup": true}));
    assert_eq!(names(&cold(true, MS)), [] as [&str; 0]);
    assert_eq!(names(&cold(false, 20 * MS)), [] as [&str; 0]); // it is always uneven
}

/// Two models that have come back so often, each time within 50 ms.
fn coming_back(reloads: u64, budget_mib: u64) -> Picture {
    with(|picture| {
        picture.models.push(model("n"));
        picture.events_waiting = 0.0;
        for model in &mut picture.models {
            (model.ok, model.misses, model.reloads) = (100, reloads, reloads);
            model.reload_seconds = 0.05 * reloads as f64;
            model.total = times(100, 3 * MS);
            model.total.sum_ns += 50 * reloads * MS;
            model.queued.sum_ns = 50 * reloads * MS;
        }
        picture.memory = MemoryPicture {
            budget_bytes: Some(budget_mib * MIB),
            used_bytes: 15 * MIB,
            models_bytes: 15 * MIB,
            wanted_bytes: 20 * MIB,
            evictions: 2 * reloads,
            reloads: 2 * reloads,
            misses: 2 * reloads,
            ..MemoryPicture::default()
        };
    })
}

#[test]
fn models_that_push_each_other_out() {
    let finding = first(&coming_back(30, 15));
    assert_eq!((finding.bottleneck, finding.subject), ("memory_thrash", Subject::Engine));
    let budget = finding.change["engine"]["memory"]["budget_bytes"].as_u64().unwrap();
    assert!((20 * MIB..64 * MIB).contains(&budget), "{budget}");
    let expected = finding.expected.unwrap();
    assert!(expected.from > 4.0 * expected.to && expected.to > 1e6);

    let finding = first(&coming_back(2, 15));
    assert_eq!(finding.bottleneck, "cold_loads");
    // Not for want of budget: it is to stay.
    assert_eq!(first(&coming_back(2, 500)).change["pinned"], true);
    assert_eq!(names(&coming_back(0, 15)), [] as [&str; 0]);
    let mut quick = coming_back(2, 15);
    quick.models.iter_mut().for_each(|model| model.reload_seconds = 0.0005);
    assert_eq!(names(&quick), [] as [&str; 0]);
}

#[test]
fn a_host_that_takes_events_late() {
    // 4000 requests a second, each waiting for 20 ms.
    let finding = first(&with(|picture| picture.events_waiting = 80.0));
    assert_eq!((finding.bottleneck, finding.subject), ("slow_consumer", Subject::Host));
    assert_eq!(finding.change, json!({"host": {"collect": "wait"}}));
    assert_eq!(finding.expected.unwrap().from, 21.25 * MS as f64);
    assert_eq!(names(&with(|picture| picture.events_waiting = 1.0)), [] as [&str; 0]);
    // Many events wait, but each for a moment.
    let fast = with(|picture| {
        picture.events_waiting = 100.0;
        picture.models[0].ok = 8_000_000;
        picture.models[0].total = times(8_000_000, MS / 100);
    });
    assert_eq!(names(&fast), [] as [&str; 0]);
}

fn route(strategy: &str, change: impl FnOnce(&mut Vec<TargetPicture>)) -> Picture {
    with(|picture| {
        let target = |name: &str| TargetPicture {
            name: name.into(),
            ok: 1000,
            times: times(1000, 2 * MS),
            ..TargetPicture::default()
        };
        let mut targets = vec![target("a"), target("b"), target("c")];
        change(&mut targets);
        picture.routes = vec![RoutePicture {
            name: "r".into(),
            strategy: strategy.into(),
            targets,
            ..RoutePicture::default()
        }];
    })
}

#[test]
fn one_target_that_spoils_a_route() {
    let failing = |failed: u64| {
        route("round_robin", |targets| (targets[1].ok, targets[1].failed) = (1000 - failed, failed))
    };
    let finding = first(&failing(500));
    assert_eq!(finding.bottleneck, "poisoned_target");
    assert_eq!(finding.subject, Subject::Target("r".into(), "b".into()));
    assert_eq!(finding.change, json!({"route": "r", "remove_targets": ["b"]}));
    assert_eq!(names(&failing(10)), [] as [&str; 0]);
    // All fail alike: it is not the target.
    let alike = route("round_robin", |targets| {
        targets.iter_mut().for_each(|target| (target.ok, target.failed) = (500, 500));
    });
    assert_eq!(names(&alike), [] as [&str; 0]);

    let slow = |strategy: &str, ms: u64| route(strategy, |targets| targets[2].times = times(1000, ms * MS));
    let finding = first(&slow("round_robin", 10));
    assert_eq!(finding.change, json!({"route": "r", "strategy": "least_response_time"}));
    assert!((finding.score - (1.0 - 6.0 / 14.0)).abs() < 0.01);
    assert_eq!(first(&slow("adaptive", 10)).change, json!({"route": "r", "remove_targets": ["c"]}));
    assert_eq!(names(&slow("round_robin", 4)), [] as [&str; 0]);
    // The strategy has found out.
    let seldom = route("adaptive", |targets| targets[2].times = times(50, 10 * MS));
    assert_eq!(names(&seldom), [] as [&str; 0]);
}

#[test]
fn a_model_that_fails() {
    let failing = |failed| with_model(|model| model.failed = failed);
    let finding = first(&failing(4000));
    assert_eq!((finding.bottleneck, finding.expected.unwrap().from), ("failing_model", 0.2));
    assert_eq!(names(&failing(4)), [] as [&str; 0]);
}

#[test]
fn refused_submits() {
    let refused = |reason: &'static str, taken: f64| {
        with(|picture| {
            picture.rejected = vec![(reason, 16_000)];
            (picture.places, picture.places_taken) = (32, taken);
        })
    };
    let finding = first(&refused("queue_full", 20.0));
    assert_eq!((finding.bottleneck, finding.expected.unwrap().from), ("queue_capacity", 0.5));
    assert_eq!(finding.change, json!({"engine": {"queue": {"capacity": 128}}}));
    assert_eq!(names(&refused("rate_limited", 20.0)), [] as [&str; 0]);
    assert_eq!(names(&refused("queue_full", 0.5)), [] as [&str; 0]); // some completion queue was full
}

#[test]
fn more_than_the_machine_can_do() {
    let overloaded = |expired: u64| {
        with(|picture| {
            full(&mut picture.models[0], 64, 600.0);
            picture.models[0].expired = expired;
            picture.process_cpu_seconds = 16.0;
        })
    };
    let finding = first(&overloaded(60_000));
    assert_eq!((finding.bottleneck, finding.change), ("overload", Value::Null));
    assert_eq!(names(&overloaded(60)), [] as [&str; 0]);
    // As long as there is something to do about it, that is said instead.
    let mut small = overloaded(60_000);
    full(&mut small.models[0], 4, 600.0);
    assert_eq!(names(&small), ["batch_too_small"]);
}

#[test]
fn causes_come_before_their_symptoms() {
    // Small batches keep the lane busy while cores are idle.
    let small = with_model(|model| full(model, 4, 252.0));
    assert_eq!(names(&small), ["batch_too_small", "lane_saturated"]);
    let scores: Vec<f64> = advise(&small).iter().map(|finding| finding.score).collect();
    assert!(scores[0] > 2.5 * scores[1], "{scores:?}");

    // A target's model fails because of what is wrong with it, whatever uses it.
    let mut route = route("round_robin", |targets| (targets[1].ok, targets[1].failed) = (500, 500));
    route.models[0].failed = 2000;
    assert_eq!(names(&route)[0], "poisoned_target");

    // Another model's batches explain nothing.
    let two = with(|picture| {
        full(&mut picture.models[0], 4, 252.0);
        picture.models.push(model("n"));
        full(&mut picture.models[1], 64, 200.0);
    });
    let lanes: Vec<(String, f64)> = advise(&two)
        .iter()
        .filter(|finding| finding.bottleneck == "lane_saturated")
        .map(|finding| (format!("{:?}", finding.subject), finding.score))
        .collect();
    assert!(
        lanes[0].0.contains("n:1") && lanes[0].1 > 3.0 * lanes.get(1).map_or(0.0, |lane| lane.1),
        "{lanes:?}"
    );
}

#[test]
fn findings_are_ranked_by_what_they_would_win() {
    let both = with(|picture| {
        picture.models.push(model("n"));
        picture.models[1].failed = 3000;
        full(&mut picture.models[0], 4, 252.0);
    });
    let findings = advise(&both);
    assert!(findings.windows(2).all(|pair| pair[0].score >= pair[1].score));
    assert_eq!(findings[0].bottleneck, "batch_too_small");
    assert!(findings.iter().any(|finding| finding.bottleneck == "failing_model"));
    assert!(findings.iter().all(|finding| (0.0..=1.0).contains(&finding.score)));
}

#[test]
fn the_report_is_plain_json() {
    let report = report(&with_model(|model| full(model, 4, 252.0)));
    assert_eq!(report["window_seconds"], 4.0);
    let finding = &report["findings"][0];
    assert_eq!(finding["subject"], json!({"kind": "model", "name": "m:1"}));
    assert_eq!(finding["evidence"][0], json!({"figure": "max_rows", "value": 4.0, "unit": "rows"}));
    assert_eq!(finding["expected"]["unit"], "rows/s");
    let target = super::report(&route("rr", |targets| targets[2].times = times(1000, 20 * MS)));
    assert_eq!(target["findings"][0]["subject"], json!({"kind": "target", "name": ["r", "c"]}));
    assert_eq!(super::report(&Picture::default()), json!({"window_seconds": 0.0, "findings": []}));
}
