//! A profile as JSON.

use crate::config::{ProfileLevel, ProfileMode};
use crate::profile::operators::Sums;
use crate::profile::recording::{MemorySample, ModelSummary, Rare, Recording, Request, Summary, slowest};
use crate::profile::{Kind, Span};
use serde_json::{Map, Value, json};

/// So many of the slowest requests are told with all their spans.
const SLOWEST: usize = 20;

pub fn json(recording: &Recording, trends: &Value, advice: &Value) -> Value {
    let requests = recording.requests();
    let models = recording.models(&requests);
    let (config, counts) = (&recording.config, &recording.counts);
    let modes: Vec<&str> = config.modes.iter().map(|mode| mode.name()).collect();
    let slowest: Vec<Value> =
        slowest(&requests, SLOWEST).iter().map(|request| describe_request(recording, request)).collect();
    let mut report = json!({
        "version": crate::VERSION,
        "settings": {
            "level": config.level().name(),
            "modes": modes,
            "sample": config.sample,
            "spans": config.capacity(),
        },
        "running": recording.running,
        "started_ns": recording.started_ns,
        "duration_ns": recording.duration_ns(),
        "requests": recording.requests,
        "batches": recording.batches,
        "recorded": {
            "requests": requests.len(),
            "batches": counts.batches,
            "submits": counts.admissions,
            "spans": counts.recorded,
            "overwritten": counts.overwritten,
            "dropped": counts.dropped,
            "rare_dropped": recording.rare_dropped,
            "bytes": counts.bytes,
        },
        "models": models.iter().map(describe_model).collect::<Vec<_>>(),
        "slowest": slowest,
        "operators": operators(recording),
        "memory": memory(recording),
        "io": io(recording),
        "network": network(recording),
        "threads": threads(recording),
        "notes": recording.notes,
        "trends": trends,
        "advice": advice,
    });
    if config.level() == ProfileLevel::Debug {
        report["spans"] = recording.spans.iter().map(|span| describe_span(recording, span)).collect();
    }
    report
}

fn summary(summary: &Summary) -> Value {
    json!({
        "count": summary.count,
        "total_ns": summary.total,
        "mean_ns": summary.mean.round() as u64,
        "p50_ns": summary.p50,
        "p90_ns": summary.p90,
        "p99_ns": summary.p99,
        "max_ns": summary.max,
    })
}

fn describe_model(model: &ModelSummary) -> Value {
    let all: u64 = model.time.iter().map(|(_, ns)| ns).sum();
    let mut kinds = Map::new();
    for (kind, times) in &model.kinds {
        let mut value = summary(times);
        // Of the time of the requests that are recorded; what is a part of the queue's is a share of that already.
        let share = model.time.iter().find(|(other, _)| other == kind).map(|(_, ns)| ratio(*ns, all));
        value["share"] = share.map_or(Value::Null, Value::from);
        value["part_of"] = kind.part_of().map_or(Value::Null, |whole| whole.name().into());
        kinds.insert(kind.name().into(), value);
    }
    json!({
        "name": model.name,
        "total": summary(&model.total),
        "failed": model.failed,
        "rows_per_batch": model.rows_per_batch,
        "kinds": kinds,
    })
}

/// Rounded, so that it can be read.
fn ratio(part: u64, whole: u64) -> f64 {
    (part as f64 / whole.max(1) as f64 * 10_000.0).round() / 10_000.0
}

fn describe_request(recording: &Recording, request: &Request) -> Value {
    let span = |span: &Span| {
        json!({
            "kind": span.kind.name(),
            "part_of": span.kind.part_of().map(Kind::name),
            "start_ns": span.start_ns.saturating_sub(request.start_ns),
            "ns": span.ns(),
            "thread": span.thread,
        })
    };
    json!({
        "ticket": request.ticket,
        "model": recording.name(request.model),
        "rows": request.rows,
        "status": request.status,
        "at_ns": request.start_ns.saturating_sub(recording.started_ns),
        "ns": request.ns(),
        "spans": request.spans.iter().map(span).collect::<Vec<_>>(),
    })
}

