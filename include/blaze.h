/*
 * Blaze: an AI inference engine that a program links into itself.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * In short: make an engine (blaze_engine_create) and a completion queue (blaze_queue_create), load a model
 * (blaze_model_load), describe work in a blaze_request, hand it in (blaze_submit), take events out (blaze_poll or
 * blaze_wait), look at the outputs (blaze_event_output), and give each event back (blaze_event_release). Or let
 * blaze_infer do all that for one request.
 *
 * Conventions, which hold for every function:
 * - Functions that can fail return a blaze_status; 0 is success. Outputs are written only on success, but for
 *   `needed`. The reason of a failure goes to an optional blaze_error of the caller's; there is no thread-local
 *   last error.
 * - Any function may be called from any thread, but: a completion queue has one consumer at a time, and destroy
 *   functions are exclusive.
 * - In the child of a fork, calls with engines, queues and events of the parent's return INVALID_STATE (0, where they return
 *   a number) and touch nothing, and destroying and releasing them does nothing. The child may make engines of its own;
 *   ONNX models only if the parent had loaded none. It may exec, and end in any way, at any time.
 * - Signals are the host's: Blaze's threads, and those of ONNX Runtime, have them blocked.
 * - Pointers are checked for NULL, and numbers that stand for enums for their range. blaze_model and blaze_ticket are
 *   numbers that are never used again, so stale ones are found out (NOT_FOUND).
 * - Structs begin with struct_size, which the caller sets to sizeof: BLAZE_..._INIT does. They may grow at their end: an
 *   older, shorter one is accepted, and so is a newer, longer one with zeroes in what this library does not know.
 * - Configuration is JSON, with unknown keys and wrong types as errors that name the path.
 * - Strings are UTF-8. Times are in nanoseconds, sizes in bytes, as the names say (_ns, _bytes).
 * - Text is returned into a caller's buffer: with NULL and 0 a call says in `needed` how many bytes that takes.
 * - The library never aborts, exits, prints (unless "log" says so) or installs signal handlers, and no panic inside it
 *   reaches the caller: it becomes INTERNAL.
 */

#ifndef BLAZE_H
#define BLAZE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Versions, statuses, errors ----------------------------------------------------------------------------------- */

/// The version of the interface that this header describes: major << 16 | minor. A library with the same major
/// number and the same or a higher minor number can be used with it.
#define BLAZE_ABI_VERSION 65536

/// What a call came to. 0 is success; every other number names one kind of failure, for ever.
/// 1xx: an argument; 2xx: the state of things; 3xx: capacity; 4xx: the model; 5xx: the backend; 9xx: Blaze itself.
typedef int32_t blaze_status;

/// Why a call failed: memory of the caller's, which every function that takes one accepts as NULL. It is written
/// only on failure.
typedef struct blaze_error {
    /// What the call returned.
    blaze_status status;
    /// A sentence for people, UTF-8, NUL-terminated, cut if it is longer.
    char message[1012];
    /// After so long, in nanoseconds, the same call may succeed: for RATE_LIMITED. 0: not known.
    uint64_t retry_after_ns;
} blaze_error;

/// Success.
#define BLAZE_STATUS_OK 0

/// An argument is out of its range or otherwise unusable.
#define BLAZE_STATUS_INVALID_ARGUMENT 100

/// A pointer that must not be NULL is.
#define BLAZE_STATUS_NULL_POINTER 101

/// `struct_size` is wrong, or a field that this version does not know is set.
#define BLAZE_STATUS_INVALID_STRUCT 102

/// A configuration is not valid JSON, or has an unknown key or a wrong value; the message names its path.
#define BLAZE_STATUS_INVALID_CONFIG 103

/// A tensor's name is unknown, given twice, or missing.
#define BLAZE_STATUS_INVALID_NAME 104

/// An element type is unknown, or not the one that the model wants.
#define BLAZE_STATUS_INVALID_DTYPE 105

/// A rank or size is not what the model wants, is negative, zero where it must not be, or overflows.
#define BLAZE_STATUS_INVALID_SHAPE 106

/// A byte count does not match the shape.
#define BLAZE_STATUS_INVALID_SIZE 107

/// Understood, but not supported by this build or version.
#define BLAZE_STATUS_UNSUPPORTED 108

/// There is no such model, or no request waiting with such a ticket (any more).
#define BLAZE_STATUS_NOT_FOUND 200

/// The engine is shut down.
#define BLAZE_STATUS_SHUT_DOWN 201

/// Something is still in use.
#define BLAZE_STATUS_BUSY 202

/// The request was cancelled.
#define BLAZE_STATUS_CANCELLED 203

/// The request's deadline passed.
#define BLAZE_STATUS_EXPIRED 204

/// The call's own time ran out.
#define BLAZE_STATUS_TIMEOUT 205

/// Not possible in this state, such as pumping an engine that has threads.
#define BLAZE_STATUS_INVALID_STATE 206

/// A model of this name and version is loaded, or being loaded.
#define BLAZE_STATUS_ALREADY_EXISTS 207

/// The engine or the completion queue holds as many requests as it may: poll, release events, try again.
#define BLAZE_STATUS_QUEUE_FULL 300

/// Refused by a rate limit.
#define BLAZE_STATUS_RATE_LIMITED 301

/// Refused by a tenant's quota.
#define BLAZE_STATUS_OVER_QUOTA 302

/// The system or the device has no memory left.
#define BLAZE_STATUS_OUT_OF_MEMORY 303

/// It would not fit into `memory.budget_bytes`.
#define BLAZE_STATUS_OVER_BUDGET 304

/// The caller's buffer is too small.
#define BLAZE_STATUS_BUFFER_TOO_SMALL 305

/// The model file is not there or cannot be read.
#define BLAZE_STATUS_MODEL_NOT_FOUND 400

/// The model is corrupt.
#define BLAZE_STATUS_MODEL_INVALID 401

/// The model needs something that the backend does not have.
#define BLAZE_STATUS_MODEL_UNSUPPORTED 402

/// The backend failed to run the model.
#define BLAZE_STATUS_BACKEND_FAILED 500

/// The backend's library is missing or too old; the message lists where it was looked for.
#define BLAZE_STATUS_BACKEND_UNAVAILABLE 501

/// None of the execution providers asked for works here; the message says why for each.
#define BLAZE_STATUS_PROVIDER_UNAVAILABLE 502

/// The device is gone.
#define BLAZE_STATUS_DEVICE_LOST 503

/// A bug in Blaze, or a panic in a backend. The engine lives on.
#define BLAZE_STATUS_INTERNAL 900

/// The name of a status without its prefix, such as "QUEUE_FULL"; "UNKNOWN" for a number that is none.
/// The string is static. Never blocks.
const char *blaze_status_name(blaze_status status);

/// The interface version of the loaded library, to compare with BLAZE_ABI_VERSION. Never blocks.
uint32_t blaze_abi_version(void);

/// The version of the loaded library, such as "0.1.0". The string is static. Never blocks.
const char *blaze_version(void);

/// The clock that deadlines are on: nanoseconds, monotonic, from an arbitrary start. Never blocks.
uint64_t blaze_now_ns(void);

/* Handles ------------------------------------------------------------------------------------------------------ */

/// An engine: models, queues, threads and memory. Made by blaze_engine_create; several may live in one process.
/// Any function may be called with it from any thread, but for blaze_engine_destroy, which must be the last.
typedef struct blaze_engine blaze_engine;

/// A completion queue, where events wait for the host. Made by blaze_queue_create. Any thread may submit to it;
/// one thread at a time may poll or wait.
typedef struct blaze_queue blaze_queue;

