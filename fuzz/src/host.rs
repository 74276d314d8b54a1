//! A host of one engine that calls whatever a program says, within what the header allows, and counts what comes of it.

use crate::calls::{Call, Work};
use crate::texts::*;
use crate::*;
use std::collections::HashSet;
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

mod requests;

/// Sizes that a struct may say it has. Each has as many bytes behind it.
const SIZES: [u32; 8] = [0, 1, 4, 40, 64, 200, 4096, u32::MAX];
const TINY: &[u8] = include_bytes!("../../tests/models/tiny.onnx");

/// A struct in as many bytes as its size may claim.
#[repr(C, align(16))]
struct Roomy<T: Copy> {
    value: T,
    rest: [u8; 4096],
}

/// An engine, its queues, and what is known of its tickets.
pub struct Host {
    engine: *mut blaze_engine,
    threads: u32,
    /// Several threads call: nothing exclusive may be done.
    shared: bool,
    queues: Mutex<Vec<*mut blaze_queue>>,
    models: Mutex<Vec<u64>>,
    tickets: Mutex<Vec<u64>>,
    /// Accepted tickets with an event to come, and terminal events that came.
    accepted: AtomicU64,
    ended: AtomicU64,
    next_user_data: AtomicU64,
    seen: Mutex<HashSet<u64>>,
    /// Data of requests, which is lent for longer than the engine lives.
    lent: Mutex<Vec<Vec<u64>>>,
}

// SAFETY: the C ABI may be called from any thread; what may not be is done while there is one.
unsafe impl Sync for Host {}

unsafe extern "C" fn on_log(user: *mut c_void, record: *const blaze_log_record) {
    assert_eq!(user as usize, 7);
    // SAFETY: the record is valid during the call.
    let record = unsafe { &*record };
    for text in [record.module, record.message, record.fields] {
        if !text.is_null() {
            // SAFETY: as above.
            unsafe { CStr::from_ptr(text) }.to_str().expect("UTF-8");
        }
    }
}

unsafe extern "C" fn pick_first(_: *mut c_void, choice: *const blaze_route_choice) -> u32 {
    // SAFETY: the choice is valid during the call.
    unsafe { (*choice).route_key as u32 }
}

fn one<T: Copy>(list: &Mutex<Vec<T>>, index: u8) -> Option<T> {
    let list = list.lock().unwrap();
    (!list.is_empty()).then(|| list[usize::from(index) % list.len()])
}

