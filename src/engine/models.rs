//! The models of an engine: handles, names, and models that are being loaded.

use super::ModelId;
use super::model::Model;
use super::slots::{Pinned, Slots};
use crate::backend::Interrupt;
use crate::clock::now_ns;
use crate::config::ModelConfig;
use crate::error::{Error, Result, Status};
use crate::sync::{AtomicU32, AtomicU64, Condvar, Mutex, Ordering, lock, wait_until};
use std::collections::HashMap;
use std::sync::Arc;

/// The models of an engine. Looking one up takes no lock.
pub struct Models {
    slots: Slots<Model>,
    /// Names that follow: each is a slot whose model is swapped.
    followers: Mutex<HashMap<String, ModelId>>,
    /// `name:version` of models that are being loaded.
    loading: Mutex<HashMap<String, Arc<Loading>>>,
    /// The same, and versions of the repository's, for health.
    coming: Mutex<Vec<String>>,
    /// How often models have come or gone.
    changes: AtomicU64,
}

/// A model that stays while this lives.
pub type ModelPin<'a> = Pinned<'a, Model>;

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

impl Models {
    pub fn new() -> Self {
        Models {
            slots: Slots::new("model", 0),
            followers: Mutex::default(),
            loading: Mutex::default(),
            coming: Mutex::default(),
            changes: AtomicU64::new(0),
        }
    }

    /// The model with this handle, held in place. With `for_request`, only if it takes requests.
    #[inline]
    pub fn pin(&self, id: ModelId, for_request: bool) -> Result<ModelPin<'_>> {
        self.slots.pin(id, for_request)
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
        self.slots.all()
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
        self.slots.each(|_, pin| look(pin));
    }

    /// Takes a model out of the table: its handle is stale from now on, and nobody submits to it any more.
    pub fn remove(&self, id: ModelId) -> Result<Arc<Model>> {
        let model = self.slots.remove(id);
        self.changes.fetch_add(1, Ordering::SeqCst);
        model
    }

    /// How often models have come or gone.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Puts a model into the table.
    pub fn insert(&self, model: Arc<Model>) -> Result<ModelId> {
        let id = self.slots.insert(&model, false, |id| model.queue.lines.set_model_id(id))?;
        self.changes.fetch_add(1, Ordering::SeqCst);
        Ok(id)
    }

    /// Makes `name` mean this model from now on: all at once, for whoever has its handle. Nobody submits to the one
    /// that it meant before through it any more when this returns.
    pub fn follow(&self, name: &str, model: &Arc<Model>) -> Result<ModelId> {
        let mut followers = lock(&self.followers);
        if let Some(&id) = followers.get(name) {
            drop(followers);
            self.slots.swap(id, model)?;
            return Ok(id);
        }
        let id = self.slots.insert(model, true, |_| ())?;
        followers.insert(name.to_owned(), id);
        self.changes.fetch_add(1, Ordering::SeqCst);
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
        self.slots.close();
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
