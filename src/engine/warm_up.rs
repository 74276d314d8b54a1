//! Warm-up: a model is run at load in every size that its batches will have, so that the first request is as fast as
//! the hundredth.
#![allow(unsafe_code)]

use super::lifecycle::Core;
use super::line::{Kind, Line};
use super::model::Model;
use crate::backend::{Interrupt, View};
use crate::clock::now_ns;
use crate::config::ExampleConfig;
use crate::error::{Error, Result, Status};
use crate::scheduler::selfcheck;
use crate::tensor::{
    Buffer, DType, Data, Dim, Shape, StringTensor, Tensor, TensorSpec, element_count, size_bytes,
    write_number,
};
use std::sync::Arc;

/// How long to warm up, beyond what must be run.
const WARM_UP_NS: u64 = 100_000_000;
/// So many combinations of the sizes of padded axes are run.
const MOST_SHAPES: usize = 64;

/// Runs the model on zeros or on the examples of its configuration, and learns what runs cost.
pub fn warm_up(core: &Arc<Core>, model: &Arc<Model>, interrupt: &Interrupt) -> Result<()> {
    let usual = model.queue.lines.make_usual()?;
    let (config, signature) = (&model.config.warmup, &model.signature);
    for name in config.inputs.keys() {
        if !signature.inputs.iter().any(|spec| spec.name == *name) {
            let text = format!("warmup.inputs.{name}: the model has no input of that name");
            return Err(Error::new(Status::InvalidConfig, text));
        }
    }
    if model.is_stepwise() {
        return Ok(()); // one step says little about the others
    }
    let backend = model.backend()?;
    if !config.enabled || (backend.rows_are_independent() && config.is_default()) {
        return Ok(());
    }
    let log = |error: &Error| {
        core.logger
            .with(&[("model", (&model.full_name).into())])
            .info("model", format_args!("{} was not warmed up: {error}", model.full_name));
    };
    let most = if model.joins_rows() { model.queue.max_rows() } else { 1 };
    let (sizes, must) = sizes(model, most);
    let lines: Vec<Arc<Line>> = match usual {
        Some(line) => vec![line],
        None => {
            shapes(model)?.iter().map(|shapes| model.queue.lines.line_of(shapes)).collect::<Result<_>>()?
        }
    };
    if lines.is_empty() {
        // Nothing says how large the other axes will be.
        if let Err(error) = selfcheck::warm_up(&*backend, &core.pool, most, interrupt) {
            log(&error);
        }
        return Ok(());
    }
    let deadline = now_ns() + WARM_UP_NS;
    for line in &lines {
        if let Err(error) = run(core, model, line, &sizes, must, deadline, interrupt) {
            if !config.is_default() {
                // As it was asked for, it must work.
                let names_the_path = error.status == Status::InvalidConfig;
                return Err(if names_the_path { error } else { error.within("warmup") });
            }
            log(&error); // too little room in the budget, say
        }
    }
    Ok(())
}

/// The numbers of rows to run, and how many of them must be, however long they take.
fn sizes(model: &Model, most: usize) -> (Vec<usize>, usize) {
    let rows = |sizes: &[u32]| sizes.iter().map(|&rows| (rows as usize).min(most)).collect::<Vec<_>>();
    let mut sizes = rows(&model.config.warmup.sizes);
    if sizes.is_empty() && most > 1 {
        sizes = rows(&model.config.batching.buckets);
    }
    let must = sizes.len().max(1);
    if sizes.is_empty() {
        // The largest first: it is the one that must not be slow when it comes.
        sizes = std::iter::successors(Some(most), |&rows| (rows > 1).then(|| rows.next_power_of_two() / 2))
            .collect();
    }
    sizes.dedup();
    (sizes, must)
}

/// For a model whose axes vary: the shapes of its inputs, by the examples and by the buckets of padded axes. None, if
/// they do not say all.
fn shapes(model: &Model) -> Result<Vec<Vec<Option<Shape>>>> {
    let (examples, axes) = (&model.config.warmup.inputs, &model.config.batching.axes);
    let buckets: Vec<(&String, &Vec<u32>)> = axes.iter().map(|(name, axis)| (name, &axis.buckets)).collect();
    let combinations: usize = buckets.iter().map(|(_, sizes)| sizes.len()).product();
    let mut all = Vec::new();
    for combination in 0..combinations.min(MOST_SHAPES) {
        let mut left = combination;
        let chosen: Vec<(&str, i64)> = buckets
            .iter()
            .map(|(name, sizes)| {
                let size = sizes[left % sizes.len()];
                left /= sizes.len();
                (name.as_str(), i64::from(size))
            })
            .collect();
        let mut shapes = Vec::new();
        for spec in &model.signature.inputs {
            let example = examples.get(&spec.name);
            if spec.optional && example.is_none() {
                shapes.push(None);
                continue;
            }
            if spec.dtype == DType::String {
                return Ok(Vec::new());
            }
            let mut shape = Shape::new();
            for (axis, dim) in spec.dims.iter().enumerate() {
                let padded =
                    |name: &str| chosen.iter().find(|(other, _)| *other == name).map(|(_, size)| *size);
                let said = example.and_then(|example| example.shape.get(axis)).map(|&size| i64::from(size));
                shape.push(match dim {
                    Dim::Fixed(size) => *size,
                    Dim::Symbolic(_) if axis == 0 && model.joins_rows() => 1,
                    Dim::Symbolic(name) => match padded(name).filter(|_| axis > 0).or(said) {
                        Some(size) => size,
                        None => return Ok(Vec::new()),
                    },
                });
            }
            if let Some(example) = example {
                spec.check_shape(&shape)
                    .and_then(|()| check_rank(example, shape.len()))
                    .map_err(|error| error.within(format!("warmup.inputs.{}.shape", spec.name)))?;
            }
            shapes.push(Some(shape));
        }
        all.push(shapes);
    }
    Ok(all)
}

