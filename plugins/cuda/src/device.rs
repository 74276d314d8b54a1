//! A device: its primary context, who uses it, and what becomes of it when it is lost.
//!
//! Every handle belongs to a generation of its device. A sticky error ends the generation: the device is in quarantine, nobody
//! enters it any more, and nothing is called with a handle of that generation again, not even to free it. The next load resets
//! the context, proves it, and begins a new generation.

use crate::driver::{self, Address, Context, Driver, Error};
use crate::failure::{Failure, Result};
use crate::pinned::Pinned;
use crate::stream::{Stream, Use};
use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a reset waits for runs that are under way, and others for a reset.
const RESET_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that prove a context.
const CANARY_BYTES: usize = 1 << 20;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Device {
    pub driver: Arc<Driver>,
    pub ordinal: i32,
    handle: i32,
    pub name: String,
    pub total_bytes: u64,
    pub bus_id: String,
    pub compute: (i32, i32),
    /// Bytes of shared memory that a block may have if the kernel asks for it.
    pub shared_optin: u32,
    state: Mutex<State>,
    changed: Condvar,
    /// Device memory that the engine has: its generation and size, by address.
    memory: Mutex<HashMap<Address, (u64, usize)>>,
    streams: Mutex<Vec<Stream>>,
    pub uses: Mutex<Vec<Arc<Use>>>,
    /// Runs that have chosen it.
    pub under_way: AtomicU32,
    pub losses: AtomicU64,
    pub pinned: Arc<Pinned>,
    /// What the canary is read back to.
    canary: Mutex<Vec<u8>>,
}

struct State {
    /// Null until it is first used.
    context: Context,
    /// From 1 on once there is a context.
    generation: u64,
    /// Why it is in quarantine.
    lost: Option<String>,
    /// A context is being made, the first or another.
    resetting: bool,
    /// Who is within the context.
    active: u32,
}

// SAFETY: the context may be current in any thread, and changes hands under the lock.
unsafe impl Send for State {}

/// How a device is, for health.
pub struct Health {
    pub opened: bool,
    pub lost: Option<String>,
}

/// The right to call the driver with handles of one generation, from this thread, for as long as it lives. Entering never
/// waits, so that it may be done within itself.
pub struct Entered<'a> {
    pub device: &'a Arc<Device>,
    pub generation: u64,
    /// It is not for other threads: the context is current in this one.
    _here: std::marker::PhantomData<*mut ()>,
}

impl Device {
    pub fn new(driver: &Arc<Driver>, pinned: &Arc<Pinned>, ordinal: i32) -> std::result::Result<Self, Error> {
        let mut handle = 0;
        // SAFETY: the pointers are valid, here and below, and buffers as large as is said.
        unsafe { driver.device_get(&raw mut handle, ordinal) }?;
        let text = |read: &dyn Fn(*mut c_char, i32) -> driver::Checked| {
            let mut buffer = [0u8; 256];
            read(buffer.as_mut_ptr().cast(), 255)?;
            let length = buffer.iter().position(|&byte| byte == 0).unwrap_or(0);
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: as above.
            unsafe { driver.device_attribute(&raw mut value, attribute, handle) }.map(|()| value)
        };
        let mut total = 0usize;
        // SAFETY: as above.
        unsafe { driver.device_total_memory(&raw mut total, handle) }?;
        Ok(Device {
            ordinal,
            handle,
            // SAFETY: as above.
            name: text(&|buffer, size| unsafe { driver.device_name(buffer, size, handle) })?,
            // SAFETY: as above.
            bus_id: text(&|buffer, size| unsafe { driver.device_bus_id(buffer, size, handle) })?,
            total_bytes: total as u64,
            compute: (attribute(driver::ATTRIBUTE_MAJOR)?, attribute(driver::ATTRIBUTE_MINOR)?),
            shared_optin: attribute(driver::ATTRIBUTE_SHARED_OPTIN)?.max(0) as u32,
            driver: Arc::clone(driver),
            state: Mutex::new(State {
                context: ptr::null_mut(),
                generation: 0,
                lost: None,
                resetting: false,
                active: 0,
            }),
            changed: Condvar::new(),
            memory: Mutex::default(),
            streams: Mutex::default(),
            uses: Mutex::default(),
            under_way: AtomicU32::new(0),
            losses: AtomicU64::new(0),
            pinned: Arc::clone(pinned),
            canary: Mutex::default(),
        })
    }

    pub fn health(&self) -> Health {
        let state = lock(&self.state);
        Health { opened: !state.context.is_null(), lost: state.lost.clone() }
    }

