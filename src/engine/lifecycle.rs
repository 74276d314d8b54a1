//! The engine's life: creation, submitting, working, shutting down, and the end of every thread.

use super::backends::Plugged;
use super::completion::CompletionQueue;
use super::crew::Crew;
use super::device_room::DeviceEvictor;
use super::event::Event;
use super::execute::c_text;
use super::health::HealthCache;
use super::history::History;
use super::line::{Key, Kind, Line};
use super::load::{self, Order};
use super::logging::new_logger;
use super::model::Model;
use super::models::Models;
use super::observer::Observer;
use super::queue::Rest;
use super::room::Evictor;
use super::routes::Routes;
use super::table::Table;
use super::tuning::Tuning;
use super::unload::Leaving;
use super::versions::Versions;
use super::warden::Warden;
use super::{ModelId, Ticket};
use crate::backend::{self, Devices, Interrupt};
use crate::clock::now_ns;
use crate::config::{EngineConfig, ModelConfig};
use crate::error::{Error, Result, Status};
use crate::features::{PLUGINS, PROFILER, ROUTER};
use crate::log::Logger;
use crate::memory::{HostSpace, Ledger, Pool, Space};
use crate::metrics::{Fleet, Metrics};
use crate::panics::catch;
use crate::platform;
use crate::router::Tenants;
use crate::scheduler::gate::Gate;
use crate::scheduler::jobs::{Jobs, spawn};
use crate::scheduler::spin::{Spinning, measure_wake_up_ns};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, lock};
use std::ffi::CString;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;

/// What the engine's threads share.
pub struct Core {
    pub config: EngineConfig,
    pub logger: Logger,
    pub metrics: Arc<Metrics>,
    pub ledger: Arc<Ledger>,
    /// Where tensors and batches have their memory.
    pub pool: Arc<Pool>,
    /// What backends have of their devices' memory.
    pub devices: Arc<Devices>,
    pub table: Arc<Table>,
    pub models: Models,
    pub routes: Routes,
    pub warden: Arc<Warden>,
    pub observer: Observer,
    pub health_cache: HealthCache,
    pub leaving: Leaving,
    /// How many batches are computed at once.
    gate: Gate,
    /// For models that do not compute on this machine's cores.
    free_gate: Gate,
    pub spinning: Spinning,
    /// Of this machine.
    pub cores: usize,
    pub crew: Crew,
    /// Sessions that models of the same file share.
    pub sessions: backend::Sessions,
    pub backends: backend::Backends,
    /// What became of the configuration's plugins.
    pub plugged: Mutex<Vec<Plugged>>,
    /// How many models are loaded at once.
    pub loads: Gate,
    /// What loads that are under way take, if it can be evicted afterwards.
    pub loading_bytes: Arc<AtomicU64>,
    /// How many of them there are, and models that are about to go.
    pub underway_count: Arc<AtomicU32>,
    /// Somebody makes room.
    pub relieving: AtomicBool,
    pub history: History,
    pub tuning: Tuning,
    pub repository: Versions,
    pub jobs_line: Arc<Line>,
    pub(super) jobs: Jobs,
    /// The thread that expires requests; started with the first deadline.
    keeper: Mutex<Option<JoinHandle<()>>>,
    keeper_runs: AtomicBool,
    stopped: AtomicBool,
    /// When `pump` last had something to do.
    pub(super) worked_ns: AtomicU64,
    /// Which model `pump` looks at first, so that all get their turn.
    pub(super) turn: AtomicUsize,
    /// The largest count of accepted requests that was reported: a counter never falls.
    pub most_accepted: AtomicU64,
}

/// What a load has come to.
struct Loaded {
    id: ModelId,
    /// It is the repository's, and stays whether or not the load is cancelled.
    is_served: bool,
}

/// An engine. Dropping it resolves every request, ends every thread and frees everything.
pub struct Engine {
    core: Arc<Core>,
}

/// A completion queue of an engine. It may outlive the engine.
pub struct Queue {
    completion: Arc<CompletionQueue>,
    table: Arc<Table>,
    core: Weak<Core>,
}

impl Engine {
    /// Makes an engine and loads the models that its configuration names.
    pub fn new(config: EngineConfig) -> Result<Engine> {
        Engine::with_space(config, Box::new(HostSpace))
    }

