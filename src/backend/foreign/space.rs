//! Memory that backends allocate, of devices and pinned: pools over it, and what a backend has taken from them.

use super::Link;
use crate::abi::backend::{BLAZE_PURPOSE_BUFFERS, BLAZE_PURPOSE_WEIGHTS};
use crate::abi::tensor::{BLAZE_MEMORY_CUDA, BLAZE_MEMORY_PINNED, blaze_memory};
use crate::backend::Interrupt;
use crate::backend::devices::{Device, Devices, Need, budget_by_report, may_have_another};
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::memory::{ALIGNMENT, Block, Kind, Ledger, Place, Pool, Space, block_size, exact_size};
use crate::sync::{AtomicBool, Mutex, Ordering, lock};
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

/// One kind of memory of one device, by the backend's `allocate` and `free`. It keeps the backend from being closed.
struct ForeignSpace {
    link: Arc<Link>,
    memory: blaze_memory,
    device: i32,
}

impl Space for ForeignSpace {
    fn place(&self) -> Place {
        let device = self.device.unsigned_abs();
        match self.memory {
            BLAZE_MEMORY_PINNED => Place::Pinned { device },
            _ => Place::Device { device },
        }
    }

    fn allocate(&self, size: usize) -> Option<NonNull<u8>> {
        let functions = &self.link.functions;
        let allocate = functions.allocate?;
        // SAFETY: whoever registered the backend has promised that any thread may call it.
        let address = unsafe { allocate(functions.user, self.memory, self.device, size) };
        let address = NonNull::new(address.cast::<u8>())?;
        if !address.addr().get().is_multiple_of(ALIGNMENT) {
            self.link.context.logger.error(
                "backend",
                format_args!("{}: allocate: {address:p} is not aligned to {ALIGNMENT}", self.link.name),
            );
            // SAFETY: it came from there just now.
            unsafe { self.free(address, size) };
            return None;
        }
        if self.memory == BLAZE_MEMORY_PINNED {
            // SAFETY: host memory of that size, as the backend promises, and nobody else's.
            unsafe { address.as_ptr().write_bytes(0, size) };
        }
        Some(address)
    }

    unsafe fn free(&self, address: NonNull<u8>, size: usize) {
        let functions = &self.link.functions;
        if let Some(free) = functions.free {
            // SAFETY: promised by the caller.
            unsafe { free(functions.user, self.memory, self.device, address.as_ptr().cast(), size) };
        }
    }
}

/// What a model has taken, by kind of memory and device.
#[derive(Default)]
pub struct Usage {
    bytes: Mutex<BTreeMap<(blaze_memory, i32), u64>>,
    /// A device has had no room for it.
    refused: AtomicBool,
}

impl Usage {
    fn change(&self, place: (blaze_memory, i32), more: u64, less: u64) {
        let mut all = lock(&self.bytes);
        let bytes = all.entry(place).or_default();
        *bytes = bytes.saturating_add(more).saturating_sub(less);
        if *bytes == 0 {
            all.remove(&place);
        }
    }

    /// Bytes of pinned memory.
    pub fn pinned(&self) -> u64 {
        let all = lock(&self.bytes);
        all.iter().filter(|((memory, _), _)| *memory == BLAZE_MEMORY_PINNED).map(|(_, bytes)| bytes).sum()
    }

    /// Devices of whose memory it has some, and how many bytes.
    pub fn on_devices(&self) -> Vec<(i32, u64)> {
        let all = lock(&self.bytes);
        let of_devices = all.iter().filter(|((memory, _), _)| *memory == BLAZE_MEMORY_CUDA);
        of_devices.map(|((_, device), bytes)| (*device, *bytes)).collect()
    }

    pub fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

/// A block that the backend has, and the model that it counts for.
struct Taken {
    block: Block,
    usage: Arc<Usage>,
    place: (blaze_memory, i32),
    bytes: u64,
}

/// Who takes memory.
pub struct Taker<'a> {
    pub usage: &'a Arc<Usage>,
    /// The model.
    pub name: &'a str,
    pub interrupt: &'a Interrupt,
    pub is_load: bool,
}

