//! Submitting: from a host's description to a member of a batch. No lock, and nothing allocated, once in steady state.
#![allow(unsafe_code)]

use super::Ticket;
use super::admission::{Admitted, InputData, InputTensor, OutputData, RequestDescription, admit, extras};
use super::batch::{Batch, Flags, Request};
use super::completion::CompletionQueue;
use super::event::{Event, EventKind};
use super::execute::execute;
use super::lifecycle::{Core, Engine, Queue};
use super::line::{Kind, Line, Seat};
use super::model::Model;
use super::models::ModelPin;
use super::outcome::{self, ANSWERED, EARLY, Which};
use super::quotas::{Entry, Quotas};
use super::routes::is_route;
use super::routing::{Attempt, ChildOf};
use super::stream::Said;
use super::table::ticket;
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::sync::{AtomicU32, Ordering, spin_loop};
use crate::tensor::Shape;
use smallvec::SmallVec;
use std::ptr;
use std::sync::Arc;

impl Engine {
    /// Submits a request; its events come to `queue`.
    pub fn submit(&self, description: RequestDescription<'_>, queue: &Queue) -> Result<Ticket> {
        self.submit_ref(&description, queue)
    }

    /// As `submit`, for callers whose description need not move.
    pub fn submit_ref(&self, description: &RequestDescription<'_>, queue: &Queue) -> Result<Ticket> {
        let core = self.core();
        let submit = || {
            queue.check_engine(core)?;
            let now = now_ns();
            if is_route(description.model) {
                return core.submit_routed(description, queue, now);
            }
            let model = core.models.pin(description.model, true)?;
            let mut admitted = Admitted::default();
            admit(description, &model, &mut admitted)?;
            let quotas = core.enter_model(&model, description, &admitted, now)?;
            let role = Role { quotas, ..Role::default() };
            let submitted = core.submit(description, &admitted, &model, Some(queue.completion()), now, &role);
            let submitted = submitted.inspect(|&ticket| core.table.spans.submitted(ticket, &model, now));
            submitted.inspect_err(|_| core.undo_limits(quotas, &model, None, admitted.rows))
        };
        submit().inspect_err(|error| self.count_rejection(error))
    }

    /// Counts a submit that was refused; for callers that refuse it themselves.
    #[cold]
    pub fn count_rejection(&self, error: &Error) {
        self.core().metrics.rejections.count(error.status);
    }

    /// Submits a request and waits for it, at most `timeout_ns`. Runs it on this thread if the model is idle.
    pub fn infer(&self, mut description: RequestDescription<'_>, timeout_ns: u64) -> Result<Event> {
        self.infer_ref(&mut description, timeout_ns)
    }

    /// As `infer`, for callers whose description need not move; its deadline may be set.
    pub fn infer_ref(&self, description: &mut RequestDescription<'_>, timeout_ns: u64) -> Result<Event> {
        let core = self.core();
        let now = now_ns();
        let own_deadline = description.deadline_ns;
        let timeout_at = now.saturating_add(timeout_ns);
        if timeout_at != u64::MAX && !(1..timeout_at).contains(&own_deadline) {
            description.deadline_ns = timeout_at;
        }
        let deadline = if own_deadline == 0 { timeout_at } else { own_deadline.min(timeout_at) };
        let description = &*description;
        let work = || -> Result<Event> {
            if is_route(description.model) {
                return core.infer_routed(description, now, deadline);
            }
            let model = core.models.pin(description.model, true)?;
            let mut admitted = Admitted::default();
            admit(description, &model, &mut admitted)?;
            let quotas = core.enter_model(&model, description, &admitted, now)?;
            let role = Role { quotas, ..Role::default() };
            let undo = |model: &Model| core.undo_limits(quotas, model, None, admitted.rows);
            let here = core.run_here(description, &admitted, (model, ()), now, &role);
            let here = here.map_err(|(error, (model, ()))| {
                undo(&model);
                error
            })?;
            let model = match here {
                Ok(seat) => return Ok(core.event_of_run(&seat)),
                Err((model, ())) => model,
            };
            let completion = core.table.new_queue(3);
            let submitted = core.submit(description, &admitted, &model, Some(&completion), now, &role);
            let submitted = submitted.inspect_err(|_| undo(&model));
            drop(model);
            let event = submitted.map(|_| core.wait_terminal(&completion, deadline));
            core.table.put_queue(&completion);
            event
        };
        let event = work().inspect_err(|error| self.count_rejection(error))?;
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
}

/// What a request is, besides what its description says.
#[derive(Clone, Copy, Default)]
pub struct Role<'a> {
    /// It came through a route.
    pub attempt: Option<&'a Attempt<'a>>,
    /// It is an attempt for another request, or for nobody.
    pub child_of: Option<ChildOf<'a>>,
    pub quotas: Quotas,
    /// It waits for its turn, in a batch of this line.
    pub waits: Option<&'a Arc<Line>>,
}

