//! Health, metrics and advice.

use super::guard::{guard, guard_part};
use super::handles::blaze_engine;
use super::read::{declared_size, handle, return_text, sized, write_sized};
use super::status::blaze_status;
use crate::error::{Error, Status};
use crate::features::PROFILER;
use std::ffi::c_char;

/// How an engine is.
pub type blaze_health_state = u32;

/// Nothing is wrong, and requests are taken.
pub const BLAZE_HEALTH_OK: blaze_health_state = 1;
/// The latest run of some model failed, a model is much slower than it used to be, or a route or the repository is in trouble.
pub const BLAZE_HEALTH_DEGRADED: blaze_health_state = 2;
/// No model works, nothing gets done, or the engine is shut down.
pub const BLAZE_HEALTH_FAILED: blaze_health_state = 3;

/// An engine's health. Start from BLAZE_HEALTH_INFO_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_health_info {
    /// sizeof(blaze_health_info).
    pub struct_size: u32,
    /// BLAZE_HEALTH_OK, BLAZE_HEALTH_DEGRADED or BLAZE_HEALTH_FAILED.
    pub state: blaze_health_state,
    /// 1 while requests are taken, 0 after shutdown.
    pub accepting: u32,
    /// Models that answer as they should.
    pub models_ready: u32,
    /// Models that answer, but not as they should: blaze_health_json says why.
    pub models_degraded: u32,
    /// Models that cannot answer.
    pub models_failed: u32,
    /// Requests that no lane has taken yet.
    pub queue_depth: u64,
    /// Accepted tickets without a terminal event.
    pub in_flight: u64,
    /// Bytes in the engine's ledger: models, buffers and caches.
    pub memory_bytes: u64,
    /// 1 while work that there is gets done; 0 if requests wait and no batch has ended for 10 s.
    pub live: u32,
    /// 1 while requests are taken and every model and route can answer; if not, blaze_health_json says why.
    pub ready: u32,
    /// Models that take much longer than they used to: for three seconds in a row, their 99th percentile was three times
    /// what it usually is, and 2 ms more. Not counted among the degraded.
    pub models_slow: u32,
    /// 0.
    pub reserved: u32,
}

/// The quantiles of a duration since the engine was made, in nanoseconds, to within 3.2 %.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_quantiles {
    /// The median.
    pub p50_ns: u64,
    /// Nine of ten take no longer.
    pub p90_ns: u64,
    /// 99 of 100 take no longer.
    pub p99_ns: u64,
    /// 999 of 1000 take no longer.
    pub p999_ns: u64,
}

/// An engine's counters since it was made. Start from BLAZE_METRICS_INFO_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_metrics_info {
    /// sizeof(blaze_metrics_info).
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Submits that were accepted.
    pub requests_accepted: u64,
    /// Submits that were refused.
    pub requests_rejected: u64,
    /// Requests that ended well.
    pub requests_ok: u64,
    /// Requests that failed, in the backend or before it.
    pub requests_failed: u64,
    /// Requests that ended as CANCELLED.
    pub requests_cancelled: u64,
    /// Requests that ended as EXPIRED.
    pub requests_expired: u64,
    /// Requests that ended as SHUT_DOWN.
    pub requests_shut_down: u64,
    /// Runs of a backend, each for one batch.
    pub batches: u64,
    /// Rows in all batches; divided by `batches`, the mean batch size.
    pub rows: u64,
    /// Accepted tickets without a terminal event, now.
    pub in_flight: u64,
    /// Requests that no lane has taken yet, now.
    pub queue_depth: u64,
    /// Bytes in the engine's ledger, now: models, buffers and caches.
    pub memory_bytes: u64,
    /// From submit to the end, of requests that ended well.
    pub duration: blaze_quantiles,
    /// The longest `duration`.
    pub duration_max_ns: u64,
    /// From submit until a lane took the request.
    pub queued: blaze_quantiles,
    /// Inside the backend, per batch.
    pub computed: blaze_quantiles,
    /// For how long batches were held open for more rows; of those that were.
    pub batch_wait: blaze_quantiles,
    /// Moving rows together, padding, and handing results out, per batch.
    pub copied: blaze_quantiles,
    /// Events that are ready and that the host has not taken.
    pub events_waiting: u64,
    /// Models that left memory for others.
    pub evictions: u64,
    /// Requests for a model that was not in memory.
    pub model_misses: u64,
}

/// A form of blaze_metrics_text.
pub type blaze_metrics_format = u32;

