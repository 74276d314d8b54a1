//! Whether a model's backend is in memory: how it goes when others need the room, and how it comes back for a request.
//!
//! Only the backend goes. The model keeps its handle, its lines and its queue, so that requests are taken in all the
//! same, and wait there as they wait for a lane. `Stay` changes under the lock; lanes are kept out while the model is
//! away by its queue, which then gives out no batches.
#![allow(unsafe_code)]

use super::execute::execute;
use super::lifecycle::Core;
use super::load::{self, Brought};
use super::model::Model;
use super::room::Underway;
use crate::backend::{self, Interrupt, ProviderReport};
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::memory::Reservation;
use crate::panics::catch;
use crate::platform;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Condvar, Mutex, Ordering, lock, wait};
use std::collections::BTreeMap;
use std::sync::Arc;

/// After a reload has failed, requests fail with its error for so long before it is tried again.
const RETRY_NS: u64 = 1_000_000_000;

/// When there was no room for a reload, there may be some again at any time.
const RETRY_ROOM_NS: u64 = 10_000_000;

/// How long an eviction waits for batches that run.
const RUNS_END_NS: u64 = 50_000_000;

/// Where a model's backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    Resident,
    Evicting,
    Evicted,
    Reloading,
    /// The model is unloaded.
    Gone,
}

pub struct Residence {
    /// Not `Resident`: whoever submits sees to it that the model comes back.
    away: AtomicBool,
    /// Counts backends.
    epoch: AtomicU32,
    last_used_ns: AtomicU64,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Raised when a reload is not wanted any more.
    pub interrupt: Interrupt,
    /// What the files were that it was first loaded from.
    pub stamp: Option<String>,
}

struct Inner {
    stay: Stay,
    /// While reloading: somebody is at it.
    reloaded: bool,
    backend: Option<Arc<dyn backend::Model>>,
    /// What the ledger counts for the backend, besides what it counts itself.
    room: Option<Reservation>,
    provider: ProviderReport,
    report: Report,
    /// Why the latest reload failed, and when it may be tried again.
    failed: Option<(Error, u64)>,
}

/// What is known about a model's comings and goings.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// What the backend takes, or took when it was last in memory.
    pub bytes: u64,
    /// What the latest load or reload took, in nanoseconds.
    pub load_ns: u64,
    pub evictions: u64,
    pub reloads: u64,
    /// Why it was last evicted.
    pub evicted_because: Option<String>,
    /// Why the latest reload failed, if it did.
    pub reload_error: Option<String>,
    #[serde(skip)]
    pub arrived_ns: u64,
    /// What all reloads took together.
    #[serde(skip)]
    pub reloading_ns: u64,
}

impl Residence {
    pub fn new(brought: Brought) -> (Self, Underway) {
        let now = now_ns();
        let report = Report {
            bytes: brought.backend.memory_bytes(),
            load_ns: brought.load_ns,
            arrived_ns: now,
            ..Report::default()
        };
        let residence = Residence {
            stamp: brought.backend.stamp(),
            away: AtomicBool::new(false),
            epoch: AtomicU32::new(1),
            last_used_ns: AtomicU64::new(now),
            inner: Mutex::new(Inner {
                stay: Stay::Resident,
                reloaded: false,
                provider: brought.backend.provider(),
                backend: Some(brought.backend),
                room: Some(brought.room),
                report,
                failed: None,
            }),
            changed: Condvar::new(),
            interrupt: Interrupt::new(),
        };
        (residence, brought.underway)
    }

