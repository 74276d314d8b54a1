//! Routes: names that stand for several models, and the table of them.
//!
//! What requests look at is a plan, which never changes: whoever changes a route makes another plan and puts it into
//! the old one's place. Targets go over from one to the other with all that is known of them.

use super::ModelId;
use super::batch::Batch;
use super::lifecycle::Core;
use super::model::Model;
use super::slots::{Pinned, Slots};
use super::waiting::Waiting;
use super::warden::{Check, Warden};
use crate::clock::now_ns;
use crate::config::{RouteConfig, TargetConfig};
use crate::error::{Error, Result, Status};
use crate::features::ROUTER;
use crate::metrics::Ended;
use crate::router::{Bars, Change, Limits, Peers, RetryBudget, Sessions, Strategy, Tally, Target, make};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, lock};
use crate::tensor::{Dim, Signature, TensorSpec};
use std::collections::HashMap;
use std::sync::Arc;

/// In a handle: it is a route's.
const TAG: u32 = 1 << 31;

/// Whether a handle may be a route's.
#[inline]
pub fn is_route(id: ModelId) -> bool {
    ROUTER.built && id as u32 & TAG != 0
}

/// What stays the same however a route is changed.
pub struct Route {
    pub name: String,
    pub id: AtomicU64,
    /// For how long what was seen of targets counts.
    pub memory_ns: AtomicU64,
    /// A request whose attempts have all taken too long has failed.
    pub gives_up: AtomicBool,
    pub peers: Arc<Peers>,
    pub counters: Counters,
    pub limits: Limits,
    pub retries: RetryBudget,
    pub hedges: RetryBudget,
    pub waiting: Waiting,
    pub warden: Arc<Warden>,
}

/// What has happened to a route's requests.
#[derive(Default)]
pub struct Counters {
    /// Requests that have ended.
    pub ended: Ended,
    /// Attempts that were begun because another had failed.
    pub failovers: AtomicU64,
    /// Attempts that were begun because another took long.
    pub hedges: AtomicU64,
    /// Hedges that answered first.
    pub hedges_won: AtomicU64,
    /// Attempts that took too long.
    pub timeouts: AtomicU64,
    /// Failed requests that were not tried again because the budget was used up.
    pub over_budget: AtomicU64,
    /// Requests for which no target could be asked.
    pub no_target: AtomicU64,
    /// Requests that failed after all.
    pub exhausted: AtomicU64,
}

/// A route's way to one of its models. Pointers to it carry marks in their lowest bits.
#[repr(align(64))]
pub struct Way {
    pub route: Arc<Route>,
    pub target: Arc<Target>,
    /// Tells it from the route's other ways, now and earlier ones; below 64 it tells those that are there now apart.
    pub number: u32,
    /// Why it cannot be used though its model is there.
    pub problem: Mutex<Option<String>>,
    /// After so long a hedge is due; `u64::MAX`: never.
    pub hedge_ns: AtomicU64,
    /// After so long an attempt counts as failed; `u64::MAX`: never.
    pub timeout_ns: AtomicU64,
    /// One of a hundred calls takes longer; 0: not known.
    pub seldom_ns: AtomicU64,
    pub check: Check,
    /// A change of the breaker that is not in the log yet.
    untold: Mutex<Option<Change>>,
}

/// A route as it is just now.
pub struct Plan {
    pub route: Arc<Route>,
    pub config: RouteConfig,
    pub ways: Vec<Arc<Way>>,
    /// Of the ways, in the same order.
    pub targets: Vec<Arc<Target>>,
    pub strategy: Arc<dyn Strategy>,
    pub sessions: Option<Arc<Sessions>>,
    /// What requests that wait point to: a way to nowhere.
    pub porch: Arc<Way>,
    /// Not all targets are of the same tier.
    pub has_tiers: bool,
    /// Which models there were when it was last looked.
    bound: AtomicU64,
}

