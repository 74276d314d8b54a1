//! The CUDA driver's functions, as its library has them: looked up when the backend is opened, so that Blaze and this plugin
//! load on any machine. Results are plain numbers, because a driver may return codes that nobody here has heard of.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;

/// A result that says "not yet".
pub const NOT_READY: u32 = 600;
const OUT_OF_MEMORY: u32 = 2;
const INVALID_VALUE: u32 = 1;
const ALREADY_REGISTERED: u32 = 712;

/// Results after which a context is of no use any more: by the driver's documentation "any further CUDA work will return the
/// same error", or the device itself is not there. Not among them is what one call has got wrong, such as 713 (memory that is
/// not registered) and 912 (a launch with clusters that do not fit).
const STICKY: [u32; 17] =
    [46, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911];
/// "Unknown error": nobody can say what still works.
const UNKNOWN: u32 = 999;

/// Handles of the driver's. Addresses on a device are numbers: nothing here can follow them.
pub type Context = *mut c_void;
pub type Module = *mut c_void;
pub type Function = *mut c_void;
pub type StreamHandle = *mut c_void;
pub type EventHandle = *mut c_void;
pub type GraphHandle = *mut c_void;
pub type ExecHandle = *mut c_void;
pub type Address = u64;

pub const STREAM_NON_BLOCKING: u32 = 1;
pub const EVENT_DISABLE_TIMING: u32 = 2;
pub const HOST_REGISTER_PORTABLE: u32 = 1;
/// What other threads do meanwhile is none of the capture's business.
pub const CAPTURE_THREAD_LOCAL: u32 = 1;
pub const JIT_ERROR_LOG: u32 = 5;
pub const JIT_ERROR_LOG_BYTES: u32 = 6;
pub const ATTRIBUTE_SHARED_OPTIN: u32 = 97;
pub const ATTRIBUTE_MAJOR: u32 = 75;
pub const ATTRIBUTE_MINOR: u32 = 76;
pub const FUNCTION_STATIC_SHARED: u32 = 1;
pub const FUNCTION_MAX_THREADS: u32 = 0;
pub const FUNCTION_MAX_DYNAMIC_SHARED: u32 = 8;
pub const POINTER_MEMORY_TYPE: u32 = 2;
pub const POINTER_DEVICE: u32 = 9;
pub const POINTER_RANGE_START: u32 = 11;
pub const POINTER_RANGE_SIZE: u32 = 12;
pub const MEMORY_TYPE_DEVICE: u32 = 2;

/// What a function of the driver has returned, other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    pub function: &'static str,
    pub code: u32,
}

impl Error {
    /// Whether nothing works any more on the device.
    pub fn is_sticky(self) -> bool {
        STICKY.contains(&self.code) || self.code == UNKNOWN
    }

    pub fn is_out_of_memory(self) -> bool {
        self.code == OUT_OF_MEMORY
    }

    pub fn is_already_registered(self) -> bool {
        self.code == ALREADY_REGISTERED
    }

    pub fn is_invalid_value(self) -> bool {
        self.code == INVALID_VALUE
    }

    /// Whether a module is not code that this driver understands.
    pub fn is_of_code(self) -> bool {
        // invalid image; PTX that is invalid; a symbol or file that is not there; shared object init; invalid source
        matches!(self.code, 200 | 218 | 300 | 301 | 302 | 303)
    }

    /// Whether a module is for other devices or newer drivers.
    pub fn is_of_version(self) -> bool {
        // no binary for this GPU; no compiler in the driver; PTX of a later version; compiling is off; not supported
        matches!(self.code, 209 | 221 | 222 | 223 | 801)
    }
}

pub type Checked = Result<(), Error>;

macro_rules! functions {
    (required { $($name:ident = $symbol:literal ($($arg:ident: $type:ty),* $(,)?);)* }
     optional { $($extra:ident = $extra_symbol:literal ($($extra_arg:ident: $extra_type:ty),* $(,)?);)* }) => {
        struct Table {
            $($name: unsafe extern "C" fn($($type),*) -> u32,)*
            $($extra: Option<unsafe extern "C" fn($($extra_type),*) -> u32>,)*
        }

        impl Table {
            fn find(library: &Library) -> Result<Self, String> {
                Ok(Table {
                    // SAFETY: functions of these names have had these types since the first version that has them.
                    $($name: unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> u32>(library.symbol($symbol)?)
                    },)*
                    // SAFETY: as above.
                    $($extra: library.symbol($extra_symbol).ok().map(|found| unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($extra_type),*) -> u32>(found)
                    }),)*
                })
            }
        }

        /// Each does what the driver's documentation says of the function of its name.
        #[allow(clippy::missing_safety_doc, clippy::too_many_arguments)]
        impl Driver {
            $(pub unsafe fn $name(&self, $($arg: $type),*) -> Checked {
                // SAFETY: promised by the caller.
                match unsafe { (self.table.$name)($($arg),*) } {
                    0 => Ok(()),
                    code => Err(Error { function: $symbol, code }),
                }
            })*

            $(/// `None`: this driver has no such function.
            pub unsafe fn $extra(&self, $($extra_arg: $extra_type),*) -> Option<Checked> {
                let function = self.table.$extra?;
                // SAFETY: promised by the caller.
                Some(match unsafe { function($($extra_arg),*) } {
                    0 => Ok(()),
                    code => Err(Error { function: $extra_symbol, code }),
                })
            })*
        }
    };
}

