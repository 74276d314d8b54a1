//! The engine's memory: what it amounts to, where it comes from, and blocks of it that are used again and again.

pub mod eviction;
mod ledger;
mod pool;
mod shelves;
mod space;

pub use ledger::{Kind, Ledger, Relief, Reservation};
pub use pool::{Block, Pool, RawBlock, exact_size};
pub use space::{ALIGNMENT, HostSpace, Place, Space, Supplied, block_size};
