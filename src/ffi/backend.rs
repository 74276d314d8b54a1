//! Backends that the host registers.

use super::guard::guard_part;
use super::handles::blaze_engine;
use super::read::{handle, read_sized, sized};
use super::status::{blaze_error, blaze_status};
use crate::abi::backend::blaze_backend;
use crate::features::PLUGINS;

sized!(blaze_backend);

/// Makes a backend of the host's known to an engine: models whose "backend" is its name are loaded and run by it. It stays
/// until the engine is destroyed and no event has memory of its, and then its `close` is called. If it is refused, none of its
/// functions is called.
///
/// @param engine   The engine.
/// @param backend  The backend; copied. What `user` points to must live until `close`.
/// @param err      Receives the reason of a failure; may be NULL.
///
/// Blocks as long as its `open`. Threads: any.
/// Returns OK; NULL_POINTER (also a function that is missing); INVALID_STRUCT; INVALID_ARGUMENT; ALREADY_EXISTS; UNSUPPORTED;
/// SHUT_DOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_backend_register(
    engine: *mut blaze_engine,
    backend: *const blaze_backend,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: what the header asks for.
    unsafe {
        guard_part(&PLUGINS, err, || {
            let engine = &handle(engine, "engine")?.engine;
            let backend = read_sized(backend, "backend")?;
            engine.register_backend(&backend)
        })
    }
}
