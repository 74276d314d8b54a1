//! Runs of batches: the tensors are made once for the memory, and each run changes no more than where its rows are.

use super::model::{ForeignModel, bare_tensor, rows_of, run_of};
use super::size_of_struct;
use crate::abi::backend::blaze_backend_batch;
use crate::abi::tensor::{BLAZE_MEMORY_PINNED, blaze_tensor};
use crate::backend::{Interrupt, Layout, Memory, Part, Prepared, View};
use crate::error::Result;
use crate::memory::Place;
use crate::tensor::{Region, Shape, Tensor, TensorSpec};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

pub struct ForeignBatch {
    model: Arc<ForeignModel>,
    /// What the backend has made ready; null, if it makes nothing ready.
    prepared: *mut c_void,
    inputs: Side,
    outputs: Side,
    memory: Arc<Memory>,
    layout: Arc<Layout>,
}

// SAFETY: one thread at a time runs it; the pointers are into `memory` and into the boxes here, which move with it.
unsafe impl Send for ForeignBatch {}

/// All inputs, or all outputs.
struct Side {
    tensors: Box<[blaze_tensor]>,
    /// Where the tensors' shapes point to.
    shapes: Box<[Shape]>,
    /// For each tensor its part of the layout.
    parts: Box<[Option<usize>]>,
}

impl Side {
    fn new(tensors: impl Iterator<Item = blaze_tensor>, parts: &[Part]) -> Self {
        let tensors: Box<[blaze_tensor]> = tensors.collect();
        let find = |index| parts.iter().position(|part| part.index == index);
        Side {
            parts: (0..tensors.len()).map(find).collect(),
            shapes: tensors.iter().map(|_| Shape::new()).collect(),
            tensors,
        }
    }

    /// Points the tensors to `rows` rows from `first` on.
    fn aim(&mut self, parts: &[Part], regions: &[Region], layout: &Layout, first: usize, rows: usize) {
        for ((tensor, shape), part) in self.tensors.iter_mut().zip(&mut self.shapes).zip(&self.parts) {
            let Some((part, region)) = part.and_then(|at| parts.get(at).zip(regions.get(at))) else {
                continue;
            };
            if shape.len() != part.shape.len() {
                *shape = part.shape.clone();
            }
            if let Some(size) = shape.first_mut().filter(|_| layout.joined) {
                *size = rows as i64;
            }
            (tensor.shape, tensor.rank) = (shape.as_ptr(), shape.len() as u32);
            tensor.data = region.address().wrapping_add(first * part.row_bytes).cast();
            tensor.size_bytes = rows * part.row_bytes;
        }
    }
}

impl ForeignBatch {
    pub fn new(model: Arc<ForeignModel>, memory: Arc<Memory>, layout: Arc<Layout>) -> Result<Self> {
        let signature = Arc::clone(crate::backend::Model::signature(&*model));
        let known = layout.outputs.as_deref().unwrap_or_default();
        let tensor = |spec: &TensorSpec| {
            let mut tensor = bare_tensor(spec);
            if let Place::Pinned { device } = memory.place {
                (tensor.memory, tensor.device) = (BLAZE_MEMORY_PINNED, device.cast_signed());
            }
            tensor
        };
        let mut outputs = Side::new(signature.outputs.iter().map(tensor), known);
        if layout.outputs.is_none() {
            // Those are made in the host's memory when they are asked for.
            outputs.tensors = signature.outputs.iter().map(bare_tensor).collect();
        }
        let mut batch = ForeignBatch {
            inputs: Side::new(signature.inputs.iter().map(tensor), &layout.inputs),
            outputs,
            prepared: ptr::null_mut(),
            model,
            memory,
            layout,
        };
        batch.aim(0, batch.layout.max_rows);
        batch.prepare()?;
        Ok(batch)
    }

    fn aim(&mut self, first: usize, rows: usize) {
        let (memory, layout) = (&*self.memory, &*self.layout);
        self.inputs.aim(&layout.inputs, &memory.inputs, layout, first, rows);
        let known = layout.outputs.as_deref().unwrap_or_default();
        self.outputs.aim(known, &memory.outputs, layout, first, rows);
    }

    fn prepare(&mut self) -> Result<()> {
        let backend = &self.model.backend;
        let Some(function) = backend.functions.prepare else { return Ok(()) };
        let batch = blaze_backend_batch {
            struct_size: size_of_struct::<blaze_backend_batch>(),
            tensor_stride: size_of_struct::<blaze_tensor>(),
            joined: u32::from(self.layout.joined),
            max_rows: self.layout.max_rows as u32,
            inputs_count: self.inputs.tensors.len() as u32,
            outputs_count: self.layout.outputs.as_ref().map_or(0, |_| self.outputs.tensors.len() as u32),
            inputs: self.inputs.tensors.as_ptr(),
            outputs: self.outputs.tensors.as_ptr(),
        };
        let interrupt = Interrupt::new();
        let mut call = self.model.call(&interrupt);
        let mut prepared = ptr::null_mut();
        // SAFETY: the model is loaded, and all pointers live until the call returns.
        backend.ask("prepare", |error| unsafe {
            function(
                backend.user(),
                self.model.pointer,
                &raw const batch,
                call.as_c(),
                &raw mut prepared,
                error,
            )
        })?;
        self.prepared = prepared;
        Ok(())
    }
}

impl Prepared for ForeignBatch {
    fn run(&mut self, view: &mut View<'_>, interrupt: &Interrupt) -> Result<Option<Vec<Tensor>>> {
        self.aim(view.first(), view.rows());
        let model = Arc::clone(&self.model);
        let mut call = model.call(interrupt);
        let rows = match self.layout.joined {
            true => view.rows(),
            false => rows_of(crate::backend::Model::signature(&*model), &self.inputs.tensors),
        };
        let run = run_of(&self.inputs.tensors, &self.outputs.tensors, view.first(), rows);
        self.model.run_c(self.prepared, &run, &mut call)?;
        match self.layout.outputs {
            Some(_) => Ok(None),
            None => call.into_outputs().map(Some),
        }
    }
}

impl Drop for ForeignBatch {
    fn drop(&mut self) {
        let backend = &self.model.backend;
        if let (Some(release), false) = (backend.functions.release, self.prepared.is_null()) {
            // SAFETY: the backend has made it, and it is used no more; the model is still loaded.
            unsafe { release(backend.user(), self.model.pointer, self.prepared) };
        }
    }
}
