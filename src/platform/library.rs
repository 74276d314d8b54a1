//! Shared objects that are loaded into this process.

use std::ffi::{CStr, CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file whose mapping holds `address`.
pub fn file_of(address: *const c_void) -> Option<PathBuf> {
    // SAFETY: a plain C struct of pointers, for which zeroes are valid.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is writable, and dladdr accepts any address.
    if unsafe { libc::dladdr(address, &mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: on success `dli_fname` is a NUL-terminated string that lives as long as the mapping.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// The address of a symbol in a library that is loaded already. The library is then never unloaded.
pub fn loaded_symbol(library: &Path, symbol: &CStr) -> Option<*mut c_void> {
    let name = CString::new(library.as_os_str().as_bytes()).ok()?;
    // SAFETY: `name` is NUL-terminated; with RTLD_NOLOAD nothing is loaded, so no initializer runs.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: `handle` came from dlopen just now and is never closed.
    let address = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
    (!address.is_null()).then_some(address)
}
