//! A limit on how many batches are computed at once, over all models of an engine.

use crate::sync::{Condvar, Mutex, lock, wait};

/// Lets at most so many through at a time, or any number if there is no limit.
pub struct Gate {
    free: Option<Mutex<usize>>,
    freed: Condvar,
}

impl Gate {
    pub fn new(limit: Option<usize>) -> Self {
        Gate { free: limit.map(Mutex::new), freed: Condvar::new() }
    }

    /// Waits for a place, kept until the pass is dropped.
    pub fn enter(&self) -> Pass<'_> {
        if let Some(free) = &self.free {
            let mut free = lock(free);
            while *free == 0 {
                free = wait(&self.freed, free);
            }
            *free -= 1;
        }
        Pass { gate: self }
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
            self.gate.freed.notify_one();
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
                        let _pass = gate.enter();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }
}
