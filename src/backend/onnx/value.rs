//! ONNX Runtime values: views over host memory on the way in, tensors on the way out.
#![allow(unsafe_code)]

use crate::error::{Error, Result, Status};
use crate::memory::Pool;
use crate::tensor::{Buffer, DType, Data, HostBytes, Shape, StringTensor, Tensor, element_count, size_bytes};
use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::SharedSessionInner;
use ort::sys;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Turns ONNX Runtime's status into a result.
pub fn check(status: sys::OrtStatusPtr) -> Result<(), ort::Error> {
    // SAFETY: every caller passes a status that an API function has just returned.
    unsafe { ort::Error::result_from_status(status) }
}

/// An error of the backend's for a failed call.
pub fn failed(error: &ort::Error) -> Error {
    let status = match error.code() {
        ort::ErrorCode::DeviceReset => Status::DeviceLost,
        _ if is_lost(error.message()) => Status::DeviceLost,
        _ if error.message().contains("bad_alloc")
            || error.message().contains("Failed to allocate memory") =>
        {
            Status::OutOfMemory
        }
        _ => Status::BackendFailed,
    };
    Error::new(status, format!("ONNX Runtime: {}", error.message()))
}

/// Errors of CUDA's runtime after which its context is of no use any more; "unknown" is one of them.
const LOST: [u32; 17] = [46, 214, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999];

/// Whether a message of ONNX Runtime's tells of such an error: "CUDA failure 700: an illegal memory access ...".
fn is_lost(message: &str) -> bool {
    let codes = message.split("CUDA failure ").skip(1).map(|rest| {
        let end = rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse::<u32>()
    });
    codes.flatten().any(|code| LOST.contains(&code))
}

/// An `OrtValue`, released on drop.
pub struct Value(NonNull<sys::OrtValue>);

// SAFETY: an OrtValue is reference-counted memory without thread affinity.
unsafe impl Send for Value {}
// SAFETY: through a shared reference it is only read.
unsafe impl Sync for Value {}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: the pointer is owned by `self` and not used afterwards.
        unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) };
    }
}

impl Value {
    /// Takes over a value that a call has returned.
    pub fn own(pointer: *mut sys::OrtValue) -> Result<Self> {
        NonNull::new(pointer)
            .map(Value)
            .ok_or_else(|| Error::new(Status::BackendFailed, "ONNX Runtime returned no value"))
    }

    pub fn pointer(&self) -> *mut sys::OrtValue {
        self.0.as_ptr()
    }

    /// A value for an input: a view of the tensor's bytes, or a copy of its strings. The view must not outlive
    /// `tensor`.
    pub fn of_input(
        memory: &MemoryInfo<'static>,
        allocator: *mut sys::OrtAllocator,
        tensor: &Tensor,
    ) -> Result<Self> {
        match &tensor.data {
            Data::Strings(strings) => Value::of_strings(allocator, &tensor.shape, strings),
            _ => {
                let bytes = tensor.bytes();
                // SAFETY: ONNX Runtime does not write to inputs, and the caller keeps `tensor` alive for as long.
                unsafe {
                    Value::over(memory, tensor.dtype, &tensor.shape, bytes.as_ptr().cast_mut(), bytes.len())
                }
            }
        }
    }

