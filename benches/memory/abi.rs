//! Blaze as a C host sees it: every call here is one of the exported functions of the C ABI.
#![allow(unsafe_code)]

use crate::mlp::Known;
use blaze::ffi::engine::{blaze_engine_create, blaze_engine_destroy, blaze_engine_trim};
use blaze::ffi::event::{BLAZE_EVENT_DONE, blaze_event, blaze_event_output, blaze_event_release};
use blaze::ffi::handles::{blaze_engine, blaze_model, blaze_queue, blaze_ticket};
use blaze::ffi::model::{
    blaze_model_find, blaze_model_load, blaze_model_load_async, blaze_model_unload, blaze_repository_rescan,
};
use blaze::ffi::queue::{blaze_queue_create, blaze_queue_destroy, blaze_wait};
use blaze::ffi::reports::{
    BLAZE_METRICS_JSON, blaze_health, blaze_health_info, blaze_health_json, blaze_metrics_text,
};
use blaze::ffi::request::{blaze_cancel, blaze_infer, blaze_request, blaze_submit};
use blaze::ffi::status::{BLAZE_STATUS_OK, blaze_error, blaze_status};
use blaze::ffi::tensor::{BLAZE_DTYPE_F32, blaze_tensor};
use serde_json::Value;
use std::ffi::{CStr, CString, c_char};
use std::mem::zeroed;
use std::ptr::{null, null_mut};

/// How long anything may take before the run is given up: far longer than all that does not hang.
const PATIENCE_NS: u64 = 30_000_000_000;

/// Ends the process with a message, at once: threads may be stuck, and must not be waited for.
pub fn fail(message: &str) -> ! {
    eprintln!("memory: {message}");
    // SAFETY: ends the process without running anything.
    unsafe { libc::_exit(1) }
}

/// Why a call failed.
#[derive(Debug)]
pub struct Failure {
    pub status: blaze_status,
    pub reason: String,
}

pub type Result<T> = std::result::Result<T, Failure>;

fn result(status: blaze_status, reason: &blaze_error) -> Result<()> {
    if status == BLAZE_STATUS_OK {
        return Ok(());
    }
    // SAFETY: it was zeroed, and a failed call writes a string with a NUL at its end.
    let text = unsafe { CStr::from_ptr(reason.message.as_ptr()) };
    Err(Failure { status, reason: text.to_string_lossy().into_owned() })
}

/// The value of a call that must not fail.
pub fn must<T>(what: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|failure| fail(&format!("{what}: status {}: {}", failure.status, failure.reason)))
}

fn reason() -> blaze_error {
    // SAFETY: a plain struct of numbers, for which zero is a value.
    unsafe { zeroed() }
}

fn text(value: &Value) -> CString {
    CString::new(value.to_string()).expect("JSON has no NUL")
}

/// What an event came to.
pub struct Ended {
    pub ticket: blaze_ticket,
    pub user_data: u64,
    pub model: blaze_model,
    pub status: blaze_status,
    pub is_terminal: bool,
    /// The first output's values; none if it failed.
    pub output: Vec<f32>,
    pub text: String,
}

impl Ended {
    /// Reads an event and releases it.
    ///
    /// # Safety
    /// The event was written by Blaze, and is not released.
    unsafe fn take(event: &mut blaze_event) -> Ended {
        let mut ended = Ended {
            ticket: event.ticket,
            user_data: event.user_data,
            model: event.model,
            status: event.status,
            is_terminal: event.kind == BLAZE_EVENT_DONE,
            output: Vec::new(),
            text: String::new(),
        };
        // SAFETY: promised by the caller; the models' only output is a row of floats.
        unsafe {
            if !event.text.is_null() {
                ended.text = CStr::from_ptr(event.text).to_string_lossy().into_owned();
            }
            let mut view: blaze_tensor = zeroed();
            view.struct_size = size_of::<blaze_tensor>() as u32;
            if event.status == BLAZE_STATUS_OK
                && event.outputs_count > 0
                && blaze_event_output(event, 0, &mut view) == BLAZE_STATUS_OK
            {
                let count = view.size_bytes / size_of::<f32>();
                ended.output = std::slice::from_raw_parts(view.data.cast::<f32>(), count).to_vec();
            }
            blaze_event_release(event);
        }
        ended
    }
}

/// An engine. Declare it before its queues, so that it outlives them.
pub struct Engine(*mut blaze_engine);

