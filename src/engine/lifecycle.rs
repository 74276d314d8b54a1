//! The engine's life: creation, submitting, working, shutting down, and the end of every thread.

use super::admission::{RequestDescription, admit};
use super::completion::CompletionQueue;
use super::event::{Event, EventKind};
use super::execute::execute;
use super::models::{self, LoadedModel, Models};
use super::requests::{Request, RequestTable, Run};
use super::{ModelId, Ticket};
use crate::backend::Interrupt;
use crate::clock::now_ns;
use crate::config::{EngineConfig, ModelConfig};
use crate::error::{Error, Result, Status};
use crate::log::Logger;
use crate::memory::Budget;
use crate::metrics::Metrics;
use crate::panics::catch;
use crate::scheduler::deadlines::Deadlines;
use crate::scheduler::gate::Gate;
use crate::scheduler::jobs::{Jobs, spawn};
use crate::scheduler::join;
use crate::scheduler::queue::Item;
use crate::sync::{Mutex, lock};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// What the engine's threads share.
pub struct Core {
    pub config: EngineConfig,
    pub logger: Logger,
    pub metrics: Arc<Metrics>,
    pub budget: Arc<Budget>,
    pub requests: Arc<RequestTable>,
    pub models: Models,
    pub gate: Arc<Gate>,
    deadlines: Deadlines<Ticket>,
    jobs: Jobs,
    /// The thread that expires requests; started with the first deadline.
    keeper: Mutex<Option<JoinHandle<()>>>,
    /// The host's queues, to end their waits at shutdown.
    queues: Mutex<Vec<Weak<CompletionQueue>>>,
    /// Queues for `infer`, used again.
    spare_queues: Mutex<Vec<Arc<CompletionQueue>>>,
    /// Which model `pump` looks at first, so that all get their turn.
    turn: AtomicUsize,
}

/// An engine. Dropping it resolves every request, ends every thread and frees everything.
pub struct Engine {
    core: Arc<Core>,
}

/// A completion queue of an engine. It may outlive the engine.
pub struct Queue {
    completion: Arc<CompletionQueue>,
    core: Weak<Core>,
}

