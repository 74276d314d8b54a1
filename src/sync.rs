//! Locks and atomics. Locks outlive a panic: the data under them is valid at every step, so poisoning is ignored.
//!
//! The lock-free parts name only this module and each other, so that `tests/loom/sync.rs` can put loom's types in its place.

pub use std::hint::spin_loop;
pub use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub use std::sync::{Condvar, Mutex, MutexGuard};

use crate::clock;
use std::sync::PoisonError;

/// Locks `mutex`, whether or not a thread panicked while holding it.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks `mutex` if nobody else does just now.
pub fn try_lock<T: ?Sized>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

/// Waits for a notification on `condvar`.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification on `condvar` until the clock reads `until_ns` (`u64::MAX`: for ever).
pub fn wait_until<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>, until_ns: u64) -> MutexGuard<'a, T> {
    if until_ns == u64::MAX {
        return wait(condvar, guard);
    }
    let left = clock::wait_duration(until_ns.saturating_sub(clock::now_ns()));
    condvar.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
}

/// Whether the clock has reached `until_ns`.
pub fn is_past(until_ns: u64) -> bool {
    until_ns != u64::MAX && clock::now_ns() >= until_ns
}
