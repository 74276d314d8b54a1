//! A limit on how many batches are computed at once, over all models of an engine, and a fair order for those that wait.

use crate::clock::now_ns;
use crate::sync::{AtomicU64, AtomicUsize, Condvar, Mutex, Ordering, lock, wait_until};

/// How often a waiter looks whether what it would run is still wanted, in nanoseconds.
const LOOK_NS: u64 = 5_000_000;
/// How far a model that did not compute may fall behind the others, in nanoseconds of computing.
const CREDIT_NS: u64 = 2_000_000;

/// Lets at most so many through at a time, or any number if there is no limit.
///
/// When there are more, the place goes to the model that has computed least: each has its share of the time, however
/// long its batches are and however many its requests.
pub struct Gate {
    limit: usize,
    inside: AtomicUsize,
    /// Those who wait, to look at without the lock.
    waiting: AtomicUsize,
    line: Mutex<Line>,
    changed: Condvar,
    /// The share of whoever was let in last: newcomers start there.
    level_ns: AtomicU64,
}

#[derive(Default)]
struct Line {
    /// (computed so far, number of the waiter)
    waiters: Vec<(u64, u64)>,
    next: u64,
}

/// What one model has computed, in nanoseconds; its place in the order.
#[derive(Default)]
pub struct Share(AtomicU64);

impl Share {
    /// What the model has computed, in nanoseconds, or is taken to have.
    pub fn computed_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gate {
    pub fn new(limit: Option<usize>) -> Self {
        Gate {
            limit: limit.unwrap_or(usize::MAX),
            inside: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            line: Mutex::default(),
            changed: Condvar::new(),
            level_ns: AtomicU64::new(0),
        }
    }

    /// A place, if there is one and nobody waits for it.
    pub fn try_enter<'a>(&'a self, share: &'a Share) -> Option<Pass<'a>> {
        if self.limit == usize::MAX {
            return Some(Pass { gate: None, share, entered_ns: 0 });
        }
        if self.waiting.load(Ordering::SeqCst) > 0 || !self.take() {
            return None;
        }
        Some(self.pass(share))
    }

    /// Waits for a place, kept until the pass is dropped; `None` when it is not `wanted` any more.
    pub fn enter<'a>(&'a self, share: &'a Share, wanted: impl Fn() -> bool) -> Option<Pass<'a>> {
        if let Some(pass) = self.try_enter(share) {
            return Some(pass);
        }
        let mut line = lock(&self.line);
        let mine = (share.0.load(Ordering::Relaxed), line.next);
        line.next += 1;
        line.waiters.push(mine);
        self.waiting.store(line.waiters.len(), Ordering::SeqCst);
        let entered = loop {
            let first = line.waiters.iter().min() == Some(&mine);
            if first && self.take() {
                break true;
            }
            if !wanted() {
                break false;
            }
            line = wait_until(&self.changed, line, now_ns() + LOOK_NS);
        };
        line.waiters.retain(|waiter| *waiter != mine);
        self.waiting.store(line.waiters.len(), Ordering::SeqCst);
        let others = !line.waiters.is_empty();
        drop(line);
        if others {
            self.changed.notify_all(); // another one is first now
        }
        entered.then(|| self.pass(share))
    }

    fn take(&self) -> bool {
        let take = |inside: usize| (inside < self.limit).then(|| inside + 1);
        self.inside.fetch_update(Ordering::SeqCst, Ordering::Relaxed, take).is_ok()
    }

    fn pass<'a>(&'a self, share: &'a Share) -> Pass<'a> {
        // Who did not compute for long does not get all that time back at once.
        let floor = self.level_ns.load(Ordering::Relaxed).saturating_sub(CREDIT_NS);
        let own = share.0.fetch_max(floor, Ordering::Relaxed).max(floor);
        if own > self.level_ns.load(Ordering::Relaxed) {
            self.level_ns.store(own, Ordering::Relaxed);
        }
        Pass { gate: Some(self), share, entered_ns: now_ns() }
    }
}

/// A place behind the gate.
pub struct Pass<'a> {
    gate: Option<&'a Gate>,
    share: &'a Share,
    entered_ns: u64,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let Some(gate) = self.gate else { return };
        self.share.0.fetch_add(now_ns().saturating_sub(self.entered_ns), Ordering::Relaxed);
        gate.inside.fetch_sub(1, Ordering::SeqCst);
        if gate.waiting.load(Ordering::SeqCst) > 0 {
            let _line = lock(&gate.line); // so that the wake-up does not come between a waiter's look and its wait
            gate.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_inside() {
        let (gate, inside, most) = (Gate::new(Some(2)), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let share = Share::default();
                    for _ in 0..50 {
                        let _pass = gate.enter(&share, || true).unwrap();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }

    #[test]
    fn a_waiter_gives_up_what_is_not_wanted() {
        let (gate, share) = (Gate::new(Some(1)), Share::default());
        let _pass = gate.enter(&share, || true);
        assert!(gate.try_enter(&share).is_none());
        assert!(gate.enter(&share, || false).is_none());
    }

    #[test]
    fn the_place_goes_to_whoever_has_computed_least() {
        let gate = Gate::new(Some(1));
        let shares =
            [Share(AtomicU64::new(3_000)), Share(AtomicU64::new(1_000)), Share(AtomicU64::new(2_000))];
        let (order, first) = (Mutex::new(Vec::new()), Share::default());
        let pass = gate.enter(&first, || true);
        std::thread::scope(|scope| {
            for (index, share) in shares.iter().enumerate() {
                let (gate, order) = (&gate, &order);
                scope.spawn(move || {
                    let _pass = gate.enter(share, || true);
                    lock(order).push(index);
                });
            }
            while gate.waiting.load(Ordering::SeqCst) < 3 {
                std::thread::yield_now();
            }
            drop(pass);
        });
        assert_eq!(*lock(&order), [1, 2, 0]);
    }
}
