//! Backends of the host's and of plugins: the functions that run a kind of model, and what they may ask of the engine.

use super::status::{blaze_error, blaze_status};
use super::tensor::{blaze_memory, blaze_tensor};
use std::ffi::{c_char, c_void};

/// The version of the structs in this part, for their `abi`. What is compiled for another one is refused.
pub const BLAZE_BACKEND_ABI: u32 = 1;

/// For blaze_host.take: what stays as long as the model does.
pub const BLAZE_PURPOSE_WEIGHTS: u32 = 0;
/// For blaze_host.take: what is given back before long, and is kept by the engine for whoever wants as much next.
pub const BLAZE_PURPOSE_BUFFERS: u32 = 1;

/// A load, a preparation, a run, or a request of a stepwise model: the engine's own. Valid until the function that it was
/// passed to returns; one that was passed to `begin`, until `end` returns.
pub struct blaze_call {
    _opaque: (),
}

/// What a backend may ask of the engine. Made by the engine; it lives until the backend's `close` returns. Any thread may
/// call its functions, also from within the backend's, but not two at the same time for one call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_host {
    /// The engine's sizeof(blaze_host).
    pub struct_size: u32,
    /// The engine's BLAZE_BACKEND_ABI.
    pub abi: u32,
    /// The engine's own.
    pub context: *mut c_void,
    /// Returns 1 once nobody wants the result of a call: return CANCELLED as soon as is convenient.
    pub is_cancelled: Option<unsafe extern "C" fn(call: *const blaze_call) -> u32>,
    /// Makes memory for an output of a run in which its `data` is NULL, or of a stepwise request; it is the event's after
    /// that. `data` receives as many bytes as the output's dtype and the shape take. In host memory, or if the run asks
    /// for it (the output's `memory`) in a device's; as `take`, it may call functions of the backend's. Returns OK;
    /// INVALID_ARGUMENT; INVALID_SHAPE; OUT_OF_MEMORY; OVER_BUDGET.
    pub output: Option<
        unsafe extern "C" fn(
            call: *mut blaze_call,
            index: u32,
            shape: *const i64,
            rank: u32,
            memory: blaze_memory,
            device: i32,
            data: *mut *mut c_void,
        ) -> blaze_status,
    >,
    /// Takes memory of a device, or pinned memory (BLAZE_MEMORY_PINNED), which comes from the backend's own `allocate`, is
    /// aligned to 64 and counts for the call's model: against the budget of the device, or of the host. If it does not fit,
    /// models that have nothing to do leave the device, and a load may wait for that: `report`, `release` and `unload` of
    /// other models, `allocate` and `free` are called before it returns, so that a backend must hold no lock which they
    /// take. Blocks of BLAZE_PURPOSE_BUFFERS may be kept ones, with anything in them. Not in `describe`. Returns NULL if
    /// there is none; the log says why.
    pub take: Option<
        unsafe extern "C" fn(
            call: *mut blaze_call,
            memory: blaze_memory,
            device: i32,
            size_bytes: usize,
            purpose: u32,
        ) -> *mut c_void,
    >,
    /// Gives back what `take` has returned; `free` may be called before it returns. What a model has is to be given back
    /// by the end of `unload`, or of a `load` that fails. What is left when the engine is destroyed and the last model
    /// unloaded is freed by `free`, before `close`.
    pub give: Option<unsafe extern "C" fn(host: *const blaze_host, address: *mut c_void)>,
    /// Sends an event of a stepwise request: with text (at most 1 MiB, copied) BLAZE_EVENT_TOKEN, without
    /// BLAZE_EVENT_PROGRESS. `progress` is from 0 to 1; anything else: not known. The consumer gets what was sent since
    /// it last looked as one event. Returns OK; QUEUE_FULL: nothing was taken, since 1 MiB waits for the consumer: send
    /// it again in the request's next step, which comes when there is room; CANCELLED: nobody wants the result;
    /// INVALID_STATE: it is finished, or no stepwise request; INVALID_ARGUMENT; NULL_POINTER; OUT_OF_MEMORY.
    pub emit: Option<
        unsafe extern "C" fn(
            call: *mut blaze_call,
            text: *const c_char,
            text_bytes: usize,
            progress: f32,
        ) -> blaze_status,
    >,
    /// Ends a stepwise request; `message` says why unless `status` is OK, and may be NULL. Outputs are made before. When the
    /// step (or `begin`) returns, `end` is called for it. Finishing it again does nothing.
    pub finish:
        Option<unsafe extern "C" fn(call: *mut blaze_call, status: blaze_status, message: *const c_char)>,
    /// Writes a line to the engine's log, at a level from BLAZE_LOG_ERROR to BLAZE_LOG_TRACE.
    pub log: Option<unsafe extern "C" fn(host: *const blaze_host, level: u32, message: *const c_char)>,
}