impl Engine {
    /// Makes an engine and loads the models that its configuration names.
    pub fn new(mut config: EngineConfig) -> Result<Engine> {
        let models = std::mem::take(&mut config.models);
        let metrics = Arc::new(Metrics::default());
        let core = Arc::new(Core {
            logger: Logger::new(config.log.level, config.log.target),
            budget: Budget::new(config.memory.budget_bytes),
            requests: RequestTable::new(config.queue.capacity, Arc::clone(&metrics)),
            metrics,
            models: Models::new(),
            gate: Gate::new(config.threads.filter(|&threads| threads > 0).map(|threads| threads as usize)),
            deadlines: Deadlines::new(),
            jobs: Jobs::new(config.threads != Some(0)),
            keeper: Mutex::default(),
            queues: Mutex::default(),
            spare_queues: Mutex::default(),
            turn: AtomicUsize::new(0),
            config,
        });
        let engine = Engine { core };
        for (index, model) in models.into_iter().enumerate() {
            engine.load(model, None).map_err(|error| error.within(format!("models[{index}]")))?;
        }
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
        if self.core.requests.is_closed() {
            return Err(Error::shut_down());
        }
        let completion = Arc::new(CompletionQueue::new(capacity));
        let mut queues = lock(&self.core.queues);
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(&completion));
        Ok(Queue { completion, core: Arc::downgrade(&self.core) })
    }

    /// Loads a model, from `bytes` or from its configured path.
    pub fn load(&self, config: ModelConfig, bytes: Option<&[u8]>) -> Result<ModelId> {
        models::load(&self.core, config, bytes, &Interrupt::new())
    }

    /// Loads a model in the background; the event on `queue` carries its handle.
    pub fn load_async(&self, config: ModelConfig, queue: &Queue, user_data: u64) -> Result<Ticket> {
        let run = Arc::new(Run::new());
        let ticket = self.open_job(queue, user_data, None, &run)?;
        self.start_job(ticket, move |core| {
            let result = catch(|| models::load(core, config, None, &run.interrupt));
            let loaded = result.as_ref().ok().copied();
            if !core.requests.complete_job(ticket, result)
                && let Some(model) = loaded.and_then(|id| core.models.remove(id).ok())
            {
                core.unload(&model); // cancelled in the last moment: nobody knows its handle
            }
        });
        Ok(ticket)
    }

    /// The model called `name:version`, or the newest version of `name`.
    pub fn find(&self, name: &str) -> Result<ModelId> {
        self.core.models.find(name)
    }

    /// Unloads a model after the requests that it has; waits for them.
    pub fn unload(&self, id: ModelId) -> Result<()> {
        let model = self.core.models.remove(id)?;
        self.core.unload(&model);
        Ok(())
    }

    /// Unloads a model after the requests that it has, in the background. Its handle is stale at once.
    pub fn unload_async(&self, id: ModelId, queue: &Queue) -> Result<Ticket> {
        let ticket = self.open_job(queue, 0, Some(id), &Arc::new(Run::new()))?;
        let model = self.core.models.remove(id).inspect_err(|_| {
            self.core.requests.withdraw(ticket);
        })?;
        self.start_job(ticket, move |core| {
            let result = catch(|| {
                core.unload(&model);
                Ok(id)
            });
            core.requests.complete_job(ticket, result);
        });
        Ok(ticket)
    }

    /// A ticket for loading a model, or for unloading the one given. Only a load can be cancelled, through `run`.
    fn open_job(
        &self,
        queue: &Queue,
        user_data: u64,
        unloads: Option<ModelId>,
        run: &Arc<Run>,
    ) -> Result<Ticket> {
        queue.check_engine(&self.core)?;
        queue.completion.reserve(1)?;
        let request = Request {
            model: unloads.unwrap_or(0),
            user_data,
            completion: Arc::clone(&queue.completion),
            inputs: Vec::new(),
            borrowed: false,
            outputs: Vec::new(),
            submitted_ns: now_ns(),
            deadline_ns: 0,
            traffic: None,
            reservation: None,
            cancellable: unloads.is_none(),
        };
        let ticket = self.core.requests.insert_running(request, Arc::clone(run));
        ticket.inspect_err(|_| queue.completion.unreserve(1))
    }

    /// Does a job in the background; on this thread, if the system has no thread to give.
    fn start_job(&self, ticket: Ticket, job: impl FnOnce(&Arc<Core>) + Send + 'static) {
        let weak = Arc::downgrade(&self.core);
        let work = Box::new(move || {
            if let Some(core) = weak.upgrade() {
                job(&core);
            }
        });
        if let Err((error, work)) = self.core.jobs.start("blaze-job", work) {
            self.core
                .logger
                .warn("jobs", format_args!("job {ticket:#x} runs on the caller's thread: {error}"));
            work();
        }
    }

    /// Submits a request; its events come to `queue`.
    pub fn submit(&self, description: RequestDescription<'_>, queue: &Queue) -> Result<Ticket> {
        let core = &self.core;
        let result = queue.check_engine(core).and_then(|()| {
            let (ticket, model, item) = core.admit(description, &queue.completion, 0)?;
            core.enqueue(ticket, &model, item)
        });
        result.inspect_err(|error| self.count_rejection(error))
    }

    /// Counts a submit that was refused; for callers that refuse it themselves.
    pub fn count_rejection(&self, error: &Error) {
        self.core.metrics.rejections.count(error.status);
    }

    /// Submits a request and waits for it, at most `timeout_ns`. Runs it on this thread if the model is idle.
    pub fn infer(&self, description: RequestDescription<'_>, timeout_ns: u64) -> Result<Event> {
        let core = &self.core;
        let own_deadline = description.deadline_ns;
        let timeout_at = now_ns().saturating_add(timeout_ns);
        let deadline = if own_deadline == 0 { timeout_at } else { own_deadline.min(timeout_at) };
        let completion = lock(&core.spare_queues).pop().unwrap_or_else(|| Arc::new(CompletionQueue::new(2)));
        let (ticket, model, item) = core
            .admit(description, &completion, timeout_at)
            .inspect_err(|error| self.count_rejection(error))?;
        if model.queue.try_enter() {
            core.count_accepted(&model);
            execute(core, &model, vec![item]);
            model.queue.finished();
        } else {
            core.enqueue(ticket, &model, item)?;
        }
        drop(model);
        let event = core.wait_terminal(&completion, deadline);
        lock(&core.spare_queues).push(completion);
        match event.status {
            Status::Ok => Ok(event),
            Status::Expired if own_deadline == 0 || own_deadline > timeout_at => {
                Err(Error::new(Status::Timeout, format!("no answer within {timeout_ns} ns")))
            }
            status => {
                let text = event.payload.as_ref().and_then(|payload| payload.text());
                Err(Error::new(status, text.unwrap_or_else(|| "the request was resolved early".into())))
            }
        }
    }

    /// Resolves a request as cancelled, unless it is resolved already.
    pub fn cancel(&self, ticket: Ticket) -> Result<()> {
        if self.core.requests.resolve_early(ticket, Status::Cancelled) {
            return Ok(());
        }
        Err(Error::new(Status::NotFound, "the request has ended, or there never was one with this ticket"))
    }

    /// For an engine without threads: works on this thread for about `budget_ns`, at least one piece of work
    /// if there is any. Returns how many pieces were done.
    pub fn pump(&self, budget_ns: u64) -> Result<u32> {
        if self.core.config.threads != Some(0) {
            return Err(Error::new(
                Status::InvalidState,
                "only an engine made with \"threads\": 0 is pumped; this one has threads of its own",
            ));
        }
        let until = now_ns().saturating_add(budget_ns);
        let mut done = 0;
        while self.core.pump_one() {
            done += 1;
            if now_ns() >= until {
                break;
            }
        }
        Ok(done)
    }

    /// Takes no more requests in, gives those there are `drain_ns` to end, and resolves the rest.
    pub fn shutdown(&self, drain_ns: u64) {
        let core = &self.core;
        core.requests.close();
        let until = now_ns().saturating_add(drain_ns);
        if core.config.threads == Some(0) {
            while core.requests.in_flight() > 0 && now_ns() < until && core.pump_one() {}
        }
        core.requests.wait_settled(until);
        core.requests.resolve_all(Status::ShutDown);
        lock(&core.queues).drain(..).filter_map(|queue| queue.upgrade()).for_each(|queue| queue.close());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shutdown(0);
        self.core.jobs.finish();
        for (id, _) in self.core.models.all() {
            if let Ok(model) = self.core.models.remove(id) {
                self.core.unload(&model);
            }
        }
        self.core.deadlines.stop();
        if let Some(keeper) = lock(&self.core.keeper).take() {
            let _ = keeper.join(); // the keeper does not panic
        }
    }
}

