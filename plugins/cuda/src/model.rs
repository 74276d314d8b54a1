//! A loaded model: on each of its devices the module, its functions, and the weights.

use crate::abi::status::*;
use crate::device::{Device, Entered};
use crate::driver::{self, Address, Function, Module};
use crate::failure::{Failure, Result};
use crate::host::{Block, Call, LOG_WARN};
use crate::image;
use crate::manifest::{Kernel, Manifest};
use serde::Deserialize;
use std::ffi::{CString, c_void};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The longest manifest and module.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// Weights are read and copied in pieces.
const PIECE_BYTES: usize = 8 << 20;
/// Shared memory that a kernel may have without being asked for more.
const USUAL_SHARED_BYTES: u32 = 48 << 10;
/// The driver's text about a module that it does not understand.
const JIT_LOG_BYTES: usize = 4096;

/// A model's "options".
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Numbers of the devices that it is on.
    #[serde(default = "first_device")]
    pub devices: Vec<u32>,
    /// Whether batches of the sizes in "buckets" are launched as graphs.
    #[serde(default = "yes")]
    pub graphs: bool,
}

fn first_device() -> Vec<u32> {
    vec![0]
}

fn yes() -> bool {
    true
}

impl Options {
    pub fn parse(json: &str) -> Result<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let options: Options = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let dot = if path == "." { String::new() } else { format!(".{path}") };
            Failure::config(format!("options{dot}: {}", error.into_inner()))
        })?;
        if options.devices.is_empty() {
            return Err(Failure::config("options.devices: must name one"));
        }
        if let Some(index) =
            (1..options.devices.len()).find(|&at| options.devices[..at].contains(&options.devices[at]))
        {
            return Err(Failure::config(format!("options.devices[{index}]: is there already")));
        }
        Ok(options)
    }
}

pub struct Model {
    pub name: String,
    pub manifest: Manifest,
    /// Those of its devices that were there when it was loaded.
    pub parts: Vec<Part>,
    devices: Vec<i32>,
    /// Batch sizes that are launched as graphs.
    pub buckets: Vec<u32>,
    /// A run has failed because one of several devices is lost, so that the engine knows.
    has_told: AtomicBool,
    /// Somebody was warned that a batch size is run without a graph.
    has_warned: AtomicBool,
}

/// A model on a device.
pub struct Part {
    pub device: Arc<Device>,
    pub generation: u64,
    module: Module,
    /// For each of the manifest's kernels.
    pub functions: Vec<Callable>,
    weights: Option<Block>,
}

// SAFETY: the driver's handles may be used by any thread.
unsafe impl Send for Part {}
// SAFETY: as above; what changes is atomic.
unsafe impl Sync for Part {}

pub struct Callable {
    pub function: Function,
    max_threads: u32,
    static_shared: u32,
    /// Shared memory that it may have at a launch.
    allowed_shared: AtomicU32,
}

