//! Background jobs, such as loading a model: each on a thread of its own, or in turn on the host's thread.

use crate::error::{Error, Result, Status};
use crate::platform::block_signals;
use crate::sync::{Mutex, lock};
use std::collections::VecDeque;
use std::sync::Arc;
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

    /// Starts or queues a job, or gives it back if the system has no thread for it. A job must not panic.
    pub fn start(&self, name: &str, job: Job) -> Result<(), (Error, Job)> {
        if !self.threaded {
            lock(&self.waiting).push_back(job);
            return Ok(());
        }
        let mut threads = lock(&self.threads);
        // Those that have ended are waited for, though there is little left of them: no thread is to outlive its engine.
        for ended in threads.extract_if(.., |thread| thread.is_finished()) {
            let _ = ended.join();
        }
        // A thread that cannot be started drops its closure, and the job must not be lost with it.
        let job = Arc::new(Mutex::new(Some(job)));
        let taken = Arc::clone(&job);
        let run = move || {
            let job = lock(&taken).take();
            if let Some(job) = job {
                job();
            }
        };
        match spawn(name, run) {
            Ok(thread) => {
                threads.push(thread);
                Ok(())
            }
            Err(error) => {
                let job = lock(&job).take();
                job.map_or(Ok(()), |job| Err((error, job)))
            }
        }
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
    // The host's signals are for the host's threads.
    let _blocked = block_signals();
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(|error| {
        Error::new(Status::OutOfMemory, format!("cannot start the thread {name:?}: {error}"))
    })
}
