//! Jobs: loading and unloading models in the background. A job has a ticket like a request, in a batch of its own.
#![allow(unsafe_code)]

use super::batch::{Batch, Extras, Flags, Phase, Rare, Request};
use super::completion::Link;
use super::event::{Event, EventFlags, EventKind, Timing};
use super::lifecycle::{Core, Queue};
use super::load::Stage;
use super::table::{Table, ticket};
use super::{ModelId, Ticket};
use crate::backend::Interrupt;
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::sync::{AtomicU32, Ordering};
use std::ffi::CString;
use std::sync::Arc;

/// In a job's progress: the event that tells it is in the queue.
const QUEUED: u32 = 1 << 31;
/// In a job's progress: the host has had its terminal event, after which it hears no more.
pub const OVER: u32 = 1 << 30;

impl Core {
    /// A ticket for a job, such as loading a model, or unloading the one given. Only a load can be cancelled. The job
    /// is to be ended with `complete_job`.
    pub(super) fn open_job(
        self: &Arc<Self>,
        queue: &Queue,
        user_data: u64,
        unloads: Option<ModelId>,
    ) -> Result<(Ticket, u32)> {
        queue.check_engine(self)?;
        let completion = queue.completion();
        completion.reserve(1)?;
        let undo = |_: &Error| completion.unreserve(1);
        self.table.enter().inspect_err(undo)?;
        let seat = self.jobs_line.alone(&self.table, &self.pool, 0, 1).inspect_err(|error| {
            self.table.leave(1);
            undo(error);
        })?;
        // SAFETY: the batch is held for the job.
        let batch = unsafe { self.table.batch(seat.index) };
        let rare = Rare { model: unloads.unwrap_or(0), ..Rare::default() };
        let extras = Extras { rare: Some(Box::new(rare)), ..Extras::default() };
        let request = Request {
            submitted_ns: now_ns(),
            deadline_ns: 0,
            user_data,
            queue: Arc::as_ptr(completion),
            rows: 1,
            first_row: AtomicU32::new(0),
            flags: Flags { extras: true, job: true, fixed: unloads.is_some(), ..Flags::default() },
        };
        // SAFETY: the place is this thread's.
        unsafe { batch.write_member(0, request, Some(extras)) };
        batch.cold(0).progress.store(0, Ordering::SeqCst);
        batch.set_phase(Phase::Running);
        batch.written.set(0);
        // A shutdown says that it is closed, and then resolves all there is: one of the two finds the other.
        if self.table.is_closed() && self.withdraw_job(seat.index) {
            return Err(Error::shut_down());
        }
        Ok((ticket(seat.generation, seat.index, 0), seat.index))
    }

    /// Takes a job back that cannot start; false if it was resolved meanwhile, so that its event is on its way.
    pub(super) fn withdraw_job(&self, index: u32) -> bool {
        // SAFETY: the batch is held for the job.
        let batch = unsafe { self.table.batch(index) };
        let won = batch.resolved.set(0);
        if won {
            // SAFETY: written by this thread; queues live as long as the table.
            if let Some(completion) = unsafe { batch.request(0).queue.as_ref() } {
                completion.unreserve(1);
            }
            self.table.leave(1);
            self.table.let_go(index, 1);
        }
        batch.set_phase(Phase::Done);
        self.table.let_go(index, 1);
        won
    }
}

/// For the consumer: the event that tells how far a job has come; `None`, if it came after the job's end.
///
/// # Safety
/// The event is published, and made once.
pub unsafe fn progress_event(table: &Table, batch: &Batch) -> Option<Event> {
    let index = batch.index;
    let word = batch.cold(0).progress.fetch_and(!QUEUED, Ordering::SeqCst);
    // SAFETY: written, and held for the event.
    let user_data = unsafe { batch.request(0) }.user_data;
    let event = Event {
        kind: EventKind::Progress,
        status: Status::Ok,
        flags: EventFlags { more: true, buffers_released: false },
        ticket: ticket(table.slot(index).life().generation(), index, 0),
        user_data,
        model: 0,
        timing: Timing::default(),
        outputs_count: 0,
        stage: Stage::from_number(word & !(QUEUED | OVER)),
        progress: 0.0,
        payload: None,
    };
    table.let_go(index, 1);
    (word & OVER == 0).then_some(event)
}

/// How a job ended: the model that it was about, and what there is to say about it; or why it failed.
type JobResult = Result<(u64, Option<CString>), (Status, Option<CString>)>;

impl Table {
    /// Ends a job with the model that it was about; false if it was resolved before.
    pub fn complete_job(&self, index: u32, result: JobResult) -> bool {
        // SAFETY: the batch is held for the job.
        let batch = unsafe { self.batch(index) };
        batch.set_phase(Phase::Finishing);
        let won = batch.resolved.set(0);
        if won {
            // SAFETY: resolved by this thread, and not published yet.
            let (lap, extras) = unsafe { (batch.lap_mut(), batch.extras_mut(0)) };
            (lap.status, lap.text, lap.tensors) = (Status::Ok, None, None);
            (lap.taken_ns, lap.started_ns, lap.ended_ns, lap.rows) = (0, 0, 0, 0);
            match result {
                Ok((model, text)) => {
                    if text.is_some() {
                        self.slot(index).held().set(0);
                    }
                    let rare = extras.rare.get_or_insert_default();
                    (rare.model, rare.text) = (model, text);
                }
                Err((status, text)) => {
                    (lap.status, lap.text) = (status, text);
                    self.slot(index).held().set(0);
                }
            }
            // SAFETY: written; queues live as long as the table.
            if let Some(queue) = unsafe { batch.request(0).queue.as_ref() } {
                queue.publish(Link::member(index, 0), &batch.members[0].link, self);
            }
        }
        batch.set_phase(Phase::Done);
        won
    }

    /// Tells the host how far a job has come: with an event of its own, unless the one before is still in the queue, or
    /// there is no room for it.
    pub fn tell_progress(&self, index: u32, stage: Stage) {
        // SAFETY: the batch is held for the job.
        let batch = unsafe { self.batch(index) };
        let progress = &batch.cold(0).progress;
        // SAFETY: written; queues live as long as the table.
        let Some(queue) = (unsafe { batch.request(0).queue.as_ref() }) else { return };
        let before = progress.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
            Some(word & OVER | QUEUED | stage as u32)
        });
        if before.unwrap_or_default() & (QUEUED | OVER) != 0 {
            return;
        }
        let reserved = queue.reserve(1).is_ok();
        // Only then: a queue to which something is reserved is not destroyed.
        if !reserved || batch.resolved.is_set(0) {
            progress.fetch_and(!QUEUED, Ordering::SeqCst);
            if reserved {
                queue.unreserve(1);
            }
            return;
        }
        self.slot(index).life().hold(None);
        queue.publish(Link::progress(index), &batch.cold(0).second_link, self);
    }

    /// How a job is told that it is not wanted any more.
    pub fn interrupt(&self, index: u32) -> &Interrupt {
        // SAFETY: the batch is held for the job.
        unsafe { &self.batch(index).interrupt }
    }
}
