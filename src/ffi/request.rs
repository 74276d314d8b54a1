//! Requests: submit, infer, cancel.

use super::event::{blaze_event, write_event};
use super::guard::guard;
use super::handles::{blaze_engine, blaze_model, blaze_queue, blaze_ticket};
use super::read::{declared_size, handle, optional_string, output, sized, sized_reference, slice};
use super::status::{blaze_error, blaze_status};
use super::tensor::{BLAZE_DTYPE_STRING, BLAZE_MAX_RANK, BLAZE_MEMORY_CUDA, blaze_string, blaze_tensor};
use crate::engine::{InputData, InputTensor, OutputBuffer, OutputData, RequestDescription};
use crate::error::{Error, Result, Status};
use crate::features::PLUGINS;
use crate::tensor::{BorrowedBytes, CallerBuffer, DType, DeviceRange};
use std::mem::MaybeUninit;

/// How urgent a request is. What waits long enough overtakes any priority.
pub type blaze_priority = i32;

/// What can wait.
pub const BLAZE_PRIORITY_LOW: blaze_priority = -1;
/// The default.
pub const BLAZE_PRIORITY_NORMAL: blaze_priority = 0;
/// Before what is normal.
pub const BLAZE_PRIORITY_HIGH: blaze_priority = 1;
/// Before everything else.
pub const BLAZE_PRIORITY_CRITICAL: blaze_priority = 2;

/// A flag of requests: input data need not be copied. It stays the caller's, unchanged, until an event for the ticket
/// carries BLAZE_EVENT_FLAG_BUFFERS_RELEASED, and must be aligned to its element type. Requests that are joined with
/// others are copied into their batch all the same, before the call returns.
pub const BLAZE_REQUEST_BORROW: u32 = 1;
/// A flag of requests: outputs for which the request gives no memory are left in a device's memory, and are there until the
/// event is released: on the device of the request's other tensors in such memory, or else on the first one of the model.
pub const BLAZE_REQUEST_DEVICE_OUTPUTS: u32 = 2;

/// One piece of work. Start from BLAZE_REQUEST_INIT. Nothing in it needs to outlive the call, but for the data of
/// borrowed inputs and of output buffers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_request {
    /// sizeof(blaze_request).
    pub struct_size: u32,
    /// BLAZE_REQUEST_BORROW, BLAZE_REQUEST_DEVICE_OUTPUTS, or 0.
    pub flags: u32,
    /// A model, or a route.
    pub model: blaze_model,
    /// BLAZE_PRIORITY_LOW to BLAZE_PRIORITY_CRITICAL.
    pub priority: blaze_priority,
    /// Must be 0.
    pub reserved: u32,
    /// When the request is to be given up, on the clock of blaze_now_ns; 0: never.
    pub deadline_ns: u64,
    /// For routes: requests of the same session may go to the same target; 0: none.
    pub session_id: u64,
    /// Whose limits the request is under, and whose turn it takes; 0: nobody's.
    pub tenant_id: u64,
    /// Comes back in every event.
    pub user_data: u64,
    /// All with the same struct_size.
    pub inputs: *const blaze_tensor,
    /// Memory of the caller's for some or all outputs; NULL: none. The outputs are written there, shape and rank
    /// are ignored, and the memory stays lent until the terminal event; in a device's memory, until an event for the
    /// ticket carries BLAZE_EVENT_FLAG_BUFFERS_RELEASED.
    pub outputs: *const blaze_tensor,
    /// How many `inputs` there are.
    pub inputs_count: u32,
    /// How many `outputs` there are; 0: none are given.
    pub outputs_count: u32,
    /// For routes with "hash_on": "key": requests with the same key go to the same target; 0: none.
    pub route_key: u64,
}

sized!(blaze_request since route_key);

/// The most inputs, and the most outputs, that a request may describe.
const MAX_TENSORS: u32 = 4096;

