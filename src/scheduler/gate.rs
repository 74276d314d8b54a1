//! A limit on how many batches are computed at once, over all models of an engine.

use crate::backend::Interrupt;
use crate::sync::{Condvar, Mutex, lock, wait};
use std::sync::Arc;

/// Lets at most so many through at a time, or any number if there is no limit.
pub struct Gate {
    free: Option<Mutex<usize>>,
    changed: Condvar,
}

impl Gate {
    pub fn new(limit: Option<usize>) -> Arc<Self> {
        Arc::new(Gate { free: limit.map(Mutex::new), changed: Condvar::new() })
    }

    /// Waits for a place, kept until the pass is dropped; `None` if the interrupt is raised before.
    pub fn enter(self: &Arc<Self>, interrupt: &Interrupt) -> Option<Pass<'_>> {
        if let Some(free) = &self.free {
            let gate = Arc::clone(self);
            let _hook = interrupt.hook(Box::new(move || {
                // Under the lock, so that the wake-up cannot come between the look below and the wait.
                let _free = gate.free.as_ref().map(lock);
                gate.changed.notify_all();
            }));
            let mut free = lock(free);
            while *free == 0 {
                if interrupt.is_raised() {
                    return None;
                }
                free = wait(&self.changed, free);
            }
            *free -= 1;
        }
        Some(Pass { gate: self })
    }
}

/// A place behind the gate.
pub struct Pass<'a> {
    gate: &'a Gate,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let Some(free) = &self.gate.free {
            *lock(free) += 1;
            self.gate.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_more_than_the_limit_are_inside() {
        let (gate, inside, most) = (Gate::new(Some(2)), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _pass = gate.enter(&Interrupt::new()).unwrap();
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
    fn a_waiter_gives_up_when_interrupted() {
        let (gate, interrupt) = (Gate::new(Some(1)), Interrupt::new());
        let _pass = gate.enter(&Interrupt::new());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| gate.enter(&interrupt).is_none());
            interrupt.raise();
            assert!(waiter.join().unwrap());
        });
    }
}