fn describe_span(recording: &Recording, span: &Span) -> Value {
    json!({
        "kind": span.kind.name(),
        "model": if span.model == 0 { Value::Null } else { recording.name(span.model).into() },
        "ticket": span.ticket,
        "batch": span.batch,
        "rows": span.rows,
        "status": span.status,
        "thread": span.thread,
        "at_ns": span.start_ns.saturating_sub(recording.started_ns),
        "ns": span.ns(),
    })
}

fn operators(recording: &Recording) -> Value {
    let model = |(name, sums): (&String, &Sums)| {
        let all = sums.total_us();
        let operator = |operator: crate::profile::operators::Operator| {
            json!({
                "name": operator.name,
                "op": operator.op,
                "provider": operator.provider,
                "count": operator.count,
                "total_us": operator.total_us,
                "mean_us": operator.total_us as f64 / operator.count.max(1) as f64,
                "max_us": operator.max_us,
                "share": ratio(operator.total_us, all),
            })
        };
        json!({
            "model": name,
            "runs": sums.runs,
            "run_us": sums.run_us,
            "operators_us": all,
            "trouble": sums.trouble,
            "operators": sums.operators().into_iter().map(operator).collect::<Vec<_>>(),
        })
    };
    recording.operators.iter().map(model).collect()
}

fn memory(recording: &Recording) -> Value {
    if !recording.config.has(ProfileMode::Memory) {
        return Value::Null;
    }
    let sample = |sample: &MemorySample| {
        json!({
            "at_ns": sample.at_ns.saturating_sub(recording.started_ns),
            "used_bytes": sample.used,
            "models_bytes": sample.models,
            "buffers_bytes": sample.buffers,
            "idle_buffers_bytes": sample.idle,
            "caches_bytes": sample.caches,
            "heap_bytes": sample.heap,
            "process_bytes": sample.resident,
            "queue_depth": sample.queue_depth,
            "in_flight": sample.in_flight,
        })
    };
    let (first, last) = (recording.memory.first(), recording.memory.last());
    let grown = |count: fn(&MemorySample) -> u64| {
        first.zip(last).map_or(0, |(first, last)| count(last).saturating_sub(count(first)))
    };
    let evictions: Vec<Value> = recording
        .rare
        .iter()
        .filter(|rare| rare.kind == Kind::Evict)
        .map(|rare| describe_rare(recording, rare))
        .collect();
    json!({
        "pool_hits": grown(|sample| sample.pool_hits),
        "pool_misses": grown(|sample| sample.pool_misses),
        "evictions": grown(|sample| sample.evictions),
        "evicted": evictions,
        "samples": recording.memory.iter().map(sample).collect::<Vec<_>>(),
    })
}

fn describe_rare(recording: &Recording, rare: &Rare) -> Value {
    json!({
        "kind": rare.kind.name(),
        "name": rare.name,
        "detail": rare.detail,
        "bytes": rare.bytes,
        "status": rare.status,
        "at_ns": rare.start_ns.saturating_sub(recording.started_ns),
        "ns": rare.ns(),
        "thread": rare.thread,
    })
}

fn io(recording: &Recording) -> Value {
    if !recording.config.has(ProfileMode::Io) {
        return Value::Null;
    }
    let of = |kinds: &[Kind]| -> Vec<Value> {
        let wanted = recording.rare.iter().filter(|rare| kinds.contains(&rare.kind));
        wanted.map(|rare| describe_rare(recording, rare)).collect()
    };
    let read = recording.rare.iter().filter(|rare| rare.kind == Kind::Io);
    json!({
        "read_bytes": read.map(|rare| rare.bytes).sum::<u64>(),
        "loads": of(&[Kind::Load]),
        "stages": of(&[Kind::Stage]),
        "reads": of(&[Kind::Io]),
    })
}

fn network(recording: &Recording) -> Value {
    match recording.config.has(ProfileMode::Network) {
        true => json!({"available": false, "reason": "this build has no remote targets"}),
        false => Value::Null,
    }
}

fn threads(recording: &Recording) -> Value {
    if !recording.config.has(ProfileMode::Cpu) {
        return Value::Null;
    }
    let threads: Vec<Value> = recording
        .threads
        .iter()
        .map(|thread| json!({"id": thread.id, "name": thread.name, "cpu_ns": thread.cpu_ns}))
        .collect();
    json!({"process_cpu_ns": recording.process_cpu_ns, "threads": threads})
}
