//! Loads that are cancelled at any moment: each ends once, and nothing stays behind.

use crate::abi::{Ended, Engine, Queue, Request, must};
use crate::evictions::tiny_before;
use crate::mlp::{Mlp, Random};
use crate::process::{mb_between, resident};
use crate::report::Goal;
use crate::{Bench, number};
use blaze::ffi::status::{BLAZE_STATUS_CANCELLED, BLAZE_STATUS_OK};
use serde_json::{Value, json};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long anything may take to come to its end.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn measure(bench: &mut Bench) {
    let Some(found) = bench.child("cancel") else { return };
    let get = |key: &str| number(&found, key);
    let note = format!(
        "{} loads of {:.0} ms: {} cancelled, {} loaded; {}",
        get("loads"),
        get("load_ms"),
        get("cancelled"),
        get("ok"),
        found["other"].as_str().unwrap_or_default()
    );
    bench.add("cancel: loads without exactly one end".into(), get("odd"), Goal::Exactly(0.0), "", note);
    bench.add(
        "cancel: cancelled models that are found all the same".into(),
        get("ghosts"),
        Goal::Exactly(0.0),
        "",
        format!("gone at most {:.1} ms after the event", get("gone_ms")),
    );
    bench.add("cancel: wrong answers".into(), get("wrong"), Goal::Exactly(0.0), "", String::new());
    let note = format!("max {:.1} ms", get("notice_max_ms"));
    bench.add("cancel: blaze_cancel to its event, p50".into(), get("notice_p50_ms"), Goal::None, "ms", note);
    let note = format!("after {:.0} ms", get("empty_ms"));
    bench.add("cancel: left in the ledger".into(), get("ledger_bytes"), Goal::Exactly(0.0), "bytes", note);
    bench.add("cancel: left behind".into(), get("left_mb"), Goal::AtMost(10.0), "MB", String::new());
}

pub fn child(quick: bool) -> Value {
    let model = Mlp::of_20_mb(1, false);
    let (config, known) = (json!({"name": "m", "path": model.file()}), model.known(0));
    tiny_before(&json!({}));
    let engine = Engine::new(&json!({}));
    let mut queue = Queue::new(&engine, 64);
    // Half of the loads are cancelled within the 60 ms, the others at any time until they would be over.
    let since = Instant::now();
    must("blaze_model_unload", engine.unload(must("blaze_model_load", engine.load(&config))));
    let load_us = since.elapsed().as_micros() as usize * 5 / 4;
    let before = resident();
    let loads = if quick { 50 } else { 500 };
    let mut random = Random::new(77);
    let (mut cancelled, mut ok, mut odd, mut ghosts, mut wrong) = (0, 0, 0, 0, 0);
    let (mut notices, mut gone_ms, mut other) = (Vec::new(), 0.0_f64, String::new());
    for number in 0..loads {
        let ticket = must("blaze_model_load_async", queue.load_async(&config, number));
        let delay_us = random.below(if number % 4 < 2 { 60_000 } else { load_us });
        sleep(Duration::from_micros(delay_us as u64));
        let asked = Instant::now();
        engine.cancel(ticket);
        let mut ended: Vec<Ended> = Vec::new();
        while ended.is_empty() && asked.elapsed() < PATIENCE {
            queue.wait(10_000_000, |event| ended.push(event));
        }
        notices.push(asked.elapsed().as_secs_f64() * 1e3);
        // Another one would be one too many; every tenth time it is waited for.
        queue.wait(if number % 10 == 0 { 20_000_000 } else { 0 }, |event| ended.push(event));
        let expected =
            |event: &Ended| event.is_terminal && event.ticket == ticket && event.user_data == number;
        if ended.len() != 1 || !ended.iter().all(expected) {
            odd += 1;
            other = format!("load {number} has had {} events", ended.len());
            continue;
        }
        match ended[0].status {
            BLAZE_STATUS_OK => {
                ok += 1;
                let model = ended[0].model;
                match engine.infer(&Request::new(model, &known)) {
                    Ok(output) if known.is_right(&output) => (),
                    _ => wrong += 1,
                }
                must("blaze_model_unload", engine.unload(model));
            }
            BLAZE_STATUS_CANCELLED => {
                cancelled += 1;
                // The others run into the next load of the same name.
                if number % 2 == 0 {
                    let since = Instant::now();
                    while engine.find("m").is_ok() && since.elapsed() < PATIENCE {
                        sleep(Duration::from_micros(100));
                    }
                    gone_ms = gone_ms.max(since.elapsed().as_secs_f64() * 1e3);
                    // What comes late would come within this time.
                    sleep(Duration::from_millis(if number % 20 == 0 { 50 } else { 0 }));
                    if let Ok(model) = engine.find("m") {
                        ghosts += 1;
                        let _ = engine.unload(model);
                    }
                }
            }
            status => {
                odd += 1;
                other = format!("load {number} has ended with {status}: {}", ended[0].text);
            }
        }
    }
    let since = Instant::now();
    loop {
        engine.trim();
        if engine.used_bytes() == 0 || since.elapsed() > PATIENCE {
            break;
        }
        sleep(Duration::from_millis(1));
    }
    let empty_ms = since.elapsed().as_secs_f64() * 1e3;
    notices.sort_by(f64::total_cmp);
    let late = queue.wait(100_000_000, |_| ());
    if engine.find("m").is_ok() {
        ghosts += 1;
    }
    engine.trim();
    json!({
        "loads": loads, "cancelled": cancelled, "ok": ok, "odd": odd + late, "ghosts": ghosts, "wrong": wrong,
        "other": other,
        "load_ms": load_us as f64 / 1250.0,
        "gone_ms": gone_ms,
        "notice_p50_ms": notices[notices.len() / 2],
        "notice_max_ms": notices[notices.len() - 1],
        "empty_ms": empty_ms,
        "ledger_bytes": engine.used_bytes(),
        "left_mb": mb_between(before, resident()),
    })
}
