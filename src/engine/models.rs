//! Models: loading, the table of what is loaded, and unloading.
#![allow(unsafe_code)]

use super::execute::execute;
use super::lifecycle::Core;
use super::lines::{self, Lines};
use super::queue::Queue;
use super::{ModelId, handle, next_generation, random_generation, unpack};
use crate::backend::{self, Interrupt, LoadRequest, Source, View};
use crate::clock::now_ns;
use crate::config::ModelConfig;
use crate::error::{Error, Result, Status};
use crate::log::Logger;
use crate::memory::Reservation;
use crate::metrics::Traffic;
use crate::panics::catch;
use crate::scheduler::jobs::spawn;
use crate::scheduler::selfcheck::{self, Verdict};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, lock, spin_loop};
use crate::tensor::Signature;
use std::collections::HashSet;
use std::ops::Deref;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::AtomicPtr;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// How well a model does, judged by its latest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ModelState {
    Ready = 1,
    /// The latest run failed.
    Degraded = 2,
    /// The device was lost, or the last runs failed, one after the other.
    Failed = 3,
}

impl ModelState {
    pub fn name(self) -> &'static str {
        match self {
            ModelState::Ready => "ready",
            ModelState::Degraded => "degraded",
            ModelState::Failed => "failed",
        }
    }
}

/// Failed runs in a row that make a model `Failed`.
const FAILED_AFTER: u32 = 5;

/// A model that can be run.
pub struct LoadedModel {
    config: ModelConfig,
    /// `name:version`.
    full_name: String,
    path: Option<PathBuf>,
    backend: Arc<dyn backend::Model>,
    /// Whether requests are joined, and if not, why.
    batching: Verdict,
    pub queue: Queue,
    traffic: Arc<Traffic>,
    failures: AtomicU32,
    device_lost: AtomicBool,
    _memory: Reservation,
    /// Whether the engine's crew runs its batches; if not, threads of its own do, or the host's.
    by_crew: bool,
    /// Threads of its own.
    lanes: Mutex<Vec<JoinHandle<()>>>,
}

impl LoadedModel {
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    pub fn path(&self) -> Option<&PathBuf> {
        self.path.as_ref()
    }

    pub fn backend(&self) -> &dyn backend::Model {
        &*self.backend
    }

    pub fn signature(&self) -> &Arc<Signature> {
        self.backend.signature()
    }

    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    pub fn batching(&self) -> &Verdict {
        &self.batching
    }

    /// Whether requests are joined along the first axis.
    pub fn joins_rows(&self) -> bool {
        self.batching == Verdict::Independent
    }

    /// Takes note of how a run went.
    pub fn record_outcome(&self, error: Option<&Error>, logger: &Logger) {
        let before = self.state();
        match error {
            None if before == ModelState::Ready => return,
            None => {
                self.failures.store(0, Ordering::Relaxed);
                self.device_lost.store(false, Ordering::Relaxed);
            }
            Some(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                if error.status == Status::DeviceLost {
                    self.device_lost.store(true, Ordering::Relaxed);
                }
            }
        }
        let after = self.state();
        if before != after {
            let reason = error.map(|error| format!(": {error}")).unwrap_or_default();
            logger.warn("model", format_args!("{} is {}{reason}", self.full_name, after.name()));
        }
    }

    pub fn state(&self) -> ModelState {
        if self.device_lost.load(Ordering::Relaxed) {
            return ModelState::Failed;
        }
        match self.failures.load(Ordering::Relaxed) {
            0 => ModelState::Ready,
            failures if failures < FAILED_AFTER => ModelState::Degraded,
            _ => ModelState::Failed,
        }
    }

    /// Runs what is queued, ends the lanes, and frees the memory of batches. Nobody submits any more.
    pub fn drain(&self, core: &Core) {
        self.queue.close();
        for lane in std::mem::take(&mut *lock(&self.lanes)) {
            let _ = lane.join(); // a lane does not panic
        }
        self.queue.wait_drained(); // for a caller that runs its own request
        core.crew.remove(self);
        self.queue.lines.each(|line| line.retire(&core.table));
    }
}

/// The models of an engine. Looking one up takes no lock.
pub struct Models {
    chunks: [OnceLock<Box<[ModelSlot]>>; CHUNKS],
    /// Slots in use or used before, changed under the lock.
    count: Mutex<usize>,
    /// No more requests: models that come are closed at once.
    closed: AtomicBool,
    /// `name:version` of models that are being loaded.
    loading: Mutex<HashSet<String>>,
    first_generation: u32,
}

const CHUNK: usize = 64;
const CHUNKS: usize = 256;