/// A request that has its place, and what is still to be done for it.
struct Placed<'a> {
    seat: Seat,
    batch: &'a Batch,
    /// The line ends with this request.
    passing: Option<Arc<Line>>,
}

impl Core {
    /// Puts a request that was found good into a batch of its model.
    pub(super) fn submit(
        self: &Arc<Self>,
        description: &RequestDescription<'_>,
        admitted: &Admitted<'_>,
        model: &ModelPin<'_>,
        completion: Option<&Arc<CompletionQueue>>,
        now: u64,
        role: &Role<'_>,
    ) -> Result<Ticket> {
        let placed = self.place(description, admitted, model, completion, now, role, false);
        // Even without a place of its own it may have handed over a full batch, in which others wait.
        let placed = placed.inspect_err(|_| _ = self.see_to(model))?;
        let Placed { seat, batch, passing } = placed;
        let ticket = ticket(seat.generation, seat.index, seat.member);
        if let Some((_, cell)) = role.child_of {
            // Before anybody can see it: whoever resolves the parent finds it.
            cell.inspect(|cell| cell.store(ticket, Ordering::SeqCst));
        }
        if description.deadline_ns == 0 {
            batch.written.set(seat.member);
        } else {
            // Once it is written it may be run, answered and released at any time, and its batch freed: a hold of this
            // thread's own keeps it.
            self.table.slot(seat.index).life().hold(None);
            batch.first_deadline_ns.fetch_min(description.deadline_ns, Ordering::SeqCst);
            batch.written.set(seat.member);
            self.note_deadline(batch, description.deadline_ns);
            self.table.let_go(seat.index, 1);
        }
        if let Some(line) = passing {
            line.retire(&self.table);
        }
        if self.see_to(model) {
            self.metrics.misses.add(1);
            model.traffic.misses.add(1);
        }
        Ok(ticket)
    }

    /// Sees to it that what waits for a model is run. Returns whether the model is away.
    #[inline]
    fn see_to(self: &Arc<Self>, model: &ModelPin<'_>) -> bool {
        model.queue.announce();
        let away = model.residence.is_away();
        if away {
            self.fetch_back(&model.to_arc());
        }
        away
    }

