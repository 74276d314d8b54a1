//! Tensors: element types, shapes, specifications, and the bytes behind them.

mod buffer;
mod device;
mod dtype;
mod foreign;
mod region;
mod strings;

pub use buffer::Buffer;
pub use device::{DeviceBytes, DeviceRange, OutputPlace};
pub use dtype::{DType, write_number};
pub use foreign::{BorrowedBytes, CallerBuffer, HostBytes};
pub use region::Region;
pub use strings::{StringSlice, StringTensor};

use crate::error::{Error, Result, Status};
use smallvec::SmallVec;
use std::ffi::CString;

/// Sizes of the axes, outermost first. Most tensors have at most six, which need no allocation.
pub type Shape = SmallVec<[i64; 6]>;

/// The most axes a tensor may have.
pub const MAX_RANK: usize = 32;

/// One axis in a specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    Fixed(i64),
    /// Any size; the name may be empty.
    Symbolic(String),
}

/// What a model says about one of its inputs or outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    /// `name` for C.
    pub c_name: CString,
    pub dtype: DType,
    pub dims: Vec<Dim>,
    /// An input that has a default value in the model.
    pub optional: bool,
}

impl TensorSpec {
    pub fn new(name: &str, dtype: DType, dims: Vec<Dim>) -> Result<Self> {
        let c_name = CString::new(name).map_err(|_| {
            Error::new(Status::ModelUnsupported, format!("the name {name:?} has a NUL in it"))
        })?;
        Ok(TensorSpec { name: name.into(), c_name, dtype, dims, optional: false })
    }

    /// Whether the first axis may have any size.
    pub fn first_axis_is_symbolic(&self) -> bool {
        matches!(self.dims.first(), Some(Dim::Symbolic(_)))
    }

    /// The shape as people write it: `[batch, 3]`, with `?` for an axis without a name.
    pub fn shape_text(&self) -> String {
        let dims: Vec<String> = self
            .dims
            .iter()
            .map(|dim| match dim {
                Dim::Fixed(size) => size.to_string(),
                Dim::Symbolic(name) if name.is_empty() => "?".into(),
                Dim::Symbolic(name) => name.clone(),
            })
            .collect();
        format!("[{}]", dims.join(", "))
    }

    /// Checks that a tensor of this shape may be given for this input.
    pub fn check_shape(&self, shape: &[i64]) -> Result<()> {
        let fail = |what: String| Err(Error::new(Status::InvalidShape, what));
        if shape.len() != self.dims.len() {
            return fail(format!(
                "rank {} given, the model wants {} {}",
                shape.len(),
                self.dims.len(),
                self.shape_text()
            ));
        }
        for (axis, (&size, dim)) in shape.iter().zip(&self.dims).enumerate() {
            if size < 0 {
                return fail(format!("axis {axis} has the negative size {size}"));
            }
            if let Dim::Fixed(want) = dim
                && size != *want
            {
                return fail(format!("axis {axis} has size {size}, the model wants {}", self.shape_text()));
            }
        }
        if self.first_axis_is_symbolic() && shape[0] == 0 {
            return fail("the first axis has size 0: a request needs at least one row".into());
        }
        Ok(())
    }
}

/// The inputs and outputs of a model.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Signature {
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

impl Signature {
    /// Why requests cannot be joined along the first axis, by the declared shapes alone; `None` if they may be.
    pub fn batching_obstacle(&self) -> Option<String> {
        let obstacle = |kind: &str, spec: &TensorSpec| {
            let what = match spec.dtype {
                _ if spec.dims.is_empty() => "is a scalar",
                _ if !spec.first_axis_is_symbolic() => "has a first axis of fixed size",
                DType::String => "has strings",
                dtype if dtype.whole_bytes().is_none() => "has elements smaller than a byte",
                _ => return None,
            };
            Some(format!("{kind} {:?} {what}", spec.name))
        };
        let mut required = self.inputs.iter().filter(|spec| !spec.optional).peekable();
        if required.peek().is_none() {
            return Some("the model has no inputs".into());
        }
        required
            .find_map(|spec| obstacle("input", spec))
            .or_else(|| self.outputs.iter().find_map(|spec| obstacle("output", spec)))
    }
}

