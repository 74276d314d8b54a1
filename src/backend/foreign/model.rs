//! A model of a foreign backend's: what it has said of itself, and runs of requests with tensors of their own.

use super::batch::ForeignBatch;
use super::call::Call;
use super::describe::{BatchMemory, Description};
use super::space::Usage;
use super::{Foreign, size_of_struct};
use crate::abi::backend::blaze_backend_run;
use crate::abi::tensor::{BLAZE_MEMORY_CUDA, BLAZE_MEMORY_HOST, blaze_tensor};
use crate::backend::{Interrupt, Layout, Memory, Model, Prepared, ProviderReport, Stepwise};
use crate::error::{Error, Result, Status};
use crate::memory::Pool;
use crate::tensor::{Data, Dim, OutputPlace, Signature, Tensor, TensorSpec};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

pub struct ForeignModel {
    pub backend: Arc<Foreign>,
    pub pointer: *mut c_void,
    signature: Arc<Signature>,
    description: Description,
    provider: String,
    /// "name:version".
    pub name: String,
    pub usage: Arc<Usage>,
    /// For its batches, if they are to be in pinned memory.
    pinned: Option<Arc<Pool>>,
}

// SAFETY: whoever registered the backend has promised that any thread may run its models, several at once.
unsafe impl Send for ForeignModel {}
// SAFETY: as above.
unsafe impl Sync for ForeignModel {}

/// Unloads a model, unless it became a `ForeignModel`.
struct Loaded<'a>(&'a Foreign, *mut c_void);

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        if let Some(unload) = self.0.functions.unload {
            // SAFETY: whoever made this promised that the model is loaded, and nobody else's.
            unsafe { unload(self.0.user(), self.1) };
        }
    }
}

impl ForeignModel {
    /// The model may have been loaded anew since a request was admitted, with other devices.
    pub fn check_places(&self, inputs: &[Option<Tensor>], outputs: &[OutputPlace]) -> Result<()> {
        let given = inputs.iter().flatten().filter_map(|input| match &input.data {
            Data::Device(bytes) => Some(bytes.range().device),
            _ => None,
        });
        let wanted = outputs.iter().filter_map(|place| match place {
            OutputPlace::Host => None,
            OutputPlace::Device(device) => Some(*device),
            OutputPlace::Buffer(range) => Some(range.device),
        });
        match given.chain(wanted).find(|device| !self.description.devices().contains(device)) {
            None => Ok(()),
            Some(device) => {
                let text = format!("the model takes no tensors in the memory of device {device} any more");
                Err(Error::new(Status::Unsupported, text))
            }
        }
    }

    /// # Safety
    /// The backend has loaded the model, which is the caller's.
    pub unsafe fn new(
        backend: Arc<Foreign>,
        pointer: *mut c_void,
        name: String,
        usage: Arc<Usage>,
    ) -> Result<Self> {
        let loaded = Loaded(&backend, pointer);
        let Some(describe) = backend.functions.describe else {
            return Err(Error::new(Status::Internal, "no describe"));
        };
        // SAFETY: the model is loaded; the buffer is as large as is said.
        let text = backend.text("describe", |buffer, capacity, needed| unsafe {
            describe(backend.user(), pointer, buffer, capacity, needed)
        })?;
        let description = Description::parse(&text)?;
        let signature = Arc::new(description.signature(backend.is_stepwise())?);
        let provider = description.provider.clone().unwrap_or_else(|| backend.name.clone());
        let reached_by = description.devices().first().copied().unwrap_or(0);
        let pinned = match description.batch_memory {
            BatchMemory::Host => None,
            BatchMemory::Pinned => Some(backend.context.places.pinned(reached_by).map_err(|error| {
                let text = format!("backend {:?}: describe: batch_memory: {}", backend.name, error.message);
                Error::new(Status::BackendFailed, text)
            })?),
        };
        std::mem::forget(loaded);
        Ok(ForeignModel { pointer, signature, description, provider, name, usage, pinned, backend })
    }

    /// A run, or a preparation.
    pub fn call<'a>(&'a self, interrupt: &'a Interrupt) -> Call<'a> {
        Call::new(&self.backend.context, interrupt, &self.signature.outputs).of(&self.name, &self.usage)
    }

    /// Runs a batch, or tensors of a request's own.
    pub fn run_c(&self, prepared: *mut c_void, run: &blaze_backend_run, call: &mut Call<'_>) -> Result<()> {
        let Some(function) = self.backend.functions.run else {
            return Err(Error::new(Status::Unsupported, "this backend's models advance by steps"));
        };
        // SAFETY: the model is loaded, and what the run points to lives until the call returns.
        self.backend.ask("run", |error| unsafe {
            function(self.backend.user(), self.pointer, prepared, run, call.as_c(), error)
        })
    }
}

impl Drop for ForeignModel {
    fn drop(&mut self) {
        drop(Loaded(&self.backend, self.pointer));
    }
}

/// An input or output without memory.
pub fn bare_tensor(spec: &TensorSpec) -> blaze_tensor {
    blaze_tensor {
        struct_size: size_of_struct::<blaze_tensor>(),
        dtype: spec.dtype.code(),
        name: spec.c_name.as_ptr(),
        shape: ptr::null(),
        rank: 0,
        memory: BLAZE_MEMORY_HOST,
        device: 0,
        reserved: 0,
        data: ptr::null_mut(),
        size_bytes: 0,
    }
}