/// The pools of a backend, which are made when they are first used, and what it has taken from them.
pub struct Places {
    link: Weak<Link>,
    /// Of the host's memory, in which pinned memory counts.
    host: Arc<Ledger>,
    all: Arc<Devices>,
    made: Mutex<Made>,
    taken: Mutex<HashMap<usize, Taken>>,
    /// Blocks that nobody may have, because others have their addresses.
    lost: Mutex<Vec<Block>>,
}

#[derive(Default)]
struct Made {
    is_closed: bool,
    pinned: Vec<(i32, Arc<Pool>)>,
    devices: Vec<Arc<Device>>,
}

impl Made {
    fn find_pinned(&self, device: i32) -> Option<Arc<Pool>> {
        self.pinned.iter().find(|(number, _)| *number == device).map(|(_, pool)| Arc::clone(pool))
    }

    fn find(&self, device: i32) -> Option<Arc<Device>> {
        self.devices.iter().find(|other| other.number == device).cloned()
    }
}

impl Places {
    pub fn new(link: Weak<Link>, host: &Arc<Ledger>, all: &Arc<Devices>) -> Self {
        Places {
            link,
            host: Arc::clone(host),
            all: Arc::clone(all),
            made: Mutex::default(),
            taken: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    fn space(&self, memory: blaze_memory, device: i32) -> Result<Box<dyn Space>> {
        let link = self.link.upgrade().filter(|link| link.functions.allocate.is_some());
        let link = link.ok_or_else(|| refusal("the backend has no `allocate`"))?;
        Ok(Box::new(ForeignSpace { link, memory, device }))
    }

    /// The pool of pinned memory that a device reaches.
    pub fn pinned(&self, device: i32) -> Result<Arc<Pool>> {
        check_number(device)?;
        let mut made = lock(&self.made);
        if let Some(pool) = made.find_pinned(device) {
            return Ok(pool);
        }
        made.check(made.pinned.len())?;
        let pool = Pool::new(Arc::clone(&self.host), self.space(BLAZE_MEMORY_PINNED, device)?);
        self.all.add_pinned(&pool);
        made.pinned.push((device, Arc::clone(&pool)));
        Ok(pool)
    }

    /// A device, whose budget is found out when it is first used.
    pub fn device(&self, device: i32) -> Result<Arc<Device>> {
        check_number(device)?;
        if let Some(known) = lock(&self.made).find(device) {
            return Ok(known);
        }
        let link = self.link.upgrade().ok_or_else(closed)?;
        let name = format!("{}:{device}", link.name);
        // Not under the lock: a backend may take its time.
        let by_report = || budget_by_report(&link.report()?, device);
        let budget = self.all.budget_of(&name).or_else(by_report);
        let mut made = lock(&self.made);
        if let Some(known) = made.find(device) {
            return Ok(known);
        }
        made.check(made.devices.len())?;
        let ledger = Ledger::named(budget, format!("memory.devices.{name}"));
        let pool = Pool::new(ledger, self.space(BLAZE_MEMORY_CUDA, device)?);
        let new = Device::new(&link.name, device, name, pool);
        self.all.add(&new);
        made.devices.push(Arc::clone(&new));
        drop(made);
        link.context
            .logger
            .info("memory", format_args!("{} is used, with a budget of {budget:?} bytes", new.name));
        Ok(new)
    }

    /// A block for a backend. What does not fit on a device is tried again when models have left it.
    pub fn take(
        &self,
        taker: &Taker<'_>,
        memory: blaze_memory,
        device: i32,
        size: usize,
        purpose: u32,
    ) -> Result<*mut c_void> {
        if isize::try_from(size).is_err() {
            return Err(refusal("so much memory there is nowhere"));
        }
        let (on_device, pool) = match memory {
            BLAZE_MEMORY_PINNED => (None, self.pinned(device)?),
            BLAZE_MEMORY_CUDA => {
                let device = self.device(device)?;
                let pool = device.pool();
                (Some(device), pool)
            }
            _ => return Err(refusal("only pinned memory (1) and a device's (2) are taken")),
        };
        let (bytes, kind) = match purpose {
            BLAZE_PURPOSE_WEIGHTS => (exact_size(size), Some(Kind::Models)),
            BLAZE_PURPOSE_BUFFERS => (block_size(size), None),
            _ => return Err(refusal("the purpose is none")),
        };
        let bytes = bytes as u64;
        let take = || kind.map_or_else(|| pool.take(size), |kind| pool.take_exact(size, kind));
        let block = self.until_it_fits(on_device.as_deref(), taker, bytes, take)?;
        let place = (memory, device);
        let address = block.address();
        let mut taken = lock(&self.taken);
        if taken.contains_key(&address.addr()) {
            // Not back to the pool, which would hand it out again.
            lock(&self.lost).push(block);
            return Err(refusal("`allocate` has returned an address that is in use"));
        }
        taker.usage.change(place, bytes, 0);
        taken.insert(address.addr(), Taken { block, usage: Arc::clone(taker.usage), place, bytes });
        Ok(address.cast())
    }

    /// A block of a device's memory for an output.
    pub fn take_output(&self, taker: &Taker<'_>, device: i32, size: usize) -> Result<Block> {
        let device = self.device(device)?;
        let bytes = block_size(size) as u64;
        let pool = device.pool();
        self.until_it_fits(Some(&device), taker, bytes, || pool.take(size))
    }

    fn until_it_fits(
        &self,
        device: Option<&Device>,
        taker: &Taker<'_>,
        bytes: u64,
        take: impl Fn() -> Result<Block>,
    ) -> Result<Block> {
        let mut need = Need {
            bytes,
            model: taker.name,
            is_load: taker.is_load,
            interrupt: taker.interrupt,
            began_ns: now_ns(),
            patience_ns: 0,
        };
        loop {
            match take() {
                Err(error) if matches!(error.status, Status::OverBudget | Status::OutOfMemory) => {
                    if !device.is_some_and(|device| self.all.make_room(device, &mut need)) {
                        let refused = device.is_some();
                        taker.usage.refused.fetch_or(refused, Ordering::Relaxed);
                        return Err(match device {
                            Some(device) => error.within(device.name.clone()),
                            None => error,
                        });
                    }
                }
                taken => return taken,
            }
        }
    }

    /// Takes a block back; false: the backend does not have it.
    pub fn give(&self, address: *mut c_void) -> bool {
        let taken = lock(&self.taken).remove(&address.addr());
        let Some(Taken { block, usage, place, bytes }) = taken else { return false };
        usage.change(place, 0, bytes);
        drop(block); // not under the lock: it may be freed
        true
    }

    /// The names of devices of whose memory a model has some, and how many bytes.
    pub fn on_devices(&self, usage: &Usage) -> Vec<(String, u64)> {
        let name = |number: i32| lock(&self.made).find(number).map(|device| device.name.clone());
        usage.on_devices().into_iter().filter_map(|(device, bytes)| Some((name(device)?, bytes))).collect()
    }

    /// A device is lost, and with it may be what is in its memory: nothing of it is used again. It may come back.
    pub fn renew(&self) {
        let known = lock(&self.made).devices.clone();
        for device in known {
            if let Ok(space) = self.space(BLAZE_MEMORY_CUDA, device.number) {
                device.renew(Pool::new(Arc::clone(&device.ledger), space));
            }
        }
    }

    /// The end of the backend: what it has not given back is taken, and what is idle is freed. Returns the bytes that it
    /// has not given back.
    pub fn close(&self) -> u64 {
        let left = std::mem::take(&mut *lock(&self.taken));
        let bytes = left.values().map(|taken| taken.bytes).sum();
        drop((left, std::mem::take(&mut *lock(&self.lost))));
        let made = {
            let mut made = lock(&self.made);
            made.is_closed = true;
            (std::mem::take(&mut made.pinned), std::mem::take(&mut made.devices))
        };
        drop(made); // not under the lock: it is freed
        bytes
    }
}

impl Made {
    fn check(&self, count: usize) -> Result<()> {
        match () {
            () if self.is_closed => Err(closed()),
            () if !may_have_another(count) => Err(refusal("there are too many devices")),
            () => Ok(()),
        }
    }
}

fn check_number(device: i32) -> Result<()> {
    if device >= 0 { Ok(()) } else { Err(refusal(&format!("device {device} is negative"))) }
}

fn refusal(why: &str) -> Error {
    Error::new(Status::InvalidArgument, why)
}

fn closed() -> Error {
    Error::new(Status::ShutDown, "the backend is closed")
}
