//! The table of models: handles, names, and models that are being loaded.
#![allow(unsafe_code)]

use super::model::Model;
use super::{ModelId, handle, next_generation, random_generation, unpack};
use crate::backend::Interrupt;
use crate::clock::now_ns;
use crate::config::ModelConfig;
use crate::error::{Error, Result, Status};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Condvar, Mutex, Ordering, lock, spin_loop, wait_until,
};
use std::collections::HashMap;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::AtomicPtr;
use std::sync::{Arc, OnceLock};

/// The models of an engine. Looking one up takes no lock.
pub struct Models {
    chunks: [OnceLock<Box<[ModelSlot]>>; CHUNKS],
    /// Slots in use or used before.
    count: AtomicUsize,
    /// Held by whoever changes which models there are.
    changing: Mutex<()>,
    /// No more requests: models that come are closed at once.
    closed: AtomicBool,
    /// Names that follow: each is a slot whose model is swapped.
    followers: Mutex<HashMap<String, ModelId>>,
    /// `name:version` of models that are being loaded.
    loading: Mutex<HashMap<String, Arc<Loading>>>,
    /// The same, and versions of the repository's, for health.
    coming: Mutex<Vec<String>>,
    first_generation: u32,
}

/// See `Models::come`.
pub struct Coming<'a> {
    models: &'a Models,
    full_name: &'a str,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut coming = lock(&self.models.coming);
        if let Some(at) = coming.iter().position(|name| name == self.full_name) {
            coming.remove(at);
        }
    }
}

const CHUNK: usize = 64;
const CHUNKS: usize = 256;

struct ModelSlot {
    /// Generation, whether it is closed to requests, and how many threads look at the model just now.
    state: AtomicU64,
    model: AtomicPtr<Model>,
    /// It is a name that follows versions, rather than a model.
    follows: AtomicBool,
}

const CLOSED: u64 = 1 << 31;
const USERS: u64 = CLOSED - 1;

/// A model that stays while this lives.
pub struct ModelPin<'a> {
    slot: &'a ModelSlot,
    model: &'a Model,
}

impl Deref for ModelPin<'_> {
    type Target = Model;

    fn deref(&self) -> &Model {
        self.model
    }
}

impl ModelPin<'_> {
    pub fn to_arc(&self) -> Arc<Model> {
        let pointer = ptr::from_ref(self.model);
        // SAFETY: the slot's pointer came from an `Arc`, whose count is at least one while the model is pinned.
        unsafe {
            Arc::increment_strong_count(pointer);
            Arc::from_raw(pointer)
        }
    }
}

