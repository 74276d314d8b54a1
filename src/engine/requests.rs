//! The request table: every ticket's state, and the one place where a request is resolved.
//!
//! A slot lives from submit to the release of the terminal event; after that its ticket is stale, wherever it still
//! stands. Its mutex is the whole protocol: whoever
//! moves the state to `Resolved` under it, lane, canceller, clock or shutdown, produces the terminal event,
//! and nobody else can. Locks are taken in the order slot, completion queue.

use super::completion::CompletionQueue;
use super::event::{Event, EventFlags, EventKind, OutputRef, Payload, Timing};
use super::outcome::{Outcome, Outputs};
use super::{ModelId, Ticket, handle, next_generation, random_generation, unpack};
use crate::backend::Interrupt;
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::memory::Reservation;
use crate::metrics::{Gauge, Metrics, Traffic};
use crate::scheduler::join::Inputs;
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait_until};
use crate::tensor::CallerBuffer;
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Slots are allocated by the chunk, when first needed.
const CHUNK: usize = 256;

/// What a request is while it waits and runs.
pub struct Request {
    pub model: ModelId,
    pub user_data: u64,
    pub completion: Arc<CompletionQueue>,
    pub inputs: Inputs,
    /// Some input's bytes are the host's.
    pub borrowed: bool,
    /// The host's own output memory, by output index.
    pub outputs: Vec<Option<CallerBuffer>>,
    pub submitted_ns: u64,
    /// 0: none.
    pub deadline_ns: u64,
    /// The model's counters; `None` for jobs such as a load, which are not counted as requests.
    pub traffic: Option<Arc<Traffic>>,
    /// The copied inputs' share of the memory budget.
    pub reservation: Option<Reservation>,
    /// Whether the host may give it up.
    pub cancellable: bool,
}

impl Request {
    /// Events to reserve room for: the buffers of a borrowing request may be released after it is resolved.
    pub fn events(&self) -> u32 {
        1 + u32::from(self.borrowed)
    }
}

/// One run of a backend, which several requests may wait for.
pub struct Run {
    /// Who still wants the result; the last to go interrupts the run.
    wanted: AtomicUsize,
    pub interrupt: Interrupt,
}

impl Run {
    /// A run that its maker wants, until it says `leave`: so it is not given up while requests still join.
    pub fn new() -> Self {
        Run { wanted: AtomicUsize::new(1), interrupt: Interrupt::new() }
    }

    /// One less wants the result.
    pub fn leave(&self) {
        if self.wanted.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.interrupt.raise();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Queued,
    Running,
    Resolved,
}

struct Slot {
    generation: u32,
    state: State,
    /// A lane works on it. (A queue that names it does not hold it: a stale ticket in there is passed over.)
    lane_holds: bool,
    /// The host has not released the terminal event.
    host_holds: bool,
    taken_ns: u64,
    request: Option<Request>,
    run: Option<Arc<Run>>,
    text: Option<CString>,
    outputs: Option<Outputs>,
}

type Chunk = Box<[Mutex<Slot>]>;

/// All tickets of an engine.
pub struct RequestTable {
    capacity: u32,
    chunks: Box<[OnceLock<Chunk>]>,
    free: Mutex<FreeSlots>,
    first_generation: u32,
    closed: AtomicBool,
    metrics: Arc<Metrics>,
    /// Tickets accepted since the start; those that are resolved; and those whose terminal event is in its queue.
    accepted: AtomicU64,
    resolved: AtomicU64,
    settled: AtomicU64,
    all_settled: (Mutex<()>, Condvar),
}

struct FreeSlots {
    used: Vec<u32>,
    fresh: u32,
}

impl RequestTable {
    pub fn new(capacity: u32, metrics: Arc<Metrics>) -> Arc<Self> {
        let chunks = (capacity as usize).div_ceil(CHUNK);
        Arc::new(RequestTable {
            capacity,
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            free: Mutex::new(FreeSlots { used: Vec::new(), fresh: 0 }),
            first_generation: random_generation(),
            closed: AtomicBool::new(false),
            metrics,
            accepted: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            all_settled: Default::default(),
        })
    }

    /// Accepted tickets that are not resolved.
    pub fn in_flight(&self) -> u64 {
        let resolved = self.resolved.load(Ordering::Acquire);
        self.accepted.load(Ordering::Acquire).saturating_sub(resolved)
    }

    /// Whether the terminal event of every accepted ticket is in its queue.
    fn is_settled(&self) -> bool {
        let settled = self.settled.load(Ordering::Acquire);
        self.accepted.load(Ordering::Acquire) == settled
    }

    /// Takes a request in, as queued. Room in its completion queue must be reserved.
    pub fn insert(&self, request: Request) -> Result<Ticket> {
        self.insert_as(request, State::Queued, None)
    }

