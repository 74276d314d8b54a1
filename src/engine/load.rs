//! Loading a model: room for it, its backend, a check of its rows, a warm-up, and its place in the table.

use super::ModelId;
use super::execute::execute;
use super::lifecycle::Core;
use super::lines::{self, Lines};
use super::model::{Model, Parts};
use super::models::Claim;
use super::queue::{Alarm, Queue};
use super::residence::Residence;
use super::room::Underway;
use super::spans::LoadWatch;
use super::stepping::{self, Stepping};
use super::warm_up::warm_up;
use crate::backend::{self, Interrupt, LoadRequest, Room, Source};
use crate::clock::now_ns;
use crate::config::ModelConfig;
use crate::error::{Error, Result, Status};
use crate::features::{PLUGINS, TUNING};
use crate::memory::Reservation;
use crate::panics::catch;
use crate::platform;
use crate::router::Limits;
use crate::scheduler::gate::Share;
use crate::scheduler::jobs::spawn;
use crate::scheduler::selfcheck::{self, Verdict};
use crate::sync::{AtomicBool, Ordering, lock};
use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::Arc;

/// A backend that was loaded.
pub struct Brought {
    pub backend: Arc<dyn backend::Model>,
    /// What the ledger counts for it, besides what it counts itself.
    pub room: Reservation,
    pub load_ns: u64,
    /// Until others can have it evicted, they count on its bytes.
    pub underway: Underway,
}

/// How far a load has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Others are being loaded, or there is no room yet.
    Waiting = 0,
    /// The backend reads the model.
    Reading = 1,
    /// Its rows are checked for their independence.
    Checking = 2,
    WarmingUp = 3,
    /// It is there.
    Loaded = 4,
}

impl Stage {
    const ALL: [Stage; 5] =
        [Stage::Waiting, Stage::Reading, Stage::Checking, Stage::WarmingUp, Stage::Loaded];

    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// What of the load is done when the stage begins, from 0 to 1. Reading takes most of the time.
    pub fn fraction(self) -> f32 {
        match self {
            Stage::Waiting => 0.0,
            Stage::Reading => 0.05,
            Stage::Checking => 0.7,
            Stage::WarmingUp => 0.8,
            Stage::Loaded => 1.0,
        }
    }

    pub fn text(self) -> &'static CStr {
        match self {
            Stage::Waiting => c"waiting",
            Stage::Reading => c"reading",
            Stage::Checking => c"checking",
            Stage::WarmingUp => c"warming up",
            Stage::Loaded => c"loaded",
        }
    }
}

/// Who waits for a load: it can be interrupted, and hears how far it has come.
pub struct Order<'a> {
    pub interrupt: &'a Interrupt,
    pub progress: &'a dyn Fn(Stage),
    /// The profiler.
    pub watch: Option<&'a LoadWatch<'a>>,
}

impl Order<'_> {
    fn check(&self) -> Result<()> {
        match self.interrupt.is_raised() {
            true => Err(Error::new(Status::Cancelled, "loading was interrupted")),
            false => Ok(()),
        }
    }
}

/// Loads a model, checks it, starts its lanes, and puts it into the table. A load that is told again while it is under
/// way is waited for.
pub fn load(
    core: &Arc<Core>,
    config: ModelConfig,
    bytes: Option<&[u8]>,
    order: &Order<'_>,
) -> Result<ModelId> {
    let full_name = config.full_name();
    let claimed = if bytes.is_some() { None } else { Some(&config) };
    let claim = match core.models.claim(&full_name, claimed, order.interrupt)? {
        Claim::Mine(claim) => claim,
        Claim::Loaded(id) => return Ok(id),
    };
    let loaded = load_apart(core, config, bytes, order).and_then(|(model, _underway)| {
        let id = core.models.insert(Arc::clone(&model)).inspect_err(|_| model.drain(core))?;
        Ok((id, model))
    });
    match loaded {
        Ok((id, model)) => {
            claim.end(Ok(id));
            log_loaded(core, &model);
            Ok(id)
        }
        Err(error) => {
            core.pool.trim(0); // what the load has left there
            claim.end(Err(error.clone()));
            Err(error)
        }
    }
}

/// Loads a model as `load` does, but does not put it into the table, until when what it takes is to be kept as under
/// way.
pub fn load_apart(
    core: &Arc<Core>,
    config: ModelConfig,
    bytes: Option<&[u8]>,
    order: &Order<'_>,
) -> Result<(Arc<Model>, Underway)> {
    let full_name = config.full_name();
    let _coming = core.models.come(&full_name);
    let watch = core.table.spans.watch_load(&full_name);
    let progress = |stage| {
        watch.stage(stage);
        (order.progress)(stage);
    };
    let watched = Order { interrupt: order.interrupt, progress: &progress, watch: Some(&watch) };
    let prepared = prepare(core, config, bytes, &watched);
    watch.end(prepared.as_ref().err());
    prepared.map_err(|error| {
        let error = error.within(format!("model {full_name:?}"));
        if error.status != Status::Cancelled {
            core.logger
                .with(&[("model", (&full_name).into()), ("status", error.status.name().into())])
                .error("model", format_args!("loading failed: {error}"));
        }
        error
    })
}

