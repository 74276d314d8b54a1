//! What is overdue.
//!
//! A batch has the earliest deadline of its members, and the table the earliest of all, which the keeper's thread sleeps until: both
//! are lowered when a member is written. A lane may be quicker to take it than they are; so it has a number of its own, which is
//! lowered before.

use super::{Pin, Table};
use crate::engine::batch::Batch;
use crate::error::Status;
use crate::sync::Ordering;

impl Table {
    /// Resolves what is overdue. Returns when to look again.
    pub fn expire(&self, now: u64) -> u64 {
        if now < self.next_deadline_ns.load(Ordering::SeqCst) {
            return self.next_deadline_ns.load(Ordering::SeqCst);
        }
        self.next_deadline_ns.swap(u64::MAX, Ordering::SeqCst);
        self.each(|pin| {
            if pin.deadline_ns.load(Ordering::SeqCst) != u64::MAX {
                self.expire_in(pin, now);
            }
        });
        self.next_deadline_ns.load(Ordering::SeqCst)
    }

    /// For a lane, who has a hold on its batch: resolves what is overdue, there and elsewhere, if anything is there.
    #[inline]
    pub fn expire_for(&self, batch: &Batch, now: u64) {
        if now >= batch.first_deadline_ns.load(Ordering::SeqCst) {
            self.expire_batch(batch.index, now);
            self.expire(now);
        }
    }

    /// Resolves what is overdue in a batch, whatever is noted; for its lane, who has a hold on it.
    fn expire_batch(&self, index: u32, now: u64) {
        if self.slot(index).life().hold(None).is_some() {
            self.expire_in(&self.pinned(index), now);
        }
    }

    fn expire_in(&self, pin: &Pin<'_>, now: u64) {
        // Members that come later lower it again.
        pin.deadline_ns.swap(u64::MAX, Ordering::SeqCst);
        let mut earliest = u64::MAX;
        for member in 0..self.slot(pin.index).claims.counts().members {
            if !pin.written.is_set(member) || pin.resolved.is_set(member) {
                continue;
            }
            match pin.deadline_of(member) {
                0 => (),
                deadline if deadline <= now => {
                    self.resolve_member(pin, member, Status::Expired);
                }
                deadline => earliest = earliest.min(deadline),
            }
        }
        self.lower_deadline(pin, earliest);
    }

    /// Takes note of a member's deadline; the member must be marked as written before.
    pub fn lower_deadline(&self, batch: &Batch, deadline_ns: u64) {
        if deadline_ns < batch.deadline_ns.load(Ordering::SeqCst) {
            batch.deadline_ns.fetch_min(deadline_ns, Ordering::SeqCst);
        }
        if deadline_ns < self.next_deadline_ns.load(Ordering::SeqCst) {
            self.next_deadline_ns.fetch_min(deadline_ns, Ordering::SeqCst);
            self.keeper.ring();
        }
    }

    /// The earliest deadline; `u64::MAX`: none.
    pub fn next_deadline_ns(&self) -> u64 {
        self.next_deadline_ns.load(Ordering::SeqCst)
    }
}