impl Host {
    pub fn new(threads: u32, shared: bool) -> Host {
        let config = format!(
            r#"{{"threads": {threads}, "memory": {{"budget_bytes": 67108864, "tune_heap": false}}, "queue": {{"capacity": 64}},
            "models": [{{"name": "m", "backend": "mock"}}]}}"#
        );
        let engine = engine(&c_string(config.as_bytes())).expect("an engine");
        let host = Host {
            engine,
            threads,
            shared,
            queues: Mutex::default(),
            models: Mutex::new(vec![u64::MAX]),
            tickets: Mutex::new(vec![u64::MAX]),
            accepted: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            next_user_data: AtomicU64::new(1),
            seen: Mutex::default(),
            lent: Mutex::default(),
        };
        host.call(Call::QueueCreate(16), &mut Vec::new());
        host.call(Call::QueueCreate(1), &mut Vec::new());
        host.call(Call::Find(0), &mut Vec::new());
        host
    }

    /// Runs the calls, and gives back what they hold.
    pub fn run(&self, calls: &[Call]) {
        let mut held = Vec::new();
        calls.iter().for_each(|&call| self.call(call, &mut held));
        held.iter_mut().for_each(|event| {
            // SAFETY: an event of the library's.
            unsafe { blaze_event_release(event) }
        });
    }

    /// Shuts down, and holds the events against the tickets.
    pub fn end(self) {
        let queues = self.queues.lock().unwrap().clone();
        // SAFETY: no other thread is left; the pointers are valid until they are destroyed here.
        unsafe {
            assert_eq!(blaze_engine_shutdown(self.engine, 0), BLAZE_STATUS_OK);
            let mut held = Vec::new();
            for &queue in &queues {
                let mut event = new_event();
                while blaze_wait(queue, &mut event, size_of::<blaze_event>(), 1, u64::MAX) == 1 {
                    self.account(&event);
                    held.push(event);
                }
                assert_eq!(blaze_queue_destroy(queue), BLAZE_STATUS_OK);
            }
            assert_eq!(self.accepted.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst));
            let half = held.len() / 2;
            held[..half].iter_mut().for_each(|event| blaze_event_release(event));
            blaze_engine_destroy(self.engine);
            // What is held outlives the engine.
            for event in &mut held[half..] {
                for index in 0..event.outputs_count {
                    let mut view = new_tensor();
                    assert_eq!(blaze_event_output(event, index, &mut view), BLAZE_STATUS_OK);
                    read(&view);
                }
                blaze_event_release(event);
            }
        }
    }

    fn account(&self, event: &blaze_event) {
        if event.text_bytes > 0 {
            // SAFETY: the event is not released.
            unsafe { CStr::from_ptr(event.text) }.to_str().expect("UTF-8");
        }
        if event.kind != BLAZE_EVENT_DONE {
            return;
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
        if event.user_data != 0 {
            assert!(
                self.seen.lock().unwrap().insert(event.user_data),
                "a second terminal event: {}",
                event.user_data
            );
        }
        if event.status == BLAZE_STATUS_OK && event.model != 0 {
            self.models.lock().unwrap().push(event.model);
        }
        if event.status == BLAZE_STATUS_INTERNAL {
            // SAFETY: the event is not released.
            let text = unsafe { CStr::from_ptr(event.text) }.to_str().expect("UTF-8");
            assert!(text.contains("injected panic"), "{text}");
        }
    }

    /// Counts what was accepted: its event may have come already.
    fn promise(&self, status: blaze_status, ticket: u64) {
        if status == BLAZE_STATUS_OK {
            self.accepted.fetch_add(1, Ordering::SeqCst);
            self.tickets.lock().unwrap().push(ticket);
        }
    }

    fn user_data(&self) -> u64 {
        self.next_user_data.fetch_add(1, Ordering::SeqCst)
    }

    fn model(&self, index: u8) -> u64 {
        one(&self.models, index).unwrap_or(0)
    }

    fn memory(&self, bytes: usize) -> *mut u64 {
        let mut memory = vec![0x3f80_0000_3f80_0000u64; bytes.div_ceil(8) + 1];
        let start = memory.as_mut_ptr();
        self.lent.lock().unwrap().push(memory);
        start
    }

    fn queue(&self, index: u8) -> *mut blaze_queue {
        if index == 255 { null_mut() } else { one(&self.queues, index).unwrap_or(null_mut()) }
    }

    fn take(&self, events: &[blaze_event], held: &mut Vec<blaze_event>) {
        for event in events {
            self.account(event);
            held.push(*event);
        }
    }

    #[allow(clippy::too_many_lines)] // a list of the ABI's functions
    pub fn call(&self, call: Call, held: &mut Vec<blaze_event>) {
        let engine = self.engine;
        let mut error = no_error();
        let mut model = 0;
        let mut ticket = 0;
        // SAFETY: the pointers are valid during the calls, or NULL; exclusive functions are called while no other
        // thread is there.
        unsafe {
            match call {
                Call::Submit(work, queue) => {
                    let queue = self.queue(queue);
                    let status = self.with_request(work, |request| {
                        blaze_submit(engine, request, queue, &mut ticket, &mut error)
                    });
                    check(status, &error);
                    self.promise(status, ticket);
                }
                Call::SubmitMany(work, queue, count) => {
                    for _ in 0..count % 24 {
                        self.call(Call::Submit(work, queue), held);
                    }
                }
                Call::Infer(work, timeout) => {
                    let timeout = [0, 1000, 100_000, 3_000_000][usize::from(timeout) % 4];
                    let mut event = new_event();
                    let status = self.with_request(work, |request| {
                        blaze_infer(engine, request, timeout, &mut event, &mut error)
                    });
                    if status == BLAZE_STATUS_OK {
                        held.push(event);
                    } else if status != BLAZE_STATUS_INTERNAL {
                        check(status, &error);
                    }
                }
                Call::Poll { queue, room, stride } => {
                    let mut events = [new_event(); 16];
                    let stride = if stride > 8 {
                        size_of::<blaze_event>()
                    } else {
                        SIZES[usize::from(stride) % 8] as usize
                    };
                    let room = if stride == size_of::<blaze_event>() { u32::from(room % 17) } else { 0 };
                    let count = blaze_poll(self.queue(queue), events.as_mut_ptr(), stride, room);
                    self.take(&events[..count as usize], held);
                }
                Call::Wait { queue, room, wait } => {
                    let mut events = [new_event(); 16];
                    let wait = u64::from(wait % 8) * 100_000;
                    let room = u32::from(room % 17);
                    let count = blaze_wait(
                        self.queue(queue),
                        events.as_mut_ptr(),
                        size_of::<blaze_event>(),
                        room,
                        wait,
                    );
                    self.take(&events[..count as usize], held);
                }
                Call::Output { event, index, size } => {
                    let Some(event) = held.get(usize::from(event) % held.len().max(1)) else { return };
                    let mut view = Roomy { value: new_tensor(), rest: [0; 4096] };
                    if size < 8 {
                        view.value.struct_size = SIZES[usize::from(size)];
                    }
                    if blaze_event_output(event, u32::from(index), &mut view.value) == BLAZE_STATUS_OK {
                        read(&view.value);
                    }
                }
                Call::Release { event, how } => {
                    if held.is_empty() {
                        return;
                    }
                    let mut event = held.swap_remove(usize::from(event) % held.len());
                    let mut copy = event;
                    blaze_event_release(&mut event);
                    if how % 4 == 1 {
                        blaze_event_release(&mut event);
                    }
                    if how % 4 == 2 {
                        blaze_event_release(&mut copy);
                        assert_ne!(blaze_event_output(&event, 0, &mut new_tensor()), BLAZE_STATUS_OK);
                    }
                }
                Call::Cancel(index) => {
                    blaze_cancel(engine, one(&self.tickets, index).unwrap_or(0));
                }
                Call::Load(index) => {
                    let index = usize::from(index) % MODELS.len();
                    if index == MODELS.len() - 1 && self.threads == 0 {
                        return;
                    }
                    let status = blaze_model_load(engine, MODELS[index].as_ptr(), &mut model, &mut error);
                    check(status, &error);
                    if status == BLAZE_STATUS_OK {
                        self.models.lock().unwrap().push(model);
                    }
                }
                Call::LoadAsync(index, queue) => {
                    let index = usize::from(index) % MODELS.len();
                    if index == MODELS.len() - 1 && self.threads == 0 {
                        return;
                    }
                    let json = MODELS[index].as_ptr();
                    let data = self.user_data();
                    let status = blaze_model_load_async(
                        engine,
                        json,
                        self.queue(queue),
                        data,
                        &mut ticket,
                        &mut error,
                    );
                    check(status, &error);
                    self.promise(status, ticket);
                }
                Call::LoadMemory { cut } => {
                    let size = if cut % 8 == 0 { usize::from(cut).min(TINY.len()) } else { TINY.len() };
                    let json = cr#"{"name": "memory", "batching": {"max_rows": 4}}"#.as_ptr();
                    let status = blaze_model_load_memory(
                        engine,
                        json,
                        TINY.as_ptr().cast(),
                        size,
                        &mut model,
                        &mut error,
                    );
                    check(status, &error);
                    if status == BLAZE_STATUS_OK {
                        self.models.lock().unwrap().push(model);
                    }
                }
                Call::Unload { model, queue } => {
                    let queue = if queue < 200 { self.queue(queue) } else { null_mut() };
                    // Waiting is for those who can: somebody must pump.
                    if queue.is_null() && self.threads == 0 && self.shared {
                        return;
                    }
                    let status = blaze_model_unload(engine, self.model(model), queue, &mut ticket);
                    if !queue.is_null() {
                        self.promise(status, ticket);
                    }
                }
                Call::Find(index) => {
                    let name = NAMES[usize::from(index) % NAMES.len()].as_ptr();
                    if blaze_model_find(engine, name, &mut model) == BLAZE_STATUS_OK {
                        self.models.lock().unwrap().push(model);
                    }
                }
                Call::Info(model) => {
                    json(text(|to, room, needed| {
                        blaze_model_info(engine, self.model(model), to, room, needed)
                    }));
                    json(text(|to, room, needed| {
                        blaze_route_info(engine, self.model(model), to, room, needed)
                    }));
                }
                Call::Text { what, format } => {
                    let format = u32::from(format % 5);
                    match what % 6 {
                        0 => json(text(|to, room, needed| blaze_health_json(engine, to, room, needed))),
                        1 => json(text(|to, room, needed| blaze_advice_json(engine, to, room, needed))),
                        2 => json(text(|to, room, needed| blaze_tune_report(engine, to, room, needed))),
                        3 => {
                            text(|to, room, needed| blaze_metrics_text(engine, format, to, room, needed));
                        }
                        4 => {
                            text(|to, room, needed| {
                                blaze_profile_report(engine, format, to, room, needed, null_mut())
                            });
                        }
                        _ => {
                            let mut small = [1; 8];
                            blaze_health_json(engine, small.as_mut_ptr(), 8, null_mut());
                            assert_eq!(small, [1; 8]);
                        }
                    }
                }
                Call::Health(size) => {
                    let mut health =
                        Roomy { value: std::mem::zeroed::<blaze_health_info>(), rest: [0; 4096] };
                    let mut metrics =
                        Roomy { value: std::mem::zeroed::<blaze_metrics_info>(), rest: [0; 4096] };
                    health.value.struct_size = SIZES[usize::from(size) % 8];
                    metrics.value.struct_size = SIZES[usize::from(size) % 8];
                    blaze_health(engine, &mut health.value);
                    blaze_metrics(engine, &mut metrics.value);
                }
                Call::Log(index) => {
                    check(
                        blaze_log_configure(engine, LOGS[usize::from(index) % 4].as_ptr(), &mut error),
                        &error,
                    );
                }
                Call::LogCallback(on) => {
                    let function: blaze_log_function = if on { Some(on_log) } else { None };
                    check(blaze_log_set_callback(engine, function, 7 as *mut c_void, &mut error), &error);
                }
                Call::Profile(index) => {
                    check(
                        blaze_profile_start(engine, PROFILES[usize::from(index) % 4].as_ptr(), &mut error),
                        &error,
                    );
                }
                Call::ProfileStop => {
                    blaze_profile_stop(engine, null_mut());
                }
                Call::Budget(bytes) => {
                    let bytes =
                        if bytes.is_multiple_of(3) { BLAZE_BUDGET_UNLIMITED } else { u64::from(bytes) };
                    blaze_engine_set_budget(engine, bytes);
                }
                Call::Trim => {
                    blaze_engine_trim(engine);
                }
                Call::RouteCreate(index) => {
                    let json = ROUTES[usize::from(index) % ROUTES.len()].as_ptr();
                    let status = blaze_route_create(engine, json, &mut model, &mut error);
                    check(status, &error);
                    if status == BLAZE_STATUS_OK {
                        self.models.lock().unwrap().push(model);
                    }
                }
                Call::RouteUpdate(route, index) => {
                    let json = ROUTES[usize::from(index) % ROUTES.len()].as_ptr();
                    check(blaze_route_update(engine, self.model(route), json, &mut error), &error);
                }
                Call::RouteDestroy(route) => {
                    blaze_route_destroy(engine, self.model(route));
                }
                Call::TargetAdd(route, index) => {
                    let json = TARGETS[usize::from(index) % 4].as_ptr();
                    check(blaze_route_target_add(engine, self.model(route), json, &mut error), &error);
                }
                Call::TargetRemove(route, index) => {
                    blaze_route_target_remove(
                        engine,
                        self.model(route),
                        NAMES[usize::from(index) % 12].as_ptr(),
                    );
                }
                Call::TargetDrain(route, index, drain) => {
                    let name = NAMES[usize::from(index) % 12].as_ptr();
                    blaze_route_target_drain(engine, self.model(route), name, u32::from(drain % 3));
                }
                Call::Tenant(index) => {
                    check(
                        blaze_tenant_set(engine, TENANTS[usize::from(index) % 4].as_ptr(), &mut error),
                        &error,
                    );
                }
                Call::Strategy => {
                    let name = c"first".as_ptr();
                    check(
                        blaze_strategy_register(engine, name, Some(pick_first), null_mut(), &mut error),
                        &error,
                    );
                }
                Call::Configure(model, index) => {
                    let json = CHANGES[usize::from(index) % 4].as_ptr();
                    check(blaze_model_configure(engine, self.model(model), json, &mut error), &error);
                }
                Call::Tune(queue) => {
                    let queue = self.queue(queue % 128);
                    let data = self.user_data();
                    let status = blaze_tune(engine, TUNE.as_ptr(), queue, data, &mut ticket, &mut error);
                    check(status, &error);
                    if !queue.is_null() {
                        self.promise(status, ticket);
                    }
                }
                Call::Rescan(queue) => {
                    let status =
                        blaze_repository_rescan(engine, self.queue(queue), 0, &mut ticket, &mut error);
                    assert_ne!(status, BLAZE_STATUS_OK, "there is no repository");
                }
                Call::Pump(budget) => {
                    blaze_pump(engine, u64::from(budget) * 1000, null_mut());
                }
                Call::Descriptor(queue) => {
                    blaze_queue_fd(self.queue(queue), &mut 0);
                }
                Call::QueueCreate(capacity) => {
                    let mut queue = null_mut();
                    let capacity = if capacity > 1 << 12 { capacity | 1 << 30 } else { capacity };
                    let status = blaze_queue_create(engine, capacity, &mut queue, &mut error);
                    check(status, &error);
                    if status == BLAZE_STATUS_OK {
                        self.queues.lock().unwrap().push(queue);
                    }
                }
                Call::QueueDestroy(index) => {
                    if self.shared {
                        return;
                    }
                    let queue = self.queue(index % 254);
                    if !queue.is_null() && blaze_queue_destroy(queue) == BLAZE_STATUS_OK {
                        self.queues.lock().unwrap().retain(|&other| other != queue);
                    }
                }
                Call::Shutdown(drain) => {
                    blaze_engine_shutdown(engine, u64::from(drain % 4) * 500_000);
                }
                Call::Null(what) => nulls(what, engine),
            }
        }
    }
}

