//! When and with what a model runs: the open batch, the batching policy, who sleeps and who wakes, and background jobs.
//!
//! Nothing here knows what a request is: there are numbers, places and clocks, and the engine gives them meaning.

pub mod bell;
pub mod gate;
pub mod jobs;
pub mod policy;
pub mod roster;
pub mod selfcheck;
pub mod spin;
