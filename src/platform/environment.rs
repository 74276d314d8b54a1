//! The process's environment variables.

/// Sets a variable, unless it is set already.
///
/// Other threads that read the environment through C at the same moment can be disturbed by this, so it is for what
/// a library cannot do without, once, and a host can avoid it by setting the variable itself.
pub fn set_default(name: &str, value: &str) {
    if std::env::var_os(name).is_none() {
        // SAFETY: Rust's own readers are excluded by its lock. For C's, this adds one variable at most once in the
        // life of the process, as any C library's setenv would.
        unsafe { std::env::set_var(name, value) };
    }
}
