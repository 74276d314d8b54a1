//! Memory that the host supplies.
use super::read::{read_sized, sized};
use crate::error::{Error, Result, Status};
use crate::memory::Supplied;
use std::ffi::c_void;

/// Where an engine takes the memory for its tensors from: weights, the inputs and outputs of batches, and what runs need
/// in between. Start from BLAZE_ALLOCATOR_INIT. The functions are called from any thread, several at once, and must not
/// call into Blaze. They must work until the engine is destroyed and its last event is released.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_allocator {
    /// sizeof(blaze_allocator).
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Passed to both functions.
    pub user: *mut c_void,
    /// Returns `size` bytes at a multiple of `alignment`, a power of two; or NULL if there are none.
    pub allocate:
        Option<unsafe extern "C" fn(user: *mut c_void, size: usize, alignment: usize) -> *mut c_void>,
    /// Takes back what `allocate` has returned, with the same size.
    pub free: Option<unsafe extern "C" fn(user: *mut c_void, address: *mut c_void, size: usize)>,
}

sized!(blaze_allocator);

/// # Safety
/// `allocator` is readable as far as it says, and its functions do what they must.
pub unsafe fn space(allocator: *const blaze_allocator) -> Result<Supplied> {
    // SAFETY: promised by the caller.
    let allocator = unsafe { read_sized(allocator, "allocator") }?;
    if allocator.reserved != 0 {
        return Err(Error::new(Status::InvalidStruct, "allocator.reserved must be 0"));
    }
    let missing = |name: &str| Error::new(Status::NullPointer, format!("allocator.{name} is NULL"));
    let allocate = allocator.allocate.ok_or_else(|| missing("allocate"))?;
    let free = allocator.free.ok_or_else(|| missing("free"))?;
    // SAFETY: promised by the host.
    Ok(unsafe { Supplied::new(allocator.user, allocate, free) })
}
