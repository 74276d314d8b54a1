//! Runs with tensors in a device's memory, by ONNX Runtime's bindings: inputs are read where they are, and each output is
//! written where it is wanted.
#![allow(unsafe_code)]

use super::session::Shared;
use super::value::{Value, check, failed};
use crate::backend::Interrupt;
use crate::error::{Error, Result, Status};
use crate::tensor::{
    Data, DeviceBytes, DeviceRange, Dim, OutputPlace, Shape, Signature, Tensor, TensorSpec, size_bytes,
};
use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{RunOptions, SharedSessionInner};
use ort::sys;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// The memory of the device that a session computes on.
pub struct OnDevice {
    number: i32,
    memory: MemoryInfo<'static>,
}

// SAFETY: a description of memory, which nobody changes.
unsafe impl Send for OnDevice {}
// SAFETY: as above.
unsafe impl Sync for OnDevice {}

impl OnDevice {
    pub fn cuda(number: u32) -> Result<Self> {
        Self::of(AllocationDevice::CUDA, i32::try_from(number).unwrap_or(i32::MAX))
    }

    fn of(kind: AllocationDevice<'static>, number: i32) -> Result<Self> {
        let memory = MemoryInfo::new(kind, number, AllocatorType::Device, MemoryType::Default);
        Ok(OnDevice { number, memory: memory.map_err(|error| failed(&error))? })
    }

    pub fn number(&self) -> i32 {
        self.number
    }
}

/// What a run reads from where, and writes to where.
struct Binding<'a> {
    pointer: NonNull<sys::OrtIoBinding>,
    shared: &'a Shared,
    /// What is bound; ONNX Runtime keeps them too.
    values: Vec<Value>,
}

impl Drop for Binding<'_> {
    fn drop(&mut self) {
        // SAFETY: it is this object's, and not used again.
        unsafe { (ort::api().ReleaseIoBinding)(self.pointer.as_ptr()) };
    }
}

impl<'a> Binding<'a> {
    fn new(shared: &'a Shared) -> Result<Self> {
        let mut pointer = ptr::null_mut();
        // SAFETY: the session lives; the binding is written on success.
        check(unsafe { (ort::api().CreateIoBinding)(shared.session.ptr().cast_mut(), &mut pointer) })
            .map_err(|error| failed(&error))?;
        let pointer = NonNull::new(pointer)
            .ok_or_else(|| Error::new(Status::BackendFailed, "ONNX Runtime has made no binding"))?;
        Ok(Binding { pointer, shared, values: Vec::new() })
    }

    fn input(&mut self, on: &OnDevice, spec: &TensorSpec, tensor: &Tensor) -> Result<()> {
        let value = match &tensor.data {
            // SAFETY: whoever lends it keeps it until the run is over. ONNX Runtime does not write to inputs.
            Data::Device(bytes) => unsafe { over(on, tensor.dtype, &tensor.shape, bytes.range()) }?,
            _ => {
                let allocator = self.shared.session.allocator().ptr().cast_mut();
                Value::of_input(&self.shared.memory, allocator, tensor)?
            }
        };
        // SAFETY: binding, name and value live.
        check(unsafe {
            (ort::api().BindInput)(self.pointer.as_ptr(), spec.c_name.as_ptr(), value.pointer())
        })
        .map_err(|error| failed(&error))?;
        self.values.push(value);
        Ok(())
    }

    fn output(
        &mut self,
        on: &OnDevice,
        spec: &TensorSpec,
        place: OutputPlace,
        inputs: &[Option<Tensor>],
    ) -> Result<()> {
        let (binding, name, api) = (self.pointer.as_ptr(), spec.c_name.as_ptr(), ort::api());
        // SAFETY: binding, name, and what is bound live, here and below.
        let bound = unsafe {
            match place {
                OutputPlace::Host => (api.BindOutputToDevice)(binding, name, self.shared.memory.ptr()),
                OutputPlace::Device(_) => (api.BindOutputToDevice)(binding, name, on.memory.ptr()),
                OutputPlace::Buffer(range) => {
                    let shape = shape_of(spec, &self.shared.signature, inputs)?;
                    let size = size_bytes(spec.dtype, &shape)?;
                    if size > range.size {
                        let (name, room) = (&spec.name, range.size);
                        let text =
                            format!("output {name:?} has {size} bytes, the buffer given for it {room}");
                        return Err(Error::new(Status::BufferTooSmall, text));
                    }
                    let value = over(on, spec.dtype, &shape, DeviceRange { size, ..range })?;
                    let bound = (api.BindOutput)(binding, name, value.pointer());
                    self.values.push(value);
                    bound
                }
            }
        };
        check(bound).map_err(|error| failed(&error))
    }

    /// The outputs of a run, in the order in which they were bound.
    fn outputs(&self) -> Result<Vec<*mut sys::OrtValue>> {
        let api = ort::api();
        let allocator = self.shared.session.allocator().ptr().cast_mut();
        let (mut values, mut count) = (ptr::null_mut(), 0);
        // SAFETY: the binding lives; both are written on success.
        check(unsafe {
            (api.GetBoundOutputValues)(self.pointer.as_ptr(), allocator, &mut values, &mut count)
        })
        .map_err(|error| failed(&error))?;
        if values.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: there are so many, which are the caller's from here on; the array is the allocator's.
        let found = unsafe { std::slice::from_raw_parts(values, count) }.to_vec();
        // SAFETY: it is not used again. It cannot fail.
        let _ = check(unsafe { (api.AllocatorFree)(allocator, values.cast()) });
        Ok(found)
    }
}

