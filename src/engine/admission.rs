//! Admission: holds a request against its model, and copies or borrows its inputs.

use super::ModelId;
use super::batch::{Extras, Inputs, Rare};
use super::line::Line;
use super::lines::Given;
use super::model::Model;
use crate::error::{Error, Result, Status};
use crate::features::PLUGINS;
use crate::memory::{Kind, Ledger, Pool, Reservation};
use crate::tensor::{
    BorrowedBytes, Buffer, CallerBuffer, DType, Data, DeviceBytes, DeviceRange, OutputPlace, Shape,
    StringTensor, Tensor, TensorSpec, element_count, size_bytes,
};
use smallvec::SmallVec;
use std::sync::Arc;

/// A request as the host describes it.
#[derive(Default)]
pub struct RequestDescription<'a> {
    pub model: ModelId,
    /// 0 (low) to 3 (critical).
    pub level: usize,
    /// On the engine's clock; 0: none.
    pub deadline_ns: u64,
    pub user_data: u64,
    /// For sticky sessions and for hashes; 0: none.
    pub session: u64,
    /// For limits and for hashes; 0: none.
    pub tenant: u64,
    /// For hashes; 0: none.
    pub route_key: u64,
    pub inputs: SmallVec<[InputTensor<'a>; 2]>,
    pub outputs: SmallVec<[OutputBuffer<'a>; 1]>,
    /// Outputs without memory of the host's are to be in a device's.
    pub device_outputs: bool,
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
    /// In a device's memory, where they are read until the event that releases them.
    Device(DeviceRange),
}

/// Memory of the host's for one output.
pub struct OutputBuffer<'a> {
    /// `None`: by position.
    pub name: Option<&'a str>,
    pub dtype: DType,
    pub data: OutputData,
}

/// Where the host's memory for an output is.
#[derive(Clone)]
pub enum OutputData {
    Host(CallerBuffer),
    Device(DeviceRange),
}

impl RequestDescription<'_> {
    /// Whether it has to do with a device's memory.
    pub fn is_on_device(&self) -> bool {
        self.device_outputs
            || self.inputs.iter().any(|input| matches!(input.data, InputData::Device(_)))
            || self.outputs.iter().any(|output| matches!(output.data, OutputData::Device(_)))
    }

    /// The devices that its tensors are on, each with what is there.
    fn on_devices(&self) -> impl Iterator<Item = (&'static str, usize, i32)> + '_ {
        let inputs = self.inputs.iter().enumerate().filter_map(|(index, input)| match input.data {
            InputData::Device(range) => Some(("inputs", index, range.device)),
            _ => None,
        });
        let outputs = self.outputs.iter().enumerate().filter_map(|(index, output)| match output.data {
            OutputData::Device(range) => Some(("outputs", index, range.device)),
            OutputData::Host(_) => None,
        });
        inputs.chain(outputs)
    }

    /// The device that it has to do with, if any, and that the model must reach.
    pub fn device(&self, model: &Model) -> Result<Option<i32>> {
        if !self.is_on_device() {
            return Ok(None);
        }
        let refuse = |text: String| {
            let text = format!("model {:?}: {text}", model.full_name);
            Err(Error::new(Status::InvalidArgument, text))
        };
        let Some(&usual) = model.devices.first() else {
            let what = self
                .on_devices()
                .next()
                .map_or("outputs".to_owned(), |(kind, index, _)| format!("{kind}[{index}]"));
            return refuse(format!("{what}: it takes no tensors in a device's memory"));
        };
        let mut device = None;
        for (kind, index, number) in self.on_devices() {
            if !model.devices.contains(&number) {
                let known: Vec<String> = model.devices.iter().map(i32::to_string).collect();
                let known = known.join(", ");
                return refuse(format!(
                    "{kind}[{index}].device: {number} is none of the model's, which are {known}"
                ));
            }
            if *device.get_or_insert(number) != number {
                return refuse(format!("{kind}[{index}].device: {number}, and other tensors are elsewhere"));
            }
        }
        Ok(Some(device.unwrap_or(usual)))
    }
}