pub fn log_loaded(core: &Core, model: &Model) {
    let (name, backend) = (&model.full_name, &model.config.backend);
    let (provider, report) = (model.provider().used, model.residence.report());
    core.logger
        .with(&[("model", name.into()), ("bytes", report.bytes.into()), ("took_ns", report.load_ns.into())])
        .info(
            "model",
            format_args!("{name} is loaded: backend {backend}, provider {provider}, {} bytes", report.bytes),
        );
}

fn prepare(
    core: &Arc<Core>,
    config: ModelConfig,
    bytes: Option<&[u8]>,
    order: &Order<'_>,
) -> Result<(Arc<Model>, Underway)> {
    if core.table.is_closed() {
        return Err(Error::shut_down());
    }
    let (source, path) = source(core, &config, bytes)?;
    let brought = bring(core, &config, source, order)?;
    let backend = Arc::clone(&brought.backend);
    lines::check_axes(backend.signature(), &config.batching.axes)?;
    let stepwise = PLUGINS.built && Arc::clone(&backend).stepwise().is_some();
    if stepwise {
        stepping::check(&config)?;
    }
    order.check()?;
    (order.progress)(Stage::Checking);
    let batching = match stepwise {
        true => Verdict::Alone("it advances by steps".into()),
        false => catch(|| Ok(decide_batching(&config, &*backend, core, order.interrupt)))?,
    };
    order.check()?;
    let traffic = core.metrics.fleet.join();
    let limits = Arc::new(Limits::new(&config.limits));
    let joins = batching == Verdict::Independent;
    let max_rows = config.batching.max_rows as usize;
    let lines = Lines::new(
        backend.signature(),
        Arc::clone(&traffic),
        Arc::clone(&limits),
        joins,
        max_rows,
        &config.batching.axes,
    )
    .with_pool(backend.batch_pool());
    let lines = if stepwise { lines.bare() } else { lines };
    let gated = core.serves(&*backend);
    let by_crew = gated && !stepwise;
    let alarm: Arc<Alarm> = if by_crew { Arc::clone(core.crew.alarm()) } else { Arc::default() };
    let stepping = stepwise.then(|| Stepping::new(&alarm));
    let lanes = if stepwise { config.batching.max_rows } else { config.lanes };
    let queue = Queue::new(&config.batching, lanes, &core.table, lines, alarm);
    let (signature, devices) = (Arc::clone(backend.signature()), backend.devices().to_vec());
    let (residence, underway) = Residence::new(brought);
    let intra_op_threads = config.intra_op_threads.unwrap_or(core.config.onnxruntime.intra_op_threads);
    let model = Model::new(Parts {
        config,
        path,
        from_memory: bytes.is_some(),
        signature,
        devices,
        batching,
        queue,
        residence,
        traffic,
        limits,
        by_crew,
        gated,
        stepping,
        intra_op_threads,
    });
    drop(backend);
    (order.progress)(Stage::WarmingUp);
    let started = catch(|| {
        let learned = if TUNING.built && model.config.tuning { core.load_learned(&model) } else { None };
        if let Some(learned) = learned
            && let Err(error) = core.change(&model, |_| learned)
        {
            let name = &model.full_name;
            core.logger.warn("tuning", format_args!("{name} cannot be set as was learned: {error}"));
        }
        warm_up(core, &model, order.interrupt)?;
        order.check()?;
        start_lanes(core, &model)
    });
    started.and_then(|()| order.check()).inspect_err(|_| model.drain(core))?;
    (order.progress)(Stage::Loaded);
    Ok((model, underway))
}

/// Waits for its turn and for room, and loads the backend.
fn bring(core: &Arc<Core>, config: &ModelConfig, source: Source<'_>, order: &Order<'_>) -> Result<Brought> {
    (order.progress)(Stage::Waiting);
    let share = Share::default();
    let wanted = || !order.interrupt.is_raised();
    let Some(_turn) = core.loads.enter(&share, wanted) else {
        return Err(Error::new(Status::Cancelled, "loading was interrupted"));
    };
    let mut request = LoadRequest {
        config,
        source,
        onnxruntime: &core.config.onnxruntime,
        logger: core.logger.clone(),
        interrupt: order.interrupt,
        pool: &core.pool,
        sessions: &core.sessions,
        devices: &core.devices,
        room: Room::default(),
        device_is_full: AtomicBool::new(false),
    };
    let loader = core.backend(&config.backend)?;
    let estimate = catch(|| loader.estimate(&request))?;
    let name = config.full_name();
    let reservation = core.room_for(&name, estimate.bytes, estimate.loading_bytes, order.interrupt)?;
    let underway = core.underway(if config.pinned { 0 } else { reservation.bytes() });
    request.room = Room::new(reservation);
    (order.progress)(Stage::Reading);
    if let Some(watch) = order.watch {
        watch.reads(estimate.file_bytes);
    }
    let began = now_ns();
    let mut loaded = catch(|| loader.load(&request));
    if matches!(&loaded, Err(error) if matches!(error.status, Status::OutOfMemory | Status::OverBudget))
        && !order.interrupt.is_raised()
        && !request.device_is_full.load(Ordering::Relaxed)
    {
        core.logger
            .with(&[("model", (&name).into())])
            .warn("memory", format_args!("{name}: out of memory while loading; it is tried once more"));
        core.evict_idle(&format!("{name} found no memory"));
        core.give_back_heap();
        loaded = catch(|| loader.load(&request));
    }
    let load_ns = now_ns() - began;
    // What reading it took, also if that has failed.
    platform::trim_thread_heap();
    core.give_back_heap();
    let backend = loaded?;
    let room = request.room.end();
    let mut room = room.ok_or_else(|| Error::new(Status::Internal, "what was reserved is gone"))?;
    room.resize_forced(backend.uncounted_bytes());
    // What was believed to be enough may not have been. If requests or a new budget are why it does not fit any more, it is
    // not for this model to go.
    match backend.shared_by() == 1 && backend.memory_bytes() > estimate.bytes {
        true => core.check_room(&name, order.interrupt)?,
        false => core.relieve_if_over(),
    }
    Ok(Brought { backend, room, load_ns, underway })
}

