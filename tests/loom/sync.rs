//! What stands for `src/sync.rs` in the models: loom's types, under the names that the lock-free parts know.
//!
//! loom treats `SeqCst` reads and writes as `AcqRel`, and knows sequential consistency only from fences. So a model
//! runs in one of two ways. `Seen::AsOrdered` has a fence after each `SeqCst` write, which is what a thread relies on
//! that writes and then looks whether another one sleeps; a write that is weaker by mistake is found out. But loom's
//! fences order too much, so that they hide data races: those are looked for without them, `Seen::AsLate`.

pub use loom::sync::Condvar;
pub use loom::sync::atomic::Ordering;
use loom::sync::atomic::fence;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// How late a thread may see what others have written with `SeqCst`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    AsOrdered,
    AsLate,
}

thread_local! {
    /// Of the model that runs on this thread: all threads of a model are coroutines of one.
    static SEEN: Cell<Seen> = const { Cell::new(Seen::AsLate) };
}

/// Explores `model`, up to a number of preemptions by which nearly all such bugs are found.
pub fn explore(seen: Seen, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    SEEN.set(seen);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn written(order: Ordering) {
    if order == Ordering::SeqCst && SEEN.get() == Seen::AsOrdered {
        fence(Ordering::SeqCst);
    }
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Default)]
        pub struct $name(loom::sync::atomic::$name);

        #[allow(dead_code)]
        impl $name {
            #[track_caller]
            pub fn new(value: $value) -> Self {
                $name(loom::sync::atomic::$name::new(value))
            }

            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                self.0.load(order)
            }

            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                let before = self.0.swap(value, order);
                written(order);
                before
            }

            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let before = self.0.compare_exchange(current, new, success, failure)?;
                written(success);
                Ok(before)
            }

            /// Does not fail spuriously: that would only be another turn of the caller's loop.
            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            #[track_caller]
            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut change: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut current = self.load(failure);
                loop {
                    let new = change(current).ok_or(current)?;
                    match self.compare_exchange(current, new, success, failure) {
                        Ok(before) => return Ok(before),
                        Err(now) => current = now,
                    }
                }
            }
        }
    };
    ($name:ident, $value:ty, $($update:ident),*) => {
        atomic!($name, $value);

        #[allow(dead_code)]
        impl $name {
            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                self.0.store(value, order);
                written(order);
            }

            $(#[track_caller]
            pub fn $update(&self, value: $value, order: Ordering) -> $value {
                let before = self.0.$update(value, order);
                written(order);
                before
            })*
        }
    };
}

atomic!(AtomicU32, u32, fetch_add, fetch_sub);
atomic!(AtomicU64, u64, fetch_add, fetch_sub, fetch_or, fetch_and);
atomic!(AtomicBool, bool);

/// Only what the models need: all is read and written by one owner at a time.
pub struct AtomicPtr<T>(loom::sync::atomic::AtomicPtr<T>);

impl<T> AtomicPtr<T> {
    #[track_caller]
    pub fn new(value: *mut T) -> Self {
        AtomicPtr(loom::sync::atomic::AtomicPtr::new(value))
    }

    #[track_caller]
    pub fn load(&self, order: Ordering) -> *mut T {
        self.0.load(order)
    }

    #[track_caller]
    pub fn store(&self, value: *mut T, order: Ordering) {
        self.0.store(value, order);
    }
}

impl AtomicBool {
    /// A swap, because loom lets another thread's swap go by a store that it has not seen, which no hardware does.
    #[track_caller]
    pub fn store(&self, value: bool, order: Ordering) {
        self.0.swap(value, order);
        written(order);
    }
}

/// A mutex whose guards know it, so that a wait can be over without a notification.
#[derive(Default)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    guard: loom::sync::MutexGuard<'a, T>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[track_caller]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    MutexGuard { mutex, guard: mutex.0.lock().unwrap() }
}

/// A wait with an end may end at any time: it is one at which the others may do something.
pub fn wait_until<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>, until_ns: u64) -> MutexGuard<'a, T> {
    let MutexGuard { mutex, guard } = guard;
    if until_ns == u64::MAX {
        return MutexGuard { mutex, guard: condvar.wait(guard).unwrap() };
    }
    drop(guard);
    loom::thread::yield_now();
    lock(mutex)
}

pub fn is_past(until_ns: u64) -> bool {
    until_ns != u64::MAX
}
