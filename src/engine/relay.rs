//! Requests that came through routes: what they have in hand besides their place in a batch, and how one of them goes on
//! elsewhere when a target has failed it.
//!
//! The host's ticket is a member of the first target's batch, its parent. Every further attempt is a child: a member of
//! another model's batch, of which no host knows. Whichever attempt ends well first answers for all: it resolves the
//! parent, whose event then shows the child's outputs. When one fails, it hands over to another, and only the last one
//! resolves the parent with its failure.
//!
//! - `attempt` names the way that a member takes. Whoever sets its mark `TAKEN` accounts for how the attempt ended.
//! - `attempts` counts those under way, so that the last one knows that it is: see `router::Attempts`.
//! - A child is written down in its parent before others can see it. Whoever resolves the parent resolves the children
//!   that it finds there; whoever makes a child looks afterwards whether the parent was resolved meanwhile.
#![allow(unsafe_code)]

use super::Ticket;
use super::admission::{Admitted, InputData, InputTensor, RequestDescription, admit};
use super::batch::Batch;
use super::completion::Link;
use super::execute::c_text;
use super::lifecycle::Core;
use super::line::Kind;
use super::outcome::{self, ANSWERED};
use super::routes::{PlanPin, Way};
use super::routing::{Asks, Attempt};
use super::table::{Pin, Table};
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::features::ROUTER;
use crate::router::Attempts;
use crate::sync::{AtomicPtr, AtomicU64, Mutex, Ordering, lock};
use crate::tensor::{Buffer, Data, Shape};
use smallvec::SmallVec;
use std::ffi::CString;
use std::ptr;
use std::sync::Arc;

/// In `attempt`: somebody has accounted for it.
const TAKEN: usize = 1;
/// In `attempt`: it has one of the places for probes.
const PROBES: usize = 2;
/// In `attempt`: there is none, the request waits for its turn; the way only tells the route.
const WAITS: usize = 4;
/// In `attempt`: it was made because another takes long.
const HEDGES: usize = 8;
/// In `attempt`: it has taken too long, and may still end.
const LATE: usize = 16;
const MARKS: usize = TAKEN | PROBES | WAITS | HEDGES | LATE;

/// What a routed member has in hand.
#[derive(Default)]
pub struct Hop {
    /// The way that it takes, and marks.
    attempt: AtomicPtr<Way>,
    attempts: Attempts,
    /// The numbers of ways that were tried.
    tried: AtomicU64,
    /// A child's parent, or 0; a parent's child that has answered.
    other: AtomicU64,
    /// What it was counted in: see `quotas`.
    pub quotas: AtomicU64,
    /// Why it has failed though an attempt has answered it.
    pub complaint: Mutex<Option<CString>>,
}

/// An attempt that whoever has this accounts for.
pub struct Taken<'a> {
    pub way: &'a Way,
    pub probes: bool,
}

impl Hop {
    /// Begins anew, for a member that is not written yet. `parent`: it is a child.
    #[inline]
    pub fn begin(&self, attempt: Option<&Attempt<'_>>, parent: Option<Ticket>) {
        let pointer = attempt.map_or(ptr::null_mut(), |attempt| {
            let pointer = ptr::from_ref(attempt.way).cast_mut();
            let probes = if attempt.probes { PROBES } else { 0 };
            let waits = if attempt.waits { WAITS | TAKEN } else { 0 };
            let hedges = if attempt.hedges { HEDGES } else { 0 };
            pointer.map_addr(|address| address | probes | waits | hedges)
        });
        self.attempt.store(pointer, Ordering::Relaxed);
        self.other.store(parent.unwrap_or(0), Ordering::Relaxed);
        if parent.is_none() {
            let own = attempt.filter(|attempt| !attempt.waits);
            let (begun, tried) = own.map_or((0, 0), |attempt| (1, attempt.way.bit()));
            self.attempts.begin(begun);
            self.tried.store(tried, Ordering::Relaxed);
            self.quotas.store(0, Ordering::Relaxed);
        }
    }

