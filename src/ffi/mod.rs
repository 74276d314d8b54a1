//! The C ABI: one file per C object, and all pointer plumbing in `guard` and `read`.
//!
//! Documentation comments here become `include/blaze.h`; run `make header` after a change.
#![allow(unsafe_code, non_camel_case_types)]
// The header says for each function what its pointers must be; repeating it in a Safety section would say it
// twice to C readers.
#![allow(clippy::missing_safety_doc)]
#![cfg_attr(test, allow(clippy::undocumented_unsafe_blocks))]

mod guard;
mod read;

pub mod allocator;
pub mod backend;
pub mod engine;
pub mod event;
pub mod handles;
pub mod log;
pub mod model;
pub mod profile;
pub mod queue;
pub mod reports;
pub mod request;
pub mod route;
pub mod status;
pub mod tensor;
pub mod tuning;

/// The parts of the header, in its order: a heading, and the files that the part is generated from.
pub const HEADER_PARTS: [(&str, &[&str]); 15] = [
    ("Versions, statuses, errors", &["src/ffi/status.rs", "src/abi/status.rs"]),
    ("Handles", &["src/ffi/handles.rs"]),
    ("Memory of the host's", &["src/ffi/allocator.rs"]),
    ("Engines", &["src/ffi/engine.rs"]),
    ("Models", &["src/ffi/model.rs"]),
    ("Routes and tenants", &["src/ffi/route.rs"]),
    ("Tensors", &["src/abi/tensor.rs"]),
    ("Events", &["src/ffi/event.rs"]),
    ("Requests", &["src/ffi/request.rs"]),
    ("Completion queues", &["src/ffi/queue.rs"]),
    ("Health and metrics", &["src/ffi/reports.rs"]),
    ("Logs", &["src/ffi/log.rs"]),
    ("Profiling", &["src/ffi/profile.rs"]),
    ("Tuning", &["src/ffi/tuning.rs"]),
    ("Backends", &["src/abi/backend.rs", "src/ffi/backend.rs"]),
];
