//! Tensor memory of the engine's own: 64-byte aligned, and refused rather than fatal when there is none.

use crate::error::{Error, Result, Status};

/// One cache line, so that a vector of them is aligned to one.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Zeroed bytes, aligned to 64.
pub struct Buffer {
    lines: Vec<Line>,
    size: usize,
}

impl Buffer {
    /// Allocates `size` zeroed bytes.
    pub fn zeroed(size: usize) -> Result<Self> {
        let lines = bytemuck::allocation::try_zeroed_slice_box::<Line>(size.div_ceil(64))
            .map_err(|()| Error::new(Status::OutOfMemory, format!("cannot allocate {size} bytes")))?;
        Ok(Buffer { lines: lines.into_vec(), size })
    }

    /// Allocates a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<Self> {
        let mut buffer = Buffer::zeroed(bytes.len())?;
        buffer.bytes_mut().copy_from_slice(bytes);
        Ok(buffer)
    }

    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.size]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zeroed() {
        for size in [0, 1, 63, 64, 65, 4096] {
            let buffer = Buffer::zeroed(size).unwrap();
            assert_eq!(buffer.bytes().len(), size);
            assert!(buffer.bytes().iter().all(|&byte| byte == 0));
            assert_eq!(buffer.bytes().as_ptr() as usize % 64, 0);
        }
    }

    #[test]
    fn too_much_is_an_error_not_an_abort() {
        let error = Buffer::zeroed(isize::MAX as usize - 4096).err().unwrap();
        assert_eq!(error.status, Status::OutOfMemory);
    }
}
