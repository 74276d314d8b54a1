//! Blaze as a C host sees it: every call here is one of the exported functions of the C ABI.
#![allow(unsafe_code)]

use blaze::ffi::engine::{blaze_engine_create, blaze_engine_destroy};
use blaze::ffi::event::{blaze_event, blaze_event_release};
use blaze::ffi::handles::{blaze_engine, blaze_model, blaze_queue, blaze_ticket};
use blaze::ffi::model::blaze_model_load;
use blaze::ffi::queue::{blaze_poll, blaze_queue_create, blaze_queue_destroy, blaze_wait};
use blaze::ffi::request::{blaze_infer, blaze_request, blaze_submit};
use blaze::ffi::route::{
    blaze_route_create, blaze_route_info, blaze_route_target_add, blaze_route_target_remove, blaze_tenant_set,
};
use blaze::ffi::status::{BLAZE_STATUS_OK, blaze_error, blaze_now_ns, blaze_status};
use blaze::ffi::tensor::{BLAZE_DTYPE_F32, blaze_tensor};
use serde_json::Value;
use std::ffi::{CStr, CString};
use std::hint::black_box;
use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;

/// How long anything may take before the run is given up: far longer than all that does not hang.
const PATIENCE_NS: u64 = 10_000_000_000;

/// How many events are taken at once.
const EVENTS: usize = 256;

/// Ends the process with a message, at once: threads may be stuck, and must not be waited for.
pub fn fail(message: &str) -> ! {
    eprintln!("router: {message}");
    // SAFETY: ends the process without running anything.
    unsafe { libc::_exit(1) }
}

/// The clock that deadlines are on.
pub fn now_ns() -> u64 {
    blaze_now_ns()
}

/// Has the sleeps of this thread, and of those that it starts, end when they are to: mock models sleep.
pub fn sleep_precisely() {
    // SAFETY: only changes how the system rounds this thread's timers.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_usize);
    }
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
    release: unsafe extern "C" fn(*mut blaze_event),
}

