//! Tuning: changing a model's settings while it works, searching the best ones, and what was learned.

use super::guard::{guard, guard_part};
use super::handles::{blaze_engine, blaze_model, blaze_queue, blaze_ticket};
use super::read::{handle, return_text, string};
use super::status::{blaze_error, blaze_status};
use crate::config::{ChangeConfig, TuneConfig};
use crate::features::TUNING;
use std::ffi::c_char;

/// Changes a model's settings while it works. No request is lost or fails by it: batches that are filling or running end
/// as they are.
///
/// @param engine  The engine.
/// @param model   The model. The handle of a name in the repository means the version that it means just now.
/// @param json    What to change: "batching": {"max_rows", "max_delay_us"}, "lanes", "intra_op_threads", as in
///                blaze_model_load. What is left out, or null, stays as it is.
/// @param err     Receives the reason of a failure; may be NULL.
///
/// The settings in force are in blaze_model_info. Tuning, if it is on, goes on from there. Another number of
/// intra_op_threads has the model loaded once more beside the one that works until then, which takes its memory twice
/// meanwhile.
///
/// Blocks while the model is loaded, if intra_op_threads change; otherwise for no longer than a lock takes. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT for a route; INVALID_CONFIG; NOT_FOUND; SHUT_DOWN; INVALID_STATE for rows of
/// a model whose requests are not joined, for rows that are none of its "buckets", and for threads of a model that was
/// given from memory; what loading returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_model_configure(
    engine: *mut blaze_engine,
    model: blaze_model,
    json: *const c_char,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(err, || {
            let engine = &handle(engine, "engine")?.engine;
            engine.configure(model, &ChangeConfig::from_json(string(json, "json")?)?)
        })
    }
}

/// Searches the settings that a model runs best with: drives it with synthetic requests in every combination of those that
/// are to be tried, and measures. Requests of the host's own go on meanwhile, but are served as is just being tried, and
/// spoil the figures. Afterwards the settings are what they were, unless the best are to be kept. One search at a time.
///
/// @param engine     The engine.
/// @param json       "model" (required: "name" or "name:version"); lists of what to try: "max_rows", "max_delay_us",
///                   "lanes", "intra_op_threads" (null: what makes sense; of intra_op_threads only what is set);
///                   "in_flight" (64: requests at once), "rows" (1: in each), "seconds_per_point" (0.5), "objective"
///                   (null: the engine's; "throughput" or "latency"), "p99_ms" (null: the engine's), "apply" (false:
///                   have the model keep the best).
/// @param queue      Where the terminal event goes when all is done; NULL: wait for that here. Its text is the report.
/// @param user_data  Comes back in the event.
/// @param out        Receives the ticket; may be NULL, and is not written if `queue` is NULL. blaze_cancel ends the search,
///                   and the settings are what they were.
/// @param err        Receives the reason of a failure; may be NULL.
///
/// The report, which blaze_tune_report has too, is a JSON object: "before" (settings), "points" (a list of {"settings",
/// "requests_per_second", "rows_per_second", "batch_rows", "p50_us", "p99_us", "runs", "error"}), "best" (one of them, those
/// with a p99 under the goal first), "gain" (its requests per second over those before), "noise" (how far repeated
/// measurements lie apart, as a part), "configuration" (what to write into the model's), "applied", "saved" (the file, if
/// "tuning": {"directory"} is set).
///
/// Blocks if `queue` is NULL, for about seconds_per_point for every combination. On an engine made with "threads": 0 the
/// search runs in one call of blaze_pump. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_CONFIG; NOT_FOUND; QUEUE_FULL; SHUT_DOWN; INVALID_STATE if another
/// search is under way; what blaze_model_configure and requests return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_tune(
    engine: *mut blaze_engine,
    json: *const c_char,
    queue: *mut blaze_queue,
    user_data: u64,
    out: *mut blaze_ticket,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&TUNING, err, || {
            let engine = &handle(engine, "engine")?.engine;
            let config = TuneConfig::from_json(string(json, "json")?)?;
            let Some(queue) = queue.as_ref() else { return engine.tune(&config).map(drop) };
            let ticket = engine.tune_async(config, &queue.queue, user_data)?;
            if let Some(out) = out.as_mut() {
                *out = ticket;
            }
            Ok(())
        })
    }
}

/// What tuning has found, as JSON: "mode", "searching", "search" (the latest report of blaze_tune, or null), and "models", a list of
/// {"name", "settings" (in force), "bounds" (what tuning may set), and while tuning is on or observes: "state" ("waiting",
/// "searching", "settled", "observed"), "advice" (what it would change, and the gain that it expects, or null), "steps" (the latest
/// ones: what was tried, before and after, and whether it was kept)}.
///
/// @param engine    The engine.
/// @param buffer    Receives the text, NUL-terminated; NULL with capacity 0: only `needed` is written.
/// @param capacity  Bytes at `buffer`.
/// @param needed    Receives the bytes that the text takes with its NUL, also on BUFFER_TOO_SMALL; may be NULL.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_tune_report(
    engine: *mut blaze_engine,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&TUNING, std::ptr::null_mut(), || {
            let text = handle(engine, "engine")?.engine.tune_report();
            return_text(&text, buffer, capacity, needed)
        })
    }
}
