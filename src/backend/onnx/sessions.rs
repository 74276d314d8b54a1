//! The sessions of an engine: models of the same file, with the same options, share one.

use super::session::Loaded;
use crate::backend::Interrupt;
use crate::error::{Error, Result, Status};
use crate::sync::{Mutex, lock};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// How often who waits for another's load looks whether it is still wanted.
const LOOK_NS: u64 = 2_000_000;

/// What was loaded, by what it was loaded from.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<String, Entry>>);

#[derive(Default)]
struct Entry {
    loaded: Weak<Loaded>,
    /// Somebody loads it.
    busy: bool,
}

impl Sessions {
    /// Whether there is a session already, or is about to be.
    pub fn has(&self, key: &str) -> bool {
        lock(&self.0).get(key).is_some_and(|entry| entry.busy || entry.loaded.strong_count() > 0)
    }

    /// The session, or the place for it; whoever else loads it just now is waited for.
    pub fn place(&self, key: &str, interrupt: &Interrupt) -> Result<Place<'_>> {
        loop {
            {
                let mut entries = lock(&self.0);
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
        if let Some(entry) = lock(&self.sessions.0).get_mut(&self.key) {
            entry.loaded = Arc::downgrade(loaded);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.loaded.is_none()
            && let Some(entry) = lock(&self.sessions.0).get_mut(&self.key)
        {
            entry.busy = false;
        }
    }
}
