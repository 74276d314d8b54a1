//! Models: load, find, describe, unload.

use super::guard::{guard, guard_part};
use super::handles::{blaze_engine, blaze_model, blaze_queue, blaze_ticket};
use super::read::{handle, output, reference, return_text, slice, string};
use super::status::{blaze_error, blaze_status};
use crate::config::ModelConfig;
use crate::error::{Error, Status};
use crate::features::REPOSITORY;
use std::ffi::{c_char, c_void};

/// Loads a model, checks whether its requests may be batched, warms it up, and starts its lanes.
///
/// @param engine      The engine.
/// @param model_json  The model's configuration, one object of the engine's "models":
///                    "name" (required), "version" (1), "backend" ("onnx"), "path", "lanes" (1: runs at once),
///                    "intra_op_threads" (null: the engine's), "tuning" (true: it may be tuned, if the engine tunes),
///                    "providers" (["cpu"]: tried in order; entries are names, or {"name", "required" (false: if it
///                    cannot be used, the next one is tried), "options" ({}: ONNX Runtime's own)}),
///                    "batching": {"max_rows" (64; a larger request runs alone), "max_delay_us" (200), "priority_aging_ms" (50), "buckets" ([]: batch sizes to pad to),
///                    "axes" ({}: named axes to pad, as in {"sequence": {"buckets": [32, 128]}})},
///                    "warmup" (true; false; or {"sizes" ([]: rows to run), "inputs" ({}: by name {"shape", "fill" or
///                    "data"})}), "pinned" (false: it may be evicted), "prepack" (true; false: external
///                    weights stay mapped, runs are slower), "progress" (false; see blaze_model_load_async),
///                    "limits" ({}: as of a route, without "waiting"; see blaze_route_create), "recovery" (true: when it
///                    has failed, it is tried with a synthetic request, and loaded anew if that fails).
///                    In an engine with a repository, "name" and "version" without anything else load that version
///                    from there, "name" alone the newest; other keys are in its model.json.
/// @param out         Receives the model.
/// @param err         Receives the reason of a failure; may be NULL.
///
/// A model that is loaded already, or is being loaded just now, with the same configuration is loaded once: `out` is the
/// same handle. With another configuration it is ALREADY_EXISTS.
///
/// Blocks while it loads; other models go on. At most "loading.concurrency" models are loaded at once. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_CONFIG; ALREADY_EXISTS; SHUT_DOWN; OUT_OF_MEMORY; OVER_BUDGET;
/// INVALID_STATE (another ONNX Runtime library is in use); MODEL_NOT_FOUND; MODEL_INVALID; MODEL_UNSUPPORTED;
/// BACKEND_UNAVAILABLE; PROVIDER_UNAVAILABLE; INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_model_load(
    engine: *mut blaze_engine,
    model_json: *const c_char,
    out: *mut blaze_model,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(err, || {
            output(out, "out")?;
            let engine = &handle(engine, "engine")?.engine;
            let config = ModelConfig::from_json(string(model_json, "model_json")?)?;
            out.write(engine.load(config, None)?);
            Ok(())
        })
    }
}

/// Loads a model from memory; otherwise as blaze_model_load. The configuration has no "path". A model with weights in
/// external files must be loaded from its path.
///
/// @param engine      The engine.
/// @param model_json  The model's configuration.
/// @param data        The model's bytes. Read during the call only.
/// @param size_bytes  How many.
/// @param out         Receives the model.
/// @param err         Receives the reason of a failure; may be NULL.
///
/// Blocks while it loads; other models go on. Threads: any.
/// Returns what blaze_model_load returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_model_load_memory(
    engine: *mut blaze_engine,
    model_json: *const c_char,
    data: *const c_void,
    size_bytes: usize,
    out: *mut blaze_model,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(err, || {
            output(out, "out")?;
            let engine = &handle(engine, "engine")?.engine;
            let config = ModelConfig::from_json(string(model_json, "model_json")?)?;
            reference(data, "data")?;
            let bytes = slice(data.cast::<u8>(), size_bytes, "data")?;
            out.write(engine.load(config, Some(bytes))?);
            Ok(())
        })
    }
}

/// Loads a model in the background. The terminal event on `queue` has its status, and on success the model in its
/// `model` field. blaze_cancel stops the load at any point. If the model's configuration has "progress": true, events of
/// BLAZE_EVENT_PROGRESS come before. On an engine made with "threads": 0 the load runs in blaze_pump.
///
/// @param engine      The engine.
/// @param model_json  The model's configuration. Read during the call only.
/// @param queue       Where the event goes.
/// @param user_data   Comes back in the event.
/// @param out         Receives the load's ticket.
/// @param err         Receives the reason of a failure to start; may be NULL.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_CONFIG; QUEUE_FULL; SHUT_DOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_model_load_async(
    engine: *mut blaze_engine,
    model_json: *const c_char,
    queue: *mut blaze_queue,
    user_data: u64,
    out: *mut blaze_ticket,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(err, || {
            output(out, "out")?;
            let engine = &handle(engine, "engine")?.engine;
            let config = ModelConfig::from_json(string(model_json, "model_json")?)?;
            let queue = &handle(queue, "queue")?.queue;
            out.write(engine.load_async(config, queue, user_data)?);
            Ok(())
        })
    }
}

