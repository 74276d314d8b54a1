//! A host of an engine whose whole set-up is data, so that advice can be followed by changing the data.
#![allow(unsafe_code)]

use crate::abi::{fail, now_ns};
use blaze::ffi::engine::{blaze_engine_create, blaze_engine_destroy};
use blaze::ffi::event::{blaze_event, blaze_event_release};
use blaze::ffi::handles::{blaze_engine, blaze_model, blaze_queue};
use blaze::ffi::model::blaze_model_find;
use blaze::ffi::queue::{blaze_poll, blaze_queue_create, blaze_queue_destroy, blaze_wait};
use blaze::ffi::reports::blaze_advice_json;
use blaze::ffi::request::{blaze_request, blaze_submit};
use blaze::ffi::status::{BLAZE_STATUS_EXPIRED, BLAZE_STATUS_OK, blaze_error};
use blaze::ffi::tensor::{BLAZE_DTYPE_F32, blaze_tensor};
use serde_json::{Value, json};
use std::ffi::{CStr, CString};
use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;
use std::time::Duration;

/// What a host does and what it has:
/// `{"engine": {…}, "models": [{…}], "routes": [{…}], "host": {"collect": "wait" or "sometimes", "every_ms"},
/// "load": [{"to": [names], "inputs": 4, and "in_flight" ("think_ms") or "per_second" ("burst": 1);
/// "deadline_ms"}]}`. Every load has a thread and a completion queue of its own.
#[derive(Clone)]
pub struct SetUp(pub Value);

/// What the host has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub seconds: f64,
    pub submitted: u64,
    pub refused: u64,
    pub ok: u64,
    pub failed: u64,
    pub expired: u64,
    /// Of requests that ended well, from when they were due until the host had the event.
    pub sum_ns: u64,
}

impl Seen {
    /// Puts together what several clients have seen at the same time.
    fn join(&mut self, other: &Seen) {
        self.add(&Seen { seconds: 0.0, ..other.clone() });
        self.seconds = self.seconds.max(other.seconds);
    }

    /// Puts together what was seen one after the other.
    pub fn add(&mut self, other: &Seen) {
        self.seconds += other.seconds;
        self.submitted += other.submitted;
        self.refused += other.refused;
        self.ok += other.ok;
        self.failed += other.failed;
        self.expired += other.expired;
        self.sum_ns += other.sum_ns;
    }

    /// One of the figures that advice names, and whether more of it is better.
    pub fn figure(&self, name: &str) -> Option<(f64, bool)> {
        let share = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        let ended = self.ok + self.failed + self.expired;
        Some(match name {
            "throughput_rows_per_s" => (self.ok as f64 / self.seconds, true),
            "request_mean_ns" | "answer_mean_ns" => (share(self.sum_ns, self.ok), false),
            "expired_share" => (share(self.expired, ended), false),
            "failed_share" => (share(self.failed, ended), false),
            "rejected_share" => (share(self.refused, self.submitted), false),
            _ => return None,
        })
    }
}

/// Puts `change` into `value`: objects key by key, all else as it is.
fn merge(value: &mut Value, change: &Value) {
    match (value.as_object_mut(), change.as_object()) {
        (Some(into), Some(from)) => {
            from.iter().for_each(|(key, change)| merge(into.entry(key).or_insert(Value::Null), change));
        }
        _ => *value = change.clone(),
    }
}

impl SetUp {
    /// The same with a finding's `change`, whatever it is about; `None` if there is no change.
    pub fn changed(&self, change: &Value) -> Option<SetUp> {
        let mut changed = self.0.clone();
        let keys = change.as_object()?;
        if let Some(name) = keys.get("model").or(keys.get("route")) {
            let list = if keys.contains_key("model") { "models" } else { "routes" };
            let name = name.as_str()?.split(':').next()?;
            let entry = changed[list].as_array_mut()?.iter_mut().find(|entry| entry["name"] == name)?;
            for (key, value) in keys.iter().filter(|(key, _)| *key != "model" && *key != "route") {
                match key.as_str() {
                    "remove_targets" => {
                        let gone = value.as_array()?;
                        let targets = entry["targets"].as_array_mut()?;
                        targets.retain(|target| !gone.contains(&target["model"]));
                    }
                    _ => merge(&mut entry[key], value),
                }
            }
        } else {
            merge(&mut changed, change);
        }
        Some(SetUp(changed))
    }

