//! Models: loading, the table of what is loaded, and unloading.

use super::execute::execute;
use super::lifecycle::Core;
use super::{ModelId, Ticket, handle, next_generation, random_generation, unpack};
use crate::backend::{self, Interrupt, LoadRequest, Source};
use crate::config::ModelConfig;
use crate::error::{Error, Result, Status};
use crate::log::Logger;
use crate::memory::Reservation;
use crate::metrics::Traffic;
use crate::panics::catch;
use crate::scheduler::jobs::spawn;
use crate::scheduler::queue::Queue;
use crate::scheduler::selfcheck::{self, Verdict};
use crate::sync::{Mutex, RwLock, lock, read, write};
use crate::tensor::Signature;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
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
    pub queue: Queue<Ticket>,
    traffic: Arc<Traffic>,
    failures: AtomicU32,
    device_lost: AtomicBool,
    _memory: Reservation,
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

    /// Takes nothing more in, runs what is queued, and ends the lanes.
    pub fn drain(&self) {
        self.queue.close();
        for lane in std::mem::take(&mut *lock(&self.lanes)) {
            let _ = lane.join(); // a lane does not panic
        }
        self.queue.wait_drained(); // for a caller that runs its own request
    }
}

/// The models of an engine.
pub struct Models {
    table: RwLock<Vec<ModelSlot>>,
    /// `name:version` of models that are being loaded.
    loading: Mutex<HashSet<String>>,
    first_generation: u32,
}

struct ModelSlot {
    generation: u32,
    model: Option<Arc<LoadedModel>>,
}

impl Models {
    pub fn new() -> Self {
        Models { table: RwLock::default(), loading: Mutex::default(), first_generation: random_generation() }
    }

    pub fn get(&self, id: ModelId) -> Result<Arc<LoadedModel>> {
        let (index, generation) = unpack(id);
        read(&self.table)
            .get(index as usize)
            .filter(|slot| slot.generation == generation)
            .and_then(|slot| slot.model.clone())
            .ok_or_else(|| {
                Error::new(Status::NotFound, format!("there is no model {id:#x}; was it unloaded?"))
            })
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
        read(&self.table)
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((handle(index as u32, slot.generation), slot.model.clone()?)))
            .collect()
    }

    /// Takes a model out of the table: its handle is stale from now on.
    pub fn remove(&self, id: ModelId) -> Result<Arc<LoadedModel>> {
        let (index, generation) = unpack(id);
        let mut table = write(&self.table);
        let slot = table.get_mut(index as usize).filter(|slot| slot.generation == generation);
        let model = slot.and_then(|slot| {
            let model = slot.model.take()?;
            slot.generation = next_generation(slot.generation);
            Some(model)
        });
        model.ok_or_else(|| {
            Error::new(Status::NotFound, format!("there is no model {id:#x}; was it unloaded?"))
        })
    }

    fn insert(&self, model: Arc<LoadedModel>) -> ModelId {
        let mut table = write(&self.table);
        let index = table.iter().position(|slot| slot.model.is_none()).unwrap_or_else(|| {
            table.push(ModelSlot { generation: self.first_generation, model: None });
            table.len() - 1
        });
        table[index].model = Some(model);
        handle(index as u32, table[index].generation)
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
    if core.requests.is_closed() {
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
    let batching = catch(|| Ok(prepare(&config, &*backend, core, interrupt)))?;
    if interrupt.is_raised() {
        return Err(Error::new(Status::Cancelled, "loading was interrupted"));
    }
    let model = Arc::new(LoadedModel {
        queue: Queue::new(config.batching.clone(), config.lanes as usize),
        full_name,
        path,
        backend,
        batching,
        traffic: Arc::default(),
        failures: AtomicU32::new(0),
        device_lost: AtomicBool::new(false),
        _memory: memory,
        lanes: Mutex::default(),
        config,
    });
    if let Err(error) = start_lanes(core, &model) {
        model.drain();
        return Err(error);
    }
    let id = core.models.insert(Arc::clone(&model));
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

/// Decides on batching, and runs the model once so that the first request does not pay for it.
fn prepare(config: &ModelConfig, model: &dyn backend::Model, core: &Core, interrupt: &Interrupt) -> Verdict {
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
    if config.warmup && !model.rows_are_independent() {
        let rows = if verdict == Verdict::Independent { config.batching.max_rows } else { 1 };
        if let Err(error) = selfcheck::warm_up(model, rows as usize, interrupt) {
            core.logger.info("model", format_args!("{} was not warmed up: {error}", config.full_name()));
        }
    }
    verdict
}

fn start_lanes(core: &Arc<Core>, model: &Arc<LoadedModel>) -> Result<()> {
    if core.config.threads == Some(0) {
        return Ok(());
    }
    for lane in 0..model.config.lanes {
        let (core, lane_model) = (Arc::clone(core), Arc::clone(model));
        let run = move || {
            while let Some(batch) = lane_model.queue.next() {
                execute(&core, &lane_model, batch);
                lane_model.queue.finished();
            }
        };
        let name = format!("blaze-{lane}-{}", model.config.name);
        lock(&model.lanes).push(spawn(&name, run)?);
    }
    Ok(())
}