    /// A value over `size` bytes at `data`, which the shape describes.
    ///
    /// # Safety
    /// They outlive the value.
    pub unsafe fn over(
        memory: &MemoryInfo<'static>,
        dtype: DType,
        shape: &[i64],
        data: *mut u8,
        size: usize,
    ) -> Result<Self> {
        let mut value = ptr::null_mut();
        // SAFETY: promised by the caller; ONNX Runtime checks the size against the shape.
        check(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                memory.ptr(),
                data.cast(),
                size,
                shape.as_ptr(),
                shape.len(),
                element_type(dtype),
                &mut value,
            )
        })
        .map_err(|e| failed(&e))?;
        Value::own(value)
    }

    fn of_strings(allocator: *mut sys::OrtAllocator, shape: &Shape, strings: &StringTensor) -> Result<Self> {
        let mut value = ptr::null_mut();
        // SAFETY: `allocator` is the session's, and the shape has as many sizes as said.
        check(unsafe {
            (ort::api().CreateTensorAsOrtValue)(
                allocator,
                shape.as_ptr(),
                shape.len(),
                element_type(DType::String),
                &mut value,
            )
        })
        .map_err(|e| failed(&e))?;
        let value = Value::own(value)?;
        for (index, text) in strings.iter().enumerate() {
            let mut place = ptr::null_mut();
            // SAFETY: `index` is below the element count, which admission checked against the shape; the call
            // returns room for exactly `text.len()` bytes.
            unsafe {
                check((ort::api().GetResizedStringTensorElementBuffer)(
                    value.pointer(),
                    index,
                    text.len(),
                    &mut place,
                ))
                .map_err(|e| failed(&e))?;
                if !text.is_empty() {
                    ptr::copy_nonoverlapping(text.as_ptr(), place.cast(), text.len());
                }
            }
        }
        Ok(value)
    }

    /// The tensor in a value that a run has returned. `session` keeps the allocator behind it alive. An output that a model
    /// passes on from its inputs is in their memory, of which `is_lent` tells, and which others have afterwards: that is
    /// copied, to memory of `pool`.
    pub fn into_tensor(
        pointer: *mut sys::OrtValue,
        session: &Arc<SharedSessionInner>,
        pool: &Arc<Pool>,
        is_lent: impl Fn(*const u8) -> bool,
    ) -> Result<Tensor> {
        let value = Value::own(pointer)?;
        let (dtype, shape) = value.type_and_shape()?;
        let data = if dtype == DType::String {
            Data::Strings(value.strings(&shape)?)
        } else {
            let (data, size) = (value.data()?, size_bytes(dtype, &shape)?);
            let output = OutputBytes { data, size, _value: value, _session: Arc::clone(session) };
            if is_lent(data) {
                Data::Owned(Buffer::copy_of(pool, output.bytes())?)
            } else {
                Data::Backend(Box::new(output))
            }
        };
        Ok(Tensor { dtype, shape, data })
    }

    pub fn type_and_shape(&self) -> Result<(DType, Shape)> {
        let api = ort::api();
        let mut info = ptr::null_mut();
        // SAFETY: `self` is a live tensor value; the info is released below, on every path.
        check(unsafe { (api.GetTensorTypeAndShape)(self.pointer(), &mut info) }).map_err(|e| failed(&e))?;
        let read = || -> Result<(DType, Shape)> {
            let (mut code, mut rank) = (0u32, 0);
            // SAFETY: the enum is 32 bits wide; it is received as a number because a newer library may return
            // one that this crate's enum does not have.
            check(unsafe { (api.GetTensorElementType)(info, (&raw mut code).cast()) })
                .map_err(|e| failed(&e))?;
            // SAFETY: both pointers are valid.
            check(unsafe { (api.GetDimensionsCount)(info, &mut rank) }).map_err(|e| failed(&e))?;
            let mut shape: Shape = smallvec::smallvec![0; rank];
            // SAFETY: `shape` has room for `rank` sizes.
            check(unsafe { (api.GetDimensions)(info, shape.as_mut_ptr(), rank) }).map_err(|e| failed(&e))?;
            let dtype = dtype_from(code).ok_or_else(|| {
                Error::new(
                    Status::Unsupported,
                    format!("an output has ONNX element type {code}, which is unknown"),
                )
            })?;
            Ok((dtype, shape))
        };
        let result = read();
        // SAFETY: released once, not used afterwards.
        unsafe { (api.ReleaseTensorTypeAndShapeInfo)(info) };
        result
    }

    pub fn data(&self) -> Result<*const u8> {
        let mut data: *mut c_void = ptr::null_mut();
        // SAFETY: `self` is a live tensor value of fixed-size elements.
        check(unsafe { (ort::api().GetTensorMutableData)(self.pointer(), &mut data) })
            .map_err(|e| failed(&e))?;
        Ok(data.cast_const().cast())
    }

    fn strings(&self, shape: &[i64]) -> Result<StringTensor> {
        let api = ort::api();
        let count = element_count(shape).unwrap_or(0);
        let mut total = 0;
        // SAFETY: `self` is a live string tensor.
        check(unsafe { (api.GetStringTensorDataLength)(self.pointer(), &mut total) })
            .map_err(|e| failed(&e))?;
        let (mut bytes, mut offsets) = (vec![0u8; total], vec![0usize; count]);
        if count > 0 {
            // SAFETY: both buffers have the sizes given.
            check(unsafe {
                (api.GetStringTensorContent)(
                    self.pointer(),
                    bytes.as_mut_ptr().cast(),
                    total,
                    offsets.as_mut_ptr(),
                    count,
                )
            })
            .map_err(|e| failed(&e))?;
        }
        let ends = offsets.iter().skip(1).copied().chain(std::iter::once(total));
        let ranges: Vec<(usize, usize)> = offsets.iter().copied().zip(ends).collect();
        StringTensor::copy_of(ranges.iter().map(|&(start, end)| &bytes[start..end]))
    }
}

