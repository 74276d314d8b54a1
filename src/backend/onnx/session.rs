//! One ONNX Runtime session per model, shared by its lanes.
#![allow(unsafe_code)]

use super::batch::OnnxBatch;
use super::binding::{self, OnDevice};
use super::ending;
use super::files::{self, Files};
use super::library;
use super::memory::{self, Account};
use super::pinned::{self, Pinned};
use super::provider::Provider;
use super::providers::{self, Choice, Trouble};
use super::register::{self, Refusal};
use super::sessions::Place;
use super::value::{Value, check, dtype_of, failed, host_memory};
use crate::backend::{
    Estimate, HookGuard, Interrupt, Layout, LoadRequest, Memory, Model, Prepared, ProviderReport, Source,
};
use crate::error::{Error, Result, Status};
use crate::features::{PLUGINS, PROVIDERS};
use crate::log::{Level, Logger};
use crate::memory::{Kind, Pool, Reservation};
use crate::platform;
use crate::tensor::{Dim, OutputPlace, Signature, Tensor, TensorSpec};
use ort::AsPointer;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::MemoryInfo;
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use ort::session::{RunOptions, Session};
use ort::sys;
use ort::value::ValueType;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

struct OnnxModel {
    loaded: Arc<Loaded>,
}

/// A session as it was loaded, which models of the same file have in common.
pub struct Loaded {
    shared: Arc<Shared>,
    report: ProviderReport,
    computes_on_cpu: bool,
    /// Where requests' own tensors may be besides the host's memory.
    on_device: Option<OnDevice>,
    /// Its number.
    devices: Vec<i32>,
    /// Where batches are, so that the device reaches them.
    pinned: Option<Arc<Pool>>,
    /// Bytes besides the weights: the graph, and what ONNX Runtime keeps about it.
    graph: Reservation,
    stamp: Option<String>,
}

/// What a model's batches share.
pub struct Shared {
    pub session: ManuallyDrop<Session>,
    pub signature: Arc<Signature>,
    pub memory: MemoryInfo<'static>,
    /// The outputs' shapes turned out not to be as declared.
    pub outputs_vary: AtomicBool,
    pub account: Arc<Account>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // At the end of the process it goes with the rest.
        if let Ok(_inside) = ending::enter() {
            // SAFETY: not used again.
            unsafe { ManuallyDrop::drop(&mut self.session) };
        }
    }
}

// SAFETY: ONNX Runtime's `Run` may be called from several threads on one session; everything else is
// immutable after loading.
unsafe impl Sync for Shared {}
// SAFETY: nothing in a session is tied to the thread that made it.
unsafe impl Send for Shared {}

/// Loads an ONNX model with the first execution provider of its list that works.
pub fn load(request: &LoadRequest<'_>) -> Result<Arc<dyn Model>> {
    let providers: Vec<Provider> = request
        .config
        .providers
        .iter()
        .enumerate()
        .map(|(index, config)| Provider::parse(index, config, |device| device_budget(request, device)))
        .collect::<Result<_>>()?;
    providers::check(&providers)?;
    let files = files::look(&request.source)?;
    // ONNX Runtime's threads inherit it.
    let _blocked = platform::block_signals();
    let _inside = ending::enter()?;
    let environment = library::environment(request.onnxruntime.library.as_deref())?;
    let place = match &files.stamp {
        Some(stamp) => Some(request.sessions.place(&key(request, stamp), request.interrupt)?),
        None => None,
    };
    if let Some(loaded) = place.as_ref().and_then(Place::loaded) {
        return Ok(Arc::new(OnnxModel { loaded }));
    }
    let loaded = memory::within_means(|| load_session(request, providers, environment, files))?;
    // The first sessions make most of what ONNX Runtime takes down at the end.
    static FIRST: std::sync::Once = std::sync::Once::new();
    FIRST.call_once(ending::watch);
    if let Some(mut place) = place {
        place.fill(&loaded);
    }
    Ok(Arc::new(OnnxModel { loaded }))
}

/// What sessions must have in common to be one.
fn key(request: &LoadRequest<'_>, stamp: &str) -> String {
    let options = request.onnxruntime;
    let how = (options.arena, options.memory_pattern, intra_op_threads(request), request.config.prepack);
    format!("{stamp}{:?}{how:?}", request.config.providers)
}

