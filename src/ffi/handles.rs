//! The handles that C holds.

/// An engine: models, queues, threads and memory. Made by blaze_engine_create; several may live in one process.
/// Any function may be called with it from any thread, but for blaze_engine_destroy, which must be the last.
pub struct blaze_engine {
    pub(super) engine: crate::engine::Engine,
}

/// A completion queue, where events wait for the host. Made by blaze_queue_create. Any thread may submit to it;
/// one thread at a time may poll or wait.
pub struct blaze_queue {
    pub(super) queue: crate::engine::Queue,
}

/// A loaded model, or a route. Never 0, and never used again for another one, so a stale one is found out.
pub type blaze_model = u64;

/// A submitted piece of work. Never 0, and never used again for another one.
pub type blaze_ticket = u64;