impl Model {
    /// Reads the manifest and loads all it names onto every device.
    pub fn load(
        path: &Path,
        name: &str,
        options: &Options,
        buckets: &[u32],
        devices: &[Arc<Device>],
        call: Call,
    ) -> Result<Self> {
        let manifest = String::from_utf8(read(path)?)
            .map_err(|_| Failure::invalid(format!("{}: is not UTF-8", path.display())))?;
        let manifest = Manifest::parse(&manifest)
            .map_err(|error| Failure::invalid(format!("{}: {error}", path.display())))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let module_path =
            beside(directory, &manifest.module).map_err(|why| Failure::invalid(format!("module: {why}")))?;
        let mut code = read(&module_path)?;
        image::check(&code)
            .map_err(|why| Failure::invalid(format!("module: {}: {why}", module_path.display())))?;
        // The driver is told no length: PTX is a string to it, and of the others it reads what their headers say.
        code.resize(code.len() + image::PADDING, 0);
        let weights = match &manifest.weights_file {
            Some(file) => Some(
                beside(directory, file).map_err(|why| Failure::invalid(format!("weights.file: {why}")))?,
            ),
            None => None,
        };
        let (mut parts, mut lost) = (Vec::new(), None);
        for (index, &number) in options.devices.iter().enumerate() {
            let device = devices.get(number as usize).ok_or_else(|| {
                let count = devices.len();
                Failure::config(format!(
                    "options.devices[{index}]: there is no device {number}: there are {count}"
                ))
            })?;
            let made = device.open(&|| call.is_cancelled()).and_then(|generation| {
                let mut part = Part::new(device, generation, &manifest, &module_path, &code)?;
                if let Some(file) = &weights {
                    part.upload(file, manifest.weights_bytes(), call)?;
                }
                Ok(part)
            });
            match made {
                Ok(part) => parts.push(part),
                // The others do, if there are any.
                Err(failure) if failure.status == BLAZE_STATUS_DEVICE_LOST => lost = lost.or(Some(failure)),
                Err(failure) => return Err(failure),
            }
        }
        if let Some(failure) = lost {
            if parts.is_empty() {
                return Err(failure);
            }
            call.log(LOG_WARN, &format!("{name} is loaded without one of its devices: {}", failure.text));
        }
        let buckets = if options.graphs { buckets.to_vec() } else { Vec::new() };
        let devices = options.devices.iter().map(|&number| number as i32).collect();
        let (has_told, has_warned) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Model { name: name.to_owned(), manifest, parts, devices, buckets, has_told, has_warned })
    }

    /// The place for a run: of the devices that are there the one with the fewest under way, or the one whose memory is used.
    pub fn choose(&self, wanted: Option<i32>) -> Result<Chosen<'_>> {
        let all = || {
            self.parts
                .iter()
                .enumerate()
                .filter(|(_, part)| wanted.is_none_or(|wanted| part.device.ordinal == wanted))
        };
        let gone = self.parts.iter().find(|part| !part.device.has(part.generation));
        if let Some(part) = gone
            && !self.has_told.swap(true, Ordering::Relaxed)
        {
            // The others could do without it, but then nobody would ever bring it back.
            part.device.enter(Some(part.generation))?;
        }
        let there = all().filter(|(_, part)| part.device.has(part.generation));
        let best = there.min_by_key(|(_, part)| part.device.under_way.load(Ordering::Relaxed));
        match best.or_else(|| all().next()) {
            Some((index, part)) => {
                part.device.under_way.fetch_add(1, Ordering::Relaxed);
                Ok(Chosen { index, part })
            }
            None => {
                let wanted = wanted.unwrap_or(-1);
                match self.devices.contains(&wanted) {
                    true => {
                        Err(Failure::lost(format!("device {wanted} was lost when {} was loaded", self.name)))
                    }
                    false => {
                        let text = format!("{} is not on device {wanted}", self.name);
                        Err(Failure::new(BLAZE_STATUS_UNSUPPORTED, text))
                    }
                }
            }
        }
    }

    /// Batches of a size have no graph. Says so once.
    pub fn warn_of_graph(&self, call: Call, rows: u32, failure: &Failure) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            let text = format!("{}: batches of {rows} rows run without a graph: {}", self.name, failure.text);
            call.log(LOG_WARN, &text);
        }
    }

    /// What the engine wants to know of it.
    pub fn describe(&self) -> serde_json::Value {
        let shape = |tensor: &crate::manifest::Tensor| -> Vec<serde_json::Value> {
            let size = |size: &crate::expression::Expression| match size {
                crate::expression::Expression::Number(number) => (*number).into(),
                crate::expression::Expression::Axis(name) => name.as_str().into(),
                crate::expression::Expression::Operation(..) => serde_json::Value::Null, // refused by the manifest
            };
            tensor.shape.iter().map(size).collect()
        };
        let tensors = |tensors: &[crate::manifest::Tensor]| -> Vec<serde_json::Value> {
            let tensor = |tensor: &crate::manifest::Tensor| serde_json::json!({"name": tensor.name, "dtype": tensor.dtype.name(), "shape": shape(tensor)});
            tensors.iter().map(tensor).collect()
        };
        serde_json::json!({
            "inputs": tensors(&self.manifest.inputs), "outputs": tensors(&self.manifest.outputs),
            "rows_are_independent": self.manifest.rows_are_independent, "on_cpu": false, "memory_bytes": 0,
            "provider": "cuda", "devices": self.devices, "batch_memory": "pinned",
        })
    }
}

/// A part that a run is under way on.
pub struct Chosen<'a> {
    pub index: usize,
    pub part: &'a Part,
}

