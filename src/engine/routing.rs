//! Picking a target for a request, and sending it there.

use super::admission::{Admitted, InputData, InputTensor, RequestDescription, admit};
use super::completion::CompletionQueue;
use super::event::Event;
use super::lifecycle::{Core, Queue};
use super::line::Seat;
use super::model::Model;
use super::models::ModelPin;
use super::quotas::Entry;
use super::routes::{Plan, Way};
use super::submit::Role;
use super::{Ticket, warm_up};
use crate::clock::now_ns;
use crate::config::HashOn;
use crate::error::{Error, Result, Status};
use crate::router::{Bars, Choice, mix};
use crate::sync::{AtomicU64, Ordering};
use crate::tensor::{Data, Tensor};
use std::sync::Arc;

/// What a pick goes by.
#[derive(Clone, Copy, Default)]
pub struct Asks {
    pub now: u64,
    pub session: u64,
    pub tenant: u64,
    pub key: u64,
    /// Numbers of ways that are not to be taken.
    pub tried: u64,
}

/// A way that was picked: it counts the attempt as under way.
pub struct Attempt<'a> {
    pub way: &'a Way,
    /// It has one of the places for probes.
    pub probes: bool,
    /// There is no attempt yet: the request waits for its turn.
    pub waits: bool,
    /// It is made because another takes long.
    pub hedges: bool,
}

impl<'a> Attempt<'a> {
    pub fn new(way: &'a Way) -> Self {
        Attempt { way, probes: false, waits: false, hedges: false }
    }
}

/// A request that its submitter waits for.
enum Begun {
    /// It has run on this thread.
    Here(Seat),
    /// Its event comes here.
    Queued(Arc<CompletionQueue>),
}

/// Which request a child works for, and where that one writes it down.
pub type ChildOf<'a> = (Ticket, Option<&'a AtomicU64>);

impl Way {
    /// Its bit in a set of ways that were tried.
    #[inline]
    pub fn bit(&self) -> u64 {
        1 << (self.number % 64)
    }
}

impl Plan {
    /// Attempts that were ever begun.
    pub fn requests(&self) -> u64 {
        self.targets.iter().map(|target| target.requests()).sum()
    }
}

