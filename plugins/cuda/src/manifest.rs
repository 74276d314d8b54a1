//! A model's manifest: a module of GPU code, the tensors that it works on, and its kernels in the order in which they are run.
//! Nothing here needs a driver.

use crate::expression::{Expression, Sizes};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The most axes of a tensor.
const MAX_RANK: usize = 32;
/// The most kernels, tensors of a kind, or arguments.
const MAX_COUNT: usize = 4096;
/// What every device can do: more is refused at load rather than at the first launch.
const MAX_GRID: [u64; 3] = [(1 << 31) - 1, 65_535, 65_535];
const MAX_BLOCK: [u64; 3] = [1024, 1024, 64];
const MAX_BLOCK_THREADS: u64 = 1024;
const MAX_SHARED_BYTES: u64 = 227 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    module: String,
    inputs: Vec<TensorEntry>,
    outputs: Vec<TensorEntry>,
    #[serde(default)]
    buffers: Vec<TensorEntry>,
    #[serde(default)]
    weights: Option<WeightsEntry>,
    kernels: Vec<KernelEntry>,
    #[serde(default)]
    rows_are_independent: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorEntry {
    name: String,
    dtype: Dtype,
    shape: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightsEntry {
    file: String,
    tensors: Vec<WeightEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightEntry {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    offset: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KernelEntry {
    name: String,
    grid: Vec<Value>,
    block: Vec<Value>,
    #[serde(default)]
    shared_bytes: Option<Value>,
    arguments: Vec<BTreeMap<String, Value>>,
}

/// Element types of a fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    F16,
    Bf16,
    F32,
    F64,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    Bool,
}

impl Dtype {
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::F32 => "f32",
            Dtype::F64 => "f64",
            Dtype::U8 => "u8",
            Dtype::I8 => "i8",
            Dtype::U16 => "u16",
            Dtype::I16 => "i16",
            Dtype::U32 => "u32",
            Dtype::I32 => "i32",
            Dtype::U64 => "u64",
            Dtype::I64 => "i64",
            Dtype::Bool => "bool",
        }
    }

    pub fn bytes(self) -> u64 {
        match self {
            Dtype::U8 | Dtype::I8 | Dtype::Bool => 1,
            Dtype::F16 | Dtype::Bf16 | Dtype::U16 | Dtype::I16 => 2,
            Dtype::F32 | Dtype::U32 | Dtype::I32 => 4,
            Dtype::F64 | Dtype::U64 | Dtype::I64 => 8,
        }
    }
}

/// A tensor whose sizes may depend on the inputs' shapes.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Where it is in the manifest.
    path: String,
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<Expression>,
}

impl Tensor {
    /// Its shape for inputs of these sizes.
    pub fn shape(&self, sizes: &Sizes) -> Result<Vec<i64>, String> {
        let size = |(axis, size): (usize, &Expression)| {
            let fail = |error: String| format!("{}.shape[{axis}]: {error}", self.path);
            let value = size.value(sizes).map_err(fail)?;
            i64::try_from(value).map_err(|_| fail(format!("{value} is more than a size may be")))
        };
        self.shape.iter().enumerate().map(size).collect()
    }

    /// How many bytes it takes for inputs of these sizes.
    pub fn bytes(&self, sizes: &Sizes) -> Result<u64, String> {
        let mut bytes = self.dtype.bytes();
        for (axis, size) in self.shape.iter().enumerate() {
            let size = size.value(sizes).map_err(|error| format!("{}.shape[{axis}]: {error}", self.path))?;
            bytes =
                bytes.checked_mul(size).ok_or_else(|| format!("{}.shape: its size overflows", self.path))?;
        }
        Ok(bytes)
    }
}

/// A tensor in the weights' file.
#[derive(Clone, Debug)]
pub struct Weight {
    pub name: String,
    pub offset: u64,
    pub bytes: u64,
}

/// What a kernel is passed.
#[derive(Clone, Debug)]
pub enum Argument {
    /// A pointer to a tensor, by its place in its list.
    Input(usize),
    Output(usize),
    Buffer(usize),
    Weight(usize),
    U32(Expression),
    I32(Expression),
    U64(Expression),
    I64(Expression),
    F32(f32),
    F64(f64),
}

impl Argument {
    /// Bytes that a kernel's parameter of this kind has.
    pub fn bytes(&self) -> usize {
        match self {
            Argument::U32(_) | Argument::I32(_) | Argument::F32(_) => 4,
            _ => 8,
        }
    }

