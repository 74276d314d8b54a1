//! Memory that several threads fill at the same time, each its own part: 64-byte aligned.
#![allow(unsafe_code)]

use crate::error::Result;
use crate::memory::{Block, Pool};
use std::sync::Arc;

/// A block of memory at a fixed address. Who may touch which part of it and when is up to its users.
pub struct Region(Block);

impl Region {
    /// Takes `size` bytes from a pool. Their contents are whatever was there.
    pub fn new(pool: &Arc<Pool>, size: usize) -> Result<Self> {
        Ok(Region(pool.take(size)?))
    }

    pub fn size(&self) -> usize {
        self.0.size()
    }

    pub fn address(&self) -> *mut u8 {
        self.0.address()
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: *const u8) -> bool {
        let start = self.address().cast_const();
        (start..start.wrapping_add(self.size())).contains(&address)
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Safety
    /// The place is within the region, and nobody else touches it meanwhile.
    #[inline]
    pub unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        debug_assert!(offset + bytes.len() <= self.size());
        // SAFETY: promised by the caller.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address().add(offset), bytes.len()) };
    }

    /// The bytes from `offset` on.
    ///
    /// # Safety
    /// They are within the region, and nobody writes them while the slice lives.
    pub unsafe fn bytes(&self, offset: usize, size: usize) -> &[u8] {
        debug_assert!(offset + size <= self.size());
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.address().add(offset), size) }
    }

    /// The bytes from `offset` on, to write.
    ///
    /// # Safety
    /// They are within the region, and nobody else touches them while the slice lives.
    #[allow(clippy::mut_from_ref)] // the whole point: disjoint parts are written at the same time
    pub unsafe fn bytes_mut(&self, offset: usize, size: usize) -> &mut [u8] {
        debug_assert!(offset + size <= self.size());
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.address().add(offset), size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;
    use crate::memory::{HostSpace, Ledger};

    fn pool() -> Arc<Pool> {
        Pool::new(Ledger::new(None), Box::new(HostSpace))
    }

    #[test]
    fn regions_are_aligned_and_used_again() {
        for size in [0, 1, 63, 64, 65, 4096] {
            let pool = pool();
            let region = Region::new(&pool, size).unwrap();
            assert_eq!((region.address() as usize % 64, region.size()), (0, size));
            // SAFETY: nobody else has the region.
            unsafe { region.bytes_mut(0, size) }.fill(7);
            drop(region);
            let again = Region::new(&pool, size).unwrap();
            // SAFETY: as above.
            assert!(unsafe { again.bytes(0, size) }.iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn too_much_is_an_error_not_an_abort() {
        let error = Region::new(&pool(), isize::MAX as usize - 4096).err().unwrap();
        assert_eq!(error.status, Status::OutOfMemory);
    }
}
