//! A bell to sleep by: it costs its ringer one load while nobody sleeps, and one wake-up for each sleeper otherwise.

use crate::sync::{AtomicU32, Condvar, Mutex, Ordering, is_past, lock, wait_until};

/// Threads sleep on it until it rings.
///
/// The protocol that loses no wake-up: a ringer first makes what it announces visible with a `SeqCst` write, then
/// looks whether anybody sleeps; a sleeper first says that it sleeps, then looks whether there is anything. Whichever
/// comes second sees the other.
#[derive(Default)]
pub struct Bell {
    /// A copy of `Rings::waiting`, to look at without the lock.
    sleeping: AtomicU32,
    rings: Mutex<Rings>,
    rung: Condvar,
}

/// Sleepers inside are `waiting + woken`.
#[derive(Default)]
struct Rings {
    /// Asleep, and nobody has woken them.
    waiting: u32,
    /// Wake-ups that were given and not yet taken.
    woken: u32,
}

impl Bell {
    /// Wakes one sleeper, if there is any. What it is to see must be written before, with `SeqCst`.
    #[inline]
    pub fn ring(&self) {
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            self.wake(1);
        }
    }

    /// Wakes all sleepers.
    #[inline]
    pub fn ring_all(&self) {
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            self.wake(u32::MAX);
        }
    }

    #[cold]
    fn wake(&self, most: u32) {
        let mut rings = lock(&self.rings);
        let count = rings.waiting.min(most);
        rings.waiting -= count;
        rings.woken += count;
        self.sleeping.store(rings.waiting, Ordering::SeqCst);
        drop(rings);
        match count {
            0 => (),
            1 => self.rung.notify_one(),
            _ => self.rung.notify_all(),
        }
    }

    /// Sleeps until the bell rings or the clock reads `until_ns`; not at all if `ready`, which looks for what a ringer
    /// would announce, without taking locks.
    pub fn sleep(&self, until_ns: u64, ready: impl Fn() -> bool) {
        let mut rings = lock(&self.rings);
        rings.waiting += 1;
        self.sleeping.store(rings.waiting, Ordering::SeqCst);
        // Wake-ups that are there already are for others, who may have nothing else to wake them.
        let mut over = ready();
        while !over {
            if rings.woken > 0 {
                rings.woken -= 1;
                return;
            }
            rings = wait_until(&self.rung, rings, until_ns);
            // A wake-up that somebody else has taken was for something that may still be there.
            over = rings.woken == 0 && (is_past(until_ns) || ready());
        }
        rings.waiting -= 1;
        self.sleeping.store(rings.waiting, Ordering::SeqCst);
    }

    /// How many sleep.
    pub fn sleepers(&self) -> u32 {
        self.sleeping.load(Ordering::SeqCst)
    }
}