// SAFETY: the header allows any thread to call with an engine; destroying takes it by value.
unsafe impl Send for Engine {}
// SAFETY: as above.
unsafe impl Sync for Engine {}

impl Engine {
    pub fn new(config: &Value) -> Engine {
        let (config, mut pointer, mut reason) = (text(config), null_mut(), reason());
        // SAFETY: the string is NUL-terminated, the pointers are good for writing.
        let status = unsafe { blaze_engine_create(config.as_ptr(), &mut pointer, &mut reason) };
        must("blaze_engine_create", result(status, &reason));
        Engine(pointer)
    }

    pub fn load(&self, config: &Value) -> Result<blaze_model> {
        let (config, mut handle, mut reason) = (text(config), 0, reason());
        // SAFETY: the engine lives, the string is NUL-terminated, the pointers are good for writing.
        let status = unsafe { blaze_model_load(self.0, config.as_ptr(), &mut handle, &mut reason) };
        result(status, &reason).map(|()| handle)
    }

    /// Unloads a model, and waits for the end of it.
    pub fn unload(&self, model: blaze_model) -> Result<()> {
        // SAFETY: the engine lives; both pointers may be NULL.
        let status = unsafe { blaze_model_unload(self.0, model, null_mut(), null_mut()) };
        result(status, &reason())
    }

    pub fn find(&self, name: &str) -> Result<blaze_model> {
        let (name, mut handle) = (CString::new(name).expect("a name has no NUL"), 0);
        // SAFETY: the engine lives, the string is NUL-terminated, the pointer is good for writing.
        let status = unsafe { blaze_model_find(self.0, name.as_ptr(), &mut handle) };
        result(status, &reason()).map(|()| handle)
    }

    /// Reads the repository again, and waits until all is done.
    pub fn rescan(&self) -> Result<()> {
        let mut reason = reason();
        // SAFETY: the engine lives; queue and ticket may be NULL.
        let status = unsafe { blaze_repository_rescan(self.0, null_mut(), 0, null_mut(), &mut reason) };
        result(status, &reason)
    }

    /// Whether there was something to cancel.
    pub fn cancel(&self, ticket: blaze_ticket) -> bool {
        // SAFETY: the engine lives.
        unsafe { blaze_cancel(self.0, ticket) == BLAZE_STATUS_OK }
    }

    pub fn trim(&self) {
        // SAFETY: the engine lives.
        must("blaze_engine_trim", result(unsafe { blaze_engine_trim(self.0) }, &reason()));
    }

    /// Runs a request to its end on this call.
    pub fn infer(&self, request: &Request) -> Result<Vec<f32>> {
        // SAFETY: the engine lives; a request's pointers stay good for as long as it does; the event was written.
        unsafe {
            let mut event: blaze_event = zeroed();
            event.struct_size = size_of::<blaze_event>() as u32;
            let mut reason = reason();
            let status = blaze_infer(self.0, &request.request, PATIENCE_NS, &mut event, &mut reason);
            result(status, &reason)?;
            Ok(Ended::take(&mut event).output)
        }
    }

    pub fn health(&self) -> Value {
        // SAFETY: the engine lives; the rest is `read`'s.
        read(|buffer, room, needed| unsafe { blaze_health_json(self.0, buffer, room, needed) })
    }

    pub fn metrics(&self) -> Value {
        read(|buffer, room, needed| {
            // SAFETY: the engine lives; the rest is `read`'s.
            unsafe { blaze_metrics_text(self.0, BLAZE_METRICS_JSON, buffer, room, needed) }
        })
    }

