//! Requests that bring tensors of their own, rather than rows of a batch: how they are run, on the host or where they say, and
//! whether what came back is what the model has promised.
#![allow(unsafe_code)]

use super::batch::Inputs;
use super::execute::Lane;
use crate::error::{Error, Result, Status};
use crate::features::PLUGINS;
use crate::panics::catch;
use crate::tensor::{Data, OutputPlace, Tensor, size_bytes};
use std::sync::Arc;

impl Lane<'_> {
    /// Runs the one request there is, with its own tensors.
    pub fn run_bare(&self) -> Result<Vec<Tensor>> {
        let (inputs, places) = (self.bare_inputs(), self.places());
        let (probe, interrupt) = (&self.probe, &self.batch.interrupt);
        let tensors = catch(|| {
            let backend = self.model.backend()?;
            match places {
                Some(places) => backend.run_placed(&inputs, places, interrupt),
                None => probe.run(&*backend, &inputs, interrupt),
            }
        })?;
        self.check(tensors, None)
    }

    /// Where the request wants its outputs, if it says so.
    pub fn places(&self) -> Option<&[OutputPlace]> {
        // SAFETY: written, and held by the lane.
        if !PLUGINS.built || !unsafe { self.batch.request(0) }.flags.on_device {
            return None;
        }
        // SAFETY: this is the lane, and places are not changed once they are written.
        let rare = unsafe { self.batch.extras(0) }.rare.as_ref();
        rare.and_then(|rare| rare.places.as_deref())
    }

    /// The inputs of a request that has tensors of its own.
    pub fn bare_inputs(&self) -> Arc<Inputs> {
        // SAFETY: written, and held by the lane.
        if unsafe { self.batch.request(0) }.flags.routed {
            // Another attempt may need them.
            // SAFETY: inputs of routed requests are not changed.
            let rare = unsafe { self.batch.extras(0) }.rare.as_ref();
            return rare.and_then(|rare| rare.inputs.clone()).unwrap_or_default();
        }
        // SAFETY: this is the lane, and nobody else reads the inputs.
        let extras = unsafe { self.batch.extras_mut(0) };
        extras.rare.as_mut().and_then(|rare| rare.inputs.take()).unwrap_or_default()
    }

    /// A backend that breaks its word must not make the engine hand out memory that is not there.
    pub fn check(&self, tensors: Vec<Tensor>, joined_rows: Option<usize>) -> Result<Vec<Tensor>> {
        let specs = &self.model.signature().outputs;
        if tensors.len() != specs.len() {
            let text = format!("the backend returned {} outputs of {}", tensors.len(), specs.len());
            return Err(Error::new(Status::Internal, text));
        }
        for (tensor, spec) in tensors.iter().zip(specs) {
            let splits = joined_rows.is_none_or(|rows| {
                tensor.shape.first() == Some(&(rows as i64)) && tensor.shape.len() == spec.dims.len()
            });
            let complete = match &tensor.data {
                Data::Strings(_) => joined_rows.is_none(),
                Data::Device(_) if joined_rows.is_some() => false,
                _ => size_bytes(tensor.dtype, &tensor.shape)? == tensor.size_bytes(),
            };
            if !splits || !complete || tensor.dtype != spec.dtype {
                return Err(Error::new(
                    Status::BackendFailed,
                    format!(
                        "output {:?} came back as {} {:?} with {} bytes, which does not fit the batch",
                        spec.name,
                        tensor.dtype.name(),
                        tensor.shape,
                        tensor.size_bytes()
                    ),
                ));
            }
        }
        Ok(tensors)
    }
}
