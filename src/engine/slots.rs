//! Tables whose entries have handles: looking one up takes no lock, and who looks keeps it in place.
#![allow(unsafe_code)]

use super::{handle, next_generation, random_generation, unpack};
use crate::error::{Error, Result, Status};
use crate::sync::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Mutex, Ordering, lock, spin_loop};
use std::ops::Deref;
use std::ptr;
use std::sync::{Arc, OnceLock};

const CHUNK: usize = 64;
const CHUNKS: usize = 256;

/// A table of things that a host names by handles.
pub struct Slots<T> {
    /// What an entry is called in errors.
    noun: &'static str,
    /// Bits that all handles of this table have.
    tag: u32,
    chunks: [OnceLock<Box<[Slot<T>]>>; CHUNKS],
    /// Slots in use or used before.
    count: AtomicUsize,
    /// Held by whoever changes which entries there are.
    changing: Mutex<()>,
    /// Nothing more is asked of entries: those that come are closed at once.
    closed: AtomicBool,
    first_generation: u32,
}

struct Slot<T> {
    /// Generation, whether it is closed, and how many threads look at the entry just now.
    state: AtomicU64,
    entry: AtomicPtr<T>,
    /// It is another name for what has a slot of its own.
    alias: AtomicBool,
}

const CLOSED: u64 = 1 << 31;
const USERS: u64 = CLOSED - 1;

/// An entry that stays while this lives.
pub struct Pinned<'a, T> {
    slot: &'a Slot<T>,
    entry: &'a T,
}

impl<T> Deref for Pinned<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.entry
    }
}

impl<T> Pinned<'_, T> {
    pub fn to_arc(&self) -> Arc<T> {
        let pointer = ptr::from_ref(self.entry);
        // SAFETY: the slot's pointer came from an `Arc`, whose count is at least one while the entry is pinned.
        unsafe {
            Arc::increment_strong_count(pointer);
            Arc::from_raw(pointer)
        }
    }
}