    /// Takes a job in, as running; it is cancelled through `run`, which nobody else wants.
    pub fn insert_running(&self, request: Request, run: Arc<Run>) -> Result<Ticket> {
        self.insert_as(request, State::Running, Some(run))
    }

    fn insert_as(&self, request: Request, state: State, run: Option<Arc<Run>>) -> Result<Ticket> {
        let index = self.allocate()?;
        let mut slot = lock(self.slot(index));
        // Looked at under the slot's lock: a shutdown sets the flag first and then locks every slot in turn, so
        // it either finds this request or is seen by it.
        if self.closed.load(Ordering::SeqCst) {
            drop(slot);
            lock(&self.free).used.push(index);
            return Err(Error::shut_down());
        }
        slot.state = state;
        slot.lane_holds = state == State::Running;
        slot.host_holds = false;
        slot.taken_ns = request.submitted_ns;
        slot.run = run;
        if state == State::Queued {
            self.count_queued(&request, Gauge::rise);
        }
        slot.request = Some(request);
        self.accepted.fetch_add(1, Ordering::AcqRel);
        Ok(handle(index, slot.generation))
    }

    /// Takes a request out again that no queue would have, or a job that cannot start. Returns false if it was
    /// resolved meanwhile, so that its event is on its way.
    pub fn withdraw(&self, ticket: Ticket) -> bool {
        let Some(mut slot) = self.find(ticket).filter(|slot| slot.state != State::Resolved) else {
            return false;
        };
        if let Some(request) = slot.request.take() {
            if slot.state == State::Queued {
                self.count_queued(&request, Gauge::fall);
            }
            request.completion.unreserve(request.events());
        }
        slot.state = State::Resolved;
        slot.lane_holds = false;
        self.recycle(slot, ticket);
        self.resolved.fetch_add(1, Ordering::AcqRel);
        self.settle(1);
        true
    }

    /// For a lane: takes a queued request's inputs for `run`. `None` if it is resolved already, or overdue.
    pub fn claim(&self, ticket: Ticket, run: &Arc<Run>) -> Option<Inputs> {
        let mut slot = self.find(ticket)?;
        let now = now_ns();
        let overdue = |request: &Request| request.deadline_ns != 0 && request.deadline_ns <= now;
        if slot.state == State::Queued && slot.request.as_ref().is_some_and(overdue) {
            self.resolve(&mut slot, ticket, Status::Expired);
        }
        match (slot.state, &mut slot.request) {
            (State::Queued, Some(request)) => {
                let inputs = std::mem::take(&mut request.inputs);
                self.count_queued(request, Gauge::fall);
                slot.state = State::Running;
                slot.lane_holds = true;
                slot.taken_ns = now;
                slot.run = Some(Arc::clone(run));
                run.wanted.fetch_add(1, Ordering::AcqRel);
                Some(inputs)
            }
            _ => {
                self.recycle(slot, ticket);
                None
            }
        }
    }

    /// For a lane: moves a claimed request to another run. False if it is resolved already.
    pub fn move_to(&self, ticket: Ticket, run: &Arc<Run>) -> bool {
        let Some(mut slot) = self.find(ticket).filter(|slot| slot.state == State::Running) else {
            return false;
        };
        run.wanted.fetch_add(1, Ordering::AcqRel);
        slot.run = Some(Arc::clone(run));
        true
    }