/// Finds a loaded model, or a route, by name. For a model of the repository "name" gives a handle that follows: it always
/// means the newest version that works, also when that changes under load.
///
/// @param engine  The engine.
/// @param name    "name" for its newest version, or "name:version".
/// @param out     Receives the model.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; NOT_FOUND.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_model_find(
    engine: *mut blaze_engine,
    name: *const c_char,
    out: *mut blaze_model,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            output(out, "out")?;
            out.write(handle(engine, "engine")?.engine.find(string(name, "name")?)?);
            Ok(())
        })
    }
}

/// Describes a model as JSON: inputs and outputs with dtypes and shapes (a size, a name, or null for an axis that may
/// have any size), batching and why not, lanes, bytes, the execution provider really used ("provider"), how many of the
/// model's operators each provider runs ("provider_operators"), and those asked for that are not used, each with the reason
/// ("providers_rejected"). For a route it is what blaze_route_info says.
///
/// @param engine    The engine.
/// @param model     The model.
/// @param buffer    Receives the text, NUL-terminated; NULL with capacity 0: only `needed` is written.
/// @param capacity  Bytes at `buffer`.
/// @param needed    Receives the bytes that the text takes with its NUL, also on BUFFER_TOO_SMALL; may be NULL.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; NOT_FOUND; BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_model_info(
    engine: *mut blaze_engine,
    model: blaze_model,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            let text = handle(engine, "engine")?.engine.model_info(model)?;
            return_text(&text, buffer, capacity, needed)
        })
    }
}

/// Unloads a model: its handle is stale at once, requests that it has still end as usual, then it is freed. An unload
/// cannot be cancelled. The handle of a name in the repository unloads all its versions.
///
/// The terminal event's text is the receipt, a JSON object: "model", "bytes_before" and "bytes_after" (its weights and
/// buffers), "freed_bytes", "stayed" (a list of {"what", "bytes"}: why not all of it is free yet), and
/// "process_bytes_before" and "process_bytes_after" (the memory of the whole process, or null). For a name with several
/// versions it is {"models": a list of them}. Receipts are also in blaze_health_json, in "recent".
///
/// @param engine  The engine.
/// @param model   The model.
/// @param queue   Where the terminal event goes when all is done, with user_data 0; NULL: wait for that here.
/// @param out     Receives the unload's ticket; may be NULL, and is not written if `queue` is NULL.
///
/// Blocks if `queue` is NULL, until the model's requests have ended. Threads: any.
/// Returns OK; NULL_POINTER; NOT_FOUND; QUEUE_FULL; SHUT_DOWN; INVALID_ARGUMENT; INVALID_STATE for one version of a model
/// in the repository.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_model_unload(
    engine: *mut blaze_engine,
    model: blaze_model,
    queue: *mut blaze_queue,
    out: *mut blaze_ticket,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            let engine = &handle(engine, "engine")?.engine;
            if model == 0 {
                return Err(Error::new(Status::NotFound, "model 0 is none"));
            }
            let Some(queue) = queue.as_ref() else { return engine.unload(model).map(drop) };
            let ticket = engine.unload_async(model, &queue.queue)?;
            if let Some(out) = out.as_mut() {
                *out = ticket;
            }
            Ok(())
        })
    }
}

/// Reads the engine's repository again, a directory of name/version/model.onnx, with name/model.json and
/// name/version/model.json as far as they are there: they have the keys of blaze_model_load without "name", "version" and
/// "path", the first one also "versions" ("newest", "all" or a list), the second one also "sha256". Loads new versions,
/// switches names to the newest ones that work, and unloads what is gone. Versions that could not be loaded before are
/// tried again; a broken one leaves the old one serving. Requests go on meanwhile, and none fails because of the switch.
/// The engine does the same every "repository.poll_ms", if that is set.
///
/// @param engine     The engine.
/// @param queue      Where the terminal event goes when all is done; NULL: wait for that here. Its text is the report
///                   that blaze_health_json has in "repository", with broken versions and why they are.
/// @param user_data  Comes back in the event.
/// @param out        Receives the ticket; may be NULL, and is not written if `queue` is NULL.
/// @param err        Receives the reason of a failure; may be NULL.
///
/// Blocks if `queue` is NULL, while models load. Threads: any.
/// Returns OK, also if versions are broken; NULL_POINTER; INVALID_ARGUMENT; QUEUE_FULL; SHUT_DOWN; INVALID_STATE if the
/// engine has no repository; INVALID_CONFIG if its directory cannot be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_repository_rescan(
    engine: *mut blaze_engine,
    queue: *mut blaze_queue,
    user_data: u64,
    out: *mut blaze_ticket,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&REPOSITORY, err, || {
            let engine = &handle(engine, "engine")?.engine;
            let Some(queue) = queue.as_ref() else { return engine.rescan().map(drop) };
            let ticket = engine.rescan_async(&queue.queue, user_data)?;
            if let Some(out) = out.as_mut() {
                *out = ticket;
            }
            Ok(())
        })
    }
}