/// A route that stays as it is while this lives.
pub type PlanPin<'a> = Pinned<'a, Plan>;

/// The strategies that the host has registered.
type Registered = HashMap<String, Arc<dyn Strategy>>;

/// The routes of an engine.
pub struct Routes {
    slots: Slots<Plan>,
    /// Held by whoever changes routes.
    names: Mutex<HashMap<String, ModelId>>,
    /// Ways of old plans, to which requests may still point.
    retired: Mutex<Vec<Arc<Way>>>,
    registered: Mutex<Registered>,
    count: AtomicU32,
}

impl Way {
    fn new(route: &Arc<Route>, target: &TargetConfig, config: &RouteConfig, number: u32) -> Arc<Self> {
        Arc::new(Way {
            route: Arc::clone(route),
            target: Target::new(target, config.breaker.clone(), &route.peers),
            number,
            problem: Mutex::default(),
            hedge_ns: AtomicU64::new(u64::MAX),
            timeout_ns: AtomicU64::new(u64::MAX),
            seldom_ns: AtomicU64::new(0),
            check: Check::default(),
            untold: Mutex::default(),
        })
    }

    /// Accounts for attempts that one run has answered; says so if that changes the breaker's state.
    pub fn record(&self, tally: Tally, probes: u32, why: &str, now_ns: u64, core: &Core) {
        let memory_ns = self.route.memory_ns.load(Ordering::Relaxed);
        self.target.end(tally.calls);
        let change = self.target.record(tally, why, now_ns, memory_ns);
        (0..probes).for_each(|_| self.target.breaker.probed());
        self.tell(change, core);
    }

    /// An attempt has ended with neither.
    pub fn give_up(&self, probes: bool) {
        self.target.end(1);
        self.target.given_up.add(1);
        if probes {
            self.target.breaker.probed();
        }
    }

    /// An attempt is not waited for any more, because another has answered, within `other_ns`: it took so long at least.
    pub fn outrun(&self, probes: bool, age_ns: u64, other_ns: u64, now_ns: u64, core: &Core) {
        let memory_ns = self.route.memory_ns.load(Ordering::Relaxed);
        let seldom = age_ns > self.seldom_ns.load(Ordering::Relaxed) && age_ns > 4 * other_ns;
        let slow = seldom || age_ns > self.target.slow_ns.load(Ordering::Relaxed);
        let change = self.target.outrun(age_ns, slow, now_ns, memory_ns);
        self.give_up(probes);
        self.tell(change, core);
    }

    /// An attempt's request has expired. That is the target's failure, if it has had it for longer than it should take.
    #[cold]
    pub fn expire(&self, probes: bool, age_ns: u64, now_ns: u64) {
        let slow_ns = self.target.slow_ns.load(Ordering::Relaxed);
        if age_ns <= slow_ns {
            return self.give_up(probes);
        }
        self.target.end(1);
        let mut tally = Tally::default();
        tally.add(age_ns, true, slow_ns);
        let memory_ns = self.route.memory_ns.load(Ordering::Relaxed);
        let change = self.target.record(tally, "no answer until the deadline", now_ns, memory_ns);
        if probes {
            self.target.breaker.probed();
        }
        if change.is_some() {
            *lock(&self.untold) = change;
            self.route.warden.wake();
        }
    }

    /// A change of the breaker that is not in the log yet.
    pub fn untold(&self) -> Option<Change> {
        lock(&self.untold).take()
    }

    /// How long to wait before another target is asked too, for a request with this deadline (0: none): until half of the
    /// time is gone, and it takes longer than all but a few do.
    pub fn patience_ns(&self, submitted_ns: u64, deadline_ns: u64) -> u64 {
        let seldom_ns = self.seldom_ns.load(Ordering::Relaxed);
        if deadline_ns == 0 || seldom_ns == 0 || self.timeout_ns.load(Ordering::Relaxed) == u64::MAX {
            return u64::MAX;
        }
        seldom_ns.max(deadline_ns.saturating_sub(submitted_ns) / 2)
    }