    /// For a lane: ends a claimed request. Returns the event to publish, if the request wants one; the caller
    /// publishes it and then calls `settle` if `is_terminal`.
    pub fn complete(
        self: &Arc<Self>,
        ticket: Ticket,
        result: Result<Outcome>,
        started_ns: u64,
        ended_ns: u64,
        batch_rows: u32,
    ) -> Option<Completion> {
        let mut slot = self.find(ticket)?;
        slot.lane_holds = false;
        slot.run = None;
        let Some(mut request) = slot.request.take() else {
            self.recycle(slot, ticket);
            return None;
        };
        drop(request.reservation.take());
        if slot.state == State::Resolved {
            // Resolved while it ran: all that is left to say is that the buffers are free.
            let completion = Arc::clone(&request.completion);
            let event = request.borrowed.then(|| Event {
                kind: EventKind::BuffersReleased,
                flags: EventFlags { more: false, buffers_released: true },
                ..event(ticket, &request, Status::Ok)
            });
            self.recycle(slot, ticket);
            return event.map(|event| Completion { queue: completion, event, is_terminal: false });
        }
        let outputs = result.and_then(|outcome| Outputs::new(outcome, &mut request.outputs));
        let (status, outputs, text) = match outputs {
            Ok(outputs) => (Status::Ok, Some(outputs).filter(|outputs| outputs.count() > 0), None),
            Err(error) => (error.status, None, c_text(error.message)),
        };
        if slot.state == State::Queued {
            self.count_queued(&request, Gauge::fall);
        }
        slot.state = State::Resolved;
        self.resolved.fetch_add(1, Ordering::AcqRel);
        slot.host_holds = outputs.is_some() || text.is_some();
        slot.outputs = outputs;
        slot.text = text;
        request.completion.unreserve(request.events() - 1);
        let timing = Timing {
            queued_ns: slot.taken_ns.saturating_sub(request.submitted_ns),
            batched_ns: started_ns.saturating_sub(slot.taken_ns),
            computed_ns: ended_ns.saturating_sub(started_ns),
            batch_rows,
        };
        if request.traffic.is_some() && status == Status::Ok {
            self.metrics.total.record(ended_ns.saturating_sub(request.submitted_ns));
            self.metrics.queued.record(timing.queued_ns);
        }
        self.count(&request, status);
        let event = Event {
            flags: EventFlags { more: false, buffers_released: true },
            timing,
            outputs_count: slot.outputs.as_ref().map_or(0, Outputs::count) as u32,
            payload: slot.host_holds.then(|| Payload::new(Arc::clone(self), ticket)),
            ..event(ticket, &request, status)
        };
        let queue = Arc::clone(&request.completion);
        self.recycle(slot, ticket);
        Some(Completion { queue, event, is_terminal: true })
    }

    /// Ends a job, whose event names the model that it was about. False if it was resolved before.
    pub fn complete_job(self: &Arc<Self>, ticket: Ticket, result: Result<ModelId>) -> bool {
        if let (Some(mut slot), Ok(model)) = (self.find(ticket), &result)
            && let Some(request) = &mut slot.request
        {
            request.model = *model;
        }
        let nothing = || Outcome { signature: Arc::default(), batch: Arc::default(), rows: None };
        let now = now_ns();
        let completion = self.complete(ticket, result.map(|_| nothing()), now, now, 0);
        let Some(completion) = completion.filter(|completion| completion.is_terminal) else { return false };
        completion.queue.publish([completion.event]);
        self.settle(1);
        true
    }

    /// Resolves a request before its run is over; false if it is unknown or resolved already.
    pub fn resolve_early(&self, ticket: Ticket, status: Status) -> bool {
        let Some(mut slot) = self.find(ticket) else { return false };
        let fixed = slot.request.as_ref().is_some_and(|request| !request.cancellable);
        if !matches!(slot.state, State::Queued | State::Running) || (fixed && status == Status::Cancelled) {
            return false;
        }
        self.resolve(&mut slot, ticket, status);
        self.recycle(slot, ticket);
        true
    }

    fn resolve(&self, slot: &mut Slot, ticket: Ticket, status: Status) {
        let running = slot.state == State::Running;
        slot.state = State::Resolved;
        let Some(request) = &mut slot.request else { return };
        request.inputs.clear();
        let more = running && request.borrowed;
        let taken_ns = if running { slot.taken_ns } else { now_ns() };
        let terminal = Event {
            flags: EventFlags { more, buffers_released: !more },
            timing: Timing { queued_ns: taken_ns.saturating_sub(request.submitted_ns), ..Timing::default() },
            ..event(ticket, request, status)
        };
        // The host's output memory is its own again: nothing is written to it from here on.
        request.outputs.clear();
        if !more {
            request.completion.unreserve(request.events() - 1);
        }
        self.count(request, status);
        if !running {
            self.count_queued(request, Gauge::fall);
        }
        self.resolved.fetch_add(1, Ordering::AcqRel);
        request.completion.publish([terminal]);
        if !running {
            slot.request = None;
        }
        if let Some(run) = slot.run.take() {
            run.leave();
        }
        self.settle(1);
    }

    fn count(&self, request: &Request, status: Status) {
        if let Some(traffic) = &request.traffic {
            traffic.outcomes.count(status);
            self.metrics.traffic.outcomes.count(status);
        }
    }

    fn count_queued(&self, request: &Request, change: fn(&Gauge)) {
        if let Some(traffic) = &request.traffic {
            change(&traffic.queued);
            change(&self.metrics.traffic.queued);
        }
    }

    /// Whether a ticket is waiting for its terminal event.
    pub fn is_live(&self, ticket: Ticket) -> bool {
        self.find(ticket).is_some_and(|slot| matches!(slot.state, State::Queued | State::Running))
    }

    /// Says that `count` terminal events are in their queues.
    pub fn settle(&self, count: u64) {
        self.settled.fetch_add(count, Ordering::AcqRel);
        if self.is_settled() {
            let _guard = lock(&self.all_settled.0);
            self.all_settled.1.notify_all();
        }
    }

