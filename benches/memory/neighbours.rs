//! What requests to a model that is there notice of another one that comes and goes.

use crate::abi::{Engine, Request, fail, must};
use crate::mlp::Mlp;
use crate::report::Goal;
use crate::{Bench, number};
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::{scope, sleep, yield_now};
use std::time::{Duration, Instant};

/// What the neighbour does meanwhile.
const ALONE: u32 = 0;
const LOADING: u32 = 1;
const BURNING: u32 = 2;
const OVER: u32 = 3;

pub fn measure(bench: &mut Bench) {
    let Some(found) = bench.child("neighbours") else { return };
    let of = |kind: &str, key: &str| number(&found[kind], key);
    let loads = found["loads"].as_f64().unwrap_or(0.0);
    for (kind, note) in [
        ("alone", String::new()),
        ("loading", format!("{loads} loads and unloads of a 20 MB model")),
        ("burning", "a thread that only computes".to_owned()),
    ] {
        let note = format!(
            "p99 {:.1} µs, p99.9 {:.1} µs, max {:.1} ms, {:.0} requests; {note}",
            of(kind, "p99_us"),
            of(kind, "p999_us"),
            of(kind, "max_us") / 1e3,
            of(kind, "requests")
        );
        bench.add(format!("neighbours, {kind}: p50"), of(kind, "p50_us"), Goal::None, "µs", note);
    }
    let ratio = |kind: &str, key: &str| of(kind, key) / of("alone", key);
    let note = |kind: &str| {
        format!(
            "median of the slices' ratios {:.2}; p99.9 {:.1} times",
            of(kind, "median_ratio"),
            ratio(kind, "p999_us")
        )
    };
    let (loading, burning) = (ratio("loading", "p99_us"), ratio("burning", "p99_us"));
    bench.add(
        "neighbours: p99 while another loads / alone".into(),
        loading,
        Goal::AtMost(2.0),
        "ratio",
        note("loading"),
    );
    bench.add(
        "neighbours: p99 while a thread computes / alone".into(),
        burning,
        Goal::None,
        "ratio",
        note("burning"),
    );
    let wrong = number(&found, "wrong");
    bench.add("neighbours: wrong answers".into(), wrong, Goal::Exactly(0.0), "", String::new());
}

/// Latencies of one kind of slices, in memory that is touched beforehand.
struct Slices {
    nanoseconds: Vec<u32>,
    p99s: Vec<f64>,
}

fn quantile_us(nanoseconds: &mut [u32], share: f64) -> f64 {
    let at = ((nanoseconds.len() - 1) as f64 * share) as usize;
    f64::from(*nanoseconds.select_nth_unstable(at).1) / 1e3
}

pub fn child(quick: bool) -> Value {
    let (resident, other) = (Mlp::new(&[64, 256, 256, 8], 1), Mlp::of_20_mb(1, false));
    let (known, other_file) = (resident.known(0), other.file());
    let engine = Engine::new(&json!({}));
    let config = json!({"name": "resident", "path": resident.file()});
    let request = Request::new(must("blaze_model_load", engine.load(&config)), &known);
    let (rounds, slice) = if quick { (3, Duration::from_millis(200)) } else { (20, Duration::from_secs(1)) };
    // What is to be done, and what the neighbour has seen of it.
    let (wanted, seen, loads) = (AtomicU32::new(ALONE), AtomicU32::new(ALONE), AtomicU64::new(0));
    let neighbour = || {
        loop {
            let now = wanted.load(Ordering::SeqCst);
            seen.store(now, Ordering::SeqCst);
            match now {
                ALONE => sleep(Duration::from_millis(1)),
                LOADING => {
                    let config = json!({"name": "other", "path": other_file});
                    let model = must("blaze_model_load", engine.load(&config));
                    must("blaze_model_unload", engine.unload(model));
                    loads.fetch_add(1, Ordering::Relaxed);
                }
                BURNING => _ = (0..100_000_u64).fold(0, |sum, at| black_box(sum ^ at)),
                _ => return,
            }
        }
    };
    let mut wrong = 0_u64;
    let mut slices: [Slices; 3] = std::array::from_fn(|_| {
        let mut nanoseconds = vec![1; 1 << 22];
        nanoseconds.clear();
        Slices { nanoseconds, p99s: Vec::new() }
    });
    scope(|scope| {
        scope.spawn(neighbour);
        // The first round does not count.
        for round in 0..=rounds {
            for kind in [ALONE, LOADING, BURNING] {
                wanted.store(kind, Ordering::SeqCst);
                while seen.load(Ordering::SeqCst) != kind {
                    yield_now();
                }
                sleep(Duration::from_millis(5));
                let own = &mut slices[kind as usize];
                let first = own.nanoseconds.len();
                let began = Instant::now();
                while began.elapsed() < slice && own.nanoseconds.len() < own.nanoseconds.capacity() {
                    let asked = Instant::now();
                    let output = must("blaze_infer", engine.infer(&request));
                    own.nanoseconds.push(asked.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32);
                    wrong += u64::from(!known.is_right(&output));
                }
                if own.nanoseconds.len() == first {
                    fail("there is no more room for samples");
                }
                if round == 0 {
                    own.nanoseconds.clear();
                } else {
                    own.p99s.push(quantile_us(&mut own.nanoseconds[first..], 0.99));
                }
            }
            if round == 0 {
                loads.store(0, Ordering::Relaxed);
            }
        }
        wanted.store(OVER, Ordering::SeqCst);
    });
    let alone = slices[ALONE as usize].p99s.clone();
    let mut found = json!({"wrong": wrong, "loads": loads.into_inner()});
    for (name, own) in ["alone", "loading", "burning"].into_iter().zip(&mut slices) {
        let mut ratios: Vec<f64> = own.p99s.iter().zip(&alone).map(|(own, alone)| own / alone).collect();
        ratios.sort_by(f64::total_cmp);
        let [p50, p99, p999, most] =
            [0.5, 0.99, 0.999, 1.0].map(|share| quantile_us(&mut own.nanoseconds, share));
        found[name] = json!({
            "requests": own.nanoseconds.len(), "p50_us": p50, "p99_us": p99, "p999_us": p999, "max_us": most,
            "median_ratio": ratios[ratios.len() / 2],
        });
    }
    found
}
