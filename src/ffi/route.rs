//! Routes: names that stand for several models, their strategies, and tenants.

use super::guard::guard_part;
use super::handles::{blaze_engine, blaze_model};
use super::read::{handle, output, return_text, string};
use super::status::{blaze_error, blaze_status};
use crate::config::{RouteConfig, TargetConfig, TenantConfig};
use crate::error::{Error, Status};
use crate::features::ROUTER;
use crate::router::{Choice, Strategy};
use smallvec::SmallVec;
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// Makes a route: a name, used in requests like a model's, that stands for several models. The models may be loaded before
/// or after; requests go to those that are there. They must have the same inputs and outputs.
///
/// @param engine      The engine.
/// @param route_json  The route's configuration, one object of the engine's "routes":
///                    "name" (required; no model may have it),
///                    "targets" ([]): objects of "model" ("name" or "name:version"; required), "weight" (1), "tier" (0:
///                    higher tiers get requests only when no lower one can), "concurrency" (null: requests at once).
///                    "strategy" ("round_robin"; also "weighted_round_robin", "least_connections",
///                    "least_response_time", "least_loaded", "power_of_two", "consistent_hash", "client_hash" (by
///                    tenant_id), "adaptive" (learns the best target), or a name of blaze_strategy_register), or
///                    {"name", "load_factor" (1.25, for consistent_hash), "explore" (0.01, for adaptive), "memory_ms"
///                    (2000: how long what was seen counts)}.
///                    "hash_on" ("session"; or "tenant", "key"): what consistent_hash goes by.
///                    "sticky": {"enabled" (false), "ttl_ms" (600000), "capacity" (16384)}: requests of a session_id go
///                    where its last one went, as long as that target is well.
///                    "breaker": {"enabled" (true), "consecutive_failures" (5), "error_rate" (0.5), "slow_rate" (0.5),
///                    "slow_ms" (null: what is slow is learned), "slow_factor" (5), "minimum_calls" (10), "window_ms"
///                    (1000), "backoff_ms" (50), "backoff_max_ms" (500), "jitter" (0.2), "probes" (1), "successes" (3)}:
///                    when a target is left alone, and how it comes back. The last target is never left alone.
///                    "retry": {"attempts" (3, at most 4), "budget" (0.2: retries for each request), "reserve" (100 a
///                    second besides), "attempt_timeout_ms" (null: learned; 0: none; otherwise the request ends
///                    as TIMEOUT when no other attempt is left)}: how a failed request goes to another target, within
///                    its deadline.
///                    "hedge": {"quantile" (null; such as 0.95), "budget" (0.05), "minimum_ms" (1)}: a second target
///                    is asked when the first one takes longer than that share of requests do.
///                    "health": {"interval_ms" (null: none), "timeout_ms" (null: the interval)}: synthetic requests.
///                    "limits": {"requests_per_second", "burst", "rows_per_second", "burst_rows", "concurrency" (null:
///                    none), "waiting" (0: requests that wait when "concurrency" is reached, tenants in turn)}.
/// @param out         Receives the route's handle, for the `model` of requests.
/// @param err         Receives the reason of a failure; may be NULL.
///
/// An event's `model` is the model that has answered. Inputs that are borrowed are copied. Attempts that fail with
/// BACKEND_FAILED, DEVICE_LOST, OUT_OF_MEMORY or INTERNAL, or take too long, are made again elsewhere.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_CONFIG; ALREADY_EXISTS; SHUT_DOWN; OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_route_create(
    engine: *mut blaze_engine,
    route_json: *const c_char,
    out: *mut blaze_model,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&ROUTER, err, || {
            output(out, "out")?;
            let engine = &handle(engine, "engine")?.engine;
            let config = RouteConfig::from_json(string(route_json, "route_json")?)?;
            out.write(engine.create_route(config)?);
            Ok(())
        })
    }
}

/// Gives a route another configuration, with the same name. What is known of targets that stay is kept, unless "breaker"
/// changes. Requests that are under way end as they would have.
///
/// @param engine      The engine.
/// @param route       The route.
/// @param route_json  The whole configuration, as for blaze_route_create.
/// @param err         Receives the reason of a failure, after which the route is as before; may be NULL.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_CONFIG; NOT_FOUND; SHUT_DOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_route_update(
    engine: *mut blaze_engine,
    route: blaze_model,
    route_json: *const c_char,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&ROUTER, err, || {
            let engine = &handle(engine, "engine")?.engine;
            let config = RouteConfig::from_json(string(route_json, "route_json")?)?;
            engine.update_route(route, config)
        })
    }
}

