//! Where blocks come from, and which sizes they have.
#![allow(unsafe_code)]

use crate::platform;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::c_void;
use std::ptr::NonNull;

/// Blocks begin at a multiple of this.
pub const ALIGNMENT: usize = 64;

/// Where memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Host,
    /// On the host, and reached by a device directly.
    Pinned {
        device: u32,
    },
    Device {
        device: u32,
    },
}

/// Memory to take blocks from.
pub trait Space: Send + Sync {
    fn place(&self) -> Place;

    /// Memory of `size` bytes, which is at least 64: aligned to 64, and zeroed if the host can read it.
    fn allocate(&self, size: usize) -> Option<NonNull<u8>>;

    /// Gives memory back.
    ///
    /// # Safety
    /// It came from `allocate` of this space with the same size, and nobody uses it any more.
    unsafe fn free(&self, address: NonNull<u8>, size: usize);
}

/// The process's own memory.
pub struct HostSpace;

/// From here on blocks are mapped: the allocator would keep them after they are freed.
const MAPPED_FROM: usize = 128 << 10;

fn is_mapped(size: usize) -> bool {
    platform::MAPS_PAGES && size >= MAPPED_FROM
}

impl Space for HostSpace {
    fn place(&self) -> Place {
        Place::Host
    }

    fn allocate(&self, size: usize) -> Option<NonNull<u8>> {
        if is_mapped(size) {
            return platform::map(size);
        }
        let layout = Layout::from_size_align(size.max(1), ALIGNMENT).ok()?;
        // SAFETY: the size is not 0.
        NonNull::new(unsafe { alloc_zeroed(layout) })
    }

    unsafe fn free(&self, address: NonNull<u8>, size: usize) {
        if is_mapped(size) {
            // SAFETY: promised by the caller.
            unsafe { platform::unmap(address, size) };
        } else if let Ok(layout) = Layout::from_size_align(size.max(1), ALIGNMENT) {
            // SAFETY: promised by the caller.
            unsafe { dealloc(address.as_ptr(), layout) };
        }
    }
}

/// Returns memory of `size` bytes whose address is a multiple of `alignment`, or null.
pub type Allocate = unsafe extern "C" fn(user: *mut c_void, size: usize, alignment: usize) -> *mut c_void;
/// Takes back memory of `size` bytes.
pub type Free = unsafe extern "C" fn(user: *mut c_void, address: *mut c_void, size: usize);

/// Memory that the host supplies through functions of its own.
pub struct Supplied {
    user: *mut c_void,
    allocate: Allocate,
    free: Free,
}

// SAFETY: whoever called `new` has promised that any thread may call the functions, at the same time as others.
unsafe impl Send for Supplied {}
// SAFETY: as above.
unsafe impl Sync for Supplied {}

impl Supplied {
    /// `user` is passed to both functions.
    ///
    /// # Safety
    /// Any thread may call the functions, at the same time as others, for as long as this lives. What `allocate` returns
    /// is null or memory of that size that is used by nobody else until it is passed to `free`.
    pub unsafe fn new(user: *mut c_void, allocate: Allocate, free: Free) -> Self {
        Supplied { user, allocate, free }
    }
}

impl Space for Supplied {
    fn place(&self) -> Place {
        Place::Host
    }

    fn allocate(&self, size: usize) -> Option<NonNull<u8>> {
        // SAFETY: promised by whoever called `new`.
        let address = NonNull::new(unsafe { (self.allocate)(self.user, size, ALIGNMENT) }.cast::<u8>())?;
        if !address.addr().get().is_multiple_of(ALIGNMENT) {
            // SAFETY: it came from `allocate` just now.
            unsafe { self.free(address, size) };
            return None;
        }
        // SAFETY: the memory is of that size, and ours.
        unsafe { address.write_bytes(0, size) };
        Some(address)
    }

    unsafe fn free(&self, address: NonNull<u8>, size: usize) {
        // SAFETY: promised by the caller, and by whoever called `new`.
        unsafe { (self.free)(self.user, address.as_ptr().cast(), size) };
    }
}

/// Classes of one size for every 64 bytes up to 256, and then four for each power of two up to 64 GiB.
pub(super) const CLASSES: usize = 4 + 4 * (36 - 8);

/// The class of blocks for `size` bytes; `None`: larger than any.
pub(super) const fn class_of(size: usize) -> Option<usize> {
    if size <= 256 {
        return Some(size.saturating_sub(1) / 64);
    }
    let power = (size - 1).ilog2(); // 2^power < size <= 2^(power + 1)
    let quarter = (size - 1) >> (power - 2); // 4 to 7
    let class = 4 + (power as usize - 8) * 4 + (quarter - 4);
    if class < CLASSES { Some(class) } else { None }
}

/// The size of blocks for `size` bytes: at least 64, and at most a quarter more than asked for from there on. Sizes from
/// 128 KiB on are of whole pages of 4096 bytes.
pub const fn block_size(size: usize) -> usize {
    let step = match class_of(size) {
        _ if size <= 256 => 64,
        Some(_) => 1 << ((size - 1).ilog2() - 2),
        None => 4096,
    };
    let steps = if size == 0 { 1 } else { size.div_ceil(step) };
    steps.saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_to_classes() {
        let rounded = [(0, 64), (1, 64), (64, 64), (65, 128), (193, 256), (256, 256), (257, 320), (321, 384)];
        let larger = [(512, 512), (513, 640), (1025, 1280), (1 << 20, 1 << 20), ((1 << 20) + 1, 5 << 18)];
        for (size, want) in rounded.into_iter().chain(larger) {
            assert_eq!(block_size(size), want, "{size}");
        }
        assert_eq!((class_of(64 << 30), block_size(64 << 30)), (Some(CLASSES - 1), 64 << 30));
        assert_eq!((class_of((64 << 30) + 1), block_size((64 << 30) + 1)), (None, (64 << 30) + 4096));
        assert_eq!(block_size(usize::MAX), usize::MAX);
    }

    #[test]
    fn classes_grow_by_a_quarter_at_most_and_have_one_size_each() {
        let (mut size, mut class) = (1, 0);
        while size <= 64 << 30 {
            let block = block_size(size);
            assert_eq!(class_of(size), Some(class), "{size}");
            assert_eq!((class_of(block), block_size(block)), (Some(class), block), "{size}");
            assert!(block - size < 64 || (block - size) * 4 <= size, "{size}: {block}");
            assert!(block.is_multiple_of(if size >= 128 << 10 { 4096 } else { 64 }), "{size}: {block}");
            (size, class) = (block + 1, class + 1);
        }
        assert_eq!(class, CLASSES);
    }

    #[test]
    fn host_memory_is_aligned_and_zeroed() {
        for size in [64, 4096, MAPPED_FROM - 64, MAPPED_FROM, MAPPED_FROM + 4096, 5 << 20] {
            let address = HostSpace.allocate(size).unwrap();
            assert!(address.addr().get().is_multiple_of(ALIGNMENT));
            // SAFETY: memory of that size, given back after the last use.
            unsafe {
                let bytes = std::slice::from_raw_parts_mut(address.as_ptr(), size);
                assert!(bytes.iter().all(|&byte| byte == 0));
                bytes.fill(7);
                HostSpace.free(address, size);
            }
        }
        assert!(HostSpace.allocate(isize::MAX as usize - 4096).is_none());
        assert!(HostSpace.allocate(usize::MAX).is_none());
    }
}