    /// Runs a request on this thread, if its model is idle; if not, gives the model back, with what came with it. The
    /// event is for the caller to make.
    #[allow(clippy::type_complexity)]
    pub(super) fn run_here<'a, H>(
        self: &Arc<Self>,
        description: &RequestDescription<'_>,
        admitted: &Admitted<'_>,
        (model, held): (ModelPin<'a>, H),
        now: u64,
        role: &Role<'_>,
    ) -> std::result::Result<std::result::Result<Seat, (ModelPin<'a>, H)>, (Error, (ModelPin<'a>, H))> {
        if model.is_stepwise() || !model.queue.try_enter() {
            return Ok(Err((model, held)));
        }
        // Who shuts down or unloads waits for pins, and must not wait for a run: that it has entered keeps the model.
        let pin = model;
        let model = pin.to_arc();
        let Some(pass) = self.gate_of(&model).try_enter(&model.queue.share) else {
            model.queue.finished();
            return Ok(Err((pin, held)));
        };
        let Placed { seat, batch, passing } =
            match self.place(description, admitted, &model, None, now, role, true) {
                Ok(placed) => placed,
                Err(error) => {
                    model.queue.finished();
                    return Err((error, (pin, held)));
                }
            };
        batch.written.set(0);
        if description.deadline_ns != 0 {
            batch.first_deadline_ns.store(description.deadline_ns, Ordering::SeqCst);
            self.note_deadline(batch, description.deadline_ns);
        }
        drop((pin, held));
        let active = self.spinning.compute();
        execute(self, &model, seat.index);
        drop(active);
        drop(pass);
        model.queue.finished();
        model.queue.see_to_rest(&self.rest());
        if let Some(line) = passing {
            line.retire(&self.table);
        }
        Ok(Ok(seat))
    }

    /// The event of a request without a completion queue that has run here.
    pub(super) fn event_of_run(self: &Arc<Self>, seat: &Seat) -> Event {
        // SAFETY: the member's hold is this thread's.
        let batch = unsafe { self.table.batch(seat.index) };
        let over = || {
            let elsewhere = batch.members[0].status.load(Ordering::SeqCst) & (EARLY | ANSWERED) != 0;
            batch.published.is_set(0) || elsewhere
        };
        while !over() {
            if batch.resolved.is_set(0) {
                spin_loop(); // whoever resolved it is about to say how
                continue;
            }
            // Another target has it now.
            if self.config.threads != Some(0) {
                self.table.elsewhere.sleep(u64::MAX, over);
            } else if !self.pump_one() {
                self.table.elsewhere.sleep(now_ns() + 1_000_000, over);
            }
        }
        // SAFETY: it is resolved, the member's hold is this thread's, and nobody else makes the event.
        unsafe { outcome::event(&self.table, batch, 0, Which::Terminal) }
    }

    /// For a request that names its model: lets it in by the limits.
    #[inline]
    fn enter_model(
        &self,
        model: &Model,
        description: &RequestDescription<'_>,
        admitted: &Admitted<'_>,
        now: u64,
    ) -> Result<Quotas> {
        match self.enter_limits(model, None, description.tenant, admitted.rows, now) {
            Ok(Entry::Enters(quotas) | Entry::Waits(quotas)) => Ok(quotas),
            Err(refused) => Err(refused.error),
        }
    }

    /// Submits an attempt for a request that has its ticket elsewhere, or for nobody.
    pub(super) fn submit_child(
        self: &Arc<Self>,
        description: &RequestDescription<'_>,
        admitted: &Admitted<'_>,
        model: &ModelPin<'_>,
        attempt: Option<&Attempt<'_>>,
        now: u64,
        child_of: ChildOf<'_>,
    ) -> Result<Ticket> {
        let role = Role { attempt, child_of: Some(child_of), ..Role::default() };
        self.submit(description, admitted, model, None, now, &role)
    }

    /// Puts a request that waits for its turn into a batch of its own. The lane's hold on that is the caller's.
    pub(super) fn place_to_wait(
        self: &Arc<Self>,
        description: &RequestDescription<'_>,
        admitted: &Admitted<'_>,
        model: &Model,
        completion: &Arc<CompletionQueue>,
        now: u64,
        role: &Role<'_>,
    ) -> Result<(Ticket, u32)> {
        let placed = self.place(description, admitted, model, Some(completion), now, role, true)?;
        let Placed { seat, batch, .. } = placed;
        batch.written.set(0);
        if description.deadline_ns != 0 {
            batch.first_deadline_ns.store(description.deadline_ns, Ordering::SeqCst);
            self.note_deadline(batch, description.deadline_ns);
        }
        Ok((ticket(seat.generation, seat.index, 0), seat.index))
    }

    /// Finds a place for a request and writes it there. What is left is to mark it as written. Without a completion
    /// queue nobody but the caller hears of its end. With `alone` it shares its batch with nobody, and the caller is
    /// the lane.
    #[allow(clippy::too_many_arguments)]
    fn place<'a>(
        self: &'a Arc<Self>,
        description: &RequestDescription<'_>,
        admitted: &Admitted<'_>,
        model: &Model,
        completion: Option<&Arc<CompletionQueue>>,
        now: u64,
        role: &Role<'_>,
        alone: bool,
    ) -> Result<Placed<'a>> {
        let lines = &model.queue.lines;
        let usual = role.waits.or_else(|| lines.usual().filter(|_| admitted.is_usual));
        let found = match usual {
            Some(_) => None,
            None => Some(lines.find(&admitted.given, admitted.rows, admitted.device.is_some())?),
        };
        let Some(line) = usual.or(found.as_ref().map(|found| &found.line)) else {
            return Err(Error::new(Status::Internal, "a request has no line"));
        };
        let bare = line.kind() == Kind::Bare;
        let on_device = admitted.device.is_some();
        let is_lent =
            |input: &InputTensor<'_>| matches!(input.data, InputData::Borrow(_) | InputData::Device(_));
        // The backend itself writes to the host's memory on a device.
        let lends = bare
            && (admitted.given.iter().flatten().any(|input| is_lent(input))
                || on_device
                    && description.outputs.iter().any(|output| matches!(output.data, OutputData::Device(_))));
        let sizes = found.as_ref().and_then(|found| found.sizes.clone());
        let mut extras = match description.outputs.is_empty() && !bare && sizes.is_none() {
            true => None,
            false => extras(description, admitted, model, bare, &self.pool, &self.ledger)?,
        };
        if sizes.is_some() {
            let extras = extras.get_or_insert_default();
            extras.rare.get_or_insert_default().sizes = sizes.clone();
        }
        let streams = model.is_stepwise();
        let events = 1 + u32::from(lends) + u32::from(streams);
        if let Some(completion) = completion {
            completion.reserve(events)?;
        }
        let undo = |_: &Error| {
            if let Some(completion) = completion {
                completion.unreserve(events);
            }
        };
        // Children are few, and not the host's.
        let alive = u32::from(role.child_of.is_none());
        if alive > 0 {
            self.table.enter().inspect_err(undo)?;
        }
        let rows = if line.kind() == Kind::Joined { admitted.rows } else { 1 };
        let level = description.level;
        let seat = match alone {
            true => line.alone(&self.table, &self.pool, level, rows),
            false => line.join(&self.table, &self.pool, level, rows, |index| model.queue.push_full(index)),
        };
        let seat = seat.inspect_err(|error| {
            self.table.leave(alive);
            undo(error);
        })?;
        // SAFETY: the place is claimed, so the batch is held until it is released.
        let batch = unsafe { self.table.batch(seat.index) };
        if seat.member == 0 {
            self.table.slot(seat.index).oldest_ns.store(now, Ordering::Relaxed);
        }
        write_rows(batch, admitted, seat.first_row, sizes.is_some());
        let child = role.child_of.is_some();
        let routed = !child && (role.attempt.is_some() || role.quotas.any());
        if child || routed {
            let hop = &batch.cold(seat.member).hop;
            hop.begin(role.attempt, role.child_of.map(|(parent, _)| parent));
            hop.quotas.store(role.quotas.0, Ordering::Relaxed);
        }
        if streams {
            batch.begin_stream(seat.member, role.child_of.map(|(parent, _)| parent));
        }
        let request = Request {
            submitted_ns: now,
            deadline_ns: description.deadline_ns,
            user_data: description.user_data,
            queue: completion.map_or(ptr::null(), Arc::as_ptr),
            rows: admitted.rows as u32,
            first_row: AtomicU32::new(seat.first_row as u32),
            flags: Flags {
                extras: extras.is_some(),
                lends,
                routed,
                child,
                on_device,
                streams,
                ..Flags::default()
            },
        };
        // SAFETY: the place is claimed and not marked as written.
        unsafe { batch.write_member(seat.member, request, extras) };
        let passing = found.filter(|found| found.passing).map(|found| found.line);
        Ok(Placed { seat, batch, passing })
    }
}

