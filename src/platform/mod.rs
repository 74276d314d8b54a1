//! What differs between operating systems, and needs their C interface.
#![allow(unsafe_code)]

mod environment;
mod library;
mod ready_fd;

pub use environment::set_default;
pub use library::{file_of, loaded_symbol};
pub use ready_fd::ReadyFd;