functions! {
    required {
        init = "cuInit"(flags: u32);
        driver_version = "cuDriverGetVersion"(version: *mut i32);
        error_name = "cuGetErrorName"(code: u32, name: *mut *const c_char);
        error_string = "cuGetErrorString"(code: u32, text: *mut *const c_char);
        device_count = "cuDeviceGetCount"(count: *mut i32);
        device_get = "cuDeviceGet"(device: *mut i32, ordinal: i32);
        device_name = "cuDeviceGetName"(name: *mut c_char, size: i32, device: i32);
        device_attribute = "cuDeviceGetAttribute"(value: *mut i32, attribute: u32, device: i32);
        device_total_memory = "cuDeviceTotalMem_v2"(bytes: *mut usize, device: i32);
        device_bus_id = "cuDeviceGetPCIBusId"(text: *mut c_char, size: i32, device: i32);
        context_retain = "cuDevicePrimaryCtxRetain"(context: *mut Context, device: i32);
        context_release = "cuDevicePrimaryCtxRelease_v2"(device: i32);
        context_reset = "cuDevicePrimaryCtxReset_v2"(device: i32);
        context_push = "cuCtxPushCurrent_v2"(context: Context);
        context_pop = "cuCtxPopCurrent_v2"(context: *mut Context);
        memory_info = "cuMemGetInfo_v2"(free: *mut usize, total: *mut usize);
        allocate = "cuMemAlloc_v2"(address: *mut Address, bytes: usize);
        free = "cuMemFree_v2"(address: Address);
        host_register = "cuMemHostRegister_v2"(memory: *mut c_void, bytes: usize, flags: u32);
        host_unregister = "cuMemHostUnregister"(memory: *mut c_void);
        copy_to_device = "cuMemcpyHtoDAsync_v2"(to: Address, from: *const c_void, bytes: usize, stream: StreamHandle);
        copy_to_host = "cuMemcpyDtoHAsync_v2"(to: *mut c_void, from: Address, bytes: usize, stream: StreamHandle);
        fill = "cuMemsetD8Async"(address: Address, byte: u8, count: usize, stream: StreamHandle);
        pointer_attributes = "cuPointerGetAttributes"(
            count: u32, attributes: *const u32, values: *const *mut c_void, pointer: Address,
        );
        stream_create = "cuStreamCreate"(stream: *mut StreamHandle, flags: u32);
        stream_destroy = "cuStreamDestroy_v2"(stream: StreamHandle);
        stream_synchronize = "cuStreamSynchronize"(stream: StreamHandle);
        capture_begin = "cuStreamBeginCapture_v2"(stream: StreamHandle, mode: u32);
        capture_end = "cuStreamEndCapture"(stream: StreamHandle, graph: *mut GraphHandle);
        event_create = "cuEventCreate"(event: *mut EventHandle, flags: u32);
        event_destroy = "cuEventDestroy_v2"(event: EventHandle);
        event_record = "cuEventRecord"(event: EventHandle, stream: StreamHandle);
        event_query = "cuEventQuery"(event: EventHandle);
        module_load = "cuModuleLoadDataEx"(
            module: *mut Module, image: *const c_void, count: u32, options: *mut u32, values: *mut *mut c_void,
        );
        module_unload = "cuModuleUnload"(module: Module);
        module_function = "cuModuleGetFunction"(function: *mut Function, module: Module, name: *const c_char);
        function_attribute = "cuFuncGetAttribute"(value: *mut i32, attribute: u32, function: Function);
        function_set_attribute = "cuFuncSetAttribute"(function: Function, attribute: u32, value: i32);
        launch = "cuLaunchKernel"(
            function: Function, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
            shared_bytes: u32, stream: StreamHandle, parameters: *mut *mut c_void, extra: *mut *mut c_void,
        );
        graph_instantiate = "cuGraphInstantiateWithFlags"(exec: *mut ExecHandle, graph: GraphHandle, flags: u64);
        graph_destroy = "cuGraphDestroy"(graph: GraphHandle);
        graph_exec_destroy = "cuGraphExecDestroy"(exec: ExecHandle);
        graph_launch = "cuGraphLaunch"(exec: ExecHandle, stream: StreamHandle);
    }
    optional {
        // From 12.4 on.
        function_parameter = "cuFuncGetParamInfo"(function: Function, index: usize, offset: *mut usize, bytes: *mut usize);
        function_load = "cuFuncLoad"(function: Function);
    }
}