    /// Takes the attempt, to account for it; `None` if somebody has.
    #[inline]
    pub fn take(&self) -> Option<Taken<'_>> {
        self.take_as(TAKEN)
    }

    /// As `take`, for an attempt that has taken too long.
    pub fn take_late(&self) -> Option<Taken<'_>> {
        self.take_as(TAKEN | LATE)
    }

    /// Whether the attempt has taken too long, and has not ended.
    fn is_late(&self) -> bool {
        self.attempt.load(Ordering::Acquire).addr() & LATE != 0
    }

    fn take_as(&self, marks: usize) -> Option<Taken<'_>> {
        if !ROUTER.built {
            return None;
        }
        // Only the first one marks it: `LATE` does not come after the end.
        let unless_taken =
            |old: *mut Way| (old.addr() & TAKEN == 0).then(|| old.map_addr(|address| address | marks));
        let old = self.attempt.fetch_update(Ordering::AcqRel, Ordering::Acquire, unless_taken).ok()?;
        // SAFETY: a way is kept for as long as a batch that is in use points to it: see `Routes::sweep`.
        let way = unsafe { old.map_addr(|address| address & !MARKS).as_ref() }?;
        Some(Taken { way, probes: old.addr() & PROBES != 0 })
    }

    /// The way of its own attempt, whoever has accounted for it.
    pub fn way(&self) -> Option<&Way> {
        if !ROUTER.built {
            return None;
        }
        let pointer = self.attempt.load(Ordering::Acquire);
        // SAFETY: as above.
        unsafe { pointer.map_addr(|address| address & !MARKS).as_ref() }
    }

    /// Whether nobody has accounted for its own attempt.
    pub fn is_open(&self) -> bool {
        let pointer = self.attempt.load(Ordering::Acquire);
        !pointer.is_null() && pointer.addr() & TAKEN == 0
    }

    pub fn way_address(&self) -> Option<usize> {
        self.way().map(|way| ptr::from_ref(way).addr())
    }

    /// A child's parent; 0: none.
    pub fn parent(&self) -> Ticket {
        self.other.load(Ordering::Acquire)
    }

    /// The child that has answered for it.
    pub fn answer(&self) -> Ticket {
        self.other.load(Ordering::Acquire)
    }

    /// Children that were begun.
    pub fn children(&self) -> impl Iterator<Item = Ticket> + '_ {
        self.attempts.children()
    }

    /// Whether it waits for its turn, or has, rather than having an attempt in its own batch.
    pub fn waits(&self) -> bool {
        self.attempt.load(Ordering::Relaxed).addr() & WAITS != 0
    }

    /// Whether what is under way of an unresolved request has all taken too long.
    pub fn is_stuck(&self, table: &Table) -> bool {
        let late = |&child: &Ticket| {
            let unresolved = |(pin, member): (Pin<'_>, usize)| {
                !pin.resolved.is_set(member) && pin.cold(member).hop.is_late()
            };
            table.pin(child).is_some_and(unresolved)
        };
        let late = u32::from(self.is_late()) + self.children().filter(late).count() as u32;
        late > 0 && self.attempts.underway() == late
    }

    fn is_hedge(&self) -> bool {
        self.attempt.load(Ordering::Relaxed).addr() & HEDGES != 0
    }

    pub fn begun(&self) -> u32 {
        self.attempts.begun()
    }
}

/// Why another attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The one before has failed.
    Failover,
    /// It takes long.
    Hedge,
    /// There was none: the request has waited for its turn.
    First,
}

/// Whether another target may do better than one that has ended so.
pub fn is_retryable(status: Status) -> bool {
    matches!(
        status,
        Status::BackendFailed
            | Status::DeviceLost
            | Status::OutOfMemory
            | Status::OverBudget
            | Status::Internal
            | Status::ModelNotFound
            | Status::ModelInvalid
            | Status::ModelUnsupported
            | Status::BackendUnavailable
            | Status::ProviderUnavailable
    )
}

