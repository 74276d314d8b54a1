//! Reports of a recording that is made by hand: the JSON's figures, the trace's rules, and a page with nothing hostile.

use super::{Format, write};
use crate::config::ProfileConfig;
use crate::platform::ThreadTime;
use crate::profile::operators::{Sums, parse};
use crate::profile::recording::{MemorySample, Rare, Recording, Summary};
use crate::profile::{Counts, Kind, Span};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

const HOSTILE: &str = "</script><script>alert('x')</script>\"&'\u{202e}";
const START: u64 = 1_000_000_000;

fn config(json: &str) -> ProfileConfig {
    ProfileConfig::from_json(json).unwrap()
}

/// Two requests in one batch, one that was cancelled, and a bit of everything else.
fn recording(level: &str) -> Recording {
    let span = |kind, ticket, batch, from: u64, to: u64| Span {
        kind,
        start_ns: START + from,
        end_ns: START + to,
        model: 7,
        ticket,
        batch,
        rows: 2,
        thread: 11,
        status: 0,
    };
    let rare = |kind, from: u64, to: u64, detail: &str| Rare {
        kind,
        start_ns: START + from,
        end_ns: START + to,
        name: HOSTILE.into(),
        detail: detail.into(),
        bytes: 4096,
        status: 0,
        thread: 12,
    };
    let memory = |at: u64, models: u64| MemorySample {
        at_ns: START + at,
        used: models + 100,
        models,
        buffers: 100,
        idle: 40,
        heap: Some(1 << 20),
        pool_hits: at,
        pool_misses: 3,
        queue_depth: 2,
        in_flight: 5,
        ..MemorySample::default()
    };
    let mut operators = Sums::default();
    let node = |name: &str, us: u64| {
        json!({"cat": "Node", "dur": us, "name": format!("{name}_kernel_time"),
               "args": {"op_name": "Gemm", "provider": "CPUExecutionProvider", "node_index": "1"}})
    };
    let run = json!({"cat": "Session", "dur": 50, "name": "model_run", "args": {}});
    operators.add(parse(&json!([node(HOSTILE, 30), node("b", 10), run]).to_string()).unwrap());
    Recording {
        config: config(&json!({"level": level}).to_string()),
        running: true,
        started_ns: START,
        ended_ns: START + 2_000_000_000,
        counts: Counts { recorded: 9, batches: 1, ..Counts::default() },
        batches: 10,
        requests: 20,
        spans: vec![
            span(Kind::Admission, 0x100, 0, 100, 400),
            span(Kind::Queue, 0x100, 0x100, 100, 1_100),
            span(Kind::Queue, 0x101, 0x100, 600, 1_100),
            span(Kind::Batch, 0, 0x100, 500, 1_100),
            Span { status: 300, ..span(Kind::Queue, 0x200, 0, 700, 900) },
            span(Kind::Copy, 0, 0x100, 1_100, 1_200),
            span(Kind::Compute, 0, 0x100, 1_200, 6_200),
            span(Kind::Scatter, 0, 0x100, 6_200, 6_700),
            span(Kind::Delivery, 0x100, 0x100, 6_700, 10_100),
            // Its queue's time was overwritten.
            span(Kind::Delivery, 0x300, 0x300, 6_700, 10_100),
        ],
        rare: vec![
            rare(Kind::Load, 0, 90, ""),
            rare(Kind::Stage, 10, 60, "reading"),
            rare(Kind::Evict, 5, 6, HOSTILE),
        ],
        names: HashMap::from([(7, HOSTILE.to_owned())]),
        threads: vec![ThreadTime { id: 11, name: "blaze-0".into(), cpu_ns: 1_500_000_000 }],
        process_cpu_ns: Some(1_600_000_000),
        memory: vec![memory(0, 1000), memory(1_000_000_000, 5000)],
        operators: BTreeMap::from([(HOSTILE.to_owned(), operators)]),
        notes: vec![HOSTILE.into()],
        ..Recording::default()
    }
}

fn report(format: Format, level: &str) -> String {
    let trends = json!({
        "seconds": {"requests_per_s": [[0, 10.0], [1, 20.5], ["x", null]], HOSTILE: [[0, 1]], "p50_ns": 5},
        "minutes": {}, "odd": 5,
    });
    let evidence = json!([{"figure": "batch_rows", "value": 4.5, "unit": "rows"}, {"figure": 3}]);
    let finding = json!({"bottleneck": "batch_too_small", "subject": {"kind": "model", "name": HOSTILE}, "score": 0.25,
                         "explanation": HOSTILE, "advice": "do it", "evidence": evidence});
    let advice = json!({"window_seconds": 2, "findings": [finding, "odd"]});
    write(format, &recording(level), &trends, &advice)
}

#[test]
fn requests_are_put_together_from_their_spans() {
    let recording = recording("basic");
    let requests = recording.requests();
    let times: Vec<(u64, i32, u64)> =
        requests.iter().map(|request| (request.ticket, request.status, request.ns())).collect();
    assert_eq!(times, [(0x100, 0, 10_000), (0x101, 0, 6_100), (0x200, 300, 200)]);
    let parts: Vec<u64> = Kind::OF_REQUESTS.iter().map(|kind| requests[0].part(*kind)).collect();
    assert_eq!(parts, [1_000, 100, 5_000, 500, 3_400]);
    assert_eq!((requests[0].part(Kind::Batch), requests[0].part(Kind::Admission)), (600, 300));
}