impl Drop for ModelPin<'_> {
    fn drop(&mut self) {
        self.slot.state.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ModelSlot {
    fn wait_unused(&self) {
        let mut looks = 0u32;
        while self.state.load(Ordering::SeqCst) & USERS != 0 {
            // They are about to leave: nobody waits for anything while they look.
            looks += 1;
            if looks < 100 { spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Models {
    pub fn new() -> Self {
        Models {
            chunks: [const { OnceLock::new() }; CHUNKS],
            count: AtomicUsize::new(0),
            changing: Mutex::new(()),
            closed: AtomicBool::new(false),
            followers: Mutex::default(),
            loading: Mutex::default(),
            coming: Mutex::default(),
            first_generation: random_generation(),
        }
    }

    fn slot(&self, index: usize) -> Option<&ModelSlot> {
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    /// The model with this handle, held in place. With `for_request`, only if it takes requests.
    #[inline]
    pub fn pin(&self, id: ModelId, for_request: bool) -> Result<ModelPin<'_>> {
        let (index, generation) = unpack(id);
        let slot = self.slot(index as usize).ok_or_else(|| not_found(id))?;
        let mut state = slot.state.load(Ordering::SeqCst);
        loop {
            if (state >> 32) as u32 != generation {
                return Err(not_found(id));
            }
            if for_request && state & CLOSED != 0 {
                return Err(Error::shut_down());
            }
            match slot.state.compare_exchange_weak(state, state + 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        // Not before others can see that somebody looks: `follow` swaps it first, and then waits for those.
        let model = slot.model.load(Ordering::SeqCst);
        // SAFETY: whoever takes the model out waits until nobody looks at it.
        match unsafe { model.as_ref() } {
            Some(model) => Ok(ModelPin { slot, model }),
            None => {
                slot.state.fetch_sub(1, Ordering::SeqCst);
                Err(not_found(id))
            }
        }
    }

    pub fn get(&self, id: ModelId) -> Result<Arc<Model>> {
        Ok(self.pin(id, false)?.to_arc())
    }

    /// The model called `name:version`, or the newest version of `name`: a handle that follows, if there is one.
    pub fn find(&self, name: &str) -> Result<ModelId> {
        if let Some(&id) = lock(&self.followers).get(name) {
            return Ok(id);
        }
        let mut newest: Option<(u32, ModelId)> = None;
        for (id, model) in self.all() {
            let version = model.config.version();
            if model.full_name == name
                || (model.config.name == name && newest.is_none_or(|(v, _)| v < version))
            {
                newest = Some((version, id));
            }
        }
        newest
            .map(|(_, id)| id)
            .ok_or_else(|| Error::new(Status::NotFound, format!("there is no model called {name:?}")))
    }

    /// Every loaded model.
    pub fn all(&self) -> Vec<(ModelId, Arc<Model>)> {
        let mut all = Vec::new();
        self.each_slot(|id, pin| all.push((id, pin.to_arc())));
        all
    }

    /// `name:version` of models that are being loaded for the first time, in the order in which that began.
    pub fn coming(&self) -> Vec<String> {
        lock(&self.coming).clone()
    }

    /// Says that a model is being loaded, for as long as the guard lives.
    pub fn come<'a>(&'a self, full_name: &'a str) -> Coming<'a> {
        lock(&self.coming).push(full_name.to_owned());
        Coming { models: self, full_name }
    }

    /// Looks at every loaded model. Takes no lock, so that it can be called while a model is pinned.
    pub fn each(&self, mut look: impl FnMut(&ModelPin<'_>)) {
        self.each_slot(|_, pin| look(pin));
    }

    fn each_slot(&self, mut look: impl FnMut(ModelId, &ModelPin<'_>)) {
        for index in 0..self.count.load(Ordering::SeqCst) {
            let Some(slot) = self.slot(index) else { return };
            if slot.follows.load(Ordering::SeqCst) {
                continue;
            }
            let id = handle(index as u32, (slot.state.load(Ordering::SeqCst) >> 32) as u32);
            if let Ok(pin) = self.pin(id, false) {
                look(id, &pin);
            }
        }
    }

    /// Takes a model out of the table: its handle is stale from now on, and nobody submits to it any more.
    pub fn remove(&self, id: ModelId) -> Result<Arc<Model>> {
        let (index, generation) = unpack(id);
        let changing = lock(&self.changing);
        let slot = self.slot(index as usize).ok_or_else(|| not_found(id))?;
        let current = |state: u64| (state >> 32) as u32 == generation;
        if !current(slot.state.load(Ordering::SeqCst)) || slot.model.load(Ordering::Acquire).is_null() {
            return Err(not_found(id));
        }
        let next = u64::from(next_generation(generation)) << 32;
        let _ = slot
            .state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| Some(next | state & (USERS | CLOSED)));
        slot.wait_unused();
        let model = slot.model.swap(ptr::null_mut(), Ordering::AcqRel);
        slot.follows.store(false, Ordering::SeqCst);
        drop(changing);
        // SAFETY: put in by `place` from an `Arc`, and taken out once.
        Ok(unsafe { Arc::from_raw(model) })
    }

    /// Puts a model into the table.
    pub fn insert(&self, model: Arc<Model>) -> Result<ModelId> {
        let _changing = lock(&self.changing);
        self.place(&model, false)
    }

    /// A free slot for the model.
    fn place(&self, model: &Arc<Model>, follows: bool) -> Result<ModelId> {
        let count = self.count.load(Ordering::SeqCst);
        let free = (0..count)
            .find(|&index| self.slot(index).is_some_and(|slot| slot.model.load(Ordering::Acquire).is_null()));
        let index = free.unwrap_or(count);
        let chunk = self.chunks.get(index / CHUNK).ok_or_else(|| {
            Error::new(Status::OutOfMemory, format!("{count} models are loaded, as many as there can be"))
        })?;
        let empty = |_| ModelSlot {
            state: AtomicU64::new(u64::from(self.first_generation) << 32),
            model: AtomicPtr::new(ptr::null_mut()),
            follows: AtomicBool::new(false),
        };
        let slot = &chunk.get_or_init(|| (0..CHUNK).map(empty).collect())[index % CHUNK];
        let id = handle(index as u32, (slot.state.load(Ordering::SeqCst) >> 32) as u32);
        if !follows {
            model.queue.lines.set_model_id(id);
        }
        if self.closed.load(Ordering::SeqCst) {
            slot.state.fetch_or(CLOSED, Ordering::SeqCst);
        }
        slot.follows.store(follows, Ordering::SeqCst);
        slot.model.store(Arc::into_raw(Arc::clone(model)).cast_mut(), Ordering::Release);
        self.count.fetch_max(index + 1, Ordering::SeqCst);
        Ok(id)
    }

    /// Makes `name` mean this model from now on: all at once, for whoever has its handle. Nobody submits to the one
    /// that it meant before through it any more when this returns.
    pub fn follow(&self, name: &str, model: &Arc<Model>) -> Result<ModelId> {
        let _changing = lock(&self.changing);
        let mut followers = lock(&self.followers);
        if let Some(&id) = followers.get(name) {
            let slot = self.slot(unpack(id).0 as usize).ok_or_else(|| not_found(id))?;
            let old = slot.model.swap(Arc::into_raw(Arc::clone(model)).cast_mut(), Ordering::SeqCst);
            drop(followers);
            slot.wait_unused();
            // SAFETY: put in by `place` or here from an `Arc`, and taken out once; nobody looks at it any more.
            drop(unsafe { Arc::from_raw(old) });
            return Ok(id);
        }
        let id = self.place(model, true)?;
        followers.insert(name.to_owned(), id);
        Ok(id)
    }

    /// The name whose handle this is, if it follows versions.
    pub fn follower(&self, id: ModelId) -> Option<String> {
        lock(&self.followers).iter().find(|(_, other)| **other == id).map(|(name, _)| name.clone())
    }

    /// The end of `follow`: the name's handle is stale.
    pub fn unfollow(&self, name: &str) {
        let id = lock(&self.followers).remove(name);
        if let Some(id) = id {
            let _ = self.remove(id); // it is there: only this takes it out
        }
    }

    /// Refuses requests to all models from now on. When this returns, those that were accepted are written.
    pub fn close(&self) {
        let _changing = lock(&self.changing);
        self.closed.store(true, Ordering::SeqCst);
        let count = self.count.load(Ordering::SeqCst);
        for slot in (0..count).filter_map(|index| self.slot(index)) {
            slot.state.fetch_or(CLOSED, Ordering::SeqCst);
        }
        for slot in (0..count).filter_map(|index| self.slot(index)) {
            slot.wait_unused();
        }
    }

    /// Claims a name for a load. If the same model is loaded, that is it; if it is being loaded, waits for it.
    pub fn claim(
        &self,
        full_name: &str,
        config: Option<&ModelConfig>,
        interrupt: &Interrupt,
    ) -> Result<Claim<'_>> {
        let exists = |text: &str| Error::new(Status::AlreadyExists, format!("a model {full_name:?} {text}"));
        loop {
            let mut loading = lock(&self.loading);
            if let Some(other) = loading.get(full_name).cloned() {
                if config.is_none() || other.config.as_ref() != config {
                    return Err(exists("is being loaded, with another configuration"));
                }
                other.wanted.fetch_add(1, Ordering::Relaxed);
                drop(loading);
                match self.wait_for(&other, interrupt) {
                    Ok(id) => return Ok(Claim::Loaded(id)),
                    // Who asked first does not want it any more, but this one does.
                    Err(error) if error.status == Status::Cancelled && !interrupt.is_raised() => continue,
                    Err(error) => return Err(error),
                }
            }
            let loaded = self.all().into_iter().find(|(_, model)| model.full_name == full_name);
            if let Some((id, model)) = loaded {
                if config != Some(&model.config) {
                    return Err(exists("is loaded already, with another configuration"));
                }
                model.wanted.fetch_add(1, Ordering::Relaxed);
                return Ok(Claim::Loaded(id));
            }
            let own = Arc::new(Loading {
                config: config.cloned(),
                wanted: AtomicU32::new(1),
                ended: Mutex::new(None),
                changed: Condvar::new(),
            });
            loading.insert(full_name.to_owned(), Arc::clone(&own));
            return Ok(Claim::Mine(NameClaim {
                models: self,
                full_name: full_name.to_owned(),
                loading: own,
            }));
        }
    }

    /// Waits for another's load. Who does not want it any more is not counted any more; if it has ended well all the
    /// same, that is for `release`.
    fn wait_for(&self, other: &Loading, interrupt: &Interrupt) -> Result<ModelId> {
        other.wait(interrupt).or_else(|error| {
            let _counting = lock(&self.loading);
            if let Some(Ok(id)) = &*lock(&other.ended) {
                return Ok(*id);
            }
            other.wanted.fetch_sub(1, Ordering::Relaxed);
            Err(error)
        })
    }

    /// For a load that nobody wants any more after all. Returns the model, out of the table, if nobody else has asked
    /// for it.
    pub fn release(&self, id: ModelId) -> Option<Arc<Model>> {
        let _counting = lock(&self.loading);
        let others = self.pin(id, false).ok()?.wanted.fetch_sub(1, Ordering::Relaxed) - 1;
        if others == 0 { self.remove(id).ok() } else { None }
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        let followers = std::mem::take(&mut *lock(&self.followers));
        for id in followers.into_values().chain(self.all().into_iter().map(|(id, _)| id)) {
            let _ = self.remove(id);
        }
    }
}

#[cold]
fn not_found(id: ModelId) -> Error {
    Error::new(Status::NotFound, format!("there is no model {id:#x}; was it unloaded?"))
}

/// A load that is under way, for others who want the same.
struct Loading {
    /// `None`: of bytes, of which nobody knows whether they are the same.
    config: Option<ModelConfig>,
    /// How many have asked for it. Changes under the lock of all loads.
    wanted: AtomicU32,
    ended: Mutex<Option<Result<ModelId>>>,
    changed: Condvar,
}

/// How often who waits for another's load looks whether it is still wanted.
const LOOK_NS: u64 = 5_000_000;

impl Loading {
    fn wait(&self, interrupt: &Interrupt) -> Result<ModelId> {
        let mut ended = lock(&self.ended);
        loop {
            if let Some(result) = &*ended {
                return result.clone();
            }
            if interrupt.is_raised() {
                return Err(Error::new(Status::Cancelled, "loading was interrupted"));
            }
            ended = wait_until(&self.changed, ended, now_ns() + LOOK_NS);
        }
    }
}

/// What became of a claim.
pub enum Claim<'a> {
    /// The name is the caller's to load.
    Mine(NameClaim<'a>),
    Loaded(ModelId),
}

/// The right to load a model of this name.
pub struct NameClaim<'a> {
    models: &'a Models,
    full_name: String,
    loading: Arc<Loading>,
}

impl NameClaim<'_> {
    /// Says how it ended.
    pub fn end(self, result: Result<ModelId>) {
        let mut loading = lock(&self.models.loading);
        if let Ok(pin) = result.as_ref().map_err(Clone::clone).and_then(|&id| self.models.pin(id, false)) {
            pin.wanted.store(self.loading.wanted.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        *lock(&self.loading.ended) = Some(result);
        loading.remove(&self.full_name);
    }
}

impl Drop for NameClaim<'_> {
    fn drop(&mut self) {
        let mut loading = lock(&self.models.loading);
        if loading.get(&self.full_name).is_some_and(|other| Arc::ptr_eq(other, &self.loading)) {
            loading.remove(&self.full_name);
        }
        lock(&self.loading.ended)
            .get_or_insert_with(|| Err(Error::new(Status::Cancelled, "loading was given up")));
        self.loading.changed.notify_all();
    }
}