/// What is to be loaded. Valid during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_backend_load {
    /// The engine's sizeof(blaze_backend_load).
    pub struct_size: u32,
    /// Batches that may be run at once.
    pub lanes: u32,
    /// The most rows in a batch, or requests of a stepwise model at once.
    pub max_rows: u32,
    /// How many `buckets` there are.
    pub buckets_count: u32,
    /// The model's "name:version".
    pub name: *const c_char,
    /// Its file, or NULL.
    pub path: *const c_char,
    /// Its bytes, if it is loaded from memory, or NULL.
    pub data: *const c_void,
    /// How many bytes.
    pub data_bytes: usize,
    /// The configuration's "options" as JSON: an object.
    pub options: *const c_char,
    /// Rows that batches are padded to, rising; NULL: none.
    pub buckets: *const u32,
}

/// Memory that many batches are run in, one after the other. Valid during the call; what the tensors' `data` points to, until
/// `release`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_backend_batch {
    /// The engine's sizeof(blaze_backend_batch).
    pub struct_size: u32,
    /// Bytes from one tensor of an array to the next.
    pub tensor_stride: u32,
    /// 1: up to `max_rows` rows are joined along the first axis. 0: a single request, whose shapes are those given.
    pub joined: u32,
    /// The first size of the tensors, if rows are joined.
    pub max_rows: u32,
    /// How many `inputs`: all of the model's.
    pub inputs_count: u32,
    /// How many `outputs`: all of the model's, or 0: their shapes are not known.
    pub outputs_count: u32,
    /// For each input all of its memory, in which requests may be already: it is not to be written to. `data` NULL: an
    /// optional input that is not given.
    pub inputs: *const blaze_tensor,
    /// For each output all of its memory.
    pub outputs: *const blaze_tensor,
}

/// What is to be run, or begun. Valid during the call, but for `begin`: until `end`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_backend_run {
    /// The engine's sizeof(blaze_backend_run).
    pub struct_size: u32,
    /// Bytes from one tensor of an array to the next.
    pub tensor_stride: u32,
    /// Rows to run: those that are joined; of a request alone, the first size of its inputs, if all have the same and the
    /// model leaves it open, and 1 otherwise. What counts are the tensors' shapes and sizes.
    pub rows: u32,
    /// The first of them in the memory that was prepared; the tensors begin there.
    pub first_row: u32,
    /// How many `inputs`: all of the model's.
    pub inputs_count: u32,
    /// How many `outputs`: all of the model's.
    pub outputs_count: u32,
    /// In the model's order. `data` NULL: an optional input that is not given.
    pub inputs: *const blaze_tensor,
    /// In the model's order: where results are to be written. `data` NULL: ask blaze_host.output for memory.
    pub outputs: *const blaze_tensor,
}