/// Threads that one run may use inside an operator.
fn intra_op_threads(request: &LoadRequest<'_>) -> u32 {
    request.config.intra_op_threads.unwrap_or(request.onnxruntime.intra_op_threads)
}

/// Bytes that a device may give; `None`: as many as it has. The one place that knows where budgets are.
fn device_budget(request: &LoadRequest<'_>, device: &str) -> Option<u64> {
    request.devices.budget_of(device)
}

/// What a load takes, by the sizes of the files.
pub fn estimate(request: &LoadRequest<'_>) -> Result<Estimate> {
    let files = files::look(&request.source)?;
    if let Some(stamp) = &files.stamp
        && request.sessions.has(&key(request, stamp))
    {
        return Ok(Estimate::default());
    }
    // Reading a file of weights takes up to three quarters of it besides.
    let bytes = files.bytes + files.bytes / 64 + GRAPH_BYTES;
    Ok(Estimate { bytes, loading_bytes: files.bytes / 4 * 3, file_bytes: files.bytes })
}

/// What the smallest graph takes.
const GRAPH_BYTES: u64 = 256 << 10;

fn load_session(
    request: &LoadRequest<'_>,
    providers: Vec<Provider>,
    environment: &Environment,
    files: Files,
) -> Result<Arc<Loaded>> {
    let account = Account::new(request.pool, &request.room);
    let _entered = account.enter();
    let before = platform::heap_in_use();
    let asked_for = providers.iter().any(|provider| !provider.is_cpu());
    let choice = if PROVIDERS.built {
        providers::choose(providers, |providers, cpu_allowed| {
            let session = commit(environment, request, providers, cpu_allowed)?;
            let operators = register::operators(&session);
            Ok((session, operators))
        })?
    } else {
        let attempt = |_: &[Provider], _| Ok((commit(environment, request, &[], true)?, None));
        providers::on_cpu(attempt, Vec::new())?
    };
    if asked_for && PROVIDERS.built {
        let level = if choice.report.rejected.is_empty() { Level::Info } else { Level::Warn };
        request
            .logger
            .with(&[
                ("model", (&request.config.full_name()).into()),
                ("provider", choice.report.used.as_str().into()),
            ])
            .log(level, "onnx", format_args!("{}", providers::summary(&choice.report)));
    }
    finish(request, choice, &account, before, &files)
}

/// Makes a session with some providers besides the CPU's.
fn commit(
    environment: &Environment,
    request: &LoadRequest<'_>,
    providers: &[Provider],
    cpu_allowed: bool,
) -> Result<Session, Trouble> {
    let mut builder = builder(environment, request).map_err(|error| Trouble::Fatal(failed(&error)))?;
    for (at, provider) in providers.iter().enumerate().filter(|_| PROVIDERS.built) {
        register::register(&mut builder, provider).map_err(|refusal| match refusal {
            Refusal::Unavailable(reason) => Trouble::Refused { at, reason },
            Refusal::Options(error) => Trouble::Fatal(error),
        })?;
    }
    if !providers.is_empty() && !cpu_allowed {
        builder = builder
            .with_disable_cpu_fallback()
            .map_err(|error| Trouble::Fatal(failed(&ort::Error::from(error))))?;
    }
    let canceler = builder.canceler();
    let hook = request.interrupt.hook(Box::new(move || {
        // A canceler fails only when the commit is over.
        let _ = canceler.cancel();
    }));
    let session = match &request.source {
        Source::File(path) => builder.commit_from_file(path),
        Source::Memory(bytes) => builder.commit_from_memory(bytes),
        Source::None => Err(ort::Error::new("the onnx backend needs a model")),
    };
    drop(hook);
    session.map_err(|error| {
        use ort::ErrorCode as Code;
        match error.code() {
            _ if request.interrupt.is_raised() => {
                Trouble::Fatal(Error::new(Status::Cancelled, "loading was interrupted"))
            }
            // Where only the CPU's provider is left, which is always there, and where there is no model: the trouble is the
            // model's.
            _ if providers.is_empty() => Trouble::Fatal(model_error(&error, &request.source)),
            Code::NoSuchFile | Code::NoModel | Code::InvalidProtobuf => {
                Trouble::Fatal(model_error(&error, &request.source))
            }
            _ => Trouble::Failed(register::plain(error.message()).to_owned()),
        }
    })
}