/// Submits a request. If it is accepted, exactly one terminal event comes to `queue`; if not, none. Before it, a request
/// of a stepwise model may have events of BLAZE_EVENT_TOKEN and BLAZE_EVENT_PROGRESS. The terminal event's status is OK;
/// CANCELLED; EXPIRED; SHUT_DOWN; BUFFER_TOO_SMALL (an output buffer; others may have been written); BACKEND_FAILED;
/// OUT_OF_MEMORY; DEVICE_LOST; INTERNAL; and for routes TIMEOUT ("attempt_timeout_ms" is over, and there is no other
/// target), OVER_QUOTA (it has waited, and had to make room for another tenant's request), NOT_FOUND (it has waited, and
/// there is no target any more). If a run of several requests fails with BACKEND_FAILED, each is run once more alone, so
/// that one request's bad values do not fail the others.
///
/// @param engine   The engine.
/// @param request  The work. Descriptors are copied, and so is input data unless BLAZE_REQUEST_BORROW is set. Tensors in a
///                 device's memory (BLAZE_MEMORY_CUDA) must be all on one device, which the model must list, or every
///                 target of the route; such requests are run alone, and a route asks one target, once.
/// @param queue    Where the events go: a queue of this engine.
/// @param out      Receives the ticket, never before the request is accepted; may be NULL.
/// @param err      Receives the reason of a failure; may be NULL.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; INVALID_STRUCT; INVALID_NAME; INVALID_DTYPE; INVALID_SHAPE; INVALID_SIZE;
/// UNSUPPORTED; NOT_FOUND (the model, the route, or every target of a route); SHUT_DOWN; QUEUE_FULL; RATE_LIMITED (with
/// `retry_after_ns`); OVER_QUOTA; OVER_BUDGET; OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_submit(
    engine: *mut blaze_engine,
    request: *const blaze_request,
    queue: *mut blaze_queue,
    out: *mut blaze_ticket,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(err, || {
            let engine = &handle(engine, "engine")?.engine;
            let mut description = RequestDescription::default();
            let queue = handle(queue, "queue").and_then(|queue| {
                describe(request, &mut description)?;
                Ok(queue)
            });
            let queue = queue.inspect_err(|error| engine.count_rejection(error))?;
            let ticket = engine.submit_ref(&description, &queue.queue)?;
            if let Some(out) = out.as_mut() {
                *out = ticket;
            }
            Ok(())
        })
    }
}

/// Submits a request and waits for its end. Runs it on the calling thread if the model is idle, so that nothing is
/// handed over. What a request of a stepwise model has said is the event's `text`, if it ends well.
///
/// @param engine      The engine.
/// @param request     The work, as for blaze_submit.
/// @param timeout_ns  How long to wait at most, in nanoseconds; UINT64_MAX: for ever. With borrowed inputs the call
///                    returns only when the backend has let go of them, which may be later; and so it does on an
///                    engine made with "threads": 0, where nobody can interrupt a run on the calling thread.
/// @param out         Receives the terminal event, on success only; set its struct_size (BLAZE_EVENT_INIT). Release it.
/// @param err         Receives the reason of a failure; may be NULL.
///
/// Blocks. Threads: any.
/// Returns OK; what blaze_submit returns; TIMEOUT; or the status of the request's event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_infer(
    engine: *mut blaze_engine,
    request: *const blaze_request,
    timeout_ns: u64,
    out: *mut blaze_event,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(err, || {
            let engine = &handle(engine, "engine")?.engine;
            let mut description = RequestDescription::default();
            let size = declared_size(out, "out").and_then(|size| {
                describe(request, &mut description)?;
                Ok(size)
            });
            let size = size.inspect_err(|error| engine.count_rejection(error))?;
            let event = engine.infer_ref(&mut description, timeout_ns)?;
            write_event(out, size, event);
            Ok(())
        })
    }
}

/// Asks for a request or a load to be given up. It is resolved as CANCELLED at once, unless it has ended already; work
/// inside a backend is told to stop, and buffers lent to it are released when it does. May be called again.
///
/// @param engine  The engine.
/// @param ticket  The ticket.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; NOT_FOUND if there is nothing (left) to cancel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_cancel(engine: *mut blaze_engine, ticket: blaze_ticket) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe { guard(std::ptr::null_mut(), || handle(engine, "engine")?.engine.cancel(ticket)) }
}