    /// As `new`; tensors are in memory from `space`.
    pub fn with_space(mut config: EngineConfig, space: Box<dyn Space>) -> Result<Engine> {
        // Before anything notes which process it is of.
        platform::watch_forks();
        let models = std::mem::take(&mut config.models);
        let routes = std::mem::take(&mut config.routes);
        let tenants = Tenants::new(&config.tenants)?;
        let logger = new_logger(&config.log)?;
        let fleet = Fleet::new(config.metrics.histograms);
        let metrics = Arc::new(Metrics { fleet, ..Metrics::default() });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let intra_op_threads = config.onnxruntime.intra_op_threads as usize;
        let limit = match config.threads {
            Some(0) => None,
            Some(threads) => Some(threads as usize),
            None => Some((cores / intra_op_threads).max(1)),
        };
        let threaded = config.threads != Some(0);
        let ledger = Ledger::new(config.memory.budget_bytes);
        let pool = Pool::new(Arc::clone(&ledger), space);
        let core = Arc::new(Core {
            logger,
            pool,
            ledger,
            devices: Devices::new(config.memory.devices.clone(), config.memory.pool_bytes),
            table: Table::new(config.queue.capacity, Arc::clone(&metrics), tenants),
            metrics,
            models: Models::new(),
            routes: Routes::default(),
            warden: Arc::default(),
            observer: Observer::default(),
            health_cache: HealthCache::default(),
            leaving: Leaving::default(),
            crew: Crew::new(limit.unwrap_or(0)),
            gate: Gate::new(limit),
            free_gate: Gate::new(None),
            cores,
            spinning: Spinning::new(cores, wake_up_ns(threaded)),
            sessions: backend::Sessions::default(),
            backends: backend::Backends::default(),
            plugged: Mutex::default(),
            loads: Gate::new(Some(config.loading.concurrency as usize)),
            loading_bytes: Arc::default(),
            underway_count: Arc::default(),
            relieving: AtomicBool::new(false),
            history: History::default(),
            tuning: Tuning::default(),
            repository: Versions::default(),
            jobs_line: Line::new(
                Kind::Jobs,
                Key::new(),
                None,
                &Arc::default(),
                &Arc::default(),
                None,
                &Arc::default(),
            ),
            jobs: Jobs::new(threaded),
            keeper: Mutex::default(),
            keeper_runs: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            worked_ns: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            most_accepted: AtomicU64::new(0),
            config,
        });
        core.tune_heap();
        core.ledger.set_relief(Box::new(Evictor(Arc::downgrade(&core))));
        core.pool.set_limit(core.config.memory.pool_bytes);
        if PLUGINS.built {
            core.devices.set_maker(Box::new(DeviceEvictor(Arc::downgrade(&core))));
        }
        let engine = Engine { core };
        if PROFILER.built
            && let Some(profile) = &engine.core.config.profile
        {
            engine.profile_start(profile.clone());
        }
        engine.core.open_plugins()?;
        for (index, model) in models.into_iter().enumerate() {
            engine.load(model, None).map_err(|error| error.within(format!("models[{index}]")))?;
        }
        engine.core.open_repository()?;
        for (index, route) in routes.into_iter().enumerate().filter(|_| ROUTER.built) {
            let made = engine.core.create_route(route);
            made.map_err(|error| error.within(format!("routes[{index}]")))?;
        }
        engine.core.start_tuning();
        Ok(engine)
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Makes a completion queue with room for `capacity` events.
    pub fn create_queue(&self, capacity: u32) -> Result<Queue> {
        if !(1..=CompletionQueue::MAX_CAPACITY).contains(&capacity) {
            return Err(Error::new(
                Status::InvalidArgument,
                format!("capacity: {capacity} is not from 1 to {}", CompletionQueue::MAX_CAPACITY),
            ));
        }
        if self.core.table.is_closed() {
            return Err(Error::shut_down());
        }
        let (completion, table) = (self.core.table.new_queue(capacity), Arc::clone(&self.core.table));
        if table.is_closed() {
            completion.close(); // a shutdown meanwhile may not have seen it
        }
        Ok(Queue { completion, table, core: Arc::downgrade(&self.core) })
    }

    /// Loads a model, from `bytes` or from its configured path.
    pub fn load(&self, config: ModelConfig, bytes: Option<&[u8]>) -> Result<ModelId> {
        let order = Order { interrupt: &Interrupt::new(), progress: &|_| (), watch: None };
        self.core.load(config, bytes, &order).map(|loaded| loaded.id)
    }

    /// Loads a model in the background; the event on `queue` carries its handle.
    pub fn load_async(&self, config: ModelConfig, queue: &Queue, user_data: u64) -> Result<Ticket> {
        let (ticket, index) = self.core.open_job(queue, user_data, None)?;
        self.core.start_work("blaze-job", move |core| {
            let tells = config.progress;
            let progress = |stage| {
                if tells {
                    core.table.tell_progress(index, stage);
                }
            };
            // The job's batch is held until the job is completed.
            let order = Order { interrupt: core.table.interrupt(index), progress: &progress, watch: None };
            let result = catch(|| core.load(config, None, &order));
            let loaded = result.as_ref().ok().filter(|loaded| !loaded.is_served).map(|loaded| loaded.id);
            if !core.complete_job(index, result.map(|loaded| (loaded.id, None)))
                && let Some(model) = loaded.and_then(|id| core.models.release(id))
            {
                core.unload(&model); // cancelled in the last moment: nobody knows its handle
            }
        });
        Ok(ticket)
    }

    /// The model called `name:version`, or the newest version of `name`.
    pub fn find(&self, name: &str) -> Result<ModelId> {
        self.core.routes.find(name).map_or_else(|| self.core.models.find(name), Ok)
    }

    /// Unloads a model after the requests that it has; waits for them. Returns the receipt, as JSON.
    pub fn unload(&self, id: ModelId) -> Result<String> {
        let leaving = self.core.take_out(id)?;
        Ok(self.core.unload_all(&leaving).to_string())
    }

    /// Unloads a model after the requests that it has, in the background. Its handle is stale at once. The event's text
    /// is the receipt.
    pub fn unload_async(&self, id: ModelId, queue: &Queue) -> Result<Ticket> {
        let (ticket, index) = self.core.open_job(queue, 0, Some(id))?;
        let leaving = self.core.take_out(id).inspect_err(|_| {
            self.core.withdraw_job(index);
        })?;
        self.core.start_work("blaze-job", move |core| {
            let result = catch(|| Ok((id, c_text(core.unload_all(&leaving).to_string()))));
            core.complete_job(index, result);
        });
        Ok(ticket)
    }

    /// Changes `memory.budget_bytes`; `None`: no limit. Models that do not fit any more leave memory.
    pub fn set_budget(&self, limit: Option<u64>) {
        self.core.set_budget(limit);
    }

    /// Gives back what is kept for later: idle buffers, spare batches, free pages of the heap.
    pub fn trim(&self) {
        self.core.models.each(|model| model.queue.give_all_back());
        self.core.pool.trim(0);
        self.core.devices.trim();
        self.core.give_back_heap();
    }

    /// Resolves a request as cancelled, unless it is resolved already.
    pub fn cancel(&self, ticket: Ticket) -> Result<()> {
        if self.core.table.resolve_early(ticket, Status::Cancelled) {
            return Ok(());
        }
        Err(Error::new(Status::NotFound, "the request has ended, or there never was one with this ticket"))
    }

    /// Takes no more requests in, gives those there are `drain_ns` to end, and resolves the rest.
    pub fn shutdown(&self, drain_ns: u64) {
        let core = &self.core;
        core.table.close();
        core.models.close();
        core.routes.close();
        let until = now_ns().saturating_add(drain_ns);
        if core.config.threads == Some(0) {
            while core.table.unresolved(None, false) > 0 && now_ns() < until && core.pump_one() {}
        }
        core.table.wait_settled(until);
        core.table.resolve_all(Status::ShutDown);
        core.models.each(|model| model.residence.interrupt.raise());
        core.leaving.give_up();
        core.repository.interrupt.raise();
        core.table.all_queues().iter().for_each(|queue| queue.close());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shutdown(0);
        self.core.tuning.stop();
        self.core.close_repository();
        self.core.warden.stop();
        self.core.observer.stop();
        self.core.jobs.finish();
        for (id, _) in self.core.models.all() {
            if let Ok(model) = self.core.models.remove(id) {
                self.core.unload(&model);
            }
        }
        self.core.jobs.finish(); // what the unloads have begun
        self.core.table.spans.end();
        self.core.crew.stop();
        self.core.drop_routes();
        self.core.backends.close();
        self.core.jobs_line.retire(&self.core.table);
        self.core.stopped.store(true, Ordering::SeqCst);
        self.core.table.keeper.ring_all();
        if let Some(keeper) = lock(&self.core.keeper).take() {
            let _ = keeper.join(); // the keeper does not panic
        }
        self.core.logger.close();
    }
}

/// What waking a thread costs on this machine; measured once, when the first engine with threads is made.
fn wake_up_ns(threaded: bool) -> u64 {
    static COST: OnceLock<u64> = OnceLock::new();
    if threaded { *COST.get_or_init(measure_wake_up_ns) } else { 0 }
}

impl Core {
    /// Does something in the background; on this thread, if the system has no thread to give. The host's thread does
    /// it in an engine without threads.
    pub fn start_work(self: &Arc<Self>, name: &str, work: impl FnOnce(&Arc<Core>) + Send + 'static) {
        let weak = Arc::downgrade(self);
        let work = Box::new(move || {
            if let Some(core) = weak.upgrade() {
                work(&core);
            }
        });
        if let Err((error, work)) = self.jobs.start(name, work) {
            self.logger.warn("jobs", format_args!("{name} runs on the caller's thread: {error}"));
            work();
        }
    }

