//! What is learned of a target: stub.

/// What `adaptive` knows of one target.
#[derive(Default)]
pub struct Arm {}

impl Arm {
    /// Takes in what a batch of calls took, on average, and the share of it that failed.
    pub fn learn(&self, _latency_ns: f32, _failed: f32, _in_flight: u32, _now_ns: u64, _memory_ns: u64) {}
}
