//! Blocks of memory that are used again and again: taking one and giving it back takes no lock and allocates nothing.
#![allow(unsafe_code)]

use super::ledger::{Kind, Ledger};
use super::shelves::{Shelves, Taken};
use super::space::{ALIGNMENT, CLASSES, Place, Space, block_size, class_of};
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock, try_lock};
use std::ptr::NonNull;
use std::sync::Arc;

/// The pool of one space of an engine's.
pub struct Pool {
    ledger: Arc<Ledger>,
    space: Box<dyn Space>,
    place: Place,
    /// At most 1 << 18 blocks; any more are not pooled.
    shelves: Shelves<CLASSES, 1024, 256>,
    /// Idle bytes kept at most.
    limit: AtomicU64,
    /// Held while blocks are taken off the shelves to be freed.
    trimming: Mutex<()>,
    /// Blocks that were found on a shelf are counted.
    counts: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Where a block goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// The pool, where it has this number.
    Shelf(u32),
    /// The space, since there was no number left. Its size is that of a class.
    Space,
    /// The space. Its size is rounded to the alignment only.
    Exact(Kind),
}

/// A block's parts, to be kept where a `Block` cannot be. Whoever has it owns the block.
#[derive(Clone, Copy, Debug)]
pub struct RawBlock {
    /// From `Arc::into_raw`.
    pool: *const Pool,
    address: NonNull<u8>,
    size: usize,
    home: Home,
    is_zeroed: bool,
}

/// Memory from a pool, 64-byte aligned, with whatever its last user left there. Goes back on drop, and keeps the pool
/// alive. Who may touch which part of it and when is up to its owner.
pub struct Block(RawBlock);

// SAFETY: a block is plain memory without thread affinity, and so is its pool; it is reached only by its address.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    pub fn address(&self) -> *mut u8 {
        self.0.address.as_ptr()
    }

    /// Bytes that were asked for.
    pub fn size(&self) -> usize {
        self.0.size
    }

    /// Whether it was all zeros when it was taken.
    pub fn is_zeroed(&self) -> bool {
        self.0.is_zeroed
    }

    pub fn into_raw(self) -> RawBlock {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }

    /// The block that was taken apart.
    ///
    /// # Safety
    /// `raw` came from `into_raw`, and is made a block again only once.
    pub unsafe fn from_raw(raw: RawBlock) -> Self {
        Block(raw)
    }
}

