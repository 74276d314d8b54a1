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
 *   functions are exclusive. Never call into Blaze in the child of a fork that does not exec.
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
    char message[1020];
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

/// A loaded model. Never 0, and never used again for another model, so a stale one is found out.
typedef uint64_t blaze_model;

/// A submitted piece of work. Never 0, and never used again for another one.
typedef uint64_t blaze_ticket;

/* Engines ------------------------------------------------------------------------------------------------------ */

/// Makes an engine, and loads the models that its configuration names.
///
/// @param config_json  The configuration: a JSON object, UTF-8, read during the call only; NULL: all defaults:
///                     "threads" (null: one for each lane; 0: none, see blaze_pump; N: at most N runs at once),
///                     "onnxruntime": {"library" (null: search), "intra_op_threads" (1)},
///                     "queue": {"capacity" (65536): requests alive from submit to the release of their event},
///                     "memory": {"budget_bytes" (null)}, "log": {"level" ("warn"), "target" ("none"; "stderr")},
///                     "model_directory" (null), "models" ([]): see blaze_model_load.
/// @param out          Receives the engine; destroy it with blaze_engine_destroy.
/// @param err          Receives the reason of a failure; may be NULL.
///
/// Blocks while models load. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT (not UTF-8); INVALID_CONFIG; what blaze_model_load returns.
blaze_status blaze_engine_create(const char *config_json,
                                 blaze_engine **out,
                                 blaze_error *err);

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
///                    "providers" (["cpu"]: tried in order), "batching": {"max_rows" (64; a larger request runs alone),
///                    "max_delay_us" (200), "priority_aging_ms" (50)}, "warmup" (true), "pinned" (false).
/// @param out         Receives the model.
/// @param err         Receives the reason of a failure; may be NULL.
///
/// Blocks while it loads; other models go on. Threads: any.
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
/// `model` field. blaze_cancel stops the load. On an engine made with "threads": 0 the load runs in blaze_pump.
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

/// Finds a loaded model by name.
///
/// @param engine  The engine.
/// @param name    "name" for its newest version, or "name:version".
/// @param out     Receives the model.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; NOT_FOUND.
blaze_status blaze_model_find(blaze_engine *engine, const char *name, blaze_model *out);

/// Describes a model as JSON: inputs and outputs with dtypes and shapes (a size, a name, or null for an axis that may
/// have any size), batching and why not, lanes, bytes, and the execution provider really used.
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
/// cannot be cancelled.
///
/// @param engine  The engine.
/// @param model   The model.
/// @param queue   Where the terminal event goes when all is done, with user_data 0; NULL: wait for that here.
/// @param out     Receives the unload's ticket; may be NULL, and is not written if `queue` is NULL.
///
/// Blocks if `queue` is NULL, until the model's requests have ended. Threads: any.
/// Returns OK; NULL_POINTER; NOT_FOUND; QUEUE_FULL; SHUT_DOWN; INVALID_ARGUMENT.
blaze_status blaze_model_unload(blaze_engine *engine,
                                blaze_model model,
                                blaze_queue *queue,
                                blaze_ticket *out);

/* Tensors ------------------------------------------------------------------------------------------------------ */

/// The most axes a tensor may have.
#define BLAZE_MAX_RANK 32

/// An element type, numbered as in ONNX.
typedef uint32_t blaze_dtype;

/// Where a tensor's memory is.
typedef uint32_t blaze_memory;

/// One element of a string tensor: UTF-8 by convention, not NUL-terminated.
typedef struct blaze_string {
    const char *data;
    size_t size_bytes;
} blaze_string;

