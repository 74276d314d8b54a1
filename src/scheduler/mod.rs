//! When and with what a model runs: its queue, the batching policy, deadlines and background jobs.
//!
//! Nothing here knows what a request is: queues hold opaque work items, and the engine gives them meaning.

pub mod deadlines;
pub mod gate;
pub mod jobs;
pub mod join;
pub mod policy;
pub mod queue;
pub mod selfcheck;