impl<T> Drop for Pinned<'_, T> {
    fn drop(&mut self) {
        self.slot.state.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<T> Slot<T> {
    fn wait_unused(&self) {
        let mut looks = 0u32;
        while self.state.load(Ordering::SeqCst) & USERS != 0 {
            // They are about to leave: nobody waits for anything while they look.
            looks += 1;
            if looks < 100 { spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl<T> Slots<T> {
    pub fn new(noun: &'static str, tag: u32) -> Self {
        Slots {
            noun,
            tag,
            chunks: [const { OnceLock::new() }; CHUNKS],
            count: AtomicUsize::new(0),
            changing: Mutex::new(()),
            closed: AtomicBool::new(false),
            first_generation: random_generation(),
        }
    }

    #[cold]
    fn not_found(&self, id: u64) -> Error {
        let noun = self.noun;
        Error::new(Status::NotFound, format!("there is no {noun} {id:#x}; is it gone?"))
    }

    fn slot(&self, id: u64) -> Result<(&Slot<T>, u32)> {
        let (index, generation) = unpack(id);
        let slot = if index & self.tag == self.tag { self.at((index & !self.tag) as usize) } else { None };
        slot.map(|slot| (slot, generation)).ok_or_else(|| self.not_found(id))
    }

    fn at(&self, index: usize) -> Option<&Slot<T>> {
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    /// The entry with this handle, held in place. With `open`, only if the table is not closed.
    #[inline]
    pub fn pin(&self, id: u64, open: bool) -> Result<Pinned<'_, T>> {
        let (slot, generation) = self.slot(id)?;
        let mut state = slot.state.load(Ordering::SeqCst);
        loop {
            if (state >> 32) as u32 != generation {
                return Err(self.not_found(id));
            }
            if open && state & CLOSED != 0 {
                return Err(Error::shut_down());
            }
            match slot.state.compare_exchange_weak(state, state + 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        // Not before others can see that somebody looks: `swap` changes it first, and then waits for those.
        let entry = slot.entry.load(Ordering::SeqCst);
        // SAFETY: whoever takes the entry out waits until nobody looks at it.
        match unsafe { entry.as_ref() } {
            Some(entry) => Ok(Pinned { slot, entry }),
            None => {
                slot.state.fetch_sub(1, Ordering::SeqCst);
                Err(self.not_found(id))
            }
        }
    }

    /// Every entry, with its handle.
    pub fn all(&self) -> Vec<(u64, Arc<T>)> {
        let mut all = Vec::new();
        self.each(|id, pin| all.push((id, pin.to_arc())));
        all
    }

    /// Looks at every entry. Takes no lock, so that it can be called while one is pinned.
    pub fn each(&self, mut look: impl FnMut(u64, &Pinned<'_, T>)) {
        for index in 0..self.count.load(Ordering::SeqCst) {
            let Some(slot) = self.at(index) else { return };
            if slot.alias.load(Ordering::SeqCst) {
                continue;
            }
            let id = self.handle(index, slot);
            if let Ok(pin) = self.pin(id, false) {
                look(id, &pin);
            }
        }
    }

    fn handle(&self, index: usize, slot: &Slot<T>) -> u64 {
        handle(index as u32 | self.tag, (slot.state.load(Ordering::SeqCst) >> 32) as u32)
    }

    /// Puts an entry into the table. `settle` gets its handle before others can find it.
    pub fn insert(&self, entry: &Arc<T>, alias: bool, settle: impl FnOnce(u64)) -> Result<u64> {
        let _changing = lock(&self.changing);
        let count = self.count.load(Ordering::SeqCst);
        let free =
            |&index: &usize| self.at(index).is_some_and(|slot| slot.entry.load(Ordering::Acquire).is_null());
        let index = (0..count).find(free).unwrap_or(count);
        let chunk = self.chunks.get(index / CHUNK).ok_or_else(|| {
            let noun = self.noun;
            Error::new(Status::OutOfMemory, format!("there are {count} {noun}s, as many as there can be"))
        })?;
        let empty = |_| Slot {
            state: AtomicU64::new(u64::from(self.first_generation) << 32),
            entry: AtomicPtr::new(ptr::null_mut()),
            alias: AtomicBool::new(false),
        };
        let slot = &chunk.get_or_init(|| (0..CHUNK).map(empty).collect())[index % CHUNK];
        let id = self.handle(index, slot);
        settle(id);
        if self.closed.load(Ordering::SeqCst) {
            slot.state.fetch_or(CLOSED, Ordering::SeqCst);
        }
        slot.alias.store(alias, Ordering::SeqCst);
        slot.entry.store(Arc::into_raw(Arc::clone(entry)).cast_mut(), Ordering::Release);
        self.count.fetch_max(index + 1, Ordering::SeqCst);
        Ok(id)
    }

    /// Takes an entry out of the table: its handle is stale from now on, and nobody looks at it any more.
    pub fn remove(&self, id: u64) -> Result<Arc<T>> {
        let _changing = lock(&self.changing);
        let (slot, generation) = self.slot(id)?;
        let current = |state: u64| (state >> 32) as u32 == generation;
        if !current(slot.state.load(Ordering::SeqCst)) || slot.entry.load(Ordering::Acquire).is_null() {
            return Err(self.not_found(id));
        }
        let next = u64::from(next_generation(generation)) << 32;
        let _ = slot
            .state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| Some(next | state & (USERS | CLOSED)));
        slot.wait_unused();
        let entry = slot.entry.swap(ptr::null_mut(), Ordering::AcqRel);
        slot.alias.store(false, Ordering::SeqCst);
        // SAFETY: put in by `insert` or `swap` from an `Arc`, and taken out once.
        Ok(unsafe { Arc::from_raw(entry) })
    }

    /// Puts another entry into a handle's place, all at once for whoever has the handle. Nobody looks at the old one
    /// through it any more when this returns.
    pub fn swap(&self, id: u64, entry: &Arc<T>) -> Result<Arc<T>> {
        let _changing = lock(&self.changing);
        let (slot, generation) = self.slot(id)?;
        if (slot.state.load(Ordering::SeqCst) >> 32) as u32 != generation
            || slot.entry.load(Ordering::Acquire).is_null()
        {
            return Err(self.not_found(id));
        }
        let old = slot.entry.swap(Arc::into_raw(Arc::clone(entry)).cast_mut(), Ordering::SeqCst);
        slot.wait_unused();
        // SAFETY: put in by `insert` or here from an `Arc`, and taken out once; nobody looks at it any more.
        Ok(unsafe { Arc::from_raw(old) })
    }

    /// Closes all entries, those to come too. When this returns, nobody looks at one who found it open.
    pub fn close(&self) {
        let _changing = lock(&self.changing);
        self.closed.store(true, Ordering::SeqCst);
        let count = self.count.load(Ordering::SeqCst);
        for slot in (0..count).filter_map(|index| self.at(index)) {
            slot.state.fetch_or(CLOSED, Ordering::SeqCst);
        }
        for slot in (0..count).filter_map(|index| self.at(index)) {
            slot.wait_unused();
        }
    }
}

impl<T> Drop for Slots<T> {
    fn drop(&mut self) {
        for index in 0..self.count.load(Ordering::SeqCst) {
            let Some(slot) = self.at(index) else { return };
            let entry = slot.entry.swap(ptr::null_mut(), Ordering::AcqRel);
            if !entry.is_null() {
                // SAFETY: put in from an `Arc`, and taken out once; nobody else is left.
                drop(unsafe { Arc::from_raw(entry) });
            }
        }
    }
}
