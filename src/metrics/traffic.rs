//! What is counted for each model, and for all of them together.
//!
//! Threads count in stripes, so that lanes do not wait for each other's cache lines; a stripe is made when a thread
//! first counts in it, so that models which nobody uses take nothing.

use super::{Counter, Counts, Histogram};
use crate::error::Status;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Outcomes of accepted requests, as in the `outcome` label.
pub const OUTCOMES: [&str; 5] = ["ok", "failed", "cancelled", "expired", "shut_down"];

const STRIPES: usize = 4;

/// What the requests of one model come to.
#[derive(Default)]
pub struct Traffic {
    stripes: [OnceLock<Box<Stripe>>; STRIPES],
    /// Bytes of memory that batches have.
    pub buffer_bytes: AtomicU64,
    /// Requests that came while the model was not in memory.
    pub misses: Counter,
    /// Only counters are kept.
    without_histograms: bool,
}

/// What threads count.
#[derive(Default)]
#[repr(align(128))]
pub struct Stripe {
    outcomes: [Counter; OUTCOMES.len()],
    pub batches: Counter,
    /// Rows of requests in those batches.
    pub rows: Counter,
    /// Bytes of inputs that were computed.
    pub input_bytes: Counter,
    /// Those of them that were padding.
    pub padding_bytes: Counter,
    /// Of the batches those that were steps, and pieces of text that requests have said in them.
    pub steps: Counter,
    pub tokens: Counter,
    /// From submit to the terminal event, of requests that ended well. As all durations in nanoseconds.
    pub total: Histogram,
    /// From submit until a lane took the request, of requests that ended well.
    pub queued: Histogram,
    /// For how long batches were held open for more rows, though a lane was free; only of batches that were.
    pub held: Histogram,
    /// Moving rows together, padding, and handing results out, of batches.
    pub copied: Histogram,
    /// Inside the backend, of batches.
    pub computed: Histogram,
    /// Rows of each batch.
    pub batch_rows: Histogram,
    /// What requests with a deadline were given at submit.
    pub patience: Histogram,
}

/// Requests that have ended, by outcome.
#[derive(Default)]
pub struct Ended([Counter; OUTCOMES.len()]);

impl Ended {
    /// Counts one that ended with `status`.
    pub fn count(&self, status: Status) {
        self.0[outcome(status)].add(1);
    }

    /// As in `OUTCOMES`.
    pub fn get(&self) -> [u64; OUTCOMES.len()] {
        std::array::from_fn(|at| self.0[at].get())
    }
}

impl Stripe {
    /// Counts requests that ended with `status`.
    pub fn ended(&self, status: Status, count: u64) {
        self.outcomes[outcome(status)].add(count);
    }
}

/// The place of a status among `OUTCOMES`.
pub fn outcome(status: Status) -> usize {
    match status {
        Status::Ok => 0,
        Status::Cancelled => 2,
        Status::Expired => 3,
        Status::ShutDown => 4,
        _ => 1,
    }
}

/// A number of this thread's own.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    OWN.with(|own| match own.get() {
        usize::MAX => {
            own.set(NEXT.fetch_add(1, Ordering::Relaxed));
            own.get()
        }
        number => number,
    })
}

impl Traffic {
    /// What tells it from any other that is there.
    pub fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Where this thread counts.
    #[inline]
    pub fn here(&self) -> &Stripe {
        self.stripes[thread_number() % STRIPES].get_or_init(Box::default)
    }

    /// Where this thread records durations and sizes, if they are kept.
    #[inline]
    pub fn times(&self) -> Option<&Stripe> {
        (!self.without_histograms).then(|| self.here())
    }

    fn each(&self) -> impl Iterator<Item = &Stripe> {
        self.stripes.iter().filter_map(|stripe| stripe.get().map(|stripe| &**stripe))
    }

    /// Requests that have ended.
    pub fn ended(&self) -> u64 {
        self.each().flat_map(|stripe| &stripe.outcomes).map(Counter::get).sum()
    }

