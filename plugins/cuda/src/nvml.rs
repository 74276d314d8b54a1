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

pub struct Nvml {
    by_bus_id: unsafe extern "C" fn(*const c_char, *mut Handle) -> u32,
    utilization: unsafe extern "C" fn(Handle, *mut Utilization) -> u32,
    memory: unsafe extern "C" fn(Handle, *mut Memory) -> u32,
    shutdown: unsafe extern "C" fn() -> u32,
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
        let nvml = unsafe {
            let init: unsafe extern "C" fn() -> u32 = std::mem::transmute(find("nvmlInit_v2")?);
            let nvml = Nvml {
                by_bus_id: std::mem::transmute::<*mut c_void, _>(find("nvmlDeviceGetHandleByPciBusId_v2")?),
                utilization: std::mem::transmute::<*mut c_void, _>(find("nvmlDeviceGetUtilizationRates")?),
                memory: std::mem::transmute::<*mut c_void, _>(find("nvmlDeviceGetMemoryInfo")?),
                shutdown: std::mem::transmute::<*mut c_void, _>(find("nvmlShutdown")?),
            };
            match init() {
                0 => nvml,
                code => return Err(format!("{path}: nvmlInit_v2: error {code}")),
            }
        };
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
