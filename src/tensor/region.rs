//! Memory that several threads fill at the same time, each its own part: 64-byte aligned, and zeroed at first.
#![allow(unsafe_code)]

use crate::error::{Error, Result, Status};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// A block of memory at a fixed address. Who may touch which part of it and when is up to its users.
pub struct Region {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: a region is plain memory without thread affinity; every access is through an unsafe method.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

const ALIGNMENT: usize = 64;

impl Region {
    /// Allocates `size` zeroed bytes. Pages that are never touched take no memory on most systems.
    pub fn new(size: usize) -> Result<Self> {
        let out_of_memory = || Error::new(Status::OutOfMemory, format!("cannot allocate {size} bytes"));
        let layout = Layout::from_size_align(size.max(1), ALIGNMENT).map_err(|_| out_of_memory())?;
        // SAFETY: the size is not 0.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(out_of_memory)?;
        Ok(Region { base, size })
    }

    pub fn size(&self) -> usize {
        self.size
    }

    pub fn address(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Safety
    /// The place is within the region, and nobody else touches it meanwhile.
    #[inline]
    pub unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        debug_assert!(offset + bytes.len() <= self.size);
        // SAFETY: promised by the caller.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address().add(offset), bytes.len()) };
    }

    /// The bytes from `offset` on.
    ///
    /// # Safety
    /// They are within the region, and nobody writes them while the slice lives.
    pub unsafe fn bytes(&self, offset: usize, size: usize) -> &[u8] {
        debug_assert!(offset + size <= self.size);
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.address().add(offset), size) }
    }

    /// The bytes from `offset` on, to write.
    ///
    /// # Safety
    /// They are within the region, and nobody else touches them while the slice lives.
    #[allow(clippy::mut_from_ref)] // the whole point: disjoint parts are written at the same time
    pub unsafe fn bytes_mut(&self, offset: usize, size: usize) -> &mut [u8] {
        debug_assert!(offset + size <= self.size);
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.address().add(offset), size) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Ok(layout) = Layout::from_size_align(self.size.max(1), ALIGNMENT) {
            // SAFETY: allocated in `new` with the same layout.
            unsafe { dealloc(self.base.as_ptr(), layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_aligned_and_zeroed() {
        for size in [0, 1, 63, 64, 65, 4096] {
            let region = Region::new(size).unwrap();
            assert_eq!((region.address() as usize % 64, region.size()), (0, size));
            // SAFETY: nobody else has the region.
            assert!(unsafe { region.bytes(0, size) }.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn too_much_is_an_error_not_an_abort() {
        let error = Region::new(isize::MAX as usize - 4096).err().unwrap();
        assert_eq!(error.status, Status::OutOfMemory);
    }
}