/// A loaded model, or a route. Never 0, and never used again for another one, so a stale one is found out.
typedef uint64_t blaze_model;

/// A submitted piece of work. Never 0, and never used again for another one.
typedef uint64_t blaze_ticket;

/* Memory of the host's ----------------------------------------------------------------------------------------- */

/// Where an engine takes the memory for its tensors from: weights, the inputs and outputs of batches, and what runs need
/// in between. Start from BLAZE_ALLOCATOR_INIT. The functions are called from any thread, several at once, and must not
/// call into Blaze. They must work until the engine is destroyed and its last event is released.
typedef struct blaze_allocator {
    /// sizeof(blaze_allocator).
    uint32_t struct_size;
    /// Must be 0.
    uint32_t reserved;
    /// Passed to both functions.
    void *user;
    /// Returns `size` bytes at a multiple of `alignment`, a power of two; or NULL if there are none.
    void *(*allocate)(void *user, size_t size, size_t alignment);
    /// Takes back what `allocate` has returned, with the same size.
    void (*free)(void *user, void *address, size_t size);
} blaze_allocator;

/* Engines ------------------------------------------------------------------------------------------------------ */

/// For blaze_engine_set_budget: no limit.
#define BLAZE_BUDGET_UNLIMITED UINT64_MAX

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
blaze_status blaze_engine_create(const char *config_json,
                                 blaze_engine **out,
                                 blaze_error *err);

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
blaze_status blaze_engine_create_with_allocator(const char *config_json,
                                                const blaze_allocator *allocator,
                                                blaze_engine **out,
                                                blaze_error *err);

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
blaze_status blaze_engine_set_budget(blaze_engine *engine,
                                     uint64_t budget_bytes);

/// Gives memory back that is kept for later: idle buffers, spare batches, and free pages of the process's heap. Models
/// stay. For a moment when the host has time, such as between two levels of a game; the engine does it by itself after
/// "memory.idle_ms" without work.
///
/// @param engine  The engine.
///
/// Blocks for milliseconds. Threads: any.
/// Returns OK; NULL_POINTER.
blaze_status blaze_engine_trim(blaze_engine *engine);

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
blaze_status blaze_engine_shutdown(blaze_engine *engine,
                                   uint64_t drain_ns);

/// Shuts the engine down at once, ends its threads, unloads its models and frees everything but completion queues
/// and events that are not released, which stay valid until they are.
///
/// @param engine  The engine; NULL is fine. No other call with it may be running or follow.
///
/// Blocks until runs inside backends have returned. Threads: any, exclusively.
void blaze_engine_destroy(blaze_engine *engine);

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
blaze_status blaze_pump(blaze_engine *engine,
                        uint64_t budget_ns,
                        uint32_t *did);

/* Models ------------------------------------------------------------------------------------------------------- */

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
blaze_status blaze_model_load(blaze_engine *engine,
                              const char *model_json,
                              blaze_model *out,
                              blaze_error *err);

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
blaze_status blaze_model_load_memory(blaze_engine *engine,
                                     const char *model_json,
                                     const void *data,
                                     size_t size_bytes,
                                     blaze_model *out,
                                     blaze_error *err);

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
blaze_status blaze_model_load_async(blaze_engine *engine,
                                    const char *model_json,
                                    blaze_queue *queue,
                                    uint64_t user_data,
                                    blaze_ticket *out,
                                    blaze_error *err);

/// Finds a loaded model, or a route, by name. For a model of the repository "name" gives a handle that follows: it always
/// means the newest version that works, also when that changes under load.
///
/// @param engine  The engine.
/// @param name    "name" for its newest version, or "name:version".
/// @param out     Receives the model.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; NOT_FOUND.
blaze_status blaze_model_find(blaze_engine *engine,
                              const char *name,
                              blaze_model *out);

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
blaze_status blaze_model_info(blaze_engine *engine,
                              blaze_model model,
                              char *buffer,
                              size_t capacity,
                              size_t *needed);

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
blaze_status blaze_model_unload(blaze_engine *engine,
                                blaze_model model,
                                blaze_queue *queue,
                                blaze_ticket *out);

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
blaze_status blaze_repository_rescan(blaze_engine *engine,
                                     blaze_queue *queue,
                                     uint64_t user_data,
                                     blaze_ticket *out,
                                     blaze_error *err);

/* Routes and tenants ------------------------------------------------------------------------------------------- */

/// A target that a strategy may pick.
typedef struct blaze_route_target {
    /// The target's "model". Valid during the call.
    const char *model;
    /// Requests that are with it.
    uint32_t in_flight;
    /// As it was configured.
    uint32_t weight;
    /// A moving average of its response time, in nanoseconds, in which a rise counts at once; 0: nothing is known.
    uint64_t latency_ns;
    /// The share of its requests that have failed of late, from 0 to 1.
    float failing_share;
    /// Batches that wait, run and fill, over what its model runs at once.
    float load;
} blaze_route_target;

/// What a strategy picks for.
typedef struct blaze_route_choice {
    /// sizeof(blaze_route_choice).
    uint32_t struct_size;
    /// How far apart targets are, in bytes: at least sizeof(blaze_route_target).
    uint32_t target_stride;
    /// The targets that can be asked; at least one.
    const struct blaze_route_target *targets;
    /// How many `targets` there are.
    uint32_t targets_count;
    /// 0.
    uint32_t reserved;
    /// The request's own.
    uint64_t session_id;
    /// The request's; 0: none.
    uint64_t tenant_id;
    /// The request's; 0: none.
    uint64_t route_key;
    /// On the clock of blaze_now_ns.
    uint64_t now_ns;
} blaze_route_choice;

/// Picks a target: returns its place among those of the choice. Any other number means the first.
typedef uint32_t (*blaze_strategy_pick)(void *user, const struct blaze_route_choice *choice);

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
blaze_status blaze_route_create(blaze_engine *engine,
                                const char *route_json,
                                blaze_model *out,
                                blaze_error *err);

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
blaze_status blaze_route_update(blaze_engine *engine,
                                blaze_model route,
                                const char *route_json,
                                blaze_error *err);

/// Takes a route out: its handle is stale at once, and its name free. Requests that are under way end where they are,
/// without further attempts; requests that wait for their turn end as CANCELLED. Models stay.
///
/// @param engine  The engine.
/// @param route   The route.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; NOT_FOUND.
blaze_status blaze_route_destroy(blaze_engine *engine,
                                 blaze_model route);

/// Adds a target to a route.
///
/// @param engine       The engine.
/// @param route        The route.
/// @param target_json  One object of the route's "targets".
/// @param err          Receives the reason of a failure; may be NULL.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_CONFIG; ALREADY_EXISTS; NOT_FOUND; SHUT_DOWN.
blaze_status blaze_route_target_add(blaze_engine *engine,
                                    blaze_model route,
                                    const char *target_json,
                                    blaze_error *err);

/// Takes a target out of a route. Requests that it has end there.
///
/// @param engine  The engine.
/// @param route   The route.
/// @param model   The target's "model", as it was configured.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; NOT_FOUND (the route or the target); SHUT_DOWN.
blaze_status blaze_route_target_remove(blaze_engine *engine, blaze_model route, const char *model);

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
blaze_status blaze_route_target_drain(blaze_engine *engine,
                                      blaze_model route,
                                      const char *model,
                                      uint32_t drain);

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
blaze_status blaze_route_info(blaze_engine *engine,
                              blaze_model route,
                              char *buffer,
                              size_t capacity,
                              size_t *needed);

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
blaze_status blaze_tenant_set(blaze_engine *engine,
                              const char *tenant_json,
                              blaze_error *err);

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
blaze_status blaze_strategy_register(blaze_engine *engine,
                                     const char *name,
                                     blaze_strategy_pick pick,
                                     void *user,
                                     blaze_error *err);