    pub fn tell(&self, change: Option<Change>, core: &Core) {
        let Some(change) = change else { return };
        let (route, target) = (&self.route.name, &self.target.name);
        let (from, to) = (change.from.name(), change.to.name());
        core.logger.with(&[("route", route.into()), ("target", target.into()), ("state", to.into())]).warn(
            "route",
            format_args!("{route}: the breaker of {target} goes from {from} to {to}: {}", change.reason),
        );
        core.warden.wake();
    }
}

impl Plan {
    fn new(
        route: &Arc<Route>,
        config: RouteConfig,
        before: Option<&Plan>,
        strategy: Option<Arc<dyn Strategy>>,
    ) -> Result<Self> {
        // Breakers are made with their configuration: with another one, what is known of targets is forgotten.
        let old = before.filter(|old| old.config.breaker == config.breaker).map_or(&[][..], |old| &old.ways);
        let mut ways: Vec<Arc<Way>> = Vec::new();
        for target in &config.targets {
            let known = old.iter().find(|way| way.target.name == target.model);
            if let Some(way) = known {
                way.target.configure(target);
                ways.push(Arc::clone(way));
                continue;
            }
            let used = |number: u32| {
                old.iter().any(|way| way.number % 64 == number)
                    || ways.iter().any(|way| way.number % 64 == number)
            };
            let number = (0..64).find(|&number| !used(number)).unwrap_or(63);
            ways.push(Way::new(route, target, &config, number));
        }
        let targets: Vec<Arc<Target>> = ways.iter().map(|way| Arc::clone(&way.target)).collect();
        let built_in = || make(&config.strategy, &targets).map(Arc::from);
        let strategy = strategy.or_else(built_in).ok_or_else(|| {
            let (name, known) = (&config.strategy.name, crate::router::BUILT_IN.join(", "));
            let text = format!("strategy: there is no strategy {name:?}; there are {known}");
            Error::new(Status::InvalidConfig, text)
        })?;
        let sticky = &config.sticky;
        let known = before.filter(|old| old.config.sticky == *sticky).and_then(|old| old.sessions.clone());
        let ttl_ns = u64::from(sticky.ttl_ms) * 1_000_000;
        let sessions = || Arc::new(Sessions::new(sticky.capacity as usize, ttl_ns));
        let sessions = sticky.enabled.then(|| known.unwrap_or_else(sessions));
        let porch = before.map(|old| Arc::clone(&old.porch)).unwrap_or_else(|| {
            let nowhere = TargetConfig { model: String::new(), weight: 1, tier: 0, concurrency: None };
            Way::new(route, &nowhere, &config, 0)
        });
        Ok(Plan {
            sessions,
            porch,
            route: Arc::clone(route),
            has_tiers: config.targets.iter().any(|target| target.tier != config.targets[0].tier),
            bound: AtomicU64::new(u64::MAX),
            config,
            ways,
            targets,
            strategy,
        })
    }
}

impl Plan {
    /// Takes over what a route keeps from plan to plan.
    fn settle(&self) {
        let (route, config) = (&self.route, &self.config);
        route.peers.set(&self.targets);
        let learns = config.strategy.name == "adaptive";
        self.targets.iter().for_each(|target| target.learns.store(learns, Ordering::Relaxed));
        route.memory_ns.store(u64::from(config.strategy.memory_ms) * 1_000_000, Ordering::Relaxed);
        let says_how_long = config.retry.attempt_timeout_ms.is_some_and(|ms| ms > 0);
        route.gives_up.store(says_how_long, Ordering::Relaxed);
        route.limits.set(&config.limits);
        route.waiting.set_capacity(config.limits.waiting);
        route.retries.set(config.retry.budget, config.retry.reserve);
        route.hedges.set(config.hedge.budget, 0);
    }
}

