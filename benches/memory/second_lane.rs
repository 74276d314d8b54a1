//! A second lane, and a second name for the same file, take no second copy of the weights.

use crate::abi::{Engine, Request, fail, must};
use crate::evictions::tiny_before;
use crate::mlp::Mlp;
use crate::process::{MB, Watch, mb_between, resident};
use crate::report::Goal;
use crate::{Bench, number};
use serde_json::{Value, json};
use std::thread::scope;

const REQUESTS: usize = 200;
const THREADS: usize = 4;

pub fn measure(bench: &mut Bench) {
    let mut found = Vec::new();
    for part in ["one", "two", "names", "external"] {
        let Some(values) = bench.child(&format!("second_lane-{part}")) else { return };
        found.push(values);
    }
    let [one, two, names, external] = found.try_into().unwrap_or_else(|_| fail("all parts were run"));
    for (what, found) in [("one lane", &one), ("one lane, external weights", &external)] {
        let (file, most) = (number(found, "file_mb"), number(found, "most_mb"));
        let note = format!("the weights are {file:.1} MB; {most:.1} MB at most while it was loaded and ran");
        bench.add(format!("second_lane: {what}"), number(found, "used_mb"), Goal::None, "MB", note);
    }
    for (what, found) in [("a second lane", &two), ("a second name for the file", &names)] {
        let more = |key: &str| number(found, key) - number(&one, key);
        let note = format!("after blaze_engine_trim; {:+.2} MB before it", more("used_mb"));
        bench.add(format!("second_lane: {what}"), more("trimmed_mb"), Goal::AtMost(2.0), "MB", note);
        let wrong = number(found, "wrong");
        bench.add(
            format!("second_lane: {what}: wrong answers"),
            wrong,
            Goal::Exactly(0.0),
            "",
            String::new(),
        );
    }
}

pub fn child(kind: &str) -> Value {
    let sizes = vec![784, 2400, 4000, 2700, 10];
    let model = Mlp { sizes, seed: 90, external: kind == "external" };
    let (file, known) = (model.file(), model.known(0));
    let (_, start) = tiny_before(&json!({}));
    let watch = Watch::start();
    let engine = Engine::new(&json!({}));
    let names: &[&str] = if kind == "names" { &["a", "b"] } else { &["a"] };
    let lanes = if kind == "two" { 2 } else { 1 };
    let requests: Vec<Request> = names
        .iter()
        .map(|name| {
            let config = json!({"name": name, "path": file, "lanes": lanes});
            Request::new(must("blaze_model_load", engine.load(&config)), &known)
        })
        .collect();
    let wrong: usize = scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (engine, requests, known) = (&engine, &requests, &known);
                scope.spawn(move || {
                    let ask = |at: usize| must("blaze_infer", engine.infer(&requests[at % requests.len()]));
                    (0..REQUESTS / THREADS).filter(|round| !known.is_right(&ask(thread + round))).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let used = resident();
    let (most, _) = watch.end();
    engine.trim();
    let trimmed = resident();
    json!({
        "file_mb": model.weight_bytes() as f64 / MB,
        "used_mb": mb_between(start, used),
        "trimmed_mb": mb_between(start, trimmed),
        "most_mb": mb_between(start, most),
        "wrong": wrong,
    })
}
