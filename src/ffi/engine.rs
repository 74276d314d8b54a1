//! The engine: create, shut down, destroy, pump.

use super::allocator::{blaze_allocator, space};
use super::guard::{guard, guard_value};
use super::handles::blaze_engine;
use super::read::{handle, optional_string, output};
use super::status::{blaze_error, blaze_status};
use crate::config::EngineConfig;
use crate::engine::Engine;

/// Makes an engine, and loads the models that its configuration names.
///
/// @param config_json  The configuration: a JSON object, UTF-8, read during the call only; NULL: all defaults:
///                     "threads" (null: one for each core, serving all models; 0: none, see blaze_pump; N: N),
///                     "onnxruntime": {"library" (null: search), "intra_op_threads" (1), "memory_pattern" (true),
///                     "arena" (false: tensors are in the engine's pool and counted; true: in arenas of ONNX Runtime's)},
///                     "queue": {"capacity" (65536): requests alive from submit to the release of their event},
///                     "memory": {"budget_bytes" (null), "pool_bytes" (67108864: idle buffers kept), "idle_ms" (1000:
///                     without work, until they are given back), "tune_heap" (null: if there is a budget), "devices" ({}: bytes
///                     of devices' memory, such as {"cuda:0": 4000000000})},
///                     "loading": {"concurrency" (2)},
///                     "log": see blaze_log_configure; by default nothing is logged,
///                     "profile" (null; or an object: profiled from the start, see blaze_profile_start),
///                     "model_directory" (null), "models" ([]): see blaze_model_load,
///                     "routes" ([]): see blaze_route_create, "tenants" ({}): see blaze_tenant_set,
///                     "repository": {"directory" (null), "poll_ms" (null: read once)},
///                     "tuning": {"mode" ("off"; "observe"; "on"), "level" ("balanced"; "conservative"; "aggressive"),
///                     "objective" ("throughput"; "latency"), "p99_ms" (null: the goal), "limits" ({}: "max_rows",
///                     "max_delay_us", "lanes", "intra_op_threads", each [least, most]), "directory" (null: where what
///                     was learned is kept)}: see blaze_tune_report.
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
            out.write(blaze_engine::give_out(engine));
            Ok(())
        })
    }
}

/// As blaze_engine_create, with memory of the host's for tensors.
///
/// @param config_json  The configuration; NULL: all defaults.
/// @param allocator    The host's functions. Read during the call only; the functions are used as long as the engine or
///                     one of its events needs memory.
/// @param out          Receives the engine; destroy it with blaze_engine_destroy.
/// @param err          Receives the reason of a failure; may be NULL.
///
/// Blocks while models load. Threads: any.
/// Returns what blaze_engine_create returns; INVALID_STRUCT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_engine_create_with_allocator(
    config_json: *const std::ffi::c_char,
    allocator: *const blaze_allocator,
    out: *mut *mut blaze_engine,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(err, || {
            output(out, "out")?;
            let space = space(allocator)?;
            let json = optional_string(config_json, "config_json")?.unwrap_or("{}");
            let engine = Engine::with_space(EngineConfig::from_json(json)?, Box::new(space))?;
            out.write(blaze_engine::give_out(engine));
            Ok(())
        })
    }
}

/// For blaze_engine_set_budget: no limit.
pub const BLAZE_BUDGET_UNLIMITED: u64 = u64::MAX;

/// Changes "memory.budget_bytes": the most bytes that models and buffers of this engine may take. Models that have
/// nothing to do leave memory at once until the rest fits; others follow as soon as they can. (A model whose event has just
/// come may be busy for another moment.) An evicted model comes back for its next request, which waits for it within its
/// deadline; if it cannot come back, because its files have changed, say, its requests fail with the reason, and it is
/// tried again after a second. Pinned models, models that were loaded from memory, and buffers in use stay, so that more may be
/// taken than the new budget for as long as they do; blaze_health_json tells.
///
/// @param engine        The engine.
/// @param budget_bytes  The new budget; BLAZE_BUDGET_UNLIMITED: none.
///
/// Blocks while idle models are freed. Threads: any.
/// Returns OK; NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_engine_set_budget(
    engine: *mut blaze_engine,
    budget_bytes: u64,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            let limit = (budget_bytes != BLAZE_BUDGET_UNLIMITED).then_some(budget_bytes);
            handle(engine, "engine")?.engine.set_budget(limit);
            Ok(())
        })
    }
}

/// Gives memory back that is kept for later: idle buffers, spare batches, and free pages of the process's heap. Models
/// stay. For a moment when the host has time, such as between two levels of a game; the engine does it by itself after
/// "memory.idle_ms" without work.
///
/// @param engine  The engine.
///
/// Blocks for milliseconds. Threads: any.
/// Returns OK; NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_engine_trim(engine: *mut blaze_engine) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            handle(engine, "engine")?.engine.trim();
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
            handle(engine, "engine")?.engine.shutdown(drain_ns);
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
        // In the child of a fork there is nothing to end, and what there is may be locked: it stays.
        // SAFETY: the header says what the pointer must be.
        unsafe { handle(engine, "engine") }?;
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
            let done = handle(engine, "engine")?.engine.pump(budget_ns)?;
            if let Some(did) = did.as_mut() {
                *did = done;
            }
            Ok(())
        })
    }
}