/// For whoever has resolved a routed member early: gives back what it has in hand. True: its hold on the batch is to be
/// let go of, since no event takes it over.
#[cold]
pub fn abandon(table: &Table, batch: &Batch, member: usize, child: bool, status: Status) -> bool {
    let hop = &batch.cold(member).hop;
    if let Some(taken) = hop.take() {
        let now = now_ns();
        let age_ns = now.saturating_sub(batch.submitted_ns(member));
        match status {
            Status::Expired => taken.way.expire(taken.probes, age_ns, now),
            _ => taken.way.give_up(taken.probes),
        }
    }
    if child {
        return true;
    }
    table.conclude(batch, member, status);
    false
}

impl Table {
    /// A routed request has ended with `status`: its route counts it, and its quotas are given back.
    fn count_out(&self, batch: &Batch, member: usize, status: Status) {
        let hop = &batch.cold(member).hop;
        if let Some(way) = hop.way() {
            way.route.counters.ended.count(status);
        }
        if hop.quotas.load(Ordering::Relaxed) != 0 {
            self.leave_quotas(batch, member, status);
        }
    }

    /// A routed request has ended with `status`: what it still has under way elsewhere is given up, and its quotas are given back.
    #[inline]
    pub fn conclude(&self, batch: &Batch, member: usize, status: Status) {
        let hop = &batch.cold(member).hop;
        if hop.begun() > 1 || hop.waits() {
            // Who has it when it expires is to blame, who has it when it is not wanted any more is not.
            let blame = if status == Status::Expired { status } else { Status::Cancelled };
            hop.children().for_each(|child| _ = self.resolve_early(child, blame));
        }
        self.count_out(batch, member, status);
    }
}

/// A request's inputs, as another attempt is given them.
struct Inputs {
    tensors: SmallVec<[(usize, Shape, Bytes); 2]>,
}

enum Bytes {
    /// Where they are in the batch.
    There(*const u8, usize),
    Copied(Buffer),
    Strings(Vec<(*const u8, usize)>),
}

impl Core {
    /// One attempt of an unresolved parent has failed: that of `own`, which is the parent's or a child's. Has another one made
    /// if that is sensible. True: somebody else resolves the parent; false: the caller is the last, and does.
    pub fn hand_over(self: &Arc<Self>, own: &Hop, batch: &Batch, member: usize, status: Status) -> bool {
        let hop = &batch.cold(member).hop;
        if hop.way().is_none() {
            return false; // it named its model
        }
        own.attempt.fetch_and(!LATE, Ordering::AcqRel);
        if is_retryable(status) {
            // Before this one is counted as ended: there is always one.
            if let Err(error) = self.try_again(batch, member, Reason::Failover) {
                let name = hop.way().map_or("", |way| way.route.name.as_str());
                self.logger
                    .with(&[("route", name.into())])
                    .debug("route", format_args!("{name}: no further attempt: {error}"));
            }
        }
        let last = hop.attempts.end(status.code() as u32);
        if last && hop.begun() > 1 {
            self.note_exhausted(hop, status);
        }
        !last
    }

    /// A request has failed at every target that it was tried on.
    #[cold]
    fn note_exhausted(&self, hop: &Hop, status: Status) {
        let Some(way) = hop.way() else { return };
        way.route.counters.exhausted.fetch_add(1, Ordering::Relaxed);
        let Ok(plan) = self.routes.pin(way.route.id.load(Ordering::SeqCst), false) else { return };
        if status == Status::BackendFailed {
            // It was the request's own fault, and not the targets'.
            let (tried, now) = (hop.tried.load(Ordering::Relaxed), now_ns());
            let blamed = plan.ways.iter().filter(|way| tried & way.bit() != 0);
            blamed.for_each(|way| way.target.breaker.forgive(1, now));
        }
    }

