//! Tensor memory of the engine's own: 64-byte aligned, and refused rather than fatal when there is none.
#![allow(unsafe_code)]

use crate::error::{Error, Result, Status};
use crate::memory::{Block, Place, Pool};
use std::sync::Arc;

/// Bytes on the host, aligned to 64.
pub struct Buffer(Block);

impl Buffer {
    fn new(pool: &Arc<Pool>, size: usize) -> Result<Self> {
        if matches!(pool.place(), Place::Device { .. }) {
            return Err(Error::new(Status::Internal, "a buffer wants memory that the host can read"));
        }
        Ok(Buffer(pool.take(size)?))
    }

    /// Takes `size` bytes from a pool, and zeroes them.
    pub fn zeroed(pool: &Arc<Pool>, size: usize) -> Result<Self> {
        let mut buffer = Buffer::new(pool, size)?;
        if !buffer.0.is_zeroed() {
            buffer.bytes_mut().fill(0);
        }
        Ok(buffer)
    }

    /// Takes memory from a pool for a copy of `bytes`.
    pub fn copy_of(pool: &Arc<Pool>, bytes: &[u8]) -> Result<Self> {
        let mut buffer = Buffer::new(pool, bytes.len())?;
        buffer.bytes_mut().copy_from_slice(bytes);
        Ok(buffer)
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the block is of that size, on the host and initialized, and this buffer's alone.
        unsafe { std::slice::from_raw_parts(self.0.address(), self.0.size()) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.address(), self.0.size()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{HostSpace, Ledger};

    fn pool() -> Arc<Pool> {
        Pool::new(Ledger::new(None), Box::new(HostSpace))
    }

    #[test]
    fn buffers_are_aligned_and_zeroed() {
        for size in [0, 1, 63, 64, 65, 4096] {
            let pool = pool();
            Buffer::zeroed(&pool, size).unwrap().bytes_mut().fill(7);
            let buffer = Buffer::zeroed(&pool, size).unwrap();
            assert_eq!(buffer.bytes().len(), size);
            assert!(buffer.bytes().iter().all(|&byte| byte == 0));
            assert_eq!(buffer.bytes().as_ptr() as usize % 64, 0);
        }
    }

    #[test]
    fn too_much_is_an_error_not_an_abort() {
        let error = Buffer::zeroed(&pool(), isize::MAX as usize - 4096).err().unwrap();
        assert_eq!(error.status, Status::OutOfMemory);
    }
}
