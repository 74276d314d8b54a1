//! Blaze as a C host sees it: every call here is one of the exported functions of the C ABI.
//!
//! They are linked in statically, so that the heap can be watched, and ONNX Runtime be shared with the baselines.
#![allow(unsafe_code)]

use crate::models::Model;
use blaze::ffi::engine::{blaze_engine_create, blaze_engine_destroy};
use blaze::ffi::event::{blaze_event, blaze_event_output, blaze_event_release};
use blaze::ffi::handles::{blaze_engine, blaze_model, blaze_queue, blaze_ticket};
use blaze::ffi::model::blaze_model_load;
use blaze::ffi::queue::{blaze_poll, blaze_queue_create, blaze_queue_destroy, blaze_wait};
use blaze::ffi::request::{blaze_infer, blaze_request, blaze_submit};
use blaze::ffi::status::{BLAZE_STATUS_OK, BLAZE_STATUS_QUEUE_FULL, blaze_error, blaze_status};
use blaze::ffi::tensor::{BLAZE_DTYPE_F32, blaze_tensor};
use std::ffi::{CStr, CString};
use std::hint::black_box;
use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;

/// How long anything may take before the run is given up: far longer than all that does not hang.
const PATIENCE_NS: u64 = 5_000_000_000;

/// How many events are taken at once.
const EVENTS: usize = 256;

/// Ends the process with a message, at once: threads may be stuck, and must not be waited for.
pub fn fail(message: &str) -> ! {
    eprintln!("throughput: {message}");
    // SAFETY: ends the process without running anything.
    unsafe { libc::_exit(1) }
}

/// The functions that are called for every request, behind pointers that the compiler does not see through: in a
/// host they come from a shared library, so nothing of Blaze may be inlined into the loops that measure it.
struct Functions {
    submit: unsafe extern "C" fn(
        *mut blaze_engine,
        *const blaze_request,
        *mut blaze_queue,
        *mut blaze_ticket,
        *mut blaze_error,
    ) -> blaze_status,
    infer: unsafe extern "C" fn(
        *mut blaze_engine,
        *const blaze_request,
        u64,
        *mut blaze_event,
        *mut blaze_error,
    ) -> blaze_status,
    wait: unsafe extern "C" fn(*mut blaze_queue, *mut blaze_event, usize, u32, u64) -> u32,
    poll: unsafe extern "C" fn(*mut blaze_queue, *mut blaze_event, usize, u32) -> u32,
    output: unsafe extern "C" fn(*const blaze_event, u32, *mut blaze_tensor) -> blaze_status,
    release: unsafe extern "C" fn(*mut blaze_event),
}

static FUNCTIONS: Functions = Functions {
    submit: blaze_submit,
    infer: blaze_infer,
    wait: blaze_wait,
    poll: blaze_poll,
    output: blaze_event_output,
    release: blaze_event_release,
};

/// Memory for the reason of a failure. It is written on failure only, so making one costs nothing.
struct Reason(MaybeUninit<blaze_error>);

impl Reason {
    fn new() -> Self {
        Reason(MaybeUninit::uninit())
    }

    fn pointer(&mut self) -> *mut blaze_error {
        self.0.as_mut_ptr()
    }

    /// Fails with the reason unless `status` is OK.
    fn check(&self, what: &str, status: blaze_status) {
        if status != BLAZE_STATUS_OK {
            // SAFETY: the call failed, so it has written the reason, with a NUL at its end.
            let message = unsafe { CStr::from_ptr((*self.0.as_ptr()).message.as_ptr()) };
            fail(&format!("{what}: status {status}: {}", message.to_string_lossy()));
        }
    }
}

/// An engine. Declare it before its queues, so that it outlives them.
pub struct Engine {
    pointer: *mut blaze_engine,
    functions: &'static Functions,
}

// SAFETY: the header allows any thread to call with an engine; destroying takes it by value.
unsafe impl Send for Engine {}
// SAFETY: as above.
unsafe impl Sync for Engine {}

impl Engine {
    pub fn new() -> Engine {
        let (mut pointer, mut reason) = (null_mut(), Reason::new());
        // SAFETY: the string is NUL-terminated, the pointers are good for writing.
        let status = unsafe { blaze_engine_create(c"{}".as_ptr(), &mut pointer, reason.pointer()) };
        reason.check("blaze_engine_create", status);
        Engine { pointer, functions: black_box(&FUNCTIONS) }
    }