/// Prometheus' text exposition format, version 0.0.4.
pub const BLAZE_METRICS_PROMETHEUS: blaze_metrics_format = 1;
/// One JSON object.
pub const BLAZE_METRICS_JSON: blaze_metrics_format = 2;
/// What the engine did in the last minutes, as JSON: the main series, each a list of pairs of a Unix time and a value, for
/// the last 120 "seconds", 120 "minutes" and 72 "hours" in which there was anything to do. Empty with "metrics":
/// {"trends": false}.
pub const BLAZE_METRICS_TRENDS: blaze_metrics_format = 3;

sized!(blaze_health_info since live);
sized!(blaze_metrics_info since batch_wait);

/// Says how an engine is.
///
/// @param engine  The engine.
/// @param out     Receives the answer; set its struct_size (BLAZE_HEALTH_INFO_INIT).
///
/// May be asked at any rate: beyond 16 times in 10 ms, depths and bytes may be that old.
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_STRUCT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_health(
    engine: *mut blaze_engine,
    out: *mut blaze_health_info,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            let engine = &handle(engine, "engine")?.engine;
            let size = declared_size(out, "out")?;
            let health = engine.health();
            let state = match (health.ok, health.failed) {
                (true, _) => BLAZE_HEALTH_OK,
                (_, true) => BLAZE_HEALTH_FAILED,
                _ => BLAZE_HEALTH_DEGRADED,
            };
            let info = blaze_health_info {
                struct_size: size as u32,
                state,
                accepting: health.accepting.into(),
                models_ready: health.models_ready,
                models_degraded: health.models_degraded,
                models_failed: health.models_failed,
                queue_depth: health.queue_depth,
                in_flight: health.in_flight,
                memory_bytes: health.memory_bytes,
                live: health.live.into(),
                ready: health.ready.into(),
                models_slow: health.models_slow,
                reserved: 0,
            };
            write_sized(out, size, &info);
            Ok(())
        })
    }
}

/// The same as JSON, with every model's state and provider, and the ONNX Runtime library in use. Besides:
/// - "live", "ready", and "not_ready_because": a list of texts; "problems": whatever is not as it should be, each with its
///   "subject" ("engine", "model", "route", "target", "repository"), "name", "level" ("degraded", "failed"), "reason", and
///   whether it "blocks_readiness"; for each model and target "ready" and "why" (null: nothing is wrong); for each model
///   "performance": "p99_ns" of the latest second, "usual_p99_ns", and whether it is "slow";
/// - "memory": "used_bytes" and "budget_bytes" (null: none), and what takes it: "models_bytes", "buffers_bytes" (of which
///   "idle_buffers_bytes" are kept for later), "caches_bytes"; "process_bytes": the memory of the whole process;
///   "evictions", and "misses": requests for a model that was not in memory; "devices": for each one that is used its
///   "name" (backend and number), "budget_bytes" (null: none), "used_bytes", and "pooled_bytes" of them, kept for later;
/// - for each model "residence" ("idle" and "ready": in memory, without and with something to do; "evicting", "evicted",
///   "reloading"), "buffer_bytes", "device_bytes" (by the device's name), and "memory": "bytes" and "load_ns" (as measured
///   the last time), "evictions", "reloads", "evicted_because" and "reload_error" (text or null); "provider",
///   "provider_operators" and "providers_rejected" as in blaze_model_info;
/// - "loading": the names, with their versions, of models that are being loaded for the first time;
/// - "recent": the latest evictions, unloads (receipts) and changes of versions, each with "what" and "at_ns";
/// - "repository" (null: none): "scans", "error", and for each model its "newest" version, those it is "serving", and those
///   that are "broken", with the reason.
///
/// @param engine    The engine.
/// @param buffer    Receives the text, NUL-terminated; NULL with capacity 0: only `needed` is written.
/// @param capacity  Bytes at `buffer`.
/// @param needed    Receives the bytes that the text takes with its NUL, also on BUFFER_TOO_SMALL; may be NULL.
///
/// May be asked at any rate: beyond 16 times in 100 ms, numbers may be that old, but for those of models and routes that
/// have changed.
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_health_json(
    engine: *mut blaze_engine,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            let text = handle(engine, "engine")?.engine.health_json();
            return_text(&text, buffer, capacity, needed)
        })
    }
}