/// Reads a request into `description`, which is empty: in place, since it is too large to be moved about for each.
///
/// # Safety
/// The request and the pointers in it are what the header says, for as long as the description lives.
unsafe fn describe(request: *const blaze_request, description: &mut RequestDescription<'_>) -> Result<()> {
    let mut copy = MaybeUninit::uninit();
    // SAFETY: promised by the caller.
    let request = unsafe { sized_reference(request, "request", &mut copy)? };
    let invalid = |message: String| Error::new(Status::InvalidArgument, message);
    if request.flags & !(BLAZE_REQUEST_BORROW | BLAZE_REQUEST_DEVICE_OUTPUTS) != 0 {
        return Err(invalid(format!("flags: {:#x} has bits that are unknown", request.flags)));
    }
    if request.reserved != 0 {
        return Err(invalid("reserved: must be 0".into()));
    }
    if !(BLAZE_PRIORITY_LOW..=BLAZE_PRIORITY_CRITICAL).contains(&request.priority) {
        return Err(invalid(format!("priority: {} is not from -1 (low) to 2 (critical)", request.priority)));
    }
    let borrow = request.flags & BLAZE_REQUEST_BORROW != 0;
    description.model = request.model;
    description.level = (request.priority - BLAZE_PRIORITY_LOW) as usize;
    description.deadline_ns = request.deadline_ns;
    description.user_data = request.user_data;
    (description.session, description.tenant) = (request.session_id, request.tenant_id);
    description.route_key = request.route_key;
    description.device_outputs = request.flags & BLAZE_REQUEST_DEVICE_OUTPUTS != 0;
    // SAFETY: promised by the caller.
    unsafe {
        let inputs = &mut description.inputs;
        tensors(request.inputs, request.inputs_count, "inputs", |tensor| {
            inputs.push(input(tensor, borrow)?);
            Ok(())
        })?;
        let outputs = &mut description.outputs;
        tensors(request.outputs, request.outputs_count, "outputs", |tensor| {
            outputs.push(output_buffer(tensor)?);
            Ok(())
        })
    }
}

/// Reads an array of tensors whose elements are as far apart as the first one says it is large.
///
/// # Safety
/// `first` is NULL or has `count` tensors.
#[inline]
unsafe fn tensors(
    first: *const blaze_tensor,
    count: u32,
    name: &str,
    mut read: impl FnMut(&blaze_tensor) -> Result<()>,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    if count > MAX_TENSORS {
        return Err(Error::new(
            Status::InvalidArgument,
            format!("{name}_count: {count} is more than {MAX_TENSORS}"),
        ));
    }
    // SAFETY: promised by the caller.
    let stride = unsafe { declared_size(first, name)? };
    for index in 0..count as usize {
        let pointer = first.cast::<u8>().wrapping_add(index * stride).cast::<blaze_tensor>();
        let mut copy = MaybeUninit::uninit();
        // SAFETY: within the array, as promised by the caller.
        let tensor = unsafe { sized_reference(pointer, name, &mut copy) };
        let tensor = tensor.and_then(|tensor| match tensor.struct_size as usize == stride {
            true => read(tensor),
            false => Err(Error::new(
                Status::InvalidStruct,
                format!("struct_size is {}, that of {name}[0] {stride}", tensor.struct_size),
            )),
        });
        tensor.map_err(|error| error.within(format!("{name}[{index}]")))?;
    }
    Ok(())
}

