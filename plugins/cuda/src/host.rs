//! What the engine is asked for: memory of a device, memory for outputs, whether anybody still waits, and its log.

use crate::abi::backend::{BLAZE_PURPOSE_BUFFERS, BLAZE_PURPOSE_WEIGHTS, blaze_call, blaze_host};
use crate::abi::status::*;
use crate::abi::tensor::{BLAZE_MEMORY_CUDA, blaze_memory};
use crate::device::Device;
use crate::driver::Address;
use crate::failure::{Failure, Result};
use std::cell::RefCell;
use std::ffi::{CString, c_void};
use std::sync::Arc;

pub const LOG_WARN: u32 = 2;
pub const LOG_INFO: u32 = 3;

/// The engine's table, which lives until the backend is closed.
#[derive(Clone, Copy)]
pub struct Host(*const blaze_host);

// SAFETY: any thread may call its functions.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

/// A load, preparation or run of the engine's, until the function that was passed it returns.
#[derive(Clone, Copy)]
pub struct Call {
    host: Host,
    call: *mut blaze_call,
}

thread_local! {
    /// Why this thread's latest allocation failed: `take` says no more than that it did.
    static REFUSED: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

/// For `allocate`: why there is no memory.
pub fn refuse(failure: Failure) {
    REFUSED.with(|refused| *refused.borrow_mut() = Some(failure));
}

impl Host {
    /// # Safety
    /// The table lives as long as this is used.
    pub unsafe fn new(host: *const blaze_host) -> Self {
        Host(host)
    }

    fn table(&self) -> Option<&blaze_host> {
        // SAFETY: promised by `new`.
        unsafe { self.0.as_ref() }
    }

    pub fn log(&self, level: u32, text: &str) {
        if let (Some(log), Ok(text)) = (self.table().and_then(|table| table.log), CString::new(text)) {
            // SAFETY: the table is the engine's, the text a string.
            unsafe { log(self.0, level, text.as_ptr()) };
        }
    }
}

impl Call {
    /// # Safety
    /// The call is under way for as long as this is used.
    pub unsafe fn new(host: Host, call: *mut blaze_call) -> Self {
        Call { host, call }
    }

    pub fn log(&self, level: u32, text: &str) {
        self.host.log(level, text);
    }

    pub fn is_cancelled(&self) -> bool {
        let asks = self.host.table().and_then(|table| table.is_cancelled);
        // SAFETY: the call is under way.
        asks.is_some_and(|asks| unsafe { asks(self.call) } != 0)
    }

    /// Memory for an output whose memory the engine has not given.
    pub fn output(
        &self,
        index: usize,
        shape: &[i64],
        memory: blaze_memory,
        device: i32,
    ) -> Result<*mut c_void> {
        let Some(output) = self.host.table().and_then(|table| table.output) else {
            return Err(Failure::failed("this Blaze has no memory for outputs"));
        };
        let mut data = std::ptr::null_mut();
        REFUSED.take();
        // SAFETY: all pointers are valid until the call returns.
        let status = unsafe {
            output(self.call, index as u32, shape.as_ptr(), shape.len() as u32, memory, device, &raw mut data)
        };
        match status {
            0 if !data.is_null() => Ok(data),
            status => Err(REFUSED.take().unwrap_or_else(|| {
                Failure::new(
                    if status == 0 { BLAZE_STATUS_BACKEND_FAILED } else { status },
                    format!("outputs[{index}]: no memory for {shape:?}"),
                )
            })),
        }
    }

    pub fn take_weights(&self, device: &Arc<Device>, bytes: usize) -> Result<Block> {
        self.take(device, bytes, BLAZE_PURPOSE_WEIGHTS, "weights")
    }

    pub fn take_buffers(&self, device: &Arc<Device>, bytes: usize) -> Result<Block> {
        self.take(device, bytes, BLAZE_PURPOSE_BUFFERS, "buffers")
    }

    fn take(&self, device: &Arc<Device>, bytes: usize, purpose: u32, what: &str) -> Result<Block> {
        let Some(take) = self.host.table().and_then(|table| table.take) else {
            return Err(Failure::failed("this Blaze has no memory of devices"));
        };
        // Blocks that the engine has kept from before the device was lost: they are of no use, and while they are held here it
        // does not offer them again.
        let mut stale = Vec::new();
        loop {
            REFUSED.take();
            // SAFETY: the call is under way.
            let address = unsafe { take(self.call, BLAZE_MEMORY_CUDA, device.ordinal, bytes, purpose) };
            if address.is_null() {
                let over = || {
                    let text = format!("device {} has no room for {bytes} bytes of {what}", device.ordinal);
                    Failure::new(BLAZE_STATUS_OVER_BUDGET, text)
                };
                return Err(REFUSED.take().unwrap_or_else(over));
            }
            let block = Block { host: self.host, address: address as Address };
            match device.is_stale(block.address) {
                true => stale.push(block),
                false => return Ok(block),
            }
        }
    }
}

/// Memory of a device that the engine has given; it goes back when this is dropped.
pub struct Block {
    host: Host,
    pub address: Address,
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(give) = self.host.table().and_then(|table| table.give) {
            // SAFETY: the engine has given it, and nothing uses it any more.
            unsafe { give(self.host.0, self.address as *mut c_void) };
        }
    }
}
