//! The log.

use super::guard::guard;
use super::handles::blaze_engine;
use super::read::{handle, string};
use super::status::{blaze_error, blaze_status};
use crate::config::LogConfig;
use crate::log::{Callback, Record};
use std::ffi::{CStr, CString, c_char, c_void};

/// How severe a line of the log is.
pub type blaze_log_level = u32;

/// Something is lost or broken.
pub const BLAZE_LOG_ERROR: blaze_log_level = 1;
/// Something is not as it should be, and goes on all the same.
pub const BLAZE_LOG_WARN: blaze_log_level = 2;
/// What happens seldom: engines, models, shutdowns.
pub const BLAZE_LOG_INFO: blaze_log_level = 3;
/// What helps to find out why.
pub const BLAZE_LOG_DEBUG: blaze_log_level = 4;
/// Everything, request by request.
pub const BLAZE_LOG_TRACE: blaze_log_level = 5;

/// A line of the log. What it points to is valid during the call only.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_log_record {
    /// sizeof(blaze_log_record), as this library has it.
    pub struct_size: u32,
    /// BLAZE_LOG_ERROR to BLAZE_LOG_TRACE.
    pub level: blaze_log_level,
    /// Wall-clock time: since 1970, UTC.
    pub time_ns: u64,
    /// Which part of the engine speaks: see blaze_log_configure.
    pub module: *const c_char,
    /// What happened: UTF-8, NUL-terminated.
    pub message: *const c_char,
    /// A JSON object with what the message is about, such as {"model":"digits:1"}; NULL: nothing. "dropped": lines of the same
    /// module and level that were too many, since the last one.
    pub fields: *const c_char,
}

/// Receives lines of the log: from any thread, one at a time for each engine. Other threads that have something to log wait
/// for it, so it must be fast; it must not call into Blaze, and not wait for a thread that does.
pub type blaze_log_function =
    Option<unsafe extern "C" fn(user: *mut c_void, record: *const blaze_log_record)>;

/// A function of the host's for lines.
struct HostFunction {
    function: unsafe extern "C" fn(user: *mut c_void, record: *const blaze_log_record),
    user: *mut c_void,
}

// SAFETY: the header says that the function is called from any thread.
unsafe impl Send for HostFunction {}

impl HostFunction {
    fn call(&self, record: &Record<'_>) {
        let text = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
        let (module, message) = (text(record.module), text(record.message));
        let fields = record.fields.map(text);
        let record = blaze_log_record {
            struct_size: size_of::<blaze_log_record>() as u32,
            level: record.level as u32,
            time_ns: record.time_ns,
            module: module.as_ptr(),
            message: message.as_ptr(),
            fields: fields.as_deref().map_or(std::ptr::null(), CStr::as_ptr),
        };
        // SAFETY: the host has promised what the function is; the record lives during the call.
        unsafe { (self.function)(self.user, &record) };
    }
}

/// Changes what an engine logs, and where, while it works. Keys that are not given, or null, stay as they are; the same keys
/// in "log" of blaze_engine_create say how it begins. By default nothing is logged.
///
/// @param engine    The engine.
/// @param log_json  A JSON object, UTF-8, read during the call only:
///                  "level" ("warn"): "off", "error", "warn", "info", "debug", "trace";
///                  "target" ("none"): "stderr"; "file"; "callback": blaze_log_set_callback's; "facade": the Rust crate
///                  log's, for hosts in Rust;
///                  "format" ("text"): "text" or "json", one object a line: "ts", "level", "module", "message", and
///                  fields such as "model" and "route". For "stderr" and "file";
///                  "modules" ({}): levels of modules that differ from "level", as in {"onnx": "debug"}: "model", "memory",
///                  "route", "repository", "onnx", "onnxruntime" (what ONNX Runtime itself says; a model that is loaded while
///                  this is at "warn" says no more later), "health", "profile", "tuning", "jobs", "deadlines", "other"; replaces what was there;
///                  "file": {"path", "max_bytes" (10485760: it is renamed to path.1 before it has more), "keep" (3: renamed
///                  files)}, opened anew by every call. Each engine needs a file of its own;
///                  "rate": {"per_second" (100: lines of each module and level; 0: no limit), "burst" (as many)}. What is
///                  more is dropped, and the next line says in "dropped" how many were;
///                  "global" (false): whether what this process says through the crate log, such as ONNX Runtime before it
///                  has a model, comes to this engine's log too, as "other" if it is not "onnxruntime". One engine at a time
///                  has it, and none if somebody else has installed a global logger.
/// @param err       Receives the reason of a failure; may be NULL. Nothing has changed then.
///
/// Never blocks for long. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT (not UTF-8); INVALID_CONFIG (also a file that cannot be opened); INVALID_STATE
/// (from inside the callback).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_log_configure(
    engine: *mut blaze_engine,
    log_json: *const c_char,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(err, || {
            let engine = &handle(engine, "engine")?.engine;
            engine.configure_log(&LogConfig::from_json(string(log_json, "log_json")?)?)
        })
    }
}

/// Sets the function that receives lines while "target" is "callback". What an engine has said until its first one is set,
/// such as while blaze_engine_create loads its models, is kept (up to 1024 lines) and comes to it before this returns, on
/// this thread; the next line says in "lost" how many there was no room for. Without one nothing is logged later.
///
/// @param engine     The engine.
/// @param function   The function; NULL: none. The one before is not called any more when this has returned, and none when
///                   blaze_engine_destroy has.
/// @param user_data  Handed to the function.
/// @param err        Receives the reason of a failure; may be NULL.
///
/// Blocks while the function before is being called. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_STATE (from inside the callback).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_log_set_callback(
    engine: *mut blaze_engine,
    function: blaze_log_function,
    user_data: *mut c_void,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(err, || {
            let callback = function.map(|function| {
                let host = HostFunction { function, user: user_data };
                Box::new(move |record: &Record<'_>| host.call(record)) as Callback
            });
            handle(engine, "engine")?.engine.set_log_callback(callback)
        })
    }
}
