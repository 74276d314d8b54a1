//! Models that add up to four times the budget, asked at random: memory stays within the budget, answers stay right.

use crate::abi::{Engine, Request, must};
use crate::mlp::{Known, Mlp, Random};
use crate::process::{MB, Watch, mb_between, parts_mb, resident};
use crate::report::Goal;
use crate::{Bench, number};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

const MODELS: u64 = 20;
const BUDGET: u64 = 100_000_000;
const THREADS: u64 = 4;
/// Rows whose right answer is known, for each model.
const ROWS: u64 = 2;

pub fn measure(bench: &mut Bench) {
    for kind in ["inline", "external"] {
        let Some(found) = bench.child(&format!("evictions-{kind}")) else { continue };
        let get = |key: &str| number(&found, key);
        let name = |what: &str| format!("evictions, {kind} weights: {what}");
        let fixed = get("fixed_mb");
        let goal = Goal::AtMost(BUDGET as f64 * 1.15 / MB + fixed);
        let note = format!(
            "budget {} MB + 15 % + {fixed:.1} MB for one tiny model; VmHWM {:.1} MB; in the ledger at most {:.1} MB",
            BUDGET / 1_000_000,
            get("high_water_mb"),
            get("ledger_mb")
        );
        bench.add(name("most memory"), get("most_mb"), goal, "MB", note);
        let note = found["first_failure"].as_str().unwrap_or_default().to_owned();
        bench.add(name("failed requests"), get("failed"), Goal::Exactly(0.0), "", note);
        bench.add(name("wrong answers"), get("wrong"), Goal::Exactly(0.0), "", String::new());
        let note = format!("{} evictions, hit rate {:.0} %", get("evictions"), 100.0 * get("hit_rate"));
        bench.add(name("requests"), get("per_second"), Goal::None, "requests/s", note);
        let note = format!("p99 {:.1} ms, max {:.1} ms", get("reload_p99_ms"), get("reload_max_ms"));
        bench.add(name("reload, p50"), get("reload_p50_ms"), Goal::None, "ms", note);
        let note = format!("p99 {:.1} ms", get("request_p99_ms"));
        bench.add(name("blaze_infer, p50"), get("request_p50_ms"), Goal::None, "ms", note);
        let note = format!("{:.1} MB when the models were unloaded; {}", get("unloaded_mb"), found["parts"]);
        bench.add(name("left behind"), get("left_mb"), Goal::AtMost(10.0), "MB", note);
    }
}

/// Starts from what a process has that has run one tiny model, for ONNX Runtime's library stays.
pub fn tiny_before(config: &Value) -> (u64, u64) {
    let tiny = Mlp::new(&[4, 8, 2], 1);
    let (file, known) = (tiny.file(), tiny.known(0));
    let engine = Engine::new(config);
    let model = must("blaze_model_load", engine.load(&json!({"name": "tiny", "path": file})));
    let request = Request::new(model, &known);
    for _ in 0..10 {
        must("blaze_infer", engine.infer(&request));
    }
    let with_tiny = resident();
    must("blaze_model_unload", engine.unload(model));
    drop(engine);
    (with_tiny, resident())
}

struct Asked {
    request: Request,
    known: Known,
}

pub fn child(external: bool, quick: bool) -> Value {
    let models: Vec<Mlp> = (0..MODELS).map(|seed| Mlp::of_20_mb(seed + 1, external)).collect();
    let files: Vec<_> = models.iter().map(Mlp::file).collect();
    let rows: Vec<Vec<Known>> =
        models.iter().map(|model| (0..ROWS).map(|row| model.known(row)).collect()).collect();
    let before = resident();
    let (with_tiny, start) = tiny_before(&json!({}));

    let watch = Watch::start();
    let engine = Engine::new(&json!({"memory": {"budget_bytes": BUDGET}}));
    let mut handles = Vec::new();
    let mut asked: Vec<Vec<Asked>> = Vec::new();
    for (index, (file, rows)) in files.iter().zip(rows).enumerate() {
        let config = json!({"name": format!("m{index}"), "path": file});
        let model = must("blaze_model_load", engine.load(&config));
        handles.push(model);
        let asks = |known: Known| Asked { request: Request::new(model, &known), known };
        asked.push(rows.into_iter().map(asks).collect());
    }
    let loaded = engine.metrics();
    let (failed, wrong) = (AtomicU64::new(0), AtomicU64::new(0));
    let first = std::sync::Mutex::new(None::<String>);
    let (began, slice) = (Instant::now(), Duration::from_secs(if quick { 2 } else { 60 }));
    let most_counted = AtomicU64::new(0);
    let mut times: Vec<f64> = scope(|scope| {
        scope.spawn(|| {
            while began.elapsed() < slice {
                most_counted.fetch_max(engine.used_bytes(), Ordering::Relaxed);
                sleep(Duration::from_millis(5));
            }
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (engine, asked, failed, wrong, first) = (&engine, &asked, &failed, &wrong, &first);
                scope.spawn(move || {
                    let (mut random, mut times) = (Random::new(1000 + thread), Vec::new());
                    while began.elapsed() < slice {
                        let model = &asked[random.below(asked.len())];
                        let Asked { request, known } = &model[random.below(model.len())];
                        let asked_at = Instant::now();
                        match engine.infer(request) {
                            Ok(output) if known.is_right(&output) => (),
                            Ok(_) => _ = wrong.fetch_add(1, Ordering::Relaxed),
                            Err(failure) => {
                                failed.fetch_add(1, Ordering::Relaxed);
                                let text = format!("status {}: {}", failure.status, failure.reason);
                                first.lock().unwrap().get_or_insert(text);
                            }
                        }
                        times.push(asked_at.elapsed().as_secs_f64() * 1e3);
                    }
                    times
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    let (most, high_water) = watch.end();
    let metrics = engine.metrics();
    let since = |key: &str| metrics[key].as_f64().unwrap_or(0.0) - loaded[key].as_f64().unwrap_or(0.0);
    let reload = |key: &str| metrics["reload_ns"][key].as_f64().unwrap_or(0.0) / 1e6;
    let requests = times.len() as f64;
    times.sort_by(f64::total_cmp);
    let quantile = |share: f64| times[((requests - 1.0) * share) as usize];

    for model in handles {
        must("blaze_model_unload", engine.unload(model));
    }
    let unloaded = resident();
    drop(engine);
    json!({
        "fixed_mb": mb_between(before, with_tiny),
        "most_mb": mb_between(before, most),
        "high_water_mb": mb_between(before, high_water),
        "ledger_mb": most_counted.into_inner() as f64 / MB,
        "failed": failed.into_inner(),
        "wrong": wrong.into_inner(),
        "first_failure": first.into_inner().unwrap(),
        "per_second": requests / seconds,
        "hit_rate": 1.0 - since("model_misses") / requests,
        "evictions": since("evictions"),
        "reload_p50_ms": reload("p50"),
        "reload_p99_ms": reload("p99"),
        "reload_max_ms": reload("max"),
        "request_p50_ms": quantile(0.5),
        "request_p99_ms": quantile(0.99),
        "unloaded_mb": mb_between(start, unloaded),
        "left_mb": mb_between(start, resident()),
        "parts": format!("start {:.1} MB, end anonymous and file {:?} MB", start as f64 / MB, parts_mb()),
    })
}
