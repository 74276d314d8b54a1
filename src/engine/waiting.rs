//! Requests that wait for their turn on a route: they have a ticket and a batch of their own that is never run, and their
//! first attempt is made when there is room, each tenant's in turn.
#![allow(unsafe_code)]

use super::Ticket;
use super::admission::{Admitted, RequestDescription};
use super::batch::Batch;
use super::completion::CompletionQueue;
use super::lifecycle::Core;
use super::line::{Key, Kind, Line};
use super::model::Model;
use super::quotas::Quotas;
use super::relay::Reason;
use super::routes::{Plan, PlanPin, Route};
use super::routing::Attempt;
use super::submit::Role;
use crate::error::{Error, Result, Status};
use crate::router::WaitingRoom;
use crate::sync::{AtomicU32, Mutex, Ordering, lock};
use std::sync::{Arc, OnceLock};

/// A route's requests that wait.
#[derive(Default)]
pub struct Waiting {
    room: Mutex<Option<WaitingRoom<Ticket>>>,
    /// How many there are, and how many there may be.
    count: AtomicU32,
    capacity: AtomicU32,
    /// What they have their batches in.
    line: OnceLock<Arc<Line>>,
}

impl Waiting {
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    /// Changes how many may wait; those that do already stay.
    pub fn set_capacity(&self, capacity: u32) {
        self.capacity.store(capacity, Ordering::SeqCst);
        let mut room = lock(&self.room);
        match &mut *room {
            Some(room) => room.set_capacity(capacity as usize),
            None => *room = Some(WaitingRoom::new(capacity as usize)),
        }
    }

    fn line(&self, model: &Model) -> &Arc<Line> {
        self.line.get_or_init(|| {
            Line::new(Kind::Bare, Key::new(), None, &model.signature, &Arc::default(), None, &Arc::default())
        })
    }

    /// The end of the route: requests that wait get no turn any more, and batches are freed.
    pub fn end(&self, core: &Core) {
        let room = lock(&self.room).take();
        let waiting = room.into_iter().flat_map(|mut room| std::iter::from_fn(move || room.pop()));
        for ticket in waiting {
            self.count.fetch_sub(1, Ordering::SeqCst);
            core.table.resolve_early(ticket, Status::Cancelled);
        }
        if let Some(line) = self.line.get() {
            line.retire(&core.table);
        }
    }
}

impl Route {
    /// Whether requests wait for their turn.
    #[inline]
    pub fn has_waiting(&self) -> bool {
        self.waiting.count.load(Ordering::SeqCst) > 0
    }

    /// Whether requests may wait at all.
    #[inline]
    pub fn may_wait(&self) -> bool {
        self.waiting.capacity.load(Ordering::Relaxed) > 0
    }
}

impl Core {
    /// Has a request wait for its turn.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn wait_in_line(
        self: &Arc<Self>,
        plan: &PlanPin<'_>,
        description: &RequestDescription<'_>,
        admitted: &Admitted<'_>,
        model: &Model,
        completion: &Arc<CompletionQueue>,
        now: u64,
        quotas: Quotas,
    ) -> Result<Ticket> {
        if admitted.device.is_some() {
            let text =
                format!("route {}: requests with tensors in a device's memory do not wait", plan.route.name);
            return Err(Error::new(Status::OverQuota, text));
        }
        let waiting = &plan.route.waiting;
        let attempt = Attempt { waits: true, ..Attempt::new(&plan.porch) };
        let line = waiting.line(model);
        let role = Role { attempt: Some(&attempt), quotas, waits: Some(line), ..Role::default() };
        let (ticket, index) = self.place_to_wait(description, admitted, model, completion, now, &role)?;
        let tenants = &self.table.tenants;
        let weight = tenants.find(description.tenant, now).map_or(1, |tenant| tenant.weight());
        let cost = u32::try_from(admitted.rows).unwrap_or(u32::MAX);
        let pushed = {
            let mut room = lock(&waiting.room);
            // Counted first: who gives room back looks at the count.
            waiting.count.fetch_add(1, Ordering::SeqCst);
            let room = room.get_or_insert_with(|| WaitingRoom::new(0));
            if room.len() >= waiting.capacity.load(Ordering::SeqCst) as usize {
                // Those that were cancelled or have expired are still in it.
                let gone = room.retain(|&ticket| self.table.is_unresolved(ticket));
                waiting.count.fetch_sub(gone.len() as u32, Ordering::SeqCst);
            }
            room.push(description.tenant, weight, cost, description.level, ticket)
        };
        let out = match pushed {
            Ok(None) => None,
            Ok(Some(displaced)) => Some(displaced),
            Err(own) => Some(own),
        };
        if let Some(out) = out {
            waiting.count.fetch_sub(1, Ordering::SeqCst);
            if out == ticket {
                // SAFETY: the batch is held for the request, which nobody knows of yet.
                if !unsafe { self.withdraw_waiting(index, completion) } {
                    return Ok(ticket);
                }
                let text = format!("route {}: as many requests wait as may", plan.route.name);
                return Err(Error::new(Status::OverQuota, text));
            }
            self.table.resolve_early(out, Status::OverQuota);
        }
        self.table.let_go(index, 1);
        self.let_in(plan);
        Ok(ticket)
    }

    /// Takes a request back that was placed to wait, and had no room. False: it has an event, since it has expired or the
    /// engine was shut down meanwhile, and gives its limits back itself.
    ///
    /// # Safety
    /// The caller has the lane's hold on its batch, and the ticket is not given out.
    unsafe fn withdraw_waiting(&self, index: u32, completion: &CompletionQueue) -> bool {
        // SAFETY: promised by the caller.
        let batch: &Batch = unsafe { self.table.batch(index) };
        let withdrawn = batch.resolved.set(0);
        if withdrawn {
            // The limits are undone by who has entered them.
            batch.cold(0).hop.quotas.store(0, Ordering::SeqCst);
            batch.end_stream(0);
            completion.unreserve(1);
            self.table.leave(1);
            self.table.let_go(index, 1);
        }
        self.table.let_go(index, 1);
        withdrawn
    }

    /// Lets requests in that wait, as far as there is room.
    pub fn let_in(self: &Arc<Self>, plan: &Plan) {
        let route = &plan.route;
        while route.has_waiting() && route.limits.try_occupy() {
            let next = lock(&route.waiting.room).as_mut().and_then(WaitingRoom::pop);
            let Some(ticket) = next else {
                route.limits.leave(1);
                return; // somebody else has taken it
            };
            route.waiting.count.fetch_sub(1, Ordering::SeqCst);
            let Some((pin, member)) = self.table.pin(ticket).filter(|(pin, at)| !pin.resolved.is_set(*at))
            else {
                route.limits.leave(1);
                continue; // it was cancelled, or has expired
            };
            let hop = &pin.cold(member).hop;
            hop.quotas.fetch_or(Quotas::of_route(), Ordering::SeqCst);
            if pin.resolved.is_set(member) {
                // Whoever has resolved it meanwhile may not have seen the mark.
                self.table.leave_quotas(&pin, member, Status::Cancelled);
                continue;
            }
            if let Err(error) = self.try_again(&pin, member, Reason::First) {
                self.logger
                    .with(&[("route", (&route.name).into())])
                    .debug("route", format_args!("{}: {error}", route.name));
                self.table.resolve_early(ticket, error.status);
            }
        }
    }
}
