//! Host memory that a GPU reads and writes by itself, from ONNX Runtime's allocator for it. Batches of models on a GPU are
//! there, so that a run's inputs and outputs are copied at full speed, and while other work goes on.
//!
//! To ONNX Runtime they are in plain host memory: its copies are the same calls, and the driver knows by the address which
//! memory it is.
#![allow(unsafe_code)]

use super::ending;
use super::value::{check, failed};
use crate::error::Result;
use crate::memory::{ALIGNMENT, Place, Space};
use crate::sync::{Mutex, lock};
use ort::AsPointer;
use ort::session::Session;
use ort::sys;
use std::ffi::CStr;
use std::ptr::{self, NonNull};

/// What ONNX Runtime calls memory that CUDA has pinned.
pub const CUDA: &CStr = c"CudaPinned";

/// An allocator of a session's. It outlives the session, whose allocator it shares.
pub struct Pinned {
    /// One call at a time: nothing says that there may be more.
    allocator: Mutex<NonNull<sys::OrtAllocator>>,
    device: u32,
}

// SAFETY: an allocator is tied to no thread, and one thread at a time calls it.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// The session's allocator for memory of this name, for a device.
    pub fn of(session: &Session, name: &CStr, device: u32) -> Result<Self> {
        let api = ort::api();
        let (mut info, mut allocator) = (ptr::null_mut(), ptr::null_mut());
        let (kind, memory) =
            (sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeCPUOutput);
        let number = i32::try_from(device).unwrap_or(i32::MAX);
        // SAFETY: what is made is written on success; the description is released once, after its only use.
        let made = unsafe {
            check((api.CreateMemoryInfo)(name.as_ptr(), kind, number, memory, &mut info)).and_then(|()| {
                let made = check((api.CreateAllocator)(session.ptr(), info, &mut allocator));
                (api.ReleaseMemoryInfo)(info);
                made
            })
        };
        made.map_err(|error| failed(&error))?;
        let allocator = NonNull::new(allocator)
            .ok_or_else(|| failed(&ort::Error::new("there is no allocator for pinned memory")))?;
        Ok(Pinned { allocator: Mutex::new(allocator), device })
    }
}

impl Space for Pinned {
    fn place(&self) -> Place {
        Place::Pinned { device: self.device }
    }

    fn allocate(&self, size: usize) -> Option<NonNull<u8>> {
        let _inside = ending::enter().ok()?;
        let mut address = ptr::null_mut();
        {
            let allocator = lock(&self.allocator);
            // SAFETY: the allocator lives, and this thread has it.
            check(unsafe { (ort::api().AllocatorAlloc)(allocator.as_ptr(), size, &mut address) }).ok()?;
        }
        let address = NonNull::new(address.cast::<u8>())?;
        if !address.addr().get().is_multiple_of(ALIGNMENT) {
            // SAFETY: it came from there just now.
            unsafe { self.free(address, size) };
            return None;
        }
        // SAFETY: the memory is the host's, of that size, and nobody else's.
        unsafe { address.write_bytes(0, size) };
        Some(address)
    }

    unsafe fn free(&self, address: NonNull<u8>, _size: usize) {
        // At the end of the process it goes with the rest.
        let Ok(_inside) = ending::enter() else { return };
        let allocator = lock(&self.allocator);
        // SAFETY: the allocator lives, and this thread has it; the memory is from there, as the caller promises. It cannot fail.
        let _ = check(unsafe { (ort::api().AllocatorFree)(allocator.as_ptr(), address.as_ptr().cast()) });
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Ok(_inside) = ending::enter() {
            // SAFETY: it is this object's, and not used again.
            unsafe { (ort::api().ReleaseAllocator)(lock(&self.allocator).as_ptr()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::onnx::library;
    use crate::memory::{Ledger, Pool};
    use ort::session::builder::SessionBuilder;

    /// A session on the CPU, whose allocator stands for that of a GPU's pinned memory. Without an ONNX Runtime there is none:
    /// `make test` says where it is.
    fn session() -> Option<Session> {
        std::env::var_os("ORT_DYLIB_PATH")?;
        let environment = library::environment(None).unwrap();
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/tiny.onnx");
        Some(SessionBuilder::new(environment).unwrap().commit_from_file(model).unwrap())
    }

    #[test]
    fn blocks_are_from_the_sessions_allocator_which_outlives_it() {
        let Some(session) = session() else { return };
        let space = Pinned::of(&session, c"Cpu", 0).unwrap();
        assert_eq!(space.place(), Place::Pinned { device: 0 });
        let ledger = Ledger::new(None);
        let pool = Pool::new(ledger.clone(), Box::new(space));
        drop(session);
        for size in [1, 100, 4096, 1 << 20] {
            let block = pool.take(size).unwrap();
            assert!(block.address().addr().is_multiple_of(ALIGNMENT) && block.is_zeroed());
            // SAFETY: the block is that large, and nobody else's.
            unsafe {
                assert!(std::slice::from_raw_parts(block.address(), size).iter().all(|&byte| byte == 0));
                block.address().write_bytes(7, size);
            }
        }
        assert!(ledger.used() > 1 << 20);
        drop(pool);
        assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn a_session_without_a_gpu_has_no_pinned_memory() {
        let Some(session) = session() else { return };
        let error = Pinned::of(&session, CUDA, 0).err().unwrap();
        assert!(error.message.contains("allocator"), "{error}");
    }
}