/// Where a tensor's elements are.
pub enum Data {
    /// Memory of the engine's own.
    Owned(Buffer),
    /// Memory of a backend, kept alive by this value.
    Backend(Box<dyn HostBytes>),
    /// Memory of the host, which promised to leave it alone.
    Borrowed(BorrowedBytes),
    /// A device's memory, which the host cannot read.
    Device(DeviceBytes),
    Strings(StringTensor),
}

/// A tensor, row-major.
pub struct Tensor {
    pub dtype: DType,
    pub shape: Shape,
    pub data: Data,
}

impl Tensor {
    /// The elements' bytes; empty for strings, and for what is on a device.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Owned(buffer) => buffer.bytes(),
            Data::Backend(memory) => memory.bytes(),
            Data::Borrowed(memory) => memory.bytes(),
            Data::Device(_) | Data::Strings(_) => &[],
        }
    }

    /// How many bytes the elements have, wherever they are; 0 for strings.
    pub fn size_bytes(&self) -> usize {
        match &self.data {
            Data::Device(memory) => memory.range().size,
            _ => self.bytes().len(),
        }
    }

    /// The size of the first axis; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().map_or(1, |&rows| usize::try_from(rows).unwrap_or(0))
    }
}

/// The number of elements, unless a size is negative or the product overflows.
pub fn element_count(shape: &[i64]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &size| product.checked_mul(usize::try_from(size).ok()?))
}

/// The bytes of a tensor of fixed-size elements; elements smaller than a byte are packed.
pub fn size_bytes(dtype: DType, shape: &[i64]) -> Result<usize> {
    element_count(shape)
        .and_then(|count| count.checked_mul(dtype.bits()))
        .map(|bits| bits.div_ceil(8))
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .ok_or_else(|| {
            Error::new(
                Status::InvalidShape,
                format!("the sizes {shape:?} are negative or their product overflows"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dims: Vec<Dim>) -> TensorSpec {
        TensorSpec::new("x", DType::F32, dims).unwrap()
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(size_bytes(DType::F32, &[2, 3]).unwrap(), 24);
        assert_eq!(size_bytes(DType::F64, &[]).unwrap(), 8);
        assert_eq!(size_bytes(DType::U4, &[3]).unwrap(), 2);
        assert_eq!(size_bytes(DType::F32, &[0, 5]).unwrap(), 0);
        assert!(size_bytes(DType::F32, &[-1]).is_err());
        assert!(size_bytes(DType::F32, &[i64::MAX, i64::MAX]).is_err());
        assert!(size_bytes(DType::U8, &[i64::MAX, 2]).is_err());
    }

    #[test]
    fn shapes_are_held_against_the_specification() {
        let spec = spec(vec![Dim::Symbolic("batch".into()), Dim::Fixed(3)]);
        assert!(spec.check_shape(&[5, 3]).is_ok());
        for bad in [&[5i64, 4][..], &[5], &[0, 3], &[-1, 3], &[1, 3, 1]] {
            let error = spec.check_shape(bad).unwrap_err();
            assert_eq!(error.status, Status::InvalidShape, "{bad:?}");
        }
        assert!(spec.check_shape(&[5, 4]).unwrap_err().message.contains("[batch, 3]"));
    }

    #[test]
    fn a_fixed_first_axis_does_not_batch() {
        let symbolic = spec(vec![Dim::Symbolic(String::new()), Dim::Fixed(3)]);
        let fixed = spec(vec![Dim::Fixed(2), Dim::Fixed(3)]);
        let signature = |inputs: &[&TensorSpec], outputs: &[&TensorSpec]| Signature {
            inputs: inputs.iter().copied().cloned().collect(),
            outputs: outputs.iter().copied().cloned().collect(),
        };
        let obstacle =
            |inputs: &[&TensorSpec], outputs: &[&TensorSpec]| signature(inputs, outputs).batching_obstacle();
        assert_eq!(obstacle(&[&symbolic], &[&symbolic]), None);
        assert_eq!(obstacle(&[&symbolic], &[&fixed]).unwrap(), "output \"x\" has a first axis of fixed size");
        assert_eq!(
            obstacle(&[&symbolic, &fixed], &[&symbolic]).unwrap(),
            "input \"x\" has a first axis of fixed size"
        );
        assert_eq!(obstacle(&[], &[&symbolic]).unwrap(), "the model has no inputs");
        assert_eq!(obstacle(&[&spec(vec![])], &[&symbolic]).unwrap(), "input \"x\" is a scalar");
    }
}