    /// Whether handles of this generation are good.
    pub fn has(&self, generation: u64) -> bool {
        let state = lock(&self.state);
        state.lost.is_none() && state.generation == generation && !state.context.is_null()
    }

    fn gone(&self, why: &str) -> Failure {
        Failure::lost(format!("device {} ({}) is lost: {why}", self.ordinal, self.name))
    }

    /// Enters the device with handles of a generation; `None`: of the present one.
    pub fn enter(self: &Arc<Self>, generation: Option<u64>) -> Result<Entered<'_>> {
        let (context, generation) = {
            let mut state = lock(&self.state);
            if let Some(why) = &state.lost {
                return Err(self.gone(why));
            }
            if state.context.is_null() {
                return Err(Failure::failed(format!("device {} is not in use", self.ordinal)));
            }
            if generation.is_some_and(|generation| generation != state.generation) {
                return Err(self.gone("it is there again, but without what was on it"));
            }
            state.active += 1;
            (state.context, state.generation)
        };
        let entered = Entered { device: self, generation, _here: std::marker::PhantomData };
        // SAFETY: the context is there until nobody is within it.
        match unsafe { self.driver.context_push(context) } {
            Ok(()) => Ok(entered),
            Err(error) => {
                let failure = entered.failure(error);
                std::mem::forget(entered); // there is nothing to pop
                self.leave();
                Err(failure)
            }
        }
    }

    fn leave(&self) {
        let mut state = lock(&self.state);
        state.active -= 1;
        if state.active == 0 && state.lost.is_some() {
            self.changed.notify_all();
        }
    }

    /// Makes the device ready for a load: gets its context, or if it is lost, a new one. `is_cancelled` says that nobody waits.
    pub fn open(self: &Arc<Self>, is_cancelled: &dyn Fn() -> bool) -> Result<u64> {
        let until = Instant::now() + RESET_PATIENCE;
        let mut state = lock(&self.state);
        loop {
            match &state.lost {
                _ if state.resetting => {}
                None if !state.context.is_null() => return Ok(state.generation),
                Some(why) if state.active > 0 => {
                    if Instant::now() >= until {
                        return Err(
                            self.gone(&format!("{why}; {} calls do not return from it", state.active))
                        );
                    }
                }
                _ => return self.begin(state),
            }
            if is_cancelled() {
                return Err(Failure::cancelled());
            }
            if state.resetting && state.lost.is_some() && Instant::now() >= until + RESET_PATIENCE {
                return Err(self.gone("it is being reset"));
            }
            let waited = self.changed.wait_timeout(state, Duration::from_millis(20));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Begins a generation: with the first context, or the one after a reset.
    fn begin(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Result<u64> {
        let (is_lost, generation) = (state.lost.is_some(), state.generation + 1);
        state.resetting = true;
        drop(state);
        let made = match is_lost {
            true => self.reset().map_err(|why| (self.gone(&why), Some(why))),
            false => self.first().map_err(|failure| (failure, None)),
        };
        let publish = |context, lost| {
            let mut state = lock(&self.state);
            if let Some(context) = context {
                (state.context, state.generation) = (context, generation);
            }
            (state.lost, state.resetting) = (lost, false);
            self.changed.notify_all();
        };
        match made {
            Ok(context) => {
                let renewed = self.pinned.renew(self, context, generation, || publish(Some(context), None));
                match renewed {
                    Err(error) if error.is_sticky() => {
                        let why = self.driver.explain(error);
                        self.lose(generation, &why);
                        Err(self.gone(&why))
                    }
                    _ => Ok(generation),
                }
            }
            Err((failure, why)) => {
                publish(None, why);
                Err(failure)
            }
        }
    }

    fn first(&self) -> Result<Context> {
        let mut context = ptr::null_mut();
        // SAFETY: the pointer is valid.
        let retained = unsafe { self.driver.context_retain(&raw mut context, self.handle) };
        retained.map(|()| context).map_err(|error| {
            let text = format!("device {}: {}", self.ordinal, self.driver.explain(error));
            match error.is_sticky() {
                true => Failure::lost(text),
                false => Failure::failed(text),
            }
        })
    }

    /// Ends all that was on the device, and proves that it works again. Nobody is within it. The old context is this plugin's as
    /// before if that fails. Results of its end may be errors of what was launched before: whether it works the proof says.
    fn reset(self: &Arc<Self>) -> std::result::Result<Context, String> {
        let driver = &self.driver;
        lock(&self.streams).clear(); // gone with the context
        lock(&self.uses).clear();
        let said = |what: &str, error| format!("{what}: {}", driver.explain(error));
        // SAFETY: the device's number is valid, and no handle of the context is used again.
        match unsafe { driver.context_reset(self.handle) } {
            Err(error) if !error.is_sticky() => return Err(said("it cannot be reset", error)),
            _ => {}
        }
        let mut context = ptr::null_mut();
        // SAFETY: as above. The new one is taken before the old one is let go: so there is always one that is this plugin's.
        unsafe { driver.context_retain(&raw mut context, self.handle) }
            .map_err(|error| said("after a reset it has no context", error))?;
        // SAFETY: it was retained when the device was opened.
        let _ = unsafe { driver.context_release(self.handle) };
        self.prove(context).inspect_err(|_| {
            // What it has left there goes.
            // SAFETY: as above.
            let _ = unsafe { driver.context_reset(self.handle) };
        })?;
        Ok(context)
    }

    /// The canary: memory is written and read back.
    fn prove(&self, context: Context) -> std::result::Result<(), String> {
        let driver = &self.driver;
        let mut read = lock(&self.canary);
        read.clear();
        read.resize(CANARY_BYTES, 0);
        let to = read.as_mut_ptr().cast();
        let (mut address, mut stream) = (0, ptr::null_mut());
        // SAFETY: the context is this plugin's; what is made here is freed here, after the work on it has ended. If nobody can
        // say that it has, it is left to the next reset, and the buffer stays.
        let proved = unsafe {
            driver.context_push(context).and_then(|()| {
                let worked = driver
                    .allocate(&raw mut address, CANARY_BYTES)
                    .and_then(|()| driver.stream_create(&raw mut stream, driver::STREAM_NON_BLOCKING))
                    .and_then(|()| driver.fill(address, 0x5A, CANARY_BYTES, stream))
                    .and_then(|()| driver.copy_to_host(to, address, CANARY_BYTES, stream));
                let ended = match stream.is_null() {
                    true => Ok(()),
                    false => driver.stream_synchronize(stream).and_then(|()| driver.stream_destroy(stream)),
                };
                let freed = match address == 0 || ended.is_err() {
                    true => Ok(()),
                    false => driver.free(address),
                };
                let popped = driver.context_pop(&raw mut stream);
                worked.and(ended).and(freed).and(popped)
            })
        };
        proved.map_err(|error| format!("it was reset, and does not work: {}", driver.explain(error)))?;
        match read.iter().all(|&byte| byte == 0x5A) {
            true => Ok(()),
            false => Err("it was reset, and does not keep what is written to it".into()),
        }
    }

    /// The device is of no use any more: `why` is the driver's word.
    fn lose(&self, generation: u64, why: &str) {
        let mut state = lock(&self.state);
        if state.generation == generation && state.lost.is_none() {
            state.lost = Some(why.to_owned());
            self.losses.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A stream that nobody uses.
    pub fn take_stream(&self, entered: &Entered<'_>) -> Result<Stream> {
        let kept = lock(&self.streams).pop();
        match kept.filter(|stream| stream.generation == entered.generation) {
            Some(stream) => Ok(stream),
            None => Stream::new(entered),
        }
    }

    /// Keeps a stream on which nothing is under way.
    pub fn give_stream(&self, stream: Stream) {
        lock(&self.streams).push(stream);
    }

    /// Allocates memory for the engine. What it has still in hand from a generation that is lost keeps its addresses for itself,
    /// so that "free" always means the one or the other.
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Address> {
        let entered = self.enter(None)?;
        let mut aside: Vec<Address> = Vec::new();
        let allocated = loop {
            let mut address = 0;
            // SAFETY: the pointer is valid.
            match unsafe { self.driver.allocate(&raw mut address, bytes.max(1)) } {
                // There may be room when those who had it before have given their addresses back.
                Err(error) if error.is_out_of_memory() && !aside.is_empty() => {
                    break Err(self.gone("it is there again, but what was on it is not all given back yet"));
                }
                Err(error) => break Err(entered.failure(error)),
                Ok(()) => {}
            }
            let mut memory = lock(&self.memory);
            if let std::collections::hash_map::Entry::Vacant(place) = memory.entry(address) {
                place.insert((entered.generation, bytes));
                break Ok(address);
            }
            drop(memory);
            aside.push(address);
        };
        for address in aside {
            // SAFETY: it was allocated just now, and is nobody's.
            let _ = unsafe { self.driver.free(address) };
        }
        allocated
    }

    /// Takes memory back from the engine.
    pub fn free(self: &Arc<Self>, address: Address) {
        let Some((generation, _)) = lock(&self.memory).remove(&address) else { return };
        if let Ok(entered) = self.enter(Some(generation)) {
            // SAFETY: the engine has given it back, and it is of this generation.
            if let Err(error) = unsafe { self.driver.free(address) } {
                entered.failure(error);
            }
        }
    }

    /// Whether the engine's memory at an address is from a generation that is lost. `false` also for memory that is not the engine's.
    pub fn is_stale(&self, address: Address) -> bool {
        let generation = lock(&self.state).generation;
        lock(&self.memory).get(&address).is_some_and(|(other, _)| *other != generation)
    }

    /// Free and total bytes, as the driver says.
    pub fn memory_info(self: &Arc<Self>) -> Option<(u64, u64)> {
        let entered = self.enter(None).ok()?;
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: the pointers are valid.
        match unsafe { self.driver.memory_info(&raw mut free, &raw mut total) } {
            Ok(()) => Some((free as u64, total as u64)),
            Err(error) => {
                entered.failure(error);
                None
            }
        }
    }

    /// What is wrong with a request's memory, if it is not this device's, or not as large as it must be. A kernel that is passed
    /// anything else would cost all models the device.
    pub fn wrong_with(
        self: &Arc<Self>,
        entered: &Entered<'_>,
        address: Address,
        bytes: u64,
    ) -> Result<Option<String>> {
        let (mut kind, mut device, mut start, mut size) = (0u32, -1i32, 0u64, 0usize);
        let attributes = [
            driver::POINTER_MEMORY_TYPE,
            driver::POINTER_DEVICE,
            driver::POINTER_RANGE_START,
            driver::POINTER_RANGE_SIZE,
        ];
        let values: [*mut c_void; 4] = [
            (&raw mut kind).cast(),
            (&raw mut device).cast(),
            (&raw mut start).cast(),
            (&raw mut size).cast(),
        ];
        // SAFETY: each value is as large as its attribute; any address may be asked about.
        entered.check(unsafe {
            self.driver.pointer_attributes(4, attributes.as_ptr(), values.as_ptr(), address)
        })?;
        let end = address.checked_add(bytes);
        Ok(match () {
            () if kind != driver::MEMORY_TYPE_DEVICE => Some("is no memory of a CUDA device".into()),
            () if device != self.ordinal => {
                Some(format!("is memory of device {device}, not {}", self.ordinal))
            }
            () if end.is_none_or(|end| end > start.saturating_add(size as u64)) => {
                Some(format!("has not {bytes} bytes"))
            }
            () => None,
        })
    }
}

impl Drop for Device {
    /// Nobody uses it: the context goes if nobody else in the process has it.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let streams = self.streams.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.context.is_null() {
            return;
        }
        let is_well = state.lost.is_none();
        // SAFETY: the context was retained and not released; it is there for the streams, on which nothing is under way.
        let entered = is_well && unsafe { self.driver.context_push(state.context) }.is_ok();
        for stream in streams.drain(..) {
            if entered && stream.generation == state.generation {
                stream.destroy(&self.driver);
            }
        }
        let mut popped = ptr::null_mut();
        if entered {
            // SAFETY: it was pushed above.
            let _ = unsafe { self.driver.context_pop(&raw mut popped) };
        }
        // SAFETY: as above; also a lost device's context is to be let go.
        let _ = unsafe { self.driver.context_release(self.handle) };
    }
}

impl Entered<'_> {
    pub fn driver(&self) -> &Driver {
        &self.device.driver
    }

    /// What a driver's error means; a sticky one puts the device into quarantine.
    pub fn failure(&self, error: Error) -> Failure {
        let device = self.device;
        let text = device.driver.explain(error);
        if error.is_sticky() {
            device.lose(self.generation, &text);
            return device.gone(&text);
        }
        let text = format!("device {}: {text}", device.ordinal);
        match error.is_out_of_memory() {
            true => Failure::new(crate::abi::status::BLAZE_STATUS_OUT_OF_MEMORY, text),
            false => Failure::failed(text),
        }
    }

    pub fn check(&self, checked: driver::Checked) -> Result<()> {
        checked.map_err(|error| self.failure(error))
    }

    /// Nobody knows any more what is under way on the device.
    pub fn give_up(&self, why: &str) -> Failure {
        self.device.lose(self.generation, why);
        self.device.gone(why)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut context = ptr::null_mut();
        // SAFETY: it was pushed when this was made. A context that is lost may refuse; it is pushed no more.
        let _ = unsafe { self.device.driver.context_pop(&raw mut context) };
        self.device.leave();
    }
}
