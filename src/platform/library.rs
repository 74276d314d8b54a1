//! Shared objects that are loaded into this process.

use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};

/// The file names that a library may have here, the one to prefer first.
pub fn library_names(stem: &str, major: u32) -> Vec<String> {
    if cfg!(target_os = "windows") {
        vec![format!("{stem}.dll")]
    } else if cfg!(target_os = "macos") {
        vec![format!("lib{stem}.dylib")]
    } else {
        vec![format!("lib{stem}.so.{major}"), format!("lib{stem}.so")]
    }
}

/// The file name of a library without a version.
pub fn library_name(stem: &str) -> String {
    match () {
        () if cfg!(target_os = "windows") => format!("{stem}.dll"),
        () if cfg!(target_os = "macos") => format!("lib{stem}.dylib"),
        () => format!("lib{stem}.so"),
    }
}

/// The directory of the file that this code was loaded from: `libblaze`, or a program that has Blaze inside.
pub fn own_directory() -> Option<PathBuf> {
    let file = file_of(own_directory as *const c_void)?;
    let parent = file.parent()?;
    Some(std::path::absolute(parent).unwrap_or_else(|_| parent.to_owned()))
}

/// A library that is open for as long as the process runs.
pub struct OpenLibrary(*mut c_void);

/// Opens a library by its path. It sees nothing of others that were opened so, and is never closed.
///
/// # Safety
/// Its initializers are run: they must be fit to be.
#[cfg(unix)]
pub unsafe fn open_library(path: &Path) -> Result<OpenLibrary, String> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: `name` is NUL-terminated; the rest is promised by the caller.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if !handle.is_null() {
        return Ok(OpenLibrary(handle));
    }
    // SAFETY: dlerror returns NULL, or a string that lives until this thread's next call.
    let error = unsafe { libc::dlerror() };
    if error.is_null() {
        return Err("it cannot be opened".into());
    }
    // SAFETY: as above.
    Err(unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned())
}

impl OpenLibrary {
    /// The address of a symbol.
    #[cfg(unix)]
    pub fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is never closed, and the name ends in a NUL.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }

    /// The address of a symbol.
    #[cfg(windows)]
    pub fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the module is never freed, and the name ends in a NUL.
        let address = unsafe { kernel32::GetProcAddress(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }
}

/// Opens a library by its path. It finds libraries that it needs beside itself and in the system. It is never closed.
///
/// # Safety
/// Its initializers are run: they must be fit to be.
#[cfg(windows)]
pub unsafe fn open_library(path: &Path) -> Result<OpenLibrary, String> {
    let name = super::file::system_path(path).ok_or("its path is not one of this system's")?;
    // SAFETY: `name` is NUL-terminated; the rest is promised by the caller.
    let module = unsafe {
        kernel32::LoadLibraryExW(name.as_ptr(), std::ptr::null_mut(), kernel32::ITS_FOLDER_AND_THE_SYSTEM)
    };
    match module.is_null() {
        true => Err(std::io::Error::last_os_error().to_string()),
        false => Ok(OpenLibrary(module)),
    }
}

/// The file whose mapping holds `address`.
#[cfg(unix)]
pub fn file_of(address: *const c_void) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: a plain C struct of pointers, for which zeroes are valid.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is writable, and dladdr accepts any address.
    if unsafe { libc::dladdr(address, &mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: on success `dli_fname` is a NUL-terminated string that lives as long as the mapping.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes())))
}

/// The address of a symbol in a library that is loaded already. The library is then never unloaded.
#[cfg(unix)]
pub fn loaded_symbol(library: &Path, symbol: &CStr) -> Option<*mut c_void> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(library.as_os_str().as_bytes()).ok()?;
    // SAFETY: `name` is NUL-terminated; with RTLD_NOLOAD nothing is loaded, so no initializer runs.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: `handle` came from dlopen just now and is never closed.
    let address = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
    (!address.is_null()).then_some(address)
}

#[cfg(windows)]
mod kernel32 {
    use std::ffi::{c_char, c_void};

    /// LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR and LOAD_LIBRARY_SEARCH_DEFAULT_DIRS.
    pub const ITS_FOLDER_AND_THE_SYSTEM: u32 = 0x1100;
    pub const MODULE_PIN: u32 = 1;
    pub const MODULE_FROM_ADDRESS: u32 = 4;

    // `GetModuleHandleExW` takes an address instead of a name with `MODULE_FROM_ADDRESS`.
    #[link(name = "kernel32")]
    unsafe extern "system" {
        pub fn GetModuleHandleExW(flags: u32, name: *const u16, module: *mut *mut c_void) -> i32;
        pub fn LoadLibraryExW(name: *const u16, file: *mut c_void, flags: u32) -> *mut c_void;
        pub fn GetModuleFileNameW(module: *mut c_void, name: *mut u16, units: u32) -> u32;
        pub fn GetProcAddress(module: *mut c_void, name: *const c_char) -> *mut c_void;
    }
}

/// The file whose mapping holds `address`.
#[cfg(windows)]
pub fn file_of(address: *const c_void) -> Option<PathBuf> {
    use std::os::windows::ffi::OsStringExt;
    // The module is pinned: this is only asked of libraries that are never unloaded.
    let flags = kernel32::MODULE_FROM_ADDRESS | kernel32::MODULE_PIN;
    let mut module = std::ptr::null_mut();
    // SAFETY: `module` is writable, and any address is accepted.
    if unsafe { kernel32::GetModuleHandleExW(flags, address.cast(), &mut module) } == 0 {
        return None;
    }
    let mut name = vec![0u16; 32768]; // as long as a path can be
    // SAFETY: `name` has room for as many units as are said, and the module is loaded.
    let units = unsafe { kernel32::GetModuleFileNameW(module, name.as_mut_ptr(), name.len() as u32) };
    (units > 0).then(|| PathBuf::from(std::ffi::OsString::from_wide(&name[..units as usize])))
}

/// The address of a symbol in a library that is loaded already. The library is then never unloaded.
#[cfg(windows)]
pub fn loaded_symbol(library: &Path, symbol: &CStr) -> Option<*mut c_void> {
    let name = super::file::system_path(library)?;
    let mut module = std::ptr::null_mut();
    // SAFETY: `name` is NUL-terminated, `module` is writable, and nothing is loaded by this.
    if unsafe { kernel32::GetModuleHandleExW(kernel32::MODULE_PIN, name.as_ptr(), &mut module) } == 0 {
        return None;
    }
    // SAFETY: the module is loaded and pinned, and the name ends in a NUL.
    let address = unsafe { kernel32::GetProcAddress(module, symbol.as_ptr()) };
    (!address.is_null()).then_some(address)
}
