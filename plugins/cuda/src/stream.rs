//! A stream of a device, and waiting for what is on it without blocking in the driver.

use crate::device::{Entered, lock};
use crate::driver::{self, Driver, EventHandle, NOT_READY, StreamHandle};
use crate::failure::Result;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How a run is waited for: for so long the event is asked without pause, for so long the core is offered to others in between,
/// and then this thread sleeps so long.
const SPIN: Duration = Duration::from_micros(20);
const YIELD: Duration = Duration::from_micros(200);
const SLEEP: Duration = Duration::from_micros(50);

/// What a stream has done, for health.
#[derive(Default)]
pub struct Use {
    pub busy_ns: AtomicU64,
    pub runs: AtomicU64,
    /// `busy_ns`, and when, at the latest report.
    pub reported: std::sync::Mutex<Option<(u64, Instant)>>,
}

pub struct Stream {
    pub handle: StreamHandle,
    pub generation: u64,
    event: EventHandle,
    usage: Arc<Use>,
    began: Option<Instant>,
}

// SAFETY: the driver's handles may be used by any thread.
unsafe impl Send for Stream {}

impl Stream {
    pub fn new(entered: &Entered<'_>) -> Result<Self> {
        let driver = entered.driver();
        let (mut handle, mut event) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the pointers are valid, and the context is current.
        entered.check(unsafe { driver.stream_create(&raw mut handle, driver::STREAM_NON_BLOCKING) })?;
        // SAFETY: as above.
        if let Err(error) = unsafe { driver.event_create(&raw mut event, driver::EVENT_DISABLE_TIMING) } {
            let failure = entered.failure(error);
            if !error.is_sticky() {
                // SAFETY: it was made just now, and nothing is on it.
                let _ = unsafe { driver.stream_destroy(handle) };
            }
            return Err(failure);
        }
        let usage = Arc::new(Use::default());
        let mut uses = lock(&entered.device.uses);
        uses.retain(|usage| Arc::strong_count(usage) > 1); // of streams that are no more
        uses.push(Arc::clone(&usage));
        drop(uses);
        Ok(Stream { handle, generation: entered.generation, event, usage, began: None })
    }

    /// Does something on the stream and waits until it has ended, well or not: after that nothing reads or writes the memory that
    /// it was about, or the device is lost.
    pub fn work<T>(
        &mut self,
        entered: &Entered<'_>,
        enqueue: impl FnOnce(StreamHandle) -> Result<T>,
    ) -> Result<T> {
        self.began = Some(Instant::now());
        let enqueued = enqueue(self.handle);
        // SAFETY: both are of this generation, in which this thread is.
        let recorded = unsafe { entered.driver().event_record(self.event, self.handle) };
        let waited = match recorded {
            Ok(()) => self.wait(entered),
            Err(error) => Err(error),
        };
        let ended = match waited {
            Ok(()) => Ok(()),
            Err(error) if error.is_sticky() => Err(entered.failure(error)),
            // The event is of no help: so much the worse for the time it takes, but what is under way must end.
            Err(error) => {
                // SAFETY: as above.
                match unsafe { entered.driver().stream_synchronize(self.handle) } {
                    Ok(()) => Err(entered.failure(error)),
                    Err(worse) => Err(entered.give_up(&entered.driver().explain(worse))),
                }
            }
        };
        if let Some(began) = self.began.take() {
            self.usage.busy_ns.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
            self.usage.runs.fetch_add(1, Ordering::Relaxed);
        }
        let value = enqueued?;
        ended.map(|()| value)
    }

    fn wait(&self, entered: &Entered<'_>) -> driver::Checked {
        let began = Instant::now();
        loop {
            // SAFETY: the event is of this generation, in which this thread is.
            match unsafe { entered.driver().event_query(self.event) } {
                Err(error) if error.code == NOT_READY => {}
                done => return done,
            }
            match began.elapsed() {
                waited if waited < SPIN => std::hint::spin_loop(),
                waited if waited < YIELD => std::thread::yield_now(),
                _ => std::thread::sleep(SLEEP),
            }
        }
    }

    /// Takes it off the device; nothing is on it, and its context is current. One that is only dropped is gone already, with its
    /// context.
    pub fn destroy(self, driver: &Driver) {
        // SAFETY: promised by the caller.
        unsafe {
            let _ = driver.event_destroy(self.event);
            let _ = driver.stream_destroy(self.handle);
        }
    }
}