    /// Loads a model under a name of its own.
    pub fn load_as(&self, model: &Model, name: &str) -> blaze_model {
        let config = serde_json::json!({
            "name": name, "path": model.path(), "batching": {"max_rows": crate::models::MAX_ROWS},
        });
        let config = CString::new(config.to_string()).expect("JSON has no NUL");
        let (mut handle, mut reason) = (0, Reason::new());
        // SAFETY: the engine lives, the string is NUL-terminated, the pointers are good for writing.
        let status =
            unsafe { blaze_model_load(self.pointer, config.as_ptr(), &mut handle, reason.pointer()) };
        reason.check("blaze_model_load", status);
        handle
    }

    /// Loads a model, and describes a request of one row to it.
    pub fn request(&self, model: &Model) -> Request {
        Request::new(self.load_as(model, model.name), model)
    }

    /// Runs a request to its end on this call, and looks at its output.
    pub fn infer(&self, request: &Request) {
        // SAFETY: the engine lives; a request's pointers stay good for as long as it does; the event is released.
        unsafe {
            let mut event: blaze_event = zeroed();
            event.struct_size = size_of::<blaze_event>() as u32;
            let mut reason = Reason::new();
            let infer = self.functions.infer;
            let status = infer(self.pointer, &request.request, PATIENCE_NS, &mut event, reason.pointer());
            reason.check("blaze_infer", status);
            look_at(self.functions, &event);
            (self.functions.release)(&mut event);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: nothing uses the engine any more.
        unsafe { blaze_engine_destroy(self.pointer) }
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

impl Request {
    pub fn new(handle: blaze_model, model: &Model) -> Request {
        let mut row = model.rows(1).into_boxed_slice();
        let shape = Box::new([1, model.inputs as i64]);
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
        let (mut pointer, mut reason) = (null_mut(), Reason::new());
        // SAFETY: the engine lives, the pointers are good for writing.
        let status = unsafe { blaze_queue_create(engine.pointer, capacity, &mut pointer, reason.pointer()) };
        reason.check("blaze_queue_create", status);
        // SAFETY: a plain struct of numbers and pointers, for which zero is a value.
        let events = vec![unsafe { zeroed() }; EVENTS].into_boxed_slice();
        Queue { engine, pointer, events }
    }

    /// Submits; false if the engine or the queue is full.
    #[inline]
    pub fn submit(&self, request: &mut Request, user_data: u64) -> bool {
        request.request.user_data = user_data;
        let mut reason = Reason::new();
        // SAFETY: engine and queue live; a request's pointers stay good for as long as it does.
        let status = unsafe {
            let engine = self.engine.pointer;
            (self.engine.functions.submit)(
                engine,
                &request.request,
                self.pointer,
                null_mut(),
                reason.pointer(),
            )
        };
        if status == BLAZE_STATUS_QUEUE_FULL {
            return false;
        }
        reason.check("blaze_submit", status);
        true
    }

    /// Waits for events without looking at them; `release` must follow. Fails if none comes for seconds.
    #[inline]
    pub fn wait(&mut self) -> usize {
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as u32);
        // SAFETY: the queue lives, and there is room for as many events.
        let count = unsafe {
            (self.engine.functions.wait)(self.pointer, events, size_of::<blaze_event>(), room, PATIENCE_NS)
        };
        if count == 0 {
            fail("blaze_wait: no event has come for 5 s though requests are in flight");
        }
        count as usize
    }

    /// Takes events if there are any; `release` must follow.
    #[inline]
    pub fn poll(&mut self) -> usize {
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as u32);
        // SAFETY: the queue lives, and there is room for as many events.
        unsafe { (self.engine.functions.poll)(self.pointer, events, size_of::<blaze_event>(), room) as usize }
    }

    /// Looks at the outputs of the events just taken, gives each one's user data, and releases them.
    #[inline]
    pub fn release(&mut self, count: usize, mut taken: impl FnMut(u64)) {
        let functions = self.engine.functions;
        for event in &mut self.events[..count] {
            if event.status != BLAZE_STATUS_OK {
                fail(&format!("a request has failed with status {}", event.status));
            }
            look_at(functions, event);
            taken(event.user_data);
            // SAFETY: the event came from the queue.
            unsafe { (functions.release)(event) };
        }
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

/// Reads one value of an event's output, as a host would.
#[inline]
fn look_at(functions: &Functions, event: &blaze_event) {
    // SAFETY: the event was just taken and is not released; its output is a row of floats.
    unsafe {
        let mut view: blaze_tensor = zeroed();
        view.struct_size = size_of::<blaze_tensor>() as u32;
        let status = (functions.output)(event, 0, &mut view);
        if status != BLAZE_STATUS_OK {
            fail(&format!("blaze_event_output: status {status}"));
        }
        let value = view.data.cast::<f32>().read();
        if !(0.0..=1.0).contains(&value) {
            fail(&format!("{value} is no probability"));
        }
    }
}
