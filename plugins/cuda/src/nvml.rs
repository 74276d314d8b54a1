//! How busy devices are, from NVML if its library is there.

use crate::driver::Library;
use std::ffi::{CString, c_char, c_uint, c_void};

#[repr(C)]
#[derive(Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

type Handle = *mut c_void;

type Plain = unsafe extern "C" fn() -> u32;
type ByBusId = unsafe extern "C" fn(*const c_char, *mut Handle) -> u32;
type ReadUtilization = unsafe extern "C" fn(Handle, *mut Utilization) -> u32;
type ReadMemory = unsafe extern "C" fn(Handle, *mut Memory) -> u32;

pub struct Nvml {
    by_bus_id: ByBusId,
    utilization: ReadUtilization,
    memory: ReadMemory,
    shutdown: Plain,
}

/// What NVML says of a device.
#[derive(Default)]
pub struct Reading {
    /// 0 to 1.
    pub utilization: Option<f64>,
    pub free_bytes: Option<u64>,
}

impl Nvml {
    /// Why it is not there, if it is not: a device works without.
    pub fn open(path: &str) -> Result<Self, String> {
        let library = Library::open(path)?;
        let find = |name: &str| library.symbol(name).map_err(|_| format!("{path} has no {name}"));
        // SAFETY: functions of these names have these types in every version.
        let (init, nvml) = unsafe {
            use std::mem::transmute;
            let init = transmute::<*mut c_void, Plain>(find("nvmlInit_v2")?);
            let nvml = Nvml {
                by_bus_id: transmute::<*mut c_void, ByBusId>(find("nvmlDeviceGetHandleByPciBusId_v2")?),
                utilization: transmute::<*mut c_void, ReadUtilization>(find(
                    "nvmlDeviceGetUtilizationRates",
                )?),
                memory: transmute::<*mut c_void, ReadMemory>(find("nvmlDeviceGetMemoryInfo")?),
                shutdown: transmute::<*mut c_void, Plain>(find("nvmlShutdown")?),
            };
            (init, nvml)
        };
        // SAFETY: it may be called any number of times; each takes one shutdown.
        let code = unsafe { init() };
        if code != 0 {
            std::mem::forget(nvml); // there is nothing to shut down
            return Err(format!("{path}: nvmlInit_v2: error {code}"));
        }
        Ok(nvml)
    }

    pub fn read(&self, bus_id: &str) -> Reading {
        let (mut reading, mut handle) = (Reading::default(), std::ptr::null_mut());
        let Ok(bus_id) = CString::new(bus_id) else { return reading };
        let (mut rates, mut memory) = (Utilization::default(), Memory::default());
        // SAFETY: it is initialized; all pointers are valid.
        unsafe {
            if (self.by_bus_id)(bus_id.as_ptr(), &raw mut handle) != 0 {
                return reading;
            }
            if (self.utilization)(handle, &raw mut rates) == 0 {
                reading.utilization = Some(f64::from(rates.gpu) / 100.0);
            }
            if (self.memory)(handle, &raw mut memory) == 0 {
                reading.free_bytes = Some(memory.free);
            }
        }
        reading
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: it was initialized once by this.
        let _ = unsafe { (self.shutdown)() };
    }
}
