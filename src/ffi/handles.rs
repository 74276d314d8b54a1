//! The handles that C holds.

use crate::error::{Error, Result, Status};
use crate::platform::process_generation;

/// What belongs to the process that has made it, and is of no use in a child of that one.
pub trait OfProcess {
    fn made_in(&self) -> u32;

    /// An error in the child of a fork: the threads that go with it are gone there, and its locks may be held for ever.
    #[inline]
    fn check_process(&self, name: &str) -> Result<()> {
        if self.made_in() == process_generation() { Ok(()) } else { Err(forked(name)) }
    }
}

#[cold]
fn forked(name: &str) -> Error {
    let text = format!("{name} was made before this process was forked; the child must make its own");
    Error::new(Status::InvalidState, text)
}

/// An engine: models, queues, threads and memory. Made by blaze_engine_create; several may live in one process.
/// Any function may be called with it from any thread, but for blaze_engine_destroy, which must be the last.
pub struct blaze_engine {
    pub(super) engine: crate::engine::Engine,
    made_in: u32,
}

impl blaze_engine {
    /// For C, until `blaze_engine_destroy`.
    pub(super) fn give_out(engine: crate::engine::Engine) -> *mut blaze_engine {
        Box::into_raw(Box::new(blaze_engine { engine, made_in: process_generation() }))
    }
}

impl OfProcess for blaze_engine {
    #[inline]
    fn made_in(&self) -> u32 {
        self.made_in
    }
}

/// A completion queue, where events wait for the host. Made by blaze_queue_create. Any thread may submit to it;
/// one thread at a time may poll or wait.
pub struct blaze_queue {
    pub(super) queue: crate::engine::Queue,
    made_in: u32,
}

impl blaze_queue {
    /// For C, until `blaze_queue_destroy`.
    pub(super) fn give_out(queue: crate::engine::Queue) -> *mut blaze_queue {
        Box::into_raw(Box::new(blaze_queue { queue, made_in: process_generation() }))
    }
}

impl OfProcess for blaze_queue {
    #[inline]
    fn made_in(&self) -> u32 {
        self.made_in
    }
}

/// A loaded model, or a route. Never 0, and never used again for another one, so a stale one is found out.
pub type blaze_model = u64;

/// A submitted piece of work. Never 0, and never used again for another one.
pub type blaze_ticket = u64;