impl Default for Routes {
    fn default() -> Self {
        Routes {
            slots: Slots::new("model or route", TAG),
            names: Mutex::default(),
            retired: Mutex::default(),
            registered: Mutex::default(),
            count: AtomicU32::new(0),
        }
    }
}

impl Routes {
    /// The plan of the route with this handle, held in place. With `open`, only if it takes requests.
    #[inline]
    pub fn pin(&self, id: ModelId, open: bool) -> Result<PlanPin<'_>> {
        self.slots.pin(id, open)
    }

    pub fn find(&self, name: &str) -> Option<ModelId> {
        lock(&self.names).get(name).copied()
    }

    /// Every route.
    pub fn all(&self) -> Vec<(ModelId, Arc<Plan>)> {
        if ROUTER.built { self.slots.all() } else { Vec::new() }
    }

    /// Looks at every route. Takes no lock.
    pub fn each(&self, mut look: impl FnMut(&PlanPin<'_>)) {
        if ROUTER.built {
            self.slots.each(|_, pin| look(pin));
        }
    }

    pub fn is_empty(&self) -> bool {
        !ROUTER.built || self.count.load(Ordering::Relaxed) == 0
    }

    /// Refuses requests to all routes from now on.
    pub fn close(&self) {
        self.slots.close();
    }

    /// Makes a strategy of the host's known, for routes that are made or changed from now on.
    pub fn register(&self, name: &str, strategy: Arc<dyn Strategy>) -> Result<()> {
        let mut registered = lock(&self.registered);
        if crate::router::BUILT_IN.contains(&name) || registered.contains_key(name) {
            return Err(Error::new(Status::AlreadyExists, format!("there is a strategy {name:?} already")));
        }
        registered.insert(name.to_owned(), strategy);
        Ok(())
    }

    fn registered(&self, name: &str) -> Option<Arc<dyn Strategy>> {
        lock(&self.registered).get(name).cloned()
    }

    /// Frees ways that no request points to any more.
    pub fn sweep(&self, core: &Core) {
        let mut retired = lock(&self.retired);
        if retired.is_empty() {
            return;
        }
        let mut used = Vec::new();
        core.table.each(|pin| {
            each_routed(core, pin, |batch, member| {
                used.extend(batch.cold(member).hop.way_address());
            })
        });
        retired.retain(|way| used.contains(&Arc::as_ptr(way).addr()));
    }
}

/// Looks at the members of a batch that came through routes.
pub fn each_routed(core: &Core, batch: &Batch, mut look: impl FnMut(&Batch, usize)) {
    if !batch.has_routed() {
        return;
    }
    for member in 0..core.table.slot(batch.index).claims.counts().members {
        if batch.written.is_set(member)
            && batch.flags(member).is_some_and(|flags| flags.routed || flags.child)
        {
            look(batch, member);
        }
    }
}

impl Core {
    /// Makes a route.
    pub fn create_route(self: &Arc<Self>, config: RouteConfig) -> Result<ModelId> {
        let mut names = lock(&self.routes.names);
        if self.table.is_closed() {
            return Err(Error::shut_down());
        }
        let name = config.name.clone();
        if names.contains_key(&name) {
            return Err(Error::new(Status::AlreadyExists, format!("there is a route {name:?} already")));
        }
        if self.models.find(&name).is_ok() {
            let text = format!("there is a model {name:?}, and a route is found by its name like one");
            return Err(Error::new(Status::AlreadyExists, text));
        }
        let route = Arc::new(Route {
            name: name.clone(),
            id: AtomicU64::new(0),
            memory_ns: AtomicU64::new(0),
            gives_up: AtomicBool::new(false),
            peers: Arc::default(),
            counters: Counters::default(),
            limits: Limits::default(),
            retries: RetryBudget::new(0.0, 0, 0, now_ns()),
            hedges: RetryBudget::new(0.0, 0, 0, now_ns()),
            waiting: Waiting::default(),
            warden: Arc::clone(&self.warden),
        });
        let strategy = self.routes.registered(&config.strategy.name);
        let plan = Arc::new(Plan::new(&route, config, None, strategy)?);
        self.bind(&plan)?;
        plan.settle();
        let id = self.routes.slots.insert(&plan, false, |id| route.id.store(id, Ordering::SeqCst))?;
        names.insert(name, id);
        self.routes.count.fetch_add(1, Ordering::Relaxed);
        self.start_warden();
        self.warden.wake(); // it may have run before, with no route to look after
        Ok(id)
    }

