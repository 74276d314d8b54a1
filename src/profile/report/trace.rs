//! A profile in the trace event format, which Perfetto (ui.perfetto.dev) and Chromium's tracing page open.
//!
//! Lanes are threads, with what they did as complete events ("X"). Requests are asynchronous events ("b", "e"), each with
//! its parts inside it. Memory and the queue are counters ("C"). Times are microseconds since the profile's start. There may
//! be very many events, so each is written as text at once.

use crate::profile::recording::{MemorySample, Rare, Recording, Request};
use crate::profile::{Kind, Span};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// "Processes" of the trace: what threads did, and requests.
const THREADS: u32 = 1;
const REQUESTS: u32 = 2;

pub fn trace(recording: &Recording) -> String {
    let mut trace = Trace { recording, names: HashMap::new(), text: String::new() };
    let name = quoted(&format!("blaze {}", crate::VERSION));
    let level = recording.config.level().name();
    let head =
        format!("{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"producer\":{name},\"level\":\"{level}\"}},");
    trace.text = head + "\"traceEvents\":[";
    trace.metadata("process_name", THREADS, 0, "engine");
    trace.metadata("process_name", REQUESTS, 0, "requests");
    let mut threads: BTreeMap<u32, ()> = BTreeMap::new();
    for span in &recording.spans {
        // The others are shown with their requests.
        if matches!(span.kind, Kind::Copy | Kind::Compute | Kind::Scatter | Kind::Admission | Kind::Pump) {
            threads.insert(span.thread, ());
            trace.span(span);
        }
    }
    for rare in &recording.rare {
        threads.insert(rare.thread, ());
        trace.rare(rare);
    }
    for request in recording.requests() {
        trace.request(&request);
    }
    for sample in &recording.memory {
        trace.counters(sample);
    }
    for thread in threads.into_keys() {
        let known = recording.threads.iter().find(|known| known.id == thread);
        let name = known.map_or_else(|| format!("thread {thread}"), |known| known.name.clone());
        trace.metadata("thread_name", THREADS, thread, &name);
    }
    if trace.text.ends_with(",\n") {
        trace.text.truncate(trace.text.len() - 2);
    }
    trace.text.push_str("]}");
    trace.text
}

/// Text as a JSON string.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

struct Trace<'a> {
    recording: &'a Recording,
    /// Models' names, quoted.
    names: HashMap<u64, String>,
    text: String,
}

impl Trace<'_> {
    /// A moment in microseconds.
    fn at(&self, ns: u64) -> f64 {
        ns.saturating_sub(self.recording.started_ns) as f64 / 1000.0
    }

    fn name(&mut self, model: u64) -> String {
        let recording = self.recording;
        self.names.entry(model).or_insert_with(|| quoted(&recording.name(model))).clone()
    }

    fn metadata(&mut self, what: &str, process: u32, thread: u32, name: &str) {
        let name = quoted(name);
        let _ = writeln!(
            self.text,
            r#"{{"name":"{what}","ph":"M","ts":0,"pid":{process},"tid":{thread},"args":{{"name":{name}}}}},"#
        );
    }

    fn span(&mut self, span: &Span) {
        let (ts, dur, kind) = (self.at(span.start_ns), span.ns() as f64 / 1000.0, span.kind.name());
        let (thread, rows, status) = (span.thread, span.rows, span.status);
        let _ = write!(
            self.text,
            r#"{{"name":"{kind}","cat":"batch","ph":"X","ts":{ts},"dur":{dur},"pid":{THREADS},"tid":{thread},"args":{{"rows":{rows},"status":{status}"#
        );
        if span.model != 0 {
            let name = self.name(span.model);
            let _ = write!(self.text, r#","model":{name}"#);
        }
        // As text: JavaScript's numbers are too short.
        for (name, id) in [("ticket", span.ticket), ("batch", span.batch)] {
            if id != 0 {
                let _ = write!(self.text, r#","{name}":"{id:#x}""#);
            }
        }
        self.text.push_str("}},\n");
    }

    fn rare(&mut self, rare: &Rare) {
        let name = match rare.kind {
            Kind::Stage => quoted(&rare.detail),
            kind => quoted(&format!("{} {}", kind.name(), rare.name)),
        };
        let (ts, dur, kind) = (self.at(rare.start_ns), rare.ns() as f64 / 1000.0, rare.kind.name());
        let (about, detail, thread) = (quoted(&rare.name), quoted(&rare.detail), rare.thread);
        let (bytes, status) = (rare.bytes, rare.status);
        let _ = writeln!(
            self.text,
            r#"{{"name":{name},"cat":"{kind}","ph":"X","ts":{ts},"dur":{dur},"pid":{THREADS},"tid":{thread},"args":{{"name":{about},"detail":{detail},"bytes":{bytes},"status":{status}}}}},"#
        );
    }

    /// A part of a request begins or ends. `name` and `args` are JSON.
    fn part(&mut self, phase: &str, name: &str, ticket: u64, ns: u64, args: &str) {
        let ts = self.at(ns);
        let _ = writeln!(
            self.text,
            r#"{{"name":{name},"cat":"request","ph":"{phase}","id":"{ticket:#x}","ts":{ts},"pid":{REQUESTS},"tid":0{args}}},"#
        );
    }

    fn request(&mut self, request: &Request) {
        let (name, ticket) = (self.name(request.model), request.ticket);
        let (rows, status) = (request.rows, request.status);
        let args = format!(r#","args":{{"ticket":"{ticket:#x}","rows":{rows},"status":{status}}}"#);
        self.part("b", &name, ticket, request.start_ns, &args);
        for span in request.spans.iter().filter(|span| Kind::OF_REQUESTS.contains(&span.kind)) {
            let kind = format!("\"{}\"", span.kind.name());
            let args = match span.batch {
                0 => String::new(),
                batch => format!(r#","args":{{"batch":"{batch:#x}"}}"#),
            };
            self.part("b", &kind, ticket, span.start_ns, &args);
            self.part("e", &kind, ticket, span.end_ns, "");
        }
        self.part("e", &name, ticket, request.end_ns, "");
    }

    fn counter(&mut self, ns: u64, name: &str, values: &[(&str, u64)]) {
        let ts = self.at(ns);
        let values: Vec<String> = values.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let _ = writeln!(
            self.text,
            r#"{{"name":"{name}","ph":"C","ts":{ts},"pid":{THREADS},"tid":0,"args":{{{}}}}},"#,
            values.join(",")
        );
    }

    fn counters(&mut self, sample: &MemorySample) {
        let at = sample.at_ns;
        let used = sample.buffers.saturating_sub(sample.idle);
        let ledger = [
            ("models", sample.models),
            ("buffers", used),
            ("idle buffers", sample.idle),
            ("caches", sample.caches),
        ];
        self.counter(at, "ledger bytes", &ledger);
        if let Some(resident) = sample.resident {
            self.counter(at, "process bytes", &[("resident", resident)]);
        }
        if let Some(heap) = sample.heap {
            self.counter(at, "heap bytes", &[("in use", heap)]);
        }
        let others = sample.in_flight.saturating_sub(sample.queue_depth);
        self.counter(at, "requests", &[("queued", sample.queue_depth), ("others", others)]);
    }
}