/// What all sessions are made with.
fn builder(environment: &Environment, request: &LoadRequest<'_>) -> Result<SessionBuilder, ort::Error> {
    let threads = intra_op_threads(request) as usize;
    let mut builder = SessionBuilder::new(environment)?
        .with_auto_device(AutoDevicePolicy::Default)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_log_level(session_level(&request.logger))?
        .with_logger(session_logger(request.logger.clone()))?
        .with_memory_pattern(request.onnxruntime.memory_pattern)?
        .with_prepacking(request.config.prepack)?;
    if PROVIDERS.built {
        builder = builder.with_config_entry("session.record_ep_graph_assignment_info", "1")?;
    }
    if !request.onnxruntime.arena {
        builder = builder.with_env_allocators()?;
    }
    Ok(builder)
}

/// What ONNX Runtime is to tell the logger: more than warnings only if somebody wants to know, as it costs time.
fn session_level(logger: &Logger) -> LogLevel {
    match () {
        () if logger.enabled(Level::Trace, "onnxruntime") => LogLevel::Verbose,
        () if logger.enabled(Level::Debug, "onnxruntime") => LogLevel::Info,
        () => LogLevel::Warning,
    }
}

fn session_logger(logger: Logger) -> ort::logging::LoggerFunction {
    Arc::new(move |level, _category: &str, _id: &str, _location: &str, message: &str| {
        logger.log(log_level(level), "onnxruntime", format_args!("{message}"));
    })
}

/// The level of a line of ONNX Runtime's.
pub fn log_level(level: LogLevel) -> Level {
    match level {
        LogLevel::Verbose => Level::Trace,
        // Each load has a hundred of them.
        LogLevel::Info => Level::Debug,
        LogLevel::Warning => Level::Warn,
        LogLevel::Error | LogLevel::Fatal => Level::Error,
    }
}

/// What a failed load says about the model.
fn model_error(error: &ort::Error, source: &Source<'_>) -> Error {
    use ort::ErrorCode as Code;
    let status = match error.code() {
        Code::NoSuchFile => Status::ModelNotFound,
        Code::NotImplemented => Status::ModelUnsupported,
        _ if error.message().contains("not currently registered or supported") => Status::ModelUnsupported,
        Code::InvalidProtobuf | Code::InvalidGraph | Code::NoModel | Code::InvalidArgument => {
            Status::ModelInvalid
        }
        _ if error.message().contains("bad_alloc") => Status::OutOfMemory,
        _ => Status::ModelInvalid,
    };
    let hint = match source {
        Source::Memory(_) if error.message().contains("External data") => {
            " (a model with external weights must be loaded from its path)"
        }
        _ => "",
    };
    Error::new(status, format!("ONNX Runtime: {}{hint}", error.message()))
}

fn finish(
    request: &LoadRequest<'_>,
    choice: Choice<Session>,
    account: &Arc<Account>,
    heap_before: Option<u64>,
    files: &Files,
) -> Result<Arc<Loaded>> {
    let Choice { session, report, provider } = choice;
    let provider = provider.filter(|_| PROVIDERS.built);
    let signature = signature_of(&session)?;
    // An output that is an input is not written to memory that is given for it: ONNX Runtime leaves it as it is.
    let passes_on =
        signature.outputs.iter().any(|output| signature.inputs.iter().any(|input| input.name == output.name));
    let shared = Arc::new(Shared {
        session: ManuallyDrop::new(session),
        signature: Arc::new(signature),
        memory: host_memory()?,
        outputs_vary: AtomicBool::new(passes_on),
        account: Arc::clone(account),
    });
    // What the heap has grown by is the graph's; but others use the heap too, so within reason. In an arena of its own
    // the weights are there too.
    let weights = account.weights();
    let grown = heap_before.zip(platform::heap_in_use()).map(|(before, now)| now.saturating_sub(before));
    let rest = files.bytes.saturating_sub(weights);
    let graph =
        grown.unwrap_or(rest).clamp(rest.min(GRAPH_BYTES / 16), GRAPH_BYTES + rest.saturating_mul(16));
    let graph = Reservation::forced(request.pool.ledger(), Kind::Models, graph);
    let device = provider.as_ref().and_then(Provider::pinning_device).filter(|_| PLUGINS.built);
    let on_device = device.map(OnDevice::cuda).transpose()?;
    let devices = on_device.iter().map(OnDevice::number).collect();
    let pinned = provider.as_ref().and_then(|provider| pinned_pool(request, &shared.session, provider));
    let computes_on_cpu = provider.is_none_or(|provider| provider.computes_on_cpu());
    let stamp = files.stamp.clone();
    Ok(Arc::new(Loaded { shared, report, computes_on_cpu, on_device, devices, pinned, graph, stamp }))
}

