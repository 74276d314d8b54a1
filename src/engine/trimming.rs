//! Taking padding out of what a run has left for a member.
#![allow(unsafe_code)]

use super::execute::Lane;
use super::outcome;
use crate::error::Result;
use crate::tensor::{Data, Tensor, size_bytes};

impl Lane<'_> {
    /// Takes the padding out of a member's outputs.
    pub fn trim(&self, member: usize) -> Result<()> {
        // SAFETY: this is the lane, and the member is not published yet.
        let extras = unsafe { self.batch.extras_mut(member) };
        let Some(sizes) = extras.rare.as_mut().and_then(|rare| rare.sizes.take()) else { return Ok(()) };
        // So that outputs are looked up where the backend left them, not where the host wants them.
        let callers = std::mem::take(&mut extras.outputs);
        let trimmed = self.trim_to(member, &sizes);
        // SAFETY: as above.
        unsafe { self.batch.extras_mut(member) }.outputs = callers;
        trimmed
    }

    fn trim_to(&self, member: usize, sizes: &[(usize, usize, i64)]) -> Result<()> {
        // SAFETY: as above.
        let Some(rare) = &mut (unsafe { self.batch.extras_mut(member) }).rare else { return Ok(()) };
        let mut shapes = Vec::new();
        let mut own = Vec::new();
        for (index, spec) in self.model.signature().outputs.iter().enumerate() {
            let Some(output) = outcome::output(self.batch, member, index) else { return Ok(()) };
            // SAFETY: the shape has as many sizes as said.
            let padded = unsafe { std::slice::from_raw_parts(output.shape, output.rank) };
            let shape = self.model.queue.lines.trimmed(sizes, index, padded);
            let element = spec.dtype.whole_bytes().unwrap_or(1);
            let in_memory = rare.tensors.is_none()
                // SAFETY: this is the lane.
                && unsafe { self.batch.lap() }.tensors.is_none();
            if in_memory {
                // SAFETY: the member's rows of the output, which the lane owns until they are published.
                let bytes =
                    unsafe { std::slice::from_raw_parts_mut(output.data.cast_mut(), output.size_bytes) };
                outcome::trim(bytes, element, padded, &shape);
            } else {
                // SAFETY: the output is there, and stays for as long as the batch is held.
                let bytes = unsafe { std::slice::from_raw_parts(output.data, output.size_bytes) };
                let mut buffer = crate::tensor::Buffer::copy_of(&self.core.pool, bytes)?;
                outcome::trim(buffer.bytes_mut(), element, padded, &shape);
                let bytes = &buffer.bytes()[..size_bytes(spec.dtype, &shape)?];
                let data = Data::Owned(crate::tensor::Buffer::copy_of(&self.core.pool, bytes)?);
                own.push(Tensor { dtype: spec.dtype, shape: shape.clone(), data });
            }
            shapes.push(shape);
        }
        rare.shapes = Some(shapes);
        if !own.is_empty() {
            rare.tensors = Some(own);
        }
        Ok(())
    }
}
