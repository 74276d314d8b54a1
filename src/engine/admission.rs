//! Admission: holds a request against its model, and copies or borrows its inputs.

use super::ModelId;
use super::completion::CompletionQueue;
use super::models::LoadedModel;
use super::requests::Request;
use crate::error::{Error, Result, Status};
use crate::memory::{Budget, Reservation};
use crate::scheduler::join::Inputs;
use crate::tensor::{
    BorrowedBytes, Buffer, CallerBuffer, DType, Data, Shape, StringTensor, Tensor, TensorSpec, element_count,
    size_bytes,
};
use std::sync::Arc;

/// A request as the host describes it.
pub struct RequestDescription<'a> {
    pub model: ModelId,
    /// 0 (low) to 3 (critical).
    pub level: usize,
    /// On the engine's clock; 0: none.
    pub deadline_ns: u64,
    pub user_data: u64,
    pub inputs: Vec<InputTensor<'a>>,
    pub outputs: Vec<OutputBuffer<'a>>,
}

/// One input.
pub struct InputTensor<'a> {
    /// `None`: by position.
    pub name: Option<&'a str>,
    pub dtype: DType,
    pub shape: &'a [i64],
    pub data: InputData<'a>,
}

/// Where an input's elements are.
pub enum InputData<'a> {
    /// Copied before submit returns.
    Copy(&'a [u8]),
    /// Read where they are, until the event that releases them.
    Borrow(BorrowedBytes),
    Strings(Vec<&'a [u8]>),
}

/// Memory of the host's for one output.
pub struct OutputBuffer<'a> {
    /// `None`: by position.
    pub name: Option<&'a str>,
    pub dtype: DType,
    pub buffer: CallerBuffer,
}

/// A request that was found good.
pub struct Admitted {
    pub request: Request,
    pub rows: usize,
}

/// Checks a request against the model, and takes its inputs over.
pub fn admit(
    description: RequestDescription<'_>,
    model: &LoadedModel,
    budget: &Arc<Budget>,
    completion: &Arc<CompletionQueue>,
    submitted_ns: u64,
) -> Result<Admitted> {
    let signature = model.signature();
    let places = places("input", &signature.inputs, description.inputs.iter().map(|input| input.name))?;
    let mut given: Vec<Option<InputTensor<'_>>> = signature.inputs.iter().map(|_| None).collect();
    for (input, &place) in description.inputs.into_iter().zip(&places) {
        given[place] = Some(input);
    }
    let rows = check_inputs(&given, model)?;
    let (inputs, borrowed, reservation) = take(given, &signature.inputs, budget)?;

    let places = places_of_outputs(&description.outputs, model)?;
    let mut outputs: Vec<Option<CallerBuffer>> = Vec::new();
    if !places.is_empty() {
        outputs.resize_with(signature.outputs.len(), || None);
    }
    for (output, &place) in description.outputs.into_iter().zip(&places) {
        outputs[place] = Some(output.buffer);
    }
    let request = Request {
        model: description.model,
        user_data: description.user_data,
        completion: Arc::clone(completion),
        inputs,
        borrowed,
        outputs,
        submitted_ns,
        deadline_ns: description.deadline_ns,
        traffic: Some(model.traffic()),
        reservation,
        cancellable: true,
    };
    Ok(Admitted { request, rows })
}

/// For each tensor given, by name or by position, its place in the signature.
fn places<'a>(
    kind: &str,
    specs: &[TensorSpec],
    names: impl Iterator<Item = Option<&'a str>>,
) -> Result<Vec<usize>> {
    let mut places: Vec<usize> = Vec::with_capacity(specs.len());
    for (position, name) in names.enumerate() {
        let known = || specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
        let place = match name {
            Some(name) => specs.iter().position(|spec| spec.name == name).ok_or_else(|| {
                Error::new(
                    Status::InvalidName,
                    format!("{kind}s[{position}]: the model has no {kind} {name:?}; it has {}", known()),
                )
            })?,
            None if position < specs.len() => position,
            None => {
                return Err(Error::new(
                    Status::InvalidName,
                    format!("{kind}s[{position}]: the model has only {} ({})", specs.len(), known()),
                ));
            }
        };
        if places.contains(&place) {
            return Err(Error::new(
                Status::InvalidName,
                format!("{kind}s[{position}]: {kind} {:?} is given twice", specs[place].name),
            ));
        }
        places.push(place);
    }
    Ok(places)
}

