//! Requests that advance by steps: each has a call of its own, from `begin` to `end`, by which the backend says what comes of
//! it.

use super::blaze_status;
use super::call::Call;
use super::model::{ForeignModel, given_tensors, rows_of, run_of, wanted_tensors};
use crate::abi::backend::{blaze_backend_run, blaze_call};
use crate::abi::status::BLAZE_STATUS_OK;
use crate::abi::tensor::blaze_tensor;
use crate::backend::{Interrupt, Model, Sequence, Sink, Stepwise};
use crate::error::{Error, Result, Status};
use crate::panics::catch;
use crate::sync::{Mutex, lock};
use crate::tensor::{OutputPlace, Tensor};
use std::any::Any;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::Arc;

/// What a backend says of a request.
pub struct Told {
    pub sink: Arc<dyn Sink>,
    /// Kept by whoever tells it, too: the call may go at once.
    end: Arc<Mutex<End>>,
}

#[derive(Default)]
struct End {
    is_told: bool,
    /// The status and the message, until they are taken.
    how: Option<(blaze_status, String)>,
}

impl Told {
    pub fn has_ended(&self) -> bool {
        lock(&self.end).is_told
    }
}

/// A request that was begun.
struct ForeignSequence {
    /// The backend's; null: it has none, and `end` is not called.
    state: *mut c_void,
    /// From `Box::into_raw`. As all that follows, C has pointers to it until `end` returns.
    call: *mut Call<'static>,
    /// The call's.
    end: Arc<Mutex<End>>,
    asked: Box<Asked>,
    _inputs: Arc<Vec<Option<Tensor>>>,
    /// Never raised: what is not wanted any more, the sink says.
    _interrupt: Box<Interrupt>,
    model: Arc<ForeignModel>,
}

/// What `begin` is passed.
struct Asked {
    inputs: Vec<blaze_tensor>,
    outputs: Vec<blaze_tensor>,
    places: Box<[OutputPlace]>,
    run: Option<blaze_backend_run>,
}

// SAFETY: one thread at a time uses it, which may be any by the backend's promise; the pointers are into what it keeps.
unsafe impl Send for ForeignSequence {}

impl Stepwise for ForeignModel {
    fn begin(
        self: Arc<Self>,
        inputs: Arc<Vec<Option<Tensor>>>,
        places: &[OutputPlace],
        sink: Arc<dyn Sink>,
    ) -> Result<Box<dyn Sequence>> {
        self.check_places(&inputs, places)?;
        let signature = Arc::clone(Model::signature(&*self));
        let mut asked = Box::new(Asked {
            inputs: given_tensors(&signature, &inputs),
            outputs: wanted_tensors(&signature, places),
            places: places.into(),
            run: None,
        });
        asked.run = Some(run_of(&asked.inputs, &asked.outputs, 0, rows_of(&signature, &asked.inputs)));
        let interrupt = Box::new(Interrupt::new());
        // SAFETY: the model, the interrupt and what is asked for are in boxes or behind an `Arc` that the sequence keeps longer
        // than its call: see `Drop`.
        let (own, waits, places) = unsafe {
            (
                &*Arc::as_ptr(&self),
                &*ptr::from_ref(&*interrupt),
                &*ptr::from_ref::<[OutputPlace]>(&asked.places),
            )
        };
        let mut call = Box::new(own.call(waits).to(places));
        let end = Arc::default();
        call.told = Some(Told { sink, end: Arc::clone(&end) });
        let mut sequence = Box::new(ForeignSequence {
            state: ptr::null_mut(),
            call: Box::into_raw(call),
            end,
            asked,
            _inputs: inputs,
            _interrupt: interrupt,
            model: self,
        });
        sequence.begin()?;
        Ok(sequence)
    }

    fn step(&self, live: &mut [&mut dyn Sequence]) -> Result<()> {
        let own = |sequence: &mut &mut dyn Sequence| {
            let any: &mut dyn Any = *sequence;
            any.downcast_mut::<ForeignSequence>().map(|own| own.state)
        };
        let states: Vec<*mut c_void> = live.iter_mut().filter_map(own).collect();
        let (Some(step), true) = (self.backend.functions.step, states.len() == live.len()) else {
            return Err(Error::new(Status::Internal, "a step of something else"));
        };
        // SAFETY: the model is loaded, and all of these were begun and have not ended; nobody else steps it.
        self.backend.ask("step", |error| unsafe {
            step(self.backend.user(), self.pointer, states.as_ptr(), states.len() as u32, error)
        })
    }
}

