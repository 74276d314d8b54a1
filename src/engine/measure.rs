//! What a lane counts of the batches that it runs.
#![allow(unsafe_code)]

use super::execute::Lane;
use super::model::Model;
use crate::clock::now_ns;
use crate::error::Status;

impl Lane<'_> {
    /// Counts a run of the backend's.
    pub fn count_run(&self, rows: usize, computed_ns: u64) {
        let counted = self.batch.line.traffic.here();
        counted.batches.add(1);
        counted.rows.add(rows as u64);
        if let Some(counted) = self.batch.line.traffic.times() {
            counted.batch_rows.record(rows as u64);
            counted.computed.record(computed_ns);
        }
        if let Some(layout) = self.batch.line.layout() {
            let rows = if layout.joined { rows } else { 1 };
            let bytes: usize = layout.inputs.iter().map(|part| part.row_bytes).sum();
            counted.input_bytes.add((rows * bytes) as u64);
        }
    }

    /// Members that are resolved by this batch's end.
    pub fn published(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.div_ceil(64)).flat_map(move |at| {
            let mut bits = self.batch.published.word(at);
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
                bits &= bits - 1;
                Some(64 * at + bit)
            })
        })
    }

    /// Takes note of how long everything took, right before the host hears of it.
    pub fn record_times(&self) {
        // SAFETY: this is the lane.
        let lap = unsafe { self.batch.lap() };
        let Some(counted) = self.batch.line.traffic.times().filter(|_| lap.status == Status::Ok) else {
            return;
        };
        let now = now_ns();
        let gathered_ns = lap.started_ns.saturating_sub(self.written_ns);
        counted.copied.record(gathered_ns + now.saturating_sub(lap.ended_ns));
        // SAFETY: written, and held by the lane.
        let submitted = || self.published().map(|member| unsafe { self.batch.request(member) }.submitted_ns);
        counted.total.record_all(submitted().map(|at| now.saturating_sub(at)));
        counted.queued.record_all(submitted().map(|at| lap.taken_ns.saturating_sub(at)));
    }
}

impl Model {
    /// Counts a step in which so many requests advanced: it is as a batch of so many rows.
    pub fn count_step(&self, rows: usize, computed_ns: u64) {
        let counted = self.traffic.here();
        counted.batches.add(1);
        counted.steps.add(1);
        counted.rows.add(rows as u64);
        if let Some(counted) = self.traffic.times() {
            counted.batch_rows.record(rows as u64);
            counted.computed.record(computed_ns);
        }
    }
}