/* Tensors ------------------------------------------------------------------------------------------------------ */

/// The most axes a tensor may have.
#define BLAZE_MAX_RANK 32

/// An element type, numbered as in ONNX.
typedef uint32_t blaze_dtype;

/// Where a tensor's memory is.
typedef uint32_t blaze_memory;

/// One element of a string tensor: UTF-8 by convention, not NUL-terminated.
typedef struct blaze_string {
    /// The first byte; may be NULL if there are none.
    const char *data;
    /// How many bytes, without any NUL at the end.
    size_t size_bytes;
} blaze_string;

/// A tensor: row-major elements, or a caller's buffer for them. Start from BLAZE_TENSOR_INIT.
typedef struct blaze_tensor {
    /// sizeof(blaze_tensor).
    uint32_t struct_size;
    /// The type of an element, such as BLAZE_DTYPE_F32.
    blaze_dtype dtype;
    /// The input's or output's name in the model; NULL: by position.
    const char *name;
    /// Sizes of the axes, outermost first; may be NULL if rank is 0.
    const int64_t *shape;
    /// How many sizes `shape` has; 0: a scalar.
    uint32_t rank;
    /// Where `data` is, such as BLAZE_MEMORY_HOST.
    blaze_memory memory;
    /// The device's number, for BLAZE_MEMORY_CUDA.
    int32_t device;
    /// Must be 0.
    uint32_t reserved;
    /// The elements; for strings an array of blaze_string.
    void *data;
    /// Bytes at `data`. For an input exactly what the shape takes; for a caller's output buffer at least that.
    size_t size_bytes;
} blaze_tensor;

/// 32-bit IEEE float.
#define BLAZE_DTYPE_F32 1

/// 8-bit unsigned integer.
#define BLAZE_DTYPE_U8 2

/// 8-bit signed integer.
#define BLAZE_DTYPE_I8 3

/// 16-bit unsigned integer.
#define BLAZE_DTYPE_U16 4

/// 16-bit signed integer.
#define BLAZE_DTYPE_I16 5

/// 32-bit signed integer.
#define BLAZE_DTYPE_I32 6

/// 64-bit signed integer.
#define BLAZE_DTYPE_I64 7

/// Strings: the data is an array of blaze_string.
#define BLAZE_DTYPE_STRING 8

/// One byte, 0 or 1.
#define BLAZE_DTYPE_BOOL 9

/// 16-bit IEEE float.
#define BLAZE_DTYPE_F16 10

/// 64-bit IEEE float.
#define BLAZE_DTYPE_F64 11

/// 32-bit unsigned integer.
#define BLAZE_DTYPE_U32 12

/// 64-bit unsigned integer.
#define BLAZE_DTYPE_U64 13

/// Two 32-bit floats.
#define BLAZE_DTYPE_COMPLEX64 14

/// Two 64-bit floats.
#define BLAZE_DTYPE_COMPLEX128 15

/// The upper 16 bits of a 32-bit float.
#define BLAZE_DTYPE_BF16 16

/// 8-bit float: 4 bits of exponent, 3 of mantissa; no infinities.
#define BLAZE_DTYPE_F8E4M3FN 17

/// The same, with one zero and one NaN.
#define BLAZE_DTYPE_F8E4M3FNUZ 18

/// 8-bit float: 5 bits of exponent, 2 of mantissa.
#define BLAZE_DTYPE_F8E5M2 19

/// The same, with one zero, one NaN and no infinities.
#define BLAZE_DTYPE_F8E5M2FNUZ 20

/// 4-bit unsigned integer. Two to a byte, the first in the low bits; so are the other types of less than a byte.
#define BLAZE_DTYPE_U4 21

/// 4-bit signed integer.
#define BLAZE_DTYPE_I4 22

/// 4-bit float: 2 bits of exponent, 1 of mantissa.
#define BLAZE_DTYPE_F4E2M1 23

/// 8-bit power of two: 8 bits of exponent.
#define BLAZE_DTYPE_F8E8M0 24

/// 2-bit unsigned integer.
#define BLAZE_DTYPE_U2 25

/// 2-bit signed integer.
#define BLAZE_DTYPE_I2 26

/// Ordinary memory of the process.
#define BLAZE_MEMORY_HOST 0

/// Host memory that devices reach directly, such as what cuMemHostAlloc returns: taken as host memory is.
#define BLAZE_MEMORY_PINNED 1

/// Memory of a CUDA device, for models that list it. Inputs in it take BLAZE_REQUEST_BORROW, and whatever writes them must
/// be done before the request is submitted.
#define BLAZE_MEMORY_CUDA 2

/* Events ------------------------------------------------------------------------------------------------------- */

/// Another event for this ticket will follow: keep polling, also after a shutdown.
#define BLAZE_EVENT_FLAG_MORE 1

/// Borrowed inputs and output buffers are the host's again.
#define BLAZE_EVENT_FLAG_BUFFERS_RELEASED 2

/// What an event says.
typedef uint32_t blaze_event_kind;

/// Where a request's time went, in nanoseconds.
typedef struct blaze_timing {
    /// From submit until a lane took the request.
    uint64_t queued_ns;
    /// From there until the run started.
    uint64_t batched_ns;
    /// Inside the backend.
    uint64_t computed_ns;
    /// Rows in the batch, the request's own among them.
    uint32_t batch_rows;
    /// The library's own.
    uint32_t reserved;
} blaze_timing;

/// Something that happened to a ticket. Written by blaze_poll, blaze_wait and blaze_infer; give it back with
/// blaze_event_release.
typedef struct blaze_event {
    /// Written by the library; set it to sizeof(blaze_event) (BLAZE_EVENT_INIT) for blaze_infer.
    uint32_t struct_size;
    /// BLAZE_EVENT_DONE and so on.
    blaze_event_kind kind;
    /// For BLAZE_EVENT_DONE how the work ended; otherwise OK.
    blaze_status status;
    /// BLAZE_EVENT_FLAG_MORE, BLAZE_EVENT_FLAG_BUFFERS_RELEASED
    uint32_t flags;
    /// Whose event it is.
    blaze_ticket ticket;
    /// The request's.
    uint64_t user_data;
    /// The model that ran; for blaze_model_load_async the model that was loaded.
    blaze_model model;
    /// Where the time went; zeroes for what is not a request.
    struct blaze_timing timing;
    /// What went wrong; for blaze_model_unload the receipt; in an event of a load's progress its stage; what a stepwise
    /// request has said, of which blaze_infer gives all. NUL-terminated, or NULL. Valid until the event is released.
    const char *text;
    /// The length of `text`, without its NUL.
    size_t text_bytes;
    /// From 0 to 1, in events of progress and of text; 0: not known.
    float progress;
    /// How many outputs blaze_event_output can return.
    uint32_t outputs_count;
    /// The library's own.
    void *internal;
} blaze_event;

/// The ticket's work has ended: the one terminal event that every accepted ticket has; its status says how.
#define BLAZE_EVENT_DONE 1

/// Some of it is done: a load in the background whose model has "progress": true has come further. `progress` says how
/// far, `text` what comes next: "waiting" (for its turn and for room), "reading", "checking", "warming up", "loaded".
/// Stages that pass before the host looks are left out. Or a request of a stepwise model has come further, without text.
#define BLAZE_EVENT_PROGRESS 2

