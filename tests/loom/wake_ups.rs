//! The bell, alone and with lanes that look before they sleep: whoever sleeps is woken.

use crate::bell::Bell;
use crate::sync::{AtomicU32, Ordering, Seen, explore};
use crate::{join, spawn};
use loom::sync::Arc;

/// Things to take, and a bell to sleep by until there are any.
#[derive(Default)]
struct Shelf {
    things: AtomicU32,
    /// Lanes that are awake and look for something.
    looking: AtomicU32,
    bell: Bell,
}

impl Shelf {
    fn any(&self) -> bool {
        self.things.load(Ordering::SeqCst) > 0
    }

    fn put_and_ring(&self) {
        self.things.fetch_add(1, Ordering::SeqCst);
        self.bell.ring();
    }

    fn try_take(&self) -> bool {
        let mut things = self.things.load(Ordering::SeqCst);
        while things > 0 {
            match self.things.compare_exchange(things, things - 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => things = now,
            }
        }
        false
    }

    fn take(&self) {
        while !self.try_take() {
            self.bell.sleep(u64::MAX, || self.any());
        }
    }

    /// As `Queue::announce`.
    fn announce(&self) {
        if self.looking.load(Ordering::SeqCst) == 0 {
            self.bell.ring();
        }
    }

    fn put_and_announce(&self) {
        self.things.fetch_add(1, Ordering::SeqCst);
        self.announce();
    }

    /// As `Queue::next` and `Queue::taken`.
    fn take_as_a_lane(&self) {
        loop {
            if self.any() {
                if self.try_take() {
                    break;
                }
                continue;
            }
            self.looking.fetch_add(1, Ordering::SeqCst);
            let found = self.any();
            self.looking.fetch_sub(1, Ordering::SeqCst);
            if !found {
                self.bell.sleep(u64::MAX, || self.any());
            }
        }
        if self.any() {
            self.announce();
        }
    }
}

#[test]
fn a_sleeper_sees_what_is_announced_or_is_woken() {
    explore(Seen::AsOrdered, 4, || {
        let shelf = Arc::new(Shelf::default());
        let ringer = spawn(&shelf, |shelf| shelf.put_and_ring());
        shelf.take();
        ringer.join().unwrap();
        assert_eq!(shelf.bell.sleepers(), 0);
    });
}

#[test]
fn each_of_two_rings_wakes_one_of_two_sleepers() {
    explore(Seen::AsOrdered, 3, || {
        let shelf = Arc::new(Shelf::default());
        let sleeper = spawn(&shelf, |shelf| shelf.take());
        let ringer = spawn(&shelf, |shelf| (0..2).for_each(|_| shelf.put_and_ring()));
        shelf.take();
        ringer.join().unwrap();
        sleeper.join().unwrap();
        assert_eq!(shelf.bell.sleepers(), 0);
    });
}

#[test]
fn rings_from_two_threads_wake_two_sleepers() {
    explore(Seen::AsOrdered, 2, || {
        let shelf = Arc::new(Shelf::default());
        let sleeper = spawn(&shelf, |shelf| shelf.take());
        let ringers = [(); 2].map(|()| spawn(&shelf, |shelf| shelf.put_and_ring()));
        shelf.take();
        join(ringers);
        sleeper.join().unwrap();
    });
}

#[test]
fn a_ring_for_all_wakes_all() {
    explore(Seen::AsOrdered, 3, || {
        let shelf = Arc::new(Shelf::default());
        let wait = |shelf: &Shelf| {
            while !shelf.any() {
                shelf.bell.sleep(u64::MAX, || shelf.any());
            }
        };
        let sleepers = [(); 2].map(|()| spawn(&shelf, wait));
        shelf.things.store(1, Ordering::SeqCst);
        shelf.bell.ring_all();
        join(sleepers);
        assert_eq!(shelf.bell.sleepers(), 0);
    });
}

/// A sleeper whose time is up may take the wake-up of another one; then it looks, as all do that sleep by a bell.
#[test]
fn a_sleeper_whose_time_is_up_takes_nothing_from_the_others() {
    explore(Seen::AsOrdered, 3, || {
        let shelf = Arc::new(Shelf::default());
        let hasty = spawn(&shelf, |shelf| {
            if !shelf.try_take() {
                shelf.bell.sleep(0, || shelf.any());
                if !shelf.try_take() {
                    return;
                }
            }
            shelf.put_and_ring(); // for the other one
        });
        let ringer = spawn(&shelf, |shelf| shelf.put_and_ring());
        shelf.take();
        hasty.join().unwrap();
        ringer.join().unwrap();
        assert_eq!(shelf.bell.sleepers(), 0);
    });
}

/// The lane that has taken the first batch is busy for ever: the other lane must come to know of the second one.
#[test]
fn lanes_that_look_and_are_not_rung_for_miss_nothing() {
    explore(Seen::AsOrdered, 3, || {
        let shelf = Arc::new(Shelf::default());
        let lane = spawn(&shelf, |shelf| shelf.take_as_a_lane());
        let submitter = spawn(&shelf, |shelf| (0..2).for_each(|_| shelf.put_and_announce()));
        shelf.take_as_a_lane();
        submitter.join().unwrap();
        lane.join().unwrap();
    });
}

#[test]
fn one_lane_takes_what_two_submitters_announce() {
    explore(Seen::AsOrdered, 3, || {
        let shelf = Arc::new(Shelf::default());
        let submitters = [(); 2].map(|()| spawn(&shelf, |shelf| shelf.put_and_announce()));
        (0..2).for_each(|_| shelf.take_as_a_lane());
        join(submitters);
    });
}

/// A lane that leaves an open batch to fill up looks at it, and then sleeps until it changes. (Its time to wait is over
/// at some time; here it never is, so that a change which it does not see shows.)
#[test]
fn a_lane_that_waits_for_a_batch_to_fill_up_sees_each_member() {
    explore(Seen::AsOrdered, 3, || {
        let shelf = Arc::new(Shelf::default());
        let submitters = [(); 2].map(|()| spawn(&shelf, |shelf| shelf.put_and_announce()));
        let rows = || shelf.things.load(Ordering::SeqCst);
        loop {
            let seen = rows();
            if seen == 2 {
                break;
            }
            shelf.bell.sleep(u64::MAX, || rows() != seen);
        }
        join(submitters);
    });
}
