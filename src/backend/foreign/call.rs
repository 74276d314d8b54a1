//! What backends may ask while they work: the functions behind `blaze_host`.

use super::space::{Taker, Usage};
use super::stepwise::{Told, emit, finish};
use super::{BLAZE_BACKEND_ABI, Context, blaze_host, blaze_status, size_of_struct};
use crate::abi::backend::blaze_call;
use crate::abi::tensor::{BLAZE_MEMORY_CUDA, BLAZE_MEMORY_HOST, blaze_memory};
use crate::backend::Interrupt;
use crate::error::{Error, Result, Status};
use crate::log::Level;
use crate::panics::catch;
use crate::tensor::{
    Buffer, Data, DeviceBytes, DeviceRange, MAX_RANK, OutputPlace, Shape, Tensor, TensorSpec, size_bytes,
};
use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::Arc;

/// One load, preparation or run, or a stepwise request. C has a pointer to it.
pub struct Call<'a> {
    pub context: &'a Context,
    interrupt: &'a Interrupt,
    /// The outputs that may be made.
    specs: &'a [TensorSpec],
    /// Where they are to be; in host memory, if it does not say.
    places: &'a [OutputPlace],
    outputs: Vec<Option<Tensor>>,
    /// The host's memory is too small for an output.
    too_small: Option<Error>,
    /// The model that it is about, and what that has taken.
    taker: Option<Taker<'a>>,
    /// Only of a stepwise request.
    pub told: Option<Told>,
}

impl<'a> Call<'a> {
    pub fn new(context: &'a Context, interrupt: &'a Interrupt, specs: &'a [TensorSpec]) -> Self {
        Call {
            context,
            interrupt,
            specs,
            places: &[],
            outputs: Vec::new(),
            too_small: None,
            taker: None,
            told: None,
        }
    }

    /// What is taken in it counts for this model.
    pub fn of(mut self, name: &'a str, usage: &'a Arc<Usage>) -> Self {
        self.taker = Some(Taker { usage, name, interrupt: self.interrupt, is_load: false });
        self
    }

    /// It loads the model.
    pub fn loading(mut self) -> Self {
        if let Some(taker) = &mut self.taker {
            taker.is_load = true;
        }
        self
    }

    /// Its outputs are to be in these places.
    pub fn to(mut self, places: &'a [OutputPlace]) -> Self {
        self.places = places;
        self
    }

    pub fn as_c(&mut self) -> *mut blaze_call {
        ptr::from_mut(self).cast()
    }

    /// Every output of a run that ended so. Of what the host is to blame for, the backend says less.
    pub fn outputs_of(&mut self, ran: Result<()>) -> Result<Vec<Tensor>> {
        match self.too_small.take() {
            Some(error) => Err(error),
            None => ran.and_then(|()| self.take_outputs()),
        }
    }

    /// Every output, each of which the backend must have made.
    pub fn into_outputs(mut self) -> Result<Vec<Tensor>> {
        self.take_outputs()
    }

    pub fn take_outputs(&mut self) -> Result<Vec<Tensor>> {
        self.outputs.resize_with(self.specs.len(), || None);
        let made = std::mem::take(&mut self.outputs).into_iter().zip(self.specs).map(|(tensor, spec)| {
            tensor.ok_or_else(|| {
                let text = format!("backend {:?} has not made output {:?}", self.context.name, spec.name);
                Error::new(Status::BackendFailed, text)
            })
        });
        made.collect()
    }

    fn make_output(
        &mut self,
        index: u32,
        shape: &[i64],
        memory: blaze_memory,
        device: i32,
    ) -> Result<*mut c_void> {
        let at = index as usize;
        if self.told.as_ref().is_some_and(Told::has_ended) {
            return Err(Error::new(Status::InvalidState, "the request is finished"));
        }
        let Some(spec) = self.specs.get(at) else {
            let text = format!("there is no output {index}: there are {}", self.specs.len());
            return Err(Error::new(Status::InvalidArgument, text));
        };
        let size = size_bytes(spec.dtype, shape)?;
        let place = self.places.get(at).copied().unwrap_or(OutputPlace::Host);
        let asked = match memory {
            BLAZE_MEMORY_HOST => None,
            BLAZE_MEMORY_CUDA => Some(device),
            _ => Some(-1),
        };
        let elsewhere = |text: String| Err(Error::new(Status::InvalidArgument, text));
        let (data, address) = match place {
            OutputPlace::Host if asked.is_some() => {
                return elsewhere("this output is to be in host memory".into());
            }
            OutputPlace::Device(on) | OutputPlace::Buffer(DeviceRange { device: on, .. })
                if asked != Some(on) =>
            {
                return elsewhere(format!("this output is to be in the memory of device {on}"));
            }
            OutputPlace::Host => {
                let mut buffer = Buffer::zeroed(&self.context.pool, size)?;
                let address = buffer.bytes_mut().as_mut_ptr().cast();
                (Data::Owned(buffer), address)
            }
            OutputPlace::Device(on) => {
                let taker = self
                    .taker
                    .as_ref()
                    .ok_or_else(|| Error::new(Status::InvalidState, "this call is about no model"))?;
                let block = self.context.places.take_output(taker, on, size)?;
                let address = block.address().cast();
                (Data::Device(DeviceBytes::of_block(block, on, size)), address)
            }
            OutputPlace::Buffer(range) => {
                if size > range.size {
                    let (name, room) = (&spec.name, range.size);
                    let text = format!("output {name:?} has {size} bytes, the buffer given for it {room}");
                    let error = Error::new(Status::BufferTooSmall, text);
                    self.too_small = Some(error.clone());
                    return Err(error);
                }
                let memory = DeviceBytes::lent(DeviceRange { size, ..range });
                (Data::Device(memory), ptr::without_provenance_mut(range.address))
            }
        };
        self.outputs.resize_with(self.specs.len(), || None);
        self.outputs[at] = Some(Tensor { dtype: spec.dtype, shape: Shape::from_slice(shape), data });
        Ok(address)
    }
}