/// Copies a request's inputs to its rows. With `padded`, some are smaller than their place.
fn write_rows(batch: &Batch, admitted: &Admitted<'_>, first_row: usize, padded: bool) {
    let (Some(layout), Some(memory)) = (batch.layout(), &batch.memory) else { return };
    for (part, region) in layout.inputs.iter().zip(&memory.inputs) {
        let Some(input) = admitted.given[part.index] else { continue };
        let bytes = match &input.data {
            InputData::Copy(bytes) => bytes,
            InputData::Borrow(borrowed) => borrowed.bytes(),
            InputData::Strings(_) | InputData::Device(_) => continue,
        };
        let offset = first_row * part.row_bytes;
        if padded {
            let place = layout.shape(part, if layout.joined { admitted.rows } else { 1 });
            if place.as_slice() == input.shape {
                // SAFETY: as below.
                unsafe { region.write(offset, bytes) };
                continue;
            }
            let size = if layout.joined { admitted.rows * part.row_bytes } else { part.row_bytes };
            // SAFETY: the rows are the caller's, who has claimed them.
            let to = unsafe { region.bytes_mut(offset, size) };
            batch.line.traffic.here().padding_bytes.add(size.saturating_sub(bytes.len()) as u64);
            write_padded(to, &place, bytes, input.shape, part.dtype.whole_bytes().unwrap_or(1));
            continue;
        }
        // SAFETY: as above; admission has checked the size against the shape, and the shape chose the line.
        unsafe { region.write(offset, bytes) };
    }
}

