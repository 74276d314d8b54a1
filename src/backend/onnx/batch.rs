//! Runs in a batch's own memory: ONNX Runtime's values over it are made once for each number of rows.
#![allow(unsafe_code)]

use super::library;
use super::memory;
use super::session::{Shared, start_profiling};
use super::value::{Value, check, failed};
use crate::backend::{Interrupt, Layout, Memory, Part, Prepared, Stopper, View};
use crate::error::{Error, Result, Status};
use crate::tensor::{Region, Tensor};
use ort::AsPointer;
use ort::session::RunOptions;
use ort::sys;
use std::ffi::c_char;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// So many sets of values are kept for one batch, …
const MOST_SETS: usize = 256;
/// … and so many made before they are needed.
const EAGER_SETS: usize = 64;

pub struct OnnxBatch {
    shared: Arc<Shared>,
    memory: Arc<Memory>,
    layout: Arc<Layout>,
    options: Arc<Stop>,
    input_names: Vec<*const c_char>,
    output_names: Vec<*const c_char>,
    /// Values for the first rows, by their number.
    sets: Vec<Option<Set>>,
    sets_made: usize,
    /// What the run returns where the outputs are not known before.
    returned: Vec<*mut sys::OrtValue>,
    /// ONNX Runtime profiles the next run.
    profiled: bool,
}

// SAFETY: the names are the signature's, which `shared` keeps; values and options have no thread affinity.
unsafe impl Send for OnnxBatch {}

/// Run options that another thread uses to stop the run.
struct Stop {
    options: RunOptions,
    used: AtomicBool,
}

// SAFETY: ONNX Runtime's run options may be terminated from any thread: it sets a flag.
unsafe impl Sync for Stop {}
// SAFETY: nothing in them is tied to a thread.
unsafe impl Send for Stop {}

/// Values over a range of rows.
struct Set {
    inputs: Vec<*const sys::OrtValue>,
    outputs: Vec<*mut sys::OrtValue>,
    _values: Vec<Value>,
}

impl OnnxBatch {
    pub fn new(shared: Arc<Shared>, memory: Arc<Memory>, layout: Arc<Layout>) -> Result<Self> {
        let options = RunOptions::new().map_err(|error| failed(&error))?;
        let input = |part: &Part| shared.signature.inputs[part.index].c_name.as_ptr();
        let outputs = &shared.signature.outputs;
        let mut batch = OnnxBatch {
            input_names: layout.inputs.iter().map(input).collect(),
            output_names: outputs.iter().map(|spec| spec.c_name.as_ptr()).collect(),
            returned: vec![ptr::null_mut(); outputs.len()],
            options: Arc::new(Stop { options, used: AtomicBool::new(false) }),
            sets: Vec::new(),
            sets_made: 0,
            profiled: false,
            shared,
            memory,
            layout,
        };
        // So that a steady stream of requests makes nothing any more.
        let eager = batch.layout.max_rows.min(EAGER_SETS);
        batch.sets.push(None);
        for rows in 1..=eager {
            let set = batch.make_set(0, rows)?;
            batch.sets.push(Some(set));
        }
        batch.sets_made = eager;
        Ok(batch)
    }

    fn make_set(&self, first: usize, rows: usize) -> Result<Set> {
        let value = |part: &Part, region: &Region| -> Result<Value> {
            let (offset, size) = (first * part.row_bytes, rows * part.row_bytes);
            debug_assert!(offset + size <= region.size());
            let data = region.address().wrapping_add(offset);
            // SAFETY: the range is within the region, which `self.memory` keeps alive for as long as the set.
            unsafe {
                Value::over(&self.shared.memory, part.dtype, &self.layout.shape(part, rows), data, size)
            }
        };
        let mut values = Vec::new();
        for (part, region) in self.layout.inputs.iter().zip(&self.memory.inputs) {
            values.push(value(part, region)?);
        }
        for (part, region) in self.layout.outputs.iter().flatten().zip(&self.memory.outputs) {
            values.push(value(part, region)?);
        }
        let pointers: Vec<*mut sys::OrtValue> = values.iter().map(Value::pointer).collect();
        let (inputs, outputs) = pointers.split_at(self.layout.inputs.len());
        Ok(Set {
            inputs: inputs.iter().map(|pointer| pointer.cast_const()).collect(),
            outputs: outputs.to_vec(),
            _values: values,
        })
    }

