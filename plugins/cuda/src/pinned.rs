//! Host memory that devices copy from and to directly. It is ordinary memory that the driver is told of, and not memory of the
//! driver's: that would be gone after a reset, while the engine writes rows into it.

use crate::device::{Device, lock};
use crate::driver::{self, Checked, Context, Driver};
use crate::failure::{Failure, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What the driver registers begins and ends at pages.
const PAGE: usize = 4096;

#[derive(Default)]
pub struct Pinned {
    /// All of it, by address.
    entries: Mutex<HashMap<usize, Entry>>,
    /// Somebody was warned of memory that the driver does not register.
    has_warned: AtomicBool,
}

struct Entry {
    layout: Layout,
    device: i32,
    /// In which it was registered; `None`: it is yet to be.
    generation: Option<u64>,
}

/// Tells the driver of memory. It may know already, from a time that did not end well: then it has it until it is told otherwise.
///
/// # Safety
/// A context is current, and the memory is there, of this size, until it is unregistered.
unsafe fn register(driver: &Driver, memory: *mut c_void, bytes: usize) -> Checked {
    // SAFETY: promised by the caller.
    match unsafe { driver.host_register(memory, bytes, driver::HOST_REGISTER_PORTABLE) } {
        Err(error) if error.is_already_registered() => Ok(()),
        done => done,
    }
}

impl Pinned {
    /// Memory for copies to and from any device, registered with this one. While the device is lost it is memory like any other,
    /// until it is back; also where the driver registers none, of which `warn` is told once.
    pub fn allocate(&self, device: &Arc<Device>, bytes: usize, warn: impl Fn(&str)) -> Result<*mut c_void> {
        let none = || {
            let text = format!("no {bytes} bytes of host memory");
            Failure::new(crate::abi::status::BLAZE_STATUS_OUT_OF_MEMORY, text)
        };
        let size = bytes.max(1).checked_next_multiple_of(PAGE).ok_or_else(none)?;
        let layout = Layout::from_size_align(size, PAGE).map_err(|_| none())?;
        let mut entries = lock(&self.entries);
        // SAFETY: the size is not 0.
        let memory: *mut c_void = unsafe { alloc_zeroed(layout) }.cast();
        if memory.is_null() {
            return Err(none());
        }
        let mut warning = None;
        let generation = match device.enter(None) {
            Ok(entered) => {
                // SAFETY: the memory is there, of this size, until it is unregistered.
                match unsafe { register(&device.driver, memory, size) } {
                    Ok(()) => Some(entered.generation),
                    Err(error) if error.is_out_of_memory() => {
                        // SAFETY: it was allocated above, with this layout.
                        unsafe { dealloc(memory.cast(), layout) };
                        return Err(entered.failure(error));
                    }
                    // Without it copies are slower, and as right.
                    Err(error) => {
                        let failure = entered.failure(error);
                        if !error.is_sticky() && !self.has_warned.swap(true, Ordering::Relaxed) {
                            warning = Some(failure.text);
                        }
                        None
                    }
                }
            }
            Err(_) => None,
        };
        entries.insert(memory as usize, Entry { layout, device: device.ordinal, generation });
        drop(entries);
        if let Some(why) = warning {
            warn(&format!("copies are slower, because host memory is not registered with the driver: {why}"));
        }
        Ok(memory)
    }

    /// Frees what `allocate` has returned; `devices` are all there are.
    pub fn free(&self, devices: &[Arc<Device>], memory: *mut c_void) {
        let mut entries = lock(&self.entries);
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

    /// A device has a new context, which nobody has entered: registers with it what was registered with the one before. Nothing is
    /// allocated or freed until it is published, and no graph made of copies to and from memory that is yet to be registered.
    pub fn renew(
        &self,
        device: &Device,
        context: Context,
        generation: u64,
        publish: impl FnOnce(),
    ) -> Checked {
        let mut entries = lock(&self.entries);
        // SAFETY: the context is the plugin's. The memory is there until it is removed here, which takes the lock.
        let renewed = unsafe { device.driver.context_push(context) }.and_then(|()| {
            let mut renewed = Ok(());
            for (&address, entry) in entries.iter_mut().filter(|(_, entry)| entry.device == device.ordinal) {
                // SAFETY: as above.
                let registered =
                    unsafe { register(&device.driver, address as *mut c_void, entry.layout.size()) };
                // Without it copies are slower, and as right.
                entry.generation = registered.ok().map(|()| generation);
                if registered.is_err_and(|error| error.is_sticky()) {
                    renewed = registered;
                    break;
                }
            }
            let mut popped = std::ptr::null_mut();
            // SAFETY: it was pushed above.
            let _ = unsafe { device.driver.context_pop(&raw mut popped) };
            renewed
        });
        publish();
        renewed
    }

    /// Bytes, for health.
    pub fn bytes(&self) -> u64 {
        lock(&self.entries).values().map(|entry| entry.layout.size() as u64).sum()
    }
}
