//! The engine: owns models, queues, threads and memory, and wires the layers below together.

mod admission;
mod advice;
mod backends;
mod bare;
mod batch;
mod completion;
mod configure;
mod counters;
mod crew;
mod device_room;
mod event;
mod execute;
mod health;
mod history;
mod job;
mod learned;
mod lifecycle;
mod line;
mod lines;
mod load;
mod logging;
mod measure;
mod model;
mod models;
mod observer;
mod outcome;
mod pictures;
mod profiling;
mod pumping;
mod queue;
mod quotas;
mod relay;
mod reports;
mod residence;
mod room;
mod route_reports;
mod routes;
mod routing;
mod settle;
mod slots;
mod spans;
mod stepping;
mod stream;
mod submit;
mod table;
mod trimming;
mod tune;
mod tuning;
mod unload;
mod versions;
mod waiting;
mod warden;
mod warm_up;

pub use admission::{InputData, InputTensor, OutputBuffer, OutputData, RequestDescription};
pub use counters::MetricsSnapshot;
pub use event::{Event, EventFlags, EventKind, OutputRef, Payload, Timing};
pub use health::HealthSnapshot;
pub use lifecycle::{Engine, Queue};
pub use table::Table;

/// A model, named by a number that is never used again for another one.
pub type ModelId = u64;

/// A request in the engine's hands, named by a number that is never used again for another one.
pub type Ticket = u64;

/// A random start for the generation half of handles, so that one engine's are unlikely to fit another's.
fn random_generation() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(0u8) as u32).max(1)
}

/// Packs a table index and its generation, which is never 0, into a handle.
fn handle(index: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

/// Unpacks a handle into index and generation.
fn unpack(handle: u64) -> (u32, u32) {
    (handle as u32, (handle >> 32) as u32)
}

/// The generation after this one, skipping 0.
fn next_generation(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}
