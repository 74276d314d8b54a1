//! Background jobs, such as loading a model: each on a thread of its own, or in turn on the host's thread.

use crate::error::{Error, Result, Status};
use crate::sync::{Mutex, lock};
use std::collections::VecDeque;
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// An engine's jobs.
pub struct Jobs {
    threaded: bool,
    waiting: Mutex<VecDeque<Job>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Jobs {
    /// With `threaded`, jobs start at once; without, they wait for `run_one`.
    pub fn new(threaded: bool) -> Self {
        Jobs { threaded, waiting: Mutex::default(), threads: Mutex::default() }
    }

    /// Starts or queues a job. A job must not panic.
    pub fn start(&self, name: &str, job: Job) -> Result<()> {
        if !self.threaded {
            lock(&self.waiting).push_back(job);
            return Ok(());
        }
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(spawn(name, job)?);
        Ok(())
    }

    /// Runs the oldest queued job on this thread; false if there is none.
    pub fn run_one(&self) -> bool {
        let job = lock(&self.waiting).pop_front();
        job.map(|job| job()).is_some()
    }

    /// Waits for the threads, and runs what is still queued.
    pub fn finish(&self) {
        while self.run_one() {}
        loop {
            let threads = std::mem::take(&mut *lock(&self.threads));
            if threads.is_empty() {
                return;
            }
            for thread in threads {
                let _ = thread.join(); // a job does not panic
            }
        }
    }
}

/// Starts a thread, or says that there is none to be had.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(|error| {
        Error::new(Status::OutOfMemory, format!("cannot start the thread {name:?}: {error}"))
    })
}
