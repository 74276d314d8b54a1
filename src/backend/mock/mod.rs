//! A backend for tests: computes `y = 2x + 1` or echoes, and fails when and how the configuration says.

mod faults;
mod steps;

use super::{
    Backend, Estimate, Interrupt, Layout, LoadRequest, Memory, Model, Prepared, ProviderReport, Stepwise,
    View,
};
use crate::config::{FaultKind, MockCompute, MockConfig, MockDim, MockTensor};
use crate::error::{Error, Result, Status};
use crate::features::PLUGINS;
use crate::memory::Pool;
use crate::tensor::{Buffer, DType, Data, Dim, Shape, Signature, Tensor, TensorSpec, size_bytes};
use faults::Faults;
use smallvec::smallvec;
use std::sync::Arc;

struct MockModel {
    config: MockConfig,
    signature: Arc<Signature>,
    faults: Faults,
    pool: Arc<Pool>,
}

/// The backend.
pub struct Mock;

impl Backend for Mock {
    fn name(&self) -> &str {
        "mock"
    }

    fn estimate(&self, request: &LoadRequest<'_>) -> Result<Estimate> {
        let bytes = request.config.mock.as_ref().map_or(0, |mock| mock.memory_bytes);
        Ok(Estimate { bytes, ..Estimate::default() })
    }

    fn load(&self, request: &LoadRequest<'_>) -> Result<Arc<dyn Model>> {
        load(request)
    }
}

/// Makes a mock model; honours the faults that strike loads.
fn load(request: &LoadRequest<'_>) -> Result<Arc<dyn Model>> {
    let config = request.config.mock.clone().unwrap_or_default();
    if request.interrupt.sleep(config.load_latency_us.saturating_mul(1000)) {
        return Err(Error::new(Status::Cancelled, "loading was interrupted"));
    }
    faults::strike_load(&config)?;
    let signature = Arc::new(signature(&config)?);
    let pool = Arc::clone(request.pool);
    Ok(Arc::new(MockModel { faults: Faults::new(&config), signature, config, pool }))
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
        self.pretend(interrupt)?;
        let Some(Some(x)) = inputs.first() else {
            return Err(Error::new(Status::BackendFailed, "the mock backend got no input"));
        };
        self.signature.outputs.iter().map(|output| self.compute(x, output)).collect()
    }

    fn prepare(self: Arc<Self>, _: Arc<Memory>, layout: Arc<Layout>) -> Result<Option<Box<dyn Prepared>>> {
        let known = layout.outputs.is_some() && layout.inputs.first().is_some_and(|part| part.index == 0);
        Ok(known.then(|| Box::new(MockBatch(self)) as Box<dyn Prepared>))
    }

    fn stepwise(self: Arc<Self>) -> Option<Arc<dyn Stepwise>> {
        if PLUGINS.built && self.takes_steps() { Some(self) } else { None }
    }

    /// It sleeps rather than computes.
    fn computes_on_cpu(&self) -> bool {
        false
    }

    /// Also keeps check runs from using up faults, which are counted by the run.
    fn rows_are_independent(&self) -> bool {
        true
    }

    fn provider(&self) -> ProviderReport {
        ProviderReport { used: "mock".into(), ..ProviderReport::default() }
    }

    fn memory_bytes(&self) -> u64 {
        self.config.memory_bytes
    }
}

/// Computes from a batch's input rows to its output rows.
struct MockBatch(Arc<MockModel>);

impl Prepared for MockBatch {
    fn run(&mut self, view: &mut View<'_>, interrupt: &Interrupt) -> Result<Option<Vec<Tensor>>> {
        self.0.pretend(interrupt)?;
        let rows = if view.layout().joined { view.rows() } else { 0 };
        for index in 0..self.0.signature.outputs.len() {
            if let Some((from, to)) = view.input_and_output(0, index) {
                self.0.fill(from, to, rows);
            }
        }
        Ok(None)
    }
}

impl MockModel {
    /// Takes as long, and fails, as the configuration says.
    fn pretend(&self, interrupt: &Interrupt) -> Result<()> {
        let extra_ns = self.faults.strike_run(interrupt)?;
        let latency_ns = self.config.latency_us.saturating_mul(1000).saturating_add(extra_ns);
        if latency_ns > 0 && interrupt.sleep(latency_ns) {
            return Err(Error::new(Status::Cancelled, "the run was interrupted"));
        }
        Ok(())
    }

    /// The output takes its fixed sizes from its specification and the others from the input.
    fn compute(&self, x: &Tensor, output: &TensorSpec) -> Result<Tensor> {
        let mut shape: Shape = smallvec![];
        for (axis, dim) in output.dims.iter().enumerate() {
            shape.push(match dim {
                Dim::Fixed(size) => *size,
                Dim::Symbolic(_) => x.shape[axis],
            });
        }
        let mut buffer = Buffer::zeroed(&self.pool, size_bytes(output.dtype, &shape)?)?;
        let rows = shape.first().map_or(1, |&rows| usize::try_from(rows).unwrap_or(1));
        self.fill(x.bytes(), buffer.bytes_mut(), rows);
        Ok(Tensor { dtype: output.dtype, shape, data: Data::Owned(buffer) })
    }

    /// Fills the output, row by row; elements past the end of the input's row repeat it.
    fn fill(&self, from: &[u8], to: &mut [u8], rows: usize) {
        let (from_row, to_row) = ((from.len() / rows.max(1)).max(1), (to.len() / rows.max(1)).max(1));
        for (to, from) in to.chunks_mut(to_row).zip(from.chunks(from_row)) {
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
    }
}

/// Whether any fault strikes loads rather than runs.
fn strikes_load(kind: FaultKind) -> bool {
    matches!(kind, FaultKind::LoadError | FaultKind::LoadPanic | FaultKind::LoadOutOfMemory)
}