    /// Batches that have been run.
    pub fn batches(&self) -> u64 {
        self.each().map(|stripe| stripe.batches.get()).sum()
    }

    /// All that was counted so far.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.add_to(&mut totals);
        totals
    }

    /// How long requests took in all, of those that ended well.
    pub fn total_times(&self) -> Counts {
        let mut counts = Counts::default();
        self.each().for_each(|stripe| stripe.total.add_to(&mut counts));
        counts
    }

    /// Adds all that was counted so far.
    fn add_to(&self, totals: &mut Totals) {
        for stripe in self.each() {
            for (total, counter) in totals.outcomes.iter_mut().zip(&stripe.outcomes) {
                *total += counter.get();
            }
            totals.batches += stripe.batches.get();
            totals.rows += stripe.rows.get();
            totals.input_bytes += stripe.input_bytes.get();
            totals.padding_bytes += stripe.padding_bytes.get();
            totals.steps += stripe.steps.get();
            totals.tokens += stripe.tokens.get();
            stripe.total.add_to(&mut totals.total);
            stripe.queued.add_to(&mut totals.queued);
            stripe.held.add_to(&mut totals.held);
            stripe.copied.add_to(&mut totals.copied);
            stripe.computed.add_to(&mut totals.computed);
            stripe.batch_rows.add_to(&mut totals.batch_rows);
            stripe.patience.add_to(&mut totals.patience);
        }
    }
}

/// What was counted up to a moment, or between two: see `Stripe` for what it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// As in `OUTCOMES`.
    pub outcomes: [u64; OUTCOMES.len()],
    pub batches: u64,
    pub rows: u64,
    pub input_bytes: u64,
    pub padding_bytes: u64,
    pub steps: u64,
    pub tokens: u64,
    pub total: Counts,
    pub queued: Counts,
    pub held: Counts,
    pub copied: Counts,
    pub computed: Counts,
    pub batch_rows: Counts,
    pub patience: Counts,
}

impl Totals {
    /// Requests that ended with a status like this one.
    pub fn of(&self, status: Status) -> u64 {
        self.outcomes[outcome(status)]
    }

    /// Requests that have ended.
    pub fn ended(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    fn each_counts(&self) -> [&Counts; 7] {
        [
            &self.total,
            &self.queued,
            &self.held,
            &self.copied,
            &self.computed,
            &self.batch_rows,
            &self.patience,
        ]
    }

    fn each_counts_mut(&mut self) -> [&mut Counts; 7] {
        [
            &mut self.total,
            &mut self.queued,
            &mut self.held,
            &mut self.copied,
            &mut self.computed,
            &mut self.batch_rows,
            &mut self.patience,
        ]
    }

    pub fn add(&mut self, other: &Totals) {
        for (own, others) in self.outcomes.iter_mut().zip(other.outcomes) {
            *own += others;
        }
        self.batches += other.batches;
        self.rows += other.rows;
        self.input_bytes += other.input_bytes;
        self.padding_bytes += other.padding_bytes;
        self.steps += other.steps;
        self.tokens += other.tokens;
        for (own, others) in self.each_counts_mut().into_iter().zip(other.each_counts()) {
            own.add(others);
        }
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Totals) -> Totals {
        let mut newer = self.clone();
        for (own, before) in newer.outcomes.iter_mut().zip(earlier.outcomes) {
            *own = own.saturating_sub(before);
        }
        newer.batches = self.batches.saturating_sub(earlier.batches);
        newer.rows = self.rows.saturating_sub(earlier.rows);
        newer.input_bytes = self.input_bytes.saturating_sub(earlier.input_bytes);
        newer.padding_bytes = self.padding_bytes.saturating_sub(earlier.padding_bytes);
        newer.steps = self.steps.saturating_sub(earlier.steps);
        newer.tokens = self.tokens.saturating_sub(earlier.tokens);
        for (own, before) in newer.each_counts_mut().into_iter().zip(earlier.each_counts()) {
            *own = own.since(before);
        }
        newer
    }
}

/// All models' traffic, also of those that are gone.
#[derive(Default)]
pub struct Fleet {
    /// Those that can still count, and what is left of the others.
    models: Mutex<(Vec<Arc<Traffic>>, Totals)>,
    without_histograms: bool,
}

impl Fleet {
    /// With or without histograms.
    pub fn new(histograms: bool) -> Self {
        Fleet { without_histograms: !histograms, ..Fleet::default() }
    }