    /// Has the host do what it does for so long; returns what it saw, and the engine's advice.
    pub fn run(&self, time: Duration) -> (Seen, Value) {
        let engine = Engine::new(&self.0);
        let (start, until) = (now_ns(), now_ns() + time.as_nanos() as u64);
        let loads = self.0["load"].as_array().expect("there is a load");
        let mut all = Seen::default();
        std::thread::scope(|scope| {
            let threads: Vec<_> = loads
                .iter()
                .map(|load| {
                    let engine = &engine;
                    scope.spawn(move || Client::new(engine, load, &self.0["host"]).run(start, until))
                })
                .collect();
            threads.into_iter().for_each(|thread| all.join(&thread.join().expect("a client does not panic")));
        });
        (all, engine.advice())
    }
}

struct Engine(*mut blaze_engine);

// SAFETY: the header allows any thread to call with an engine.
unsafe impl Sync for Engine {}

fn check(what: &str, status: i32, reason: &MaybeUninit<blaze_error>) {
    if status != BLAZE_STATUS_OK {
        // SAFETY: the call failed, so it has written the reason, with a NUL at its end.
        let message = unsafe { CStr::from_ptr((*reason.as_ptr()).message.as_ptr()) };
        fail(&format!("{what}: status {status}: {}", message.to_string_lossy()));
    }
}

impl Engine {
    fn new(set_up: &Value) -> Engine {
        let mut config = set_up["engine"].as_object().cloned().map_or(json!({}), Value::Object);
        for list in ["models", "routes"] {
            config[list] = set_up[list].as_array().cloned().unwrap_or_default().into();
        }
        let config = CString::new(config.to_string()).expect("JSON has no NUL");
        let (mut pointer, mut reason) = (null_mut(), MaybeUninit::uninit());
        // SAFETY: the string is NUL-terminated, the pointers are good for writing.
        let status = unsafe { blaze_engine_create(config.as_ptr(), &mut pointer, reason.as_mut_ptr()) };
        check("blaze_engine_create", status, &reason);
        Engine(pointer)
    }

    fn find(&self, name: &str) -> blaze_model {
        let (name, mut handle) = (CString::new(name).expect("a name has no NUL"), 0);
        // SAFETY: the engine lives, the string is NUL-terminated, the pointer is good for writing.
        let status = unsafe { blaze_model_find(self.0, name.as_ptr(), &mut handle) };
        if status != BLAZE_STATUS_OK {
            fail(&format!("blaze_model_find: {name:?}: status {status}"));
        }
        handle
    }

    fn advice(&self) -> Value {
        let mut buffer = vec![0_u8; 1 << 18];
        // SAFETY: the engine lives, and there is room for as many bytes.
        let status =
            unsafe { blaze_advice_json(self.0, buffer.as_mut_ptr().cast(), buffer.len(), null_mut()) };
        if status != BLAZE_STATUS_OK {
            fail(&format!("blaze_advice_json: status {status}"));
        }
        let text = CStr::from_bytes_until_nul(&buffer).expect("a NUL is at its end");
        serde_json::from_slice(text.to_bytes()).expect("it is JSON")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: nothing uses the engine any more.
        unsafe { blaze_engine_destroy(self.0) }
    }
}

/// One thread of the host, that submits requests of one row and takes their events.
struct Client<'a> {
    engine: &'a Engine,
    load: &'a Value,
    queue: *mut blaze_queue,
    to: Vec<blaze_model>,
    /// How long it sleeps before it looks for events; 0: it waits for them.
    every_ns: u64,
    looked_ns: u64,
    in_flight: u64,
    seen: Seen,
}

impl<'a> Client<'a> {
    fn new(engine: &'a Engine, load: &'a Value, host: &Value) -> Self {
        let names = load["to"].as_array().expect("a load goes to somebody");
        let to = names.iter().map(|name| engine.find(name.as_str().expect("a name"))).collect();
        let (mut queue, mut reason) = (null_mut(), MaybeUninit::uninit());
        // SAFETY: the engine lives, the pointers are good for writing.
        let status = unsafe { blaze_queue_create(engine.0, 65_536, &mut queue, reason.as_mut_ptr()) };
        check("blaze_queue_create", status, &reason);
        let every_ms =
            if host["collect"] == "sometimes" { host["every_ms"].as_u64().unwrap_or(0) } else { 0 };
        let seen = Seen::default();
        let every_ns = every_ms * 1_000_000;
        Client { engine, load, queue, to, every_ns, looked_ns: now_ns(), in_flight: 0, seen }
    }