    /// Waits until every accepted ticket is resolved, or the clock reads `until_ns`.
    pub fn wait_settled(&self, until_ns: u64) {
        let mut guard = lock(&self.all_settled.0);
        while !self.is_settled() && now_ns() < until_ns {
            guard = wait_until(&self.all_settled.1, guard, until_ns);
        }
    }

    /// Takes no more requests in.
    pub fn close(&self) {
        // Under the lock in which chunks are made, so that `resolve_all` sees every chunk with a request.
        let _free = lock(&self.free);
        self.closed.store(true, Ordering::SeqCst);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Resolves every request that is not.
    pub fn resolve_all(&self, status: Status) {
        for (chunk, slots) in self.chunks.iter().enumerate() {
            for (index, slot) in slots.get().into_iter().flatten().enumerate() {
                let generation = lock(slot).generation;
                self.resolve_early(handle((chunk * CHUNK + index) as u32, generation), status);
            }
        }
        // A lane that has completed a request but not yet published the event is only moments away.
        self.wait_settled(u64::MAX);
    }

    /// The host is done with what a request left behind. False if it was before.
    pub fn release(&self, ticket: Ticket) -> bool {
        let Some(mut slot) = self.find(ticket) else { return false };
        let held = std::mem::replace(&mut slot.host_holds, false);
        self.recycle(slot, ticket);
        held
    }

    /// Where an output of a resolved request is; it stays there until `release`.
    pub fn output(&self, ticket: Ticket, index: u32) -> Option<OutputRef> {
        let slot = self.find(ticket).filter(|slot| slot.host_holds)?;
        slot.outputs.as_ref()?.get(index as usize)
    }

    /// Reads what a failed request left as its reason.
    pub fn with_text<R>(&self, ticket: Ticket, read: impl FnOnce(&CStr) -> R) -> Option<R> {
        let slot = self.find(ticket).filter(|slot| slot.host_holds)?;
        slot.text.as_deref().map(read)
    }

    fn allocate(&self) -> Result<u32> {
        let mut free = lock(&self.free);
        if self.is_closed() {
            return Err(Error::shut_down());
        }
        if let Some(index) = free.used.pop() {
            return Ok(index);
        }
        if free.fresh == self.capacity {
            return Err(Error::new(
                Status::QueueFull,
                format!(
                    "queue.capacity is {}, and as many requests are queued, running or not released",
                    self.capacity
                ),
            ));
        }
        let index = free.fresh;
        free.fresh += 1;
        self.slot(index); // makes the chunk
        Ok(index)
    }

    /// The slot with this index; makes its chunk if it is the first of it.
    fn slot(&self, index: u32) -> &Mutex<Slot> {
        let chunk = self.chunks[index as usize / CHUNK].get_or_init(|| {
            let empty = || Slot {
                generation: self.first_generation,
                state: State::Free,
                lane_holds: false,
                host_holds: false,
                taken_ns: 0,
                request: None,
                run: None,
                text: None,
                outputs: None,
            };
            (0..CHUNK).map(|_| Mutex::new(empty())).collect()
        });
        &chunk[index as usize % CHUNK]
    }

    /// The slot of a ticket, locked, if the ticket is not stale.
    fn find(&self, ticket: Ticket) -> Option<MutexGuard<'_, Slot>> {
        let (index, generation) = unpack(ticket);
        let slot = self.chunks.get(index as usize / CHUNK)?.get()?.get(index as usize % CHUNK)?;
        Some(lock(slot)).filter(|slot| slot.generation == generation && slot.state != State::Free)
    }

    /// Frees the slot if nobody holds it any more.
    fn recycle(&self, mut slot: MutexGuard<'_, Slot>, ticket: Ticket) {
        if slot.state != State::Resolved || slot.lane_holds || slot.host_holds {
            return;
        }
        slot.generation = next_generation(slot.generation);
        slot.state = State::Free;
        let outputs = slot.outputs.take();
        slot.request = None;
        slot.text = None;
        slot.run = None;
        drop(slot);
        lock(&self.free).used.push(unpack(ticket).0);
        drop(outputs); // may free a batch: not under a lock
    }
}

/// An event and the queue it goes to.
pub struct Completion {
    pub queue: Arc<CompletionQueue>,
    pub event: Event,
    pub is_terminal: bool,
}

/// The event for a request, with what all of them have in common.
fn event(ticket: Ticket, request: &Request, status: Status) -> Event {
    Event {
        kind: EventKind::Done,
        status,
        flags: EventFlags::default(),
        ticket,
        user_data: request.user_data,
        model: request.model,
        timing: Timing::default(),
        outputs_count: 0,
        payload: None,
    }
}

fn c_text(message: String) -> Option<CString> {
    CString::new(message.replace('\0', " ")).ok()
}