/// Takes a route out: its handle is stale at once, and its name free. Requests that are under way end where they are,
/// without further attempts; requests that wait for their turn end as CANCELLED. Models stay.
///
/// @param engine  The engine.
/// @param route   The route.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; NOT_FOUND.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_route_destroy(engine: *mut blaze_engine, route: blaze_model) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&ROUTER, std::ptr::null_mut(), || handle(engine, "engine")?.engine.destroy_route(route))
    }
}

/// Adds a target to a route.
///
/// @param engine       The engine.
/// @param route        The route.
/// @param target_json  One object of the route's "targets".
/// @param err          Receives the reason of a failure; may be NULL.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_CONFIG; ALREADY_EXISTS; NOT_FOUND; SHUT_DOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_route_target_add(
    engine: *mut blaze_engine,
    route: blaze_model,
    target_json: *const c_char,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&ROUTER, err, || {
            let engine = &handle(engine, "engine")?.engine;
            let target = TargetConfig::from_json(string(target_json, "target_json")?)?;
            engine.add_target(route, target)
        })
    }
}

/// Takes a target out of a route. Requests that it has end there.
///
/// @param engine  The engine.
/// @param route   The route.
/// @param model   The target's "model", as it was configured.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; NOT_FOUND (the route or the target); SHUT_DOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_route_target_remove(
    engine: *mut blaze_engine,
    route: blaze_model,
    model: *const c_char,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&ROUTER, std::ptr::null_mut(), || {
            handle(engine, "engine")?.engine.remove_target(route, string(model, "model")?)
        })
    }
}

/// Has a target get no more requests, while it ends those that it has; or lets it get requests again. When its "in_flight"
/// in blaze_route_info is 0, it may be unloaded without a request noticing.
///
/// @param engine  The engine.
/// @param route   The route.
/// @param model   The target's "model", as it was configured.
/// @param drain   1: no more requests; 0: requests again.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; NOT_FOUND (the route or the target).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_route_target_drain(
    engine: *mut blaze_engine,
    route: blaze_model,
    model: *const c_char,
    drain: u32,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&ROUTER, std::ptr::null_mut(), || {
            let engine = &handle(engine, "engine")?.engine;
            if drain > 1 {
                return Err(Error::new(Status::InvalidArgument, "drain: must be 0 or 1"));
            }
            engine.drain_target(route, string(model, "model")?, drain == 1)
        })
    }
}

/// Describes a route as JSON: its configuration, inputs and outputs, and for each target its state ("ready", "degraded":
/// failures of late or a half-open breaker, "failed": an open breaker, a failed model or failed checks, "draining",
/// "unbound": no such model), requests, failures, latency quantiles in nanoseconds, requests in flight, breaker, and the
/// cost that "adaptive" has learned. blaze_model_info of a route's handle is the same.
///
/// @param engine    The engine.
/// @param route     The route.
/// @param buffer    Receives the text, NUL-terminated; NULL with capacity 0: only `needed` is written.
/// @param capacity  Bytes at `buffer`.
/// @param needed    Receives the bytes that the text takes with its NUL, also on BUFFER_TOO_SMALL; may be NULL.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; NOT_FOUND; BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_route_info(
    engine: *mut blaze_engine,
    route: blaze_model,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&ROUTER, std::ptr::null_mut(), || {
            let text = handle(engine, "engine")?.engine.route_info(route)?;
            return_text(&text, buffer, capacity, needed)
        })
    }
}

/// Makes or changes a tenant: what its requests may take, and its share when more is wanted than there is. Requests name
/// their tenant by `tenant_id`.
///
/// @param engine       The engine.
/// @param tenant_json  One object of the engine's "tenants": {"default": limits of those not listed, "capacity" (4096),
///                     "list"}: "id" (required, not 0), "class" (null: a name for metrics), "weight" (1), "limits"
///                     (as of a route, without "waiting").
/// @param err          Receives the reason of a failure; may be NULL.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_CONFIG; OVER_QUOTA (as many tenants as there may be).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_tenant_set(
    engine: *mut blaze_engine,
    tenant_json: *const c_char,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&ROUTER, err, || {
            let engine = &handle(engine, "engine")?.engine;
            engine.set_tenant(&TenantConfig::from_json(string(tenant_json, "tenant_json")?)?)
        })
    }
}

