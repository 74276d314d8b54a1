//! The sessions of an engine: models of the same file, with the same options, share one.

use super::session::Loaded;
use crate::backend::Interrupt;
use crate::error::{Error, Result, Status};
use crate::memory::Pool;
use crate::sync::{Mutex, lock};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// How often who waits for another's load looks whether it is still wanted.
const LOOK_NS: u64 = 2_000_000;

/// What was loaded, by what it was loaded from.
#[derive(Default)]
pub struct Sessions {
    entries: Mutex<HashMap<String, Entry>>,
    /// Pools of pinned memory, by device. They stay: what was pinned once is used by whatever comes next.
    pinned: Mutex<HashMap<u32, Arc<Pool>>>,
}

#[derive(Default)]
struct Entry {
    loaded: Weak<Loaded>,
    /// Somebody loads it.
    busy: bool,
}

impl Sessions {
    /// Whether there is a session already, or is about to be.
    pub fn has(&self, key: &str) -> bool {
        lock(&self.entries).get(key).is_some_and(|entry| entry.busy || entry.loaded.strong_count() > 0)
    }

    /// The pool of pinned memory for a device, which is made if there is none yet.
    pub fn pinned(&self, device: u32, make: impl FnOnce() -> Result<Arc<Pool>>) -> Result<Arc<Pool>> {
        let mut pinned = lock(&self.pinned);
        if let Some(pool) = pinned.get(&device) {
            return Ok(Arc::clone(pool));
        }
        let pool = make()?;
        pinned.insert(device, Arc::clone(&pool));
        Ok(pool)
    }

    /// The session, or the place for it; whoever else loads it just now is waited for.
    pub fn place(&self, key: &str, interrupt: &Interrupt) -> Result<Place<'_>> {
        loop {
            {
                let mut entries = lock(&self.entries);
                entries.retain(|_, entry| entry.busy || entry.loaded.strong_count() > 0);
                let entry = entries.entry(key.to_owned()).or_default();
                if !entry.busy {
                    let loaded = entry.loaded.upgrade();
                    entry.busy = loaded.is_none();
                    return Ok(Place { sessions: self, key: key.to_owned(), loaded });
                }
            }
            if interrupt.sleep(LOOK_NS) {
                return Err(Error::new(Status::Cancelled, "loading was interrupted"));
            }
        }
    }
}

/// A session, or the right to make it.
pub struct Place<'a> {
    sessions: &'a Sessions,
    key: String,
    loaded: Option<Arc<Loaded>>,
}

impl Place<'_> {
    pub fn loaded(&self) -> Option<Arc<Loaded>> {
        self.loaded.clone()
    }

    /// For others to find.
    pub fn fill(&mut self, loaded: &Arc<Loaded>) {
        if let Some(entry) = lock(&self.sessions.entries).get_mut(&self.key) {
            entry.loaded = Arc::downgrade(loaded);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.loaded.is_none()
            && let Some(entry) = lock(&self.sessions.entries).get_mut(&self.key)
        {
            entry.busy = false;
        }
    }
}
