//! Every interleaving of the lock-free parts, up to a bound: `loom` runs the sources themselves, with its own atomics.
//!
//! What is around them in `engine` is modelled here in the same order of steps. A wake-up that is lost shows as a
//! deadlock, and data that somebody reads while another writes it as a race of `UnsafeCell`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

#[path = "../../src/router/attempts.rs"]
#[allow(dead_code)]
mod attempts;
#[path = "../../src/scheduler/bell.rs"]
#[allow(dead_code)]
mod bell;
#[path = "../../src/router/bucket.rs"]
#[allow(dead_code)]
mod bucket;
#[path = "../../src/router/random.rs"]
#[allow(dead_code)]
mod random;
#[path = "../../src/profile/ring.rs"]
#[allow(dead_code)]
mod ring;
#[path = "../../src/scheduler/roster.rs"]
#[allow(dead_code)]
mod roster;
#[path = "../../src/router/sessions.rs"]
#[allow(dead_code)]
mod sessions;
#[path = "../../src/memory/shelves.rs"]
#[allow(dead_code)]
mod shelves;
#[path = "../../src/stack.rs"]
#[allow(dead_code)]
mod stack;
mod sync;

mod batches;
mod completion;
mod lists;
mod pool;
mod relays;
mod residence;
mod routing;
mod spans;
mod wake_ups;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread::JoinHandle;

/// Runs `work` on a thread of its own, which shares `shared`.
fn spawn<T: 'static, R: 'static>(shared: &Arc<T>, work: impl FnOnce(&T) -> R + 'static) -> JoinHandle<R> {
    let shared = Arc::clone(shared);
    loom::thread::spawn(move || work(&shared))
}

fn join<const COUNT: usize>(threads: [JoinHandle<()>; COUNT]) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Data that the protocol under test hands from one thread to another.
struct Data(UnsafeCell<u32>);

// SAFETY: that only one thread at a time uses it is what the models check.
unsafe impl Sync for Data {}
// SAFETY: as above.
unsafe impl Send for Data {}

impl Data {
    #[track_caller]
    fn new(value: u32) -> Self {
        Data(UnsafeCell::new(value))
    }

    #[track_caller]
    fn write(&self, value: u32) {
        // SAFETY: checked by loom.
        self.0.with_mut(|place| unsafe { *place = value });
    }

    #[track_caller]
    fn read(&self) -> u32 {
        // SAFETY: checked by loom.
        self.0.with(|place| unsafe { *place })
    }
}
