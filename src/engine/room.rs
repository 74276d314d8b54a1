//! Room under the budget: who leaves memory so that others fit.

use super::lifecycle::Core;
use super::model::Model;
use crate::backend::{Device, Interrupt};
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::memory::eviction::{Candidate, choose};
use crate::memory::{Kind, Relief, Reservation};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// How long to wait for a model to have nothing to do, before one goes whose requests then wait for it.
pub const PATIENCE_NS: u64 = 50_000_000;
/// How long a load that does not fit waits for memory that is in use.
pub const HOPE_NS: u64 = 200_000_000;
/// How often to look.
pub const LOOK_NS: u64 = 500_000;

/// What a load that is under way takes, if it may be evicted once it is there: in the table, or resident again.
pub struct Underway(Arc<AtomicU64>, u64, Arc<AtomicU32>);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
        self.2.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Core {
    /// Says that a load takes so many bytes, which may be free again once the model is there; or that a model goes, which
    /// takes a while.
    pub fn underway(&self, bytes: u64) -> Underway {
        self.loading_bytes.fetch_add(bytes, Ordering::SeqCst);
        self.underway_count.fetch_add(1, Ordering::SeqCst);
        Underway(Arc::clone(&self.loading_bytes), bytes, Arc::clone(&self.underway_count))
    }

    /// Models that could leave memory, of a device or else of the host, and what is known about each.
    pub fn candidates(&self, device: Option<&Device>) -> Vec<(Arc<Model>, Candidate)> {
        let now = now_ns();
        let mut candidates = Vec::new();
        self.models.each(|model| {
            if model.is_evictable()
                && let Some(report) = model
                    .residence
                    .could_free(device.map(|device| &*device.name))
                    .filter(|report| report.bytes > 0)
            {
                let idle_ns = now.saturating_sub(model.residence.last_used_ns());
                let candidate = Candidate { bytes: report.bytes, idle_ns, reload_ns: report.load_ns };
                candidates.push((model.to_arc(), candidate));
            }
        });
        candidates
    }

    /// Bytes that could be free before long: those of models that can be evicted, now or once they are loaded, and of
    /// models that are about to go.
    fn could_go(&self) -> u64 {
        let under_way = self.loading_bytes.load(Ordering::SeqCst);
        self.candidates(None)
            .iter()
            .fold(under_way, |sum, (_, candidate)| sum.saturating_add(candidate.bytes))
    }

    /// Evicts models that have nothing to do, until so many bytes are free; with `though_wanted` also those whose
    /// requests wait, once they have run since they came. Returns whether any went.
    fn evict_for(self: &Arc<Self>, need: u64, reason: &str, though_wanted: bool) -> bool {
        self.evict_from(None, need, reason, though_wanted)
    }

    /// As `evict_for`, until so many bytes are free on a device, or else on the host.
    pub fn evict_from(
        self: &Arc<Self>,
        device: Option<&Device>,
        need: u64,
        reason: &str,
        though_wanted: bool,
    ) -> bool {
        let may_go = |model: &Model| match though_wanted {
            true => model.residence.last_used_ns() > model.residence.report().arrived_ns,
            false => model.queue.is_drained(),
        };
        let candidates: Vec<_> =
            self.candidates(device).into_iter().filter(|(model, _)| may_go(model)).collect();
        let bare: Vec<Candidate> = candidates.iter().map(|(_, candidate)| *candidate).collect();
        let mut any = false;
        for index in choose(&bare, need) {
            any |= self.evict(&candidates[index].0, reason, though_wanted);
        }
        if any {
            self.give_back_heap();
        }
        any
    }

    /// Frees what is only kept for later: batches of models that have nothing to do, and idle blocks. Returns its bytes.
    fn give_spare_back(&self) -> u64 {
        let before = self.ledger.used();
        self.models.each(|model| {
            if model.queue.is_drained() {
                model.queue.give_all_back();
            }
        });
        self.pool.trim(0);
        self.devices.trim_pinned();
        before.saturating_sub(self.ledger.used())
    }

    /// Bytes by which the ledger is over its limit, if so many more are taken.
    fn missing(&self, more: u64) -> u64 {
        let limit = self.ledger.limit().unwrap_or(u64::MAX);
        self.ledger.used().saturating_add(more).saturating_sub(limit)
    }

    /// Takes `bytes` for a model to be loaded, and `extra` besides for what loading itself takes, if that ever fits.
    /// Models that have nothing to do make room, and after a while others.
    pub fn room_for(
        self: &Arc<Self>,
        name: &str,
        bytes: u64,
        mut extra: u64,
        interrupt: &Interrupt,
    ) -> Result<Reservation> {
        let began = now_ns();
        let mut patience_ns = PATIENCE_NS;
        let reason = format!("room for {name}");
        loop {
            if interrupt.is_raised() {
                return Err(Error::new(Status::Cancelled, "loading was interrupted"));
            }
            let want = bytes.saturating_add(extra);
            if self.ledger.try_take(Kind::Models, want) {
                return Ok(Reservation::taken(&self.ledger, Kind::Models, want));
            }
            self.give_spare_back();
            let missing = self.missing(want);
            let hopeless = missing > self.could_go();
            // Nobody goes for one that does not fit all the same.
            if missing == 0 || !hopeless && self.evict_for(missing, &reason, false) {
                continue;
            }
            if hopeless && extra > 0 {
                extra = 0; // the model may fit, though what loading takes besides does not
                continue;
            }
            let waited = now_ns() - began;
            if hopeless && (waited > HOPE_NS || bytes > self.ledger.limit().unwrap_or(u64::MAX)) {
                return Err(Error::new(
                    Status::OverBudget,
                    format!(
                        "memory.budget_bytes is {}: {} bytes are taken, {bytes} more do not fit, and no more models \
                         can be evicted",
                        self.ledger.limit().unwrap_or(u64::MAX),
                        self.ledger.used()
                    ),
                ));
            }
            if waited > patience_ns {
                if self.evict_for(missing, &reason, true) {
                    continue;
                }
                patience_ns = waited * 2; // they were kept from working meanwhile
            }
            // Without threads nobody but this one runs what is in the way.
            if self.config.threads != Some(0) || !self.run_batch() {
                interrupt.sleep(LOOK_NS);
            }
        }
    }

    /// After a model turned out to take more than was taken for it, or the budget was lowered meanwhile: others make
    /// room, or it must go again.
    pub fn check_room(self: &Arc<Self>, name: &str, interrupt: &Interrupt) -> Result<()> {
        let began = now_ns();
        let reason = format!("room for {name}");
        while self.missing(0) > 0 {
            self.give_spare_back();
            let missing = self.missing(0);
            if missing == 0 || self.evict_for(missing, &reason, now_ns() - began > PATIENCE_NS) {
                continue;
            }
            if now_ns() - began < HOPE_NS && !interrupt.is_raised() {
                if self.config.threads != Some(0) || !self.run_batch() {
                    interrupt.sleep(LOOK_NS);
                }
            } else {
                let limit = self.ledger.limit().unwrap_or(u64::MAX);
                let text =
                    format!("memory.budget_bytes is {limit}: with it {} are taken", self.ledger.used());
                return Err(Error::new(Status::OverBudget, text));
            }
        }
        Ok(())
    }

    /// Has room made in the background, if more is taken than may be.
    pub fn relieve_if_over(self: &Arc<Self>) {
        if self.missing(0) > 0 {
            self.relieve_later();
        }
    }

    /// Makes all the room that there can be. Returns whether there is more than before.
    pub fn evict_idle(self: &Arc<Self>, reason: &str) -> bool {
        let spare = self.give_spare_back();
        self.evict_for(u64::MAX, reason, false) || spare > 0
    }

    /// Changes the budget. What does not fit any more leaves memory now, or as soon as it has nothing to do.
    pub fn set_budget(self: &Arc<Self>, limit: Option<u64>) {
        self.ledger.set_limit(limit);
        self.tune_heap();
        self.models.each(|model| model.residence.retry_now());
        self.logger.info("memory", format_args!("the budget is {limit:?} bytes"));
        if !self.fit("the budget was lowered") {
            self.relieve_later();
        }
    }

    /// Evicts until the ledger is within its limit; whether it is.
    fn fit(self: &Arc<Self>, reason: &str) -> bool {
        if self.missing(0) > 0 {
            self.give_spare_back();
        }
        while self.missing(0) > 0 {
            if !self.evict_for(self.missing(0), reason, false) {
                return false;
            }
        }
        true
    }

    /// Makes room in the background until the ledger is within its limit, or nothing more can go.
    fn relieve_later(self: &Arc<Self>) {
        if self.relieving.swap(true, Ordering::SeqCst) {
            return;
        }
        self.start_work("blaze-memory", |core| {
            let reason = "room for requests";
            let began = now_ns();
            let mut patience_ns = PATIENCE_NS;
            while !core.fit(reason) && !core.table.is_closed() && !core.candidates(None).is_empty() {
                // Of those that are busy one goes, in the end, whose requests then wait for it.
                let waited = now_ns() - began;
                if waited > patience_ns {
                    if core.evict_for(core.missing(0), reason, true) {
                        continue;
                    }
                    patience_ns = waited * 2; // they were kept from working meanwhile
                }
                if core.pause(LOOK_NS) {
                    break;
                }
            }
            core.relieving.store(false, Ordering::SeqCst);
        });
    }
}

/// For the ledger: requests' memory may go over the limit for the moment that it takes to evict models.
pub struct Evictor(pub Weak<Core>);

impl Relief for Evictor {
    fn relieve(&self, bytes: u64) -> bool {
        let Some(core) = self.0.upgrade() else { return false };
        let keep = core.pool.idle_bytes().saturating_sub(bytes);
        if core.devices.trim_pinned() + core.pool.trim(keep) >= bytes {
            return false; // there is room now
        }
        // Those that are busy go too, in the end.
        if core.could_go() < bytes {
            return false;
        }
        core.relieve_later();
        true
    }
}
