//! Blaze's backend for models of CUDA kernels: a plugin. The entry points, behind each of which a panic becomes a status.
//!
//! It needs no CUDA to be built, and loads on any machine: the driver is opened with the backend.

#[allow(dead_code)] // not all of it is for backends
#[path = "../../../src/abi/mod.rs"]
mod abi;
mod batch;
mod device;
mod driver;
mod expression;
mod failure;
mod host;
mod image;
mod manifest;
mod model;
mod nvml;
mod pinned;
mod plan;
mod stream;
mod system;

use abi::backend::*;
use abi::status::*;
use abi::tensor::{BLAZE_MEMORY_CUDA, BLAZE_MEMORY_PINNED, blaze_memory};
use batch::Prepared;
use failure::{Failure, Result};
use host::{Call, Host};
use model::{Model, Options};
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use system::{Config, System};

/// What `user` points to.
struct Backend {
    system: std::sync::Arc<System>,
    host: AtomicPtr<blaze_host>,
}

impl Backend {
    fn host(&self) -> Host {
        // SAFETY: the engine's table lives until the backend is closed.
        unsafe { Host::new(self.host.load(Ordering::Acquire)) }
    }
}

/// Writes an error for C.
fn tell(err: *mut blaze_error, failure: &Failure) -> blaze_status {
    // SAFETY: the engine's pointer, or NULL.
    if let Some(err) = unsafe { err.as_mut() } {
        err.status = failure.status;
        let mut end = failure.text.len().min(err.message.len() - 1);
        while !failure.text.is_char_boundary(end) {
            end -= 1;
        }
        let bytes = failure.text.as_bytes()[..end].iter().copied().chain([0]);
        err.message.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte as c_char);
    }
    failure.status
}

/// Does something for C.
fn guard(err: *mut blaze_error, work: impl FnOnce() -> Result<()>) -> blaze_status {
    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Failure::new(BLAZE_STATUS_INTERNAL, format!("a panic: {}", text.unwrap_or_default())))
    });
    done.map_or_else(|failure| tell(err, &failure), |()| BLAZE_STATUS_OK)
}

/// Text by the two-call pattern.
///
/// # Safety
/// The buffer is as large as is said, `needed` valid.
unsafe fn put(text: &str, buffer: *mut c_char, capacity: usize, needed: *mut usize) -> Result<()> {
    // SAFETY: promised by the caller.
    unsafe { *needed = text.len() + 1 };
    if text.len() >= capacity {
        return Err(Failure::new(BLAZE_STATUS_BUFFER_TOO_SMALL, ""));
    }
    // SAFETY: it has room, as was just found.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, text.len());
        buffer.add(text.len()).write(0);
    }
    Ok(())
}

/// # Safety
/// A string, or NULL.
unsafe fn text<'a>(pointer: *const c_char) -> Option<&'a str> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(pointer) }.to_str().ok()
}

/// The version of the interface that this is compiled for.
#[unsafe(no_mangle)]
pub extern "C" fn blaze_plugin_abi() -> u32 {
    BLAZE_BACKEND_ABI
}

/// Makes the backend "cuda", if there is a driver and a device.
///
/// # Safety
/// As in `docs/backends.md`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_plugin_open(
    config_json: *const c_char,
    backend: *mut blaze_backend,
    err: *mut blaze_error,
) -> blaze_status {
    guard(err, || {
        let unavailable = |text: String| Failure::new(BLAZE_STATUS_BACKEND_UNAVAILABLE, text);
        // SAFETY: the engine's pointers.
        let json = unsafe { text(config_json) }.unwrap_or("{}");
        let config = Config::parse(json).map_err(unavailable)?;
        let system = System::open(&config).map_err(unavailable)?;
        let own = Box::new(Backend { system, host: AtomicPtr::new(ptr::null_mut()) });
        let functions = blaze_backend {
            struct_size: size_of::<blaze_backend>() as u32,
            abi: BLAZE_BACKEND_ABI,
            name: c"cuda".as_ptr(),
            user: Box::into_raw(own).cast(),
            open: Some(open),
            load: Some(load),
            describe: Some(describe),
            unload: Some(unload),
            prepare: Some(prepare),
            release: Some(release),
            run: Some(run),
            begin: None,
            step: None,
            end: None,
            allocate: Some(allocate),
            free: Some(free),
            report: Some(report),
            close: Some(close),
        };
        // SAFETY: as above.
        unsafe { backend.write(functions) };
        Ok(())
    })
}

