//! Routes: who gets requests, what becomes of those that a target fails, and what the host sees of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::config::{RouteConfig, TargetConfig};
use blaze::engine::{Engine, ModelId, OutputBuffer, OutputData, RequestDescription};
use blaze::error::Status;
use blaze::tensor::{CallerBuffer, DType};
use common::{A_MINUTE, Answer, Tensor, engine, f32s, load_json, must_end, next_event, request};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A switch for faults: they strike while it is on.
struct Switch(tempfile::TempDir);

impl Switch {
    fn new() -> Self {
        Switch(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("on")
    }

    fn on(&self) {
        std::fs::write(self.path(), "").unwrap();
    }

    fn off(&self) {
        std::fs::remove_file(self.path()).unwrap();
    }

    fn fault(&self, kind: &str) -> Value {
        json!({"kind": kind, "while_exists": self.path()})
    }
}

fn mock(engine: &Engine, name: &str, mock: Value) -> ModelId {
    load_json(engine, json!({"name": name, "backend": "mock", "mock": mock})).unwrap()
}

/// An engine with models "a", "b", …, of which the first has the fault.
fn engine_with(config: Value, count: usize, fault: Value) -> (Engine, Vec<ModelId>) {
    let engine = engine(config);
    let models = (0..count)
        .map(|index| {
            let faults = if index == 0 && !fault.is_null() { json!([fault]) } else { json!([]) };
            mock(&engine, &name(index), json!({ "faults": faults }))
        })
        .collect();
    (engine, models)
}

fn name(index: usize) -> String {
    char::from(b'a' + index as u8).to_string()
}

/// A route to the first `count` models.
fn route(engine: &Engine, count: usize, more: Value) -> ModelId {
    let targets: Vec<Value> = (0..count).map(|index| json!({"model": name(index)})).collect();
    let mut config = json!({"name": "route", "targets": targets});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    engine.create_route(RouteConfig::from_json(&config.to_string()).unwrap()).unwrap()
}

fn info(engine: &Engine, route: ModelId) -> Value {
    serde_json::from_str(&engine.route_info(route).unwrap()).unwrap()
}

fn row() -> Vec<Tensor> {
    vec![f32s(&[1, 4], &[1.0, 2.0, 3.0, 4.0])]
}

/// Sends requests one after the other; returns the answers.
fn send(engine: &Engine, route: ModelId, count: usize) -> Vec<Answer> {
    let (queue, inputs) = (engine.create_queue(4).unwrap(), row());
    (0..count)
        .map(|_| {
            engine.submit(request(route, &inputs), &queue).unwrap();
            next_event(&queue)
        })
        .collect()
}

fn by_model(answers: &[Answer]) -> HashMap<ModelId, usize> {
    let mut counts = HashMap::new();
    answers.iter().for_each(|answer| *counts.entry(answer.model).or_insert(0) += 1);
    counts
}

/// Everything is given back that was taken.
fn assert_at_rest(engine: &Engine, route: ModelId) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let info = info(engine, route);
        let idle = info["targets"].as_array().unwrap().iter().all(|target| target["in_flight"] == 0);
        if idle && info["waiting"] == 0 && info["in_use"] == 0 {
            return;
        }
        assert!(Instant::now() < until, "{info:#}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `done`, for at most a minute.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn requests_are_spread_and_events_name_the_model() {
    let (engine, models) = engine_with(json!({}), 4, Value::Null);
    let id = route(&engine, 4, json!({}));
    assert_eq!(engine.find("route").unwrap(), id);
    let counts = by_model(&send(&engine, id, 40));
    let even = models.iter().all(|model| counts[model] == 10);
    assert!(even, "{counts:?} {:#}", info(&engine, id));
    for _ in 0..8 {
        let event = engine.infer(request(id, &row()), A_MINUTE).unwrap();
        assert!(models.contains(&event.model));
    }
    assert_at_rest(&engine, id);
    let info = info(&engine, id);
    assert_eq!(info["targets"][0]["succeeded"], 12);
    assert_eq!(info["inputs"][0]["dtype"], "f32");
}

#[test]
fn a_failing_target_costs_no_request() {
    for config in [json!({}), json!({"threads": 0})] {
        let switch = Switch::new();
        let (engine, models) = engine_with(config, 4, switch.fault("error"));
        let id = route(&engine, 4, json!({}));
        switch.on();
        let answers = send(&engine, id, 100);
        for answer in &answers {
            assert_eq!(answer.status, Status::Ok, "{answer:?}");
            assert_eq!(answer.outputs[0].f32s(), [3.0, 5.0, 7.0, 9.0]);
            assert_ne!(answer.model, models[0]);
        }
        let broken = info(&engine, id);
        assert!(broken["targets"][0]["breaker"]["opened"].as_u64().unwrap() > 0, "{broken:#}");
        assert!(broken["failovers"].as_u64().unwrap() >= 5);
        let metrics: serde_json::Value = serde_json::from_str(&engine.metrics_json()).unwrap();
        let outcomes = json!({"ok": 100, "failed": 0, "cancelled": 0, "expired": 0, "shut_down": 0});
        assert_eq!(metrics["routes"][0]["outcomes"], outcomes, "failed attempts are not failed requests");
        switch.off();
        wait_until("it comes back", || {
            send(&engine, id, 8);
            info(&engine, id)["targets"][0]["breaker"]["state"] == "closed"
        });
        assert_at_rest(&engine, id);
        assert!(by_model(&send(&engine, id, 40))[&models[0]] == 10);
    }
}

#[test]
fn failing_runs_of_many_requests_are_answered_elsewhere() {
    for kind in ["error", "device_lost", "panic", "out_of_memory"] {
        let switch = Switch::new();
        let (engine, _) = engine_with(json!({}), 3, switch.fault(kind));
        let id = route(&engine, 3, json!({"retry": {"budget": 1.0}}));
        switch.on();
        let (queue, inputs) = (engine.create_queue(1000).unwrap(), row());
        for number in 0..300 {
            engine.submit(RequestDescription { user_data: number, ..request(id, &inputs) }, &queue).unwrap();
        }
        let mut seen = vec![false; 300];
        for _ in 0..300 {
            let answer = next_event(&queue);
            assert_eq!(answer.status, Status::Ok, "{kind}: {answer:?}");
            assert_eq!(answer.outputs[0].f32s(), [3.0, 5.0, 7.0, 9.0]);
            assert!(!std::mem::replace(&mut seen[answer.user_data as usize], true));
        }
        assert_at_rest(&engine, id);
    }
}

#[test]
#[allow(unsafe_code)]
fn an_answer_from_elsewhere_goes_to_the_callers_buffer_or_says_why_not() {
    let (engine, models) = engine_with(json!({}), 2, json!({"kind": "error"}));
    let id = route(&engine, 2, json!({"breaker": {"enabled": false}}));
    let (queue, inputs) = (engine.create_queue(4).unwrap(), row());
    for size in [16, 8] {
        for _ in 0..4 {
            let mut memory = [0f32; 4];
            // SAFETY: the memory outlives the request.
            let buffer = unsafe { CallerBuffer::new(memory.as_mut_ptr().cast(), size) };
            let mut description = request(id, &inputs);
            description.outputs.push(OutputBuffer {
                name: None,
                dtype: DType::F32,
                data: OutputData::Host(buffer),
            });
            engine.submit(description, &queue).unwrap();
            let answer = next_event(&queue);
            if size == 16 {
                assert_eq!((answer.status, answer.model), (Status::Ok, models[1]), "{answer:?}");
                assert_eq!(memory, [3.0, 5.0, 7.0, 9.0]);
                assert_eq!(answer.outputs[0].f32s(), memory);
            } else {
                assert_eq!(answer.status, Status::BufferTooSmall);
                let text = answer.text.unwrap();
                assert!(text.contains("output \"y\" has 16 bytes, the buffer given for it 8"), "{text}");
            }
        }
    }
    assert_at_rest(&engine, id);
}

#[test]
fn a_hanging_target_is_noticed_and_left_alone() {
    must_end("a hanging target", || {
        let switch = Switch::new();
        let (engine, models) = engine_with(json!({}), 3, switch.fault("hang"));
        let id = route(&engine, 3, json!({"retry": {"attempt_timeout_ms": 20}}));
        switch.on();
        let answers = send(&engine, id, 100);
        assert!(answers.iter().all(|answer| answer.status == Status::Ok && answer.model != models[0]));
        assert!(info(&engine, id)["timeouts"].as_u64().unwrap() >= 1);
        for _ in 0..20 {
            engine.infer(request(id, &row()), A_MINUTE).unwrap();
        }
        switch.off();
        assert_at_rest(&engine, id);
    });
}

#[test]
fn requests_fail_with_the_reason_when_every_target_does() {
    let engine = engine(json!({}));
    let fault = json!({"faults": [{"kind": "error"}]});
    for index in 0..3 {
        mock(&engine, &name(index), fault.clone());
    }
    let id = route(&engine, 3, json!({}));
    let answers = send(&engine, id, 30);
    for answer in &answers {
        assert_eq!(answer.status, Status::BackendFailed);
        assert!(answer.text.as_deref().unwrap().starts_with("injected fault in run"));
    }
    let error = engine.infer(request(id, &row()), A_MINUTE).err().unwrap();
    assert_eq!(error.status, Status::BackendFailed, "{error}");
    assert_at_rest(&engine, id);
    let metrics: Value = serde_json::from_str(&engine.metrics_json()).unwrap();
    assert_eq!(metrics["requests"]["outcomes"]["failed"], 31, "{metrics:#}");
    assert_eq!(metrics["requests"]["in_flight"], 0);
    assert!(info(&engine, id)["exhausted"].as_u64().unwrap() >= 30);
}

#[test]
fn cancelled_and_overdue_requests_end_at_once_and_leave_nothing() {
    must_end("cancelling", || {
        let fault = json!({"kind": "hang"});
        let (engine, _) = engine_with(json!({}), 1, fault);
        let id = route(&engine, 1, json!({}));
        let (queue, inputs) = (engine.create_queue(8).unwrap(), row());
        let ticket = engine.submit(request(id, &inputs), &queue).unwrap();
        engine.cancel(ticket).unwrap();
        assert_eq!(next_event(&queue).status, Status::Cancelled);
        let deadline_ns = blaze::clock::now_ns() + 5_000_000;
        engine.submit(RequestDescription { deadline_ns, ..request(id, &inputs) }, &queue).unwrap();
        assert_eq!(next_event(&queue).status, Status::Expired);
        let error = engine.infer(request(id, &inputs), 5_000_000).err().unwrap();
        assert_eq!(error.status, Status::Timeout);
        assert_at_rest(&engine, id);
    });
}

#[test]
fn a_hedge_answers_when_the_first_target_takes_long() {
    let (engine, models) = {
        let engine = engine(json!({}));
        let switch = json!({"latency_us": 200});
        let a = mock(
            &engine,
            "a",
            json!({"latency_us": 200, "faults": [{"kind": "slow", "after": 60, "latency_us": 3_000_000}]}),
        );
        let b = mock(&engine, "b", switch);
        (engine, [a, b])
    };
    let id = route(
        &engine,
        2,
        json!({"hedge": {"quantile": 0.9, "budget": 1.0}, "retry": {"attempt_timeout_ms": 0}, "breaker": {"enabled": false}}),
    );
    let started = Instant::now();
    let answers = send(&engine, id, 140);
    assert!(answers.iter().all(|answer| answer.status == Status::Ok));
    assert!(info(&engine, id)["hedges_won"].as_u64().unwrap() >= 5, "{:#}", info(&engine, id));
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(by_model(&answers)[&models[1]] > 70);
    assert_at_rest(&engine, id);
}

#[test]
fn routes_change_while_requests_go_through() {
    must_end("changing routes", || {
        let (engine, models) = engine_with(json!({}), 4, Value::Null);
        let id = route(&engine, 2, json!({}));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let answers = send(&engine, id, 2000);
                    assert!(answers.iter().all(|answer| answer.status == Status::Ok));
                });
            }
            for _ in 0..100 {
                engine
                    .add_target(id, TargetConfig::from_json(r#"{"model": "c", "weight": 2}"#).unwrap())
                    .unwrap();
                engine.drain_target(id, "a", true).unwrap();
                engine.remove_target(id, "c").unwrap();
                engine.drain_target(id, "a", false).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        assert_at_rest(&engine, id);
        engine.unload(models[0]).unwrap();
        assert_eq!(info(&engine, id)["targets"][0]["state"], "unbound");
        assert_eq!(by_model(&send(&engine, id, 10)), HashMap::from([(models[1], 10)]));
        let a = mock(&engine, "a", json!({}));
        assert_eq!(by_model(&send(&engine, id, 10))[&a], 5);
        engine.destroy_route(id).unwrap();
        let queue = engine.create_queue(1).unwrap();
        assert_eq!(engine.submit(request(id, &row()), &queue).unwrap_err().status, Status::NotFound);
        assert_eq!(engine.find("route").unwrap_err().status, Status::NotFound);
    });
}

#[test]
fn sessions_stick_to_their_target_until_it_is_ill() {
    let switch = Switch::new();
    let (engine, _) = engine_with(json!({}), 4, switch.fault("error"));
    let id = route(&engine, 4, json!({"sticky": {"enabled": true}, "breaker": {"slow_factor": 0.0}}));
    let ask = |session: u64| {
        let event = engine.infer(RequestDescription { session, ..request(id, &row()) }, A_MINUTE).unwrap();
        event.model
    };
    let homes: Vec<ModelId> = (1..=40).map(ask).collect();
    assert_eq!(by_model_of(&homes).len(), 4);
    assert_eq!((1..=40).map(ask).collect::<Vec<_>>(), homes, "{:#}", info(&engine, id));
    switch.on();
    let moved: Vec<ModelId> = (1..=40).map(ask).collect();
    let again: Vec<ModelId> = (1..=40).map(ask).collect();
    for (index, &home) in homes.iter().enumerate() {
        match home == engine.find("a").unwrap() {
            true => assert_ne!(moved[index], home),
            false => assert_eq!(moved[index], home),
        }
        assert_ne!(again[index], engine.find("a").unwrap());
    }
}

fn by_model_of(models: &[ModelId]) -> HashMap<ModelId, usize> {
    let mut counts = HashMap::new();
    models.iter().for_each(|model| *counts.entry(*model).or_insert(0) += 1);
    counts
}

#[test]
fn limits_refuse_and_say_when_to_come_back() {
    let (engine, _) = engine_with(
        json!({"tenants": {"list": [{"id": 7, "limits": {"requests_per_second": 10, "burst": 2}}]}}),
        2,
        Value::Null,
    );
    let id = route(&engine, 2, json!({"limits": {"rows_per_second": 100, "burst_rows": 5}}));
    let queue = engine.create_queue(100).unwrap();
    let inputs = row();
    let of_tenant = || RequestDescription { tenant: 7, ..request(id, &inputs) };
    engine.submit(of_tenant(), &queue).unwrap();
    engine.submit(of_tenant(), &queue).unwrap();
    let error = engine.submit(of_tenant(), &queue).unwrap_err();
    assert_eq!(error.status, Status::RateLimited);
    assert!((1..=100_000_000).contains(&error.retry_after_ns), "{error}");
    assert!(error.message.contains("tenant 7: requests_per_second"), "{error}");
    for _ in 0..3 {
        engine.submit(request(id, &inputs), &queue).unwrap();
    }
    let error = engine.submit(request(id, &inputs), &queue).unwrap_err();
    assert!(error.message.contains("route route: rows_per_second"), "{error}");
    for _ in 0..5 {
        assert_eq!(next_event(&queue).status, Status::Ok);
    }
    assert_at_rest(&engine, id);
    let metrics: Value = serde_json::from_str(&engine.metrics_json()).unwrap();
    assert_eq!(metrics["requests"]["rejected"]["rate_limited"], 2);
}

#[test]
fn requests_wait_for_their_turn_and_tenants_get_their_share() {
    let tenants = json!({"list": [{"id": 1, "weight": 1}, {"id": 2, "weight": 3}]});
    let engine = engine(json!({"tenants": tenants, "threads": 0}));
    mock(&engine, "a", json!({}));
    mock(&engine, "b", json!({}));
    let id = route(&engine, 2, json!({"limits": {"concurrency": 1, "waiting": 100}}));
    let queue = engine.create_queue(200).unwrap();
    let inputs = row();
    for number in 0..40 {
        for tenant in [1, 2] {
            let description =
                RequestDescription { tenant, user_data: tenant * 100 + number, ..request(id, &inputs) };
            engine.submit(description, &queue).unwrap();
        }
    }
    let order: Vec<u64> = (0..80)
        .map(|_| next_event(&queue))
        .map(|answer| {
            assert_eq!(answer.status, Status::Ok, "{answer:?}");
            assert_eq!(answer.outputs[0].f32s(), [3.0, 5.0, 7.0, 9.0]);
            answer.user_data / 100
        })
        .collect();
    let of_second = order[..40].iter().filter(|&&tenant| tenant == 2).count();
    assert!((28..=32).contains(&of_second), "{order:?}");
    assert_at_rest(&engine, id);
}

#[test]
fn a_model_that_has_lost_its_device_is_rebuilt() {
    must_end("rebuilding", || {
        let switch = Switch::new();
        let (engine, models) = engine_with(json!({}), 2, switch.fault("device_lost"));
        let id = route(&engine, 2, json!({}));
        switch.on();
        let answers = send(&engine, id, 20);
        assert!(answers.iter().all(|answer| answer.status == Status::Ok));
        switch.off();
        let health = || serde_json::from_str::<Value>(&engine.health_json()).unwrap();
        wait_until("it was rebuilt", || health()["models"][0]["rebuilt"].as_u64().unwrap() >= 1);
        wait_until("it works", || {
            send(&engine, id, 4);
            health()["models"][0]["state"] == "ready"
        });
        wait_until("it has requests again", || by_model(&send(&engine, id, 20)).contains_key(&models[0]));
    });
}

#[test]
fn nothing_is_lost_when_everything_goes_wrong_at_once() {
    must_end("the storm", || {
        let engine = engine(json!({}));
        let kinds = ["error", "panic", "hang", "slow"];
        for (index, kind) in kinds.into_iter().enumerate() {
            let fault = json!({"kind": kind, "share": 0.2, "latency_us": 2000});
            mock(&engine, &name(index), json!({"faults": [fault]}));
        }
        mock(&engine, "e", json!({}));
        let id = route(
            &engine,
            5,
            json!({"retry": {"attempt_timeout_ms": 10, "attempts": 4, "budget": 1.0}, "hedge": {"quantile": 0.9, "budget": 0.5},
                "limits": {"concurrency": 64, "waiting": 10_000}}),
        );
        std::thread::scope(|scope| {
            for thread in 0..3u64 {
                let engine = &engine;
                scope.spawn(move || {
                    let (queue, inputs) = (engine.create_queue(3000).unwrap(), row());
                    let mut random = common::Random::new(thread + 1);
                    for number in 0..1000 {
                        let mut description =
                            RequestDescription { user_data: number, ..request(id, &inputs) };
                        description.tenant = 1 + random.below(3);
                        if random.below(4) == 0 {
                            description.deadline_ns = blaze::clock::now_ns() + random.below(5_000_000);
                        }
                        let ticket = engine.submit(description, &queue).unwrap();
                        if random.below(8) == 0 {
                            let _ = engine.cancel(ticket);
                        }
                    }
                    let mut seen = vec![0; 1000];
                    for _ in 0..1000 {
                        let answer = next_event(&queue);
                        seen[answer.user_data as usize] += 1;
                        if answer.status == Status::Ok {
                            assert_eq!(answer.outputs[0].f32s(), [3.0, 5.0, 7.0, 9.0]);
                        }
                    }
                    assert!(seen.iter().all(|&count| count == 1));
                });
            }
        });
        assert_at_rest(&engine, id);
        assert_eq!(engine.health().in_flight, 0);
    });
}