    /// The size that it is, if it is one, and its kind.
    fn size(&self) -> Option<(&'static str, &Expression)> {
        match self {
            Argument::U32(size) => Some(("u32", size)),
            Argument::I32(size) => Some(("i32", size)),
            Argument::U64(size) => Some(("u64", size)),
            Argument::I64(size) => Some(("i64", size)),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Kernel {
    /// Where it is in the manifest: several may have the same name.
    pub path: String,
    pub name: String,
    grid: [Expression; 3],
    block: [Expression; 3],
    shared_bytes: Expression,
    pub arguments: Vec<Argument>,
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
}

impl Kernel {
    /// How it is launched for inputs of these sizes.
    pub fn geometry(&self, sizes: &Sizes) -> Result<Geometry, String> {
        let axes = |what: &str, from: &[Expression; 3], most: [u64; 3]| -> Result<[u32; 3], String> {
            let mut to = [0; 3];
            for axis in 0..3 {
                let at = |error: String| format!("{}.{what}[{axis}]: {error}", self.path);
                let value = from[axis].value(sizes).map_err(at)?;
                if !(1..=most[axis]).contains(&value) {
                    return Err(at(format!("{value} is not from 1 to {}", most[axis])));
                }
                to[axis] = value as u32;
            }
            Ok(to)
        };
        let block = axes("block", &self.block, MAX_BLOCK)?;
        let threads: u64 = block.iter().map(|&size| u64::from(size)).product();
        if threads > MAX_BLOCK_THREADS {
            return Err(format!("{}.block: {threads} threads are more than {MAX_BLOCK_THREADS}", self.path));
        }
        let at = |error: String| format!("{}.shared_bytes: {error}", self.path);
        let shared = self.shared_bytes.value(sizes).map_err(at)?;
        if shared > MAX_SHARED_BYTES {
            return Err(at(format!("{shared} is more than {MAX_SHARED_BYTES}")));
        }
        Ok(Geometry { grid: axes("grid", &self.grid, MAX_GRID)?, block, shared_bytes: shared as u32 })
    }
}

/// What a manifest says, checked.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Relative to the manifest.
    pub module: String,
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
    /// Memory for what passes from one kernel to another.
    pub buffers: Vec<Tensor>,
    /// The file, relative to the manifest.
    pub weights_file: Option<String>,
    pub weights: Vec<Weight>,
    pub kernels: Vec<Kernel>,
    pub rows_are_independent: bool,
}

impl Manifest {
    /// Reads and checks a manifest; errors name the field.
    pub fn parse(json: &str) -> Result<Self, String> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let file: File = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            format!("{path}: {}", error.into_inner())
        })?;
        deserializer.end().map_err(|error| format!("after its end: {error}"))?;
        let inputs = tensors("inputs", &file.inputs)?;
        let mut axes: Vec<&str> = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            for (axis, size) in input.shape.iter().enumerate() {
                match size {
                    Expression::Number(_) => {}
                    Expression::Axis(name) => axes.push(name),
                    Expression::Operation(..) => {
                        return Err(format!("inputs[{index}].shape[{axis}]: must be a number or a name"));
                    }
                }
            }
        }
        let outputs = tensors("outputs", &file.outputs)?;
        if outputs.is_empty() {
            return Err("outputs: there must be one".into());
        }
        let known = |path: &str, expression: &Expression| {
            let mut needed = Vec::new();
            expression.axes(&mut needed);
            match needed.into_iter().find(|axis| !axes.contains(axis)) {
                Some(axis) => Err(format!("{path}: no input has an axis {axis:?}")),
                None => Ok(()),
            }
        };
        for (index, output) in outputs.iter().enumerate() {
            for (axis, size) in output.shape.iter().enumerate() {
                let path = format!("outputs[{index}].shape[{axis}]");
                if matches!(size, Expression::Operation(..)) {
                    return Err(format!("{path}: must be a number or a name"));
                }
                known(&path, size)?;
            }
        }
        let buffers = tensors("buffers", &file.buffers)?;
        for (index, buffer) in buffers.iter().enumerate() {
            for (axis, size) in buffer.shape.iter().enumerate() {
                known(&format!("buffers[{index}].shape[{axis}]"), size)?;
            }
        }
        let (weights_file, weights) = match &file.weights {
            Some(entry) => (Some(entry.file.clone()), weights(entry)?),
            None => (None, Vec::new()),
        };
        let names = |tensors: &[Tensor]| tensors.iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>();
        let places = Places {
            inputs: names(&inputs),
            outputs: names(&outputs),
            buffers: names(&buffers),
            weights: weights.iter().map(|weight| weight.name.clone()).collect(),
        };
        if file.kernels.is_empty() || file.kernels.len() > MAX_COUNT {
            return Err(format!("kernels: there must be from 1 to {MAX_COUNT}"));
        }
        let mut kernels = Vec::new();
        for (index, entry) in file.kernels.iter().enumerate() {
            let kernel = kernel(format!("kernels[{index}]"), entry, &places)?;
            for (what, sizes) in [("grid", &kernel.grid), ("block", &kernel.block)] {
                for (axis, size) in sizes.iter().enumerate() {
                    known(&format!("{}.{what}[{axis}]", kernel.path), size)?;
                }
            }
            known(&format!("{}.shared_bytes", kernel.path), &kernel.shared_bytes)?;
            for (place, argument) in kernel.arguments.iter().enumerate() {
                if let Some((kind, size)) = argument.size() {
                    known(&format!("{}.arguments[{place}].{kind}", kernel.path), size)?;
                }
            }
            kernels.push(kernel);
        }
        for (name, index) in places.outputs.iter().zip(0..) {
            let is_written = |kernel: &Kernel| {
                kernel
                    .arguments
                    .iter()
                    .any(|argument| matches!(argument, Argument::Output(at) if *at == index))
            };
            if !kernels.iter().any(is_written) {
                return Err(format!("outputs[{index}]: no kernel is passed {name:?}"));
            }
        }
        if file.module.is_empty() {
            return Err("module: must be a file's name".into());
        }
        let rows_are_independent = file.rows_are_independent;
        let module = file.module;
        Ok(Manifest {
            module,
            inputs,
            outputs,
            buffers,
            weights_file,
            weights,
            kernels,
            rows_are_independent,
        })
    }

    /// The sizes of all axes that vary, from the inputs' shapes.
    pub fn sizes(&self, shapes: &[&[i64]]) -> Result<Sizes, String> {
        let mut sizes = Sizes::new();
        for (input, shape) in self.inputs.iter().zip(shapes) {
            if input.shape.len() != shape.len() {
                return Err(format!(
                    "{:?}: rank {} instead of {}",
                    input.name,
                    shape.len(),
                    input.shape.len()
                ));
            }
            for (expression, &size) in input.shape.iter().zip(*shape) {
                let size = u64::try_from(size).map_err(|_| format!("{:?}: a size of {size}", input.name))?;
                match expression {
                    Expression::Axis(name) => {
                        let before = sizes.insert(name.clone(), size);
                        if before.is_some_and(|before| before != size) {
                            return Err(format!("{:?}: axis {name:?} has two sizes", input.name));
                        }
                    }
                    Expression::Number(number) if *number != size => {
                        return Err(format!("{:?}: a size of {size} instead of {number}", input.name));
                    }
                    _ => {}
                }
            }
        }
        Ok(sizes)
    }

    /// Bytes of the weights' file that are needed.
    pub fn weights_bytes(&self) -> u64 {
        self.weights.iter().map(|weight| weight.offset + weight.bytes).max().unwrap_or(0)
    }
}

