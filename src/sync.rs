//! Locks that outlive a panic: the data under them is valid at every step, so poisoning is ignored.

pub use std::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::clock;
use std::sync::PoisonError;

/// Locks `mutex`, whether or not a thread panicked while holding it.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks `lock` for reading.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks `lock` for writing.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
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
