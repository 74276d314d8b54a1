//! Host memory that devices copy from and to directly. It is ordinary memory that the driver is told of, and not memory of the
//! driver's: that would be gone after a reset, while the engine writes rows into it.

use crate::device::{Device, lock};
use crate::driver;
use crate::failure::{Failure, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// What the driver registers begins and ends at pages.
const PAGE: usize = 4096;

/// All of it, by address.
#[derive(Default)]
pub struct Pinned(Mutex<HashMap<usize, Entry>>);

struct Entry {
    layout: Layout,
    device: i32,
    /// In which it was registered; `None`: it is yet to be.
    generation: Option<u64>,
}

impl Pinned {
    /// Memory for copies to and from any device, registered with this one. While the device is lost it is memory like any other,
    /// until it is back.
    pub fn allocate(&self, device: &Arc<Device>, bytes: usize) -> Result<*mut c_void> {
        let none = || {
            let text = format!("no {bytes} bytes of host memory");
            Failure::new(crate::abi::status::BLAZE_STATUS_OUT_OF_MEMORY, text)
        };
        let size = bytes.max(1).checked_next_multiple_of(PAGE).ok_or_else(none)?;
        let layout = Layout::from_size_align(size, PAGE).map_err(|_| none())?;
        let mut entries = lock(&self.0);
        // SAFETY: the size is not 0.
        let memory: *mut c_void = unsafe { alloc_zeroed(layout) }.cast();
        if memory.is_null() {
            return Err(none());
        }
        let generation = match device.enter(None) {
            Ok(entered) => {
                // SAFETY: the memory is there, of this size, until it is unregistered.
                let registered =
                    unsafe { device.driver.host_register(memory, size, driver::HOST_REGISTER_PORTABLE) };
                match registered {
                    Ok(()) => Some(entered.generation),
                    Err(error) if error.is_sticky() => {
                        entered.failure(error);
                        None
                    }
                    Err(error) => {
                        // SAFETY: it was allocated above, with this layout.
                        unsafe { dealloc(memory.cast(), layout) };
                        return Err(entered.failure(error));
                    }
                }
            }
            Err(_) => None,
        };
        entries.insert(memory as usize, Entry { layout, device: device.ordinal, generation });
        Ok(memory)
    }

    /// Frees what `allocate` has returned; `devices` are all there are.
    pub fn free(&self, devices: &[Arc<Device>], memory: *mut c_void) {
        let mut entries = lock(&self.0);
        let Some(entry) = entries.remove(&(memory as usize)) else { return };
        let device = devices.iter().find(|device| device.ordinal == entry.device);
        if let Some((device, generation)) = device.zip(entry.generation)
            && let Ok(entered) = device.enter(Some(generation))
        {
            // SAFETY: it is registered in this generation.
            if let Err(error) = unsafe { device.driver.host_unregister(memory) } {
                entered.failure(error);
            }
        }
        // SAFETY: it was allocated with this layout, and nobody uses it any more.
        unsafe { dealloc(memory.cast(), entry.layout) };
    }

    /// A device that was lost is back: registers anew what was registered with it.
    pub fn renew(&self, device: &Arc<Device>, generation: u64) {
        let mut entries = lock(&self.0);
        let Ok(entered) = device.enter(Some(generation)) else { return };
        let ours = |entry: &Entry| entry.device == device.ordinal && entry.generation != Some(generation);
        for (&address, entry) in entries.iter_mut().filter(|(_, entry)| ours(entry)) {
            let memory = address as *mut c_void;
            // SAFETY: the memory is there until it is removed here, which takes the lock.
            let registered = unsafe {
                device.driver.host_register(memory, entry.layout.size(), driver::HOST_REGISTER_PORTABLE)
            };
            // Without it copies are slower, and as right.
            entry.generation = registered.ok().map(|()| generation);
            if let Err(error) = registered
                && error.is_sticky()
            {
                entered.failure(error);
                return;
            }
        }
    }

    /// Bytes, for health.
    pub fn bytes(&self) -> u64 {
        lock(&self.0).values().map(|entry| entry.layout.size() as u64).sum()
    }
}
