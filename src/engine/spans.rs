//! The engine's side of the profiler: what lanes, submits and consumers call, in few lines of their own.
//!
//! A batch whose turn it is has marks of the requests that are recorded (`Batch::probe`), by which the consumer of its
//! events knows them again. Its lane records everything else at its end, after the events are published.
#![allow(unsafe_code)]

use super::batch::Batch;
use super::lifecycle::Core;
use super::load::Stage;
use super::model::Model;
use super::outcome;
use super::profiling::Session;
use super::table::Table;
use super::{ModelId, Ticket};
use crate::backend::{self, Interrupt, Prepared};
use crate::clock::now_ns;
use crate::config::{ProfileLevel, ProfileMode};
use crate::error::{Error, Result, Status};
use crate::features::PROFILER;
use crate::platform::thread_id;
use crate::profile::recording::Rare;
use crate::profile::{Kind, Recorder, Span};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::tensor::Tensor;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::Arc;

/// An engine's profiler.
#[derive(Default)]
pub struct Spans {
    pub recorder: Recorder,
    pub(super) session: Mutex<Session>,
    /// When memory is looked at next.
    pub(super) sample_due_ns: AtomicU64,
}

/// In `Batch::probe`: the batch is recorded. Besides, the number of the first member that is, and how many members there
/// are from one to the next.
const RECORDED: u64 = 1 << 63;

fn marks(first: usize, stride: usize) -> u64 {
    RECORDED | (stride as u64) << 32 | first as u64
}

fn is_marked(probe: u64, member: usize) -> bool {
    let (first, stride) = (probe as u32 as usize, (probe & !RECORDED) >> 32);
    member >= first && ((member - first) as u64).is_multiple_of(stride.max(1))
}

/// What a lane records of its batch.
#[derive(Default)]
pub struct Probe {
    recorded: bool,
    /// The backend writes a profile of its own instead, to files that begin so; and whether it does.
    operators: Option<(PathBuf, Cell<bool>)>,
}

impl Probe {
    /// Before a run in a batch's memory.
    #[inline]
    pub fn prepare(&self, prepared: &mut dyn Prepared) {
        if PROFILER.built
            && let Some((prefix, written)) = &self.operators
        {
            written.set(prepared.profile(prefix));
        }
    }

    /// A run with tensors of a request's own.
    #[inline]
    pub fn run(
        &self,
        backend: &dyn backend::Model,
        inputs: &[Option<Tensor>],
        interrupt: &Interrupt,
    ) -> Result<Vec<Tensor>> {
        match self.operators.as_ref().filter(|_| PROFILER.built) {
            None => backend.run(inputs, interrupt),
            Some((prefix, written)) => {
                written.set(backend.has_profiles());
                backend.run_profiled(inputs, interrupt, prefix)
            }
        }
    }

    /// Just before events of the batch are published.
    #[inline]
    pub fn publish(&self, batch: &Batch) {
        if self.recorded {
            batch.published_ns.store(now_ns(), Ordering::Relaxed);
        }
    }

    /// At the end of the batch, which the lane still holds.
    #[inline]
    pub fn end(&self, core: &Arc<Core>, model: &Model, batch: &Batch, members: usize) {
        if PROFILER.built && self.recorded {
            core.table.spans.record_batch(core, model, batch, members);
        }
        if PROFILER.built
            && let Some((prefix, written)) = &self.operators
            && written.get()
        {
            core.read_operators(model, prefix);
        }
    }
}

impl Spans {
    /// For a lane that begins with a batch: what it is to record.
    #[inline]
    pub fn probe(&self, core: &Core, model: &Model, batch: &Batch, members: usize, taken_ns: u64) -> Probe {
        if !self.recorder.takes_batch(taken_ns) {
            return Probe::default();
        }
        self.begin(core, model, batch, members, taken_ns)
    }