/// Checks dtypes, shapes and sizes; returns the request's rows (1 for a model that is not batched).
fn check_inputs(given: &[Option<InputTensor<'_>>], model: &LoadedModel) -> Result<usize> {
    let specs = &model.signature().inputs;
    let mut rows: Option<(i64, &str)> = None;
    for (input, spec) in given.iter().zip(specs) {
        let Some(input) = input else {
            if spec.optional {
                continue;
            }
            return Err(Error::new(Status::InvalidName, format!("input {:?} is missing", spec.name)));
        };
        check_input(input, spec).map_err(|error| error.within(format!("input {:?}", spec.name)))?;
        if model.joins_rows() && !spec.optional {
            match rows {
                Some((count, other)) if count != input.shape[0] => {
                    return Err(Error::new(
                        Status::InvalidShape,
                        format!(
                            "input {:?} has {} rows and input {other:?} has {count}",
                            spec.name, input.shape[0]
                        ),
                    ));
                }
                _ => rows = Some((input.shape[0], &spec.name)),
            }
        }
    }
    Ok(rows.map_or(1, |(rows, _)| usize::try_from(rows).unwrap_or(1)))
}

fn check_input(input: &InputTensor<'_>, spec: &TensorSpec) -> Result<()> {
    if input.dtype != spec.dtype {
        return Err(Error::new(
            Status::InvalidDtype,
            format!("dtype {} given, the model wants {}", input.dtype.name(), spec.dtype.name()),
        ));
    }
    if matches!(input.data, InputData::Strings(_)) != (spec.dtype == DType::String) {
        return Err(Error::new(
            Status::InvalidDtype,
            format!(
                "the data is not of the kind that {} has: strings are given as strings",
                spec.dtype.name()
            ),
        ));
    }
    spec.check_shape(input.shape)?;
    let size_error = |given: usize, want: usize, what: &str| {
        let text = format!(
            "{given} {what} given, the shape {:?} of {} takes {want}",
            input.shape,
            spec.dtype.name()
        );
        Err(Error::new(Status::InvalidSize, text))
    };
    match &input.data {
        InputData::Strings(strings) => {
            let want = element_count(input.shape).ok_or_else(|| {
                Error::new(Status::InvalidShape, format!("the sizes {:?} overflow", input.shape))
            })?;
            if strings.len() != want {
                return size_error(strings.len(), want, "strings");
            }
        }
        InputData::Copy(bytes) => {
            let want = size_bytes(input.dtype, input.shape)?;
            if bytes.len() != want {
                return size_error(bytes.len(), want, "bytes");
            }
        }
        InputData::Borrow(borrowed) => {
            let want = size_bytes(input.dtype, input.shape)?;
            let bytes = borrowed.bytes();
            if bytes.len() != want {
                return size_error(bytes.len(), want, "bytes");
            }
            let alignment = input.dtype.alignment();
            if !bytes.is_empty() && !bytes.as_ptr().addr().is_multiple_of(alignment) {
                return Err(Error::new(
                    Status::InvalidArgument,
                    format!(
                        "data of {} that is borrowed must be aligned to {alignment} bytes",
                        input.dtype.name()
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Copies or borrows the inputs. Returns whether any is borrowed, and the copies' share of the budget.
fn take(
    given: Vec<Option<InputTensor<'_>>>,
    specs: &[TensorSpec],
    budget: &Arc<Budget>,
) -> Result<(Inputs, bool, Option<Reservation>)> {
    let copied: usize = given
        .iter()
        .flatten()
        .map(|input| match &input.data {
            InputData::Copy(bytes) => bytes.len(),
            InputData::Borrow(_) => 0,
            InputData::Strings(strings) => strings.iter().map(|text| text.len()).sum(),
        })
        .sum();
    let reservation = if copied > 0 { Some(budget.reserve(copied as u64)?) } else { None };
    let mut borrowed = false;
    let mut inputs: Inputs = Vec::with_capacity(given.len());
    for (input, spec) in given.into_iter().zip(specs) {
        let Some(input) = input else {
            inputs.push(None);
            continue;
        };
        let data = match input.data {
            InputData::Copy(bytes) => Data::Owned(Buffer::copy_of(bytes)?),
            InputData::Borrow(bytes) => {
                borrowed = true;
                Data::Borrowed(bytes)
            }
            InputData::Strings(strings) => Data::Strings(StringTensor::copy_of(strings.iter().copied())?),
        };
        inputs.push(Some(Tensor { dtype: spec.dtype, shape: Shape::from_slice(input.shape), data }));
    }
    Ok((inputs, borrowed, reservation))
}

fn places_of_outputs(outputs: &[OutputBuffer<'_>], model: &LoadedModel) -> Result<Vec<usize>> {
    let specs = &model.signature().outputs;
    let places = places("output", specs, outputs.iter().map(|output| output.name))?;
    for (output, &place) in outputs.iter().zip(&places) {
        let spec = &specs[place];
        if spec.dtype == DType::String {
            return Err(Error::new(
                Status::Unsupported,
                format!("output {:?} is of strings, which cannot go to a caller's buffer", spec.name),
            ));
        }
        if output.dtype != spec.dtype {
            return Err(Error::new(
                Status::InvalidDtype,
                format!(
                    "output {:?}: dtype {} given, the model has {}",
                    spec.name,
                    output.dtype.name(),
                    spec.dtype.name()
                ),
            ));
        }
    }
    Ok(places)
}