/// # Safety
/// The pointers in `tensor` are what the header says.
unsafe fn input<'a>(tensor: &blaze_tensor, borrow: bool) -> Result<InputTensor<'a>> {
    let dtype = check(tensor)?;
    if tensor.rank > BLAZE_MAX_RANK {
        return Err(Error::new(
            Status::InvalidShape,
            format!("rank {} is more than {BLAZE_MAX_RANK}", tensor.rank),
        ));
    }
    // SAFETY: promised by the caller.
    let (name, shape) = unsafe {
        (optional_string(tensor.name, "name")?, slice(tensor.shape, tensor.rank as usize, "shape")?)
    };
    let data = match dtype {
        _ if tensor.memory == BLAZE_MEMORY_CUDA => {
            if !borrow {
                let text = "memory: in a device's memory, which takes BLAZE_REQUEST_BORROW";
                return Err(Error::new(Status::InvalidArgument, text));
            }
            InputData::Device(device_range(tensor)?)
        }
        DType::String => {
            if !tensor.size_bytes.is_multiple_of(size_of::<blaze_string>()) {
                let text =
                    format!("size_bytes: {} is no multiple of sizeof(blaze_string)", tensor.size_bytes);
                return Err(Error::new(Status::InvalidSize, text));
            }
            let count = tensor.size_bytes / size_of::<blaze_string>();
            // SAFETY: promised by the caller.
            let strings = unsafe { slice(tensor.data.cast::<blaze_string>().cast_const(), count, "data")? };
            // SAFETY: as above.
            let texts = strings
                .iter()
                .map(|text| unsafe { slice(text.data.cast::<u8>(), text.size_bytes, "string") });
            InputData::Strings(texts.collect::<Result<_>>()?)
        }
        // SAFETY: promised by the caller.
        _ => unsafe {
            let bytes = slice(tensor.data.cast::<u8>().cast_const(), tensor.size_bytes, "data")?;
            if borrow {
                InputData::Borrow(BorrowedBytes::new(bytes.as_ptr(), bytes.len()))
            } else {
                InputData::Copy(bytes)
            }
        },
    };
    Ok(InputTensor { name, dtype, shape, data })
}

/// # Safety
/// The pointers in `tensor` are what the header says.
unsafe fn output_buffer<'a>(tensor: &blaze_tensor) -> Result<OutputBuffer<'a>> {
    let dtype = check(tensor)?;
    // SAFETY: promised by the caller.
    let name = unsafe { optional_string(tensor.name, "name")? };
    if tensor.memory == BLAZE_MEMORY_CUDA {
        return Ok(OutputBuffer { name, dtype, data: OutputData::Device(device_range(tensor)?) });
    }
    check_size(tensor)?;
    // SAFETY: promised by the caller: the memory is lent until the terminal event.
    let buffer = unsafe { CallerBuffer::new(tensor.data.cast(), tensor.size_bytes) };
    Ok(OutputBuffer { name, dtype, data: OutputData::Host(buffer) })
}

fn check_size(tensor: &blaze_tensor) -> Result<()> {
    if tensor.size_bytes > 0 {
        output(tensor.data, "data")?;
    }
    if tensor.size_bytes > isize::MAX as usize {
        return Err(Error::new(Status::InvalidSize, "size_bytes: more than memory holds"));
    }
    Ok(())
}

/// Where a tensor in a device's memory is.
fn device_range(tensor: &blaze_tensor) -> Result<DeviceRange> {
    check_size(tensor)?;
    if tensor.device < 0 {
        return Err(Error::new(Status::InvalidArgument, format!("device: {} is negative", tensor.device)));
    }
    Ok(DeviceRange { device: tensor.device, address: tensor.data.addr(), size: tensor.size_bytes })
}

fn check(tensor: &blaze_tensor) -> Result<DType> {
    if tensor.memory > BLAZE_MEMORY_CUDA {
        let text = format!("memory: {} is none of host (0), pinned (1) and CUDA memory (2)", tensor.memory);
        return Err(Error::new(Status::Unsupported, text));
    }
    if tensor.memory == BLAZE_MEMORY_CUDA && !PLUGINS.built {
        return Err(Error::new(Status::Unsupported, format!("memory: {}", PLUGINS.missing())));
    }
    if tensor.memory == BLAZE_MEMORY_CUDA && tensor.dtype == BLAZE_DTYPE_STRING {
        return Err(Error::new(Status::Unsupported, "memory: strings are in host memory only"));
    }
    if tensor.reserved != 0 {
        return Err(Error::new(Status::InvalidArgument, "reserved: must be 0"));
    }
    DType::from_code(tensor.dtype)
        .ok_or_else(|| Error::new(Status::InvalidDtype, format!("dtype: {} is none", tensor.dtype)))
}
