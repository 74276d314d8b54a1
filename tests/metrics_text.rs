//! The metrics in Prometheus' text format, version 0.0.4, held against its rules and against Prometheus' own
//! parser in Python, if that is in `target/python-tools` or installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use blaze::config::RouteConfig;
use blaze::engine::{Engine, RequestDescription};
use common::{engine, f32s, load_json, request, root, run, run_together, try_run};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::process::{Command, Stdio};

const KINDS: [&str; 4] = ["counter", "gauge", "histogram", "summary"];

/// An engine with all kinds of outcomes behind it, and a model whose name is not plain ASCII.
fn busy_engine() -> Engine {
    let tenants = json!({"list": [{"id": 7, "class": "gold {1}"}]});
    let engine = engine(json!({"threads": 0, "tenants": tenants}));
    let x = || vec![f32s(&[1, 4], &[0.0; 4])];
    let good = load_json(&engine, json!({"name": "gut & günstig {1}", "backend": "mock"})).unwrap();
    run_together(&engine, good, &[x(), x(), x()]);
    let faults = json!({"faults": [{"kind": "error", "count": 1}]});
    let bad = load_json(&engine, json!({"name": "bad", "backend": "mock", "mock": faults})).unwrap();
    assert!(try_run(&engine, bad, &x()).is_err());
    run(&engine, bad, &x());
    assert!(try_run(&engine, good, &[]).is_err(), "refused");
    let queue = engine.create_queue(4).unwrap();
    let (inputs, cancelled) = (x(), x());
    engine.submit(RequestDescription { deadline_ns: 1, ..request(good, &inputs) }, &queue).unwrap();
    engine.cancel(engine.submit(request(good, &cancelled), &queue).unwrap()).unwrap();
    engine.pump(0).unwrap();
    engine.submit(request(good, &inputs), &queue).unwrap(); // stays in flight
    let targets = json!([{"model": "gut & günstig {1}"}, {"model": "bad"}, {"model": "nowhere"}]);
    let route = json!({"name": "a route", "targets": targets}).to_string();
    engine.create_route(RouteConfig::from_json(&route).unwrap()).unwrap();
    engine
}

/// One line of the exposition.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// `name` or `name{label="value",...}`, a space, and a number, and nothing else.
fn parse(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = match series.split_once('{') {
        None => (series, Vec::new()),
        Some((name, rest)) => (name, parse_labels(rest.strip_suffix('}').expect(line))),
    };
    assert!(is_name(name, true), "{line}");
    Sample { name: name.into(), labels, value: value.parse().expect(line) }
}

fn parse_labels(text: &str) -> Vec<(String, String)> {
    let (mut labels, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").expect(text);
        assert!(is_name(name, false), "{text}");
        let (mut value, mut characters) = (String::new(), after.char_indices());
        rest = loop {
            match characters.next().expect(text) {
                (end, '"') => break &after[end + 1..],
                (_, '\\') => value.push(match characters.next().expect(text).1 {
                    'n' => '\n',
                    quoted @ ('\\' | '"') => quoted,
                    other => panic!("\\{other} in {text}"),
                }),
                (_, plain) => value.push(plain),
            }
        };
        labels.push((name.into(), value));
        assert!(rest.is_empty() || rest.starts_with(','), "{text}");
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}

/// The names that the format allows; only those of metrics may have colons.
fn is_name(name: &str, colons: bool) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    name.chars().all(allowed) && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// The families in order: name, kind, samples. Fails unless every line is what the format wants there.
fn families(text: &str) -> Vec<(String, String, Vec<Sample>)> {
    assert!(text.ends_with('\n') && !text.contains('\r') && !text.contains("\n\n"));
    let mut families: Vec<(String, String, Vec<Sample>)> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect(line);
            assert!(!words.is_empty() && !words.contains('\\'), "{line}");
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).expect(line);
            assert!(KINDS.contains(&kind), "{line}");
            assert!(families.iter().all(|(other, ..)| other != name), "{name} comes twice");
            families.push((name.into(), kind.into(), Vec::new()));
        } else {
            let (family, kind, samples) = families.last_mut().expect("a family comes before its samples");
            let sample = parse(line);
            let suffix = sample.name.strip_prefix(family.as_str()).expect(line);
            let suffixes: &[&str] = match kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                "summary" => &["", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(sample.value >= 0.0 && sample.value.is_finite(), "{line}");
            samples.push(sample);
        }
    }
    families
}

#[test]
fn the_exposition_keeps_to_the_format() {
    let text = busy_engine().metrics_prometheus();
    let mut seen = HashSet::new();
    for (name, kind, samples) in families(&text) {
        assert!(name.starts_with("blaze_"), "{name}");
        assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "{name}: counters, and only they, are totals"
        );
        assert!(!samples.is_empty(), "{name}");
        for sample in &samples {
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {sample:?}");
        }
        if kind == "histogram" {
            // Each set of labels has a histogram of its own, which ends with its count.
            samples
                .split_inclusive(|sample| sample.name.ends_with("_count"))
                .for_each(|samples| check_histogram(&name, samples));
        }
    }
}

