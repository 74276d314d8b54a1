//! The router's lock-free parts: token buckets, and the table of sessions.

use crate::bucket::Bucket;
use crate::sessions::Slot;
use crate::sync::{AtomicU32, Ordering, Seen, explore};
use crate::{join, spawn};
use loom::sync::Arc;

const SECOND: u64 = 1_000_000_000;

struct Buckets {
    bucket: Bucket,
    passed: AtomicU32,
}

fn buckets(burst: u32) -> Arc<Buckets> {
    let bucket = Bucket::default();
    bucket.set(Some(1.0), Some(burst), 1);
    Arc::new(Buckets { bucket, passed: AtomicU32::new(0) })
}

impl Buckets {
    fn take(&self, count: u32, now_ns: u64) -> bool {
        let passes = self.bucket.take(count, now_ns).is_ok();
        self.passed.fetch_add(if passes { count } else { 0 }, Ordering::Relaxed);
        passes
    }

    fn passed(&self) -> u32 {
        self.passed.load(Ordering::Relaxed)
    }
}

#[test]
fn of_three_takers_as_many_pass_as_there_are_tokens() {
    explore(Seen::AsLate, 3, || {
        let shared = buckets(2);
        // The last one's clock is a little behind.
        join([10, 10, 9].map(|now| spawn(&shared, move |shared| _ = shared.take(1, now * SECOND / 10))));
        assert_eq!(shared.passed(), 2);
    });
}

#[test]
fn what_one_gives_back_another_may_take() {
    explore(Seen::AsLate, 3, || {
        let shared = buckets(2);
        let giver = spawn(&shared, |shared| {
            if shared.bucket.take(2, SECOND).is_ok() {
                shared.bucket.give_back(2);
            }
        });
        let taker = spawn(&shared, |shared| _ = shared.take(1, SECOND));
        join([giver, taker]);
        let left = 2 - shared.passed();
        assert_eq!(shared.bucket.left(SECOND), Some(u64::from(left)));
    });
}

/// A taker that has read the old rate must not write what it made of it over the new one: a token took 1000 s.
#[test]
fn a_change_of_the_rate_leaves_no_debt_of_the_old_one() {
    explore(Seen::AsLate, 3, || {
        let shared = buckets(2);
        shared.bucket.set(Some(0.001), Some(2), 1);
        let taker = spawn(&shared, |shared| _ = shared.take(1, SECOND));
        let other = spawn(&shared, |shared| shared.bucket.set(Some(1.0), Some(4), 1));
        join([taker, other]);
        assert!(shared.bucket.left(SECOND).is_some_and(|left| left >= 3));
        assert!(shared.bucket.is_full(2 * SECOND));
    });
}

/// Puts a session in, whose target has its number.
fn put(slot: &Slot, session: u32) {
    if let Some(seen) = slot.read() {
        let _ = slot.replace(seen, u64::from(session), session, SECOND);
    }
}

fn check(slot: &Slot) {
    if let Some(seen) = slot.read() {
        assert_eq!(seen.session, u64::from(seen.target() % 100), "a foreign target");
    }
}

#[test]
fn a_session_never_has_the_target_of_another() {
    explore(Seen::AsLate, 3, || {
        let slot = Arc::new(Slot::default());
        put(&slot, 1);
        let writers = [spawn(&slot, |slot| put(slot, 2)), spawn(&slot, |slot| put(slot, 3))];
        check(&slot);
        check(&slot);
        join(writers);
        check(&slot);
        assert!(slot.read().is_some());
    });
}

#[test]
fn a_session_that_is_replaced_takes_no_new_target_along() {
    explore(Seen::AsLate, 3, || {
        let slot = Arc::new(Slot::default());
        put(&slot, 1);
        let retarget = spawn(&slot, |slot| {
            if let Some(seen) = slot.read().filter(|seen| seen.session == 1) {
                let _ = slot.retarget(seen, 101);
            }
        });
        let replace = spawn(&slot, |slot| put(slot, 2));
        check(&slot);
        join([retarget, replace]);
        check(&slot);
        assert!(slot.read().is_some());
    });
}
