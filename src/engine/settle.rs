//! What a lane does for members that came through routes: accounts for their attempts, hands over those that have failed,
//! and passes on what children have to say.
#![allow(unsafe_code)]

use super::batch::Request;
use super::execute::{Lane, Ran};
use super::model::ModelState;
use super::relay::is_retryable;
use super::routes::Way;
use crate::clock::now_ns;
use crate::error::{Error, Status};
use crate::router::{Bars, Tally};
use crate::sync::Ordering;
use smallvec::SmallVec;
use std::ptr;

/// Marks of members, by word.
pub type Marked = SmallVec<[(usize, u64); 2]>;

/// Which members of a batch are not simply resolved by its end.
#[derive(Default)]
pub struct Settled {
    /// Somebody else resolves them.
    pub relayed: SmallVec<[u64; 2]>,
    pub children: SmallVec<[u64; 2]>,
}

/// Attempts of one way that the same run has answered.
struct Sum<'a> {
    way: &'a Way,
    tally: Tally,
    probes: u32,
}

/// How attempts ended that one run has answered, way by way.
struct Sums<'a, 'b> {
    lane: &'b Lane<'a>,
    now: u64,
    /// `None`: well. A reason otherwise.
    failure: Option<&'b str>,
    current: Option<Sum<'a>>,
}

impl<'a> Sums<'a, '_> {
    fn add(&mut self, way: &'a Way, member: usize, request: &Request, probes: bool) {
        if self.current.as_ref().is_none_or(|sum| !ptr::eq(sum.way, way)) {
            self.flush();
            self.current = Some(Sum { way, tally: Tally::default(), probes: 0 });
        }
        let Some(sum) = &mut self.current else { return };
        let answered_ns = match request.flags.streams {
            true => self.lane.batch.answered_ns(member).unwrap_or(self.now),
            false => self.now,
        };
        let latency_ns = answered_ns.saturating_sub(request.submitted_ns);
        let slow_ns = if probes { &way.target.slow_probe_ns } else { &way.target.slow_ns };
        sum.tally.add(latency_ns, self.failure.is_some(), slow_ns.load(Ordering::Relaxed));
        sum.probes += u32::from(probes);
        if self.failure.is_none() {
            way.target.times.record(latency_ns);
        }
    }

    fn flush(&mut self) {
        if let Some(Sum { way, tally, probes }) = self.current.take() {
            way.record(tally, probes, self.failure.unwrap_or_default(), self.now, self.lane.core);
        }
    }
}

impl<'a> Lane<'a> {
    /// Accounts for the attempts of members that are not resolved yet, and hands over those that have failed.
    #[inline]
    pub fn settle(&self, result: &Ran) -> Settled {
        let words = self.members.div_ceil(64);
        let mut settled =
            Settled { relayed: SmallVec::from_elem(0, words), children: SmallVec::from_elem(0, words) };
        let (failure, status) = match result {
            Ok(_) => (None, Status::Ok),
            Err(error) => (Some(error.message.as_str()), error.status),
        };
        let counts = status == Status::Ok || is_retryable(status);
        let mut sums = Sums { lane: self, now: now_ns(), failure, current: None };
        for member in 0..self.members {
            // SAFETY: written, and held by the lane.
            let request = unsafe { self.batch.request(member) };
            if !(request.flags.routed || request.flags.child) {
                continue;
            }
            let (at, bit) = (member / 64, 1u64 << (member % 64));
            if request.flags.child {
                settled.children[at] |= bit;
            }
            if self.batch.resolved.is_set(member) {
                continue;
            }
            if let Some(taken) = self.batch.cold(member).hop.take() {
                match counts {
                    true => sums.add(taken.way, member, request, taken.probes),
                    false => taken.way.give_up(taken.probes),
                }
            }
        }
        sums.flush();
        if failure.is_some() {
            // Not before the failures are counted: the breakers know of them.
            for member in 0..self.members {
                // SAFETY: written, and held by the lane.
                let parent = unsafe { self.batch.request(member) }.flags.routed;
                if parent
                    && !self.batch.resolved.is_set(member)
                    && self.core.hand_over(&self.batch.cold(member).hop, self.batch, member, status)
                    && !self.batch.speaks(member, self.core.table.ticket_of(self.batch, member))
                {
                    settled.relayed[member / 64] |= 1 << (member % 64);
                }
            }
        }
        settled
    }

    /// The same for one member, which has run alone. True: somebody else resolves it.
    pub fn settle_alone(&self, member: usize, result: &Ran) -> bool {
        let (failure, status) = match result {
            Ok(_) => (None, Status::Ok),
            Err(error) => (Some(error.message.as_str()), error.status),
        };
        // SAFETY: written, and held by the lane.
        let request = unsafe { self.batch.request(member) };
        if let Some(taken) = self.batch.cold(member).hop.take() {
            if failure.is_some() && !is_retryable(status) {
                taken.way.give_up(taken.probes);
            } else {
                let mut sums = Sums { lane: self, now: now_ns(), failure, current: None };
                sums.add(taken.way, member, request, taken.probes);
                sums.flush();
            }
        }
        let hop = &self.batch.cold(member).hop;
        failure.is_some() && request.flags.routed && self.core.hand_over(hop, self.batch, member, status)
    }

    /// Takes note of how a run went; has somebody see to a model that has failed.
    pub fn record_outcome(&self, error: Option<&Error>) {
        self.model.record_outcome(error, &self.core.logger);
        if error.is_some() && self.model.state() == ModelState::Failed {
            self.core.start_warden();
            self.core.warden.wake();
        }
    }

    /// Whether a member's target is left alone by now.
    pub fn is_tripped(&self, member: usize) -> bool {
        // SAFETY: written, and held by the lane.
        let flags = unsafe { self.batch.request(member) }.flags;
        let tripped = |way: &Way| way.target.bars() & Bars::TRIPPED != 0;
        flags.routed && self.batch.cold(member).hop.way().is_some_and(tripped)
    }

    /// After the batch's own requests are published: children answer for their parents.
    pub fn see_off(&self, children: Marked, status: Status) {
        for (at, mut bits) in children {
            while bits != 0 {
                let member = 64 * at + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                // SAFETY: written, and held by the lane.
                if unsafe { self.batch.request(member) }.flags.extras {
                    self.finish_unusual(member, status);
                }
                self.core.child_has_ended(self.batch, member);
            }
        }
    }
}
