//! Backends behind C's function pointers: the host's own and plugins'. Nothing that they say is believed unchecked: a
//! backend that breaks its word fails its model, not the process.
#![allow(unsafe_code)]

mod batch;
mod call;
mod describe;
mod model;
pub mod plugin;
mod space;
mod stepwise;

use super::{Backend, Devices, Estimate, LoadRequest, Model, Source};
use crate::abi::backend::{BLAZE_BACKEND_ABI, blaze_backend, blaze_backend_load, blaze_host};
use crate::abi::status::{blaze_error, blaze_status};
use crate::error::{Error, Result, Status};
use crate::log::Logger;
use crate::memory::Pool;
use crate::sync::{AtomicBool, Ordering};
use call::Call;
use model::ForeignModel;
use space::{Places, Usage};
use std::ffi::{CStr, CString, c_char, c_void};
use std::ops::Deref;
use std::ptr;
use std::sync::{Arc, Weak};

/// The longest text that a backend may return.
const MAX_TEXT: usize = 16 << 20;

/// A backend of the host's or a plugin's.
pub struct Foreign {
    link: Arc<Link>,
    this: Weak<Foreign>,
}

/// What there is until the backend is closed: as long as anybody has memory of its.
pub struct Link {
    name: String,
    functions: blaze_backend,
    /// What it may ask of the engine; at a fixed address.
    host: Box<blaze_host>,
    context: Box<Context>,
    /// It is to be closed: it has been taken over.
    closes: AtomicBool,
}

impl Deref for Foreign {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

/// What is behind `blaze_host.context`.
struct Context {
    name: String,
    logger: Logger,
    pool: Arc<Pool>,
    places: Places,
}

impl Context {
    /// What hosts are told of something that has failed.
    fn failure(&self, what: &str, code: blaze_status, said: &str) -> Error {
        let status = Status::from_code(code);
        let name = status.map_or_else(|| format!("status {code}"), |status| status.name().to_owned());
        let passed_on = status.filter(|status| is_for_hosts(*status));
        if status == Some(Status::DeviceLost) {
            self.places.renew();
        }
        let text = match said.is_empty() {
            true => format!("backend {:?}: {what} failed: {name}", self.name),
            false if passed_on.is_some() => format!("backend {:?}: {said}", self.name),
            false => format!("backend {:?}: {said} ({name})", self.name),
        };
        Error::new(passed_on.unwrap_or(Status::BackendFailed), text)
    }
}

// SAFETY: whoever registers a backend promises that any thread may call its functions, several at once.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

impl Foreign {
    /// Looks at a backend; nothing of it is called before `begin`.
    ///
    /// # Safety
    /// `name` is NULL or a string; the functions do what `blaze_backend` says, until `close` has returned.
    pub unsafe fn new(
        functions: &blaze_backend,
        logger: Logger,
        pool: &Arc<Pool>,
        devices: &Arc<Devices>,
    ) -> Result<Arc<Self>> {
        if functions.abi != BLAZE_BACKEND_ABI {
            return Err(Error::new(
                Status::InvalidStruct,
                format!("backend.abi is {}; this version of Blaze has {BLAZE_BACKEND_ABI}", functions.abi),
            ));
        }
        if functions.name.is_null() {
            return Err(Error::new(Status::NullPointer, "backend.name is NULL"));
        }
        // SAFETY: promised by the caller.
        let name = unsafe { CStr::from_ptr(functions.name) }.to_str().ok();
        let is_word = |name: &&str| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let name = name.filter(is_word).ok_or_else(|| {
            let text = "backend.name must have 1 to 64 letters, digits, dashes, underscores and dots";
            Error::new(Status::InvalidArgument, text)
        })?;
        check_functions(functions)?;
        let link = Arc::new_cyclic(|link| {
            let places = Places::new(Weak::clone(link), pool.ledger(), devices);
            let context = Box::new(Context { name: name.into(), logger, pool: Arc::clone(pool), places });
            let host = Box::new(call::host_table(ptr::from_ref(&*context).cast_mut().cast()));
            let closes = AtomicBool::new(false);
            Link { name: name.into(), functions: *functions, host, context, closes }
        });
        Ok(Arc::new_cyclic(|this| Foreign { link, this: Weak::clone(this) }))
    }

