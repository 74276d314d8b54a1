//! Blaze: an AI inference engine that a program links into itself.
//!
//! The library has two faces over one engine: the C ABI in [`ffi`] (documented in `include/blaze.h`) and the
//! Rust API in [`engine`]. A request goes one way: submit → admission → queue → lane → backend → completion
//! queue → poll → release.
//!
//! Layers depend downward only; `tests/layers.rs` holds the table:
//! `ffi` → `engine` → `scheduler`, `router`, `profile`, `tuning` → `backend` → `repository` → `config` → `tensor`, `metrics` → `memory` →
//! `stack`, `log` → `sync` → `panics`, `features`, `clock` → `platform` → `error`, `abi`.

pub mod abi;
pub mod backend;
pub mod clock;
pub mod config;
pub mod engine;
pub mod error;
mod features;
pub mod ffi;
pub mod log;
pub mod memory;
pub mod metrics;
mod panics;
mod platform;
pub mod profile;
pub mod repository;
pub mod router;
pub mod scheduler;
mod stack;
mod sync;
pub mod tensor;
pub mod tuning;

/// The version of the library, as `major.minor.patch`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
