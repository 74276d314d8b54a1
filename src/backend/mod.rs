//! What runs models: the traits that every backend implements, and an engine's list of backends.

mod batch;
mod devices;
mod foreign;
mod interrupt;
pub mod mock;
pub mod onnx;
mod room;
mod stepwise;

pub use batch::{Copying, Layout, Memory, Part, Prepared, View};
pub use devices::{Device, Devices, MakesRoom, Need, free_bytes};
pub use foreign::{Foreign, plugin};
pub use interrupt::{HookGuard, Interrupt, Stopper};
pub use onnx::Sessions;
pub use room::Room;
pub use stepwise::{Sequence, Sink, Stepwise};

use crate::config::{ModelConfig, OnnxRuntimeConfig};
use crate::error::{Error, Result, Status};
use crate::log::Logger;
use crate::memory::Pool;
use crate::sync::{AtomicBool, Mutex, lock};
use crate::tensor::{OutputPlace, Signature, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// What loading a model needs to know.
pub struct LoadRequest<'a> {
    pub config: &'a ModelConfig,
    pub source: Source<'a>,
    pub onnxruntime: &'a OnnxRuntimeConfig,
    pub logger: Logger,
    /// Where the model's buffers come from.
    pub pool: &'a Arc<Pool>,
    /// Raised when nobody wants the model any more.
    pub interrupt: &'a Interrupt,
    /// Sessions that other models may have loaded already.
    pub sessions: &'a Sessions,
    /// What there is of devices' memory, and what may be taken of it.
    pub devices: &'a Arc<Devices>,
    /// What is reserved for the model.
    pub room: Room,
    /// Set if a device had no room for the model, so that room on the host is no help.
    pub device_is_full: AtomicBool,
}

/// What loading a model will take, as well as can be told before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes of the model.
    pub bytes: u64,
    /// Bytes that loading it takes besides.
    pub loading_bytes: u64,
    /// Bytes of the files that are read.
    pub file_bytes: u64,
}

/// Where a model's bytes are.
pub enum Source<'a> {
    File(PathBuf),
    Memory(&'a [u8]),
    /// The backend needs none.
    None,
}

/// A loaded model. Lanes call `run` at the same time.
pub trait Model: Send + Sync {
    /// The inputs and outputs, in the order in which `run` takes and gives them.
    fn signature(&self) -> &Arc<Signature>;

    /// Runs the model once. `inputs` are in the signature's order; `None` is an optional input that was not
    /// given. Returns every output. May be told through `interrupt` that the result is not wanted.
    fn run(&self, inputs: &[Option<Tensor>], interrupt: &Interrupt) -> Result<Vec<Tensor>>;

    /// Numbers of the devices in whose memory inputs and outputs may be.
    fn devices(&self) -> &[i32] {
        &[]
    }

    /// As `run`, with inputs that may be on one of its devices, and each output where it is wanted.
    fn run_placed(
        &self,
        inputs: &[Option<Tensor>],
        outputs: &[OutputPlace],
        interrupt: &Interrupt,
    ) -> Result<Vec<Tensor>> {
        let _ = (inputs, outputs, interrupt);
        Err(Error::new(Status::Unsupported, "the model takes no tensors in a device's memory"))
    }

    /// As `run`; the backend writes its own profile to files that begin with `prefix`, if it has any.
    fn run_profiled(
        &self,
        inputs: &[Option<Tensor>],
        interrupt: &Interrupt,
        prefix: &Path,
    ) -> Result<Vec<Tensor>> {
        let _ = prefix;
        self.run(inputs, interrupt)
    }

    /// Whether it can write a profile.
    fn has_profiles(&self) -> bool {
        false
    }

    /// Makes ready what runs in this memory need, so that they need nothing else. `None`: nothing can be.
    fn prepare(
        self: Arc<Self>,
        memory: Arc<Memory>,
        layout: Arc<Layout>,
    ) -> Result<Option<Box<dyn Prepared>>> {
        let _ = (memory, layout);
        Ok(None)
    }

    /// Itself, if it advances its requests by steps rather than runs them.
    fn stepwise(self: Arc<Self>) -> Option<Arc<dyn Stepwise>> {
        None
    }

    /// Whether a run keeps a core of this machine busy.
    fn computes_on_cpu(&self) -> bool {
        true
    }

    /// Whether the backend knows that rows do not influence each other, so that no check runs are needed.
    fn rows_are_independent(&self) -> bool {
        false
    }