/// A request's own inputs, which must stay where they are.
pub fn given_tensors(signature: &Signature, inputs: &[Option<Tensor>]) -> Vec<blaze_tensor> {
    let given = signature.inputs.iter().zip(inputs).map(|(spec, tensor)| {
        let mut bare = bare_tensor(spec);
        if let Some(tensor) = tensor {
            (bare.shape, bare.rank) = (tensor.shape.as_ptr(), tensor.shape.len() as u32);
            if let Data::Device(memory) = &tensor.data {
                let range = memory.range();
                (bare.memory, bare.device) = (BLAZE_MEMORY_CUDA, range.device);
                (bare.data, bare.size_bytes) = (ptr::without_provenance_mut(range.address), range.size);
            } else {
                let bytes = tensor.bytes();
                (bare.data, bare.size_bytes) = (bytes.as_ptr().cast_mut().cast(), bytes.len());
            }
        }
        bare
    });
    given.collect()
}

/// Outputs, and where each is wanted. Their shapes are the backend's to say: it asks for the memory, also for what the host
/// lends.
pub fn wanted_tensors(signature: &Signature, places: &[OutputPlace]) -> Vec<blaze_tensor> {
    let wanted = signature.outputs.iter().enumerate().map(|(index, spec)| {
        let mut bare = bare_tensor(spec);
        let on = match places.get(index) {
            Some(OutputPlace::Device(device)) => Some(*device),
            Some(OutputPlace::Buffer(range)) => Some(range.device),
            Some(OutputPlace::Host) | None => None,
        };
        if let Some(device) = on {
            (bare.memory, bare.device) = (BLAZE_MEMORY_CUDA, device);
        }
        bare
    });
    wanted.collect()
}

/// The rows of inputs that are not joined with others: the first axis that all have in common, if the model leaves it open.
pub fn rows_of(signature: &Signature, inputs: &[blaze_tensor]) -> usize {
    let first = |(spec, tensor): (&TensorSpec, &blaze_tensor)| {
        if tensor.shape.is_null() {
            return None; // an optional one, which is not given
        }
        let varies = matches!(spec.dims.first(), Some(Dim::Symbolic(_)));
        // SAFETY: the shape has as many sizes as the tensor has axes.
        let size = if varies && tensor.rank > 0 { unsafe { tensor.shape.read() } } else { -1 };
        Some(usize::try_from(size).unwrap_or(1))
    };
    let mut sizes = signature.inputs.iter().zip(inputs).filter_map(first);
    let rows = sizes.next().unwrap_or(1);
    if sizes.all(|size| size == rows) { rows } else { 1 }
}

/// A run of all inputs and outputs.
pub fn run_of(
    inputs: &[blaze_tensor],
    outputs: &[blaze_tensor],
    first: usize,
    rows: usize,
) -> blaze_backend_run {
    blaze_backend_run {
        struct_size: size_of_struct::<blaze_backend_run>(),
        tensor_stride: size_of_struct::<blaze_tensor>(),
        rows: rows as u32,
        first_row: first as u32,
        inputs_count: inputs.len() as u32,
        outputs_count: outputs.len() as u32,
        inputs: inputs.as_ptr(),
        outputs: outputs.as_ptr(),
    }
}

impl Model for ForeignModel {
    fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    fn run(&self, inputs: &[Option<Tensor>], interrupt: &Interrupt) -> Result<Vec<Tensor>> {
        self.run_placed(inputs, &[], interrupt)
    }

    fn devices(&self) -> &[i32] {
        self.description.devices()
    }

    fn run_placed(
        &self,
        inputs: &[Option<Tensor>],
        outputs: &[OutputPlace],
        interrupt: &Interrupt,
    ) -> Result<Vec<Tensor>> {
        self.check_places(inputs, outputs)?;
        let given = given_tensors(&self.signature, inputs);
        let wanted = wanted_tensors(&self.signature, outputs);
        let rows = rows_of(&self.signature, &given);
        let mut call = self.call(interrupt).to(outputs);
        let ran = self.run_c(ptr::null_mut(), &run_of(&given, &wanted, 0, rows), &mut call);
        call.outputs_of(ran)
    }

    fn prepare(
        self: Arc<Self>,
        memory: Arc<Memory>,
        layout: Arc<Layout>,
    ) -> Result<Option<Box<dyn Prepared>>> {
        Ok(Some(Box::new(ForeignBatch::new(self, memory, layout)?)))
    }

    fn stepwise(self: Arc<Self>) -> Option<Arc<dyn Stepwise>> {
        if self.backend.is_stepwise() { Some(self) } else { None }
    }

    fn computes_on_cpu(&self) -> bool {
        self.description.on_cpu
    }

    fn rows_are_independent(&self) -> bool {
        self.description.rows_are_independent
    }

    fn provider(&self) -> ProviderReport {
        ProviderReport { used: self.provider.clone(), ..ProviderReport::default() }
    }

    fn memory_bytes(&self) -> u64 {
        self.description.memory_bytes.saturating_add(self.usage.pinned())
    }

    fn uncounted_bytes(&self) -> u64 {
        self.description.memory_bytes
    }

    fn device_bytes(&self) -> Vec<(String, u64)> {
        self.backend.context.places.on_devices(&self.usage)
    }

    fn batch_pool(&self) -> Option<Arc<Pool>> {
        self.pinned.clone()
    }
}
