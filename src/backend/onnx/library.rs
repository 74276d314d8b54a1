//! Finds and loads the ONNX Runtime library, once for the process.
//!
//! ONNX Runtime's environment is the one piece of process-wide state that Blaze cannot avoid.
#![allow(unsafe_code)]

use crate::error::{Error, Result, Status};
use crate::log::Level;
use crate::platform;
use crate::sync::{Mutex, lock};
use ort::environment::Environment;
use ort::sys;
use std::cell::RefCell;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is known about the loaded library.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RuntimeInfo {
    /// The file that was really loaded.
    pub path: PathBuf,
    pub version: String,
}

struct Runtime {
    info: RuntimeInfo,
    profiling: Option<Profiling>,
    /// Never dropped: ONNX Runtime does not survive a second environment after the first one is released.
    environment: Environment,
}

/// What has a run profiled, which ONNX Runtime can since version 1.25.
#[repr(C)]
pub struct Profiling {
    pub enable: unsafe extern "system" fn(*mut sys::OrtRunOptions, *const sys::os_char) -> sys::OrtStatusPtr,
    pub disable: unsafe extern "system" fn(*mut sys::OrtRunOptions) -> sys::OrtStatusPtr,
}

/// How the functions of version 1.25 begin, which come after all of 1.24's: those of `ort::api()`.
#[repr(C)]
#[allow(dead_code)] // what `older` holds is reached by `ort::api()`
struct Api25 {
    older: sys::OrtApi,
    profiling: Profiling,
}

thread_local! {
    /// The last error that ONNX Runtime has logged on this thread apart from sessions.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Takes what ONNX Runtime has last complained of on this thread: some of its errors say less than its log.
pub fn said() -> Option<String> {
    SAID.take()
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// What has runs profiled, if the loaded library can.
pub fn profiling() -> Option<&'static Profiling> {
    RUNTIME.get()?.profiling.as_ref()
}

/// The loaded library, if any model has needed it yet.
pub fn loaded() -> Option<&'static RuntimeInfo> {
    RUNTIME.get().map(|runtime| &runtime.info)
}

/// The process's ONNX Runtime environment; loads the library at the first call.
///
/// `configured` is `onnxruntime.library`. A library that is named, there or in `ORT_DYLIB_PATH`, is the only
/// one tried; otherwise the search goes on beside `libblaze` and then to the system's loader.
pub fn environment(configured: Option<&str>) -> Result<&'static Environment> {
    static LOADING: Mutex<()> = Mutex::new(());
    /// The generation of the process that asked first, plus 1.
    static BEGAN_IN: AtomicU32 = AtomicU32::new(0);
    let this = platform::process_generation() + 1;
    let began_in = BEGAN_IN
        .compare_exchange(0, this, Ordering::Relaxed, Ordering::Relaxed)
        .unwrap_or_else(|began| began);
    if began_in != 0 && began_in != this {
        let text = "ONNX Runtime was in use when this process was forked: its threads are not here, and its locks may be held \
                    for ever. Fork before the first model is loaded, or exec in the child";
        return Err(Error::new(Status::InvalidState, text));
    }
    let _one_at_a_time = lock(&LOADING);
    if let Some(runtime) = RUNTIME.get() {
        return check_same(configured, &runtime.info).map(|()| &runtime.environment);
    }
    let runtime = search(configured)?;
    super::ending::watch();
    Ok(&RUNTIME.get_or_init(|| runtime).environment)
}

/// Refuses a second library: a process has one.
fn check_same(configured: Option<&str>, info: &RuntimeInfo) -> Result<()> {
    let Some(configured) = configured else { return Ok(()) };
    let wanted = absolute(Path::new(configured));
    if std::fs::canonicalize(&wanted).is_ok_and(|path| path == info.path) {
        return Ok(());
    }
    Err(Error::new(
        Status::InvalidState,
        format!(
            "onnxruntime.library: {} cannot be used, because this process has already loaded {}",
            wanted.display(),
            info.path.display()
        ),
    ))
}