static FUNCTIONS: Functions = Functions {
    submit: blaze_submit,
    infer: blaze_infer,
    wait: blaze_wait,
    poll: blaze_poll,
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

fn text(value: &Value) -> CString {
    CString::new(value.to_string()).expect("JSON has no NUL")
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
    pub fn new(config: &Value) -> Engine {
        let (config, mut pointer, mut reason) = (text(config), null_mut(), Reason::new());
        // SAFETY: the string is NUL-terminated, the pointers are good for writing.
        let status = unsafe { blaze_engine_create(config.as_ptr(), &mut pointer, reason.pointer()) };
        reason.check("blaze_engine_create", status);
        Engine { pointer, functions: black_box(&FUNCTIONS) }
    }

    /// For calls that are not here.
    #[allow(dead_code)]
    pub fn pointer(&self) -> *mut blaze_engine {
        self.pointer
    }

    pub fn load(&self, config: &Value) -> blaze_model {
        let (config, mut handle, mut reason) = (text(config), 0, Reason::new());
        // SAFETY: the engine lives, the string is NUL-terminated, the pointers are good for writing.
        let status =
            unsafe { blaze_model_load(self.pointer, config.as_ptr(), &mut handle, reason.pointer()) };
        reason.check("blaze_model_load", status);
        handle
    }

    pub fn route(&self, config: &Value) -> blaze_model {
        let (config, mut handle, mut reason) = (text(config), 0, Reason::new());
        // SAFETY: the engine lives, the string is NUL-terminated, the pointers are good for writing.
        let status =
            unsafe { blaze_route_create(self.pointer, config.as_ptr(), &mut handle, reason.pointer()) };
        reason.check("blaze_route_create", status);
        handle
    }

    pub fn add_target(&self, route: blaze_model, target: &Value) {
        let (target, mut reason) = (text(target), Reason::new());
        // SAFETY: the engine lives, the string is NUL-terminated.
        let status =
            unsafe { blaze_route_target_add(self.pointer, route, target.as_ptr(), reason.pointer()) };
        reason.check("blaze_route_target_add", status);
    }

    pub fn remove_target(&self, route: blaze_model, model: &str) {
        let model = CString::new(model).expect("a name has no NUL");
        // SAFETY: the engine lives, the string is NUL-terminated.
        let status = unsafe { blaze_route_target_remove(self.pointer, route, model.as_ptr()) };
        if status != BLAZE_STATUS_OK {
            fail(&format!("blaze_route_target_remove: status {status}"));
        }
    }

    pub fn tenant(&self, config: &Value) {
        let (config, mut reason) = (text(config), Reason::new());
        // SAFETY: the engine lives, the string is NUL-terminated.
        let status = unsafe { blaze_tenant_set(self.pointer, config.as_ptr(), reason.pointer()) };
        reason.check("blaze_tenant_set", status);
    }

    pub fn info(&self, route: blaze_model) -> Value {
        let (mut buffer, mut needed) = (vec![0_u8; 1 << 14], 0);
        loop {
            // SAFETY: the engine lives, and there is room for as many bytes.
            let status = unsafe {
                let (start, room) = (buffer.as_mut_ptr().cast(), buffer.len());
                blaze_route_info(self.pointer, route, start, room, &mut needed)
            };
            if status == BLAZE_STATUS_OK {
                let json = CStr::from_bytes_until_nul(&buffer).expect("a NUL is at its end");
                return serde_json::from_slice(json.to_bytes()).expect("it is JSON");
            }
            if needed <= buffer.len() {
                fail(&format!("blaze_route_info: status {status}"));
            }
            buffer.resize(needed + 1024, 0);
        }
    }

    /// Runs a request to its end on this call; returns the model that has answered.
    #[inline]
    pub fn infer(&self, request: &Request) -> blaze_model {
        // SAFETY: the engine lives; a request's pointers stay good for as long as it does; the event is released.
        unsafe {
            let mut event: blaze_event = zeroed();
            event.struct_size = size_of::<blaze_event>() as u32;
            let mut reason = Reason::new();
            let infer = self.functions.infer;
            let status = infer(self.pointer, &request.request, PATIENCE_NS, &mut event, reason.pointer());
            reason.check("blaze_infer", status);
            let model = event.model;
            (self.functions.release)(&mut event);
            model
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
    /// Numbers in it may be changed, but not its inputs.
    pub request: blaze_request,
    /// What `request` points to. Boxed, so that it stays where it is.
    _tensor: Box<blaze_tensor>,
    _shape: Box<[i64; 2]>,
    _row: Box<[f32]>,
}

// SAFETY: the pointers lead to what the request itself owns, and nobody writes there.
unsafe impl Send for Request {}

impl Request {
    /// To a model or a route, with the row that a mock model takes.
    pub fn new(handle: blaze_model) -> Request {
        Request::with_row(handle, &[1.0, 2.0, 3.0, 4.0])
    }

    /// With a row of its own.
    pub fn with_row(handle: blaze_model, row: &[f32]) -> Request {
        let (mut row, shape): (Box<[f32]>, _) = (row.into(), Box::new([1, row.len() as i64]));
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

/// What an event said.
pub struct Ended {
    pub user_data: u64,
    pub status: blaze_status,
    pub model: blaze_model,
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

    /// Submits; returns what the call did.
    #[inline]
    pub fn submit(&self, request: &Request) -> blaze_status {
        // SAFETY: engine and queue live; a request's pointers stay good for as long as it does; the rest may be NULL.
        unsafe {
            let submit = self.engine.functions.submit;
            submit(self.engine.pointer, &request.request, self.pointer, null_mut(), null_mut())
        }
    }

    /// Waits for events for so long, and gives each to `taken` and back. Returns how many there were.
    #[inline]
    pub fn wait(&mut self, timeout_ns: u64, taken: impl FnMut(Ended)) -> usize {
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as u32);
        let functions = self.engine.functions;
        // SAFETY: the queue lives, and there is room for as many events.
        let count = unsafe {
            match timeout_ns {
                0 => (functions.poll)(self.pointer, events, size_of::<blaze_event>(), room),
                _ => (functions.wait)(self.pointer, events, size_of::<blaze_event>(), room, timeout_ns),
            }
        };
        self.release(count as usize, taken);
        count as usize
    }

    /// Waits for at least one event, of requests that must all end well. Returns how many there were.
    #[inline]
    pub fn collect(&mut self) -> usize {
        let count = self.wait(PATIENCE_NS, |ended| {
            if ended.status != BLAZE_STATUS_OK {
                fail(&format!("a request has failed with status {}", ended.status));
            }
        });
        if count == 0 {
            fail("blaze_wait: no event has come for 10 s though requests are in flight");
        }
        count
    }

    #[inline]
    fn release(&mut self, count: usize, mut taken: impl FnMut(Ended)) {
        for event in &mut self.events[..count] {
            taken(Ended { user_data: event.user_data, status: event.status, model: event.model });
            // SAFETY: the event came from the queue.
            unsafe { (self.engine.functions.release)(event) };
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