/// A tensor: row-major elements, or a caller's buffer for them. Start from BLAZE_TENSOR_INIT.
typedef struct blaze_tensor {
    /// sizeof(blaze_tensor).
    uint32_t struct_size;
    blaze_dtype dtype;
    /// The input's or output's name in the model; NULL: by position.
    const char *name;
    /// Sizes of the axes, outermost first; may be NULL if rank is 0.
    const int64_t *shape;
    uint32_t rank;
    blaze_memory memory;
    /// The device's number, for device memory.
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

#define BLAZE_DTYPE_U8 2

#define BLAZE_DTYPE_I8 3

#define BLAZE_DTYPE_U16 4

#define BLAZE_DTYPE_I16 5

#define BLAZE_DTYPE_I32 6

#define BLAZE_DTYPE_I64 7

/// Strings: the data is an array of blaze_string.
#define BLAZE_DTYPE_STRING 8

/// One byte, 0 or 1.
#define BLAZE_DTYPE_BOOL 9

/// 16-bit IEEE float.
#define BLAZE_DTYPE_F16 10

/// 64-bit IEEE float.
#define BLAZE_DTYPE_F64 11

#define BLAZE_DTYPE_U32 12

#define BLAZE_DTYPE_U64 13

/// Two 32-bit floats.
#define BLAZE_DTYPE_COMPLEX64 14

/// Two 64-bit floats.
#define BLAZE_DTYPE_COMPLEX128 15

/// The upper 16 bits of a 32-bit float.
#define BLAZE_DTYPE_BF16 16

#define BLAZE_DTYPE_F8E4M3FN 17

#define BLAZE_DTYPE_F8E4M3FNUZ 18

#define BLAZE_DTYPE_F8E5M2 19

#define BLAZE_DTYPE_F8E5M2FNUZ 20

/// Two to a byte, the first in the low bits; so are the other types of less than a byte.
#define BLAZE_DTYPE_U4 21

#define BLAZE_DTYPE_I4 22

#define BLAZE_DTYPE_F4E2M1 23

#define BLAZE_DTYPE_F8E8M0 24

#define BLAZE_DTYPE_U2 25

#define BLAZE_DTYPE_I2 26

/// Ordinary memory of the process.
#define BLAZE_MEMORY_HOST 0

/// Page-locked host memory. Not supported by this version.
#define BLAZE_MEMORY_PINNED 1

/// Memory of a CUDA device. Not supported by this version.
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
    uint32_t reserved;
} blaze_timing;

/// Something that happened to a ticket. Written by blaze_poll, blaze_wait and blaze_infer; give it back with
/// blaze_event_release.
typedef struct blaze_event {
    /// Written by the library; set it to sizeof(blaze_event) (BLAZE_EVENT_INIT) for blaze_infer.
    uint32_t struct_size;
    blaze_event_kind kind;
    blaze_status status;
    /// BLAZE_EVENT_FLAG_MORE, BLAZE_EVENT_FLAG_BUFFERS_RELEASED
    uint32_t flags;
    blaze_ticket ticket;
    /// The request's.
    uint64_t user_data;
    /// The model that ran; for blaze_model_load_async the model that was loaded.
    blaze_model model;
    struct blaze_timing timing;
    /// What went wrong, NUL-terminated, or NULL. Valid until the event is released.
    const char *text;
    size_t text_bytes;
    /// From 0 to 1, in events of progress.
    float progress;
    /// How many outputs blaze_event_output can return.
    uint32_t outputs_count;
    /// The library's own.
    void *internal;
} blaze_event;

/// The ticket's work has ended: the one terminal event that every accepted ticket has; its status says how.
#define BLAZE_EVENT_DONE 1

/// Some of it is done. Not produced by this version.
#define BLAZE_EVENT_PROGRESS 2

/// A piece of generated text. Not produced by this version.
#define BLAZE_EVENT_TOKEN 3

/// Buffers lent with a request that was resolved early while it ran (cancelled, expired, shut down) are the host's
/// again. Its status is OK, and it has no outputs.
#define BLAZE_EVENT_BUFFERS_RELEASED 4

/// Returns a view of an output. Name, shape and data stay valid and unchanged until the event is released. The data is
/// in the caller's own buffer if the request gave one for this output.
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
/// Never blocks. Threads: any.
void blaze_event_release(struct blaze_event *event);