    /// Loads a model, from the repository if that is what its configuration means. Also returns whether it is the
    /// caller's alone.
    fn load(
        self: &Arc<Self>,
        mut config: ModelConfig,
        bytes: Option<&[u8]>,
        order: &Order<'_>,
    ) -> Result<Loaded> {
        config.progress = false; // is about this load, not about the model
        if self.routes.find(&config.name).is_some() {
            let text = format!("there is a route {:?}, which is found by its name like a model", config.name);
            return Err(Error::new(Status::AlreadyExists, text));
        }
        if bytes.is_none()
            && let Some(id) = self.load_from_repository(&config, order)?
        {
            return Ok(Loaded { id, is_served: true });
        }
        config.version.get_or_insert(1);
        let id = load::load(self, config, bytes, order)?;
        Ok(Loaded { id, is_served: false })
    }

    /// Without this a process may take twice what the ledger says, while models come and go.
    pub fn tune_heap(&self) {
        if self.config.memory.tune_heap.unwrap_or(self.ledger.limit().is_some()) {
            platform::keep_large_blocks_apart();
        }
    }

    /// What to do when there is nothing to do.
    pub fn rest(&self) -> Rest<'_> {
        let after_ns = u64::from(self.config.memory.idle_ms) * 1_000_000;
        Rest { pool: &self.pool, devices: &self.devices, after_ns }
    }