impl Core {
    /// Picks a target, which counts the attempt from now on.
    #[inline]
    pub fn pick<'a>(&self, plan: &'a Plan, asks: &Asks) -> Result<Attempt<'a>> {
        self.rebind(plan);
        let (mut eligible, mut tripped, mut full) = (0u64, 0u64, 0u64);
        for (index, way) in plan.ways.iter().enumerate() {
            if asks.tried & way.bit() != 0 {
                continue;
            }
            let bit = 1 << index;
            match way.target.bars() {
                0 if way.target.is_full() => full |= bit,
                0 => eligible |= bit,
                Bars::TRIPPED => tripped |= bit,
                _ => (),
            }
        }
        if tripped != 0
            && let Some(attempt) = self.probe(plan, tripped, asks.now)
        {
            return Ok(attempt);
        }
        if eligible == 0 {
            return self.pick_anyway(plan, asks, full);
        }
        if plan.has_tiers {
            eligible = plan.lowest_tier(eligible);
        }
        let index = match plan.sticks_to(asks, eligible) {
            Some(index) => index,
            None => {
                let index = self.choose(plan, asks, eligible);
                plan.stick(asks, index);
                index
            }
        };
        let way = &plan.ways[index];
        way.target.begin();
        Ok(Attempt::new(way))
    }

    fn choose(&self, plan: &Plan, asks: &Asks, eligible: u64) -> usize {
        if eligible.is_power_of_two() {
            return eligible.trailing_zeros() as usize;
        }
        let key = match plan.config.hash_on {
            HashOn::Session => asks.session,
            HashOn::Tenant => asks.tenant,
            HashOn::Key => asks.key,
        };
        let load = |index: usize| plan.targets.get(index).map_or(f32::MAX, |target| self.load_of(target));
        let choice = Choice {
            targets: &plan.targets,
            eligible,
            now_ns: asks.now,
            key: if key == 0 { 0 } else { mix(key) },
            tenant: asks.tenant,
            session: asks.session,
            route_key: asks.key,
            load: &load,
        };
        let index = plan.strategy.pick(&choice);
        // A strategy of the host's may say anything.
        let good = index < 64 && eligible >> index & 1 != 0;
        if good { index } else { eligible.trailing_zeros() as usize }
    }

    /// A target whose breaker lets a probe through now.
    #[cold]
    fn probe<'a>(&self, plan: &'a Plan, mut tripped: u64, now: u64) -> Option<Attempt<'a>> {
        while tripped != 0 {
            let way = &plan.ways[tripped.trailing_zeros() as usize];
            tripped &= tripped - 1;
            let (probes, change) = way.target.try_probe(now);
            way.tell(change, self);
            if probes {
                way.target.begin();
                return Some(Attempt { probes: true, ..Attempt::new(way) });
            }
        }
        None
    }

    /// When no target is well: any that can be asked at all, which is better than none.
    #[cold]
    fn pick_anyway<'a>(&self, plan: &'a Plan, asks: &Asks, full: u64) -> Result<Attempt<'a>> {
        let mut possible = 0;
        for (index, way) in plan.ways.iter().enumerate() {
            let bars = way.target.bars();
            if asks.tried & way.bit() == 0 && bars & Bars::HARD == 0 && bars != 0 && !way.target.is_full() {
                possible |= 1 << index;
            }
        }
        let name = &plan.route.name;
        if possible != 0 && full == 0 {
            let way = &plan.ways[self.choose(plan, asks, possible)];
            way.target.begin();
            return Ok(Attempt::new(way));
        }
        plan.route.counters.no_target.fetch_add(1, Ordering::Relaxed);
        if full != 0 {
            let text = format!("route {name}: every target has as many requests as its concurrency allows");
            return Err(Error::new(Status::OverQuota, text));
        }
        let targets: Vec<&str> = plan.targets.iter().map(|target| target.name.as_str()).collect();
        let text = match targets.is_empty() {
            true => format!("route {name} has no targets"),
            false => format!("route {name}: none of its targets can be asked: {}", targets.join(", ")),
        };
        Err(Error::new(Status::NotFound, text))
    }

    /// Picks a target and pins its model; if that is gone meanwhile, another.
    pub(super) fn pick_model<'a>(
        &'a self,
        plan: &'a Plan,
        asks: &mut Asks,
    ) -> Result<(Attempt<'a>, ModelPin<'a>)> {
        loop {
            let attempt = self.pick(plan, asks)?;
            match self.models.pin(attempt.way.target.model.load(Ordering::Relaxed), true) {
                Ok(model) => return Ok((attempt, model)),
                Err(error) => {
                    attempt.way.give_up(attempt.probes);
                    if error.status != Status::NotFound {
                        return Err(error);
                    }
                    asks.tried |= attempt.way.bit();
                }
            }
        }
    }

    /// Submits a request to a route.
    pub(super) fn submit_routed(
        self: &Arc<Self>,
        description: &RequestDescription<'_>,
        queue: &Queue,
        now: u64,
    ) -> Result<Ticket> {
        if let Some(copied) = copying(description) {
            return self.submit_routed(&copied, queue, now);
        }
        let plan = self.routes.pin(description.model, true)?;
        self.check_devices(&plan, description)?;
        let mut asks = Asks::of(description, now);
        let mut admitted = Admitted::default();
        let (completion, route) = (queue.completion(), &plan.route);
        let (attempt, model, entry) = self.let_through(&plan, &mut asks, description, &mut admitted)?;
        let undo = |quotas| self.undo_limits(quotas, &model, Some(route), admitted.rows);
        let submitted = match entry {
            Entry::Enters(quotas) => {
                let role = Role { attempt: Some(&attempt), quotas, ..Role::default() };
                self.submit(description, &admitted, &model, Some(completion), now, &role).inspect_err(|_| {
                    attempt.way.give_up(attempt.probes);
                    undo(quotas);
                })
            }
            Entry::Waits(quotas) => {
                attempt.way.give_up(attempt.probes);
                self.wait_in_line(&plan, description, &admitted, &model, completion, now, quotas)
                    .inspect_err(|_| undo(quotas))
            }
        };
        self.warden.look();
        submitted
    }

    /// Picks a target that has room by its limits, and admits the request.
    fn let_through<'a, 'b>(
        &'a self,
        plan: &'a Plan,
        asks: &mut Asks,
        description: &'b RequestDescription<'_>,
        admitted: &mut Admitted<'b>,
    ) -> Result<(Attempt<'a>, ModelPin<'a>, Entry)> {
        let mut refusal: Option<Error> = None;
        loop {
            let (attempt, model) = match self.pick_model(plan, asks) {
                Ok(picked) => picked,
                Err(error) => return Err(refusal.unwrap_or(error)),
            };
            let undo = || attempt.way.give_up(attempt.probes);
            admit(description, &model, admitted).inspect_err(|_| undo())?;
            let limits = self.enter_limits(&model, Some(&plan.route), asks.tenant, admitted.rows, asks.now);
            let refused = match limits {
                Ok(entry) => return Ok((attempt, model, entry)),
                Err(refused) => refused,
            };
            undo();
            if !refused.by_model {
                return Err(refused.error);
            }
            asks.tried |= attempt.way.bit();
            *admitted = Admitted::default();
            refusal = Some(refused.error);
        }
    }

    /// Whether every target reaches the device that a request has to do with, if any.
    fn check_devices(&self, plan: &Plan, description: &RequestDescription<'_>) -> Result<()> {
        if !description.is_on_device() {
            return Ok(());
        }
        for way in &plan.ways {
            // One that has no model just now is not asked either.
            if let Ok(model) = self.models.pin(way.target.model.load(Ordering::SeqCst), false) {
                let name = &plan.route.name;
                description.device(&model).map_err(|error| error.within(format!("route {name:?}")))?;
            }
        }
        Ok(())
    }

    /// As `submit_routed`, and waits; the request runs on this thread if the target's model is idle.
    pub(super) fn infer_routed(
        self: &Arc<Self>,
        description: &RequestDescription<'_>,
        now: u64,
        deadline_ns: u64,
    ) -> Result<Event> {
        if let Some(copied) = copying(description) {
            return self.infer_routed(&copied, now, deadline_ns);
        }
        if self.config.threads == Some(0) {
            self.tend_if_due(); // a host that only infers never pumps
        }
        match self.begin_infer(description, now)? {
            Begun::Here(seat) => Ok(self.event_of_run(&seat)),
            Begun::Queued(completion) => {
                let event = self.wait_terminal(&completion, deadline_ns);
                self.table.put_queue(&completion);
                Ok(event)
            }
        }
    }

    /// Runs a request on this thread, or submits it. Nothing is pinned any more when it runs, or is waited for.
    fn begin_infer(self: &Arc<Self>, description: &RequestDescription<'_>, now: u64) -> Result<Begun> {
        let pin = self.routes.pin(description.model, true)?;
        let plan = pin.to_arc();
        self.check_devices(&plan, description)?;
        let mut asks = Asks::of(description, now);
        let mut admitted = Admitted::default();
        let (attempt, model, entry) = self.let_through(&plan, &mut asks, description, &mut admitted)?;
        self.warden.look();
        let undo = |quotas, model: &Model| {
            self.undo_limits(quotas, model, Some(&plan.route), admitted.rows);
        };
        let quotas = match entry {
            Entry::Enters(quotas) => quotas,
            Entry::Waits(quotas) => {
                attempt.way.give_up(attempt.probes);
                let completion = self.table.new_queue(2);
                let waits = self.wait_in_line(&pin, description, &admitted, &model, &completion, now, quotas);
                return self.queued(waits, completion).inspect_err(|_| undo(quotas, &model));
            }
        };
        let role = Role { attempt: Some(&attempt), quotas, ..Role::default() };
        let refused = |model: &Model| {
            attempt.way.give_up(attempt.probes);
            undo(quotas, model);
        };
        let (model, pin) = match self.run_here(description, &admitted, (model, pin), now, &role) {
            Ok(Ok(seat)) => return Ok(Begun::Here(seat)),
            Ok(Err(pins)) => pins,
            Err((error, (model, _))) => {
                refused(&model);
                return Err(error);
            }
        };
        let completion = self.table.new_queue(3); // what it says, its memory, its end
        let submitted = self.submit(description, &admitted, &model, Some(&completion), now, &role);
        drop(pin);
        self.queued(submitted, completion).inspect_err(|_| refused(&model))
    }

    fn queued(&self, submitted: Result<Ticket>, completion: Arc<CompletionQueue>) -> Result<Begun> {
        match submitted {
            Ok(_) => Ok(Begun::Queued(completion)),
            Err(error) => {
                self.table.put_queue(&completion);
                Err(error)
            }
        }
    }

    /// Sends a synthetic request to a way's model, which answers to nobody. Returns its ticket.
    pub fn send_check(self: &Arc<Self>, attempt: &Attempt<'_>, deadline_ns: u64) -> Result<Ticket> {
        let model = self.models.pin(attempt.way.target.model.load(Ordering::SeqCst), false)?;
        let inputs = warm_up::example(self, &model)?;
        self.submit_example(&model, &inputs, Some(attempt), deadline_ns)
    }

    /// Submits made-up inputs for nobody. It ends at the deadline, whoever else may have forgotten it.
    pub fn submit_example(
        self: &Arc<Self>,
        model: &ModelPin<'_>,
        inputs: &[Option<Tensor>],
        attempt: Option<&Attempt<'_>>,
        deadline_ns: u64,
    ) -> Result<Ticket> {
        let mut description = RequestDescription { level: 3, deadline_ns, ..RequestDescription::default() };
        for (tensor, spec) in inputs.iter().zip(&model.signature.inputs) {
            let Some(tensor) = tensor else { continue };
            let data = match &tensor.data {
                Data::Strings(strings) => InputData::Strings(strings.iter().collect()),
                _ => InputData::Copy(tensor.bytes()),
            };
            let (name, shape) = (Some(spec.name.as_str()), tensor.shape.as_slice());
            description.inputs.push(InputTensor { name, dtype: tensor.dtype, shape, data });
        }
        let mut admitted = Admitted::default();
        admit(&description, model, &mut admitted)?;
        self.submit_child(&description, &admitted, model, attempt, now_ns(), (0, None))
    }
}