    /// Makes another attempt for a parent whose batch is held; an error says why there is none.
    pub fn try_again(self: &Arc<Self>, batch: &Batch, member: usize, reason: Reason) -> Result<()> {
        let hop = &batch.cold(member).hop;
        let none = |text: &str| Err(Error::new(Status::OverQuota, text));
        let Some(way) = hop.way() else { return none("it has no route") };
        if batch.flags(member).is_some_and(|flags| flags.on_device) {
            return none("it has tensors in a device's memory");
        }
        let plan = self.routes.pin(way.route.id.load(Ordering::SeqCst), false)?;
        let (now, counters) = (now_ns(), &plan.route.counters);
        // SAFETY: written, and held.
        let deadline_ns = unsafe { batch.request(member) }.deadline_ns;
        let over = || {
            // What has been said cannot be taken back: nobody else goes on with it.
            let ended = batch.resolved.is_set(member) || batch.has_spoken(member);
            ended || (deadline_ns != 0 && now >= deadline_ns)
        };
        let most = match reason {
            Reason::First => 1,
            Reason::Hedge => plan.config.retry.attempts.max(2),
            Reason::Failover => plan.config.retry.attempts,
        };
        if over() || hop.begun() >= most {
            return none("it has had all its attempts, or ended");
        }
        let budget = match reason {
            Reason::Failover => Some(&plan.route.retries),
            Reason::Hedge => Some(&plan.route.hedges),
            Reason::First => None,
        };
        if budget.is_some_and(|budget| !budget.try_take(plan.requests(), now)) {
            if !hop.attempts.was_refused() {
                counters.over_budget.fetch_add(1, Ordering::Relaxed);
            }
            return none("the budget for further attempts is used up");
        }
        let Some(before) = hop.attempts.try_begin(most) else {
            budget.inspect(|budget| budget.give_back());
            return none("it has had all its attempts");
        };
        let place = before.saturating_sub(u32::from(!hop.waits()));
        let begun = self.begin_child(&plan, batch, member, place, now, reason);
        match &begun {
            Ok(()) => {
                let counter = match reason {
                    Reason::Failover => Some(&counters.failovers),
                    Reason::Hedge => Some(&counters.hedges),
                    Reason::First => None,
                };
                counter.inspect(|counter| _ = counter.fetch_add(1, Ordering::Relaxed));
            }
            Err(_) => {
                budget.inspect(|budget| budget.give_back());
                let last = hop.attempts.end(0);
                if last && reason != Reason::First {
                    // The others have failed meanwhile, and counted on this one.
                    let status = Status::from_code(hop.attempts.failure() as i32).unwrap_or(Status::Internal);
                    self.table.resolve_early(self.table.ticket_of(batch, member), status);
                }
            }
        }
        begun
    }

    fn begin_child(
        self: &Arc<Self>,
        plan: &PlanPin<'_>,
        batch: &Batch,
        member: usize,
        place: u32,
        now: u64,
        reason: Reason,
    ) -> Result<()> {
        let hop = &batch.cold(member).hop;
        let Some(cell) = hop.attempts.child(place) else {
            return Err(Error::new(Status::Internal, "a request has too many attempts"));
        };
        let parent = self.table.ticket_of(batch, member);
        let asks = Asks { now, session: 0, tenant: 0, key: 0, tried: hop.tried.load(Ordering::Relaxed) };
        let attempt = self.pick(plan, &asks)?;
        let attempt = Attempt { hedges: reason == Reason::Hedge, ..attempt };
        hop.tried.fetch_or(attempt.way.bit(), Ordering::Relaxed);
        let undo = |_: &Error| attempt.way.give_up(attempt.probes);
        let work = || -> Result<()> {
            let model = self.models.pin(attempt.way.target.model.load(Ordering::SeqCst), false)?;
            let inputs = self.copy_inputs(batch, member)?;
            let mut description = RequestDescription {
                level: batch.level.load(Ordering::Relaxed) as usize,
                ..RequestDescription::default()
            };
            let signature = batch.line.signature();
            for (index, shape, bytes) in &inputs.tensors {
                let spec = &signature.inputs[*index];
                // SAFETY: the batch holds what is there for as long as the description lives.
                let data = unsafe { bytes.data() };
                description.inputs.push(InputTensor {
                    name: Some(&spec.name),
                    dtype: spec.dtype,
                    shape,
                    data,
                });
            }
            batch.check_kind(member, &model)?;
            let mut admitted = Admitted::default();
            admit(&description, &model, &mut admitted)?;
            self.submit_child(&description, &admitted, &model, Some(&attempt), now, (parent, Some(cell)))
                .map(drop)
        };
        let moving = lock(&batch.moving);
        let made = work();
        drop(moving);
        made.inspect_err(undo)?;
        if batch.resolved.is_set(member) {
            // It may not have been seen by whoever has resolved the parent.
            self.table.resolve_early(cell.load(Ordering::SeqCst), Status::Cancelled);
        }
        Ok(())
    }

