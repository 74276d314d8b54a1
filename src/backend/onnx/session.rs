//! One ONNX Runtime session per model, shared by its lanes.
#![allow(unsafe_code)]

use super::batch::OnnxBatch;
use super::ending;
use super::files::{self, Files};
use super::library;
use super::memory::{self, Account};
use super::provider::Provider;
use super::sessions::Place;
use super::value::{Value, check, dtype_of, failed, host_memory};
use crate::backend::{
    Estimate, Interrupt, Layout, LoadRequest, Memory, Model, Prepared, ProviderReport, RejectedProvider,
    Source,
};
use crate::error::{Error, Result, Status};
use crate::log::{Level, Logger};
use crate::memory::{Kind, Reservation};
use crate::platform;
use crate::tensor::{Dim, Signature, Tensor, TensorSpec};
use ort::AsPointer;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::MemoryInfo;
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use ort::session::{RunOptions, Session};
use ort::sys;
use ort::value::ValueType;
use std::ffi::CStr;
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
    provider: ProviderReport,
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
        .map(|(index, name)| Provider::parse(index, name))
        .collect::<Result<_>>()?;
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
    let finish = |session, report| finish(request, session, report, &account, before, &files);
    let cpu_allowed = providers.iter().any(|provider| provider.is_cpu());
    let mut rejected = Vec::new();
    for provider in providers {
        match commit(environment, request, provider, cpu_allowed) {
            Ok(session) => {
                if let Some(reason) = idle_reason(&session, provider) {
                    rejected.push(rejection(provider, reason));
                    if !cpu_allowed {
                        continue;
                    }
                    let report = ProviderReport { used: "cpu".into(), rejected };
                    return finish(session, report);
                }
                let report = ProviderReport { used: provider.name().into(), rejected };
                return finish(session, report);
            }
            Err(_) if request.interrupt.is_raised() => {
                return Err(Error::new(Status::Cancelled, "loading was interrupted"));
            }
            // The CPU's provider is always there: if it fails, the trouble is the model's.
            Err(error) if provider.is_cpu() => return Err(model_error(&error, &request.source)),
            Err(error) => {
                let reason = error.message().to_owned();
                request
                    .logger
                    .with(&[
                        ("model", (&request.config.full_name()).into()),
                        ("provider", provider.name().into()),
                    ])
                    .warn("onnx", format_args!("provider {} is not used: {reason}", provider.name()));
                rejected.push(rejection(provider, reason));
            }
        }
    }
    let reasons: Vec<String> =
        rejected.iter().map(|rejected| format!("{}: {}", rejected.provider, rejected.reason)).collect();
    Err(Error::new(
        Status::ProviderUnavailable,
        format!("none of the providers can run the model: {}", reasons.join("; ")),
    ))
}

fn rejection(provider: Provider, reason: String) -> RejectedProvider {
    RejectedProvider { provider: provider.name().into(), reason }
}

/// Makes a session with one provider besides the CPU's.
fn commit(
    environment: &Environment,
    request: &LoadRequest<'_>,
    provider: Provider,
    cpu_allowed: bool,
) -> Result<Session, ort::Error> {
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
        .with_prepacking(request.config.prepack)?
        .with_config_entry("session.record_ep_graph_assignment_info", "1")?;
    if !request.onnxruntime.arena {
        builder = builder.with_env_allocators()?;
    }
    if let Some(dispatch) = provider.dispatch() {
        builder = builder.with_execution_providers([dispatch])?;
        if !cpu_allowed {
            builder = builder.with_disable_cpu_fallback()?;
        }
    }
    let canceler = builder.canceler();
    let _hook = request.interrupt.hook(Box::new(move || {
        // A canceler fails only when the commit is over.
        let _ = canceler.cancel();
    }));
    match &request.source {
        Source::File(path) => builder.commit_from_file(path),
        Source::Memory(bytes) => builder.commit_from_memory(bytes),
        Source::None => Err(ort::Error::new("the onnx backend needs a model")),
    }
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

/// Why a session that was made with `provider` does not use it: registering is no proof.
fn idle_reason(session: &Session, provider: Provider) -> Option<String> {
    if provider.is_cpu() {
        return None;
    }
    let used = assigned_providers(session)?;
    if used.iter().any(|name| name == provider.runtime_name()) {
        return None;
    }
    Some(format!(
        "it was registered, but took none of the model's operators (they run on {})",
        used.join(", ")
    ))
}

/// The providers to which ONNX Runtime has assigned operators; `None` if it does not say.
fn assigned_providers(session: &Session) -> Option<Vec<String>> {
    let api = ort::api();
    let (mut graphs, mut count) = (ptr::null(), 0);
    // SAFETY: the session lives, and owns the array that is returned.
    check(unsafe { (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut graphs, &mut count) }).ok()?;
    if graphs.is_null() || count == 0 {
        return None;
    }
    let mut names: Vec<String> = Vec::new();
    for index in 0..count {
        let mut name = ptr::null();
        // SAFETY: `graphs` has `count` entries; the name is a string of the session's.
        let name = unsafe {
            check((api.EpAssignedSubgraph_GetEpName)(*graphs.add(index), &mut name)).ok()?;
            CStr::from_ptr(name)
        };
        let name = name.to_string_lossy().into_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Some(names)
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
    session: Session,
    provider: ProviderReport,
    account: &Arc<Account>,
    heap_before: Option<u64>,
    files: &Files,
) -> Result<Arc<Loaded>> {
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
    Ok(Arc::new(Loaded { shared, provider, graph, stamp: files.stamp.clone() }))
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

        let mut options = RunOptions::new().map_err(|e| failed(&e))?;
        if let Some(prefix) = profile {
            options.enable_profiling(prefix).map_err(|e| failed(&e))?;
        }
        let options = Arc::new(options);
        let terminator = Arc::clone(&options);
        let hook = interrupt.hook(Box::new(move || {
            // Sets a flag that ONNX Runtime looks at between operators.
            let _ = terminator.terminate();
        }));
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

    fn run_profiled(
        &self,
        inputs: &[Option<Tensor>],
        interrupt: &Interrupt,
        prefix: &Path,
    ) -> Result<Vec<Tensor>> {
        memory::within_means(|| self.run_once(inputs, interrupt, Some(prefix)))
    }

    fn has_profiles(&self) -> bool {
        true
    }

    fn prepare(
        self: Arc<Self>,
        memory: Arc<Memory>,
        layout: Arc<Layout>,
    ) -> Result<Option<Box<dyn Prepared>>> {
        Ok(Some(Box::new(OnnxBatch::new(Arc::clone(self.shared()), memory, layout)?)))
    }

    fn computes_on_cpu(&self) -> bool {
        matches!(self.loaded.provider.used.as_str(), "cpu" | "xnnpack" | "openvino")
    }

    fn provider(&self) -> ProviderReport {
        self.loaded.provider.clone()
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