    /// A new model's.
    pub fn join(&self) -> Arc<Traffic> {
        let without_histograms = self.without_histograms;
        let traffic = Arc::new(Traffic { without_histograms, ..Traffic::default() });
        self.models.lock().unwrap_or_else(PoisonError::into_inner).0.push(Arc::clone(&traffic));
        traffic
    }

    /// Has `look` see every model's that can still count, and then `rest` all that is left of the others.
    fn each<R>(&self, mut look: impl FnMut(&Traffic), rest: impl FnOnce(&Totals) -> R) -> R {
        let (live, past) = &mut *self.models.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|traffic| {
            // Nobody else has it, so nobody counts in it any more.
            let is_over = Arc::strong_count(traffic) == 1;
            match is_over {
                true => past.add(&traffic.totals()),
                false => look(traffic),
            }
            !is_over
        });
        rest(past)
    }

    pub fn totals(&self) -> Totals {
        let sum = std::cell::RefCell::new(Totals::default());
        self.each(|traffic| traffic.add_to(&mut sum.borrow_mut()), |past| sum.borrow_mut().add(past));
        sum.into_inner()
    }

    /// Requests that have ended, and batches that have been run.
    pub fn progress(&self) -> (u64, u64) {
        let (mut ended, mut batches) = (0, 0);
        let count = |traffic: &Traffic| {
            ended += traffic.ended();
            batches += traffic.batches();
        };
        let past = self.each(count, |past| (past.ended(), past.batches));
        (ended + past.0, batches + past.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_together() {
        let traffic = Traffic::default();
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        traffic.here().ended(Status::Ok, 2);
                        traffic.here().total.record(1000);
                    }
                });
            }
        });
        traffic.here().ended(Status::BackendFailed, 1);
        let totals = traffic.totals();
        assert_eq!((totals.outcomes, totals.total.count()), ([1200, 1, 0, 0, 0], 600));
        assert_eq!((traffic.ended(), totals.of(Status::Internal)), (1201, 1));
    }

    #[test]
    fn without_histograms_there_is_nowhere_to_record_times() {
        let (with, without) = (Fleet::new(true).join(), Fleet::new(false).join());
        assert!(with.times().is_some() && without.times().is_none());
        without.here().ended(Status::Ok, 1);
        assert_eq!(without.ended(), 1);
    }

    #[test]
    fn what_a_model_has_counted_stays_when_it_is_gone() {
        let fleet = Fleet::default();
        let (one, two) = (fleet.join(), fleet.join());
        one.here().ended(Status::Ok, 3);
        two.here().ended(Status::Expired, 4);
        one.here().batches.add(2);
        drop(one);
        assert_eq!(fleet.progress(), (7, 2));
        two.here().ended(Status::Expired, 1);
        assert_eq!(fleet.totals().outcomes, [3, 0, 0, 5, 0]);
        drop(two);
        assert_eq!(fleet.totals().outcomes, fleet.totals().outcomes);
        assert_eq!(fleet.totals().ended(), 8);
    }

    #[test]
    fn differences_are_what_came_between() {
        let traffic = Traffic::default();
        traffic.here().ended(Status::Ok, 3);
        traffic.here().queued.record(50);
        let before = traffic.totals();
        traffic.here().ended(Status::Cancelled, 1);
        traffic.here().queued.record(60);
        traffic.here().padding_bytes.add(9);
        let newer = traffic.totals().since(&before);
        assert_eq!((newer.outcomes, newer.padding_bytes, newer.queued.sum()), ([0, 0, 1, 0, 0], 9, 60));
    }
}