/// A request of a stepwise model has text, in `text`: all that it has said since the event before, so that a host which
/// looks seldom gets fewer and longer ones. BLAZE_EVENT_FLAG_MORE is set; the status is OK. Release it like any.
#define BLAZE_EVENT_TOKEN 3

/// Buffers lent with a request that was resolved early while it ran (cancelled, expired, shut down) are the host's
/// again. Its status is OK, and it has no outputs.
#define BLAZE_EVENT_BUFFERS_RELEASED 4

/// Returns a view of an output. Name, shape and data stay valid and unchanged until the event is released. The data is
/// in the caller's own buffer if the request gave one for this output, and in a device's memory (`memory` says so) if the
/// request asked for that.
///
/// @param event  A BLAZE_EVENT_DONE with status OK from blaze_poll, blaze_wait or blaze_infer, not released.
/// @param index  The output, in the order of the model, from 0 to outputs_count - 1.
/// @param view   Receives the view; set its struct_size (BLAZE_TENSOR_INIT).
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_STRUCT; NOT_FOUND if there is no such output, or the event was released.
blaze_status blaze_event_output(const struct blaze_event *event,
                                uint32_t index,
                                blaze_tensor *view);

/// Gives back what an event holds: its outputs and text. Every event may be released, also one that holds nothing, and
/// releasing it twice does nothing more. Works after blaze_engine_destroy too; but a copy of an event that was released
/// must not be used then.
///
/// @param event  The event; NULL is fine.
///
/// Never blocks, but for outputs in a backend's memory: their release may call its `free`, and after blaze_engine_destroy its
/// `close`. Threads: any.
void blaze_event_release(struct blaze_event *event);

/* Requests ----------------------------------------------------------------------------------------------------- */

/// A flag of requests: input data need not be copied. It stays the caller's, unchanged, until an event for the ticket
/// carries BLAZE_EVENT_FLAG_BUFFERS_RELEASED, and must be aligned to its element type. Requests that are joined with
/// others are copied into their batch all the same, before the call returns.
#define BLAZE_REQUEST_BORROW 1

/// A flag of requests: outputs for which the request gives no memory are left in a device's memory, and are there until the
/// event is released: on the device of the request's other tensors in such memory, or else on the first one of the model.
#define BLAZE_REQUEST_DEVICE_OUTPUTS 2

/// How urgent a request is. What waits long enough overtakes any priority.
typedef int32_t blaze_priority;

/// One piece of work. Start from BLAZE_REQUEST_INIT. Nothing in it needs to outlive the call, but for the data of
/// borrowed inputs and of output buffers.
typedef struct blaze_request {
    /// sizeof(blaze_request).
    uint32_t struct_size;
    /// BLAZE_REQUEST_BORROW, BLAZE_REQUEST_DEVICE_OUTPUTS, or 0.
    uint32_t flags;
    /// A model, or a route.
    blaze_model model;
    /// BLAZE_PRIORITY_LOW to BLAZE_PRIORITY_CRITICAL.
    blaze_priority priority;
    /// Must be 0.
    uint32_t reserved;
    /// When the request is to be given up, on the clock of blaze_now_ns; 0: never.
    uint64_t deadline_ns;
    /// For routes: requests of the same session may go to the same target; 0: none.
    uint64_t session_id;
    /// Whose limits the request is under, and whose turn it takes; 0: nobody's.
    uint64_t tenant_id;
    /// Comes back in every event.
    uint64_t user_data;
    /// All with the same struct_size.
    const blaze_tensor *inputs;
    /// Memory of the caller's for some or all outputs; NULL: none. The outputs are written there, shape and rank
    /// are ignored, and the memory stays lent until the terminal event; in a device's memory, until an event for the
    /// ticket carries BLAZE_EVENT_FLAG_BUFFERS_RELEASED.
    const blaze_tensor *outputs;
    /// How many `inputs` there are.
    uint32_t inputs_count;
    /// How many `outputs` there are; 0: none are given.
    uint32_t outputs_count;
    /// For routes with "hash_on": "key": requests with the same key go to the same target; 0: none.
    uint64_t route_key;
} blaze_request;

/// What can wait.
#define BLAZE_PRIORITY_LOW -1

/// The default.
#define BLAZE_PRIORITY_NORMAL 0

/// Before what is normal.
#define BLAZE_PRIORITY_HIGH 1

/// Before everything else.
#define BLAZE_PRIORITY_CRITICAL 2

/// Submits a request. If it is accepted, exactly one terminal event comes to `queue`; if not, none. Before it, a request
/// of a stepwise model may have events of BLAZE_EVENT_TOKEN and BLAZE_EVENT_PROGRESS. The terminal event's status is OK;
/// CANCELLED; EXPIRED; SHUT_DOWN; BUFFER_TOO_SMALL (an output buffer; others may have been written); BACKEND_FAILED;
/// OUT_OF_MEMORY; DEVICE_LOST; INTERNAL; and for routes TIMEOUT ("attempt_timeout_ms" is over, and there is no other
/// target), OVER_QUOTA (it has waited, and had to make room for another tenant's request), NOT_FOUND (it has waited, and
/// there is no target any more). If a run of several requests fails with BACKEND_FAILED, each is run once more alone, so
/// that one request's bad values do not fail the others.
///
/// @param engine   The engine.
/// @param request  The work. Descriptors are copied, and so is input data unless BLAZE_REQUEST_BORROW is set. Tensors in a
///                 device's memory (BLAZE_MEMORY_CUDA) must be all on one device, which the model must list, or every
///                 target of the route; such requests are run alone, and a route asks one target, once.
/// @param queue    Where the events go: a queue of this engine.
/// @param out      Receives the ticket, never before the request is accepted; may be NULL.
/// @param err      Receives the reason of a failure; may be NULL.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_STRUCT; INVALID_NAME; INVALID_DTYPE; INVALID_SHAPE; INVALID_SIZE;
/// UNSUPPORTED; NOT_FOUND (the model, the route, or every target of a route); SHUT_DOWN; QUEUE_FULL; RATE_LIMITED (with
/// `retry_after_ns`); OVER_QUOTA; OVER_BUDGET; OUT_OF_MEMORY.
blaze_status blaze_submit(blaze_engine *engine,
                          const struct blaze_request *request,
                          blaze_queue *queue,
                          blaze_ticket *out,
                          blaze_error *err);

/// Submits a request and waits for its end. Runs it on the calling thread if the model is idle, so that nothing is
/// handed over. What a request of a stepwise model has said is the event's `text`, if it ends well.
///
/// @param engine      The engine.
/// @param request     The work, as for blaze_submit.
/// @param timeout_ns  How long to wait at most, in nanoseconds; UINT64_MAX: for ever. With borrowed inputs the call
///                    returns only when the backend has let go of them, which may be later; and so it does on an
///                    engine made with "threads": 0, where nobody can interrupt a run on the calling thread.
/// @param out         Receives the terminal event, on success only; set its struct_size (BLAZE_EVENT_INIT). Release it.
/// @param err         Receives the reason of a failure; may be NULL.
///
/// Blocks. Threads: any.
/// Returns OK; what blaze_submit returns; TIMEOUT; or the status of the request's event.
blaze_status blaze_infer(blaze_engine *engine,
                         const struct blaze_request *request,
                         uint64_t timeout_ns,
                         blaze_event *out,
                         blaze_error *err);