/// Loads the backend of a model that was evicted.
pub fn bring_back(core: &Arc<Core>, model: &Arc<Model>) -> Result<Brought> {
    let watch = core.table.spans.watch_load(&model.full_name);
    let progress = |stage| watch.stage(stage);
    let order = Order { interrupt: &model.residence.interrupt, progress: &progress, watch: Some(&watch) };
    let source = model.path.clone().map_or(Source::None, Source::File);
    let threads = model.intra_op_threads.load(Ordering::Relaxed);
    let config = ModelConfig { intra_op_threads: Some(threads), ..model.config.clone() };
    let brought = bring(core, &config, source, &order);
    watch.end(brought.as_ref().err());
    let brought = brought?;
    if **brought.backend.signature() != *model.signature || brought.backend.stamp() != model.residence.stamp {
        let text = "its files have changed since it was loaded; unload it and load it again";
        return Err(Error::new(Status::ModelInvalid, text));
    }
    Ok(brought)
}

fn source<'a>(
    core: &Core,
    config: &ModelConfig,
    bytes: Option<&'a [u8]>,
) -> Result<(Source<'a>, Option<PathBuf>)> {
    match (&config.path, bytes) {
        (Some(_), Some(_)) => {
            Err(Error::new(Status::InvalidConfig, "path: must be left out for a model given from memory"))
        }
        (None, Some(bytes)) => Ok((Source::Memory(bytes), None)),
        (None, None) => Ok((Source::None, None)),
        (Some(path), None) => {
            let directory = core.config.model_directory.as_deref().unwrap_or("");
            let path = PathBuf::from(directory).join(path);
            Ok((Source::File(path.clone()), Some(path)))
        }
    }
}

/// Whether rows of several requests may be joined.
fn decide_batching(
    config: &ModelConfig,
    model: &dyn backend::Model,
    core: &Core,
    interrupt: &Interrupt,
) -> Verdict {
    let verdict = if config.batching.max_rows == 1 {
        Verdict::Alone("batching.max_rows is 1".into())
    } else if let Some(obstacle) = model.signature().batching_obstacle() {
        Verdict::Alone(obstacle)
    } else if model.rows_are_independent() {
        Verdict::Independent
    } else {
        selfcheck::rows_are_independent(model, &core.pool, interrupt)
    };
    if let Verdict::Alone(reason) = &verdict {
        let name = config.full_name();
        core.logger
            .with(&[("model", (&name).into())])
            .info("model", format_args!("{name} is not batched: {reason}"));
    }
    verdict
}

fn start_lanes(core: &Arc<Core>, model: &Arc<Model>) -> Result<()> {
    core.start_observer();
    if core.config.threads == Some(0) {
        return Ok(());
    }
    if model.is_stepwise() {
        return Stepping::start(core, model);
    }
    if model.by_crew {
        return core.crew.add(core, model);
    }
    start_lane_threads(core, model)
}

/// For a model with threads of its own: as many as there are lanes. When there are fewer lanes, threads are left over, and
/// sleep.
pub fn start_lane_threads(core: &Arc<Core>, model: &Arc<Model>) -> Result<()> {
    let mut threads = lock(&model.lanes);
    for lane in threads.len()..model.queue.lanes() as usize {
        let (core, lane_model) = (Arc::clone(core), Arc::clone(model));
        let run = move || {
            let (queue, gate) = (&lane_model.queue, core.gate_of(&lane_model));
            while let Some((index, pass)) = queue.next(gate, &core.spinning, &core.rest()) {
                let active = core.spinning.compute();
                execute(&core, &lane_model, index);
                drop(active);
                drop(pass);
                queue.finished();
            }
        };
        let name = format!("blaze-{lane}-{}", model.config.name);
        threads.push(spawn(&name, run)?);
    }
    Ok(())
}