/// A driver that is initialized.
pub struct Driver {
    table: Table,
    /// 13000 is 13.0.
    pub version: i32,
}

impl Driver {
    /// Opens and initializes a driver's library; the error says what the loader or the driver does.
    pub fn open(path: &str) -> Result<Self, String> {
        let library = Library::open(path)?;
        let table = Table::find(&library).map_err(|error| format!("{path}: {error}"))?;
        let mut driver = Driver { table, version: 0 };
        let said = |driver: &Driver, error: Error| format!("{path}: {}", driver.explain(error));
        // SAFETY: it may be called at any time, and any number of times.
        unsafe { driver.init(0) }.map_err(|error| said(&driver, error))?;
        let mut version = 0;
        // SAFETY: the pointer is valid.
        unsafe { driver.driver_version(&raw mut version) }.map_err(|error| said(&driver, error))?;
        driver.version = version;
        Ok(driver)
    }

    /// Whether it can be asked what parameters a function has.
    pub fn knows_parameters(&self) -> bool {
        self.table.function_parameter.is_some()
    }

    /// An error in the driver's own words: "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory".
    pub fn explain(&self, error: Error) -> String {
        let word = |found: Checked, text: *const c_char| {
            // SAFETY: what the driver returns is a string that stays.
            found
                .ok()
                .filter(|()| !text.is_null())
                .map(|()| unsafe { CStr::from_ptr(text) }.to_string_lossy())
        };
        let (mut name, mut text) = (ptr::null(), ptr::null());
        // SAFETY: any number may be asked for; the pointers are valid.
        let named = unsafe { self.error_name(error.code, &raw mut name) };
        // SAFETY: as above.
        let told = unsafe { self.error_string(error.code, &raw mut text) };
        match (word(named, name), word(told, text)) {
            (Some(name), Some(text)) => format!("{}: {name} ({}): {text}", error.function, error.code),
            (Some(name), None) => format!("{}: {name} ({})", error.function, error.code),
            _ => format!("{}: error {}, which this driver has no name for", error.function, error.code),
        }
    }
}

/// A shared object, which is never closed.
pub struct Library(*mut c_void);

impl Library {
    pub fn open(path: &str) -> Result<Self, String> {
        let name = CString::new(path).map_err(|_| format!("{path:?} has a NUL in it"))?;
        // SAFETY: whoever configures a driver trusts its code.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        match handle.is_null() {
            // SAFETY: it is a string, or NULL, until this thread's next call.
            true => match unsafe { libc::dlerror().as_ref() } {
                // SAFETY: as above.
                Some(text) => Err(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()),
                None => Err(format!("{path} cannot be opened")),
            },
            false => Ok(Library(handle)),
        }
    }

    /// The same for the same library, by whatever name.
    pub fn address(&self) -> usize {
        self.0 as usize
    }

    pub fn symbol(&self, name: &str) -> Result<*mut c_void, String> {
        let c_name = CString::new(name).map_err(|_| "a name with a NUL".to_owned())?;
        // SAFETY: the library is open.
        let found = unsafe { libc::dlsym(self.0, c_name.as_ptr()) };
        match found.is_null() {
            true => Err(format!("it has no {name}: it is no CUDA driver, or older than 11.4")),
            false => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_context_dies_of_is_told_from_what_a_call_has_got_wrong() {
        let sticky = |code| Error { function: "f", code }.is_sticky();
        for code in [214, 700, 702, 710, 715, 719, 911, 999] {
            assert!(sticky(code), "{code}");
        }
        for code in [1, 2, 200, 201, 400, 500, 600, 704, 712, 713, 720, 801, 900, 912] {
            assert!(!sticky(code), "{code}");
        }
    }

    #[test]
    fn a_library_that_is_not_there_or_is_something_else_is_named() {
        let error = Driver::open("libcuda-that-is-not-there.so.1").err().unwrap();
        assert!(error.contains("libcuda-that-is-not-there.so.1"), "{error}");
        let error = Driver::open("libc.so.6").err().unwrap();
        assert!(error.contains("libc.so.6: it has no cuInit"), "{error}");
    }
}