    /// Whether somebody has to see to it that the model comes back.
    #[inline]
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::SeqCst)
    }

    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::SeqCst)
    }

    pub fn backend(&self) -> Result<Arc<dyn backend::Model>> {
        let inner = lock(&self.inner);
        match (&inner.backend, &inner.failed) {
            (Some(backend), _) => Ok(Arc::clone(backend)),
            (None, Some((error, _))) => Err(error.clone()),
            (None, None) => Err(Error::new(Status::ShutDown, "the model was unloaded")),
        }
    }

    pub fn provider(&self) -> ProviderReport {
        lock(&self.inner).provider.clone()
    }

    pub fn stay(&self) -> Stay {
        lock(&self.inner).stay
    }

    pub fn report(&self) -> Report {
        lock(&self.inner).report.clone()
    }

    /// When its backend was last loaded.
    pub fn arrived_ns(&self) -> u64 {
        lock(&self.inner).report.arrived_ns
    }

    /// Takes note that the model has run.
    #[inline]
    pub fn used_at(&self, now: u64) {
        self.last_used_ns.store(now, Ordering::Relaxed);
    }

    pub fn last_used_ns(&self) -> u64 {
        self.last_used_ns.load(Ordering::Relaxed)
    }

    /// What would be free without the model, on a device or else on the host; `None` if it is not in memory. It may be about
    /// to go.
    pub fn could_free(&self, device: Option<&str>) -> Option<Report> {
        let inner = lock(&self.inner);
        let backend =
            inner.backend.as_ref().filter(|_| matches!(inner.stay, Stay::Resident | Stay::Evicting))?;
        // What several have in common goes with the last of them.
        let bytes = match device {
            Some(device) => {
                let all = backend.device_bytes();
                all.iter().find(|(name, _)| name == device).map_or(0, |(_, bytes)| *bytes)
            }
            None => backend.memory_bytes() / backend.shared_by().max(1),
        };
        Some(Report { bytes, ..inner.report.clone() })
    }

    /// What it has of devices' memory, by their names.
    pub fn device_bytes(&self) -> BTreeMap<String, u64> {
        // Under the lock: who evicts the model must be the last to have it.
        let inner = lock(&self.inner);
        inner.backend.iter().flat_map(|backend| backend.device_bytes()).collect()
    }

    /// From `Evicted` to `Reloading`, for the one who sees to it that somebody does it.
    fn begin_reload(&self) -> bool {
        let mut inner = lock(&self.inner);
        let begins = inner.stay == Stay::Evicted;
        if begins {
            (inner.stay, inner.reloaded) = (Stay::Reloading, false);
        }
        begins
    }

    /// For the one who does it, who may be another one.
    fn take_reload(&self) -> bool {
        let mut inner = lock(&self.inner);
        inner.stay == Stay::Reloading && !std::mem::replace(&mut inner.reloaded, true)
    }

    fn settle(&self, stay: Stay) {
        lock(&self.inner).stay = stay;
        self.changed.notify_all();
    }

    /// After the budget has changed: a reload that failed may be tried again at once.
    pub fn retry_now(&self) {
        if let Some((_, until)) = &mut lock(&self.inner).failed {
            *until = 0;
        }
    }

    /// Whether requests fail with the error of the latest reload, rather than have it tried again.
    fn is_failing(&self) -> bool {
        lock(&self.inner).failed.as_ref().is_some_and(|(_, until)| now_ns() < *until)
    }

    /// Frees the backend for good. Nobody runs it any more.
    pub fn free(&self, model: &Model, core: &Core) {
        let (backend, room) = {
            let mut inner = lock(&self.inner);
            inner.stay = Stay::Gone;
            (inner.backend.take(), inner.room.take())
        };
        self.epoch.fetch_add(1, Ordering::SeqCst);
        model.forget_prepared(core);
        drop((backend, room));
        self.changed.notify_all();
    }
}

impl Model {
    /// Where its backend is, in words; in memory it is "ready", or "idle" when it has nothing to do.
    pub fn residence_name(&self) -> &'static str {
        match self.residence.stay() {
            Stay::Resident if self.queue.is_drained() => "idle",
            Stay::Resident => "ready",
            Stay::Evicting => "evicting",
            Stay::Evicted => "evicted",
            Stay::Reloading => "reloading",
            Stay::Gone => "unloaded",
        }
    }

    /// Whether it may be taken out of memory when others need the room.
    pub fn is_evictable(&self) -> bool {
        !self.config.pinned && self.can_reload()
    }

    /// Whether it can be loaded again: what came from the host's memory is not there any more.
    pub fn can_reload(&self) -> bool {
        !self.from_memory
    }

    /// What was made ready for its batches with the backend goes with it. The queue gives out no batches.
    fn forget_prepared(&self, core: &Core) {
        self.queue.lines.each(|line| line.set_away(true, &core.table));
        core.table.each(|pin| {
            if Arc::ptr_eq(&pin.line.traffic, &self.traffic) {
                // SAFETY: no lane has the batch, and it is held here.
                unsafe { pin.forget_prepared() };
            }
        });
    }
}

impl Core {
    /// Takes a model's backend out of memory; false if it cannot go now. With `though_wanted`, also if requests wait,
    /// for which it comes back when there is room.
    pub fn evict(self: &Arc<Self>, model: &Arc<Model>, reason: &str, though_wanted: bool) -> bool {
        model.is_evictable() && self.take_out_of_memory(model, reason, though_wanted)
    }

