//! How much there is to do: requests without a terminal event, and events that nobody has taken.

use super::Table;
use crate::engine::batch::Phase;
use crate::metrics::Traffic;
use crate::sync::Ordering;
use std::collections::HashMap;
use std::ptr;

impl Table {
    /// Requests that are not resolved, of one model or of all; with `queued`, only those that no lane has taken.
    pub fn unresolved(&self, traffic: Option<&Traffic>, queued: bool) -> u64 {
        let mut count = 0;
        self.each(|pin| {
            let job = pin.line.is_for_jobs()
                || traffic.is_some_and(|traffic| !ptr::eq(traffic, &*pin.line.traffic));
            if !job && (!queued || pin.phase() == Phase::Queued) {
                let members = self.slot(pin.index).claims.counts().members;
                count += (members - pin.resolved.count(members)) as u64;
                if pin.has_routed() {
                    count = count.saturating_sub(pin.unresolved_children(members));
                }
            }
        });
        count
    }

    /// By model, requests that are not resolved, and those of them that no lane has taken.
    pub fn unresolved_by_model(&self) -> HashMap<usize, (u64, u64)> {
        let mut models: HashMap<usize, (u64, u64)> = HashMap::new();
        self.each(|pin| {
            let members = self.slot(pin.index).claims.counts().members;
            let count = (members - pin.resolved.count(members)) as u64;
            let children = if pin.has_routed() { pin.unresolved_children(members) } else { 0 };
            let count = count.saturating_sub(children);
            if count > 0 && !pin.line.is_for_jobs() {
                let model = models.entry(pin.line.traffic.key()).or_default();
                model.0 += count;
                model.1 += if pin.phase() == Phase::Queued { count } else { 0 };
            }
        });
        models
    }

    /// Events that are ready and that the host has not taken, when so many requests are not resolved.
    pub fn events_waiting(&self, unresolved: u64) -> u64 {
        let promised: u64 = self.all_queues().iter().map(|queue| u64::from(queue.outstanding())).sum();
        let idle = self.idle_places.load(Ordering::Relaxed);
        promised.saturating_sub(unresolved).saturating_sub(if idle > i64::MAX as u64 { 0 } else { idle })
    }

    /// Requests that hold a place of the queue's capacity, and how many places there are.
    pub fn places(&self) -> (u32, u32) {
        (self.alive.0.load(Ordering::Relaxed), self.capacity)
    }
}
