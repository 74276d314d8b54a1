//! A profile in the trace event format, which Perfetto (ui.perfetto.dev) and Chromium's tracing page open.
//!
//! Lanes are threads, with what they did as complete events ("X"). Requests are asynchronous events ("b", "e"), each with
//! its parts inside it. Memory and the queue are counters ("C"). Times are microseconds since the profile's start.

use crate::profile::recording::{MemorySample, Rare, Recording, Request};
use crate::profile::{Kind, Span};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// "Processes" of the trace: what threads did, requests, and counters.
const THREADS: u32 = 1;
const REQUESTS: u32 = 2;

pub fn trace(recording: &Recording) -> String {
    let mut events = vec![
        metadata("process_name", THREADS, 0, "engine"),
        metadata("process_name", REQUESTS, 0, "requests"),
    ];
    let mut threads: BTreeMap<u32, String> = BTreeMap::new();
    let mut see = |thread: u32| {
        let known = recording.threads.iter().find(|known| known.id == thread);
        let name = || known.map_or_else(|| format!("thread {thread}"), |known| known.name.clone());
        threads.entry(thread).or_insert_with(name);
    };
    let since = |ns: u64| ns.saturating_sub(recording.started_ns);
    for span in &recording.spans {
        let on_thread = match span.kind {
            Kind::Copy | Kind::Compute | Kind::Scatter | Kind::Admission | Kind::Pump => true,
            Kind::Queue | Kind::Batch | Kind::Delivery | Kind::EvictionWait => false,
            Kind::Load | Kind::Stage | Kind::Evict | Kind::Io => true,
        };
        if on_thread {
            see(span.thread);
            events.push(complete(recording, span));
        }
    }
    for rare in &recording.rare {
        see(rare.thread);
        events.push(rare_event(recording, rare));
    }
    for request in recording.requests() {
        request_events(recording, &request, &mut events);
    }
    for sample in &recording.memory {
        counters(sample, us(since(sample.at_ns)), &mut events);
    }
    for (thread, name) in threads {
        events.push(metadata("thread_name", THREADS, thread, &name));
    }
    json!({
        "displayTimeUnit": "ns",
        "traceEvents": events,
        "otherData": {"producer": format!("blaze {}", crate::VERSION), "level": recording.config.level().name()},
    })
    .to_string()
}

/// Nanoseconds as microseconds.
fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

fn metadata(what: &str, process: u32, thread: u32, name: &str) -> Value {
    json!({"name": what, "ph": "M", "ts": 0, "pid": process, "tid": thread, "args": {"name": name}})
}

fn complete(recording: &Recording, span: &Span) -> Value {
    let mut event = json!({
        "name": span.kind.name(),
        "cat": "batch",
        "ph": "X",
        "ts": us(span.start_ns.saturating_sub(recording.started_ns)),
        "dur": us(span.ns()),
        "pid": THREADS,
        "tid": span.thread,
        "args": {"rows": span.rows, "status": span.status},
    });
    if span.model != 0 {
        event["args"]["model"] = recording.name(span.model).into();
    }
    for (name, id) in [("ticket", span.ticket), ("batch", span.batch)] {
        if id != 0 {
            // As text: JavaScript's numbers are too short.
            event["args"][name] = format!("{id:#x}").into();
        }
    }
    event
}

fn rare_event(recording: &Recording, rare: &Rare) -> Value {
    let name = match rare.kind {
        Kind::Stage => rare.detail.clone(),
        kind => format!("{} {}", kind.name(), rare.name),
    };
    json!({
        "name": name,
        "cat": rare.kind.name(),
        "ph": "X",
        "ts": us(rare.start_ns.saturating_sub(recording.started_ns)),
        "dur": us(rare.ns()),
        "pid": THREADS,
        "tid": rare.thread,
        "args": {"name": rare.name, "detail": rare.detail, "bytes": rare.bytes, "status": rare.status},
    })
}

fn request_events(recording: &Recording, request: &Request, events: &mut Vec<Value>) {
    let id = format!("{:#x}", request.ticket);
    let model = recording.name(request.model);
    let event = |phase: &str, name: &str, ns: u64| {
        json!({
            "name": name,
            "cat": "request",
            "ph": phase,
            "id": id,
            "ts": us(ns.saturating_sub(recording.started_ns)),
            "pid": REQUESTS,
            "tid": 0,
        })
    };
    let mut begin = event("b", &model, request.start_ns);
    begin["args"] = json!({"ticket": id, "rows": request.rows, "status": request.status});
    events.push(begin);
    for span in request.spans.iter().filter(|span| Kind::OF_REQUESTS.contains(&span.kind)) {
        let mut begin = event("b", span.kind.name(), span.start_ns);
        if span.batch != 0 {
            begin["args"] = json!({"batch": format!("{:#x}", span.batch)});
        }
        events.push(begin);
        events.push(event("e", span.kind.name(), span.end_ns));
    }
    events.push(event("e", &model, request.end_ns));
}

fn counters(sample: &MemorySample, ts: f64, events: &mut Vec<Value>) {
    let mut add = |name: &str, args: Value| {
        events.push(json!({"name": name, "ph": "C", "ts": ts, "pid": THREADS, "tid": 0, "args": args}));
    };
    let used = sample.buffers.saturating_sub(sample.idle);
    add(
        "ledger bytes",
        json!({"models": sample.models, "buffers": used, "idle buffers": sample.idle, "caches": sample.caches}),
    );
    if let Some(resident) = sample.resident {
        add("process bytes", json!({"resident": resident}));
    }
    if let Some(heap) = sample.heap {
        add("heap bytes", json!({"in use": heap}));
    }
    add(
        "requests",
        json!({"queued": sample.queue_depth, "others": sample.in_flight.saturating_sub(sample.queue_depth)}),
    );
}