/// Buckets rise in bound and count up to `+Inf`, which has them all.
fn check_histogram(name: &str, samples: &[Sample]) {
    let [buckets @ .., sum, count] = samples else { panic!("{name} has no samples") };
    assert_eq!(
        (sum.name.as_str(), count.name.as_str()),
        (&*format!("{name}_sum"), &*format!("{name}_count"))
    );
    let bounds: Vec<f64> = buckets
        .iter()
        .map(|bucket| match bucket.labels.as_slice() {
            [own @ .., (label, bound)] if label == "le" && own == count.labels => match bound.as_str() {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().unwrap(),
            },
            _ => panic!("{bucket:?}"),
        })
        .collect();
    assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{name}: {bounds:?}");
    assert!(buckets.windows(2).all(|pair| pair[0].value <= pair[1].value), "{name}");
    assert_eq!(bounds.last(), Some(&f64::INFINITY), "{name}");
    assert_eq!(buckets.last().unwrap().value, count.value, "{name}");
}

#[test]
fn the_figures_are_those_of_the_engine() {
    let engine = busy_engine();
    let mut values: HashMap<String, f64> = HashMap::new();
    for sample in families(&engine.metrics_prometheus()).into_iter().flat_map(|(_, _, samples)| samples) {
        let labels: Vec<&str> = sample.labels.iter().map(|(_, value)| value.as_str()).collect();
        values.insert([vec![&*sample.name], labels].concat().join(" "), sample.value);
    }
    for (series, value) in [
        ("blaze_requests_accepted_total", 8.0),
        ("blaze_requests_total ok", 4.0),
        ("blaze_requests_total failed", 1.0),
        ("blaze_requests_total cancelled", 1.0),
        ("blaze_requests_total expired", 1.0),
        ("blaze_requests_total shut_down", 0.0),
        ("blaze_batches_total", 3.0),
        ("blaze_batch_rows_total", 5.0),
        ("blaze_requests_in_flight", 1.0),
        ("blaze_queue_depth", 1.0),
        ("blaze_memory_used_bytes", 3.0 * 64.0 * 32.0), // three batches of 64 rows, with inputs and outputs
        ("blaze_models ready", 2.0),
        ("blaze_request_duration_seconds_count", 4.0),
        ("blaze_compute_duration_seconds_count", 3.0),
        ("blaze_copy_duration_seconds_count", 2.0),
        ("blaze_batch_rows_bucket 2", 2.0),
        ("blaze_batch_rows_bucket 4", 3.0),
        ("blaze_batch_rows_sum", 5.0),
        ("blaze_model_compute_duration_seconds_count bad:1", 2.0),
        ("blaze_model_batch_rows_count gut & günstig {1}:1", 1.0),
        ("blaze_model_batch_fill_ratio gut & günstig {1}:1", 3.0 / 64.0),
        ("blaze_model_queue_depth gut & günstig {1}:1", 1.0),
        ("blaze_model_requests_total gut & günstig {1}:1 ok", 3.0),
        ("blaze_model_requests_total bad:1 failed", 1.0),
        ("blaze_model_batches_total bad:1", 2.0),
    ] {
        assert_eq!(values.get(series), Some(&value), "{series}");
    }
    let rejected = values.iter().filter(|(series, _)| series.starts_with("blaze_requests_rejected_total "));
    assert_eq!(rejected.map(|(_, count)| count).sum::<f64>(), 1.0);
}

#[test]
fn the_json_has_the_same_figures() {
    let engine = busy_engine();
    let json: Value = serde_json::from_str(&engine.metrics_json()).unwrap();
    assert_eq!((&json["requests"]["accepted"], &json["requests"]["outcomes"]["ok"]), (&json!(8), &json!(4)));
    assert_eq!((&json["batches"], &json["rows"], &json["queue_depth"]), (&json!(3), &json!(5), &json!(1)));
    assert_eq!(json["models"][0]["name"], "gut & günstig {1}:1");
}

/// Prints every sample as the official parser understands it.
const PYTHON: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
samples = [[s.name, s.labels, float(s.value)] for family in parse(sys.stdin.read()) for s in family.samples]
json.dump(samples, sys.stdout)
";

/// Python with the parser in its path, running `code`.
fn python(code: &str) -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", root().join("target/python-tools")).env("PYTHONUTF8", "1");
    python.args(["-c", code]);
    python
}

#[test]
fn prometheus_own_parser_reads_the_same() {
    let text = busy_engine().metrics_prometheus();
    let found = python("import prometheus_client").stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        eprintln!("skipped: python3 has no prometheus_client; `make python-tools` fetches it");
        return;
    }
    let mut parser = python(PYTHON).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "the parser refused:\n{text}");
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours: Vec<Value> = families(&text)
        .into_iter()
        .flat_map(|(_, _, samples)| samples)
        .map(|sample| {
            let labels: HashMap<String, String> = sample.labels.into_iter().collect();
            json!([sample.name, labels, sample.value])
        })
        .collect();
    assert_eq!(theirs, Value::from(ours));
}