    /// Waits a moment, in the background; whether that is pointless, because nobody else works meanwhile or the engine
    /// is shut down. On a thread of the host's, works meanwhile.
    pub fn pause(self: &Arc<Self>, ns: u64) -> bool {
        let pointless = match self.config.threads {
            Some(0) => !self.run_batch(),
            _ => {
                std::thread::sleep(std::time::Duration::from_nanos(ns));
                false
            }
        };
        pointless || self.table.is_closed()
    }

    /// The gate that a model's batches go through.
    pub fn gate_of(&self, model: &Model) -> &Gate {
        if model.gated { &self.gate } else { &self.free_gate }
    }

    /// A gate that lets everybody through.
    pub fn free_gate(&self) -> &Gate {
        &self.free_gate
    }

    /// Whether a backend's models share the threads and the places to compute. Those that compute elsewhere need not,
    /// unless the host has said how many threads there are.
    pub fn serves(&self, backend: &dyn backend::Model) -> bool {
        self.config.threads.is_some() || backend.computes_on_cpu()
    }

    /// Takes note of a deadline, and sees that somebody watches the clock.
    pub fn note_deadline(self: &Arc<Self>, batch: &super::batch::Batch, deadline_ns: u64) {
        self.table.lower_deadline(batch, deadline_ns);
        if !self.keeper_runs.load(Ordering::Acquire) {
            self.start_keeper();
        }
    }

