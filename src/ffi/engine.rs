//! The engine: create, shut down, destroy, pump.

use super::guard::{guard, guard_value};
use super::handles::blaze_engine;
use super::read::{optional_string, output, reference};
use super::status::{blaze_error, blaze_status};
use crate::config::EngineConfig;
use crate::engine::Engine;

/// Makes an engine, and loads the models that its configuration names.
///
/// @param config_json  The configuration: a JSON object, UTF-8, read during the call only; NULL: all defaults:
///                     "threads" (null: one for each core, serving all models; 0: none, see blaze_pump; N: N),
///                     "onnxruntime": {"library" (null: search), "intra_op_threads" (1)},
///                     "queue": {"capacity" (65536): requests alive from submit to the release of their event},
///                     "memory": {"budget_bytes" (null)}, "log": {"level" ("warn"), "target" ("none"; "stderr")},
///                     "model_directory" (null), "models" ([]): see blaze_model_load.
/// @param out          Receives the engine; destroy it with blaze_engine_destroy.
/// @param err          Receives the reason of a failure; may be NULL.
///
/// Blocks while models load. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT (not UTF-8); INVALID_CONFIG; what blaze_model_load returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_engine_create(
    config_json: *const std::ffi::c_char,
    out: *mut *mut blaze_engine,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(err, || {
            output(out, "out")?;
            let json = optional_string(config_json, "config_json")?.unwrap_or("{}");
            let engine = Engine::new(EngineConfig::from_json(json)?)?;
            out.write(Box::into_raw(Box::new(blaze_engine { engine })));
            Ok(())
        })
    }
}

/// Stops taking work in and resolves every ticket: those that end within `drain_ns` as usual, the others with
/// SHUT_DOWN. Runs that are still inside a backend are told to stop; their buffers are released when they do.
/// Afterwards events can still be polled and released, and health and metrics be asked for. May be called again.
///
/// @param engine    The engine.
/// @param drain_ns  The time given to accepted work, in nanoseconds; 0: none.
///
/// Blocks for at most about `drain_ns`; on an engine made with "threads": 0 it works on the calling thread meanwhile, and
/// a run that it has begun ends first. Threads: any.
/// Returns OK; NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_engine_shutdown(engine: *mut blaze_engine, drain_ns: u64) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            reference(engine, "engine")?.engine.shutdown(drain_ns);
            Ok(())
        })
    }
}

/// Shuts the engine down at once, ends its threads, unloads its models and frees everything but completion queues
/// and events that are not released, which stay valid until they are.
///
/// @param engine  The engine; NULL is fine. No other call with it may be running or follow.
///
/// Blocks until runs inside backends have returned. Threads: any, exclusively.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_engine_destroy(engine: *mut blaze_engine) {
    if engine.is_null() {
        return;
    }
    guard_value((), || {
        // SAFETY: made by blaze_engine_create, and not used again, as the header demands.
        drop(unsafe { Box::from_raw(engine) });
        Ok(())
    });
}

/// Works on the calling thread, for an engine made with "threads": 0: loads, runs batches, expires requests. Does
/// at least one piece of work if there is any, and starts no further one once `budget_ns` has passed. A run cannot be
/// interrupted, so the last one may end later.
///
/// @param engine     The engine.
/// @param budget_ns  The time to work for, in nanoseconds.
/// @param did        Receives the pieces of work done, 0 if there was none; may be NULL.
///
/// Threads: any, also several at once.
/// Returns OK; NULL_POINTER; INVALID_STATE if the engine has threads of its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_pump(
    engine: *mut blaze_engine,
    budget_ns: u64,
    did: *mut u32,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            let done = reference(engine, "engine")?.engine.pump(budget_ns)?;
            if let Some(did) = did.as_mut() {
                *did = done;
            }
            Ok(())
        })
    }
}