fn search(configured: Option<&str>) -> Result<Runtime> {
    let mut tried: Vec<String> = Vec::new();
    let mut attempt = |origin: &str, path: &Path| match try_load(path) {
        Ok(runtime) => Some(runtime),
        Err(reason) => {
            tried.push(format!("{origin}: {reason}"));
            None
        }
    };
    let from_environment = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    let found = if let Some(path) = configured {
        attempt("configuration (onnxruntime.library)", &absolute(Path::new(path)))
    } else if let Some(path) = &from_environment {
        attempt("environment (ORT_DYLIB_PATH)", &absolute(Path::new(path)))
    } else {
        let names = platform::library_names("onnxruntime", 1);
        platform::own_directory()
            .and_then(|directory| {
                names.iter().find_map(|name| attempt("beside Blaze", &directory.join(name)))
            })
            .or_else(|| names.iter().find_map(|name| attempt("the system's loader", Path::new(name))))
    };
    found.ok_or_else(|| {
        let mut places = Vec::new();
        if configured.is_none() {
            places.push("configuration (onnxruntime.library): not set".to_owned());
            if from_environment.is_none() {
                places.push("environment (ORT_DYLIB_PATH): not set".to_owned());
            }
        }
        places.append(&mut tried);
        Error::new(
            Status::BackendUnavailable,
            format!("no usable ONNX Runtime library was found. Looked at: {}", places.join("; ")),
        )
    })
}

/// Relative paths start at the working directory, as everywhere in a configuration.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Loads the library at `path` (a bare name: wherever the system's loader finds it).
fn try_load(path: &Path) -> Result<Runtime, String> {
    if path.is_absolute() && !path.exists() {
        return Err(format!("{}: no such file", path.display()));
    }
    // Since version 1.29 ONNX Runtime's own builds start a thread that sends usage data to Microsoft, and write a
    // device identifier to the user's cache directory, when the environment is made: too early for the call below
    // that turns telemetry off. This is the only switch that acts in time.
    platform::set_default("ORT_DISABLE_TELEMETRY", "1");
    let builder = ort::init_from(path).map_err(|e| e.to_string())?;
    let environment = builder
        .with_name("blaze")
        .with_telemetry(false)
        // ONNX Runtime's own default prints to stderr. Sessions log to their engine; what is left goes to the
        // facade, which is silent unless the host installed a logger.
        .with_logger(std::sync::Arc::new(|level, _category: &str, _id: &str, _at: &str, message: &str| {
            let level = super::session::log_level(level);
            if level == Level::Error {
                let _ = SAID.try_with(|said| *said.borrow_mut() = Some(message.to_owned()));
            }
            log::log!(target: "onnxruntime", level, "{message}");
        }))
        .build()
        .map_err(|e| e.to_string())?;
    environment.set_log_level(ort::logging::LogLevel::Warning);
    // Through ONNX Runtime, since it need not be visible to the rest of the process.
    let thrower = platform::loaded_symbol(path, c"_ZSt17__throw_bad_allocv");
    super::memory::register(&environment, thrower)
        .map_err(|e| format!("its allocator cannot be replaced: {e}"))?;
    let (info, profiling) =
        describe(path).ok_or_else(|| format!("{}: cannot be described after loading", path.display()))?;
    Ok(Runtime { info, profiling, environment })
}

/// Asks the loaded library for its version and its file, and for what only newer ones have.
fn describe(path: &Path) -> Option<(RuntimeInfo, Option<Profiling>)> {
    let symbol = platform::loaded_symbol(path, c"OrtGetApiBase")?;
    // SAFETY: this is ONNX Runtime's one exported entry point, whose type is fixed by its C API.
    let get_base: unsafe extern "C" fn() -> *const sys::OrtApiBase = unsafe { std::mem::transmute(symbol) };
    // SAFETY: `ort` called the same function to initialize itself; the strings it returns are static.
    let version = unsafe { CStr::from_ptr(((*get_base()).GetVersionString)()) };
    let version = version.to_string_lossy().into_owned();
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok()).unwrap_or(0);
    // Older ones complain on stderr if they are asked.
    let newer = match minor {
        // SAFETY: as above; what it returns is null, or as long as those of version 1.25 are, and static.
        25.. => unsafe { ((*get_base()).GetApi)(25).cast::<Api25>().as_ref() },
        _ => None,
    };
    let profiling =
        newer.map(|api| Profiling { enable: api.profiling.enable, disable: api.profiling.disable });
    let file = platform::file_of(symbol).unwrap_or_else(|| path.to_owned());
    Some((RuntimeInfo { path: std::fs::canonicalize(&file).unwrap_or(file), version }, profiling))
}