    #[cold]
    fn begin(&self, core: &Core, model: &Model, batch: &Batch, members: usize, taken_ns: u64) -> Probe {
        let detailed = self.recorder.level() >= ProfileLevel::Detailed;
        if detailed && let Some(prefix) = core.operators_due(model, taken_ns) {
            return Probe { recorded: false, operators: Some((prefix, Cell::new(false))) };
        }
        let (first, stride) = self.recorder.members(members, taken_ns);
        batch.probe.store(marks(first, stride), Ordering::Relaxed);
        batch.published_ns.store(0, Ordering::Relaxed);
        Probe { recorded: true, operators: None }
    }

    #[cold]
    fn record_batch(&self, core: &Arc<Core>, model: &Model, batch: &Batch, members: usize) {
        // SAFETY: this is the lane, or was until it published; the lap is only read from then on.
        let lap = unsafe { batch.lap() };
        let table = &core.table;
        let first = table.ticket_of(batch, 0);
        let published_ns = batch.published_ns.load(Ordering::Relaxed).max(lap.ended_ns);
        let span = Span {
            kind: Kind::Copy,
            start_ns: lap.taken_ns,
            end_ns: lap.started_ns,
            model: batch.line.model_id(),
            ticket: 0,
            batch: first,
            rows: lap.rows,
            thread: thread_id(),
            status: lap.status.code(),
        };
        let record = |kind, start_ns, end_ns| {
            self.recorder.record(&Span { kind, start_ns, end_ns, ..span });
        };
        record(Kind::Copy, lap.taken_ns, lap.started_ns);
        record(Kind::Compute, lap.started_ns, lap.ended_ns);
        record(Kind::Scatter, lap.ended_ns, published_ns);
        let held_ns = batch.held_ns.load(Ordering::Relaxed);
        if held_ns != 0 {
            record(Kind::Batch, held_ns.max(batch.submitted_ns(0)), lap.taken_ns);
        }
        let arrived_ns = model.residence.arrived_ns();
        let probe = batch.probe.load(Ordering::Relaxed);
        for member in (0..members).filter(|&member| is_marked(probe, member)) {
            // SAFETY: written, and held by the lane.
            let request = unsafe { batch.request(member) };
            let early = outcome::ended_early(batch, member);
            let (status, end_ns, joined) = match early {
                Some(status) => (status, batch.cold(member).resolved_ns.load(Ordering::Relaxed), 0),
                // SAFETY: the lane has noted down how the run went.
                None => (unsafe { outcome::ended_as(batch, member) }, lap.taken_ns, first),
            };
            let (start_ns, rows) = (request.submitted_ns, request.rows);
            let ticket = table.ticket_of(batch, member);
            let own = Span { ticket, batch: joined, rows, status: status.code(), start_ns, ..span };
            self.recorder.record(&Span { kind: Kind::Queue, end_ns, ..own });
            if arrived_ns > start_ns {
                let end_ns = arrived_ns.min(end_ns);
                self.recorder.record(&Span { kind: Kind::EvictionWait, end_ns, ..own });
            }
        }
        core.sample_memory_on_lane(published_ns);
    }

    /// For the consumer: the event of a member whose batch is recorded is about to be given out.
    #[cold]
    pub fn delivered(&self, table: &Table, batch: &Batch, member: usize, probe: u64) {
        let published_ns = batch.published_ns.load(Ordering::Relaxed);
        if !is_marked(probe, member) || published_ns == 0 || !self.recorder.runs() {
            return;
        }
        // SAFETY: the event is published, and its hold is the consumer's.
        let request = unsafe { batch.request(member) };
        if outcome::ended_early(batch, member).is_some() || request.flags.job || request.flags.child {
            return;
        }
        self.recorder.record(&Span {
            kind: Kind::Delivery,
            start_ns: published_ns,
            end_ns: now_ns(),
            model: batch.line.model_id(),
            ticket: table.ticket_of(batch, member),
            batch: table.ticket_of(batch, 0),
            rows: request.rows,
            thread: thread_id(),
            status: 0,
        });
    }

    /// At the end of a submit that began at `now_ns`.
    #[inline]
    pub fn submitted(&self, ticket: Ticket, model: &Model, began_ns: u64) {
        if self.recorder.takes_submit(began_ns) {
            self.record_submit(ticket, model.queue.lines.model_id(), began_ns);
        }
    }