    fn run(mut self, start: u64, until: u64) -> Seen {
        let inputs = self.load["inputs"].as_u64().unwrap_or(4) as usize;
        let mut row: Vec<f32> = (0..inputs).map(|at| at as f32 / inputs as f32 - 0.5).collect();
        let shape = [1, inputs as i64];
        // SAFETY: both are plain structs of numbers and pointers, for which zero is a value.
        let (mut tensor, mut request): (blaze_tensor, blaze_request) = unsafe { (zeroed(), zeroed()) };
        tensor.struct_size = size_of::<blaze_tensor>() as u32;
        (tensor.dtype, tensor.rank, tensor.shape) = (BLAZE_DTYPE_F32, 2, shape.as_ptr());
        (tensor.data, tensor.size_bytes) = (row.as_mut_ptr().cast(), size_of_val(&row[..]));
        request.struct_size = size_of::<blaze_request>() as u32;
        (request.inputs, request.inputs_count) = (&raw const tensor, 1);
        match self.load["in_flight"].as_u64() {
            Some(in_flight) => self.closed_loop(&mut request, in_flight, until),
            None => self.open_loop(&mut request, start, until),
        }
        self.seen.seconds = (now_ns() - start) as f64 / 1e9;
        while self.in_flight > 0 {
            self.take(100_000_000);
        }
        // SAFETY: nothing uses the queue any more, and nothing is in flight.
        let status = unsafe { blaze_queue_destroy(self.queue) };
        if status != BLAZE_STATUS_OK {
            fail(&format!("blaze_queue_destroy: status {status}"));
        }
        self.seen
    }

    fn closed_loop(&mut self, request: &mut blaze_request, in_flight: u64, until: u64) {
        let think = Duration::from_millis(self.load["think_ms"].as_u64().unwrap_or(0));
        while now_ns() < until {
            if self.in_flight < in_flight && !think.is_zero() && self.seen.submitted > 0 {
                std::thread::sleep(think);
            }
            while self.in_flight < in_flight && self.submit(request, now_ns()) {}
            self.take(100_000_000);
        }
    }

    /// Bursts in even distances.
    fn open_loop(&mut self, request: &mut blaze_request, start: u64, until: u64) {
        let per_second = self.load["per_second"].as_f64().expect("a rate");
        let burst = self.load["burst"].as_u64().unwrap_or(1);
        let gap_ns = 1e9 * burst as f64 / per_second;
        for index in 0.. {
            let due = start + (index as f64 * gap_ns) as u64;
            if due >= until {
                return;
            }
            while now_ns() < due {
                self.take(due - now_ns().min(due));
            }
            (0..burst).for_each(|_| _ = self.submit(request, due));
            self.take(0);
        }
    }

    fn submit(&mut self, request: &mut blaze_request, due: u64) -> bool {
        request.model = self.to[self.seen.submitted as usize % self.to.len()];
        request.user_data = due;
        request.deadline_ns = self.load["deadline_ms"].as_u64().map_or(0, |ms| due + ms * 1_000_000);
        self.seen.submitted += 1;
        // SAFETY: engine and queue live; the request's pointers are good for the call; the rest may be NULL.
        let status = unsafe { blaze_submit(self.engine.0, request, self.queue, null_mut(), null_mut()) };
        let accepted = status == BLAZE_STATUS_OK;
        if accepted {
            self.in_flight += 1
        } else {
            self.seen.refused += 1
        }
        accepted
    }

    /// Takes what events there are, after waiting for them for so long at most, in the host's way.
    fn take(&mut self, timeout_ns: u64) {
        let mut timeout = timeout_ns;
        if self.every_ns > 0 {
            let next = self.looked_ns + self.every_ns;
            let now = now_ns();
            if now < next {
                std::thread::sleep(Duration::from_nanos(timeout_ns.min(next - now)));
            }
            if now_ns() < next {
                return;
            }
            (self.looked_ns, timeout) = (now_ns(), 0);
        }
        // SAFETY: plain structs of numbers and pointers, for which zero is a value.
        let mut events: [blaze_event; 256] = unsafe { zeroed() };
        loop {
            // SAFETY: the queue lives, and there is room for as many events.
            let count = unsafe {
                let (events, stride) = (events.as_mut_ptr(), size_of::<blaze_event>());
                match timeout {
                    0 => blaze_poll(self.queue, events, stride, 256),
                    _ => blaze_wait(self.queue, events, stride, 256, timeout),
                }
            };
            let now = now_ns();
            for event in &mut events[..count as usize] {
                match event.status {
                    BLAZE_STATUS_OK => {
                        self.seen.ok += 1;
                        self.seen.sum_ns += now.saturating_sub(event.user_data);
                    }
                    BLAZE_STATUS_EXPIRED => self.seen.expired += 1,
                    _ => self.seen.failed += 1,
                }
                // SAFETY: the event came from the queue.
                unsafe { blaze_event_release(event) };
            }
            self.in_flight -= u64::from(count);
            // A host that looks seldom takes all that there is.
            if count < 256 || self.every_ns == 0 {
                return;
            }
            timeout = 0;
        }
    }
}