impl Drop for Chosen<'_> {
    fn drop(&mut self) {
        self.part.device.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file that a manifest names: in its directory or below.
fn beside(directory: &Path, name: &str) -> std::result::Result<PathBuf, String> {
    let stays =
        Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    match stays && !name.is_empty() {
        true => Ok(directory.join(name)),
        false => Err(format!("{name:?} is not the name of a file beside the manifest or below")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let fail = |error: std::io::Error| {
        Failure::new(BLAZE_STATUS_MODEL_NOT_FOUND, format!("{}: {error}", path.display()))
    };
    let file = File::open(path).map_err(fail)?;
    let bytes = file.metadata().map_err(fail)?.len();
    let too_long = || Failure::invalid(format!("{}: is longer than {MAX_FILE_BYTES} bytes", path.display()));
    if bytes > MAX_FILE_BYTES {
        return Err(too_long());
    }
    let mut data = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut data).map_err(fail)?;
    if data.len() as u64 > MAX_FILE_BYTES { Err(too_long()) } else { Ok(data) }
}

impl Part {
    /// Loads the module and finds the kernels. `code` is checked, and ends in NULs.
    fn new(
        device: &Arc<Device>,
        generation: u64,
        manifest: &Manifest,
        path: &Path,
        code: &[u8],
    ) -> Result<Self> {
        let entered = device.enter(Some(generation))?;
        let mut part = Part {
            device: Arc::clone(device),
            generation,
            module: load_module(&entered, path, code)?,
            functions: Vec::new(),
            weights: None,
        };
        for (index, kernel) in manifest.kernels.iter().enumerate() {
            let callable = find(&entered, part.module, kernel, index)?;
            part.functions.push(callable);
        }
        Ok(part)
    }

    /// Copies the weights to the device.
    fn upload(&mut self, path: &Path, bytes: u64, call: Call) -> Result<()> {
        let fail = |error: std::io::Error| {
            Failure::new(BLAZE_STATUS_MODEL_NOT_FOUND, format!("{}: {error}", path.display()))
        };
        let mut file = File::open(path).map_err(fail)?;
        let there = file.metadata().map_err(fail)?.len();
        if there < bytes {
            let text =
                format!("{}: has {there} bytes of the {bytes} that weights.tensors need", path.display());
            return Err(Failure::invalid(text));
        }
        let size = usize::try_from(bytes).map_err(|_| Failure::invalid("weights.tensors: too large"))?;
        let block = call.take_weights(&self.device, size.max(1))?;
        let entered = self.device.enter(Some(self.generation))?;
        let mut stream = self.device.take_stream(&entered)?;
        let mut piece = vec![0u8; PIECE_BYTES.min(size)];
        let mut at = 0;
        while at < size {
            if call.is_cancelled() {
                self.device.give_stream(stream);
                return Err(Failure::cancelled());
            }
            let piece = &mut piece[..PIECE_BYTES.min(size - at)];
            let copied = match file.read_exact(piece) {
                Ok(()) => stream.work(&entered, |handle| {
                    let to = block.address + at as u64;
                    // SAFETY: both are as large, and stay until the work has ended.
                    entered.check(unsafe {
                        entered.driver().copy_to_device(to, piece.as_ptr().cast(), piece.len(), handle)
                    })
                }),
                Err(error) => Err(fail(error)),
            };
            if let Err(failure) = copied {
                self.device.give_stream(stream);
                return Err(failure);
            }
            at += piece.len();
        }
        self.device.give_stream(stream);
        drop(entered);
        self.weights = Some(block);
        Ok(())
    }

    pub fn weights_address(&self) -> Address {
        self.weights.as_ref().map_or(0, |block| block.address)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Ok(entered) = self.device.enter(Some(self.generation)) {
            // SAFETY: the module is of this generation, and nothing of it is under way.
            if let Err(error) = unsafe { entered.driver().module_unload(self.module) } {
                entered.failure(error);
            }
        }
    }
}

impl Callable {
    /// Sees to it that the function may be launched so.
    pub fn allow(&self, entered: &Entered<'_>, kernel: &Kernel, threads: u32, shared: u32) -> Result<()> {
        let fail = |text: String| Err(Failure::shape(format!("{}.{text}", kernel.path)));
        if threads > self.max_threads {
            return fail(format!(
                "block: {threads} threads; on device {} it may have {}",
                entered.device.ordinal, self.max_threads
            ));
        }
        if shared <= self.allowed_shared.load(Ordering::Acquire) {
            return Ok(());
        }
        let most = entered.device.shared_optin.saturating_sub(self.static_shared);
        if shared > most {
            return fail(format!(
                "shared_bytes: {shared}; on device {} it may have {most}",
                entered.device.ordinal
            ));
        }
        // SAFETY: the function is of this generation.
        entered.check(unsafe {
            entered.driver().function_set_attribute(
                self.function,
                driver::FUNCTION_MAX_DYNAMIC_SHARED,
                most as i32,
            )
        })?;
        self.allowed_shared.store(most, Ordering::Release);
        Ok(())
    }
}

fn load_module(entered: &Entered<'_>, path: &Path, code: &[u8]) -> Result<Module> {
    let mut log = vec![0u8; JIT_LOG_BYTES];
    let mut options = [driver::JIT_ERROR_LOG, driver::JIT_ERROR_LOG_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), (JIT_LOG_BYTES - 1) as *mut c_void];
    let mut module = std::ptr::null_mut();
    // SAFETY: the code was checked and ends in NULs; the options are a buffer and its size.
    let loaded = unsafe {
        let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
        entered.driver().module_load(&raw mut module, code.as_ptr().cast(), 2, options, values)
    };
    let Err(error) = loaded else { return Ok(module) };
    let mut failure = entered.failure(error);
    let length = log.iter().position(|&byte| byte == 0).unwrap_or(0);
    let said = String::from_utf8_lossy(&log[..length]);
    failure.text = match said.trim() {
        "" => format!("{}: {}", path.display(), failure.text),
        said => format!("{}: {}: {said}", path.display(), failure.text),
    };
    if failure.status == BLAZE_STATUS_BACKEND_FAILED && error.is_of_code() {
        failure.status = BLAZE_STATUS_MODEL_INVALID;
    }
    if failure.status == BLAZE_STATUS_BACKEND_FAILED && error.is_of_version() {
        failure.status = BLAZE_STATUS_MODEL_UNSUPPORTED;
    }
    Err(failure)
}

/// Finds a kernel, and holds the manifest's arguments against its parameters, if the driver knows them.
fn find(entered: &Entered<'_>, module: Module, kernel: &Kernel, index: usize) -> Result<Callable> {
    let driver = entered.driver();
    let at = |text: String| Failure::invalid(format!("kernels[{index}]{text}"));
    let name = CString::new(kernel.name.as_str()).map_err(|_| at(".name: has a NUL in it".into()))?;
    let mut function = std::ptr::null_mut();
    // SAFETY: the module is of this generation; all pointers are valid, here and below.
    unsafe { driver.module_function(&raw mut function, module, name.as_ptr()) }.map_err(|error| {
        let failure = entered.failure(error);
        match failure.status {
            BLAZE_STATUS_BACKEND_FAILED => {
                at(format!(".name: the module has no {:?}: {}", kernel.name, failure.text))
            }
            _ => failure,
        }
    })?;
    let attribute = |attribute| {
        let mut value = 0;
        // SAFETY: as above.
        entered.check(unsafe { driver.function_attribute(&raw mut value, attribute, function) })?;
        Ok(value.max(0) as u32)
    };
    let (max_threads, static_shared) =
        (attribute(driver::FUNCTION_MAX_THREADS)?, attribute(driver::FUNCTION_STATIC_SHARED)?);
    let parameter = |place: usize| {
        let (mut offset, mut bytes) = (0usize, 0usize);
        // SAFETY: as above.
        let asked = unsafe { driver.function_parameter(function, place, &raw mut offset, &raw mut bytes) };
        match asked {
            None => Ok(None), // a driver before 12.4
            Some(Ok(())) => Ok(Some(Some(bytes))),
            Some(Err(error)) if error.is_invalid_value() => Ok(Some(None)),
            Some(Err(error)) => Err(entered.failure(error)),
        }
    };
    for (place, argument) in kernel.arguments.iter().enumerate() {
        let path = format!(".arguments[{place}]");
        match parameter(place)? {
            None => break,
            Some(Some(bytes)) if bytes == argument.bytes() => {}
            Some(Some(bytes)) => {
                let text =
                    format!("{path}: has {} bytes; {:?} takes {bytes} there", argument.bytes(), kernel.name);
                return Err(at(text));
            }
            Some(None) => return Err(at(format!("{path}: {:?} takes only {place}", kernel.name))),
        }
    }
    if let Some(Some(_)) = parameter(kernel.arguments.len())? {
        return Err(at(format!(".arguments: {:?} takes more than {}", kernel.name, kernel.arguments.len())));
    }
    // SAFETY: as above. Otherwise the first launch would load it, and might wait for what else is under way.
    if let Some(loaded) = unsafe { driver.function_load(function) } {
        entered.check(loaded)?;
    }
    let usual = USUAL_SHARED_BYTES.saturating_sub(static_shared);
    Ok(Callable { function, max_threads, static_shared, allowed_shared: AtomicU32::new(usual) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_and_errors_name_them() {
        let options = Options::parse("{}").unwrap();
        assert_eq!((options.devices, options.graphs), (vec![0], true));
        for (json, said) in [
            (r#"{"devices": []}"#, "options.devices: must name one"),
            (r#"{"devices": [0, 1, 0]}"#, "options.devices[2]: is there already"),
            (r#"{"devices": [0, -1]}"#, "options.devices[1]"),
            (r#"{"graphs": 1}"#, "options.graphs"),
            (r#"{"colour": 1}"#, "colour"),
        ] {
            let failure = Options::parse(json).err().unwrap();
            assert_eq!(failure.status, BLAZE_STATUS_INVALID_CONFIG);
            assert!(failure.text.contains(said), "{json}: {}", failure.text);
        }
    }

    #[test]
    fn files_are_beside_the_manifest() {
        let directory = Path::new("/models/mlp");
        assert_eq!(beside(directory, "code/a.ptx"), Ok(PathBuf::from("/models/mlp/code/a.ptx")));
        for name in ["", "/etc/passwd", "../other.ptx", "a/../../b"] {
            assert!(beside(directory, name).is_err(), "{name:?}");
        }
    }
}