    /// Changes a route. Requests that are under way end as they would have.
    pub fn change_route(
        self: &Arc<Self>,
        id: ModelId,
        change: impl FnOnce(&mut RouteConfig) -> Result<()>,
    ) -> Result<()> {
        let _names = lock(&self.routes.names);
        let old = self.routes.pin(id, true)?.to_arc();
        let mut config = old.config.clone();
        change(&mut config)?;
        if config.name != old.config.name {
            let text = format!("name: the route is called {:?}, which cannot be changed", old.config.name);
            return Err(Error::new(Status::InvalidConfig, text));
        }
        let strategy = self.routes.registered(&config.strategy.name);
        let plan = Arc::new(Plan::new(&old.route, config, Some(&old), strategy)?);
        self.bind(&plan)?;
        plan.settle();
        drop(self.routes.slots.swap(id, &plan)?);
        self.retire(&old, &plan.ways);
        self.warden.wake(); // more requests may come in than before
        Ok(())
    }

    /// Takes a route out: its handle is stale from now on. Requests that are under way end where they are.
    pub fn destroy_route(&self, id: ModelId) -> Result<()> {
        let mut names = lock(&self.routes.names);
        let old = self.routes.slots.remove(id)?;
        names.remove(&old.route.name);
        self.routes.count.fetch_sub(1, Ordering::Relaxed);
        old.route.waiting.end(self);
        lock(&self.routes.retired).push(Arc::clone(&old.porch));
        self.retire(&old, &[]);
        Ok(())
    }

    /// The engine's end: nothing is under way any more.
    pub fn drop_routes(&self) {
        for (id, _) in self.routes.all() {
            let _ = self.destroy_route(id); // it is there
        }
        lock(&self.routes.retired).clear();
    }

    /// Ways of a plan that is no more wait until no request points to them.
    fn retire(&self, old: &Arc<Plan>, kept: &[Arc<Way>]) {
        let gone = old.ways.iter().filter(|way| !kept.iter().any(|other| Arc::ptr_eq(way, other)));
        let mut retired = lock(&self.routes.retired);
        for way in gone {
            if let Some(sessions) = &old.sessions {
                sessions.forget_target(way.number);
            }
            retired.push(Arc::clone(way));
        }
        drop(retired);
        self.routes.sweep(self);
    }

    pub fn add_target(self: &Arc<Self>, id: ModelId, target: TargetConfig) -> Result<()> {
        self.change_route(id, |config| {
            if config.targets.iter().any(|other| other.model == target.model) {
                let text = format!("the route has a target {:?} already", target.model);
                return Err(Error::new(Status::AlreadyExists, text));
            }
            config.targets.push(target);
            config.check_whole()
        })
    }

    pub fn remove_target(self: &Arc<Self>, id: ModelId, name: &str) -> Result<()> {
        self.change_route(id, |config| {
            let before = config.targets.len();
            config.targets.retain(|target| target.model != name);
            if config.targets.len() == before {
                return Err(no_target(name));
            }
            Ok(())
        })
    }

    /// A target that drains gets no more requests, and keeps those it has.
    pub fn drain_target(&self, id: ModelId, name: &str, drain: bool) -> Result<()> {
        let plan = self.routes.pin(id, false)?;
        let target = plan.targets.iter().find(|target| target.name == name).ok_or_else(|| no_target(name))?;
        target.bar(Bars::DRAINING, drain);
        Ok(())
    }

