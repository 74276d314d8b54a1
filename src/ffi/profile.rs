//! Profiling: where the time of requests goes, operators, memory and loads.

use super::guard::guard_part;
use super::handles::blaze_engine;
use super::read::{handle, optional_string, return_text};
use super::status::{blaze_error, blaze_status};
use crate::config::ProfileConfig;
use crate::error::{Error, Status};
use crate::features::PROFILER;
use crate::profile::report::Format;
use std::ffi::c_char;

/// A form of blaze_profile_report.
pub type blaze_report_format = u32;

/// One JSON object.
pub const BLAZE_REPORT_JSON: blaze_report_format = 1;
/// A trace in the trace event format: ui.perfetto.dev opens it, and chrome://tracing.
pub const BLAZE_REPORT_TRACE: blaze_report_format = 2;
/// One HTML page with pictures, which needs nothing else.
pub const BLAZE_REPORT_HTML: blaze_report_format = 3;

/// Begins to profile an engine. If it is being profiled already, what was recorded stays, and the rest is recorded as
/// this call says; otherwise what an earlier profile has left is thrown away.
///
/// @param engine  The engine.
/// @param json    What to record, a JSON object, UTF-8, read during the call only; NULL: all defaults:
///                "level" (null: "basic"): "basic" records one request of at most 1000 batches a second, which is cheap
///                enough to stay on; "detailed" eight requests of at most 2000, and operators about once a second for
///                each model; "comprehensive" all requests of all batches, and operators ten times a second; "debug" as
///                comprehensive, and the JSON has every span;
///                "modes" (["combined"]): "cpu": where requests' time goes, operators, CPU time by thread; "memory": the
///                ledger, the pool, the heap, evictions; "io": loads, and what they read; "network": remote targets, of
///                which this build has none, as reports say; "combined": all of them;
///                "sample" (null: by the level): one of so many batches;
///                "spans" (null: by the level): how many are kept, 64 bytes each, 1024 to 4194304; later ones overwrite
///                the oldest;
///                "directory" (null: the system's): for ONNX Runtime's own profiles, which are removed when they are read.
/// @param err     Receives the reason of a failure; may be NULL.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT (not UTF-8); INVALID_CONFIG.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_profile_start(
    engine: *mut blaze_engine,
    json: *const c_char,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&PROFILER, err, || {
            let engine = &handle(engine, "engine")?.engine;
            let json = optional_string(json, "json")?.unwrap_or("{}");
            engine.profile_start(ProfileConfig::from_json(json)?);
            Ok(())
        })
    }
}

/// Stops profiling. What was recorded stays for reports, until the next start.
///
/// @param engine  The engine.
/// @param err     Receives the reason of a failure; may be NULL.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_STATE if it is not being profiled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_profile_stop(
    engine: *mut blaze_engine,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe { guard_part(&PROFILER, err, || handle(engine, "engine")?.engine.profile_stop()) }
}

/// Writes what was recorded, also while it is being recorded. Durations are in nanoseconds where a key says "ns", and
/// in microseconds where it says "us". The JSON has:
/// - "settings", "running", "duration_ns", "requests" and "batches" (all there were meanwhile), and "recorded": how many of
///   them are in the report, and how many spans were overwritten by later ones or dropped;
/// - "models": for each "total" (from submit until the host took the event) and "kinds", each with "count", "total_ns",
///   "mean_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns", "share" (of the time of its requests) and "part_of" (the kind whose
///   time includes it, or null): "queue" (from submit until a lane took it), of which "admission" (inside blaze_submit),
///   "batch" (the batch was held open for more rows) and "eviction_wait" (the model was not in memory) are parts; "copy",
///   "compute", "scatter" (results are handed out) and "delivery" (until the host took the event); and "load" and "evict";
/// - "slowest": requests with their spans; "operators": for each model, from the level "detailed" on; "memory", "io",
///   "network", "threads" (null without their mode); "notes": what could not be recorded, and why; "trends"; "advice".
///
/// @param engine    The engine.
/// @param format    BLAZE_REPORT_JSON, BLAZE_REPORT_TRACE or BLAZE_REPORT_HTML.
/// @param buffer    Receives the text, NUL-terminated; NULL with capacity 0: only `needed` is written.
/// @param capacity  Bytes at `buffer`.
/// @param needed    Receives the bytes that the text takes with its NUL, also on BUFFER_TOO_SMALL; may be NULL. The
///                  text may have grown by the next call.
/// @param err       Receives the reason of a failure; may be NULL.
///
/// Blocks while it writes, for longer the more was recorded. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_STATE if the engine was never profiled; BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_profile_report(
    engine: *mut blaze_engine,
    format: blaze_report_format,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&PROFILER, err, || {
            let engine = &handle(engine, "engine")?.engine;
            let format = match format {
                BLAZE_REPORT_JSON => Format::Json,
                BLAZE_REPORT_TRACE => Format::Trace,
                BLAZE_REPORT_HTML => Format::Html,
                other => {
                    return Err(Error::new(Status::InvalidArgument, format!("format: {other} is none")));
                }
            };
            return_text(&engine.profile_report(format)?, buffer, capacity, needed)
        })
    }
}