struct ModelSlot {
    /// Generation, whether it is closed to requests, and how many threads look at the model just now.
    state: AtomicU64,
    model: AtomicPtr<LoadedModel>,
}

const CLOSED: u64 = 1 << 31;
const USERS: u64 = CLOSED - 1;

/// A model that stays while this lives.
pub struct ModelPin<'a> {
    slot: &'a ModelSlot,
    model: &'a LoadedModel,
}

impl Deref for ModelPin<'_> {
    type Target = LoadedModel;

    fn deref(&self) -> &LoadedModel {
        self.model
    }
}

impl ModelPin<'_> {
    pub fn to_arc(&self) -> Arc<LoadedModel> {
        let pointer = ptr::from_ref(self.model);
        // SAFETY: the slot's pointer came from an `Arc`, whose count is at least one while the model is pinned.
        unsafe {
            Arc::increment_strong_count(pointer);
            Arc::from_raw(pointer)
        }
    }
}

impl Drop for ModelPin<'_> {
    fn drop(&mut self) {
        self.slot.state.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ModelSlot {
    fn wait_unused(&self) {
        let mut looks = 0u32;
        while self.state.load(Ordering::SeqCst) & USERS != 0 {
            // They are about to leave: nobody waits for anything while they look.
            looks += 1;
            if looks < 100 { spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Models {
    pub fn new() -> Self {
        Models {
            chunks: [const { OnceLock::new() }; CHUNKS],
            count: Mutex::new(0),
            closed: AtomicBool::new(false),
            loading: Mutex::default(),
            first_generation: random_generation(),
        }
    }

    fn slot(&self, index: usize) -> Option<&ModelSlot> {
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    /// The model with this handle, held in place. With `for_request`, only if it takes requests.
    #[inline]
    pub fn pin(&self, id: ModelId, for_request: bool) -> Result<ModelPin<'_>> {
        let (index, generation) = unpack(id);
        let slot = self.slot(index as usize).ok_or_else(|| not_found(id))?;
        let mut state = slot.state.load(Ordering::SeqCst);
        loop {
            if (state >> 32) as u32 != generation {
                return Err(not_found(id));
            }
            if for_request && state & CLOSED != 0 {
                return Err(Error::shut_down());
            }
            match slot.state.compare_exchange_weak(state, state + 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        let model = slot.model.load(Ordering::Acquire);
        // SAFETY: whoever takes the model out waits until nobody looks at it.
        match unsafe { model.as_ref() } {
            Some(model) => Ok(ModelPin { slot, model }),
            None => {
                slot.state.fetch_sub(1, Ordering::SeqCst);
                Err(not_found(id))
            }
        }
    }

    pub fn get(&self, id: ModelId) -> Result<Arc<LoadedModel>> {
        Ok(self.pin(id, false)?.to_arc())
    }

    /// The model called `name:version`, or the newest version of `name`.
    pub fn find(&self, name: &str) -> Result<ModelId> {
        let mut newest: Option<(u32, ModelId)> = None;
        for (id, model) in self.all() {
            let version = model.config.version;
            if model.full_name == name
                || (model.config.name == name && newest.is_none_or(|(v, _)| v < version))
            {
                newest = Some((version, id));
            }
        }
        newest
            .map(|(_, id)| id)
            .ok_or_else(|| Error::new(Status::NotFound, format!("there is no model called {name:?}")))
    }

    /// Every loaded model.
    pub fn all(&self) -> Vec<(ModelId, Arc<LoadedModel>)> {
        let count = *lock(&self.count);
        let model = |index: usize| {
            let generation = (self.slot(index)?.state.load(Ordering::SeqCst) >> 32) as u32;
            let id = handle(index as u32, generation);
            Some((id, self.get(id).ok()?))
        };
        (0..count).filter_map(model).collect()
    }

    /// Takes a model out of the table: its handle is stale from now on, and nobody submits to it any more.
    pub fn remove(&self, id: ModelId) -> Result<Arc<LoadedModel>> {
        let (index, generation) = unpack(id);
        let count = lock(&self.count);
        let slot = self.slot(index as usize).ok_or_else(|| not_found(id))?;
        let current = |state: u64| (state >> 32) as u32 == generation;
        if !current(slot.state.load(Ordering::SeqCst)) || slot.model.load(Ordering::Acquire).is_null() {
            return Err(not_found(id));
        }
        let next = u64::from(next_generation(generation)) << 32;
        let _ = slot
            .state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| Some(next | state & (USERS | CLOSED)));
        slot.wait_unused();
        let model = slot.model.swap(ptr::null_mut(), Ordering::AcqRel);
        drop(count);
        // SAFETY: put in by `insert` from an `Arc`, and taken out once.
        Ok(unsafe { Arc::from_raw(model) })
    }

    fn insert(&self, model: Arc<LoadedModel>) -> Result<ModelId> {
        let mut count = lock(&self.count);
        let free = (0..*count)
            .find(|&index| self.slot(index).is_some_and(|slot| slot.model.load(Ordering::Acquire).is_null()));
        let index = free.unwrap_or(*count);
        let chunk = self.chunks.get(index / CHUNK).ok_or_else(|| {
            Error::new(Status::OutOfMemory, format!("{} models are loaded, as many as there can be", *count))
        })?;
        let empty = |_| ModelSlot {
            state: AtomicU64::new(u64::from(self.first_generation) << 32),
            model: AtomicPtr::new(ptr::null_mut()),
        };
        let slot = &chunk.get_or_init(|| (0..CHUNK).map(empty).collect())[index % CHUNK];
        *count = (*count).max(index + 1);
        let id = handle(index as u32, (slot.state.load(Ordering::SeqCst) >> 32) as u32);
        model.queue.lines.set_model_id(id);
        if self.closed.load(Ordering::SeqCst) {
            slot.state.fetch_or(CLOSED, Ordering::SeqCst);
        }
        slot.model.store(Arc::into_raw(model).cast_mut(), Ordering::Release);
        Ok(id)
    }

    /// Refuses requests to all models from now on. When this returns, those that were accepted are written.
    pub fn close(&self) {
        let count = lock(&self.count);
        self.closed.store(true, Ordering::SeqCst);
        for slot in (0..*count).filter_map(|index| self.slot(index)) {
            slot.state.fetch_or(CLOSED, Ordering::SeqCst);
        }
        for slot in (0..*count).filter_map(|index| self.slot(index)) {
            slot.wait_unused();
        }
    }

    /// Claims a name for a load.
    fn claim_name<'a>(&'a self, full_name: &str) -> Result<NameClaim<'a>> {
        let mut loading = lock(&self.loading);
        if self.all().iter().any(|(_, model)| model.full_name == full_name) {
            return Err(Error::new(
                Status::AlreadyExists,
                format!("a model {full_name:?} is loaded already"),
            ));
        }
        if !loading.insert(full_name.to_owned()) {
            return Err(Error::new(Status::AlreadyExists, format!("a model {full_name:?} is being loaded")));
        }
        Ok(NameClaim { models: self, full_name: full_name.to_owned() })
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        for (id, _) in self.all() {
            let _ = self.remove(id);
        }
    }
}

#[cold]
fn not_found(id: ModelId) -> Error {
    Error::new(Status::NotFound, format!("there is no model {id:#x}; was it unloaded?"))
}

struct NameClaim<'a> {
    models: &'a Models,
    full_name: String,
}

impl Drop for NameClaim<'_> {
    fn drop(&mut self) {
        lock(&self.models.loading).remove(&self.full_name);
    }
}

/// Loads a model, checks it, starts its lanes, and puts it into the table.
pub fn load(
    core: &Arc<Core>,
    config: ModelConfig,
    bytes: Option<&[u8]>,
    interrupt: &Interrupt,
) -> Result<ModelId> {
    let full_name = config.full_name();
    load_named(core, config, bytes, interrupt).map_err(|error| {
        let error = error.within(format!("model {full_name:?}"));
        core.logger.error("model", format_args!("loading failed: {error}"));
        error
    })
}

fn load_named(
    core: &Arc<Core>,
    config: ModelConfig,
    bytes: Option<&[u8]>,
    interrupt: &Interrupt,
) -> Result<ModelId> {
    if core.table.is_closed() {
        return Err(Error::shut_down());
    }
    let full_name = config.full_name();
    let claim = core.models.claim_name(&full_name)?;
    let (source, path) = source(core, &config, bytes)?;
    let request = LoadRequest {
        config: &config,
        source,
        onnxruntime: &core.config.onnxruntime,
        logger: core.logger,
        interrupt,
    };
    let backend = catch(|| backend::load(&request))?;
    let memory = core.budget.reserve(backend.memory_bytes())?;
    lines::check_axes(backend.signature(), &config.batching.axes)?;
    let batching = catch(|| Ok(decide_batching(&config, &*backend, core, interrupt)))?;
    if interrupt.is_raised() {
        return Err(Error::new(Status::Cancelled, "loading was interrupted"));
    }
    let traffic: Arc<Traffic> = Arc::default();
    let joins = batching == Verdict::Independent;
    let max_rows = config.batching.max_rows as usize;
    let lines =
        Lines::new(Arc::clone(&backend), Arc::clone(&traffic), joins, max_rows, &config.batching.axes);
    let by_crew = core.serves(&*backend);
    let alarm = if by_crew { Arc::clone(core.crew.alarm()) } else { Arc::default() };
    let model = Arc::new(LoadedModel {
        queue: Queue::new(config.batching.clone(), config.lanes, &core.table, lines, alarm),
        by_crew,
        full_name,
        path,
        backend,
        batching,
        traffic,
        failures: AtomicU32::new(0),
        device_lost: AtomicBool::new(false),
        _memory: memory,
        lanes: Mutex::default(),
        config,
    });
    let started = catch(|| {
        warm_up(core, &model, interrupt)?;
        start_lanes(core, &model)
    });
    let interrupted = || Err(Error::new(Status::Cancelled, "loading was interrupted"));
    let started = started.and_then(|()| if interrupt.is_raised() { interrupted() } else { Ok(()) });
    let id = started.and_then(|()| core.models.insert(Arc::clone(&model)));
    let id = id.inspect_err(|_| model.drain(core))?;
    drop(claim);
    let provider = model.backend.provider();
    core.logger.info(
        "model",
        format_args!(
            "{} is loaded: backend {}, provider {}",
            model.full_name, model.config.backend, provider.used
        ),
    );
    Ok(id)
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
        selfcheck::rows_are_independent(model, interrupt)
    };
    if let Verdict::Alone(reason) = &verdict {
        core.logger.info("model", format_args!("{} is not batched: {reason}", config.full_name()));
    }
    verdict
}

/// Runs the model on zeros, so that the first requests find everything in place, and learns what runs cost.
fn warm_up(core: &Arc<Core>, model: &Arc<LoadedModel>, interrupt: &Interrupt) -> Result<()> {
    let usual = model.queue.lines.make_usual()?;
    if !model.config.warmup || model.backend.rows_are_independent() {
        return Ok(());
    }
    let log = |error: &Error| {
        core.logger.info("model", format_args!("{} was not warmed up: {error}", model.full_name));
    };
    let most = if model.joins_rows() { model.config.batching.max_rows as usize } else { 1 };
    let Some(line) = usual else {
        if let Err(error) = selfcheck::warm_up(&*model.backend, most, interrupt) {
            log(&error);
        }
        return Ok(());
    };
    let mut sizes: Vec<usize> = model.config.batching.buckets.iter().map(|&rows| rows as usize).collect();
    let must = sizes.len().max(1);
    if sizes.is_empty() {
        // The largest first: it is the one that must not be slow when it comes.
        sizes = std::iter::successors(Some(most), |&rows| (rows > 1).then(|| rows.next_power_of_two() / 2))
            .collect();
    }
    let seat = match line.alone(&core.table, &core.budget, 0, 1) {
        Ok(seat) => seat,
        Err(error) => {
            log(&error); // too little room in the budget, say
            return Ok(());
        }
    };
    // SAFETY: the batch is this thread's alone.
    let batch = unsafe { core.table.batch(seat.index) };
    let deadline = now_ns() + WARM_UP_NS;
    for (at, &rows) in sizes.iter().enumerate() {
        let (Some(layout), Some(memory)) = (line.layout(), &batch.memory) else { break };
        for _ in 0..3 {
            if interrupt.is_raised() || (at >= must && now_ns() > deadline) {
                break;
            }
            // SAFETY: as above.
            let (mut view, prepared) = unsafe { (View::new(memory, layout, 0, rows), batch.prepared()) };
            let started_ns = now_ns();
            let ran = prepared.map(|prepared| prepared.run(&mut view, interrupt));
            model.queue.costs.record(rows, now_ns() - started_ns);
            if let Some(Err(error)) = ran {
                log(&error);
                break;
            }
            if now_ns() > deadline {
                break;
            }
        }
    }
    batch.resolved.set(0); // nobody waits for anything
    core.table.let_go(seat.index, 2);
    Ok(())
}

/// How long to warm up, beyond what must be run.
const WARM_UP_NS: u64 = 100_000_000;

fn start_lanes(core: &Arc<Core>, model: &Arc<LoadedModel>) -> Result<()> {
    if core.config.threads == Some(0) {
        return Ok(());
    }
    if model.by_crew {
        return core.crew.add(core, model);
    }
    for lane in 0..model.config.lanes {
        let (core, lane_model) = (Arc::clone(core), Arc::clone(model));
        let run = move || {
            let (queue, gate) = (&lane_model.queue, core.gate_of(&lane_model));
            while let Some((index, pass)) = queue.next(gate, &core.spinning) {
                let active = core.spinning.compute();
                execute(&core, &lane_model, index);
                drop(active);
                drop(pass);
                queue.finished();
            }
        };
        let name = format!("blaze-{lane}-{}", model.config.name);
        lock(&model.lanes).push(spawn(&name, run)?);
    }
    Ok(())
}
