//! The end of the process. `exit` takes ONNX Runtime's own globals down while other threads may be inside it, and they would
//! crash; so threads are counted in and out, and at the end nobody gets in any more.

use crate::error::{Error, Result, Status};
use crate::platform::process_generation;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The longest that the end of a process waits for those inside. A run that takes longer goes on into what is taken down.
const PATIENCE: Duration = Duration::from_secs(2);

static INSIDE: AtomicUsize = AtomicUsize::new(0);
static ENDING: AtomicBool = AtomicBool::new(false);
/// The process that uses ONNX Runtime: in the child of a fork nobody is inside, whatever the number says.
static OWNER: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// How often this thread is inside: a host may call `exit` from a function that ONNX Runtime has called.
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// This thread is inside ONNX Runtime.
pub struct Inside(PhantomData<*const ()>);

/// Goes in, unless the process ends.
pub fn enter() -> Result<Inside> {
    INSIDE.fetch_add(1, Ordering::SeqCst);
    HERE.set(HERE.get() + 1);
    let inside = Inside(PhantomData);
    // After the count is up: either the end sees it, or this sees the end.
    if ENDING.load(Ordering::SeqCst) {
        return Err(Error::new(Status::ShutDown, "the process is ending"));
    }
    Ok(inside)
}

impl Drop for Inside {
    fn drop(&mut self) {
        HERE.set(HERE.get() - 1);
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Has the end of the process wait for those inside. What was made before is still there then, so this is called again when ONNX
/// Runtime has made more.
pub fn watch() {
    extern "C" fn at_exit() {
        if OWNER.load(Ordering::Relaxed) != process_generation() {
            return;
        }
        ENDING.store(true, Ordering::SeqCst);
        let began = Instant::now();
        while INSIDE.load(Ordering::SeqCst) > HERE.get() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    OWNER.store(process_generation(), Ordering::Relaxed);
    crate::platform::at_exit(at_exit);
}
