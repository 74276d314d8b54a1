//! Which process this is, as far as forks go: what was made before a fork is of no use in the child, where the threads that
//! belong to it are gone, and locks that they held stay locked for ever.

use std::sync::atomic::{AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Changes with every fork, in the child. It counts from the first call of `watch_forks` on.
#[inline]
pub fn process_generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Has forks counted from now on. (Not vfork and posix_spawn, whose children do not get to call anything.)
pub fn watch_forks() {
    #[cfg(unix)]
    {
        extern "C" fn in_the_child() {
            GENERATION.fetch_add(1, Ordering::Relaxed);
        }
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            // SAFETY: the function is there as long as the library is, which stays once it is loaded; all that it does is
            // fit for the child of a fork. Without memory for the entry forks are not noticed.
            unsafe { libc::pthread_atfork(None, None, Some(in_the_child)) };
        });
    }
}