    /// Frees the backend of a model that has failed, so that it is loaded anew; false if it cannot be now.
    pub fn rebuild(self: &Arc<Self>, model: &Arc<Model>) -> bool {
        model.can_reload() && self.take_out_of_memory(model, "it has failed", true)
    }

    fn take_out_of_memory(self: &Arc<Self>, model: &Arc<Model>, reason: &str, though_wanted: bool) -> bool {
        let (residence, began_ns) = (&model.residence, now_ns());
        {
            let mut inner = lock(&residence.inner);
            if inner.stay != Stay::Resident || !model.queue.leave(though_wanted) {
                return false;
            }
            inner.stay = Stay::Evicting;
            residence.away.store(true, Ordering::SeqCst);
        }
        // Not under the lock, which lanes take. A model with several lanes may never rest by itself.
        if !model.queue.wait_idle(now_ns() + RUNS_END_NS) {
            residence.settle(Stay::Resident);
            residence.away.store(false, Ordering::SeqCst);
            model.queue.come_back();
            return false;
        }
        let (backend, room, leaving, on_devices) = {
            let mut inner = lock(&residence.inner);
            inner.report.bytes = inner.backend.as_ref().map_or(0, |backend| backend.memory_bytes());
            let on_devices = inner.backend.as_ref().map(|backend| backend.device_bytes()).unwrap_or_default();
            (inner.backend.take(), inner.room.take(), self.underway(inner.report.bytes), on_devices)
        };
        let on_devices: u64 = on_devices.iter().map(|(_, bytes)| bytes).sum();
        residence.epoch.fetch_add(1, Ordering::SeqCst);
        model.forget_prepared(self);
        drop((backend, room, leaving));
        let bytes = {
            let mut inner = lock(&residence.inner);
            inner.stay = Stay::Evicted;
            inner.report.evictions += 1;
            inner.report.evicted_because = Some(reason.to_owned());
            inner.report.bytes.saturating_add(on_devices)
        };
        residence.changed.notify_all();
        self.metrics.evictions.add(1);
        self.table.spans.evicted(&model.full_name, reason, bytes, began_ns);
        self.history.evicted(&model.full_name, bytes, reason);
        self.logger
            .with(&[("model", (&model.full_name).into()), ("bytes", bytes.into())])
            .info("memory", format_args!("{} is evicted ({bytes} bytes): {reason}", model.full_name));
        // Who has come meanwhile may have found nobody to bring it back.
        if model.queue.has_work() {
            self.fetch_back(model);
        }
        true
    }

    /// Loads a model's backend anew, as the model is set now, while batches go on with the one there is; what is run from
    /// then on is run with the new one.
    pub fn exchange_backend(self: &Arc<Self>, model: &Arc<Model>) -> Result<()> {
        let residence = &model.residence;
        if residence.stay() != Stay::Resident {
            return Ok(()); // it comes back as it is set then
        }
        let Brought { backend, room, load_ns, underway } = load::bring_back(self, model)?;
        let (provider, bytes) = (backend.provider(), backend.memory_bytes());
        let old = {
            let mut inner = lock(&residence.inner);
            if inner.stay != Stay::Resident {
                return Ok(()); // as above
            }
            (inner.provider, inner.report.bytes) = (provider, bytes);
            (inner.report.load_ns, inner.report.arrived_ns) = (load_ns, now_ns());
            (inner.backend.replace(backend), inner.room.replace(room))
        };
        // After the backend: who sees the new number makes ready with the new one.
        residence.epoch.fetch_add(1, Ordering::SeqCst);
        // What free batches have of the old one goes with them; others let it go when they are run again.
        model.queue.give_all_back();
        drop((old, underway));
        Ok(())
    }

    /// Brings a model back into memory, in the background, unless somebody does.
    #[cold]
    pub fn fetch_back(self: &Arc<Self>, model: &Arc<Model>) {
        if model.residence.begin_reload() {
            let model = Arc::clone(model);
            self.start_work("blaze-reload", move |core| {
                if model.residence.take_reload() {
                    core.reload(&model);
                }
            });
        }
    }

