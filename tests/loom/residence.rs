//! A model that leaves memory while a request comes: whoever submits, evicts or reloads sees to it that it is run.

use crate::bell::Bell;
use crate::sync::{AtomicBool, AtomicU32, Ordering, Seen, explore};
use crate::{Data, join, spawn};
use loom::sync::{Arc, Mutex};

const AWAY: u32 = 1 << 31;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stay {
    Resident,
    Evicting,
    Evicted,
    Reloading,
}

/// As `Queue`, `Residence` and `Core`, of a model with one lane.
struct Model {
    waiting: AtomicU32,
    /// Batches that run, and `AWAY`. Loom's numbers have no `fetch_or`: whoever sets the bit is alone in that.
    running: AtomicU32,
    dispatch: Mutex<()>,
    away: AtomicBool,
    stay: Mutex<Stay>,
    looking: AtomicU32,
    bell: Bell,
    /// What is read to run a batch, and written by who evicts and reloads: 1 while the model is in memory.
    backend: Data,
    reloads: AtomicU32,
}

impl Model {
    fn resident() -> Arc<Self> {
        Arc::new(Model {
            waiting: AtomicU32::new(0),
            running: AtomicU32::new(0),
            dispatch: Mutex::new(()),
            away: AtomicBool::new(false),
            stay: Mutex::new(Stay::Resident),
            looking: AtomicU32::new(0),
            bell: Bell::default(),
            backend: Data::new(1),
            reloads: AtomicU32::new(0),
        })
    }

    fn evicted() -> Arc<Self> {
        let model = Self::resident();
        model.running.store(AWAY, Ordering::SeqCst);
        model.away.store(true, Ordering::SeqCst);
        *model.stay.lock().unwrap() = Stay::Evicted;
        model.backend.write(0);
        model
    }