    /// From here on the backend is the engine's to close.
    fn take_over(&self) {
        self.closes.store(true, Ordering::Relaxed);
    }

    /// Itself, for models, which keep it alive.
    fn this(&self) -> Result<Arc<Foreign>> {
        self.this.upgrade().ok_or_else(|| Error::new(Status::ShutDown, "the backend is closed"))
    }
}

impl Link {
    fn user(&self) -> *mut c_void {
        self.functions.user
    }

    /// Whether its models advance by steps.
    fn is_stepwise(&self) -> bool {
        self.functions.begin.is_some()
    }

    /// Calls a function of the backend's that may fail.
    fn ask(&self, what: &str, work: impl FnOnce(*mut blaze_error) -> blaze_status) -> Result<()> {
        let mut error = blaze_error { status: 0, message: [0; 1012], retry_after_ns: 0 };
        let code = work(&raw mut error);
        if code == 0 {
            return Ok(());
        }
        Err(self.context.failure(what, code, &said(&mut error)))
    }

    /// Text by the two-call pattern.
    fn text(
        &self,
        what: &str,
        read: impl Fn(*mut c_char, usize, *mut usize) -> blaze_status,
    ) -> Result<String> {
        let broken = |text: String| {
            Error::new(Status::BackendFailed, format!("backend {:?}: {what}: {text}", self.name))
        };
        let mut buffer: Vec<u8> = vec![0; 4096];
        // It may grow between two calls.
        for _ in 0..8 {
            let mut needed = 0usize;
            let code = read(buffer.as_mut_ptr().cast(), buffer.len(), &raw mut needed);
            match Status::from_code(code) {
                Some(Status::Ok) => {
                    let text =
                        CStr::from_bytes_until_nul(&buffer).map_err(|_| broken("has no end".into()))?;
                    return text.to_str().map(str::to_owned).map_err(|_| broken("is not UTF-8".into()));
                }
                Some(Status::BufferTooSmall) if (buffer.len()..=MAX_TEXT).contains(&needed) => {
                    buffer = vec![0; needed + needed / 8];
                }
                status => {
                    let name = status.map_or_else(|| code.to_string(), |status| status.name().to_owned());
                    return Err(broken(format!("it returned {name}, and wants {needed} bytes")));
                }
            }
        }
        Err(broken("its size changes with every call".into()))
    }

    /// What the backend says of itself; `None`: nothing.
    fn report(&self) -> Option<serde_json::Value> {
        let report = self.functions.report?;
        // SAFETY: the buffer is as large as is said.
        let text = self.text("report", |buffer, capacity, needed| unsafe {
            report(self.user(), buffer, capacity, needed)
        });
        let said = text.and_then(|text| {
            serde_json::from_str(&text)
                .map_err(|error| Error::new(Status::BackendFailed, format!("report: {error}")))
        });
        Some(said.unwrap_or_else(|error| serde_json::json!({"error": error.message})))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let left = self.context.places.close();
        if left > 0 {
            self.context
                .logger
                .warn("backend", format_args!("{}: {left} bytes were not given back", self.name));
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let (Some(close), true) = (self.functions.close, self.closes.load(Ordering::Relaxed)) {
            // SAFETY: promised by whoever registered it; none of its models is left, and none of its memory.
            unsafe { close(self.functions.user) };
        }
    }
}

/// The message in an error of C's.
fn said(error: &mut blaze_error) -> String {
    if let Some(last) = error.message.last_mut() {
        *last = 0; // whatever was written there
    }
    // SAFETY: it ends in a NUL.
    unsafe { CStr::from_ptr(error.message.as_ptr()) }.to_string_lossy().into_owned()
}

/// Why a plugin cannot be opened, as it says.
fn failure(code: blaze_status, error: &mut blaze_error) -> String {
    let name = Status::from_code(code).map_or_else(|| code.to_string(), |status| status.name().to_owned());
    match said(error) {
        text if text.is_empty() => name,
        text => format!("{text} ({name})"),
    }
}

/// Statuses that mean the same to hosts whoever says them.
fn is_for_hosts(status: Status) -> bool {
    matches!(
        status,
        Status::ModelNotFound
            | Status::ModelInvalid
            | Status::ModelUnsupported
            | Status::InvalidConfig
            | Status::InvalidShape
            | Status::Unsupported
            | Status::OutOfMemory
            | Status::OverBudget
            | Status::DeviceLost
            | Status::BackendFailed
            | Status::BackendUnavailable
            | Status::Cancelled
    )
}

fn check_functions(functions: &blaze_backend) -> Result<()> {
    let missing = |name: &str| Err(Error::new(Status::NullPointer, format!("backend.{name} is NULL")));
    let steps = [functions.begin.is_some(), functions.step.is_some(), functions.end.is_some()];
    match () {
        () if functions.load.is_none() => missing("load"),
        () if functions.describe.is_none() => missing("describe"),
        () if functions.unload.is_none() => missing("unload"),
        () if steps.contains(&true) && steps.contains(&false) => {
            missing(["begin", "step", "end"][steps.iter().position(|there| !there).unwrap_or(0)])
        }
        () if functions.run.is_none() && functions.begin.is_none() => missing("run"),
        () if functions.prepare.is_some() && functions.release.is_none() => missing("release"),
        () if functions.allocate.is_some() && functions.free.is_none() => missing("free"),
        () => Ok(()),
    }
}

/// A struct as large as this engine's.
fn size_of_struct<T>() -> u32 {
    size_of::<T>() as u32
}

impl Backend for Foreign {
    fn name(&self) -> &str {
        &self.name
    }