/// Copies a tensor into a larger one, and fills the rest with zeros.
fn write_padded(to: &mut [u8], place: &Shape, from: &[u8], shape: &[i64], element: usize) {
    to.fill(0);
    let rank = shape.len();
    // Elements that stay together: everything inside the innermost axis that differs.
    let Some(axis) = (0..rank).rev().find(|&axis| place[axis] != shape[axis]) else { return };
    let count = |sizes: &[i64]| sizes.iter().map(|&size| size.max(0) as usize).product::<usize>();
    let run = count(&shape[axis..]) * element;
    if run == 0 || from.is_empty() {
        return;
    }
    let mut at: SmallVec<[usize; 8]> = SmallVec::from_elem(0, axis);
    for run in from.chunks_exact(run) {
        let offset: usize =
            at.iter().enumerate().map(|(axis, &position)| position * count(&place[axis + 1..])).sum();
        to[offset * element..][..run.len()].copy_from_slice(run);
        for axis in (0..axis).rev() {
            at[axis] += 1;
            if at[axis] < shape[axis] as usize {
                break;
            }
            at[axis] = 0;
        }
    }
}

impl Core {
    /// Waits for the last event of the one request of a private queue; returns the terminal one.
    pub(super) fn wait_terminal(self: &Arc<Self>, completion: &CompletionQueue, deadline_ns: u64) -> Event {
        let mut terminal: Option<Event> = None;
        let mut said = Said::default();
        loop {
            let until = if terminal.is_none() { deadline_ns } else { u64::MAX };
            let mut keep = |event: Event| match event.kind {
                EventKind::Done => terminal = Some(event),
                EventKind::Token => said.add(event),
                EventKind::Progress | EventKind::BuffersReleased => (),
            };
            if self.wait_events(completion, 2, until, &mut keep) == 0 {
                self.table.expire(now_ns());
            }
            // An event that promises another leaves buffers in use: they must be back before this returns.
            if completion.outstanding() == 0
                && let Some(event) = terminal.take()
            {
                return said.with(event, &self.table);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_goes_where_it_belongs() {
        let mut to = vec![9u8; 12];
        write_padded(&mut to, &Shape::from_slice(&[2, 3, 2]), &[1, 2, 3, 4, 5, 6, 7, 8], &[2, 2, 2], 1);
        assert_eq!(to, [1, 2, 3, 4, 0, 0, 5, 6, 7, 8, 0, 0]);
        let mut to = vec![9u8; 8];
        write_padded(&mut to, &Shape::from_slice(&[1, 4]), &[1, 2, 3, 4], &[1, 2], 2);
        assert_eq!(to, [1, 2, 3, 4, 0, 0, 0, 0]);
        let mut to = vec![9u8; 12];
        write_padded(&mut to, &Shape::from_slice(&[1, 3, 4]), &[1, 2, 3, 4], &[1, 2, 2], 1);
        assert_eq!(to, [1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0]);
    }
}