impl Asks {
    fn of(description: &RequestDescription<'_>, now: u64) -> Self {
        let (session, tenant, key) = (description.session, description.tenant, description.route_key);
        Asks { now, session, tenant, key, tried: 0 }
    }
}

impl Plan {
    /// Those of the lowest tier among these.
    fn lowest_tier(&self, eligible: u64) -> u64 {
        let (mut lowest, mut best) = (u32::MAX, 0);
        for (index, target) in self.targets.iter().enumerate() {
            if eligible >> index & 1 == 0 {
                continue;
            }
            let tier = target.tier.load(Ordering::Relaxed);
            if tier < lowest {
                (lowest, best) = (tier, 0);
            }
            if tier == lowest {
                best |= 1 << index;
            }
        }
        best
    }

    /// The target that a session's requests go to, if it may be picked.
    #[inline]
    fn sticks_to(&self, asks: &Asks, eligible: u64) -> Option<usize> {
        let sessions = self.sessions.as_ref().filter(|_| asks.session != 0)?;
        let number = sessions.get(asks.session, asks.now)?;
        let index = self.ways.iter().position(|way| way.number == number)?;
        (eligible >> index & 1 != 0).then_some(index)
    }

    #[inline]
    fn stick(&self, asks: &Asks, index: usize) {
        if let Some(sessions) = self.sessions.as_ref().filter(|_| asks.session != 0) {
            sessions.put(asks.session, self.ways[index].number, asks.now);
        }
    }
}

/// For requests that lend their inputs: another attempt may need them when the host has them back, so they are copied.
fn copying<'a>(description: &'a RequestDescription<'_>) -> Option<RequestDescription<'a>> {
    if !description.inputs.iter().any(|input| matches!(input.data, InputData::Borrow(_))) {
        return None;
    }
    let inputs = description.inputs.iter().map(|input| InputTensor {
        name: input.name,
        dtype: input.dtype,
        shape: input.shape,
        data: match &input.data {
            InputData::Copy(bytes) => InputData::Copy(bytes),
            InputData::Borrow(bytes) => InputData::Copy(bytes.bytes()),
            InputData::Strings(texts) => InputData::Strings(texts.clone()),
            InputData::Device(range) => InputData::Device(*range),
        },
    });
    let outputs = description.outputs.iter().map(|output| super::admission::OutputBuffer {
        name: output.name,
        dtype: output.dtype,
        data: output.data.clone(),
    });
    Some(RequestDescription {
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        model: description.model,
        level: description.level,
        deadline_ns: description.deadline_ns,
        user_data: description.user_data,
        session: description.session,
        tenant: description.tenant,
        route_key: description.route_key,
        device_outputs: description.device_outputs,
    })
}