#[test]
fn summaries_are_those_of_the_values() {
    let summary = Summary::of((1..=100).rev().collect());
    assert_eq!((summary.p50, summary.p90, summary.p99, summary.max), (50, 90, 99, 100));
    assert_eq!((summary.count, summary.total, summary.mean), (100, 5050, 50.5));
    assert_eq!(Summary::of(Vec::new()), Summary::default());
}

#[test]
fn the_json_says_what_was_recorded() {
    let report: Value = serde_json::from_str(&report(Format::Json, "basic")).unwrap();
    let model = &report["models"][0];
    assert_eq!(model["name"], HOSTILE);
    assert_eq!(model["total"]["count"], 2);
    assert_eq!((&model["failed"], &model["total"]["p99_ns"]), (&json!(1), &json!(10_000)));
    // 5000 of each of the two requests' 10000 and 6100, and of the 200 of the one that was cancelled.
    let compute = &model["kinds"]["compute"];
    assert_eq!((&compute["mean_ns"], &compute["share"]), (&json!(5000), &json!(0.6135)));
    assert_eq!(model["kinds"]["batch"]["part_of"], "queue");
    assert_eq!(report["slowest"][0]["ns"], 10_000);
    assert_eq!(report["slowest"][0]["spans"].as_array().unwrap().len(), 7);
    let operator = &report["operators"][0]["operators"][0];
    assert_eq!((&operator["share"], &operator["op"]), (&json!(0.75), &json!("Gemm")));
    assert_eq!(
        (&report["memory"]["pool_hits"], &report["memory"]["pool_misses"]),
        (&json!(1_000_000_000), &json!(0))
    );
    assert_eq!(report["network"]["available"], false);
    assert_eq!((&report["advice"]["findings"][1], &report["trends"]["odd"]), (&json!("odd"), &json!(5)));
    assert!(report["spans"].is_null());
    let report: Value = serde_json::from_str(&self::report(Format::Json, "debug")).unwrap();
    assert_eq!(report["spans"].as_array().unwrap().len(), 10);
}

#[test]
fn the_trace_keeps_the_formats_rules() {
    let trace: Value = serde_json::from_str(&report(Format::Trace, "basic")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let mut open: HashMap<String, Vec<String>> = HashMap::new();
    let mut phases: HashMap<String, u32> = HashMap::new();
    for event in events {
        let text = |name: &str| event[name].as_str().unwrap_or_else(|| panic!("{name}: {event}")).to_owned();
        assert!(event["ts"].as_f64().is_some_and(|ts| ts >= 0.0), "{event}");
        assert!(event["pid"].is_u64() && event["tid"].is_u64() && !text("name").is_empty(), "{event}");
        *phases.entry(text("ph")).or_default() += 1;
        match text("ph").as_str() {
            "X" => assert!(event["dur"].as_f64().is_some_and(|dur| dur >= 0.0) && event["cat"].is_string()),
            "b" => open.entry(text("id")).or_default().push(text("name")),
            "e" => assert_eq!(open.get_mut(&text("id")).unwrap().pop(), Some(text("name")), "{event}"),
            "C" => assert!(event["args"].as_object().unwrap().values().all(Value::is_number)),
            "M" => assert!(event["args"]["name"].is_string()),
            other => panic!("{other}"),
        }
    }
    assert!(open.values().all(Vec::is_empty), "{open:?}");
    assert_eq!((phases["X"], phases["b"]), (4 + 3, 3 + 5 + 4 + 1));
    let names: Vec<&Value> = events.iter().filter(|event| event["name"] == "thread_name").collect();
    assert!(names.iter().any(|event| event["args"]["name"] == "blaze-0"));
    let compute = events.iter().find(|event| event["name"] == "compute" && event["ph"] == "X").unwrap();
    assert_eq!(
        (&compute["ts"], &compute["dur"], &compute["args"]["batch"]),
        (&json!(1.2), &json!(5.0), &json!("0x100"))
    );
}

#[test]
fn the_page_is_whole_and_nothing_hostile_gets_in() {
    let page = report(Format::Html, "detailed");
    for hostile in ["<script", "alert('x')", "http://", "https://", "\u{202e}", "javascript:"] {
        assert!(!page.contains(hostile), "{hostile}");
    }
    for part in
        ["<svg", "The slowest requests", "Operators of", "Memory", "Trends", "Advice", "Loads and", "Threads"]
    {
        assert!(page.contains(part), "{part}");
    }
    // Every element that is opened is closed, in order.
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1) {
        let (inside, _) = tag.split_once('>').unwrap();
        let name =
            inside.split(|c: char| c.is_whitespace() || c == '/').find(|name| !name.is_empty()).unwrap();
        match inside {
            _ if inside.starts_with('!') || inside.ends_with('/') || name == "meta" => (),
            // Whose end need not be written.
            _ if inside.starts_with('/') => assert_eq!(open.pop(), Some(name), "{inside}"),
            _ => open.push(name),
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn a_profile_of_nothing_has_reports_too() {
    let empty = Recording::default();
    for format in [Format::Json, Format::Trace, Format::Html] {
        assert!(write(format, &empty, &Value::Null, &Value::Null).len() > 50);
    }
    let mut memory = Recording { memory: vec![MemorySample::default()], ..Recording::default() };
    memory.operators.insert("m".into(), Sums::default());
    let page = write(Format::Html, &memory, &json!({"a": []}), &json!({"advice": []}));
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}