/// What a session takes and gives.
pub fn signature_of(session: &Session) -> Result<Signature> {
    let mut signature = Signature::default();
    for input in session.inputs() {
        signature.inputs.push(spec("input", input.name(), input.dtype())?);
    }
    for input in session.overridable_initializers() {
        let mut spec = spec("input", input.name(), input.dtype())?;
        spec.optional = true;
        signature.inputs.push(spec);
    }
    for output in session.outputs() {
        signature.outputs.push(spec("output", output.name(), output.dtype())?);
    }
    Ok(signature)
}

/// The pool of pinned memory for a model's batches; `None`: its provider has none, or ONNX Runtime does not give any.
fn pinned_pool(request: &LoadRequest<'_>, session: &Session, provider: &Provider) -> Option<Arc<Pool>> {
    let device = provider.pinning_device().filter(|_| PLUGINS.built)?;
    let pool = request.sessions.pinned(device, || {
        let space = Pinned::of(session, pinned::CUDA, device)?;
        let pool = Pool::new(Arc::clone(request.pool.ledger()), Box::new(space));
        request.devices.add_pinned(&pool);
        Ok(pool)
    });
    pool.inspect_err(|error| {
        request
            .logger
            .with(&[("model", (&request.config.full_name()).into())])
            .warn("onnx", format_args!("batches are not in pinned memory, which is slower: {error}"));
    })
    .ok()
}

fn spec(kind: &str, name: &str, declared: &ValueType) -> Result<TensorSpec> {
    let unsupported = |what: &str| {
        Err(Error::new(
            Status::ModelUnsupported,
            format!("{kind} {name:?} is {what}; only tensors are supported"),
        ))
    };
    let (ty, shape, symbols) = match declared {
        ValueType::Tensor { ty, shape, dimension_symbols } => (ty, shape, dimension_symbols),
        ValueType::Sequence(_) => return unsupported("a sequence"),
        ValueType::Map { .. } => return unsupported("a map"),
        ValueType::Optional(_) => return unsupported("an optional value"),
    };
    let Some(dtype) = dtype_of(*ty) else {
        return Err(Error::new(Status::ModelUnsupported, format!("{kind} {name:?} has element type {ty}")));
    };
    let dims = shape.iter().enumerate().map(|(axis, &size)| match size {
        0.. => Dim::Fixed(size),
        _ => Dim::Symbolic(symbols.get(axis).cloned().unwrap_or_default()),
    });
    TensorSpec::new(name, dtype, dims.collect())
}

/// Has the next run with these options profiled, if ONNX Runtime can.
pub fn start_profiling(options: &RunOptions, prefix: &Path) -> Result<(), ort::Error> {
    let unable = || ort::Error::new("this ONNX Runtime cannot profile a run to this path");
    let (profiling, prefix) = library::profiling().zip(platform::system_path(prefix)).ok_or_else(unable)?;
    // SAFETY: the options live, and no run uses them now; the path ends in a zero. Who stops a run meanwhile sets a flag of
    // its own.
    check(unsafe { (profiling.enable)(options.ptr().cast_mut(), prefix.as_ptr()) })
}

/// Has the interrupt end the run with these options.
fn terminates<'a>(interrupt: &'a Interrupt, options: &Arc<RunOptions>) -> HookGuard<'a> {
    let options = Arc::clone(options);
    interrupt.hook(Box::new(move || {
        // Sets a flag that ONNX Runtime looks at between operators.
        let _ = options.terminate();
    }))
}

impl OnnxModel {
    fn shared(&self) -> &Arc<Shared> {
        &self.loaded.shared
    }