/// Asks for a request or a load to be given up. It is resolved as CANCELLED at once, unless it has ended already; work
/// inside a backend is told to stop, and buffers lent to it are released when it does. May be called again.
///
/// @param engine  The engine.
/// @param ticket  The ticket.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; NOT_FOUND if there is nothing (left) to cancel.
blaze_status blaze_cancel(blaze_engine *engine,
                          blaze_ticket ticket);

/* Completion queues -------------------------------------------------------------------------------------------- */

/// Makes a completion queue. An engine may have many.
///
/// @param engine    The engine.
/// @param capacity  Events that may be promised or waiting at once, 1 to 16777216: one for each request in flight, and one
///                  more for a borrowing one that is not joined with others, and for one of a stepwise model. Submit fails
///                  with QUEUE_FULL rather than overflow it.
/// @param out       Receives the queue; destroy it with blaze_queue_destroy.
/// @param err       Receives the reason of a failure; may be NULL.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; SHUT_DOWN.
blaze_status blaze_queue_create(blaze_engine *engine,
                                uint32_t capacity,
                                blaze_queue **out,
                                blaze_error *err);

/// Destroys a completion queue, and closes its descriptor.
///
/// @param queue  The queue; NULL is fine. On BUSY it stays as it is.
///
/// Never blocks. Threads: any, exclusively.
/// Returns OK; BUSY while tickets target it or events wait in it, unless its engine is destroyed.
blaze_status blaze_queue_destroy(blaze_queue *queue);

/// Takes events without waiting.
///
/// @param queue     The queue.
/// @param events    Receives up to `capacity` events, `stride` bytes apart. Release each.
/// @param stride    sizeof(blaze_event).
/// @param capacity  Room in `events`.
///
/// Never blocks. Threads: one at a time; a second one that comes meanwhile gets 0.
/// Returns the number of events written; 0 also for NULL or a wrong stride.
uint32_t blaze_poll(blaze_queue *queue, blaze_event *events, size_t stride, uint32_t capacity);

/// Takes events, and waits for the first one if there is none. On an engine made with "threads": 0 it works
/// meanwhile, as blaze_pump does.
///
/// @param queue       The queue.
/// @param events      Receives up to `capacity` events, `stride` bytes apart. Release each.
/// @param stride      sizeof(blaze_event).
/// @param capacity    Room in `events`.
/// @param timeout_ns  How long to wait at most, in nanoseconds; UINT64_MAX: for ever.
///
/// Blocks for at most about `timeout_ns`. Threads: one at a time; a second one that comes meanwhile gets 0 at once.
/// Returns the number of events written; 0 after the timeout, at once when the engine is shut down and nothing is
/// outstanding, after blaze_queue_wake, and for NULL or a wrong stride.
uint32_t blaze_wait(blaze_queue *queue,
                    blaze_event *events,
                    size_t stride,
                    uint32_t capacity,
                    uint64_t timeout_ns);

/// Has the thread that is in blaze_wait come back with what there is, if only 0 events; or, if none is, the next one that
/// would have to wait. For a host that ends its thread, or has something else for it to do. Several calls before a wait are
/// like one. blaze_poll and the descriptor take no notice.
///
/// @param queue  The queue.
///
/// Never blocks. Threads: any, also beside the consumer.
/// Returns OK; NULL_POINTER.
blaze_status blaze_queue_wake(blaze_queue *queue);

/// A descriptor that is readable while events wait, to put into epoll, kqueue, poll or select. Do not read from it or
/// close it: it follows the queue by itself, and is closed with it.
///
/// @param queue  The queue.
/// @param fd     Receives the descriptor, the same one every time.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; OUT_OF_MEMORY if the process has no descriptors left.
blaze_status blaze_queue_fd(blaze_queue *queue,
                            int *fd);

/* Health and metrics ------------------------------------------------------------------------------------------- */

/// How an engine is.
typedef uint32_t blaze_health_state;

/// An engine's health. Start from BLAZE_HEALTH_INFO_INIT.
typedef struct blaze_health_info {
    /// sizeof(blaze_health_info).
    uint32_t struct_size;
    /// BLAZE_HEALTH_OK, BLAZE_HEALTH_DEGRADED or BLAZE_HEALTH_FAILED.
    blaze_health_state state;
    /// 1 while requests are taken, 0 after shutdown.
    uint32_t accepting;
    /// Models that answer as they should.
    uint32_t models_ready;
    /// Models that answer, but not as they should: blaze_health_json says why.
    uint32_t models_degraded;
    /// Models that cannot answer.
    uint32_t models_failed;
    /// Requests that no lane has taken yet.
    uint64_t queue_depth;
    /// Accepted tickets without a terminal event.
    uint64_t in_flight;
    /// Bytes in the engine's ledger: models, buffers and caches.
    uint64_t memory_bytes;
    /// 1 while work that there is gets done; 0 if requests wait and no batch has ended for 10 s.
    uint32_t live;
    /// 1 while requests are taken and every model and route can answer; if not, blaze_health_json says why.
    uint32_t ready;
    /// Models that take much longer than they used to: for three seconds in a row, their 99th percentile was three times
    /// what it usually is, and 2 ms more. Not counted among the degraded.
    uint32_t models_slow;
    /// 0.
    uint32_t reserved;
} blaze_health_info;

/// The quantiles of a duration since the engine was made, in nanoseconds, to within 3.2 %.
typedef struct blaze_quantiles {
    /// The median.
    uint64_t p50_ns;
    /// Nine of ten take no longer.
    uint64_t p90_ns;
    /// 99 of 100 take no longer.
    uint64_t p99_ns;
    /// 999 of 1000 take no longer.
    uint64_t p999_ns;
} blaze_quantiles;

/// An engine's counters since it was made. Start from BLAZE_METRICS_INFO_INIT.
typedef struct blaze_metrics_info {
    /// sizeof(blaze_metrics_info).
    uint32_t struct_size;
    /// 0.
    uint32_t reserved;
    /// Submits that were accepted.
    uint64_t requests_accepted;
    /// Submits that were refused.
    uint64_t requests_rejected;
    /// Requests that ended well.
    uint64_t requests_ok;
    /// Requests that failed, in the backend or before it.
    uint64_t requests_failed;
    /// Requests that ended as CANCELLED.
    uint64_t requests_cancelled;
    /// Requests that ended as EXPIRED.
    uint64_t requests_expired;
    /// Requests that ended as SHUT_DOWN.
    uint64_t requests_shut_down;
    /// Runs of a backend, each for one batch.
    uint64_t batches;
    /// Rows in all batches; divided by `batches`, the mean batch size.
    uint64_t rows;
    /// Accepted tickets without a terminal event, now.
    uint64_t in_flight;
    /// Requests that no lane has taken yet, now.
    uint64_t queue_depth;
    /// Bytes in the engine's ledger, now: models, buffers and caches.
    uint64_t memory_bytes;
    /// From submit to the end, of requests that ended well.
    struct blaze_quantiles duration;
    /// The longest `duration`.
    uint64_t duration_max_ns;
    /// From submit until a lane took the request.
    struct blaze_quantiles queued;
    /// Inside the backend, per batch.
    struct blaze_quantiles computed;
    /// For how long batches were held open for more rows; of those that were.
    struct blaze_quantiles batch_wait;
    /// Moving rows together, padding, and handing results out, per batch.
    struct blaze_quantiles copied;
    /// Events that are ready and that the host has not taken.
    uint64_t events_waiting;
    /// Models that left memory for others.
    uint64_t evictions;
    /// Requests for a model that was not in memory.
    uint64_t model_misses;
} blaze_metrics_info;

/// A form of blaze_metrics_text.
typedef uint32_t blaze_metrics_format;

/// Nothing is wrong, and requests are taken.
#define BLAZE_HEALTH_OK 1

