//! A routed request and its attempts: somebody ends it, one alone, and no attempt outlives it unnoticed.

use crate::attempts::Attempts;
use crate::sync::{AtomicBool, AtomicU32, Ordering, Seen, explore};
use crate::{join, spawn};
use loom::sync::Arc;

/// A parent whose own attempt is under way, and what `engine::relay` does with it.
struct Parent {
    attempts: Attempts,
    resolved: AtomicBool,
    /// How often somebody took its attempt for the last one.
    ended: AtomicU32,
    /// Whether its child was told to stop.
    stopped: AtomicU32,
}

const FAILED: u32 = 500;
const CHILD: u64 = 7;

fn parent() -> Arc<Parent> {
    let attempts = Attempts::default();
    attempts.begin(1);
    let zero = || AtomicU32::new(0);
    Arc::new(Parent { attempts, resolved: AtomicBool::new(false), ended: zero(), stopped: zero() })
}

impl Parent {
    fn fail(&self) {
        if self.attempts.end(FAILED) {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As `try_again`: `made` says whether the child can be made.
    fn try_again(&self, made: bool) {
        let Some(before) = self.attempts.try_begin(2) else { return };
        if !made {
            if self.attempts.end(0) {
                self.ended.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        self.attempts.child(before - 1).unwrap().store(CHILD, Ordering::SeqCst);
        if self.resolved.load(Ordering::SeqCst) {
            self.stopped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As `resolve_member` and `conclude`.
    fn resolve(&self) {
        let first = !self.resolved.swap(true, Ordering::SeqCst);
        if first && self.attempts.begun() > 1 && self.attempts.children().any(|child| child == CHILD) {
            self.stopped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The own attempt and another fail in the same moment.
#[test]
fn of_two_failures_one_is_the_last() {
    explore(Seen::AsLate, 3, || {
        let parent = parent();
        assert_eq!(parent.attempts.try_begin(2), Some(1));
        join([(); 2].map(|()| spawn(&parent, Parent::fail)));
        assert_eq!(parent.ended.load(Ordering::Relaxed), 1);
    });
}

/// The warden counts an attempt that it then cannot make, while the own one fails: one of the two ends the request.
#[test]
fn an_attempt_that_is_withdrawn_leaves_nobody_waiting() {
    explore(Seen::AsLate, 3, || {
        let parent = parent();
        let warden = spawn(&parent, |parent| parent.try_again(false));
        let lane = spawn(&parent, Parent::fail);
        join([warden, lane]);
        // If the lane was the last before the warden began, the warden withdraws from what has ended: `resolved` tells.
        let ended = parent.ended.load(Ordering::Relaxed);
        assert!((1..=2).contains(&ended), "{ended}");
        if ended == 1 {
            assert_eq!(parent.attempts.failure(), FAILED);
        }
    });
}

/// A child is made while the parent is resolved: it is told to stop by the one or by the other.
#[test]
fn no_child_outlives_its_parent_unnoticed() {
    explore(Seen::AsOrdered, 3, || {
        let parent = parent();
        let maker = spawn(&parent, |parent| parent.try_again(true));
        let host = spawn(&parent, Parent::resolve);
        join([maker, host]);
        assert!(parent.stopped.load(Ordering::Relaxed) >= 1);
    });
}
