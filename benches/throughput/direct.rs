//! What Blaze is compared with: ONNX Runtime's own C API, called in the plainest way that is fast.
//!
//! `ort` has one ONNX Runtime library per process, and Blaze has loaded it: the numbers differ by what is around `Run`.
#![allow(unsafe_code)]

use crate::abi::fail;
use crate::models::Model;
use ort::sys;
use std::ffi::{CStr, CString};
use std::ptr::{null, null_mut};

/// A session with the options that Blaze's own sessions have.
pub struct Direct {
    model: &'static Model,
    environment: *mut sys::OrtEnv,
    session: *mut sys::OrtSession,
}

// SAFETY: `Run` may be called from several threads on one session, and nothing else is done with it.
unsafe impl Sync for Direct {}

impl Direct {
    /// Needs ONNX Runtime to be loaded: make an engine and load a model before.
    pub fn new(model: &'static Model) -> Direct {
        let api = ort::api();
        let path =
            CString::new(model.path().into_os_string().into_encoded_bytes()).expect("no NUL in a path");
        let (mut environment, mut options, mut session) = (null_mut(), null_mut(), null_mut());
        // SAFETY: strings are NUL-terminated, outputs writable. ONNX Runtime has one environment, which is counted.
        unsafe {
            let level = sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING;
            check((api.CreateEnv)(level, c"direct".as_ptr(), &mut environment));
            check((api.CreateSessionOptions)(&mut options));
            check((api.SetIntraOpNumThreads)(options, 1));
            check((api.SetInterOpNumThreads)(options, 1));
            for spinning in [c"session.intra_op.allow_spinning", c"session.inter_op.allow_spinning"] {
                check((api.AddSessionConfigEntry)(options, spinning.as_ptr(), c"0".as_ptr()));
            }
            check((api.CreateSession)(environment, path.as_ptr(), options, &mut session));
            (api.ReleaseSessionOptions)(options);
        }
        Direct { model, environment, session }
    }

    /// Input and output values of so many rows, to be used for every run.
    pub fn values(&self, rows: usize) -> Values<'_> {
        let mut input = self.model.rows(rows).into_boxed_slice();
        let mut output = vec![0.0; rows * self.model.outputs].into_boxed_slice();
        let (x, y) = (tensor(&mut input, self.model.inputs), tensor(&mut output, self.model.outputs));
        Values { direct: self, x, y, _input: input, _output: output }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // SAFETY: values borrow the session, so none is left.
        unsafe {
            (ort::api().ReleaseSession)(self.session);
            (ort::api().ReleaseEnv)(self.environment);
        }
    }
}

/// Values that are made once, and what they are views of.
pub struct Values<'d> {
    direct: &'d Direct,
    x: *mut sys::OrtValue,
    y: *mut sys::OrtValue,
    _input: Box<[f32]>,
    _output: Box<[f32]>,
}

// SAFETY: the values belong to this struct alone; nothing in them is tied to a thread.
unsafe impl Send for Values<'_> {}

impl Values<'_> {
    /// Runs the model once.
    #[inline]
    pub fn run(&mut self) {
        let (names_in, names_out) = ([c"x".as_ptr()], [c"y".as_ptr()]);
        let (inputs, mut outputs) = ([self.x.cast_const()], [self.y]);
        // SAFETY: the arrays have the length given; session and values live.
        unsafe {
            check((ort::api().Run)(
                self.direct.session,
                null(),
                names_in.as_ptr(),
                inputs.as_ptr(),
                1,
                names_out.as_ptr(),
                1,
                outputs.as_mut_ptr(),
            ));
        }
    }
}

impl Drop for Values<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `tensor`, and used no more.
        unsafe {
            (ort::api().ReleaseValue)(self.x);
            (ort::api().ReleaseValue)(self.y);
        }
    }
}

/// A value over memory that must outlive it, in rows of `width`.
fn tensor(elements: &mut [f32], width: usize) -> *mut sys::OrtValue {
    let api = ort::api();
    let (mut memory, mut value) = (null_mut(), null_mut());
    let shape = [(elements.len() / width) as i64, width as i64];
    // SAFETY: the shape takes exactly the memory given.
    unsafe {
        let (allocator, kind) =
            (sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeDefault);
        check((api.CreateCpuMemoryInfo)(allocator, kind, &mut memory));
        check((api.CreateTensorWithDataAsOrtValue)(
            memory,
            elements.as_mut_ptr().cast(),
            size_of_val(elements),
            shape.as_ptr(),
            shape.len(),
            sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
            &mut value,
        ));
        (api.ReleaseMemoryInfo)(memory);
    }
    value
}

#[inline]
fn check(status: sys::OrtStatusPtr) {
    if !status.0.is_null() {
        // SAFETY: a status that is not NULL has a message, NUL-terminated.
        let message = unsafe { CStr::from_ptr((ort::api().GetErrorMessage)(status.0)) };
        fail(&format!("ONNX Runtime: {}", message.to_string_lossy()));
    }
}