/* Requests ----------------------------------------------------------------------------------------------------- */

/// A flag of requests: input data is not copied. It stays the caller's, unchanged, until an event for the ticket
/// carries BLAZE_EVENT_FLAG_BUFFERS_RELEASED, and must be aligned to its element type.
#define BLAZE_REQUEST_BORROW 1

/// How urgent a request is. What waits long enough overtakes any priority.
typedef int32_t blaze_priority;

/// One piece of work. Start from BLAZE_REQUEST_INIT. Nothing in it needs to outlive the call, but for the data of
/// borrowed inputs and of output buffers.
typedef struct blaze_request {
    /// sizeof(blaze_request).
    uint32_t struct_size;
    /// BLAZE_REQUEST_BORROW or 0.
    uint32_t flags;
    blaze_model model;
    blaze_priority priority;
    /// Must be 0.
    uint32_t reserved;
    /// When the request is to be given up, on the clock of blaze_now_ns; 0: never.
    uint64_t deadline_ns;
    /// For routes with sticky sessions, which this version does not have: ignored.
    uint64_t session_id;
    /// For limits and quotas by tenant, which this version does not have: ignored.
    uint64_t tenant_id;
    /// Comes back in every event.
    uint64_t user_data;
    /// All with the same struct_size.
    const blaze_tensor *inputs;
    /// Memory of the caller's for some or all outputs; NULL: none. The outputs are written there, shape and rank
    /// are ignored, and the memory stays lent until the terminal event.
    const blaze_tensor *outputs;
    uint32_t inputs_count;
    uint32_t outputs_count;
} blaze_request;

#define BLAZE_PRIORITY_LOW -1

#define BLAZE_PRIORITY_NORMAL 0

#define BLAZE_PRIORITY_HIGH 1

#define BLAZE_PRIORITY_CRITICAL 2

/// Submits a request. If it is accepted, exactly one terminal event comes to `queue`; if not, none. The event's status
/// is OK; CANCELLED; EXPIRED; SHUT_DOWN; BUFFER_TOO_SMALL (an output buffer; others may have been written);
/// BACKEND_FAILED; OUT_OF_MEMORY; DEVICE_LOST; INTERNAL. If a run of several requests fails with BACKEND_FAILED, each is
/// run once more alone, so that one request's bad values do not fail the others.
///
/// @param engine   The engine.
/// @param request  The work. Descriptors are copied, and so is input data unless BLAZE_REQUEST_BORROW is set.
/// @param queue    Where the events go: a queue of this engine.
/// @param out      Receives the ticket, never before the request is accepted; may be NULL.
/// @param err      Receives the reason of a failure; may be NULL.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_STRUCT; INVALID_NAME; INVALID_DTYPE; INVALID_SHAPE; INVALID_SIZE;
/// UNSUPPORTED; NOT_FOUND (the model); SHUT_DOWN; QUEUE_FULL; OVER_BUDGET; OUT_OF_MEMORY.
blaze_status blaze_submit(blaze_engine *engine,
                          const struct blaze_request *request,
                          blaze_queue *queue,
                          blaze_ticket *out,
                          blaze_error *err);

/// Submits a request and waits for its end. Runs it on the calling thread if the model is idle, so that nothing is
/// handed over.
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
/// @param capacity  Events that may be promised or waiting at once, 1 to 16777216: one for each request in flight,
///                  two for a borrowing one. Submit fails with QUEUE_FULL rather than overflow it.
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
/// outstanding, and for NULL or a wrong stride.
uint32_t blaze_wait(blaze_queue *queue,
                    blaze_event *events,
                    size_t stride,
                    uint32_t capacity,
                    uint64_t timeout_ns);

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
    blaze_health_state state;
    /// 1 while requests are taken, 0 after shutdown.
    uint32_t accepting;
    uint32_t models_ready;
    uint32_t models_degraded;
    uint32_t models_failed;
    /// Requests that no lane has taken yet.
    uint64_t queue_depth;
    /// Accepted tickets without a terminal event.
    uint64_t in_flight;
    /// Bytes in the engine's ledger: models, by the size of their files, and copied inputs.
    uint64_t memory_bytes;
} blaze_health_info;