/// The latest run of some model failed, a model is much slower than it used to be, or a route or the repository is in trouble.
#define BLAZE_HEALTH_DEGRADED 2

/// No model works, nothing gets done, or the engine is shut down.
#define BLAZE_HEALTH_FAILED 3

/// Prometheus' text exposition format, version 0.0.4.
#define BLAZE_METRICS_PROMETHEUS 1

/// One JSON object.
#define BLAZE_METRICS_JSON 2

/// What the engine did in the last minutes, as JSON: the main series, each a list of pairs of a Unix time and a value, for
/// the last 120 "seconds", 120 "minutes" and 72 "hours" in which there was anything to do. Empty with "metrics":
/// {"trends": false}.
#define BLAZE_METRICS_TRENDS 3

/// Says how an engine is.
///
/// @param engine  The engine.
/// @param out     Receives the answer; set its struct_size (BLAZE_HEALTH_INFO_INIT).
///
/// May be asked at any rate: beyond 16 times in 10 ms, depths and bytes may be that old.
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_STRUCT.
blaze_status blaze_health(blaze_engine *engine, struct blaze_health_info *out);

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
blaze_status blaze_health_json(blaze_engine *engine,
                               char *buffer,
                               size_t capacity,
                               size_t *needed);

/// Reads an engine's counters and latency quantiles.
///
/// @param engine  The engine.
/// @param out     Receives them; set its struct_size (BLAZE_METRICS_INFO_INIT).
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_STRUCT.
blaze_status blaze_metrics(blaze_engine *engine, struct blaze_metrics_info *out);

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
blaze_status blaze_metrics_text(blaze_engine *engine,
                                blaze_metrics_format format,
                                char *buffer,
                                size_t capacity,
                                size_t *needed);

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
blaze_status blaze_advice_json(blaze_engine *engine,
                               char *buffer,
                               size_t capacity,
                               size_t *needed);

/* Logs --------------------------------------------------------------------------------------------------------- */

/// How severe a line of the log is.
typedef uint32_t blaze_log_level;

/// A line of the log. What it points to is valid during the call only.
typedef struct blaze_log_record {
    /// sizeof(blaze_log_record), as this library has it.
    uint32_t struct_size;
    /// BLAZE_LOG_ERROR to BLAZE_LOG_TRACE.
    blaze_log_level level;
    /// Wall-clock time: since 1970, UTC.
    uint64_t time_ns;
    /// Which part of the engine speaks: see blaze_log_configure.
    const char *module;
    /// What happened: UTF-8, NUL-terminated.
    const char *message;
    /// A JSON object with what the message is about, such as {"model":"digits:1"}; NULL: nothing. "dropped": lines of the same
    /// module and level that were too many, since the last one.
    const char *fields;
} blaze_log_record;

/// Receives lines of the log: from any thread, one at a time for each engine. Other threads that have something to log wait
/// for it, so it must be fast; it must not call into Blaze, and not wait for a thread that does.
typedef void (*blaze_log_function)(void *user, const struct blaze_log_record *record);

/// Something is lost or broken.
#define BLAZE_LOG_ERROR 1

/// Something is not as it should be, and goes on all the same.
#define BLAZE_LOG_WARN 2

/// What happens seldom: engines, models, shutdowns.
#define BLAZE_LOG_INFO 3

/// What helps to find out why.
#define BLAZE_LOG_DEBUG 4

/// Everything, request by request.
#define BLAZE_LOG_TRACE 5

/// Changes what an engine logs, and where, while it works. Keys that are not given, or null, stay as they are; the same keys
/// in "log" of blaze_engine_create say how it begins. By default nothing is logged.
///
/// @param engine    The engine.
/// @param log_json  A JSON object, UTF-8, read during the call only:
///                  "level" ("warn"): "off", "error", "warn", "info", "debug", "trace";
///                  "target" ("none"): "stderr"; "file"; "callback": blaze_log_set_callback's; "facade": the Rust crate
///                  log's, for hosts in Rust;
///                  "format" ("text"): "text" or "json", one object a line: "ts", "level", "module", "message", and
///                  fields such as "model" and "route". For "stderr" and "file";
///                  "modules" ({}): levels of modules that differ from "level", as in {"onnx": "debug"}: "model", "memory",
///                  "route", "repository", "onnx", "onnxruntime" (what ONNX Runtime itself says; a model that is loaded while
///                  this is at "warn" says no more later), "health", "profile", "tuning", "jobs", "deadlines", "other"; replaces what was there;
///                  "file": {"path", "max_bytes" (10485760: it is renamed to path.1 before it has more), "keep" (3: renamed
///                  files)}, opened anew by every call. Each engine needs a file of its own;
///                  "rate": {"per_second" (100: lines of each module and level; 0: no limit), "burst" (as many)}. What is
///                  more is dropped, and the next line says in "dropped" how many were;
///                  "global" (false): whether what this process says through the crate log, such as ONNX Runtime before it
///                  has a model, comes to this engine's log too, as "other" if it is not "onnxruntime". One engine at a time
///                  has it, and none if somebody else has installed a global logger.
/// @param err       Receives the reason of a failure; may be NULL. Nothing has changed then.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT (not UTF-8); INVALID_CONFIG (also a file that cannot be opened); INVALID_STATE
/// (from inside the callback).
blaze_status blaze_log_configure(blaze_engine *engine,
                                 const char *log_json,
                                 blaze_error *err);

/// Sets the function that receives lines while "target" is "callback". What an engine has said until its first one is set,
/// such as while blaze_engine_create loads its models, is kept (up to 1024 lines) and comes to it before this returns, on
/// this thread; the next line says in "lost" how many there was no room for. Without one nothing is logged later.
///
/// @param engine     The engine.
/// @param function   The function; NULL: none. The one before is not called any more when this has returned, and none when
///                   blaze_engine_destroy has.
/// @param user_data  Handed to the function.
/// @param err        Receives the reason of a failure; may be NULL.
///
/// Blocks while the function before is being called. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_STATE (from inside the callback).
blaze_status blaze_log_set_callback(blaze_engine *engine,
                                    blaze_log_function function,
                                    void *user_data,
                                    blaze_error *err);

/* Profiling ---------------------------------------------------------------------------------------------------- */

/// A form of blaze_profile_report.
typedef uint32_t blaze_report_format;

/// One JSON object.
#define BLAZE_REPORT_JSON 1

/// A trace in the trace event format: ui.perfetto.dev opens it, and chrome://tracing.
#define BLAZE_REPORT_TRACE 2

/// One HTML page with pictures, which needs nothing else.
#define BLAZE_REPORT_HTML 3

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
blaze_status blaze_profile_start(blaze_engine *engine,
                                 const char *json,
                                 blaze_error *err);

/// Stops profiling. What was recorded stays for reports, until the next start.
///
/// @param engine  The engine.
/// @param err     Receives the reason of a failure; may be NULL.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_STATE if it is not being profiled.
blaze_status blaze_profile_stop(blaze_engine *engine, blaze_error *err);

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
blaze_status blaze_profile_report(blaze_engine *engine,
                                  blaze_report_format format,
                                  char *buffer,
                                  size_t capacity,
                                  size_t *needed,
                                  blaze_error *err);

/* Tuning ------------------------------------------------------------------------------------------------------- */

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
blaze_status blaze_model_configure(blaze_engine *engine,
                                   blaze_model model,
                                   const char *json,
                                   blaze_error *err);

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
blaze_status blaze_tune(blaze_engine *engine,
                        const char *json,
                        blaze_queue *queue,
                        uint64_t user_data,
                        blaze_ticket *out,
                        blaze_error *err);

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
blaze_status blaze_tune_report(blaze_engine *engine,
                               char *buffer,
                               size_t capacity,
                               size_t *needed);