    fn has_work(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    fn has_place(&self) -> bool {
        self.running.load(Ordering::SeqCst) == 0
    }

    fn is_ready(&self) -> bool {
        self.has_work() && self.has_place()
    }

    /// As `Core::submit`: claims, announces, and looks whether the model is away.
    fn submit(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if self.looking.load(Ordering::SeqCst) == 0 && self.has_place() {
            self.bell.ring();
        }
        if self.away.load(Ordering::SeqCst) {
            self.fetch_back();
        }
    }

    /// As `Core::fetch_back` and `Core::reload`; the thread that it starts is this one.
    fn fetch_back(&self) {
        if !self.change(Stay::Evicted, Stay::Reloading) {
            return;
        }
        self.backend.write(1);
        self.reloads.fetch_add(1, Ordering::Relaxed);
        assert!(self.change(Stay::Reloading, Stay::Resident));
        self.come_back();
    }

    fn come_back(&self) {
        self.away.store(false, Ordering::SeqCst);
        self.running.fetch_sub(AWAY, Ordering::SeqCst);
        if self.has_work() && self.looking.load(Ordering::SeqCst) == 0 {
            self.bell.ring();
        }
    }

    /// As `Core::reload_failed`: what waits fails, and who comes later is tried again.
    fn fail_to_fetch_back(&self) -> u32 {
        let mut failed = 0;
        while self.change(Stay::Evicted, Stay::Reloading) {
            while self.has_work() {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                failed += 1;
            }
            assert!(self.change(Stay::Reloading, Stay::Evicted));
            if !self.has_work() {
                break;
            }
        }
        failed
    }

    fn change(&self, from: Stay, to: Stay) -> bool {
        let mut stay = self.stay.lock().unwrap();
        let changes = *stay == from;
        if changes {
            *stay = to;
        }
        changes
    }

    /// As `Core::evict`. With `patient`, a run that does not end keeps the model.
    fn evict(&self, though_wanted: bool, patient: bool) {
        {
            let mut stay = self.stay.lock().unwrap();
            let _dispatch = self.dispatch.lock().unwrap();
            let running = self.running.load(Ordering::SeqCst);
            let busy = running > 0 || self.has_work();
            if *stay != Stay::Resident || running & AWAY != 0 || (busy && !though_wanted) {
                return;
            }
            self.running.fetch_add(AWAY, Ordering::SeqCst);
            *stay = Stay::Evicting;
            self.away.store(true, Ordering::SeqCst);
        }
        while self.running.load(Ordering::SeqCst) != AWAY {
            if !patient {
                assert!(self.change(Stay::Evicting, Stay::Resident));
                return self.come_back();
            }
            loom::thread::yield_now();
        }
        self.backend.write(0);
        assert!(self.change(Stay::Evicting, Stay::Evicted));
        if self.has_work() {
            self.fetch_back();
        }
    }

    /// As `Queue::next`, `execute` and `Queue::finished`: runs one request.
    fn run_one(&self) {
        self.looking.fetch_add(1, Ordering::SeqCst);
        loop {
            if self.is_ready() {
                if self.try_take() {
                    break;
                }
                continue;
            }
            self.looking.fetch_sub(1, Ordering::SeqCst);
            self.bell.sleep(u64::MAX, || self.is_ready());
            self.looking.fetch_add(1, Ordering::SeqCst);
        }
        self.looking.fetch_sub(1, Ordering::SeqCst);
        self.run_taken();
    }

    fn try_take(&self) -> bool {
        let _dispatch = self.dispatch.lock().unwrap();
        let takes = self.is_ready();
        if takes {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            self.running.fetch_add(1, Ordering::SeqCst);
        }
        takes
    }

    fn run_taken(&self) {
        assert_eq!(self.backend.read(), 1);
        self.running.fetch_sub(1, Ordering::SeqCst);
        if self.has_work() && self.looking.load(Ordering::SeqCst) == 0 && self.has_place() {
            self.bell.ring();
        }
    }

    fn assert_settled(&self) {
        let stay = *self.stay.lock().unwrap();
        let (away, running) = (self.away.load(Ordering::SeqCst), self.running.load(Ordering::SeqCst));
        assert!(!self.has_work());
        match stay {
            Stay::Resident => assert!(!away && running == 0),
            _ => assert!(stay == Stay::Evicted && away && running == AWAY),
        }
    }
}

fn a_request_is_run(though_wanted: bool, patient: bool) {
    explore(Seen::AsOrdered, 3, move || {
        let model = Model::resident();
        let submitter = spawn(&model, |model| model.submit());
        let evictor = spawn(&model, move |model| model.evict(though_wanted, patient));
        model.run_one();
        join([submitter, evictor]);
        model.assert_settled();
    });
}

#[test]
fn a_request_is_run_though_its_idle_model_is_evicted() {
    a_request_is_run(false, true);
}

#[test]
fn a_request_is_run_though_its_busy_model_is_evicted() {
    a_request_is_run(true, true);
}

#[test]
fn a_request_is_run_though_an_eviction_is_given_up() {
    a_request_is_run(true, false);
}

/// Without fences, which would hide that a lane reads what is being evicted; and so without sleep.
#[test]
fn a_lane_has_the_backend_to_itself_while_it_runs() {
    explore(Seen::AsLate, 3, || {
        let model = Model::resident();
        model.waiting.store(1, Ordering::SeqCst);
        let evictor = spawn(&model, |model| model.evict(true, true));
        while !model.try_take() {
            loom::thread::yield_now();
        }
        model.run_taken();
        evictor.join().unwrap();
        model.assert_settled();
    });
}

#[test]
fn one_of_two_submitters_fetches_the_model_back() {
    explore(Seen::AsOrdered, 2, || {
        let model = Model::evicted();
        let submitters = [(); 2].map(|()| spawn(&model, |model| model.submit()));
        model.run_one();
        model.run_one();
        join(submitters);
        assert_eq!(model.reloads.load(Ordering::Relaxed), 1);
        model.assert_settled();
    });
}

#[test]
fn of_two_who_evict_one_does() {
    explore(Seen::AsOrdered, 2, || {
        let model = Model::resident();
        let evictors = [(); 2].map(|()| spawn(&model, |model| model.evict(true, true)));
        model.submit();
        model.run_one();
        join(evictors);
        model.assert_settled();
    });
}

/// No request is left behind by a reload that fails while it comes.
#[test]
fn a_request_fails_with_its_reload() {
    explore(Seen::AsOrdered, 3, || {
        let model = Model::evicted();
        model.waiting.store(1, Ordering::SeqCst);
        let other = spawn(&model, |model| {
            model.waiting.fetch_add(1, Ordering::SeqCst);
            if model.away.load(Ordering::SeqCst) { model.fail_to_fetch_back() } else { 0 }
        });
        let failed = model.fail_to_fetch_back() + other.join().unwrap();
        assert_eq!(failed, 2);
        model.assert_settled();
    });
}