impl ForeignSequence {
    fn begin(&mut self) -> Result<()> {
        let (model, backend) = (&self.model, &self.model.backend);
        let (Some(begin), Some(run)) = (backend.functions.begin, &self.asked.run) else {
            return Err(Error::new(Status::Internal, "no begin"));
        };
        let (call, mut state) = (self.call.cast(), ptr::null_mut());
        // SAFETY: the model is loaded; what is passed lives until `end` returns.
        backend.ask("begin", |error| unsafe {
            begin(backend.user(), model.pointer, run, call, &raw mut state, error)
        })?;
        if state.is_null() {
            let text = format!("backend {:?}: begin has made no state", backend.name);
            return Err(Error::new(Status::BackendFailed, text));
        }
        self.state = state;
        Ok(())
    }

    /// How the backend has ended it, once.
    fn take_how(&mut self) -> Option<Result<()>> {
        let (status, said) = lock(&self.end).how.take()?;
        Some(match status {
            BLAZE_STATUS_OK => Ok(()),
            _ => Err(self.model.backend.context.failure("the request", status, &said)),
        })
    }
}

impl Sequence for ForeignSequence {
    fn take_end(&mut self) -> Option<Result<Vec<Tensor>>> {
        let how = self.take_how()?;
        // SAFETY: it is there until this is dropped. The backend has no more to say of what it has finished.
        let call = unsafe { &mut *self.call };
        Some(call.outputs_of(how))
    }
}

impl Drop for ForeignSequence {
    fn drop(&mut self) {
        let backend = &self.model.backend;
        if let (Some(end), false) = (backend.functions.end, self.state.is_null()) {
            // SAFETY: begun, and not ended before; the model is still loaded.
            unsafe { end(backend.user(), self.model.pointer, self.state) };
        }
        // Nobody has asked; but a device that is lost is lost.
        let _ = self.take_how();
        // SAFETY: from `into_raw`, and freed once; the backend does not use it after `end`.
        drop(unsafe { Box::from_raw(self.call) });
    }
}

/// The call of a stepwise request.
///
/// # Safety
/// A call that is under way, or NULL.
unsafe fn told<'a>(call: *mut blaze_call) -> Result<(&'a Call<'a>, &'a Told)> {
    // SAFETY: promised by the caller.
    let call = unsafe { call.cast_const().cast::<Call<'a>>().as_ref() };
    let call = call.ok_or_else(|| Error::new(Status::NullPointer, "call is NULL"))?;
    let told = call.told.as_ref();
    let told = told.ok_or_else(|| Error::new(Status::InvalidState, "it is not a stepwise request's"))?;
    Ok((call, told))
}

pub unsafe extern "C" fn emit(
    call: *mut blaze_call,
    text: *const c_char,
    text_bytes: usize,
    progress: f32,
) -> blaze_status {
    let emitted = catch(|| {
        // SAFETY: promised by the backend.
        let (_, told) = unsafe { told(call) }?;
        if text.is_null() && text_bytes > 0 {
            return Err(Error::new(Status::NullPointer, "text is NULL"));
        }
        if text_bytes > isize::MAX as usize {
            return Err(Error::new(Status::InvalidSize, "text_bytes is no size"));
        }
        if told.has_ended() {
            return Err(Error::new(Status::InvalidState, "the request is finished"));
        }
        let text: &[u8] = match text_bytes {
            0 => &[],
            // SAFETY: promised by the backend.
            size => unsafe { std::slice::from_raw_parts(text.cast(), size) },
        };
        let known = (0.0..=1.0).contains(&progress);
        told.sink.emit(text, known.then_some(progress))
    });
    emitted.map_or_else(|error| error.status.code(), |()| BLAZE_STATUS_OK)
}

pub unsafe extern "C" fn finish(call: *mut blaze_call, status: blaze_status, message: *const c_char) {
    let _ = catch(|| {
        // SAFETY: promised by the backend.
        let (call, told) = unsafe { told(call) }?;
        let said = match message.is_null() || status == BLAZE_STATUS_OK {
            true => String::new(),
            // SAFETY: promised by the backend.
            false => unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned(),
        };
        let (context, sink, place) = (call.context, Arc::clone(&told.sink), Arc::clone(&told.end));
        let mut end = lock(&place);
        let again = std::mem::replace(&mut end.is_told, true);
        if !again {
            end.how = Some((status, said));
        }
        drop(end);
        match again {
            true => {
                let text = format_args!("{}: a request was finished twice", context.name);
                context.logger.warn("backend", text);
            }
            false => sink.ended(),
        }
        Ok(())
    });
}
