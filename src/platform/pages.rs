//! Whole pages of memory, straight from the system.

use std::ptr::NonNull;

/// `map` gives memory here.
pub const MAPS_PAGES: bool = cfg!(unix);

/// Zeroed memory of `size` bytes, rounded up to pages.
#[cfg(unix)]
pub fn map(size: usize) -> Option<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, which replaces none. The system rounds to pages, and zeroes them.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { None } else { NonNull::new(address.cast()) }
}

/// # Safety
/// The memory came from `map` with the same size, and nobody uses it any more.
#[cfg(unix)]
pub unsafe fn unmap(address: NonNull<u8>, size: usize) {
    // SAFETY: promised by the caller. The system rounds as it did before.
    unsafe { libc::munmap(address.as_ptr().cast(), size) };
}

#[cfg(not(unix))]
pub fn map(_: usize) -> Option<NonNull<u8>> {
    None
}

/// # Safety
/// Any call is fine.
#[cfg(not(unix))]
pub unsafe fn unmap(_: NonNull<u8>, _: usize) {}
