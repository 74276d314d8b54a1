//! A model: what it is, what waits for it, and how well it does. Its backend may leave memory and come back: see
//! `residence`.

use super::lifecycle::Core;
use super::observer::Performance;
use super::queue::Queue;
use super::residence::Residence;
use super::stepping::Stepping;
use super::warden::Mending;
use crate::backend::{self, Copying, Layout, Memory, Prepared, ProviderReport};
use crate::config::ModelConfig;
use crate::error::{Error, Result, Status};
use crate::features::PLUGINS;
use crate::log::Logger;
use crate::memory::Pool;
use crate::metrics::Traffic;
use crate::router::Limits;
use crate::scheduler::selfcheck::Verdict;
use crate::sync::{AtomicBool, AtomicU32, Mutex, Ordering, lock};
use crate::tensor::Signature;
use std::path::PathBuf;
use std::sync::Arc;
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
pub struct Model {
    pub config: ModelConfig,
    /// `name:version`.
    pub full_name: String,
    pub path: Option<PathBuf>,
    /// Its bytes were the host's, and are not there any more.
    pub from_memory: bool,
    pub signature: Arc<Signature>,
    /// Numbers of the devices in whose memory requests' tensors may be.
    pub devices: Vec<i32>,
    /// Whether requests are joined, and if not, why.
    pub batching: Verdict,
    pub queue: Queue,
    pub residence: Residence,
    pub traffic: Arc<Traffic>,
    pub limits: Arc<Limits>,
    /// How many loads have asked for it: it goes when all of them were cancelled. See `Models::release`.
    pub wanted: AtomicU32,
    /// Threads that one run may use inside an operator, as it is just now.
    pub intra_op_threads: AtomicU32,
    /// Held while settings are changed; how often they were.
    pub changing: Mutex<u64>,
    failures: AtomicU32,
    /// Why the latest failed run failed.
    pub last_error: Mutex<Option<String>>,
    device_lost: AtomicBool,
    pub mending: Mending,
    pub performance: Performance,
    /// Whether the engine's crew runs its batches; if not, threads of its own do, or the host's.
    pub by_crew: bool,
    /// Its batches, or steps, take a place among those of the engine's threads.
    pub gated: bool,
    /// It advances by steps.
    stepping: Option<Stepping>,
    /// It is a version of the repository's, which alone takes it out again.
    pub is_version: AtomicBool,
    /// Threads of its own: as many as there were ever lanes.
    pub lanes: Mutex<Vec<JoinHandle<()>>>,
}

/// What a model is made of.
pub struct Parts {
    pub config: ModelConfig,
    pub path: Option<PathBuf>,
    pub from_memory: bool,
    pub signature: Arc<Signature>,
    pub devices: Vec<i32>,
    pub batching: Verdict,
    pub queue: Queue,
    pub residence: Residence,
    pub traffic: Arc<Traffic>,
    pub limits: Arc<Limits>,
    pub by_crew: bool,
    pub gated: bool,
    pub stepping: Option<Stepping>,
    pub intra_op_threads: u32,
}

impl Model {
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { config, path, signature, batching, queue, residence, traffic, limits, .. } = parts;
        Arc::new(Model {
            full_name: config.full_name(),
            wanted: AtomicU32::new(1),
            intra_op_threads: AtomicU32::new(parts.intra_op_threads),
            changing: Mutex::default(),
            failures: AtomicU32::new(0),
            last_error: Mutex::default(),
            device_lost: AtomicBool::new(false),
            mending: Mending::default(),
            performance: Performance::default(),
            is_version: AtomicBool::new(false),
            lanes: Mutex::default(),
            from_memory: parts.from_memory,
            config,
            path,
            devices: parts.devices,
            signature,
            batching,
            queue,
            residence,
            traffic,
            limits,
            by_crew: parts.by_crew,
            gated: parts.gated,
            stepping: parts.stepping,
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    pub fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// Whether requests are joined along the first axis.
    pub fn joins_rows(&self) -> bool {
        self.batching == Verdict::Independent
    }

    /// Whether its requests advance by steps, together.
    #[inline]
    pub fn is_stepwise(&self) -> bool {
        self.stepping().is_some()
    }

    /// What advances its requests by steps.
    #[inline]
    pub fn stepping(&self) -> Option<&Stepping> {
        self.stepping.as_ref().filter(|_| PLUGINS.built)
    }

    /// Batches that may be computed at once.
    pub fn lanes(&self) -> u32 {
        if self.is_stepwise() { 1 } else { self.queue.lanes() }
    }

    /// For whoever may run it: its backend, or why there is none.
    pub fn backend(&self) -> Result<Arc<dyn backend::Model>> {
        self.residence.backend()
    }

    /// The execution provider that is used, or was when the model was last in memory.
    pub fn provider(&self) -> ProviderReport {
        self.residence.provider()
    }

    /// Makes ready what batches in this memory need.
    pub fn prepare(
        &self,
        memory: &Arc<Memory>,
        layout: &Arc<Layout>,
        pool: &Arc<Pool>,
    ) -> Result<Box<dyn Prepared>> {
        let backend = self.backend()?;
        let ready = Arc::clone(&backend).prepare(Arc::clone(memory), Arc::clone(layout))?;
        Ok(ready.unwrap_or_else(|| Box::new(Copying(backend, Arc::clone(pool)))))
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
                *lock(&self.last_error) = Some(error.message.clone());
                if error.status == Status::DeviceLost {
                    self.device_lost.store(true, Ordering::Relaxed);
                }
            }
        }
        let after = self.state();
        if before != after {
            let reason = error.map(|error| format!(": {error}")).unwrap_or_default();
            logger
                .with(&[("model", (&self.full_name).into()), ("state", after.name().into())])
                .warn("model", format_args!("{} is {}{reason}", self.full_name, after.name()));
        }
    }

    /// Runs that have failed, one after the other.
    pub fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether its device is lost: nothing but loading it anew helps.
    pub fn is_lost(&self) -> bool {
        self.device_lost.load(Ordering::Relaxed)
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
    pub fn drain(self: &Arc<Self>, core: &Arc<Core>) {
        self.queue.close();
        core.end_residence(self);
        for lane in std::mem::take(&mut *lock(&self.lanes)) {
            let _ = lane.join(); // a lane does not panic
        }
        self.queue.wait_drained(); // for a caller that runs its own request
        core.crew.remove(self);
        self.queue.lines.each(|line| line.retire(&core.table));
        self.residence.free(self, core);
    }
}