/// A value over memory of the device.
///
/// # Safety
/// It outlives the value.
unsafe fn over(
    on: &OnDevice,
    dtype: crate::tensor::DType,
    shape: &[i64],
    range: DeviceRange,
) -> Result<Value> {
    let data = ptr::without_provenance_mut(range.address);
    // SAFETY: promised by the caller. The address is for the device only.
    unsafe { Value::over(&on.memory, dtype, shape, data, range.size) }
}

/// An output's shape, as far as it follows from the inputs'.
fn shape_of(spec: &TensorSpec, signature: &Signature, inputs: &[Option<Tensor>]) -> Result<Shape> {
    let size_of = |name: &str| {
        signature.inputs.iter().zip(inputs).find_map(|(input, tensor)| {
            let at =
                input.dims.iter().position(|dim| matches!(dim, Dim::Symbolic(other) if other == name))?;
            tensor.as_ref()?.shape.get(at).copied()
        })
    };
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => Ok(*size),
        Dim::Symbolic(name) => size_of(name).filter(|_| !name.is_empty()).ok_or_else(|| {
            let output = &spec.name;
            let text = format!(
                "output {output:?}: its shape has the size {name:?}, which no input says: \
                 it cannot go to a buffer on a device"
            );
            Error::new(Status::Unsupported, text)
        }),
    };
    spec.dims.iter().map(size).collect()
}

/// Runs the model once, with these inputs, and each output where it is wanted. `options` are the run's own.
pub fn run(
    shared: &Shared,
    on: &OnDevice,
    options: &RunOptions,
    inputs: &[Option<Tensor>],
    places: &[OutputPlace],
    interrupt: &Interrupt,
) -> Result<Vec<Tensor>> {
    let _entered = shared.account.enter();
    let place = |at: usize| places.get(at).copied().unwrap_or(OutputPlace::Host);
    let mut binding = Binding::new(shared)?;
    for (spec, tensor) in shared.signature.inputs.iter().zip(inputs) {
        if let Some(tensor) = tensor {
            binding.input(on, spec, tensor)?;
        }
    }
    for (at, spec) in shared.signature.outputs.iter().enumerate() {
        binding.output(on, spec, place(at), inputs)?;
    }
    if interrupt.is_raised() {
        return Err(Error::new(Status::Cancelled, "the run was interrupted"));
    }
    // SAFETY: session, options and binding live, and so does all that is bound. It returns when the device is done.
    check(unsafe {
        (ort::api().RunWithBinding)(shared.session.ptr().cast_mut(), options.ptr(), binding.pointer.as_ptr())
    })
    .map_err(|error| failed(&error))?;
    let session = shared.session.inner();
    let is_lent = |data: *const u8| {
        inputs.iter().flatten().any(|tensor| match &tensor.data {
            Data::Device(bytes) => {
                let range = bytes.range();
                (range.address..range.address.saturating_add(range.size.max(1))).contains(&data.addr())
            }
            _ => tensor.bytes().as_ptr_range().contains(&data),
        })
    };
    // Every pointer is taken over, also after an error, so that none leaks.
    let tensors: Vec<Result<Tensor>> = binding
        .outputs()?
        .into_iter()
        .enumerate()
        .map(|(at, pointer)| match place(at) {
            OutputPlace::Host => Value::into_tensor(pointer, &session, shared.account.pool(), is_lent),
            OutputPlace::Device(_) => on_device(on, pointer, &session, is_lent),
            OutputPlace::Buffer(range) => in_buffer(pointer, range),
        })
        .collect();
    tensors.into_iter().collect()
}

/// An output that stays on the device, in memory of ONNX Runtime's.
fn on_device(
    on: &OnDevice,
    pointer: *mut sys::OrtValue,
    session: &Arc<SharedSessionInner>,
    is_lent: impl Fn(*const u8) -> bool,
) -> Result<Tensor> {
    let value = Value::own(pointer)?;
    let (dtype, shape) = value.type_and_shape()?;
    let (data, size) = (value.data()?, size_bytes(dtype, &shape)?);
    if size > 0 && is_lent(data) {
        let text = "an output is one of the inputs, which stay on the device only as long as they are lent";
        return Err(Error::new(Status::Unsupported, text));
    }
    let range = DeviceRange { device: on.number, address: data.addr(), size };
    let kept = Kept { _value: value, _session: Arc::clone(session) };
    Ok(Tensor { dtype, shape, data: Data::Device(DeviceBytes::kept_by(Box::new(kept), range)) })
}

/// An output that is in the host's own memory on the device.
fn in_buffer(pointer: *mut sys::OrtValue, range: DeviceRange) -> Result<Tensor> {
    let value = Value::own(pointer)?;
    let (dtype, shape) = value.type_and_shape()?;
    let size = size_bytes(dtype, &shape)?;
    if size > 0 && value.data()?.addr() != range.address {
        let text = "ONNX Runtime has not written an output to the memory that was given for it";
        return Err(Error::new(Status::BackendFailed, text));
    }
    let range = DeviceRange { size, ..range };
    Ok(Tensor { dtype, shape, data: Data::Device(DeviceBytes::lent(range)) })
}

/// What a value on a device needs for as long as it is held.
struct Kept {
    _value: Value,
    _session: Arc<SharedSessionInner>,
}

#[cfg(test)]
#[path = "binding/tests.rs"]
mod tests;