    /// A parent's inputs. The caller keeps its rows from being moved.
    fn copy_inputs(&self, batch: &Batch, member: usize) -> Result<Inputs> {
        // SAFETY: written, and held.
        let request = unsafe { batch.request(member) };
        let mut tensors = SmallVec::new();
        // SAFETY: inputs and sizes are written with the request, and routed ones are not changed.
        let rare = unsafe { batch.extras(member) }.rare.as_ref().filter(|_| request.flags.extras);
        let (Some(layout), Some(memory)) = (batch.layout(), &batch.memory) else {
            let inputs = rare.and_then(|rare| rare.inputs.as_ref());
            let inputs = inputs.ok_or_else(|| Error::new(Status::Internal, "the inputs are gone"))?;
            for (index, tensor) in inputs.iter().enumerate() {
                let Some(tensor) = tensor else { continue };
                let bytes = match &tensor.data {
                    Data::Strings(strings) => {
                        Bytes::Strings(strings.iter().map(|text| (text.as_ptr(), text.len())).collect())
                    }
                    _ => Bytes::There(tensor.bytes().as_ptr(), tensor.bytes().len()),
                };
                tensors.push((index, tensor.shape.clone(), bytes));
            }
            return Ok(Inputs { tensors });
        };
        let rows = if batch.line.kind() == Kind::Joined { request.rows as usize } else { 1 };
        let first = request.first_row.load(Ordering::Relaxed) as usize;
        let first = if layout.joined { first } else { 0 };
        for (part, region) in layout.inputs.iter().zip(&memory.inputs) {
            let mut shape = layout.shape(part, rows);
            // SAFETY: the member's rows, which are not moved meanwhile and only read by whoever runs them.
            let bytes = unsafe { region.bytes(first * part.row_bytes, rows * part.row_bytes) };
            let sizes = rare.and_then(|rare| rare.sizes.as_ref());
            let own = sizes.into_iter().flatten().filter(|(input, _, _)| *input == part.index);
            let padded = shape.clone();
            own.for_each(|&(_, axis, size)| shape[axis] = size);
            let bytes = if shape == padded {
                Bytes::There(bytes.as_ptr(), bytes.len())
            } else {
                let mut copy = Buffer::copy_of(&self.pool, bytes)?;
                let element = part.dtype.whole_bytes().unwrap_or(1);
                outcome::trim(copy.bytes_mut(), element, &padded, &shape);
                let size = crate::tensor::size_bytes(part.dtype, &shape)?;
                Bytes::Copied(Buffer::copy_of(&self.pool, &copy.bytes()[..size])?)
            };
            tensors.push((part.index, shape, bytes));
        }
        Ok(Inputs { tensors })
    }

    /// A lane has resolved a child. It answers for its parent, or hands over, or is let go of.
    pub fn child_has_ended(self: &Arc<Self>, batch: &Batch, member: usize) {
        let table = &self.table;
        let ticket = table.ticket_of(batch, member);
        let parent = batch.cold(member).hop.other.load(Ordering::Acquire);
        // SAFETY: the lane has noted down how it ended.
        let status = unsafe { outcome::ended_as(batch, member) };
        // Without routes there still are children without a parent: the requests that failed models are tried with.
        let pinned = if ROUTER.built { table.pin(parent).filter(|_| parent != 0) } else { None };
        let answers = match pinned {
            None => {
                if parent == 0
                    && let Some(way) = batch.cold(member).hop.way()
                {
                    way.check.ended(status);
                }
                false
            }
            Some((pin, at)) => {
                let over = pin.resolved.is_set(at)
                    || (status != Status::Ok
                        && self.hand_over(&batch.cold(member).hop, &pin, at, status)
                        && !pin.speaks(at, ticket));
                !over && self.answer(&pin, at, batch, member, ticket, status)
            }
        };
        if !answers {
            table.let_go(batch.index, 1);
        }
    }

