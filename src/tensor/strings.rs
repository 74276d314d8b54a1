//! String tensors: all bytes in one block, and a slice of it for each element.
#![allow(unsafe_code)]

use crate::error::{Error, Result, Status};
use std::ffi::c_char;

/// One string, as C sees it: not NUL-terminated, and NULs may be in it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StringSlice {
    pub data: *const c_char,
    pub size_bytes: usize,
}

/// The elements of a string tensor.
pub struct StringTensor {
    /// What the slices point into; never touched again.
    _bytes: Box<[u8]>,
    slices: Box<[StringSlice]>,
}

// SAFETY: the slices point into `_bytes`, which is owned, on the heap, and never written after construction.
unsafe impl Send for StringTensor {}
// SAFETY: as above.
unsafe impl Sync for StringTensor {}

impl StringTensor {
    /// Copies the elements.
    pub fn copy_of<'a>(elements: impl Iterator<Item = &'a [u8]> + Clone) -> Result<Self> {
        let out_of_memory = |_| Error::new(Status::OutOfMemory, "cannot allocate a string tensor");
        let (count, total) = elements.clone().fold((0, 0), |(n, size), text| (n + 1, size + text.len()));
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(total).map_err(out_of_memory)?;
        elements.clone().for_each(|text| bytes.extend_from_slice(text));
        let bytes = bytes.into_boxed_slice();
        let mut slices = Vec::new();
        slices.try_reserve_exact(count).map_err(out_of_memory)?;
        let mut offset = 0;
        for text in elements {
            slices.push(StringSlice { data: bytes[offset..].as_ptr().cast(), size_bytes: text.len() });
            offset += text.len();
        }
        Ok(StringTensor { _bytes: bytes, slices: slices.into_boxed_slice() })
    }

    /// The elements as C sees them.
    pub fn slices(&self) -> &[StringSlice] {
        &self.slices
    }

    /// The elements' bytes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.slices.iter().map(|slice| {
            // SAFETY: made in `copy_of` from a range of `_bytes`, which lives as long as `self`.
            unsafe { std::slice::from_raw_parts(slice.data.cast(), slice.size_bytes) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back_as_they_went_in() {
        let texts: [&[u8]; 4] = [b"one", b"", b"t\0o", "drei ✓".as_bytes()];
        let tensor = StringTensor::copy_of(texts.iter().copied()).unwrap();
        assert_eq!(tensor.iter().collect::<Vec<_>>(), texts);
        assert_eq!(StringTensor::copy_of(std::iter::empty()).unwrap().slices().len(), 0);
    }
}
