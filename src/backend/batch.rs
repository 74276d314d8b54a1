//! Memory for batches, used again and again, and what a backend makes ready for it once.
#![allow(unsafe_code)]

use super::{Interrupt, Model, Stopper};
use crate::error::Result;
use crate::memory::{Place, Pool, block_size};
use crate::tensor::{Buffer, DType, Data, Region, Shape, Tensor};
use std::path::Path;
use std::sync::Arc;

/// One input or output of a batch.
#[derive(Clone)]
pub struct Part {
    /// Its place in the model's signature.
    pub index: usize,
    pub dtype: DType,
    /// The shape of one row, whose first axis is 1; of the whole tensor, if the batch is of one request.
    pub shape: Shape,
    /// Bytes of one row; of the whole tensor, if the batch is of one request.
    pub row_bytes: usize,
}

/// What the batches of a model have in common whose requests have the same shapes.
#[derive(Clone)]
pub struct Layout {
    /// Inputs that are given, in the signature's order.
    pub inputs: Vec<Part>,
    /// Every output, if their shapes follow from those of the inputs.
    pub outputs: Option<Vec<Part>>,
    pub max_rows: usize,
    /// Whether rows of several requests are joined along the first axis. If not, the one row is the whole request.
    pub joined: bool,
}

impl Layout {
    /// Bytes of blocks for one batch.
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes_of(self.max_rows)
    }

    /// Bytes of blocks for one batch of so many rows.
    pub fn block_bytes_of(&self, max_rows: usize) -> u64 {
        let parts = || self.inputs.iter().chain(self.outputs.iter().flatten());
        parts().map(|part| block_size(part.row_bytes.saturating_mul(max_rows)) as u64).sum()
    }

    /// The shape of `rows` rows of a part.
    pub fn shape(&self, part: &Part, rows: usize) -> Shape {
        let mut shape = part.shape.clone();
        if self.joined
            && let Some(first) = shape.first_mut()
        {
            *first = rows as i64;
        }
        shape
    }
}

/// The inputs and outputs of one batch. Requests write rows of the inputs, each its own, then a lane has all of it, and
/// then the outputs are read, until the batch is used again.
pub struct Memory {
    pub inputs: Vec<Region>,
    /// Empty, if the layout does not know the outputs.
    pub outputs: Vec<Region>,
    /// Where all of it is.
    pub place: Place,
}

impl Memory {
    /// Takes memory from a pool. Its contents are whatever was there.
    pub fn new(layout: &Layout, pool: &Arc<Pool>) -> Result<Arc<Self>> {
        let regions = |parts: &[Part]| -> Result<Vec<Region>> {
            let region = |part: &Part| Region::new(pool, part.row_bytes.saturating_mul(layout.max_rows));
            parts.iter().map(region).collect()
        };
        Ok(Arc::new(Memory {
            inputs: regions(&layout.inputs)?,
            outputs: regions(layout.outputs.as_deref().unwrap_or_default())?,
            place: pool.place(),
        }))
    }
}

/// The rows of a batch that are run, and all of their memory, for the time of the run.
pub struct View<'a> {
    memory: &'a Memory,
    layout: &'a Layout,
    first: usize,
    rows: usize,
}

impl<'a> View<'a> {
    /// `rows` rows from `first` on.
    ///
    /// # Safety
    /// They are within the memory, which nobody else touches while the view lives.
    pub unsafe fn new(memory: &'a Memory, layout: &'a Layout, first: usize, rows: usize) -> Self {
        debug_assert!(first + rows <= layout.max_rows);
        View { memory, layout, first, rows }
    }

    pub fn first(&self) -> usize {
        self.first
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn layout(&self) -> &Layout {
        self.layout
    }

    /// The bytes of an input's rows.
    pub fn input(&self, index: usize) -> &[u8] {
        let row = self.layout.inputs[index].row_bytes;
        // SAFETY: promised by whoever called `new`.
        unsafe { self.memory.inputs[index].bytes(self.first * row, self.rows * row) }
    }

    /// Makes all rows of the inputs zeros.
    pub fn zero_inputs(&mut self) {
        for (part, region) in self.layout.inputs.iter().zip(&self.memory.inputs) {
            let row = part.row_bytes;
            // SAFETY: promised by whoever called `new`; `self` is borrowed meanwhile.
            unsafe { region.bytes_mut(self.first * row, self.rows * row) }.fill(0);
        }
    }

    /// The bytes of an input's rows, and of an output's, to write.
    pub fn input_and_output(&mut self, input: usize, output: usize) -> Option<(&[u8], &mut [u8])> {
        let row = self.layout.outputs.as_ref()?.get(output)?.row_bytes;
        let region = self.memory.outputs.get(output)?;
        // SAFETY: promised by whoever called `new`; inputs and outputs are different regions, and `self` is borrowed
        // for as long as the slice lives.
        let bytes = unsafe { region.bytes_mut(self.first * row, self.rows * row) };
        Some((self.input(input), bytes))
    }
}

/// What a backend has made ready for the batches in one memory.
pub trait Prepared: Send {
    /// Runs rows. Returns the outputs, if it did not write them to the view's memory.
    fn run(&mut self, view: &mut View<'_>, interrupt: &Interrupt) -> Result<Option<Vec<Tensor>>>;

    /// Has the backend write its own profile of the next run to files that begin so; false: it writes none.
    fn profile(&mut self, prefix: &Path) -> bool {
        let _ = prefix;
        false
    }

    /// How to stop a run from another thread; called after the interrupt is raised.
    fn stopper(&self) -> Option<Stopper> {
        None
    }
}

/// For backends that make nothing ready: runs are given copies of the rows as tensors.
pub struct Copying(pub Arc<dyn Model>, pub Arc<Pool>);

impl Prepared for Copying {
    fn run(&mut self, view: &mut View<'_>, interrupt: &Interrupt) -> Result<Option<Vec<Tensor>>> {
        let mut inputs: Vec<Option<Tensor>> = self.0.signature().inputs.iter().map(|_| None).collect();
        for (at, part) in view.layout.inputs.iter().enumerate() {
            let data = Data::Owned(Buffer::copy_of(&self.1, view.input(at))?);
            let shape = view.layout.shape(part, view.rows);
            inputs[part.index] = Some(Tensor { dtype: part.dtype, shape, data });
        }
        self.0.run(&inputs, interrupt).map(Some)
    }
}
