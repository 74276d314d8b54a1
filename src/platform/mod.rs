//! What differs between operating systems, and needs their C interface.
#![allow(unsafe_code)]

mod clock;
mod cpu;
mod environment;
mod exit;
mod file;
mod forks;
mod heap;
mod library;
mod machine;
mod pages;
mod ready_fd;
mod signals;
mod threads;

pub use clock::now_ns;
pub use cpu::{machine_idle_ns, process_cpu_ns, threads_cpu_ns};
pub use environment::set_default;
pub use exit::at_exit;
pub use file::{file_identity, make_private_directory, system_path};
pub use forks::{process_generation, watch_forks};
pub use heap::{heap_in_use, keep_large_blocks_apart, resident_bytes, trim_heap, trim_thread_heap};
pub use library::{file_of, library_name, library_names, loaded_symbol, open_library, own_directory};
pub use machine::cpu_name;
pub use pages::{MAPS_PAGES, map, unmap};
pub use ready_fd::ReadyFd;
pub use signals::block_signals;
pub use threads::{ThreadTime, thread_id, thread_times};
