//! What the host holds: events whose outputs or reasons are not released yet.
#![allow(unsafe_code)]

use super::{Table, parts};
use crate::engine::Ticket;
use crate::engine::batch::Batch;
use crate::engine::event::OutputRef;
use crate::engine::outcome::{self, ANSWERED};
use crate::platform::process_generation;
use crate::sync::{Ordering, lock};
use std::ffi::CStr;
use std::ptr::NonNull;

impl Table {
    /// Not in the child of a fork.
    #[inline]
    pub fn is_of_this_process(&self) -> bool {
        self.made_in == process_generation()
    }

    /// The host is done with what a request left behind. Nothing happens if it was before.
    ///
    /// # Safety
    /// The table is there: the ticket's event is not released, or the engine lives.
    pub unsafe fn release_at(this: NonNull<Table>, ticket: Ticket) {
        // SAFETY: promised by the caller.
        let table = unsafe { this.as_ref() };
        let (generation, index, member) = parts(ticket);
        if index >= table.fresh.load(Ordering::Acquire) {
            return;
        }
        let slot = table.slot(index);
        if !slot.life().is_held(generation) || !slot.hosts.held.unset(member) {
            return;
        }
        // A hold is this thread's now, so the lap cannot end. If it is another one, a copy of an event was released
        // in two threads at once, and this one was late by a whole lap.
        if slot.life().generation() != generation {
            slot.hosts.held.set(member);
            return;
        }
        table.leave(1);
        // SAFETY: the hold is this thread's.
        if let Some(answer) = table.answer_of(unsafe { table.batch(index) }, member) {
            table.let_go(parts(answer).1, 1);
        }
        // From here on the table may be gone, if this was all that kept it: nothing of it is touched after the hold is
        // let go of, but by whoever frees the batch, who keeps the table for that long.
        table.let_go(index, 1);
    }

    /// Where an output of a resolved request is; it stays there until `release`.
    pub fn output(&self, ticket: Ticket, index: u32) -> Option<OutputRef> {
        let (batch, member) = self.held_batch(ticket)?;
        let Some(answer) = self.answer_of(batch, member) else {
            return outcome::output(batch, member, index as usize);
        };
        let (child, at) = self.kept(answer);
        let mut output = outcome::output(child, at, index as usize)?;
        // SAFETY: the parent is published.
        if let Some(place) = unsafe { outcome::callers_memory(batch, member, index as usize) } {
            output.data = place;
        }
        Some(output)
    }

    /// Reads what a failed request left as its reason.
    pub fn with_text<R>(&self, ticket: Ticket, read: impl FnOnce(&CStr) -> R) -> Option<R> {
        let (mut batch, mut member) = self.held_batch(ticket)?;
        if let Some(answer) = self.answer_of(batch, member) {
            // It stays there until the event is released.
            if let Some(text) = &*lock(&batch.cold(member).hop.complaint) {
                return Some(read(text));
            }
            (batch, member) = self.kept(answer);
        }
        outcome::text(batch, member).map(read)
    }

    /// The batch of an event that the host has and has not released.
    fn held_batch(&self, ticket: Ticket) -> Option<(&Batch, usize)> {
        let (generation, index, member) = parts(ticket);
        if index >= self.fresh.load(Ordering::Acquire) || !self.slot(index).life().is_held(generation) {
            return None;
        }
        // SAFETY: somebody holds it in this lap; if that is the host with the event, as it says, it stays held. (A host
        // that uses an event while it releases it in another thread breaks the header's rule.)
        let batch = unsafe { self.batch(index) };
        self.slot(index).hosts.held.is_set(member).then_some((batch, member))
    }

    /// The child that has answered for a member, if one has.
    fn answer_of(&self, batch: &Batch, member: usize) -> Option<Ticket> {
        let answered = batch.members[member].status.load(Ordering::Acquire) & ANSWERED != 0;
        answered.then(|| batch.cold(member).hop.answer())
    }

    /// The batch and member of an attempt that is kept for its parent's event.
    pub fn kept(&self, ticket: Ticket) -> (&Batch, usize) {
        let (_, index, member) = parts(ticket);
        // SAFETY: it is held until the parent's event is released.
        (unsafe { self.batch(index) }, member)
    }
}