fn check_rank(example: &ExampleConfig, rank: usize) -> Result<()> {
    match example.shape.len() {
        0 => Ok(()),
        given if given == rank => Ok(()),
        given => Err(Error::new(Status::InvalidConfig, format!("{given} sizes given, the input has {rank}"))),
    }
}

fn run(
    core: &Arc<Core>,
    model: &Arc<Model>,
    line: &Arc<Line>,
    sizes: &[usize],
    must: usize,
    deadline: u64,
    interrupt: &Interrupt,
) -> Result<()> {
    let seat = line.alone(&core.table, &core.pool, 0, 1)?;
    // SAFETY: the batch is this thread's alone.
    let batch = unsafe { core.table.batch(seat.index) };
    batch.resolved.set(0); // nobody waits for anything
    let work = || -> Result<()> {
        let (Some(layout), Some(memory)) = (batch.layout(), &batch.memory) else { return Ok(()) };
        for (part, region) in layout.inputs.iter().zip(&memory.inputs) {
            // SAFETY: the batch is this thread's alone.
            let bytes = unsafe { region.bytes_mut(0, region.size()) };
            let spec = &model.signature.inputs[part.index];
            fill(bytes, part.dtype, part.row_bytes, model.config.warmup.inputs.get(&spec.name))
                .map_err(|error| error.within(format!("warmup.inputs.{}", spec.name)))?;
        }
        for (at, &rows) in sizes.iter().enumerate() {
            let rows = rows.min(layout.max_rows);
            for _ in 0..3 {
                if interrupt.is_raised() || (at >= must && now_ns() > deadline) {
                    return Ok(());
                }
                // SAFETY: as above.
                let (mut view, prepared) = unsafe {
                    let prepare = || model.prepare(memory, layout, &core.pool);
                    (View::new(memory, layout, 0, rows), batch.prepared(model.residence.epoch(), prepare)?)
                };
                // Whoever gives the load up has the run end, too, however long it would take.
                let _stop = prepared.stopper().map(|stop| interrupt.hook(stop));
                let started_ns = now_ns();
                prepared.run(&mut view, interrupt)?;
                if line.kind() == Kind::Joined {
                    model.queue.costs.record(rows, now_ns() - started_ns);
                }
                if now_ns() > deadline {
                    break;
                }
            }
        }
        Ok(())
    };
    let result = work();
    core.table.let_go(seat.index, 2);
    result
}

/// Inputs for one row, made up as for a warm-up: of shapes that were seen, as far as the model leaves them open.
pub fn example(core: &Core, model: &Model) -> Result<Vec<Option<Tensor>>> {
    let seen = model.queue.lines.some_shapes();
    let signature = &model.signature;
    let make = |(index, spec): (usize, &TensorSpec)| -> Result<Option<Tensor>> {
        let example = model.config.warmup.inputs.get(&spec.name);
        if spec.optional && example.is_none() {
            return Ok(None);
        }
        let known = seen.iter().find(|(input, _)| *input == index).map(|(_, shape)| shape);
        let size = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbolic(_) if axis == 0 && model.joins_rows() => 1,
            Dim::Symbolic(name) => {
                let said = example.and_then(|example| example.shape.get(axis)).map(|&size| i64::from(size));
                let bucket = model.config.batching.axes.get(name).and_then(|axis| axis.buckets.first());
                said.or(bucket.map(|&size| i64::from(size)))
                    .or(known.and_then(|shape| shape.get(axis).copied()))
                    .unwrap_or(1)
            }
        };
        let shape: Shape = spec.dims.iter().enumerate().map(size).collect();
        if spec.dtype == DType::String {
            let texts = vec![&b"a"[..]; element_count(&shape).unwrap_or(0)];
            let data = Data::Strings(StringTensor::copy_of(texts.into_iter())?);
            return Ok(Some(Tensor { dtype: spec.dtype, shape, data }));
        }
        let mut buffer = Buffer::zeroed(&core.pool, size_bytes(spec.dtype, &shape)?)?;
        let row_bytes = buffer.bytes().len();
        fill(buffer.bytes_mut(), spec.dtype, row_bytes, example)?;
        Ok(Some(Tensor { dtype: spec.dtype, shape, data: Data::Owned(buffer) }))
    };
    signature.inputs.iter().enumerate().map(make).collect()
}

/// Fills an input with its example, row by row, or with zeros.
fn fill(bytes: &mut [u8], dtype: DType, row_bytes: usize, example: Option<&ExampleConfig>) -> Result<()> {
    bytes.fill(0);
    let Some(example) = example.filter(|example| example.fill != 0.0 || !example.data.is_empty()) else {
        return Ok(());
    };
    let unfit = || {
        let text = format!("numbers cannot be given for {}", dtype.name());
        Error::new(Status::InvalidConfig, text)
    };
    let element = dtype.whole_bytes().ok_or_else(unfit)?;
    let count = row_bytes / element.max(1);
    if !example.data.is_empty() && example.data.len() != count {
        let text = format!("data: {} numbers given, one row has {count}", example.data.len());
        return Err(Error::new(Status::InvalidConfig, text));
    }
    for row in bytes.chunks_exact_mut(row_bytes.max(1)) {
        for (index, place) in row.chunks_exact_mut(element).enumerate() {
            let number = example.data.get(index).copied().unwrap_or(example.fill);
            if !write_number(dtype, number, place) {
                return Err(unfit());
            }
        }
    }
    Ok(())
}
