//! The C library's heap, which ONNX Runtime's own structures are in: how much of it is in use, and how to give back
//! what is not.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use std::ffi::{CStr, c_int};

/// A function of the C library, if this one has it: linking to it would keep older systems out.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn function(name: &CStr) -> *mut std::ffi::c_void {
    // SAFETY: the name ends in a NUL.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// What glibc's `mallinfo2` says; `None` where there is none.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn heap_info() -> Option<libc::mallinfo2> {
    let found = function(c"mallinfo2");
    if found.is_null() {
        return None;
    }
    // SAFETY: this is glibc's function, which takes nothing and returns this struct since version 2.33.
    Some(unsafe { std::mem::transmute::<*mut std::ffi::c_void, extern "C" fn() -> libc::mallinfo2>(found)() })
}

/// Bytes of the heap that are in use; `None` where nobody counts them.
pub fn heap_in_use() -> Option<u64> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return heap_info().map(|info| (info.uordblks + info.hblkhd) as u64);
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

/// Gives free pages at the end of this thread's own heap back to the system, which `trim_heap` leaves there. glibc keeps
/// up to 64 MiB in the heap of each thread that has read something large, and has no call to change that but one that
/// changes how the whole process allocates. So what is free is allocated, in pieces that are never mapped by
/// themselves, their pages are given back, and they are freed.
pub fn trim_thread_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const PIECE: usize = 120 << 10;
        const PAGE: usize = 4096;
        /// As many pieces as are allocated between two looks.
        const STEP: usize = 32;
        let Some(before) = heap_info() else { return };
        let most = before.fordblks.min(1 << 30) / PIECE;
        let mut pieces: Vec<*mut std::ffi::c_void> = Vec::with_capacity(most);
        for index in 0..most {
            // When the heap grows, all that was free in it is allocated.
            if index % STEP == 0 && heap_info().is_none_or(|now| now.arena > before.arena + STEP * PIECE) {
                break;
            }
            // SAFETY: asks for memory.
            let piece = unsafe { libc::malloc(PIECE) };
            if piece.is_null() {
                break;
            }
            pieces.push(piece);
            let (start, end) = (piece.addr().next_multiple_of(PAGE), (piece.addr() + PIECE) / PAGE * PAGE);
            let inside = piece.cast::<u8>().wrapping_add(start - piece.addr());
            // SAFETY: whole pages inside the piece, which holds nothing.
            unsafe { libc::madvise(inside.cast(), end.saturating_sub(start), libc::MADV_DONTNEED) };
        }
        // SAFETY: allocated above, and freed once.
        pieces.into_iter().for_each(|piece| unsafe { libc::free(piece) });
    }
}

/// Gives pages of the heap that nobody uses back to the system, where the heap does not do so by itself.
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let found = function(c"malloc_trim");
        if !found.is_null() {
            // SAFETY: this is glibc's function of that type.
            unsafe { std::mem::transmute::<*mut std::ffi::c_void, extern "C" fn(usize) -> c_int>(found)(0) };
        }
    }
}

/// Has large blocks of the heap go back to the system when they are freed. glibc does so until the first one is freed:
/// from then on it takes blocks of that size, up to 32 MB, from its heaps, and lets each keep twice as much at its end.
/// What ONNX Runtime needs to read a model is of that size. This is a setting of the whole process; what the environment
/// says about it stays.
pub fn keep_large_blocks_apart() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            let set = |name: &str| std::env::var_os(name).is_some();
            let tuned = std::env::var("GLIBC_TUNABLES").is_ok_and(|text| text.contains("_threshold"));
            let found = function(c"mallopt");
            if tuned || set("MALLOC_MMAP_THRESHOLD_") || set("MALLOC_TRIM_THRESHOLD_") || found.is_null() {
                return;
            }
            // SAFETY: this is glibc's function of that type.
            let mallopt = unsafe {
                std::mem::transmute::<*mut std::ffi::c_void, extern "C" fn(c_int, c_int) -> c_int>(found)
            };
            mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
            mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
        });
    }
}

/// Bytes of this process that are in memory; `None` where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return resident_pages_bytes();
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(target_os = "linux")]
fn resident_pages_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: asks for a constant.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn the_heap_grows_and_shrinks() {
        let (before, resident) = (heap_in_use().unwrap(), resident_bytes().unwrap());
        let much = vec![1u8; 64 << 20];
        assert!(heap_in_use().unwrap() >= before + (60 << 20));
        assert!(resident_bytes().unwrap() >= resident + (50 << 20), "{}", much.len());
        drop(much);
        trim_heap();
    }
}
