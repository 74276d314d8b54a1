//! Deadlines: which work is overdue, and a thread that sleeps until the next is.

use crate::clock::now_ns;
use crate::sync::{Condvar, Mutex, lock, wait_until};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A heap of (time, work).
pub struct Deadlines<T> {
    inner: Mutex<Inner<T>>,
    changed: Condvar,
    /// The earliest time in the heap, to look at without the lock; `u64::MAX`: none.
    next_ns: AtomicU64,
}

struct Inner<T> {
    heap: BinaryHeap<Reverse<(u64, T)>>,
    /// The size at which finished work is thrown out.
    purge_at: usize,
    stopped: bool,
}

const PURGE_AT: usize = 1024;

impl<T: Ord + Copy> Deadlines<T> {
    pub fn new() -> Self {
        let inner = Inner { heap: BinaryHeap::new(), purge_at: PURGE_AT, stopped: false };
        Deadlines { inner: Mutex::new(inner), changed: Condvar::new(), next_ns: AtomicU64::new(u64::MAX) }
    }

    /// Adds a deadline. Work that finished before its deadline is thrown out now and then; `is_live` tells.
    pub fn add(&self, at_ns: u64, work: T, is_live: impl Fn(T) -> bool) {
        let mut inner = lock(&self.inner);
        if inner.heap.len() >= inner.purge_at {
            inner.heap.retain(|Reverse((_, work))| is_live(*work));
            inner.purge_at = PURGE_AT.max(2 * inner.heap.len());
        }
        inner.heap.push(Reverse((at_ns, work)));
        let earliest = self.publish(&inner);
        drop(inner);
        if earliest == at_ns {
            self.changed.notify_one();
        }
    }

    /// The time of the earliest deadline; `u64::MAX` if there is none.
    pub fn next_ns(&self) -> u64 {
        self.next_ns.load(Ordering::Acquire)
    }

    /// Takes out everything that is due.
    pub fn take_due(&self, now: u64) -> Vec<T> {
        if now < self.next_ns() {
            return Vec::new();
        }
        let mut inner = lock(&self.inner);
        let mut due = Vec::new();
        while let Some(&Reverse((at_ns, work))) = inner.heap.peek()
            && at_ns <= now
        {
            inner.heap.pop();
            due.push(work);
        }
        self.publish(&inner);
        due
    }

    /// For a thread: calls `expire` with whatever is due, when it is, until stopped.
    pub fn run(&self, expire: impl Fn(T)) {
        loop {
            self.take_due(now_ns()).into_iter().for_each(&expire);
            let inner = lock(&self.inner);
            if inner.stopped {
                return;
            }
            let until = inner.heap.peek().map_or(u64::MAX, |Reverse((at_ns, _))| *at_ns);
            if until > now_ns() {
                drop(wait_until(&self.changed, inner, until));
            }
        }
    }

    /// Ends `run`.
    pub fn stop(&self) {
        lock(&self.inner).stopped = true;
        self.changed.notify_all();
    }

    fn publish(&self, inner: &Inner<T>) -> u64 {
        let earliest = inner.heap.peek().map_or(u64::MAX, |Reverse((at_ns, _))| *at_ns);
        self.next_ns.store(earliest, Ordering::Release);
        earliest
    }
}

impl<T: Ord + Copy> Default for Deadlines<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};

    #[test]
    fn due_work_comes_out_in_order_and_only_then() {
        let deadlines = Deadlines::new();
        for at in [30u64, 10, 20] {
            deadlines.add(at, at, |_| true);
        }
        assert_eq!(deadlines.next_ns(), 10);
        assert_eq!(deadlines.take_due(9), [] as [u64; 0]);
        assert_eq!(deadlines.take_due(20), [10, 20]);
        assert_eq!(deadlines.next_ns(), 30);
    }

    #[test]
    fn finished_work_does_not_pile_up() {
        let deadlines = Deadlines::new();
        for work in 0..100_000u64 {
            deadlines.add(u64::MAX - 1, work, |old| old + 10 > work);
        }
        assert!(lock(&deadlines.inner).heap.len() <= PURGE_AT);
    }

    #[test]
    fn the_thread_expires_an_earlier_deadline_that_comes_later() {
        let deadlines = Arc::new(Deadlines::new());
        let (sender, expired) = mpsc::channel();
        let keeper = Arc::clone(&deadlines);
        let thread = std::thread::spawn(move || keeper.run(|work: u32| sender.send(work).unwrap()));
        deadlines.add(now_ns() + 3_600_000_000_000, 1, |_| true);
        deadlines.add(now_ns() + 1_000_000, 2, |_| true);
        assert_eq!(expired.recv().unwrap(), 2);
        deadlines.stop();
        thread.join().unwrap();
    }
}