impl Core {
    /// Checks a request and gives it a ticket. `timeout_at` is a second deadline; 0: none.
    fn admit(
        self: &Arc<Self>,
        mut description: RequestDescription<'_>,
        completion: &Arc<CompletionQueue>,
        timeout_at: u64,
    ) -> Result<(Ticket, Arc<LoadedModel>, Item<Ticket>)> {
        let now = now_ns();
        if self.requests.is_closed() {
            return Err(Error::shut_down());
        }
        if timeout_at != 0 && timeout_at != u64::MAX && !(1..timeout_at).contains(&description.deadline_ns) {
            description.deadline_ns = timeout_at;
        }
        let (level, deadline_ns) = (description.level, description.deadline_ns);
        let model = self.models.get(description.model)?;
        let admitted = admit(description, &model, &self.budget, completion, now)?;
        let key = if model.joins_rows() {
            join::key(&admitted.request.inputs, &model.signature().inputs)
        } else {
            None
        };
        let events = admitted.request.events();
        completion.reserve(events)?;
        let ticket = self.requests.insert(admitted.request).inspect_err(|_| completion.unreserve(events))?;
        if deadline_ns != 0 {
            self.deadlines.add(deadline_ns, ticket, |ticket| self.requests.is_live(ticket));
            self.start_keeper();
        }
        let item = Item { work: ticket, rows: admitted.rows, key, level, enqueued_ns: now };
        Ok((ticket, model, item))
    }

    /// Puts an admitted request into its model's queue.
    fn enqueue(&self, ticket: Ticket, model: &LoadedModel, item: Item<Ticket>) -> Result<Ticket> {
        let pushed = model.queue.push(item, |ticket| self.requests.is_live(ticket));
        if pushed.is_err() && self.requests.withdraw(ticket) {
            return Err(Error::new(
                Status::NotFound,
                format!("model {:?} is being unloaded", model.full_name()),
            ));
        }
        self.count_accepted(model);
        Ok(ticket)
    }

    fn count_accepted(&self, model: &LoadedModel) {
        self.metrics.traffic.accepted.add(1);
        model.traffic().accepted.add(1);
    }