    /// Looks again which models there are, if that may have changed.
    #[inline]
    pub fn rebind(&self, plan: &Plan) {
        if plan.bound.load(Ordering::Relaxed) != self.models.changes() {
            let _ = self.bind(plan); // what does not fit is not used, and says why
        }
    }

    /// Finds the models of a plan's targets. An error if two of them cannot stand for one another.
    #[cold]
    fn bind(&self, plan: &Plan) -> Result<()> {
        // Before the look: what changes meanwhile is looked at again.
        let changes = self.models.changes();
        let mut first: Option<(String, Arc<Signature>)> = None;
        let mut worst = Ok(());
        for way in &plan.ways {
            let found = self.models.find(&way.target.name).and_then(|id| Ok((id, self.models.get(id)?)));
            let mut problem = None;
            let id = match found {
                Err(_) => 0,
                Ok((id, model)) => match &first {
                    Some((name, signature)) if let Some(why) = differ(signature, &model.signature) => {
                        let text = format!("{} cannot stand for {name}: {why}", way.target.name);
                        problem = Some(text.clone());
                        worst = Err(Error::new(Status::InvalidConfig, format!("targets: {text}")));
                        0
                    }
                    known => {
                        if known.is_none() {
                            first = Some((way.target.name.clone(), Arc::clone(&model.signature)));
                        }
                        id
                    }
                },
            };
            *lock(&way.problem) = problem;
            way.target.model.store(id, Ordering::SeqCst);
            way.target.bar(Bars::UNBOUND, id == 0);
        }
        plan.bound.store(changes, Ordering::SeqCst);
        worst
    }

    /// How full a model is, for strategies: batches that wait, run and fill, over what its lanes run at once.
    pub fn load_of(&self, target: &Target) -> f32 {
        let Ok(model) = self.models.pin(target.model.load(Ordering::Relaxed), false) else { return f32::MAX };
        let memory = self.ledger.limit().map_or(0.0, |limit| match model.residence.is_away() {
            true => self.ledger.used() as f32 / limit.max(1) as f32,
            false => 0.0,
        });
        model.load() + memory
    }
}

impl Model {
    /// Batches that wait, run and fill, over what its lanes run at once.
    pub fn load(&self) -> f32 {
        self.queue.load() / self.queue.lanes().max(1) as f32
    }
}

fn no_target(name: &str) -> Error {
    Error::new(Status::NotFound, format!("the route has no target {name:?}"))
}

/// Why a request for one model cannot go to the other.
fn differ(one: &Signature, other: &Signature) -> Option<String> {
    let sides = [("input", &one.inputs, &other.inputs), ("output", &one.outputs, &other.outputs)];
    sides.into_iter().find_map(|(kind, these, those)| {
        if these.len() != those.len() {
            return Some(format!("it has {} {kind}s rather than {}", those.len(), these.len()));
        }
        these.iter().zip(those).find_map(|(this, that)| differ_in(kind, this, that))
    })
}

fn differ_in(kind: &str, this: &TensorSpec, that: &TensorSpec) -> Option<String> {
    if this.name != that.name {
        return Some(format!("its {kind} {:?} is called {:?} there", that.name, this.name));
    }
    if this.dtype != that.dtype {
        let (dtype, other) = (that.dtype.name(), this.dtype.name());
        return Some(format!("its {kind} {:?} is of {dtype} rather than {other}", that.name));
    }
    let fits = this.dims.len() == that.dims.len()
        && this.dims.iter().zip(&that.dims).all(|pair| match pair {
            (Dim::Fixed(size), Dim::Fixed(other)) => size == other,
            _ => true,
        });
    (!fits).then(|| format!("its {kind} {:?} has another shape", that.name))
}