impl RawBlock {
    pub fn address(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Bytes that were asked for.
    pub fn size(&self) -> usize {
        self.size
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        let RawBlock { pool, address, size, home, .. } = self.0;
        // SAFETY: the block has a share of its pool, which ends here.
        let pool = unsafe { Arc::from_raw(pool) };
        match home {
            Home::Shelf(index) if pool.shelves.put(index, now_ns(), pool.limit.load(Ordering::Relaxed)) => {}
            Home::Shelf(index) => pool.make_room_and_put(index, address, block_size(size)),
            Home::Space => pool.free(address, block_size(size), Kind::Buffers),
            Home::Exact(kind) => pool.free(address, exact_size(size), kind),
        }
    }
}

/// The size of blocks for `size` bytes that are never pooled.
pub fn exact_size(size: usize) -> usize {
    size.max(1).div_ceil(ALIGNMENT).saturating_mul(ALIGNMENT)
}

impl Pool {
    /// A pool of blocks from `space`, whose bytes are taken from `ledger`. It keeps any number of idle bytes.
    pub fn new(ledger: Arc<Ledger>, space: Box<dyn Space>) -> Arc<Self> {
        Arc::new(Pool {
            ledger,
            place: space.place(),
            space,
            shelves: Shelves::new(),
            limit: AtomicU64::new(u64::MAX),
            trimming: Mutex::default(),
            counts: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Where its blocks are.
    pub fn place(&self) -> Place {
        self.place
    }

    /// A block of at least `size` bytes: an idle one, or a new one, for which idle ones may have to go.
    #[inline]
    pub fn take(self: &Arc<Self>, size: usize) -> Result<Block> {
        match self.take_idle(size) {
            Some(block) => {
                if self.counts.load(Ordering::Relaxed) {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                }
                Ok(block)
            }
            None => self.take_new(size),
        }
    }

    /// A block that is never pooled, for what stays long.
    pub fn take_exact(self: &Arc<Self>, size: usize, kind: Kind) -> Result<Block> {
        let bytes = exact_size(size);
        self.pay(kind, bytes)?;
        let address = self.allocate(bytes, kind, size)?;
        Ok(self.block(address, size, Home::Exact(kind), true))
    }

    fn block(self: &Arc<Self>, address: NonNull<u8>, size: usize, home: Home, is_new: bool) -> Block {
        let is_zeroed = is_new && !matches!(self.place, Place::Device { .. });
        Block(RawBlock { pool: Arc::into_raw(Arc::clone(self)), address, size, home, is_zeroed })
    }

    #[inline]
    fn take_idle(self: &Arc<Self>, size: usize) -> Option<Block> {
        let Taken { index, address, .. } = self.shelves.take(class_of(size)?)?;
        Some(self.block(address, size, Home::Shelf(index), false))
    }

    #[cold]
    fn take_new(self: &Arc<Self>, size: usize) -> Result<Block> {
        self.misses.fetch_add(1, Ordering::Relaxed);
        let bytes = block_size(size);
        if !self.ledger.try_take(Kind::Buffers, bytes as u64) {
            // A trim takes a whole class off its shelf: what it puts back would do.
            drop(lock(&self.trimming));
            if let Some(block) = self.take_idle(size) {
                return Ok(block);
            }
            self.pay(Kind::Buffers, bytes)?;
        }
        let address = self.allocate(bytes, Kind::Buffers, size)?;
        let index = class_of(size).and_then(|class| self.shelves.describe(address, class, bytes as u64));
        Ok(self.block(address, size, index.map_or(Home::Space, Home::Shelf), true))
    }

    /// Takes bytes from the ledger. If they do not fit, idle blocks go first.
    fn pay(&self, kind: Kind, bytes: usize) -> Result<()> {
        let bytes = bytes as u64;
        if self.ledger.try_take(kind, bytes) {
            return Ok(());
        }
        let turn = lock(&self.trimming);
        self.free_oldest(self.ledger.missing(bytes), u64::MAX);
        drop(turn);
        self.ledger.take(kind, bytes)
    }

    /// Allocates bytes that are paid for.
    fn allocate(&self, bytes: usize, kind: Kind, asked: usize) -> Result<NonNull<u8>> {
        let again = || if self.trim(0) > 0 { self.space.allocate(bytes) } else { None };
        self.space.allocate(bytes).or_else(again).ok_or_else(|| {
            self.ledger.give(kind, bytes as u64);
            Error::new(Status::OutOfMemory, format!("cannot allocate {asked} bytes"))
        })
    }

    /// Frees a block of which nobody but the caller knows.
    fn free(&self, address: NonNull<u8>, bytes: usize, kind: Kind) {
        // SAFETY: it came from this space with this size, and its owner gives it up.
        unsafe { self.space.free(address, bytes) };
        self.ledger.give(kind, bytes as u64);
    }

    /// Puts back a block for which there is no room: the oldest idle blocks go, or else this one.
    #[cold]
    fn make_room_and_put(&self, index: u32, address: NonNull<u8>, bytes: usize) {
        let limit = self.limit.load(Ordering::Relaxed);
        if bytes as u64 <= limit
            && let Some(_turn) = try_lock(&self.trimming)
        {
            // A quarter at once, so that not every drop has to look for the oldest.
            let keep = (limit - limit / 4).min(limit - bytes as u64);
            let most = self.shelves.bytes().saturating_sub(keep);
            self.free_oldest(most, u64::MAX);
            if self.shelves.put(index, now_ns(), limit) {
                return;
            }
        }
        self.shelves.forget(index);
        self.free(address, bytes, Kind::Buffers);
    }

    /// Frees idle blocks of `needed` bytes that were last used at `until_ns` or before, the oldest first. The caller
    /// holds `trimming`.
    fn free_oldest(&self, needed: u64, until_ns: u64) -> u64 {
        let mut freed = 0;
        for Taken { index, address, bytes } in self.shelves.take_oldest(needed, until_ns) {
            self.shelves.forget(index);
            self.free(address, bytes as usize, Kind::Buffers);
            freed += bytes;
        }
        freed
    }

    /// Keeps at most so many idle bytes from now on.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
        self.trim(bytes);
    }

    /// Counts blocks that are found on a shelf from now on, or does not any more.
    pub fn count(&self, counts: bool) {
        self.counts.store(counts, Ordering::Relaxed);
    }

    /// Blocks that were found on a shelf while that was counted, and blocks that had to be allocated.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    /// Bytes of blocks that nobody uses.
    pub fn idle_bytes(&self) -> u64 {
        self.shelves.bytes()
    }

    /// Frees idle blocks until at most `keep_bytes` are left, first those that were unused the longest. Returns how many
    /// bytes were freed.
    pub fn trim(&self, keep_bytes: u64) -> u64 {
        let _turn = lock(&self.trimming);
        self.free_oldest(self.idle_bytes().saturating_sub(keep_bytes), u64::MAX)
    }

    /// Frees the blocks that were unused for `age_ns` or longer. Returns how many bytes were freed.
    pub fn trim_older(&self, now_ns: u64, age_ns: u64) -> u64 {
        let _turn = lock(&self.trimming);
        self.free_oldest(u64::MAX, now_ns.saturating_sub(age_ns))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.free_oldest(u64::MAX, u64::MAX); // nobody has a block any more
    }
}

#[cfg(test)]
mod tests;