/// # Safety
/// `user` is what `blaze_plugin_open` has made, and `close` was not called.
unsafe fn own<'a>(user: *mut c_void) -> Result<&'a Backend> {
    // SAFETY: promised by the caller.
    unsafe { user.cast::<Backend>().as_ref() }.ok_or_else(|| Failure::failed("user is NULL"))
}

/// # Safety
/// The model is loaded.
unsafe fn loaded<'a>(model: *mut c_void) -> Result<&'a Model> {
    // SAFETY: promised by the caller.
    unsafe { model.cast::<Model>().as_ref() }.ok_or_else(|| Failure::failed("model is NULL"))
}

unsafe extern "C" fn open(user: *mut c_void, host: *const blaze_host) {
    guard(ptr::null_mut(), || {
        // SAFETY: the engine's pointers.
        let backend = unsafe { own(user) }?;
        backend.host.store(host.cast_mut(), Ordering::Release);
        for device in &backend.system.devices {
            let (major, minor) = device.compute;
            let text =
                format!("device {}: {}, compute capability {major}.{minor}", device.ordinal, device.name);
            backend.host().log(host::LOG_INFO, &text);
        }
        Ok(())
    });
}

unsafe extern "C" fn load(
    user: *mut c_void,
    load: *const blaze_backend_load,
    call: *mut blaze_call,
    model: *mut *mut c_void,
    err: *mut blaze_error,
) -> blaze_status {
    guard(err, || {
        // SAFETY: the engine's pointers, here and below, all valid until this returns.
        let (backend, load) = unsafe { (own(user)?, load.as_ref()) };
        let load = load.ok_or_else(|| Failure::failed("load is NULL"))?;
        // SAFETY: as above.
        let (options, path, name) = unsafe { (text(load.options), text(load.path), text(load.name)) };
        let options = Options::parse(options.unwrap_or("{}"))?;
        let Some(path) = path else {
            let why =
                "path: a model of CUDA kernels is a manifest with files beside it, and must have a path";
            let status =
                if load.data.is_null() { BLAZE_STATUS_INVALID_CONFIG } else { BLAZE_STATUS_UNSUPPORTED };
            return Err(Failure::new(status, why));
        };
        let name = name.unwrap_or("a model");
        let buckets = match load.buckets.is_null() {
            true => &[],
            // SAFETY: as above.
            false => unsafe { std::slice::from_raw_parts(load.buckets, load.buckets_count as usize) },
        };
        // SAFETY: as above.
        let call = unsafe { Call::new(backend.host(), call) };
        let made = Model::load(Path::new(path), name, &options, buckets, &backend.system.devices, call)?;
        // SAFETY: as above.
        unsafe { model.write(Box::into_raw(Box::new(made)).cast()) };
        Ok(())
    })
}