/// The quantiles of a duration since the engine was made, in nanoseconds, at most 3 % too high.
typedef struct blaze_quantiles {
    uint64_t p50_ns;
    uint64_t p90_ns;
    uint64_t p99_ns;
    uint64_t p999_ns;
} blaze_quantiles;

/// An engine's counters since it was made. Start from BLAZE_METRICS_INFO_INIT.
typedef struct blaze_metrics_info {
    /// sizeof(blaze_metrics_info).
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t requests_accepted;
    /// Submits that were refused.
    uint64_t requests_rejected;
    uint64_t requests_ok;
    uint64_t requests_failed;
    uint64_t requests_cancelled;
    uint64_t requests_expired;
    uint64_t requests_shut_down;
    uint64_t batches;
    /// Rows in all batches; divided by `batches`, the mean batch size.
    uint64_t rows;
    uint64_t in_flight;
    uint64_t queue_depth;
    uint64_t memory_bytes;
    /// From submit to the end, of requests that ended well.
    struct blaze_quantiles duration;
    uint64_t duration_max_ns;
    /// From submit until a lane took the request.
    struct blaze_quantiles queued;
    /// Inside the backend, per batch.
    struct blaze_quantiles computed;
} blaze_metrics_info;

/// A form of blaze_metrics_text.
typedef uint32_t blaze_metrics_format;

/// Every model is ready, and requests are taken.
#define BLAZE_HEALTH_OK 1

/// The latest run of some model failed.
#define BLAZE_HEALTH_DEGRADED 2

/// No model works, or the engine is shut down.
#define BLAZE_HEALTH_FAILED 3

/// Prometheus' text exposition format, version 0.0.4.
#define BLAZE_METRICS_PROMETHEUS 1

/// One JSON object.
#define BLAZE_METRICS_JSON 2

/// Says how an engine is.
///
/// @param engine  The engine.
/// @param out     Receives the answer; set its struct_size (BLAZE_HEALTH_INFO_INIT).
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_STRUCT.
blaze_status blaze_health(blaze_engine *engine, struct blaze_health_info *out);

/// The same as JSON, with every model's state and provider, and the ONNX Runtime library in use.
///
/// @param engine    The engine.
/// @param buffer    Receives the text, NUL-terminated; NULL with capacity 0: only `needed` is written.
/// @param capacity  Bytes at `buffer`.
/// @param needed    Receives the bytes that the text takes with its NUL, also on BUFFER_TOO_SMALL; may be NULL.
///
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
/// @param format    BLAZE_METRICS_PROMETHEUS or BLAZE_METRICS_JSON.
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

/* Values to start from --------------------------------------------------------------------------------------- */

/* struct_size is set, everything else is zero. */
#define BLAZE_TENSOR_INIT {sizeof(blaze_tensor), 0, NULL, NULL, 0, 0, 0, 0, NULL, 0}
#define BLAZE_REQUEST_INIT {sizeof(blaze_request), 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0}
#define BLAZE_EVENT_INIT \
    {sizeof(blaze_event), 0, 0, 0, 0, 0, 0, {0, 0, 0, 0, 0}, NULL, 0, 0.0f, 0, NULL}
#define BLAZE_HEALTH_INFO_INIT {sizeof(blaze_health_info), 0, 0, 0, 0, 0, 0, 0, 0}
#define BLAZE_METRICS_INFO_INIT \
    {sizeof(blaze_metrics_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0, 0, 0, 0}, 0, {0, 0, 0, 0}, {0, 0, 0, 0}}

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* BLAZE_H */