    /// Bytes in the ledger.
    pub fn used_bytes(&self) -> u64 {
        // SAFETY: the engine lives; a plain struct of numbers, for which zero is a value.
        unsafe {
            let mut info: blaze_health_info = zeroed();
            info.struct_size = size_of::<blaze_health_info>() as u32;
            must("blaze_health", result(blaze_health(self.0, &mut info), &reason()));
            info.memory_bytes
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: nothing uses the engine any more.
        unsafe { blaze_engine_destroy(self.0) }
    }
}

/// JSON from a function that writes text into a buffer.
fn read(write: impl Fn(*mut c_char, usize, *mut usize) -> blaze_status) -> Value {
    let (mut buffer, mut needed) = (Vec::<u8>::new(), 0);
    loop {
        let status = write(buffer.as_mut_ptr().cast(), buffer.len(), &mut needed);
        if status == BLAZE_STATUS_OK && !buffer.is_empty() {
            let json = CStr::from_bytes_until_nul(&buffer).expect("a NUL is at its end");
            return serde_json::from_slice(json.to_bytes()).expect("it is JSON");
        }
        // The text may grow from call to call.
        buffer.resize(needed + 1024, 0);
    }
}

/// A request of one row, ready to be submitted as often as wanted.
pub struct Request {
    request: blaze_request,
    /// What `request` points to. Boxed, so that it stays where it is.
    _tensor: Box<blaze_tensor>,
    _shape: Box<[i64; 2]>,
    _row: Box<[f32]>,
}

// SAFETY: the pointers lead to what the request itself owns, and nobody writes there.
unsafe impl Send for Request {}
// SAFETY: as above.
unsafe impl Sync for Request {}

impl Request {
    /// Asks a model what is known about it.
    pub fn new(handle: blaze_model, known: &Known) -> Request {
        let mut row: Box<[f32]> = known.row.clone().into_boxed_slice();
        let shape = Box::new([1, row.len() as i64]);
        // SAFETY: both are plain structs of numbers and pointers, for which zero is a value.
        let (mut tensor, mut request): (blaze_tensor, blaze_request) = unsafe { (zeroed(), zeroed()) };
        tensor.struct_size = size_of::<blaze_tensor>() as u32;
        tensor.dtype = BLAZE_DTYPE_F32;
        tensor.shape = shape.as_ptr();
        tensor.rank = 2;
        tensor.data = row.as_mut_ptr().cast();
        tensor.size_bytes = size_of_val(&*row);
        let tensor = Box::new(tensor);
        request.struct_size = size_of::<blaze_request>() as u32;
        request.model = handle;
        request.inputs = &raw const *tensor;
        request.inputs_count = 1;
        request.outputs = null();
        Request { request, _tensor: tensor, _shape: shape, _row: row }
    }
}

/// A completion queue, with room for the events that are taken from it.
pub struct Queue<'e> {
    engine: &'e Engine,
    pointer: *mut blaze_queue,
    events: Box<[blaze_event]>,
}

// SAFETY: one thread at a time uses a queue: taking events needs it exclusively.
unsafe impl Send for Queue<'_> {}

impl<'e> Queue<'e> {
    pub fn new(engine: &'e Engine, capacity: u32) -> Queue<'e> {
        let (mut pointer, mut reason) = (null_mut(), reason());
        // SAFETY: the engine lives, the pointers are good for writing.
        let status = unsafe { blaze_queue_create(engine.0, capacity, &mut pointer, &mut reason) };
        must("blaze_queue_create", result(status, &reason));
        // SAFETY: a plain struct of numbers and pointers, for which zero is a value.
        let events = vec![unsafe { zeroed() }; 64].into_boxed_slice();
        Queue { engine, pointer, events }
    }

    pub fn submit(&self, request: &mut Request, user_data: u64) -> Result<()> {
        request.request.user_data = user_data;
        let mut reason = reason();
        // SAFETY: engine and queue live; a request's pointers stay good for as long as it does.
        let status =
            unsafe { blaze_submit(self.engine.0, &request.request, self.pointer, null_mut(), &mut reason) };
        result(status, &reason)
    }

    pub fn load_async(&self, config: &Value, user_data: u64) -> Result<blaze_ticket> {
        let (config, mut ticket, mut reason) = (text(config), 0, reason());
        // SAFETY: engine and queue live, the string is NUL-terminated, the pointers are good for writing.
        let status = unsafe {
            let config = config.as_ptr();
            blaze_model_load_async(self.engine.0, config, self.pointer, user_data, &mut ticket, &mut reason)
        };
        result(status, &reason).map(|()| ticket)
    }

    /// Waits for events, reads and releases them.
    pub fn wait(&mut self, timeout_ns: u64, mut taken: impl FnMut(Ended)) -> usize {
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as u32);
        // SAFETY: the queue lives, and there is room for as many events.
        let count =
            unsafe { blaze_wait(self.pointer, events, size_of::<blaze_event>(), room, timeout_ns) } as usize;
        for event in &mut self.events[..count] {
            // SAFETY: it was just written.
            taken(unsafe { Ended::take(event) });
        }
        count
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        // SAFETY: nothing uses the queue any more.
        let status = unsafe { blaze_queue_destroy(self.pointer) };
        if status != BLAZE_STATUS_OK {
            fail(&format!("blaze_queue_destroy: status {status}: a measurement has left events behind"));
        }
    }
}