    /// Resolves a parent as its child has ended; false if it is resolved.
    fn answer(
        &self,
        parent: &Pin<'_>,
        at: usize,
        child: &Batch,
        member: usize,
        ticket: Ticket,
        status: Status,
    ) -> bool {
        let table = &self.table;
        let publishing = table.publishing();
        if !parent.resolved.set(at) {
            return false;
        }
        let hop = &parent.cold(at).hop;
        hop.other.store(ticket, Ordering::Release);
        *lock(&hop.complaint) = None;
        // SAFETY: written, and held; who has resolved it may read what it brought.
        let (request, extras) = unsafe { (parent.request(at), parent.extras(at)) };
        let mut status = status;
        if status == Status::Ok && request.flags.extras {
            // SAFETY: the child's outputs are there, and stay until the child is let go of.
            if let Err(error) = unsafe { outcome::copy_answer(&extras.outputs, child, member) } {
                status = error.status;
                *lock(&hop.complaint) = c_text(error.message);
            }
        }
        let mut word = status.code() as u32 | ANSWERED;
        if status == Status::Ok {
            word = ANSWERED;
        }
        parent.members[at].status.store(word, Ordering::Release);
        if request.flags.streams {
            parent.end_stream(at);
        }
        let has_payload = match status {
            Status::Ok => child.line.outputs_count() > 0,
            _ => outcome::text(child, member).is_some() || lock(&hop.complaint).is_some(),
        };
        if has_payload {
            table.slot(parent.index).held().set(at);
        }
        if child.cold(member).hop.is_hedge()
            && status == Status::Ok
            && let Some(way) = hop.way()
        {
            way.route.counters.hedges_won.fetch_add(1, Ordering::Relaxed);
        }
        parent.line.traffic.here().ended(status, 1);
        if status == Status::Ok
            && let Some(counted) = parent.line.traffic.times()
        {
            // SAFETY: noted down by the child's lane.
            let lap = unsafe { child.lap() };
            counted.total.record(now_ns().saturating_sub(request.submitted_ns));
            counted.queued.record(lap.taken_ns.saturating_sub(request.submitted_ns));
        }
        if let Some(taken) = hop.take() {
            let now = now_ns();
            let age_ns = now.saturating_sub(request.submitted_ns);
            let other_ns = now.saturating_sub(child.submitted_ns(member));
            taken.way.outrun(taken.probes, age_ns, other_ns, now, self);
        }
        hop.children()
            .filter(|&other| other != ticket)
            .for_each(|other| _ = table.resolve_early(other, Status::Cancelled));
        table.count_out(parent, at, status);
        parent.interrupt_if_unwanted(at);
        // SAFETY: queues live as long as the table.
        match unsafe { request.queue.as_ref() } {
            // The parent's hold on its batch goes over to the event, and with it the child's.
            Some(queue) => queue.publish(Link::member(parent.index, at), &parent.members[at].link, table),
            None => table.elsewhere.ring_all(),
        }
        drop(publishing);
        table.batch_is_done();
        true
    }
}

impl Bytes {
    /// # Safety
    /// What was there still is.
    unsafe fn data<'a>(&'a self) -> InputData<'a> {
        let slice = |&(start, size): &(*const u8, usize)| match size {
            0 => &[][..],
            // SAFETY: promised by the caller.
            size => unsafe { std::slice::from_raw_parts(start, size) },
        };
        match self {
            Bytes::There(start, size) => InputData::Copy(slice(&(*start, *size))),
            Bytes::Copied(buffer) => InputData::Copy(buffer.bytes()),
            Bytes::Strings(texts) => InputData::Strings(texts.iter().map(slice).collect()),
        }
    }
}