    fn reload(self: &Arc<Self>, model: &Arc<Model>) {
        let residence = &model.residence;
        let (ended, _underway) = match catch(|| self.reload_backend(model)) {
            Ok(brought) => {
                let mut inner = lock(&residence.inner);
                inner.provider = brought.backend.provider();
                inner.report.bytes = brought.backend.memory_bytes();
                inner.report.load_ns = brought.load_ns;
                inner.report.arrived_ns = now_ns();
                inner.report.reloads += 1;
                inner.report.reloading_ns += brought.load_ns;
                inner.report.reload_error = None;
                (inner.backend, inner.room, inner.failed) = (Some(brought.backend), Some(brought.room), None);
                inner.stay = Stay::Resident;
                (brought.load_ns, brought.underway)
            }
            Err(error) => return self.reload_failed(model, error),
        };
        residence.changed.notify_all();
        self.metrics.reloads.record(ended);
        self.logger.with(&[("model", (&model.full_name).into()), ("took_ns", ended.into())]).info(
            "memory",
            format_args!("{} is in memory again after {} ms", model.full_name, ended / 1_000_000),
        );
        model.queue.lines.each(|line| line.set_away(false, &self.table));
        residence.away.store(false, Ordering::SeqCst);
        model.queue.come_back();
    }

    fn reload_backend(self: &Arc<Self>, model: &Arc<Model>) -> Result<Brought> {
        let earlier = {
            let inner = lock(&model.residence.inner);
            inner.failed.as_ref().filter(|(_, until)| now_ns() < *until).map(|(error, _)| error.clone())
        };
        if let Some(error) = earlier {
            return Err(error);
        }
        if model.residence.interrupt.is_raised() {
            return Err(Error::shut_down());
        }
        // Again: a batch that a submitter was about to open when the model left was not found then.
        model.forget_prepared(self);
        load::bring_back(self, model).map_err(|error| match error.status {
            Status::Cancelled => Error::shut_down(),
            _ => error.within(format!("model {:?}", model.full_name)),
        })
    }

    /// Every request that waits for the model fails for the same reason.
    fn reload_failed(self: &Arc<Self>, model: &Arc<Model>, error: Error) {
        let residence = &model.residence;
        let name = &model.full_name;
        let earlier = lock(&residence.inner).failed.as_ref().is_some_and(|(_, until)| now_ns() < *until);
        if !earlier {
            self.logger
                .with(&[("model", name.into()), ("status", error.status.name().into())])
                .error("memory", format_args!("reloading failed: {error}"));
        }
        {
            let mut inner = lock(&residence.inner);
            let wait_ns = if error.status == Status::OverBudget { RETRY_ROOM_NS } else { RETRY_NS };
            inner.report.reload_error = Some(error.to_string());
            let until = inner.failed.take().map(|(_, until)| until).filter(|until| now_ns() < *until);
            let until = until.unwrap_or_else(|| now_ns().saturating_add(wait_ns));
            inner.failed = Some((error, until));
        }
        // Requests may come as fast as they fail: the model is tried again all the same.
        while residence.is_failing()
            && let Some(index) = model.queue.take_in_vain()
        {
            execute(self, model, index);
            model.queue.finished();
        }
        residence.settle(Stay::Evicted);
        if model.queue.has_work() && !model.queue.is_closed() {
            self.fetch_back(model);
        }
    }

    /// Waits until a model neither leaves memory nor comes back; requests that wait for it get it, or its error. Nobody
    /// submits any more.
    pub fn end_residence(self: &Arc<Self>, model: &Arc<Model>) {
        loop {
            let mut inner = lock(&model.residence.inner);
            while matches!(inner.stay, Stay::Evicting | Stay::Reloading) {
                if self.config.threads == Some(0) {
                    drop(inner);
                    // What waits to be done on the host's thread is done here, but nothing else is: that may wait for
                    // what this one is about to free.
                    match model.residence.take_reload() {
                        true => self.reload(model),
                        false => std::thread::yield_now(), // another thread of the host's is at it
                    }
                    inner = lock(&model.residence.inner);
                } else {
                    inner = wait(&model.residence.changed, inner);
                }
            }
            let evicted = inner.stay == Stay::Evicted;
            drop(inner);
            if !evicted || !model.queue.has_work() {
                return;
            }
            if model.residence.begin_reload() && model.residence.take_reload() {
                self.reload(model);
            }
        }
    }

    /// What models have left behind goes back to the system.
    pub fn give_back_heap(&self) {
        platform::trim_heap();
    }
}