    #[cold]
    fn start_keeper(self: &Arc<Self>) {
        if self.config.threads == Some(0) || self.keeper_runs.swap(true, Ordering::AcqRel) {
            return;
        }
        let core = Arc::clone(self);
        let thread = spawn("blaze-deadlines", move || {
            let table = &core.table;
            while !core.stopped.load(Ordering::SeqCst) {
                let until = table.expire(now_ns());
                let earlier = || table.next_deadline_ns() < until || core.stopped.load(Ordering::SeqCst);
                table.keeper.sleep(until, earlier);
            }
        });
        match thread {
            Ok(thread) => *lock(&self.keeper) = Some(thread),
            // Deadlines still act, but only when a lane or the host looks.
            Err(error) => self.logger.error("deadlines", format_args!("{error}")),
        }
    }

    /// Ends a job, whose event names the model that it was about, and may have a text. False if it was resolved before.
    pub fn complete_job(&self, index: u32, result: Result<(ModelId, Option<CString>)>) -> bool {
        let won =
            self.table.complete_job(index, result.map_err(|error| (error.status, c_text(error.message))));
        self.table.let_go(index, 1);
        self.table.batch_is_done();
        won
    }

    /// Waits for events; on an engine without threads, works meanwhile.
    pub(super) fn wait_events(
        self: &Arc<Self>,
        completion: &CompletionQueue,
        limit: usize,
        until_ns: u64,
        take: &mut dyn FnMut(Event),
    ) -> usize {
        let Some(consumer) = completion.enter(&self.table) else { return 0 };
        if self.config.threads != Some(0) {
            let count = consumer.wait(limit, until_ns, &self.spinning, take);
            if count == 0 {
                completion.take_wake();
            }
            return count;
        }
        loop {
            let count = consumer.poll(limit, &mut *take);
            if count > 0 || completion.take_wake() || now_ns() >= until_ns || completion.is_over() {
                return count;
            }
            if !self.pump_one() {
                // Nothing to do here: another thread of the host's may be at work, or a deadline comes.
                let slice = now_ns().saturating_add(1_000_000);
                let until = until_ns.min(self.table.next_deadline_ns()).min(slice);
                let count = consumer.wait(limit, until, &self.spinning, &mut *take);
                if count > 0 {
                    return count;
                }
            }
        }
    }
}

impl Queue {
    /// Takes up to `limit` events without waiting.
    pub fn poll(&self, limit: usize, take: impl FnMut(Event)) -> usize {
        self.completion.enter(&self.table).map_or(0, |consumer| consumer.poll(limit, take))
    }

    /// Takes up to `limit` events; waits for the first one at most `timeout_ns`. On an engine without threads
    /// it works meanwhile.
    pub fn wait(&self, limit: usize, timeout_ns: u64, mut take: impl FnMut(Event)) -> usize {
        // What is there already needs neither a clock nor an engine.
        let count = self.poll(limit, &mut take);
        if count > 0 || limit == 0 {
            return count;
        }
        let until = now_ns().saturating_add(timeout_ns);
        match self.core.upgrade() {
            Some(core) => core.wait_events(&self.completion, limit, until, &mut take),
            None => 0, // what there was has come with the engine's end
        }
    }

    pub(super) fn completion(&self) -> &Arc<CompletionQueue> {
        &self.completion
    }

    /// Has the thread that waits, or else the next one that does, come back.
    pub fn wake(&self) {
        self.completion.wake();
    }

    /// A descriptor that is readable while events wait. It belongs to the queue.
    pub fn ready_fd(&self) -> Result<i32> {
        self.completion.ready_fd()
    }

    /// Whether requests still point here: events promised or not yet taken. Never once the engine is gone.
    pub fn is_busy(&self) -> bool {
        self.completion.outstanding() > 0 && self.core.strong_count() > 0
    }

    pub(super) fn check_engine(&self, core: &Arc<Core>) -> Result<()> {
        if std::ptr::eq(self.core.as_ptr(), Arc::as_ptr(core)) {
            return Ok(());
        }
        Err(Error::new(Status::InvalidArgument, "queue: it belongs to another engine"))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.table.put_queue_when_done(&self.completion);
    }
}