/// The memory of an output that ONNX Runtime allocated.
struct OutputBytes {
    data: *const u8,
    size: usize,
    _value: Value,
    _session: Arc<SharedSessionInner>,
}

// SAFETY: the bytes belong to `_value` and are only read.
unsafe impl Send for OutputBytes {}
// SAFETY: as above.
unsafe impl Sync for OutputBytes {}

impl HostBytes for OutputBytes {
    fn bytes(&self) -> &[u8] {
        if self.size == 0 || self.data.is_null() {
            return &[];
        }
        // SAFETY: the value holds `size` bytes at `data` for as long as it lives, which is as long as `self`.
        unsafe { std::slice::from_raw_parts(self.data, self.size) }
    }
}

/// Host memory that ONNX Runtime did not allocate.
pub fn host_memory() -> Result<MemoryInfo<'static>> {
    MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
        .map_err(|e| failed(&e))
}

fn element_type(dtype: DType) -> sys::ONNXTensorElementDataType {
    use sys::ONNXTensorElementDataType as T;
    match dtype {
        DType::F32 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DType::U8 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DType::I8 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DType::U16 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DType::I16 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DType::I32 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DType::I64 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DType::String => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
        DType::Bool => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DType::F16 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DType::F64 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DType::U32 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DType::U64 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DType::Complex64 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX64,
        DType::Complex128 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX128,
        DType::Bf16 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DType::F8E4M3FN => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN,
        DType::F8E4M3FNUZ => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FNUZ,
        DType::F8E5M2 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2,
        DType::F8E5M2FNUZ => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2FNUZ,
        DType::U4 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4,
        DType::I4 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4,
        DType::F4E2M1 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT4E2M1,
        DType::F8E8M0 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E8M0,
        DType::U2 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT2,
        DType::I2 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT2,
    }
}

/// The element type with ONNX Runtime's number `code`; its numbers are not quite those of ONNX.
fn dtype_from(code: u32) -> Option<DType> {
    DType::ALL.into_iter().find(|dtype| element_type(*dtype) as u32 == code)
}

/// The element type that ONNX Runtime declares for an input or output.
pub fn dtype_of(declared: ort::value::TensorElementType) -> Option<DType> {
    dtype_from(sys::ONNXTensorElementDataType::from(declared) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_is_told_from_other_failures() {
        let lost = "Non-zero status code returned while running Add node. CUDA failure 700: an illegal memory access was \
                    encountered ; GPU=0 ; hostname=h ; file=f.cc ; line=1 ; expr=cudaStreamSynchronize(stream);";
        assert!(is_lost(lost) && is_lost("CUDA failure 2: out of memory\nCUDA failure 719: unspecified"));
        for other in
            ["CUDA failure 2: out of memory", "CUDA failure ", "CUDA failure 7000", "CUBLAS failure 700", ""]
        {
            assert!(!is_lost(other), "{other}");
        }
    }
}