/// A target that a strategy may pick.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_route_target {
    /// The target's "model". Valid during the call.
    pub model: *const c_char,
    /// Requests that are with it.
    pub in_flight: u32,
    /// As it was configured.
    pub weight: u32,
    /// A moving average of its response time, in nanoseconds, in which a rise counts at once; 0: nothing is known.
    pub latency_ns: u64,
    /// The share of its requests that have failed of late, from 0 to 1.
    pub failing_share: f32,
    /// Batches that wait, run and fill, over what its model runs at once.
    pub load: f32,
}

/// What a strategy picks for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_route_choice {
    /// sizeof(blaze_route_choice).
    pub struct_size: u32,
    /// How far apart targets are, in bytes: at least sizeof(blaze_route_target).
    pub target_stride: u32,
    /// The targets that can be asked; at least one.
    pub targets: *const blaze_route_target,
    /// How many `targets` there are.
    pub targets_count: u32,
    /// 0.
    pub reserved: u32,
    /// The request's own.
    pub session_id: u64,
    /// The request's; 0: none.
    pub tenant_id: u64,
    /// The request's; 0: none.
    pub route_key: u64,
    /// On the clock of blaze_now_ns.
    pub now_ns: u64,
}

/// Picks a target: returns its place among those of the choice. Any other number means the first.
pub type blaze_strategy_pick =
    Option<unsafe extern "C" fn(user: *mut c_void, choice: *const blaze_route_choice) -> u32>;

/// A strategy of the host's.
struct HostStrategy {
    pick: unsafe extern "C" fn(user: *mut c_void, choice: *const blaze_route_choice) -> u32,
    user: *mut c_void,
}

// SAFETY: the header says that the function is called from any thread, several at once.
unsafe impl Send for HostStrategy {}
// SAFETY: as above.
unsafe impl Sync for HostStrategy {}

impl Strategy for HostStrategy {
    fn pick(&self, choice: &Choice<'_>) -> usize {
        let mut places: SmallVec<[usize; 16]> = SmallVec::new();
        let mut targets: SmallVec<[blaze_route_target; 16]> = SmallVec::new();
        for (index, target) in choice.targets.iter().enumerate() {
            if choice.eligible >> index & 1 == 0 {
                continue;
            }
            places.push(index);
            targets.push(blaze_route_target {
                model: target.c_name.as_ptr(),
                in_flight: target.in_flight(),
                weight: target.weight.load(crate::sync::Ordering::Relaxed),
                latency_ns: target.latency.get() as u64,
                failing_share: target.failures.get(),
                load: (choice.load)(index),
            });
        }
        let choice = blaze_route_choice {
            struct_size: size_of::<blaze_route_choice>() as u32,
            target_stride: size_of::<blaze_route_target>() as u32,
            targets: targets.as_ptr(),
            targets_count: targets.len() as u32,
            reserved: 0,
            session_id: choice.session,
            tenant_id: choice.tenant,
            route_key: choice.route_key,
            now_ns: choice.now_ns,
        };
        // SAFETY: the host has promised what the function is; the choice lives during the call.
        let picked = unsafe { (self.pick)(self.user, &choice) };
        places.get(picked as usize).or(places.first()).copied().unwrap_or(0)
    }
}

/// Makes a strategy of the host's known, for the "strategy" of routes that are made or changed from now on. It stays until
/// the engine is destroyed.
///
/// @param engine  The engine.
/// @param name    Its name, which no other strategy has.
/// @param pick    Called for each request of such a route by the thread that submits it, and by threads of the engine's for
///                further attempts; several at once. It must be quick, and must not call into Blaze.
/// @param user    Passed to `pick`. It must live until the engine is destroyed.
/// @param err     Receives the reason of a failure; may be NULL.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; ALREADY_EXISTS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_strategy_register(
    engine: *mut blaze_engine,
    name: *const c_char,
    pick: blaze_strategy_pick,
    user: *mut c_void,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard_part(&ROUTER, err, || {
            let engine = &handle(engine, "engine")?.engine;
            let name = string(name, "name")?;
            let pick = pick.ok_or_else(|| Error::new(Status::NullPointer, "pick is NULL"))?;
            if name.is_empty() {
                return Err(Error::new(Status::InvalidArgument, "name: must not be empty"));
            }
            engine.register_strategy(name, Arc::new(HostStrategy { pick, user }))
        })
    }
}