    fn run_once(
        &self,
        inputs: &[Option<Tensor>],
        interrupt: &Interrupt,
        profile: Option<&Path>,
    ) -> Result<Vec<Tensor>> {
        let _entered = self.loaded.shared.account.enter();
        let inner = self.shared().session.inner();
        let allocator = self.shared().session.allocator().ptr().cast_mut();
        let mut names = Vec::with_capacity(inputs.len());
        let mut values = Vec::with_capacity(inputs.len());
        for (tensor, spec) in inputs.iter().zip(&self.shared().signature.inputs) {
            if let Some(tensor) = tensor {
                names.push(spec.c_name.as_ptr());
                values.push(Value::of_input(&self.shared().memory, allocator, tensor)?);
            }
        }
        let pointers: Vec<*const sys::OrtValue> =
            values.iter().map(|value| value.pointer().cast_const()).collect();
        let output_names: Vec<_> =
            self.shared().signature.outputs.iter().map(|spec| spec.c_name.as_ptr()).collect();
        let mut outputs: Vec<*mut sys::OrtValue> = vec![ptr::null_mut(); output_names.len()];

        let options = RunOptions::new().map_err(|e| failed(&e))?;
        if let Some(prefix) = profile {
            start_profiling(&options, prefix).map_err(|e| failed(&e))?;
        }
        let options = Arc::new(options);
        let hook = terminates(interrupt, &options);
        // SAFETY: every array has the length given and outlives the call; the values view `inputs`, which
        // outlive it too. `Run` may be called from several threads.
        let status = unsafe {
            (ort::api().Run)(
                self.shared().session.ptr().cast_mut(),
                options.ptr(),
                names.as_ptr(),
                pointers.as_ptr(),
                pointers.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr(),
            )
        };
        drop(hook);
        check(status).map_err(|e| failed(&e))?;
        let is_lent =
            |data| inputs.iter().flatten().any(|tensor| tensor.bytes().as_ptr_range().contains(&data));
        let pool = self.shared().account.pool();
        // Every pointer is taken over, also after an error, so that none leaks.
        let tensors: Vec<Result<Tensor>> =
            outputs.into_iter().map(|pointer| Value::into_tensor(pointer, &inner, pool, is_lent)).collect();
        tensors.into_iter().collect()
    }
}

impl Model for OnnxModel {
    fn signature(&self) -> &Arc<Signature> {
        &self.shared().signature
    }

    fn run(&self, inputs: &[Option<Tensor>], interrupt: &Interrupt) -> Result<Vec<Tensor>> {
        memory::within_means(|| self.run_once(inputs, interrupt, None))
    }

    fn devices(&self) -> &[i32] {
        &self.loaded.devices
    }

    fn run_placed(
        &self,
        inputs: &[Option<Tensor>],
        outputs: &[OutputPlace],
        interrupt: &Interrupt,
    ) -> Result<Vec<Tensor>> {
        let Some(on_device) = self.loaded.on_device.as_ref().filter(|_| PLUGINS.built) else {
            return Err(Error::new(Status::Unsupported, "the model takes no tensors in a device's memory"));
        };
        memory::within_means(|| {
            let options = Arc::new(RunOptions::new().map_err(|error| failed(&error))?);
            let _hook = terminates(interrupt, &options);
            binding::run(self.shared(), on_device, &options, inputs, outputs, interrupt)
        })
    }

    fn run_profiled(
        &self,
        inputs: &[Option<Tensor>],
        interrupt: &Interrupt,
        prefix: &Path,
    ) -> Result<Vec<Tensor>> {
        memory::within_means(|| self.run_once(inputs, interrupt, Some(prefix)))
    }

    fn has_profiles(&self) -> bool {
        library::profiling().is_some()
    }

    fn prepare(
        self: Arc<Self>,
        memory: Arc<Memory>,
        layout: Arc<Layout>,
    ) -> Result<Option<Box<dyn Prepared>>> {
        Ok(Some(Box::new(OnnxBatch::new(Arc::clone(self.shared()), memory, layout)?)))
    }

    fn computes_on_cpu(&self) -> bool {
        self.loaded.computes_on_cpu
    }

    fn batch_pool(&self) -> Option<Arc<Pool>> {
        self.loaded.pinned.clone()
    }

    fn provider(&self) -> ProviderReport {
        self.loaded.report.clone()
    }

    fn memory_bytes(&self) -> u64 {
        self.loaded.shared.account.weights() + self.loaded.graph.bytes()
    }

    fn uncounted_bytes(&self) -> u64 {
        0
    }

    fn shared_by(&self) -> u64 {
        Arc::strong_count(&self.loaded) as u64
    }

    fn stamp(&self) -> Option<String> {
        self.loaded.stamp.clone()
    }

    fn remains(&self) -> Box<dyn Fn() -> u64 + Send> {
        let account = Arc::clone(&self.loaded.shared.account);
        Box::new(move || account.weights())
    }
}