/// A request that was found good.
#[derive(Default)]
pub struct Admitted<'a> {
    /// Its inputs in the order of the signature.
    pub given: Given<'a>,
    /// 1 for a model that is not batched.
    pub rows: usize,
    /// It belongs to the model's usual line.
    pub is_usual: bool,
    /// For each of its output buffers the place in the signature.
    pub output_places: Places,
    /// The device that it has to do with.
    pub device: Option<i32>,
}

/// Places in a signature.
type Places = SmallVec<[usize; 8]>;

/// Checks a request against the model.
#[inline]
pub fn admit<'a>(
    description: &'a RequestDescription<'_>,
    model: &Model,
    admitted: &mut Admitted<'a>,
) -> Result<()> {
    if let Some(line) = model.queue.lines.usual()
        && description.outputs.is_empty()
        && !description.device_outputs
        && let Some(rows) = usual_rows(description, line)
    {
        admitted.given.extend(description.inputs.iter().map(Some));
        (admitted.rows, admitted.is_usual) = (rows, true);
        return Ok(());
    }
    admit_any(description, model, admitted)
}

/// The rows of a request that gives every input by position, all of the model's usual shape; `None` for any other,
/// good or bad.
#[inline]
fn usual_rows(description: &RequestDescription<'_>, line: &Line) -> Option<usize> {
    let layout = line.layout()?;
    if description.inputs.len() != line.signature().inputs.len()
        || layout.inputs.len() != description.inputs.len()
    {
        return None;
    }
    let rows =
        if layout.joined { usize::try_from(*description.inputs.first()?.shape.first()?).ok()? } else { 1 };
    if rows == 0 || rows > line.max_rows() {
        return None;
    }
    for (input, part) in description.inputs.iter().zip(&layout.inputs) {
        let InputData::Copy(bytes) = input.data else { return None };
        let skip = usize::from(layout.joined);
        let good = input.name.is_none()
            && input.dtype == part.dtype
            && input.shape.len() == part.shape.len()
            && (skip == 0 || input.shape[0] == rows as i64)
            && input.shape[skip..] == part.shape[skip..]
            && bytes.len() == rows * part.row_bytes;
        if !good {
            return None;
        }
    }
    Some(rows)
}

fn admit_any<'a>(
    description: &'a RequestDescription<'_>,
    model: &Model,
    admitted: &mut Admitted<'a>,
) -> Result<()> {
    let signature = model.signature();
    let places = places("input", &signature.inputs, description.inputs.iter().map(|input| input.name))?;
    admitted.given.resize(signature.inputs.len(), None);
    for (input, &place) in description.inputs.iter().zip(&places) {
        admitted.given[place] = Some(input);
    }
    admitted.device = description.device(model)?;
    admitted.rows = check_inputs(&admitted.given, model)?;
    if !description.outputs.is_empty() {
        admitted.output_places = places_of_outputs(&description.outputs, model)?;
    }
    Ok(())
}

/// What a request brings besides rows: tensors of its own, and the host's memory for outputs.
pub fn extras(
    description: &RequestDescription<'_>,
    admitted: &Admitted<'_>,
    model: &Model,
    bare: bool,
    pool: &Arc<Pool>,
    ledger: &Arc<Ledger>,
) -> Result<Option<Extras>> {
    let mut extras = Extras::default();
    if !admitted.output_places.is_empty() {
        extras.outputs.resize_with(model.signature().outputs.len(), || None);
        for (output, &place) in description.outputs.iter().zip(&admitted.output_places) {
            if let OutputData::Host(buffer) = &output.data {
                extras.outputs[place] = Some(buffer.clone());
            }
        }
    }
    let places = admitted.device.filter(|_| PLUGINS.built).map(|device| {
        let otherwise =
            if description.device_outputs { OutputPlace::Device(device) } else { OutputPlace::Host };
        let place = |spec: &TensorSpec| match spec.dtype {
            DType::String => OutputPlace::Host, // there are none on devices
            _ => otherwise,
        };
        let mut places: Box<[OutputPlace]> = model.signature().outputs.iter().map(place).collect();
        for (output, &place) in description.outputs.iter().zip(&admitted.output_places) {
            places[place] = match output.data {
                OutputData::Host(_) => OutputPlace::Host,
                OutputData::Device(range) => OutputPlace::Buffer(range),
            };
        }
        places
    });
    if bare {
        let (inputs, reservation) = take(&admitted.given, &model.signature().inputs, pool, ledger)?;
        extras.rare =
            Some(Box::new(Rare { inputs: Some(Arc::new(inputs)), places, reservation, ..Rare::default() }));
    }
    Ok((bare || !extras.outputs.is_empty()).then_some(extras))
}