    #[cold]
    fn record_submit(&self, ticket: Ticket, model: ModelId, start_ns: u64) {
        let (end_ns, thread) = (now_ns(), thread_id());
        let (kind, rows, status) = (Kind::Admission, 0, 0);
        self.recorder.record(&Span { kind, start_ns, end_ns, model, ticket, batch: 0, rows, thread, status });
    }

    /// A host's thread has worked.
    pub fn pumped(&self, start_ns: u64, pieces: u32) {
        if self.recorder.records(ProfileMode::Cpu) {
            let (end_ns, thread) = (now_ns(), thread_id());
            let kind = Kind::Pump;
            let (model, ticket, batch, status) = (0, 0, 0, 0);
            self.recorder.record(&Span {
                kind,
                start_ns,
                end_ns,
                model,
                ticket,
                batch,
                rows: pieces,
                thread,
                status,
            });
        }
    }

    /// A model has left memory.
    pub fn evicted(&self, name: &str, reason: &str, bytes: u64, start_ns: u64) {
        if self.recorder.records(ProfileMode::Memory) {
            self.add(Rare { bytes, ..rare(Kind::Evict, start_ns, name, reason) });
        }
    }

    /// The repository was read.
    pub fn scanned(&self, start_ns: u64) {
        if self.recorder.records(ProfileMode::Io) {
            self.add(rare(Kind::Io, start_ns, "repository", "read"));
        }
    }

    /// For a load that begins.
    pub fn watch_load<'a>(&'a self, name: &str) -> LoadWatch<'a> {
        LoadWatch {
            spans: self,
            name: name.to_owned(),
            began_ns: now_ns(),
            stages: RefCell::default(),
            bytes: Cell::new(0),
        }
    }
}

/// Something rare that began at `start_ns` and ends now.
fn rare(kind: Kind, start_ns: u64, name: &str, detail: &str) -> Rare {
    let (name, detail) = (name.to_owned(), detail.to_owned());
    Rare { kind, start_ns, end_ns: now_ns(), name, detail, bytes: 0, status: 0, thread: thread_id() }
}

/// What is recorded of a load.
pub struct LoadWatch<'a> {
    spans: &'a Spans,
    name: String,
    began_ns: u64,
    stages: RefCell<Vec<(Stage, u64)>>,
    /// Of the files.
    bytes: Cell<u64>,
}

impl LoadWatch<'_> {
    /// A stage begins.
    pub fn stage(&self, stage: Stage) {
        self.stages.borrow_mut().push((stage, now_ns()));
    }

    /// So many bytes are about to be read.
    pub fn reads(&self, bytes: u64) {
        self.bytes.set(bytes);
    }

    /// The load has ended.
    pub fn end(&self, error: Option<&Error>) {
        if !self.spans.recorder.records(ProfileMode::Io) {
            return;
        }
        let status = error.map_or(Status::Ok, |error| error.status).code();
        let load = Rare { status, ..rare(Kind::Load, self.began_ns, &self.name, "") };
        let stages = self.stages.borrow();
        for (at, &(stage, start_ns)) in stages.iter().enumerate() {
            let end_ns = stages.get(at + 1).map_or(load.end_ns, |&(_, next)| next);
            let detail = stage.text().to_str().unwrap_or_default().to_owned();
            let part = Rare { start_ns, end_ns, detail, status: 0, ..load.clone() };
            if stage == Stage::Reading && self.bytes.get() > 0 {
                self.spans.add(Rare { kind: Kind::Io, bytes: self.bytes.get(), ..part.clone() });
            }
            if stage != Stage::Loaded {
                self.spans.add(Rare { kind: Kind::Stage, ..part });
            }
        }
        self.spans.add(Rare { bytes: self.bytes.get(), ..load });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_name_every_so_many_members() {
        let marked = |probe| (0..20).filter(|&member| is_marked(probe, member)).collect::<Vec<_>>();
        assert_eq!(marked(marks(3, 8)), [3, 11, 19]);
        assert_eq!(marked(marks(0, 64)), [0]);
        assert_eq!(marked(marks(0, 1)).len(), 20);
    }
}