    fn start_keeper(self: &Arc<Self>) {
        if self.config.threads == Some(0) {
            return;
        }
        let mut keeper = lock(&self.keeper);
        if keeper.is_none() {
            let core = Arc::clone(self);
            let thread = spawn("blaze-deadlines", move || {
                core.deadlines.run(|ticket| {
                    core.requests.resolve_early(ticket, Status::Expired);
                });
            });
            match thread {
                Ok(thread) => *keeper = Some(thread),
                // Deadlines still act, but only when a lane or the host looks.
                Err(error) => self.logger.error("deadlines", format_args!("{error}")),
            }
        }
    }

    /// Resolves what is overdue.
    pub fn expire(&self) {
        for ticket in self.deadlines.take_due(now_ns()) {
            self.requests.resolve_early(ticket, Status::Expired);
        }
    }

    /// One piece of work on the host's thread: a job or a batch. False if there is nothing to do.
    fn pump_one(self: &Arc<Self>) -> bool {
        self.expire();
        if self.jobs.run_one() {
            return true;
        }
        let models = self.models.all();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for offset in 0..models.len() {
            let (_, model) = &models[(turn + offset) % models.len()];
            if let Some(batch) = model.queue.try_next() {
                execute(self, model, batch);
                model.queue.finished();
                return true;
            }
        }
        false
    }

    /// Ends a model that is no longer in the table.
    fn unload(self: &Arc<Self>, model: &Arc<LoadedModel>) {
        if self.config.threads == Some(0) {
            model.queue.close();
            // This thread is the lane now; `next` also waits for a batch that another thread is pumping.
            while let Some(batch) = model.queue.next() {
                execute(self, model, batch);
                model.queue.finished();
            }
        }
        model.drain();
        self.logger.info("model", format_args!("{} is unloaded", model.full_name()));
    }

    /// Waits for the last event of the one request of a private queue; returns the terminal one.
    fn wait_terminal(self: &Arc<Self>, completion: &CompletionQueue, deadline_ns: u64) -> Event {
        let mut terminal: Option<Event> = None;
        loop {
            let until = if terminal.is_none() { deadline_ns } else { u64::MAX };
            let mut keep = |event: Event| {
                if event.kind == EventKind::Done {
                    terminal = Some(event);
                }
            };
            if self.wait_events(completion, 2, until, &mut keep) == 0 {
                self.expire();
            }
            // An event that promises another leaves buffers in use: they must be back before this returns.
            if completion.outstanding() == 0
                && let Some(event) = terminal.take()
            {
                return event;
            }
        }
    }

    /// Waits for events; on an engine without threads, works meanwhile.
    fn wait_events(
        self: &Arc<Self>,
        completion: &CompletionQueue,
        limit: usize,
        until_ns: u64,
        take: &mut dyn FnMut(Event),
    ) -> usize {
        let Some(consumer) = completion.enter() else { return 0 };
        if self.config.threads != Some(0) {
            return consumer.wait(limit, until_ns, take);
        }
        loop {
            let count = consumer.poll(limit, &mut *take);
            if count > 0 || now_ns() >= until_ns || completion.is_over() {
                return count;
            }
            if !self.pump_one() {
                // Nothing to do here: another thread of the host's may be at work, or a deadline comes.
                let slice = now_ns().saturating_add(1_000_000);
                let until = until_ns.min(self.deadlines.next_ns()).min(slice);
                let count = consumer.wait(limit, until, &mut *take);
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
        self.completion.enter().map_or(0, |consumer| consumer.poll(limit, take))
    }

    /// Takes up to `limit` events; waits for the first one at most `timeout_ns`. On an engine without threads
    /// it works meanwhile.
    pub fn wait(&self, limit: usize, timeout_ns: u64, mut take: impl FnMut(Event)) -> usize {
        let until = now_ns().saturating_add(timeout_ns);
        match self.core.upgrade().filter(|core| core.config.threads == Some(0)) {
            Some(core) => core.wait_events(&self.completion, limit, until, &mut take),
            None => self.completion.enter().map_or(0, |consumer| consumer.wait(limit, until, take)),
        }
    }

    /// A descriptor that is readable while events wait. It belongs to the queue.
    pub fn ready_fd(&self) -> Result<i32> {
        self.completion.ready_fd()
    }

    /// Whether requests still point here: events promised or not yet taken. Never once the engine is gone.
    pub fn is_busy(&self) -> bool {
        self.completion.outstanding() > 0 && self.core.strong_count() > 0
    }

    fn check_engine(&self, core: &Arc<Core>) -> Result<()> {
        if std::ptr::eq(self.core.as_ptr(), Arc::as_ptr(core)) {
            return Ok(());
        }
        Err(Error::new(Status::InvalidArgument, "queue: it belongs to another engine"))
    }
}
