//! What a run leaves for one of its requests: its rows of every output, as views of the batch.

use super::event::OutputRef;
use crate::error::{Error, Result, Status};
use crate::tensor::{CallerBuffer, Data, Shape, Signature, StringSlice, Tensor, element_count};
use std::sync::Arc;

/// A run's outputs, and which of their rows are the request's.
pub struct Outcome {
    pub signature: Arc<Signature>,
    /// All outputs of the run, shared by its requests.
    pub batch: Arc<Vec<Tensor>>,
    /// The request's rows: (first row, rows, rows of the run); `None`: the run was for this request alone.
    pub rows: Option<(usize, usize, usize)>,
}

/// A request's outputs, where the host can look at them.
pub struct Outputs {
    signature: Arc<Signature>,
    batch: Arc<Vec<Tensor>>,
    views: Vec<View>,
}

struct View {
    shape: Shape,
    offset: usize,
    size: usize,
    caller: Option<CallerBuffer>,
}

impl Outputs {
    /// Keeps the request's part of every output, and copies what goes to the host's own memory.
    pub fn new(outcome: Outcome, callers: &mut [Option<CallerBuffer>]) -> Result<Self> {
        let mut views = Vec::with_capacity(outcome.batch.len());
        for (index, tensor) in outcome.batch.iter().enumerate() {
            let mut view = view_of(tensor, outcome.rows);
            if let Some(mut caller) = callers.get_mut(index).and_then(Option::take) {
                if !caller.write(&tensor.bytes()[view.offset..view.offset + view.size]) {
                    return Err(Error::new(
                        Status::BufferTooSmall,
                        format!(
                            "output {:?} has {} bytes, the buffer given for it {}",
                            outcome.signature.outputs[index].name,
                            view.size,
                            caller.capacity()
                        ),
                    ));
                }
                view.caller = Some(caller);
            }
            views.push(view);
        }
        Ok(Outputs { signature: outcome.signature, batch: outcome.batch, views })
    }

    pub fn count(&self) -> usize {
        self.views.len()
    }

    /// Where output `index` is. The addresses stay valid for as long as `self`.
    pub fn get(&self, index: usize) -> Option<OutputRef> {
        let (view, spec) = (self.views.get(index)?, self.signature.outputs.get(index)?);
        let tensor = self.batch.get(index)?;
        let data = match (&view.caller, &tensor.data) {
            (Some(caller), _) => caller.address().cast_const(),
            (None, Data::Strings(strings)) => strings.slices().as_ptr().cast(),
            (None, _) => tensor.bytes()[view.offset..].as_ptr(),
        };
        Some(OutputRef {
            name: spec.c_name.as_ptr(),
            dtype: spec.dtype,
            shape: view.shape.as_ptr(),
            rank: view.shape.len(),
            data,
            size_bytes: view.size,
        })
    }
}

fn view_of(tensor: &Tensor, rows: Option<(usize, usize, usize)>) -> View {
    let mut shape = tensor.shape.clone();
    let total = match &tensor.data {
        Data::Strings(_) => element_count(&shape).unwrap_or(0) * size_of::<StringSlice>(),
        _ => tensor.bytes().len(),
    };
    let (mut offset, mut size) = (0, total);
    if let Some((first, count, of)) = rows {
        let row = total / of.max(1);
        (offset, size) = (first * row, count * row);
        shape[0] = count as i64;
    }
    View { shape, offset, size, caller: None }
}
