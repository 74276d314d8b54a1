//! The end of the process.

/// Has a function called when the process ends by `exit` or by returning from `main`, before what was registered earlier.
pub fn at_exit(function: extern "C" fn()) {
    // SAFETY: the function stays as long as the library, which is never unloaded.
    unsafe { libc::atexit(function) };
}