/// Reads all of an output: a sanitizer looks on.
fn read(view: &blaze_tensor) {
    if view.dtype == BLAZE_DTYPE_STRING || view.size_bytes == 0 {
        return;
    }
    // SAFETY: the view is valid until its event is released.
    let bytes = unsafe { std::slice::from_raw_parts(view.data.cast::<u8>(), view.size_bytes) };
    std::hint::black_box(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
}

fn json(text: Option<String>) {
    if let Some(text) = text {
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
    }
}

/// One function with NULL where there must be something.
unsafe fn nulls(what: u8, engine: *mut blaze_engine) {
    // SAFETY: NULL is refused.
    let status = unsafe {
        match what % 14 {
            0 => blaze_engine_create(null(), null_mut(), null_mut()),
            1 => blaze_model_load(engine, null(), &mut 0, null_mut()),
            2 => blaze_model_load(engine, c"{}".as_ptr(), null_mut(), null_mut()),
            3 => blaze_model_load_memory(engine, c"{}".as_ptr(), null(), 5, &mut 0, null_mut()),
            4 => blaze_submit(engine, null(), null_mut(), null_mut(), null_mut()),
            5 => blaze_infer(engine, null(), 0, null_mut(), null_mut()),
            6 => blaze_queue_create(engine, 4, null_mut(), null_mut()),
            7 => blaze_health_json(engine, null_mut(), 0, null_mut()),
            8 => blaze_route_create(engine, null(), &mut 0, null_mut()),
            9 => blaze_strategy_register(engine, c"x".as_ptr(), None, null_mut(), null_mut()),
            10 => blaze_event_output(null(), 0, null_mut()),
            11 => blaze_engine_create_with_allocator(null(), null(), &mut null_mut(), null_mut()),
            12 => blaze_tune(engine, null(), null_mut(), 0, null_mut(), null_mut()),
            _ => blaze_model_find(engine, null(), &mut 0),
        }
    };
    assert_ne!(status, BLAZE_STATUS_OK);
    assert_ne!(status, BLAZE_STATUS_INTERNAL);
}
