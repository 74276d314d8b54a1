//! The crew: as many threads as batches may be computed at once, which serve all models that compute on this machine's
//! cores. However many models are loaded, no more threads than that are awake, and none of them belongs to one model.

use super::execute::execute;
use super::lifecycle::Core;
use super::model::Model;
use super::queue::Alarm;
use crate::clock::now_ns;
use crate::error::Result;
use crate::platform;
use crate::scheduler::jobs::spawn;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock};
use std::sync::Arc;
use std::thread::JoinHandle;

pub struct Crew {
    size: usize,
    alarm: Arc<Alarm>,
    models: Mutex<Vec<Arc<Model>>>,
    /// Changes with `models`, to look at without the lock.
    version: AtomicU64,
    stopped: AtomicBool,
    threads: Mutex<Vec<(JoinHandle<()>, Arc<AtomicU64>)>>,
}

/// What a thread has seen of the models, while it computes.
const BUSY: u64 = u64::MAX;

impl Crew {
    pub fn new(size: usize) -> Self {
        Crew {
            size,
            alarm: Arc::default(),
            models: Mutex::default(),
            version: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            threads: Mutex::default(),
        }
    }

    /// What rings when one of the crew's models has work.
    pub fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }

    /// Serves a model from now on. The threads start with the first.
    pub fn add(&self, core: &Arc<Core>, model: &Arc<Model>) -> Result<()> {
        let mut threads = lock(&self.threads);
        while threads.len() < self.size {
            let core = Arc::clone(core);
            let seen = Arc::new(AtomicU64::new(BUSY));
            let own = Arc::clone(&seen);
            let thread = spawn(&format!("blaze-{}", threads.len()), move || core.crew.work(&core, &own));
            match thread {
                Ok(thread) => threads.push((thread, seen)),
                Err(error) if threads.is_empty() => return Err(error),
                Err(_) => break, // fewer will do
            }
        }
        self.change(|models| models.push(Arc::clone(model)));
        Ok(())
    }

    /// Serves a model no more. Threads that compute just now may keep it until they are done with that.
    pub fn remove(&self, model: &Model) {
        self.change(|models| models.retain(|other| !std::ptr::eq(&**other, model)));
        let version = self.version.load(Ordering::SeqCst);
        for (_, seen) in lock(&self.threads).iter() {
            while seen.load(Ordering::SeqCst) < version {
                std::thread::yield_now(); // it was woken, and is about to look
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Model>>)) {
        change(&mut lock(&self.models));
        self.version.fetch_add(1, Ordering::SeqCst);
        self.alarm.bell.ring_all();
    }

    /// As many batches are computed at once.
    pub fn size(&self) -> usize {
        self.size
    }

    /// CPU time of the threads, by their name.
    pub fn cpu_ns(&self) -> Vec<(String, u64)> {
        platform::threads_cpu_ns(lock(&self.threads).iter().map(|(thread, _)| thread))
    }

    /// Ends the threads. Only when there are no models any more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.alarm.bell.ring_all();
        for (thread, _) in std::mem::take(&mut *lock(&self.threads)) {
            let _ = thread.join(); // they do not panic
        }
    }

    /// Of the models that have work the one goes first that has computed least.
    fn work(&self, core: &Arc<Core>, seen_by_others: &AtomicU64) {
        let mut seen = BUSY;
        let mut models: Vec<Arc<Model>> = Vec::new();
        self.alarm.look();
        loop {
            let version = self.version.load(Ordering::SeqCst);
            if version != seen {
                models.clone_from(&lock(&self.models));
                seen = version;
            }
            if seen_by_others.load(Ordering::Relaxed) != seen {
                seen_by_others.store(seen, Ordering::SeqCst);
            }
            let ready = models.iter().filter(|model| model.queue.is_ready());
            if let Some(model) = ready.min_by_key(|model| model.queue.share.computed_ns()) {
                let queue = &model.queue;
                if let Some((index, pass)) = queue.take(core.gate_of(model), &core.spinning) {
                    self.alarm.look_away();
                    if self.alarm.bell.sleepers() > 0 && models.iter().any(|model| model.queue.is_ready()) {
                        self.alarm.ring(); // there is work for another thread
                    }
                    seen_by_others.store(BUSY, Ordering::SeqCst);
                    let active = core.spinning.compute();
                    execute(core, model, index);
                    drop(active);
                    drop(pass);
                    // Before the model has its place back: this thread sees what has come for it.
                    self.alarm.look();
                    queue.finished();
                }
                continue;
            }
            if self.stopped.load(Ordering::SeqCst) {
                self.alarm.look_away();
                return;
            }
            let awake = || {
                models.iter().any(|model| model.queue.is_ready())
                    || self.version.load(Ordering::SeqCst) != seen
                    || self.stopped.load(Ordering::SeqCst)
            };
            let since = now_ns();
            self.alarm.wait(
                &core.spinning,
                &core.rest(),
                awake,
                || models.iter().any(|model| model.queue.has_spare()),
                || models.iter().for_each(|model| model.queue.give_back()),
            );
            let waited = now_ns() - since;
            models.iter().for_each(|model| model.queue.forget(waited));
        }
    }
}
