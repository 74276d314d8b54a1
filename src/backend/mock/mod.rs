//! A backend for tests: computes `y = 2x + 1` or echoes, and fails when and how the configuration says.

mod faults;

use super::{Interrupt, LoadRequest, Model, ProviderReport};
use crate::config::{FaultKind, MockCompute, MockConfig, MockDim, MockTensor};
use crate::error::{Error, Result, Status};
use crate::tensor::{Buffer, DType, Data, Dim, Shape, Signature, Tensor, TensorSpec, size_bytes};
use faults::Faults;
use smallvec::smallvec;
use std::sync::Arc;

struct MockModel {
    config: MockConfig,
    signature: Arc<Signature>,
    faults: Faults,
}

/// Makes a mock model; honours the faults that strike loads.
pub fn load(request: &LoadRequest<'_>) -> Result<Arc<dyn Model>> {
    let config = request.config.mock.clone().unwrap_or_default();
    if request.interrupt.sleep(config.load_latency_us.saturating_mul(1000)) {
        return Err(Error::new(Status::Cancelled, "loading was interrupted"));
    }
    faults::strike_load(&config)?;
    let signature = Arc::new(signature(&config)?);
    Ok(Arc::new(MockModel { faults: Faults::new(&config), signature, config }))
}

fn signature(config: &MockConfig) -> Result<Signature> {
    let specs = |tensors: &[MockTensor], default: &str| -> Result<Vec<TensorSpec>> {
        if tensors.is_empty() {
            return Ok(vec![TensorSpec::new(
                default,
                DType::F32,
                vec![Dim::Symbolic("batch".into()), Dim::Fixed(4)],
            )?]);
        }
        tensors.iter().map(spec).collect()
    };
    let signature = Signature { inputs: specs(&config.inputs, "x")?, outputs: specs(&config.outputs, "y")? };
    let first = &signature.inputs[0];
    for (index, output) in signature.outputs.iter().enumerate() {
        let computable = match config.compute {
            MockCompute::Affine => first.dtype == DType::F32 && output.dtype == DType::F32,
            MockCompute::Echo => first.dtype == output.dtype && first.dtype != DType::String,
        };
        if !computable || output.dims.len() != first.dims.len() {
            return Err(Error::new(
                Status::InvalidConfig,
                format!(
                    "mock.outputs[{index}]: must have the dtype and rank of the first input (f32 for \"affine\", \
                     no strings)"
                ),
            ));
        }
    }
    Ok(signature)
}

fn spec(tensor: &MockTensor) -> Result<TensorSpec> {
    let dims = tensor.shape.iter().map(|dim| match dim {
        MockDim::Fixed(size) => Dim::Fixed(i64::from(*size)),
        MockDim::Symbolic(name) => Dim::Symbolic(name.clone()),
    });
    TensorSpec::new(&tensor.name, tensor.dtype, dims.collect())
}

impl Model for MockModel {
    fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    fn run(&self, inputs: &[Option<Tensor>], interrupt: &Interrupt) -> Result<Vec<Tensor>> {
        let extra_ns = self.faults.strike_run(interrupt)?;
        let latency_ns = self.config.latency_us.saturating_mul(1000).saturating_add(extra_ns);
        if latency_ns > 0 && interrupt.sleep(latency_ns) {
            return Err(Error::new(Status::Cancelled, "the run was interrupted"));
        }
        let Some(Some(x)) = inputs.first() else {
            return Err(Error::new(Status::BackendFailed, "the mock backend got no input"));
        };
        self.signature.outputs.iter().map(|output| self.compute(x, output)).collect()
    }

    /// Also keeps check runs from using up faults, which are counted by the run.
    fn rows_are_independent(&self) -> bool {
        true
    }

    fn provider(&self) -> ProviderReport {
        ProviderReport { used: "mock".into(), rejected: Vec::new() }
    }

    fn memory_bytes(&self) -> u64 {
        self.config.memory_bytes
    }
}

impl MockModel {
    /// The output takes its fixed sizes from its specification and the others from the input; elements past
    /// the input's end repeat it.
    fn compute(&self, x: &Tensor, output: &TensorSpec) -> Result<Tensor> {
        let mut shape: Shape = smallvec![];
        for (axis, dim) in output.dims.iter().enumerate() {
            shape.push(match dim {
                Dim::Fixed(size) => *size,
                Dim::Symbolic(_) => x.shape[axis],
            });
        }
        let mut buffer = Buffer::zeroed(size_bytes(output.dtype, &shape)?)?;
        let rows = shape.first().map_or(1, |&rows| usize::try_from(rows).unwrap_or(1)).max(1);
        let from_row = (x.bytes().len() / rows).max(1);
        let to_row = (buffer.bytes().len() / rows).max(1);
        for (to, from) in buffer.bytes_mut().chunks_mut(to_row).zip(x.bytes().chunks(from_row)) {
            match self.config.compute {
                MockCompute::Echo => {
                    to.iter_mut().zip(from.iter().cycle()).for_each(|(to, from)| *to = *from)
                }
                MockCompute::Affine => {
                    for (to, from) in to.chunks_exact_mut(4).zip(from.chunks_exact(4).cycle()) {
                        let x = f32::from_ne_bytes([from[0], from[1], from[2], from[3]]);
                        to.copy_from_slice(&(2.0 * x + 1.0).to_ne_bytes());
                    }
                }
            }
        }
        Ok(Tensor { dtype: output.dtype, shape, data: Data::Owned(buffer) })
    }
}

/// Whether any fault strikes loads rather than runs.
fn strikes_load(kind: FaultKind) -> bool {
    matches!(kind, FaultKind::LoadError | FaultKind::LoadPanic | FaultKind::LoadOutOfMemory)
}