/* Backends ----------------------------------------------------------------------------------------------------- */

/// The version of the structs in this part, for their `abi`. What is compiled for another one is refused.
#define BLAZE_BACKEND_ABI 1

/// For blaze_host.take: what stays as long as the model does.
#define BLAZE_PURPOSE_WEIGHTS 0

/// For blaze_host.take: what is given back before long, and is kept by the engine for whoever wants as much next.
#define BLAZE_PURPOSE_BUFFERS 1

/// A load, a preparation, a run, or a request of a stepwise model: the engine's own. Valid until the function that it was
/// passed to returns; one that was passed to `begin`, until `end` returns.
typedef struct blaze_call blaze_call;

/// What a backend may ask of the engine. Made by the engine; it lives until the backend's `close` returns. Any thread may
/// call its functions, also from within the backend's, but not two at the same time for one call.
typedef struct blaze_host {
    /// The engine's sizeof(blaze_host).
    uint32_t struct_size;
    /// The engine's BLAZE_BACKEND_ABI.
    uint32_t abi;
    /// The engine's own.
    void *context;
    /// Returns 1 once nobody wants the result of a call: return CANCELLED as soon as is convenient.
    uint32_t (*is_cancelled)(const struct blaze_call *call);
    /// Makes memory for an output of a run in which its `data` is NULL, or of a stepwise request; it is the event's after
    /// that. `data` receives as many bytes as the output's dtype and the shape take. In host memory, or if the run asks
    /// for it (the output's `memory`) in a device's; as `take`, it may call functions of the backend's. Returns OK;
    /// INVALID_ARGUMENT; INVALID_SHAPE; OUT_OF_MEMORY; OVER_BUDGET.
    blaze_status (*output)(struct blaze_call *call,
                           uint32_t index,
                           const int64_t *shape,
                           uint32_t rank,
                           blaze_memory memory,
                           int32_t device,
                           void **data);
    /// Takes memory of a device, or pinned memory (BLAZE_MEMORY_PINNED), which comes from the backend's own `allocate`, is
    /// aligned to 64 and counts for the call's model: against the budget of the device, or of the host. If it does not fit,
    /// models that have nothing to do leave the device, and a load may wait for that: `report`, `release` and `unload` of
    /// other models, `allocate` and `free` are called before it returns, so that a backend must hold no lock which they
    /// take. Blocks of BLAZE_PURPOSE_BUFFERS may be kept ones, with anything in them. Not in `describe`. Returns NULL if
    /// there is none; the log says why.
    void *(*take)(struct blaze_call *call,
                  blaze_memory memory,
                  int32_t device,
                  size_t size_bytes,
                  uint32_t purpose);
    /// Gives back what `take` has returned; `free` may be called before it returns. What a model has is to be given back
    /// by the end of `unload`, or of a `load` that fails. What is left when the engine is destroyed and the last model
    /// unloaded is freed by `free`, before `close`.
    void (*give)(const struct blaze_host *host, void *address);
    /// Sends an event of a stepwise request: with text (at most 1 MiB, copied) BLAZE_EVENT_TOKEN, without
    /// BLAZE_EVENT_PROGRESS. `progress` is from 0 to 1; anything else: not known. The consumer gets what was sent since
    /// it last looked as one event. Returns OK; QUEUE_FULL: nothing was taken, since 1 MiB waits for the consumer: send
    /// it again in the request's next step, which comes when there is room; CANCELLED: nobody wants the result;
    /// INVALID_STATE: it is finished, or no stepwise request; INVALID_ARGUMENT; NULL_POINTER; OUT_OF_MEMORY.
    blaze_status (*emit)(struct blaze_call *call, const char *text, size_t text_bytes, float progress);
    /// Ends a stepwise request; `message` says why unless `status` is OK, and may be NULL. Outputs are made before. When the
    /// step (or `begin`) returns, `end` is called for it. Finishing it again does nothing.
    void (*finish)(struct blaze_call *call, blaze_status status, const char *message);
    /// Writes a line to the engine's log, at a level from BLAZE_LOG_ERROR to BLAZE_LOG_TRACE.
    void (*log)(const struct blaze_host *host, uint32_t level, const char *message);
} blaze_host;

/// What is to be loaded. Valid during the call.
typedef struct blaze_backend_load {
    /// The engine's sizeof(blaze_backend_load).
    uint32_t struct_size;
    /// Batches that may be run at once.
    uint32_t lanes;
    /// The most rows in a batch, or requests of a stepwise model at once.
    uint32_t max_rows;
    /// How many `buckets` there are.
    uint32_t buckets_count;
    /// The model's "name:version".
    const char *name;
    /// Its file, or NULL.
    const char *path;
    /// Its bytes, if it is loaded from memory, or NULL.
    const void *data;
    /// How many bytes.
    size_t data_bytes;
    /// The configuration's "options" as JSON: an object.
    const char *options;
    /// Rows that batches are padded to, rising; NULL: none.
    const uint32_t *buckets;
} blaze_backend_load;

/// Memory that many batches are run in, one after the other. Valid during the call; what the tensors' `data` points to, until
/// `release`.
typedef struct blaze_backend_batch {
    /// The engine's sizeof(blaze_backend_batch).
    uint32_t struct_size;
    /// Bytes from one tensor of an array to the next.
    uint32_t tensor_stride;
    /// 1: up to `max_rows` rows are joined along the first axis. 0: a single request, whose shapes are those given.
    uint32_t joined;
    /// The first size of the tensors, if rows are joined.
    uint32_t max_rows;
    /// How many `inputs`: all of the model's.
    uint32_t inputs_count;
    /// How many `outputs`: all of the model's, or 0: their shapes are not known.
    uint32_t outputs_count;
    /// For each input all of its memory, in which requests may be already: it is not to be written to. `data` NULL: an
    /// optional input that is not given.
    const blaze_tensor *inputs;
    /// For each output all of its memory.
    const blaze_tensor *outputs;
} blaze_backend_batch;

/// What is to be run, or begun. Valid during the call, but for `begin`: until `end`.
typedef struct blaze_backend_run {
    /// The engine's sizeof(blaze_backend_run).
    uint32_t struct_size;
    /// Bytes from one tensor of an array to the next.
    uint32_t tensor_stride;
    /// Rows to run: those that are joined; of a request alone, the first size of its inputs, if all have the same and the
    /// model leaves it open, and 1 otherwise. What counts are the tensors' shapes and sizes.
    uint32_t rows;
    /// The first of them in the memory that was prepared; the tensors begin there.
    uint32_t first_row;
    /// How many `inputs`: all of the model's.
    uint32_t inputs_count;
    /// How many `outputs`: all of the model's.
    uint32_t outputs_count;
    /// In the model's order. `data` NULL: an optional input that is not given.
    const blaze_tensor *inputs;
    /// In the model's order: where results are to be written. `data` NULL: ask blaze_host.output for memory.
    const blaze_tensor *outputs;
} blaze_backend_run;