    /// The execution provider really used, and what became of those before it.
    fn provider(&self) -> ProviderReport;

    /// Bytes that the model takes, besides the memory of its batches.
    fn memory_bytes(&self) -> u64;

    /// Those of them that the backend has not taken from the ledger by itself.
    fn uncounted_bytes(&self) -> u64 {
        self.memory_bytes()
    }

    /// Bytes that it has taken of devices' memory, by the devices' names.
    fn device_bytes(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// Where the memory of its batches comes from; `None`: from the engine's own pool.
    fn batch_pool(&self) -> Option<Arc<Pool>> {
        None
    }

    /// How many models have those bytes in common, this one among them.
    fn shared_by(&self) -> u64 {
        1
    }

    /// What changes when the files do that the model was loaded from; `None`: there are none.
    fn stamp(&self) -> Option<String> {
        None
    }

    /// What tells, when the model is dropped, how many of its bytes are still there: because an output that is not
    /// released needs them, or another model.
    fn remains(&self) -> Box<dyn Fn() -> u64 + Send> {
        Box::new(|| 0)
    }
}

/// How the list of execution providers was resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ProviderReport {
    /// The provider that runs the model.
    pub used: String,
    /// Providers earlier in the list, and why each is not used.
    pub rejected: Vec<RejectedProvider>,
    /// How many of the model's operators each provider has; empty if nobody knows.
    pub operators: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RejectedProvider {
    pub provider: String,
    pub reason: String,
}

/// Something that loads a kind of model.
pub trait Backend: Send + Sync {
    /// What a model's configuration calls it.
    fn name(&self) -> &str;

    /// It is an engine's from now on: before anything else is asked of it.
    fn begin(&self) {}

    /// What loading a model will take, as well as can be told before.
    fn estimate(&self, request: &LoadRequest<'_>) -> Result<Estimate>;

    fn load(&self, request: &LoadRequest<'_>) -> Result<Arc<dyn Model>>;

    /// What it says of itself and of its devices, for health.
    fn report(&self) -> Option<serde_json::Value> {
        None
    }
}

/// An engine's backends, by name.
pub struct Backends {
    all: RwLock<Vec<Arc<dyn Backend>>>,
    /// Held by whoever adds one.
    adding: Mutex<()>,
}

impl Default for Backends {
    /// Those that every engine has.
    fn default() -> Self {
        Backends {
            all: RwLock::new(vec![Arc::new(onnx::Onnx), Arc::new(mock::Mock)]),
            adding: Mutex::default(),
        }
    }
}

impl Backends {
    fn all(&self) -> RwLockReadGuard<'_, Vec<Arc<dyn Backend>>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, and has it begin, unless there is one of that name.
    pub fn add(&self, backend: Arc<dyn Backend>) -> Result<()> {
        let _one_at_a_time = lock(&self.adding);
        if self.all().iter().any(|other| other.name() == backend.name()) {
            let text = format!("there is a backend {:?} already", backend.name());
            return Err(Error::new(Status::AlreadyExists, text));
        }
        // Before anybody finds it; it may take its time, in which others are found.
        backend.begin();
        self.all.write().unwrap_or_else(PoisonError::into_inner).push(backend);
        Ok(())
    }

    /// The one of this name.
    pub fn find(&self, name: &str) -> Result<Arc<dyn Backend>> {
        let backends = self.all();
        backends.iter().find(|backend| backend.name() == name).cloned().ok_or_else(|| {
            let known: Vec<String> = backends.iter().map(|backend| format!("{:?}", backend.name())).collect();
            Error::new(
                Status::InvalidConfig,
                format!("backend: {name:?} is unknown; this engine has {}", known.join(", ")),
            )
        })
    }

    /// Lets go of all of them: they are closed. Nobody loads any more.
    pub fn close(&self) {
        let all = std::mem::take(&mut *self.all.write().unwrap_or_else(PoisonError::into_inner));
        drop(all); // not under the lock
    }

    /// Their names, and what those say of themselves that do.
    pub fn reports(&self) -> Vec<serde_json::Value> {
        // Not under the lock: a backend may take its time.
        let backends = self.all().clone();
        let report = |backend: &Arc<dyn Backend>| serde_json::json!({"name": backend.name(), "report": backend.report()});
        backends.iter().map(report).collect()
    }
}