/// Names of tensors, by kind.
struct Places {
    inputs: Vec<String>,
    outputs: Vec<String>,
    buffers: Vec<String>,
    weights: Vec<String>,
}

fn check_name(path: &str, name: &str, before: &[&str]) -> Result<(), String> {
    match () {
        () if name.is_empty() || name.contains('\0') => Err(format!("{path}.name: must not be empty")),
        () if before.contains(&name) => Err(format!("{path}.name: there is another {name:?}")),
        () => Ok(()),
    }
}

fn tensors(kind: &str, entries: &[TensorEntry]) -> Result<Vec<Tensor>, String> {
    if entries.len() > MAX_COUNT {
        return Err(format!("{kind}: more than {MAX_COUNT}"));
    }
    let mut tensors: Vec<Tensor> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = format!("{kind}[{index}]");
        let before: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        check_name(&path, &entry.name, &before)?;
        if entry.shape.len() > MAX_RANK {
            return Err(format!("{path}.shape: more than {MAX_RANK} axes"));
        }
        let size = |(axis, size)| Expression::parse(size, &format!("{path}.shape[{axis}]"));
        let shape = entry.shape.iter().enumerate().map(size).collect::<Result<_, _>>()?;
        tensors.push(Tensor { path, name: entry.name.clone(), dtype: entry.dtype, shape });
    }
    Ok(tensors)
}