unsafe extern "C" fn describe(
    _user: *mut c_void,
    model: *mut c_void,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> blaze_status {
    // SAFETY: the engine's pointers.
    guard(ptr::null_mut(), || unsafe {
        put(&loaded(model)?.describe().to_string(), buffer, capacity, needed)
    })
}

unsafe extern "C" fn unload(_user: *mut c_void, model: *mut c_void) {
    guard(ptr::null_mut(), || {
        if !model.is_null() {
            // SAFETY: `load` has made it, and nobody uses it any more.
            drop(unsafe { Box::from_raw(model.cast::<Model>()) });
        }
        Ok(())
    });
}

unsafe extern "C" fn prepare(
    user: *mut c_void,
    model: *mut c_void,
    batch: *const blaze_backend_batch,
    call: *mut blaze_call,
    prepared: *mut *mut c_void,
    err: *mut blaze_error,
) -> blaze_status {
    guard(err, || {
        // SAFETY: the engine's pointers, all valid until this returns.
        unsafe {
            let call = Call::new(own(user)?.host(), call);
            let batch = batch.as_ref().ok_or_else(|| Failure::failed("batch is NULL"))?;
            let made = Prepared::new(loaded(model)?, batch, call)?;
            prepared.write(Box::into_raw(Box::new(made)).cast());
        }
        Ok(())
    })
}

unsafe extern "C" fn release(_user: *mut c_void, _model: *mut c_void, prepared: *mut c_void) {
    guard(ptr::null_mut(), || {
        if !prepared.is_null() {
            // SAFETY: `prepare` has made it, and nobody uses it any more.
            drop(unsafe { Box::from_raw(prepared.cast::<Prepared>()) });
        }
        Ok(())
    });
}

unsafe extern "C" fn run(
    user: *mut c_void,
    model: *mut c_void,
    prepared: *mut c_void,
    run: *const blaze_backend_run,
    call: *mut blaze_call,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the engine's pointers, all valid until this returns.
    guard(err, || unsafe {
        let call = Call::new(own(user)?.host(), call);
        let (model, run) = (loaded(model)?, run.as_ref().ok_or_else(|| Failure::failed("run is NULL"))?);
        match prepared.cast::<Prepared>().as_ref() {
            Some(prepared) => prepared.run(model, run, call),
            None => batch::run_alone(model, run, call),
        }
    })
}

unsafe extern "C" fn allocate(
    user: *mut c_void,
    memory: blaze_memory,
    device: i32,
    size_bytes: usize,
) -> *mut c_void {
    let mut address: *mut c_void = ptr::null_mut();
    guard(ptr::null_mut(), || {
        // SAFETY: the engine's pointer.
        let backend = unsafe { own(user) }?;
        let devices = &backend.system.devices;
        let found = usize::try_from(device).ok().and_then(|index| devices.get(index));
        let made = match (memory, found) {
            (BLAZE_MEMORY_CUDA, Some(device)) => device.allocate(size_bytes).map(|made| made as *mut c_void),
            // It is for all devices: any that is in use registers it.
            (BLAZE_MEMORY_PINNED, found) => {
                let is_ready = |device: &&std::sync::Arc<device::Device>| {
                    let health = device.health();
                    health.opened && health.lost.is_none()
                };
                match found.filter(is_ready).or_else(|| devices.iter().find(is_ready)).or(devices.first()) {
                    Some(device) => {
                        let warn = |text: &str| backend.host().log(host::LOG_WARN, text);
                        backend.system.pinned.allocate(device, size_bytes, warn)
                    }
                    None => Err(Failure::failed("there is no device")),
                }
            }
            _ => Err(Failure::failed(format!("there is no memory {memory} of device {device}"))),
        };
        match made {
            Ok(made) => address = made,
            Err(failure) => {
                backend.host().log(host::LOG_WARN, &format!("{size_bytes} bytes: {}", failure.text));
                host::refuse(failure);
            }
        }
        Ok(())
    });
    address
}

unsafe extern "C" fn free(
    user: *mut c_void,
    memory: blaze_memory,
    device: i32,
    address: *mut c_void,
    _size_bytes: usize,
) {
    guard(ptr::null_mut(), || {
        // SAFETY: the engine's pointer.
        let system = &unsafe { own(user) }?.system;
        match memory {
            BLAZE_MEMORY_PINNED => system.pinned.free(&system.devices, address),
            _ => {
                if let Some(device) = usize::try_from(device).ok().and_then(|index| system.devices.get(index))
                {
                    device.free(address as driver::Address);
                }
            }
        }
        Ok(())
    });
}

unsafe extern "C" fn report(
    user: *mut c_void,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> blaze_status {
    // SAFETY: the engine's pointers.
    guard(ptr::null_mut(), || unsafe {
        put(&own(user)?.system.report().to_string(), buffer, capacity, needed)
    })
}

unsafe extern "C" fn close(user: *mut c_void) {
    guard(ptr::null_mut(), || {
        if !user.is_null() {
            // SAFETY: `blaze_plugin_open` has made it, and none of its models is left.
            drop(unsafe { Box::from_raw(user.cast::<Backend>()) });
        }
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    /// As `tests/layers.rs` has it for Blaze's own sources.
    #[test]
    fn every_module_says_what_it_is_for_and_is_one_thing() {
        let mut directories = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut seen = 0;
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(text.starts_with("//! "), "{}", path.display());
                assert!(text.lines().count() <= 600, "{}: is it one thing?", path.display());
                seen += 1;
            }
        }
        assert!(seen > 10);
    }
}