/// Reads an engine's counters and latency quantiles.
///
/// @param engine  The engine.
/// @param out     Receives them; set its struct_size (BLAZE_METRICS_INFO_INIT).
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_STRUCT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_metrics(
    engine: *mut blaze_engine,
    out: *mut blaze_metrics_info,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            let engine = &handle(engine, "engine")?.engine;
            let size = declared_size(out, "out")?;
            let metrics = engine.metrics();
            let quantiles = |[p50_ns, p90_ns, p99_ns, p999_ns]: [u64; 4]| blaze_quantiles {
                p50_ns,
                p90_ns,
                p99_ns,
                p999_ns,
            };
            let info = blaze_metrics_info {
                struct_size: size as u32,
                reserved: 0,
                requests_accepted: metrics.accepted,
                requests_rejected: metrics.rejected,
                requests_ok: metrics.ok,
                requests_failed: metrics.failed,
                requests_cancelled: metrics.cancelled,
                requests_expired: metrics.expired,
                requests_shut_down: metrics.shut_down,
                batches: metrics.batches,
                rows: metrics.rows,
                in_flight: metrics.in_flight,
                queue_depth: metrics.queue_depth,
                memory_bytes: metrics.memory_bytes,
                duration: quantiles(metrics.duration_ns),
                duration_max_ns: metrics.duration_max_ns,
                queued: quantiles(metrics.queued_ns),
                computed: quantiles(metrics.computed_ns),
                batch_wait: quantiles(metrics.batch_wait_ns),
                copied: quantiles(metrics.copied_ns),
                events_waiting: metrics.events_waiting,
                evictions: metrics.evictions,
                model_misses: metrics.model_misses,
            };
            write_sized(out, size, &info);
            Ok(())
        })
    }
}

/// Writes an engine's metrics, and those of its models, as text.
///
/// @param engine    The engine.
/// @param format    BLAZE_METRICS_PROMETHEUS, BLAZE_METRICS_JSON or BLAZE_METRICS_TRENDS.
/// @param buffer    Receives the text, NUL-terminated; NULL with capacity 0: only `needed` is written.
/// @param capacity  Bytes at `buffer`.
/// @param needed    Receives the bytes that the text takes with its NUL, also on BUFFER_TOO_SMALL; may be NULL. The
///                  text may have grown by the next call.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_metrics_text(
    engine: *mut blaze_engine,
    format: blaze_metrics_format,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            let engine = &handle(engine, "engine")?.engine;
            let text = match format {
                BLAZE_METRICS_PROMETHEUS => engine.metrics_prometheus(),
                BLAZE_METRICS_JSON => engine.metrics_json(),
                BLAZE_METRICS_TRENDS => engine.trends_json(),
                other => {
                    return Err(Error::new(Status::InvalidArgument, format!("format: {other} is none")));
                }
            };
            return_text(&text, buffer, capacity, needed)
        })
    }
}

/// Says what holds an engine back, and what to do about it, as JSON: "window_seconds", the time that it is drawn from (the
/// last ten to twenty seconds in which there was anything to do), and "findings", the worst first. Nothing is found where
/// nothing is wrong, nor where too little has happened to tell. Each finding has:
/// - "bottleneck": what it is: "batch_too_small", "not_batched", "delay_too_long", "padding_waste", "lane_saturated",
///   "intra_op_oversubscribed", "provider_fell_back", "dominant_operator", "warmup_missing", "memory_thrash", "cold_loads",
///   "slow_consumer", "poisoned_target", "failing_model", "queue_capacity", "overload"; more may come;
/// - "subject": "kind" ("engine", "model", "target" or "host") and "name" (of a target an array: the route, the
///   model; the engine and the host have none);
/// - "score": the share of time or of requests that a cure should win, 0 to 1, lower for what another finding explains;
/// - "evidence": the numbers that it rests on, each with "figure", "value" and "unit";
/// - "explanation" and "advice", for people;
/// - "change": the advice as configuration, null if there is none: {"model": name, keys of the model}, {"route": name, keys
///   of the route, or "remove_targets": names}, {"engine": {keys of the engine}}, or {"host": {"collect": "wait"}};
/// - "figure": what should become better, and "expected": "from", "to" and "unit", or null if that cannot be said.
///
/// @param engine    The engine.
/// @param buffer    Receives the text, NUL-terminated; NULL with capacity 0: only `needed` is written.
/// @param capacity  Bytes at `buffer`.
/// @param needed    Receives the bytes that the text takes with its NUL, also on BUFFER_TOO_SMALL; may be NULL. The
///                  text may have grown by the next call.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_advice_json(
    engine: *mut blaze_engine,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&PROFILER, std::ptr::null_mut(), || {
            let text = handle(engine, "engine")?.engine.advice_json();
            return_text(&text, buffer, capacity, needed)
        })
    }
}