/// A backend: how to load and run a kind of model. Start from BLAZE_BACKEND_INIT. Functions may be called from any
/// thread, and several at once, but for one prepared memory, and for one model's steps, one at a time. None may call into
/// Blaze but by blaze_host, and none may throw or unwind. What fails says why in `err`, which is never NULL. Optional
/// ones may be NULL.
typedef struct blaze_backend {
    /// sizeof(blaze_backend).
    uint32_t struct_size;
    /// BLAZE_BACKEND_ABI.
    uint32_t abi;
    /// What models' "backend" says, not "onnx" or "mock"; copied.
    const char *name;
    /// Passed to all functions.
    void *user;
    /// Told once, before anything else, what it may ask. Optional.
    void (*open)(void *user, const struct blaze_host *host);
    /// Loads a model. MODEL_NOT_FOUND, MODEL_INVALID, MODEL_UNSUPPORTED, INVALID_CONFIG, OUT_OF_MEMORY, OVER_BUDGET,
    /// DEVICE_LOST, BACKEND_UNAVAILABLE and CANCELLED are passed on to the host as they are.
    blaze_status (*load)(void *user,
                         const struct blaze_backend_load *load,
                         struct blaze_call *call,
                         void **model,
                         blaze_error *err);
    /// Describes a model as JSON, by the two-call pattern: "inputs" and "outputs" ("name", "dtype", "shape": sizes, and
    /// names for those that vary; "optional" for inputs), and if they differ from the defaults "rows_are_independent"
    /// (false: the engine finds out by runs), "on_cpu" (true: a run keeps a core busy), "memory_bytes" (0: host memory
    /// that it takes), "provider" (the backend's name), "devices" ([]: whose memory requests' tensors may be in),
    /// "batch_memory" ("host", or "pinned": where batches are to be, by `allocate`).
    blaze_status (*describe)(void *user, void *model, char *buffer, size_t capacity, size_t *needed);
    /// Frees a model. Nothing of it is prepared or under way any more.
    void (*unload)(void *user, void *model);
    /// Makes ready what runs in some memory need. Optional.
    blaze_status (*prepare)(void *user,
                            void *model,
                            const struct blaze_backend_batch *batch,
                            struct blaze_call *call,
                            void **prepared,
                            blaze_error *err);
    /// Frees what `prepare` has made; required with it.
    void (*release)(void *user, void *model, void *prepared);
    /// Runs a batch, or a request's own tensors, for which `prepared` is NULL. Required unless `begin` is there.
    blaze_status (*run)(void *user,
                        void *model,
                        void *prepared,
                        const struct blaze_backend_run *run,
                        struct blaze_call *call,
                        blaze_error *err);
    /// Begins a request of a stepwise model; `state` receives what stands for it, not NULL. What `run` points to is valid
    /// until `end`; outputs are made by blaze_host.output. With `begin`, `step` and `end` the backend's models are
    /// stepwise, and `run` is not called. A request whose `begin` fails is not ended.
    blaze_status (*begin)(void *user,
                          void *model,
                          const struct blaze_backend_run *run,
                          struct blaze_call *call,
                          void **state,
                          blaze_error *err);
    /// Advances requests that were begun by one step, and says for each what came of it by `emit`, `output` and `finish`.
    /// These are all that are under way, but for those whose consumers are slow: see `emit`. If the step itself fails, so do
    /// all of them.
    blaze_status (*step)(void *user, void *model, void *const *states, uint32_t count, blaze_error *err);
    /// Frees what `begin` has made: it is finished, cancelled or expired.
    void (*end)(void *user, void *model, void *state);
    /// Gives the engine's pools memory of a device (BLAZE_MEMORY_CUDA), or host memory that a device reaches
    /// (BLAZE_MEMORY_PINNED), aligned to 64, at an address that no other block has, of whichever device; NULL: there is
    /// none. Pinned memory stays the host's to read and write until `free`, even if the device is lost. Optional.
    void *(*allocate)(void *user, blaze_memory memory, int32_t device, size_t size_bytes);
    /// Takes it back; required with `allocate`. When a function has returned DEVICE_LOST, all of the backend's device memory
    /// comes back, sooner or later, also what is gone with its device, and none of it is used again.
    void (*free)(void *user, blaze_memory memory, int32_t device, void *address, size_t size_bytes);
    /// Describes the backend as JSON for health and metrics, by the two-call pattern: {"devices": [{"device", "name",
    /// "state" ("ready", "lost"), "reason", "losses", "memory": {"total_bytes", "free_bytes"}, "utilization" (0 to 1, or
    /// null), "streams": [{"busy_ns", "runs"}]}]}; what is not known may be left out. Optional.
    blaze_status (*report)(void *user, char *buffer, size_t capacity, size_t *needed);
    /// Frees the backend: its engine is destroyed, and no event that is not yet released is left with outputs in its memory.
    /// A plugin's that the engine refuses is closed without having been opened. Optional.
    void (*close)(void *user);
} blaze_backend;

/// Makes a backend of the host's known to an engine: models whose "backend" is its name are loaded and run by it. It stays
/// until the engine is destroyed and no event has memory of its, and then its `close` is called. If it is refused, none of its
/// functions is called.
///
/// @param engine   The engine.
/// @param backend  The backend; copied. What `user` points to must live until `close`.
/// @param err      Receives the reason of a failure; may be NULL.
///
/// Blocks as long as its `open`. Threads: any.
/// Returns OK; NULL_POINTER (also a function that is missing); INVALID_STRUCT; INVALID_ARGUMENT; ALREADY_EXISTS; UNSUPPORTED;
/// SHUT_DOWN.
blaze_status blaze_backend_register(blaze_engine *engine,
                                    const struct blaze_backend *backend,
                                    blaze_error *err);

/* Values to start from --------------------------------------------------------------------------------------- */

/* struct_size is set, everything else is zero. */
#define BLAZE_ALLOCATOR_INIT {sizeof(blaze_allocator), 0, NULL, NULL, NULL}
#define BLAZE_TENSOR_INIT {sizeof(blaze_tensor), 0, NULL, NULL, 0, 0, 0, 0, NULL, 0}
#define BLAZE_REQUEST_INIT {sizeof(blaze_request), 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0, 0}
#define BLAZE_EVENT_INIT \
    {sizeof(blaze_event), 0, 0, 0, 0, 0, 0, {0, 0, 0, 0, 0}, NULL, 0, 0.0f, 0, NULL}
#define BLAZE_BACKEND_INIT \
    {sizeof(blaze_backend), BLAZE_BACKEND_ABI, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
     NULL, NULL, NULL}
#define BLAZE_HEALTH_INFO_INIT {sizeof(blaze_health_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
#define BLAZE_METRICS_INFO_INIT \
    {sizeof(blaze_metrics_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0, 0, 0, 0}, 0, {0, 0, 0, 0}, {0, 0, 0, 0}, \
     {0, 0, 0, 0}, {0, 0, 0, 0}, 0, 0, 0}

/* What a plugin exports; it defines BLAZE_PLUGIN before it includes this header. ----------------------------------- */

#ifdef BLAZE_PLUGIN
#ifdef _WIN32
#define BLAZE_PLUGIN_EXPORT __declspec(dllexport)
#else
#define BLAZE_PLUGIN_EXPORT __attribute__((visibility("default")))
#endif

/* Returns BLAZE_BACKEND_ABI. */
BLAZE_PLUGIN_EXPORT uint32_t blaze_plugin_abi(void);

/* Makes the plugin's backend for an engine, whose configuration of the plugin, "config", is in `config_json`: valid during
 * the call. `backend` is zeroed, with struct_size set, and to be filled in. What fails says why in `err`, which is never
 * NULL; BACKEND_UNAVAILABLE: it cannot work on this machine, and an engine that does not require it goes on without. */
BLAZE_PLUGIN_EXPORT blaze_status blaze_plugin_open(const char *config_json, blaze_backend *backend, blaze_error *err);
#endif

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* BLAZE_H */
