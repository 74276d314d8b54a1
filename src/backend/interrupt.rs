//! A way to tell work in progress that its result is no longer wanted.

use crate::clock;
use crate::sync::{Condvar, Mutex, lock, wait_until};
use std::sync::atomic::{AtomicBool, Ordering};

type Hook = Box<dyn Fn() + Send>;

/// Stops work from another thread.
pub type Stopper = Box<dyn Fn() + Send + Sync>;

/// Raised from any thread, once until it is lowered; whoever works looks at it, waits on it, or hangs a hook on it.
#[derive(Default)]
pub struct Interrupt {
    /// Changed under the lock, read without: a hook may run while somebody who holds other locks looks.
    raised: AtomicBool,
    hook: Mutex<Hooks>,
    woken: Condvar,
}

#[derive(Default)]
struct Hooks {
    hook: Option<Hook>,
    /// Called each time.
    stopper: Option<Stopper>,
}

impl Interrupt {
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on calls `stopper` whenever it is raised, instead of the one before.
    pub fn set_stopper(&self, stopper: Option<Stopper>) {
        let old = std::mem::replace(&mut lock(&self.hook).stopper, stopper);
        drop(old); // not under the lock
    }

    /// Makes it as new. Only while nobody can raise it.
    pub fn lower(&self) {
        if self.is_raised() {
            self.raised.store(false, Ordering::SeqCst);
        }
    }

    /// Says that the work is no longer wanted, and calls the hook if there is one.
    pub fn raise(&self) {
        let hooks = lock(&self.hook);
        if !self.raised.swap(true, Ordering::SeqCst) {
            if let Some(stopper) = &hooks.stopper {
                stopper();
            }
            if let Some(hook) = &hooks.hook {
                hook();
            }
            self.woken.notify_all();
        }
    }

    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Calls `hook` when the interrupt is raised while the guard lives; at once, if it is raised already.
    pub fn hook(&self, hook: Hook) -> HookGuard<'_> {
        let mut place = lock(&self.hook);
        if self.is_raised() {
            hook();
        }
        place.hook = Some(hook);
        HookGuard { interrupt: self }
    }

    /// Sleeps for `ns`, or until raised; says whether it was.
    pub fn sleep(&self, ns: u64) -> bool {
        let until = clock::now_ns().saturating_add(ns);
        let mut guard = lock(&self.hook);
        while !self.is_raised() && clock::now_ns() < until {
            guard = wait_until(&self.woken, guard, until);
        }
        self.is_raised()
    }
}

/// Takes the hook down when dropped; after that it is not running and will not run.
pub struct HookGuard<'a> {
    interrupt: &'a Interrupt,
}

impl Drop for HookGuard<'_> {
    fn drop(&mut self) {
        lock(&self.interrupt.hook).hook = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn hooks_run_once_and_only_while_they_hang() {
        let calls = Arc::new(AtomicU32::new(0));
        let count = |calls: &Arc<AtomicU32>| {
            let calls = Arc::clone(calls);
            Box::new(move || {
                calls.fetch_add(1, Ordering::SeqCst);
            })
        };
        let interrupt = Interrupt::new();
        drop(interrupt.hook(count(&calls)));
        let guard = interrupt.hook(count(&calls));
        interrupt.raise();
        interrupt.raise();
        drop(guard);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        let _late = interrupt.hook(count(&calls));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_sleeper_wakes_when_raised() {
        let interrupt = Arc::new(Interrupt::new());
        let sleeper = Arc::clone(&interrupt);
        let thread = std::thread::spawn(move || sleeper.sleep(u64::MAX));
        interrupt.raise();
        assert!(thread.join().unwrap());
        assert!(!Interrupt::new().sleep(1000));
    }
}