/// The table that a backend is told.
pub fn host_table(context: *mut c_void) -> blaze_host {
    blaze_host {
        struct_size: size_of_struct::<blaze_host>(),
        abi: BLAZE_BACKEND_ABI,
        context,
        is_cancelled: Some(is_cancelled),
        output: Some(output),
        take: Some(take),
        give: Some(give),
        emit: Some(emit),
        finish: Some(finish),
        log: Some(log),
    }
}

unsafe extern "C" fn is_cancelled(call: *const blaze_call) -> u32 {
    // SAFETY: a call that is under way, or NULL.
    let call = unsafe { call.cast::<Call<'_>>().as_ref() };
    let is_wanted = |call: &Call<'_>| {
        !call.interrupt.is_raised() && call.told.as_ref().is_none_or(|told| told.sink.is_wanted())
    };
    let wanted = catch(|| Ok(call.is_some_and(is_wanted)));
    u32::from(!wanted.unwrap_or(false))
}

unsafe extern "C" fn output(
    call: *mut blaze_call,
    index: u32,
    shape: *const i64,
    rank: u32,
    memory: blaze_memory,
    device: i32,
    data: *mut *mut c_void,
) -> blaze_status {
    let made = catch(|| {
        // SAFETY: a call that is under way, or NULL; `data` is NULL or writable.
        let (Some(call), Some(data)) =
            (unsafe { call.cast::<Call<'_>>().as_mut() }, unsafe { data.as_mut() })
        else {
            return Err(Error::new(Status::NullPointer, "call or data is NULL"));
        };
        if rank as usize > MAX_RANK || shape.is_null() && rank > 0 {
            return Err(Error::new(Status::InvalidShape, format!("a shape of rank {rank}")));
        }
        let shape = match rank {
            0 => &[],
            // SAFETY: promised by the backend.
            _ => unsafe { std::slice::from_raw_parts(shape, rank as usize) },
        };
        *data = call.make_output(index, shape, memory, device)?;
        Ok(())
    });
    made.map_or_else(|error| error.status.code(), |()| 0)
}

unsafe extern "C" fn take(
    call: *mut blaze_call,
    memory: blaze_memory,
    device: i32,
    size_bytes: usize,
    purpose: u32,
) -> *mut c_void {
    let taken = catch(|| {
        // SAFETY: a call that is under way, or NULL.
        let Some(call) = (unsafe { call.cast::<Call<'_>>().as_ref() }) else { return Ok(ptr::null_mut()) };
        let context = call.context;
        let taken = match &call.taker {
            Some(taker) => context.places.take(taker, memory, device, size_bytes, purpose),
            None => Err(Error::new(Status::InvalidState, "no model is loaded, prepared or run in this call")),
        };
        Ok(taken.unwrap_or_else(|error| {
            let name = &context.name;
            context.logger.warn("backend", format_args!("{name}: {size_bytes} bytes are not taken: {error}"));
            ptr::null_mut()
        }))
    });
    taken.unwrap_or(ptr::null_mut())
}

unsafe extern "C" fn give(host: *const blaze_host, address: *mut c_void) {
    let _ = catch(|| {
        // SAFETY: the table that the backend was given, or NULL.
        let context = unsafe { host.as_ref().and_then(|host| host.context.cast::<Context>().as_ref()) };
        if let Some(context) = context.filter(|_| !address.is_null())
            && !context.places.give(address)
        {
            let name = &context.name;
            context
                .logger
                .warn("backend", format_args!("{name}: {address:p} is given back, but is not taken"));
        }
        Ok(())
    });
}

unsafe extern "C" fn log(host: *const blaze_host, level: u32, message: *const c_char) {
    let _ = catch(|| {
        // SAFETY: the table that the backend was given, or NULL; the message is a string, or NULL.
        let Some(context) =
            (unsafe { host.as_ref().and_then(|host| host.context.cast::<Context>().as_ref()) })
        else {
            return Ok(());
        };
        if !message.is_null() {
            // SAFETY: as above.
            let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
            let level = match level {
                1 => Level::Error,
                2 => Level::Warn,
                4 => Level::Debug,
                5 => Level::Trace,
                _ => Level::Info,
            };
            context.logger.log(level, "backend", format_args!("{}: {text}", context.name));
        }
        Ok(())
    });
}
