//! A mock model whose requests take steps, each of which says its number.

use super::MockModel;
use crate::backend::{Sequence, Sink, Stepwise};
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::tensor::{OutputPlace, Tensor};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// How often a step that takes long looks whether anybody still wants it.
const LOOK_NS: u64 = 1_000_000;

struct MockSequence {
    inputs: Arc<Vec<Option<Tensor>>>,
    sink: Arc<dyn Sink>,
    /// Steps that it has taken and told of.
    done: u64,
    end: Option<Result<Vec<Tensor>>>,
}

impl Sequence for MockSequence {
    fn take_end(&mut self) -> Option<Result<Vec<Tensor>>> {
        self.end.take()
    }
}

impl Stepwise for MockModel {
    fn begin(
        self: Arc<Self>,
        inputs: Arc<Vec<Option<Tensor>>>,
        _: &[OutputPlace],
        sink: Arc<dyn Sink>,
    ) -> Result<Box<dyn Sequence>> {
        Ok(Box::new(MockSequence { inputs, sink, done: 0, end: None }))
    }

    fn step(&self, live: &mut [&mut dyn Sequence]) -> Result<()> {
        let mut own: Vec<&mut MockSequence> = live.iter_mut().filter_map(|sequence| own(*sequence)).collect();
        let takes_ns = self.faults.strike_step(|| own.iter().any(|sequence| sequence.sink.is_wanted()))?;
        let until =
            now_ns().saturating_add(self.config.latency_us.saturating_mul(1000)).saturating_add(takes_ns);
        while now_ns() < until && own.iter().any(|sequence| sequence.sink.is_wanted()) {
            std::thread::sleep(Duration::from_nanos(until.saturating_sub(now_ns()).min(LOOK_NS)));
        }
        for sequence in &mut own {
            sequence.end = self.advance(sequence).transpose();
        }
        Ok(())
    }
}

fn own(sequence: &mut dyn Sequence) -> Option<&mut MockSequence> {
    let any: &mut dyn Any = sequence;
    any.downcast_mut()
}

impl MockModel {
    /// Whether it advances by steps.
    pub fn takes_steps(&self) -> bool {
        self.config.steps > 0
    }

    /// One step of a request; its outputs, if it was the last. What there is no room for is said in the next step.
    fn advance(&self, sequence: &mut MockSequence) -> Result<Option<Vec<Tensor>>> {
        let (number, steps) = (sequence.done + 1, self.config.steps);
        let progress = number as f64 / steps as f64;
        match sequence.sink.emit(format!("step {number} ").as_bytes(), Some(progress as f32)) {
            Err(error) if error.status == Status::QueueFull => return Ok(None),
            told => told?,
        }
        sequence.done = number;
        if number < steps {
            return Ok(None);
        }
        let Some(Some(x)) = sequence.inputs.first() else {
            return Err(Error::new(Status::BackendFailed, "the mock backend got no input"));
        };
        self.signature.outputs.iter().map(|output| self.compute(x, output)).collect::<Result<_>>().map(Some)
    }
}
