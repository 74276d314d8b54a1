//! Backends in shared objects of their own, which are opened when the engine is made and never unloaded.

use super::Foreign;
use crate::abi::backend::{BLAZE_BACKEND_ABI, blaze_backend};
use crate::abi::status::{blaze_error, blaze_status};
use crate::backend::Devices;
use crate::error::{Error, Result, Status};
use crate::log::Logger;
use crate::memory::Pool;
use crate::platform;
use std::ffi::{CString, c_char, c_void};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Abi = unsafe extern "C" fn() -> u32;
type Open = unsafe extern "C" fn(*const c_char, *mut blaze_backend, *mut blaze_error) -> blaze_status;

/// The file of a plugin: an absolute path as it is, and a file name or a plugin's name beside Blaze itself.
pub fn file_of(path: &str) -> Result<PathBuf> {
    let given = Path::new(path);
    if given.is_absolute() {
        return Ok(given.to_owned());
    }
    let is_name = given.components().count() == 1 && !matches!(path, "." | "..");
    if !is_name {
        let text = format!("{path:?} is neither an absolute path nor the name of a file beside Blaze");
        return Err(Error::new(Status::InvalidConfig, text));
    }
    let beside = platform::own_directory().ok_or_else(|| {
        Error::new(Status::BackendUnavailable, "where Blaze itself is cannot be told: give an absolute path")
    })?;
    let is_word = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    Ok(beside.join(if is_word { platform::library_name(&format!("blaze_{path}")) } else { path.to_owned() }))
}

/// Opens a plugin, and has it make its backend. `config` is a JSON object.
pub fn open(
    file: &Path,
    config: &str,
    logger: Logger,
    pool: &Arc<Pool>,
    devices: &Arc<Devices>,
) -> Result<Arc<Foreign>> {
    let unusable =
        |text: String| Error::new(Status::BackendUnavailable, format!("{}: {text}", file.display()));
    // SAFETY: whoever configures a plugin trusts its code, initializers and all, as its own.
    let library = unsafe { platform::open_library(file) }.map_err(&unusable)?;
    let symbol =
        |name| library.symbol(name).ok_or_else(|| unusable(format!("it has no {}", name.to_string_lossy())));
    let (abi, open) = (symbol(c"blaze_plugin_abi")?, symbol(c"blaze_plugin_open")?);
    // SAFETY: functions of these names have these types in every version of the ABI.
    let (abi, open) = unsafe {
        (std::mem::transmute::<*mut c_void, Abi>(abi), std::mem::transmute::<*mut c_void, Open>(open))
    };
    // SAFETY: it takes nothing.
    let made_for = unsafe { abi() };
    if made_for != BLAZE_BACKEND_ABI {
        return Err(unusable(format!(
            "it is made for version {made_for} of the interface for backends; this Blaze has {BLAZE_BACKEND_ABI}"
        )));
    }
    let config =
        CString::new(config).map_err(|_| Error::new(Status::InvalidConfig, "config: has a NUL in it"))?;
    // SAFETY: null function pointers are `None`, and all else are numbers and pointers.
    let mut functions = unsafe { MaybeUninit::<blaze_backend>::zeroed().assume_init() };
    functions.struct_size = size_of::<blaze_backend>() as u32;
    let mut error = blaze_error { status: 0, message: [0; 1012], retry_after_ns: 0 };
    // SAFETY: all pointers live until the call returns.
    let code = unsafe { open(config.as_ptr(), &raw mut functions, &raw mut error) };
    if code != 0 {
        return Err(unusable(super::failure(code, &mut error)));
    }
    // SAFETY: the plugin is of this version of the interface, and promises to keep to it.
    let backend = unsafe { Foreign::new(&functions, logger, pool, devices) }.map_err(|error| {
        if let (Some(close), BLAZE_BACKEND_ABI) = (functions.close, functions.abi) {
            // SAFETY: what the plugin has made is its to free; nobody uses it.
            unsafe { close(functions.user) };
        }
        unusable(error.to_string())
    })?;
    // Who has opened it closes it, whatever becomes of it.
    backend.take_over();
    Ok(backend)
}