    fn begin(&self) {
        self.take_over();
        if let Some(open) = self.functions.open {
            // SAFETY: promised by whoever made it known; the table lives as long as the backend.
            unsafe { open(self.functions.user, &raw const *self.host) };
        }
    }

    /// What the backend says afterwards counts; before, nobody knows more than the file's size, which loading may take.
    fn estimate(&self, request: &LoadRequest<'_>) -> Result<Estimate> {
        let bytes = match &request.source {
            Source::File(path) => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
            Source::Memory(_) | Source::None => 0,
        };
        Ok(Estimate { bytes: 0, loading_bytes: bytes, file_bytes: bytes })
    }

    fn load(&self, request: &LoadRequest<'_>) -> Result<Arc<dyn Model>> {
        let config = request.config;
        let c_text = |key: &str, text: String| {
            CString::new(text)
                .map_err(|_| Error::new(Status::InvalidConfig, format!("{key}: has a NUL in it")))
        };
        let name = c_text("name", config.full_name())?;
        let options = c_text("options", serde_json::Value::Object(config.options.clone()).to_string())?;
        let (path, data) = match &request.source {
            Source::File(path) => {
                let path = path.to_str().ok_or_else(|| {
                    Error::new(Status::InvalidConfig, "path: is not UTF-8, as backends want it")
                })?;
                (Some(c_text("path", path.to_owned())?), [].as_slice())
            }
            Source::Memory(bytes) => (None, *bytes),
            Source::None => (None, [].as_slice()),
        };
        let buckets = &config.batching.buckets;
        let load = blaze_backend_load {
            struct_size: size_of_struct::<blaze_backend_load>(),
            lanes: config.lanes,
            max_rows: config.batching.max_rows,
            buckets_count: buckets.len() as u32,
            name: name.as_ptr(),
            path: path.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
            data: if data.is_empty() { ptr::null() } else { data.as_ptr().cast() },
            data_bytes: data.len(),
            options: options.as_ptr(),
            buckets: if buckets.is_empty() { ptr::null() } else { buckets.as_ptr() },
        };
        let mut model = ptr::null_mut();
        let usage = Arc::<Usage>::default();
        let full_name = config.full_name();
        let mut call = Call::new(&self.context, request.interrupt, &[]).of(&full_name, &usage).loading();
        let Some(function) = self.functions.load else { return Err(Error::new(Status::Internal, "no load")) };
        let loaded = self.ask("load", |error| {
            // SAFETY: all pointers live until the call returns; the function does what it must.
            unsafe { function(self.user(), &raw const load, call.as_c(), &raw mut model, error) }
        });
        request.device_is_full.store(usage.was_refused(), Ordering::Relaxed);
        loaded?;
        // SAFETY: the backend has loaded it just now.
        Ok(Arc::new(unsafe { ForeignModel::new(self.this()?, model, full_name, usage) }?))
    }

    fn report(&self) -> Option<serde_json::Value> {
        self.link.report()
    }
}