    /// Calls `Run`. With `outputs` empty, ONNX Runtime makes them, and they are in `self.returned`.
    fn call(
        &mut self,
        inputs: &[*const sys::OrtValue],
        outputs: &mut [*mut sys::OrtValue],
    ) -> Result<(), ort::Error> {
        let outputs = if outputs.is_empty() { self.returned.as_mut_slice() } else { outputs };
        let _entered = self.shared.account.enter();
        // SAFETY: every array has the length given and outlives the call; the values are over memory that nobody else
        // touches during the run. `Run` may be called from several threads.
        check(unsafe {
            (ort::api().Run)(
                self.shared.session.ptr().cast_mut(),
                self.options.options.ptr(),
                self.input_names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                self.output_names.as_ptr(),
                self.output_names.len(),
                outputs.as_mut_ptr(),
            )
        })
    }

    fn run_rows(&mut self, view: &mut View<'_>, interrupt: &Interrupt) -> Result<Option<Vec<Tensor>>> {
        if self.options.used.swap(false, Ordering::SeqCst) {
            // SAFETY: the options live. What raised the interrupt before this run is seen below, and what raises it
            // from now on terminates the run.
            check(unsafe { (ort::api().RunOptionsUnsetTerminate)(self.options.options.ptr().cast_mut()) })
                .map_err(|error| failed(&error))?;
        }
        if interrupt.is_raised() {
            return Err(Error::new(Status::Cancelled, "the run was interrupted"));
        }
        let rows = view.rows();
        if view.first() > 0 {
            return self.run_set(&mut self.make_set(view.first(), rows)?, interrupt);
        }
        if self.sets.len() <= rows {
            self.sets.resize_with(rows + 1, || None);
        }
        let mut set = match self.sets[rows].take() {
            Some(set) => set,
            None => {
                if self.sets_made == MOST_SETS {
                    self.sets.fill_with(|| None);
                    self.sets_made = 0;
                }
                self.sets_made += 1;
                self.make_set(0, rows)?
            }
        };
        let result = self.run_set(&mut set, interrupt);
        self.sets[rows] = Some(set);
        result
    }

    fn run_set(&mut self, set: &mut Set, interrupt: &Interrupt) -> Result<Option<Vec<Tensor>>> {
        let known = self.layout.outputs.is_some() && !self.shared.outputs_vary.load(Ordering::Relaxed);
        if known {
            match self.call(&set.inputs, &mut set.outputs) {
                Ok(()) => return Ok(None),
                // Declared shapes may lie: then ONNX Runtime refuses the memory it is given.
                Err(error) if !interrupt.is_raised() && error.message().to_lowercase().contains("shape") => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        self.returned.fill(ptr::null_mut());
        self.call(&set.inputs, &mut []).map_err(|error| failed(&error))?;
        if known {
            self.shared.outputs_vary.store(true, Ordering::Relaxed);
        }
        let session = self.shared.session.inner();
        let is_lent = |data| self.memory.inputs.iter().any(|region| region.contains(data));
        let pool = self.shared.account.pool();
        // Every pointer is taken over, also after an error, so that none leaks.
        let tensors: Vec<Result<Tensor>> = self
            .returned
            .iter()
            .map(|&pointer| Value::into_tensor(pointer, &session, pool, is_lent))
            .collect();
        tensors.into_iter().collect::<Result<_>>().map(Some)
    }
}

impl Prepared for OnnxBatch {
    fn run(&mut self, view: &mut View<'_>, interrupt: &Interrupt) -> Result<Option<Vec<Tensor>>> {
        let result = memory::within_means(|| self.run_rows(view, interrupt));
        if std::mem::take(&mut self.profiled)
            && let Some(profiling) = library::profiling()
        {
            // SAFETY: the options live, and no run uses them now. It cannot fail.
            let _ = check(unsafe { (profiling.disable)(self.options.options.ptr().cast_mut()) });
        }
        result
    }

    fn profile(&mut self, prefix: &Path) -> bool {
        self.profiled = start_profiling(&self.options.options, prefix).is_ok();
        self.profiled
    }

    fn stopper(&self) -> Option<Stopper> {
        let stop = Arc::clone(&self.options);
        Some(Box::new(move || {
            stop.used.store(true, Ordering::SeqCst);
            // Sets a flag that ONNX Runtime looks at between operators.
            let _ = stop.options.terminate();
        }))
    }
}
