//! Engines without threads: the host's own thread does the work, in slices.

use super::execute::execute;
use super::lifecycle::{Core, Engine};
use super::model::Model;
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::sync::Ordering;
use std::sync::Arc;

impl Engine {
    /// For an engine without threads: works on this thread for about `budget_ns`, at least one piece of work
    /// if there is any. Returns how many pieces were done.
    pub fn pump(&self, budget_ns: u64) -> Result<u32> {
        if self.core().config.threads != Some(0) {
            return Err(Error::new(
                Status::InvalidState,
                "only an engine made with \"threads\": 0 is pumped; this one has threads of its own",
            ));
        }
        let began = now_ns();
        let until = began.saturating_add(budget_ns);
        let mut done = 0;
        while self.core().pump_one() {
            done += 1;
            let now = now_ns();
            self.core().worked_ns.store(now, Ordering::Relaxed);
            if now >= until {
                break;
            }
        }
        match done {
            0 => self.core().rest_if_due(),
            _ => self.core().table.spans.pumped(began, done),
        }
        Ok(done)
    }
}

impl Core {
    /// One piece of work on the host's thread: a job or a batch. False if there is nothing to do.
    pub(super) fn pump_one(self: &Arc<Self>) -> bool {
        self.table.expire(now_ns());
        self.tend_if_due();
        self.tune_if_due();
        self.look_if_due();
        self.jobs.run_one() || self.rescan_if_due() || self.run_batch()
    }

    /// For a thread of the host's: runs one batch, if any waits.
    pub fn run_batch(self: &Arc<Self>) -> bool {
        let models = self.models.all();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for offset in 0..models.len() {
            let (_, model) = &models[(turn + offset) % models.len()];
            if self.run_batch_of(model) {
                return true;
            }
        }
        false
    }

    /// For a thread of the host's: runs one batch of a model, or makes one of its steps, if there is anything to do.
    pub fn run_batch_of(self: &Arc<Self>, model: &Arc<Model>) -> bool {
        if let Some(stepping) = model.stepping() {
            return stepping.pump(self, model);
        }
        let Some(index) = model.queue.try_next() else { return false };
        execute(self, model, index);
        model.queue.finished();
        true
    }

    /// For an engine without threads that has nothing to do: gives memory back, if it has been so for a while.
    fn rest_if_due(&self) {
        let rest = self.rest();
        let spare = || self.models.all().iter().any(|(_, model)| model.queue.has_spare());
        let idle_ns = now_ns().saturating_sub(self.worked_ns.load(Ordering::Relaxed));
        if idle_ns >= rest.after_ns && (rest.has_spare() || spare()) {
            self.models.each(|model| model.queue.give_back());
            rest.give_back();
        }
    }
}