fn weights(entry: &WeightsEntry) -> Result<Vec<Weight>, String> {
    if entry.file.is_empty() {
        return Err("weights.file: must be a file's name".into());
    }
    if entry.tensors.len() > MAX_COUNT {
        return Err(format!("weights.tensors: more than {MAX_COUNT}"));
    }
    let mut weights: Vec<Weight> = Vec::new();
    for (index, tensor) in entry.tensors.iter().enumerate() {
        let path = format!("weights.tensors[{index}]");
        let before: Vec<&str> = weights.iter().map(|weight| weight.name.as_str()).collect();
        check_name(&path, &tensor.name, &before)?;
        let bytes =
            tensor.shape.iter().try_fold(tensor.dtype.bytes(), |bytes, &size| bytes.checked_mul(size));
        let bytes = bytes.filter(|bytes| bytes.checked_add(tensor.offset).is_some());
        let bytes = bytes.ok_or_else(|| format!("{path}.shape: its size overflows"))?;
        if !tensor.offset.is_multiple_of(tensor.dtype.bytes()) {
            return Err(format!("{path}.offset: must be a multiple of {}", tensor.dtype.bytes()));
        }
        weights.push(Weight { name: tensor.name.clone(), offset: tensor.offset, bytes });
    }
    Ok(weights)
}

fn kernel(path: String, entry: &KernelEntry, places: &Places) -> Result<Kernel, String> {
    if entry.name.is_empty() || entry.name.contains('\0') {
        return Err(format!("{path}.name: must be a function of the module"));
    }
    if entry.arguments.len() > MAX_COUNT {
        return Err(format!("{path}.arguments: more than {MAX_COUNT}"));
    }
    let axes = |what: &str, values: &[Value]| -> Result<[Expression; 3], String> {
        if values.is_empty() || values.len() > 3 {
            return Err(format!("{path}.{what}: must have from one to three sizes"));
        }
        let one = Value::from(1);
        let at = |axis: usize| {
            Expression::parse(values.get(axis).unwrap_or(&one), &format!("{path}.{what}[{axis}]"))
        };
        Ok([at(0)?, at(1)?, at(2)?])
    };
    let zero = Value::from(0);
    let shared = entry.shared_bytes.as_ref().unwrap_or(&zero);
    let mut arguments = Vec::new();
    for (index, argument) in entry.arguments.iter().enumerate() {
        arguments.push(self::argument(&format!("{path}.arguments[{index}]"), argument, places)?);
    }
    let (grid, block) = (axes("grid", &entry.grid)?, axes("block", &entry.block)?);
    let shared_bytes = Expression::parse(shared, &format!("{path}.shared_bytes"))?;
    Ok(Kernel { path, name: entry.name.clone(), grid, block, shared_bytes, arguments })
}

fn argument(path: &str, entry: &BTreeMap<String, Value>, places: &Places) -> Result<Argument, String> {
    let Some((kind, value)) = entry.iter().next().filter(|_| entry.len() == 1) else {
        return Err(format!("{path}: must have one key, such as {{\"input\": \"x\"}}"));
    };
    let path = format!("{path}.{kind}");
    let place = |names: &[String]| {
        let name = value.as_str().ok_or_else(|| format!("{path}: must be a tensor's name"))?;
        names
            .iter()
            .position(|known| known == name)
            .ok_or_else(|| format!("{path}: there is no {kind} {name:?}; there are {}", names.join(", ")))
    };
    let number = || value.as_f64().ok_or_else(|| format!("{path}: must be a number"));
    match kind.as_str() {
        "input" => place(&places.inputs).map(Argument::Input),
        "output" => place(&places.outputs).map(Argument::Output),
        "buffer" => place(&places.buffers).map(Argument::Buffer),
        "weight" => place(&places.weights).map(Argument::Weight),
        "u32" => Expression::parse(value, &path).map(Argument::U32),
        "i32" => Expression::parse(value, &path).map(Argument::I32),
        "u64" => Expression::parse(value, &path).map(Argument::U64),
        "i64" => Expression::parse(value, &path).map(Argument::I64),
        "f32" => number().map(|number| Argument::F32(number as f32)),
        "f64" => number().map(Argument::F64),
        _ => Err(format!(
            "{path}: unknown; there are input, output, buffer, weight, u32, i32, u64, i64, f32, f64"
        )),
    }
}

#[cfg(test)]
mod tests;