/// A backend: how to load and run a kind of model. Start from BLAZE_BACKEND_INIT. Functions may be called from any
/// thread, and several at once, but for one prepared memory, and for one model's steps, one at a time. None may call into
/// Blaze but by blaze_host, and none may throw or unwind. What fails says why in `err`, which is never NULL. Optional
/// ones may be NULL.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_backend {
    /// sizeof(blaze_backend).
    pub struct_size: u32,
    /// BLAZE_BACKEND_ABI.
    pub abi: u32,
    /// What models' "backend" says, not "onnx" or "mock"; copied.
    pub name: *const c_char,
    /// Passed to all functions.
    pub user: *mut c_void,
    /// Told once, before anything else, what it may ask. Optional.
    pub open: Option<unsafe extern "C" fn(user: *mut c_void, host: *const blaze_host)>,
    /// Loads a model. MODEL_NOT_FOUND, MODEL_INVALID, MODEL_UNSUPPORTED, INVALID_CONFIG, OUT_OF_MEMORY, OVER_BUDGET,
    /// DEVICE_LOST, BACKEND_UNAVAILABLE and CANCELLED are passed on to the host as they are.
    pub load: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            load: *const blaze_backend_load,
            call: *mut blaze_call,
            model: *mut *mut c_void,
            err: *mut blaze_error,
        ) -> blaze_status,
    >,
    /// Describes a model as JSON, by the two-call pattern: "inputs" and "outputs" ("name", "dtype", "shape": sizes, and
    /// names for those that vary; "optional" for inputs), and if they differ from the defaults "rows_are_independent"
    /// (false: the engine finds out by runs), "on_cpu" (true: a run keeps a core busy), "memory_bytes" (0: host memory
    /// that it takes), "provider" (the backend's name), "devices" ([]: whose memory requests' tensors may be in),
    /// "batch_memory" ("host", or "pinned": where batches are to be, by `allocate`).
    pub describe: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            model: *mut c_void,
            buffer: *mut c_char,
            capacity: usize,
            needed: *mut usize,
        ) -> blaze_status,
    >,
    /// Frees a model. Nothing of it is prepared or under way any more.
    pub unload: Option<unsafe extern "C" fn(user: *mut c_void, model: *mut c_void)>,
    /// Makes ready what runs in some memory need. Optional.
    pub prepare: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            model: *mut c_void,
            batch: *const blaze_backend_batch,
            call: *mut blaze_call,
            prepared: *mut *mut c_void,
            err: *mut blaze_error,
        ) -> blaze_status,
    >,
    /// Frees what `prepare` has made; required with it.
    pub release: Option<unsafe extern "C" fn(user: *mut c_void, model: *mut c_void, prepared: *mut c_void)>,
    /// Runs a batch, or a request's own tensors, for which `prepared` is NULL. Required unless `begin` is there.
    pub run: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            model: *mut c_void,
            prepared: *mut c_void,
            run: *const blaze_backend_run,
            call: *mut blaze_call,
            err: *mut blaze_error,
        ) -> blaze_status,
    >,
    /// Begins a request of a stepwise model; `state` receives what stands for it, not NULL. What `run` points to is valid
    /// until `end`; outputs are made by blaze_host.output. With `begin`, `step` and `end` the backend's models are
    /// stepwise, and `run` is not called. A request whose `begin` fails is not ended.
    pub begin: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            model: *mut c_void,
            run: *const blaze_backend_run,
            call: *mut blaze_call,
            state: *mut *mut c_void,
            err: *mut blaze_error,
        ) -> blaze_status,
    >,
    /// Advances requests that were begun by one step, and says for each what came of it by `emit`, `output` and `finish`.
    /// These are all that are under way, but for those whose consumers are slow: see `emit`. If the step itself fails, so do
    /// all of them.
    pub step: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            model: *mut c_void,
            states: *const *mut c_void,
            count: u32,
            err: *mut blaze_error,
        ) -> blaze_status,
    >,
    /// Frees what `begin` has made: it is finished, cancelled or expired.
    pub end: Option<unsafe extern "C" fn(user: *mut c_void, model: *mut c_void, state: *mut c_void)>,
    /// Gives the engine's pools memory of a device (BLAZE_MEMORY_CUDA), or host memory that a device reaches
    /// (BLAZE_MEMORY_PINNED), aligned to 64, at an address that no other block has, of whichever device; NULL: there is
    /// none. Pinned memory stays the host's to read and write until `free`, even if the device is lost. Optional.
    pub allocate: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            memory: blaze_memory,
            device: i32,
            size_bytes: usize,
        ) -> *mut c_void,
    >,
    /// Takes it back; required with `allocate`. When a function has returned DEVICE_LOST, all of the backend's device memory
    /// comes back, sooner or later, also what is gone with its device, and none of it is used again.
    pub free: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            memory: blaze_memory,
            device: i32,
            address: *mut c_void,
            size_bytes: usize,
        ),
    >,
    /// Describes the backend as JSON for health and metrics, by the two-call pattern: {"devices": [{"device", "name",
    /// "state" ("ready", "lost"), "reason", "losses", "memory": {"total_bytes", "free_bytes"}, "utilization" (0 to 1, or
    /// null), "streams": [{"busy_ns", "runs"}]}]}; what is not known may be left out. Optional.
    pub report: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            buffer: *mut c_char,
            capacity: usize,
            needed: *mut usize,
        ) -> blaze_status,
    >,
    /// Frees the backend: its engine is destroyed, and no event that is not yet released is left with outputs in its memory.
    /// A plugin's that the engine refuses is closed without having been opened. Optional.
    pub close: Option<unsafe extern "C" fn(user: *mut c_void)>,
}