/// For each tensor given, by name or by position, its place in the signature.
fn places<'a>(
    kind: &str,
    specs: &[TensorSpec],
    names: impl Iterator<Item = Option<&'a str>>,
) -> Result<Places> {
    let mut places = Places::new();
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
fn check_inputs(given: &Given<'_>, model: &Model) -> Result<usize> {
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
        InputData::Borrow(_) | InputData::Device(_) => {
            let want = size_bytes(input.dtype, input.shape)?;
            let (address, size) = match &input.data {
                InputData::Device(range) => (range.address, range.size),
                InputData::Borrow(borrowed) => (borrowed.bytes().as_ptr().addr(), borrowed.bytes().len()),
                InputData::Copy(_) | InputData::Strings(_) => (0, 0),
            };
            if size != want {
                return size_error(size, want, "bytes");
            }
            if size > 0 && !address.is_multiple_of(input.dtype.alignment()) {
                return Err(misaligned(input.dtype));
            }
        }
    }
    Ok(())
}

/// Copies or borrows the inputs. Returns the strings' share of the budget too; other copies are of the pool.
fn take(
    given: &Given<'_>,
    specs: &[TensorSpec],
    pool: &Arc<Pool>,
    ledger: &Arc<Ledger>,
) -> Result<(Inputs, Option<Reservation>)> {
    let strings: usize = given
        .iter()
        .flatten()
        .map(|input| match &input.data {
            InputData::Copy(_) | InputData::Borrow(_) | InputData::Device(_) => 0,
            InputData::Strings(strings) => strings.iter().map(|text| text.len()).sum(),
        })
        .sum();
    let reservation = if strings > 0 { Some(ledger.reserve(Kind::Buffers, strings as u64)?) } else { None };
    let mut inputs: Inputs = Vec::with_capacity(given.len());
    for (input, spec) in given.iter().zip(specs) {
        let Some(input) = input else {
            inputs.push(None);
            continue;
        };
        let data = match &input.data {
            InputData::Copy(bytes) => Data::Owned(Buffer::copy_of(pool, bytes)?),
            InputData::Borrow(bytes) => Data::Borrowed(bytes.clone()),
            InputData::Device(range) => Data::Device(DeviceBytes::lent(*range)),
            InputData::Strings(strings) => Data::Strings(StringTensor::copy_of(strings.iter().copied())?),
        };
        inputs.push(Some(Tensor { dtype: spec.dtype, shape: Shape::from_slice(input.shape), data }));
    }
    Ok((inputs, reservation))
}

/// Of memory that is used where it is.
fn misaligned(dtype: DType) -> Error {
    let (name, bytes) = (dtype.name(), dtype.alignment());
    let text = format!("data of {name} that is borrowed must be aligned to {bytes} bytes");
    Error::new(Status::InvalidArgument, text)
}

fn places_of_outputs(outputs: &[OutputBuffer<'_>], model: &Model) -> Result<Places> {
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
        if let OutputData::Device(range) = &output.data
            && range.size > 0
            && !range.address.is_multiple_of(spec.dtype.alignment())
        {
            return Err(misaligned(spec.dtype).within(format!("output {:?}", spec.name)));
        }
    }
    Ok(places)
}
