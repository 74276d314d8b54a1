//! What a run of some size does: how much is copied, and which kernels are launched with what. Worked out once for each size.

use crate::driver::Address;
use crate::expression::Sizes;
use crate::failure::{Failure, Result};
use crate::manifest::{Argument, Geometry, Manifest, Tensor};
use std::cell::RefCell;
use std::ffi::c_void;

/// Tensors in one block begin at multiples of this, as every allocation of the driver's does.
const ALIGNMENT: u64 = 256;

/// Where a run's tensors are on the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub inputs: Vec<Address>,
    pub outputs: Vec<Address>,
    pub buffers: Vec<Address>,
    pub weights: Address,
}

/// Bytes of a run's tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub inputs: Vec<u64>,
    pub outputs: Vec<u64>,
    pub buffers: Vec<u64>,
}

impl Amounts {
    pub fn of(manifest: &Manifest, sizes: &Sizes) -> Result<Self> {
        let all = |tensors: &[Tensor]| {
            tensors
                .iter()
                .map(|tensor| tensor.bytes(sizes))
                .collect::<std::result::Result<_, _>>()
                .map_err(Failure::shape)
        };
        Ok(Amounts {
            inputs: all(&manifest.inputs)?,
            outputs: all(&manifest.outputs)?,
            buffers: all(&manifest.buffers)?,
        })
    }

    /// Whether all of this has room where that has.
    pub fn fits(&self, room: &Amounts) -> bool {
        let fits = |these: &[u64], those: &[u64]| these.iter().zip(those).all(|(this, that)| this <= that);
        fits(&self.inputs, &room.inputs)
            && fits(&self.outputs, &room.outputs)
            && fits(&self.buffers, &room.buffers)
    }

    /// Places one after the other from 0 on, and what they take altogether.
    pub fn places(&self) -> Result<(Addresses, usize)> {
        let mut end = 0u64;
        let mut place = |bytes: &u64| {
            let at = end;
            end = at.checked_add(*bytes)?.checked_next_multiple_of(ALIGNMENT)?;
            Some(at)
        };
        let mut all = |amounts: &[u64]| amounts.iter().map(&mut place).collect::<Option<Vec<u64>>>();
        let (inputs, outputs, buffers) = (all(&self.inputs), all(&self.outputs), all(&self.buffers));
        let too_large = || Failure::shape("the tensors take more memory than there can be");
        let (Some(inputs), Some(outputs), Some(buffers)) = (inputs, outputs, buffers) else {
            return Err(too_large());
        };
        let bytes = usize::try_from(end).map_err(|_| too_large())?;
        Ok((Addresses { inputs, outputs, buffers, weights: 0 }, bytes))
    }
}

impl Addresses {
    /// Places from 0 on, moved to a block.
    pub fn within(mut self, block: Address, weights: Address) -> Self {
        let lists = [&mut self.inputs, &mut self.outputs, &mut self.buffers];
        lists.into_iter().flatten().for_each(|address| *address += block);
        self.weights = weights;
        self
    }
}

pub struct Plan {
    pub amounts: Amounts,
    pub launches: Vec<Launch>,
}

/// A kernel, how it is launched, and the values of its parameters.
pub struct Launch {
    pub kernel: usize,
    pub geometry: Geometry,
    _values: Box<[u64]>,
    /// Pointers to the values, as the driver wants them.
    pub parameters: Box<[*mut c_void]>,
}

// SAFETY: the pointers are to its own values, which do not move with it and are only read.
unsafe impl Send for Launch {}

impl Plan {
    pub fn new(manifest: &Manifest, sizes: &Sizes, addresses: &Addresses) -> Result<Self> {
        let amounts = Amounts::of(manifest, sizes)?;
        let mut launches = Vec::new();
        for (index, kernel) in manifest.kernels.iter().enumerate() {
            let geometry = kernel.geometry(sizes).map_err(Failure::shape)?;
            let mut values = Vec::new();
            for (place, argument) in kernel.arguments.iter().enumerate() {
                let value = value(manifest, argument, sizes, addresses).map_err(|error| {
                    Failure::shape(format!("{}.arguments[{place}]: {error}", kernel.path))
                })?;
                values.push(value);
            }
            let mut values = values.into_boxed_slice();
            let parameters = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
            launches.push(Launch { kernel: index, geometry, _values: values, parameters });
        }
        Ok(Plan { amounts, launches })
    }
}

/// The most parameters that a kernel may have, of a byte each, and the most bytes of one.
const MOST_PARAMETERS: usize = 32_764;
static ZEROS: [u64; MOST_PARAMETERS.div_ceil(8)] = [0; MOST_PARAMETERS.div_ceil(8)];

thread_local! {
    /// Pointers to zeros, as many as a kernel may want.
    static ENOUGH: RefCell<Vec<*mut c_void>> = const { RefCell::new(Vec::new()) };
}

/// Passes parameters on with as many zeros after them as a kernel may want, of which nobody can say how many it takes: a driver
/// reads as many pointers as that.
pub fn with_enough<T>(parameters: &[*mut c_void], work: impl FnOnce(*mut *mut c_void) -> T) -> T {
    ENOUGH.with_borrow_mut(|enough| {
        let zeros = ZEROS.as_ptr().cast_mut().cast();
        enough.resize(MOST_PARAMETERS.max(parameters.len()), zeros);
        enough[..parameters.len()].copy_from_slice(parameters);
        let done = work(enough.as_mut_ptr());
        enough[..parameters.len()].fill(zeros);
        done
    })
}

/// The bits of a parameter's value, the first bytes of which are its own.
fn value(
    manifest: &Manifest,
    argument: &Argument,
    sizes: &Sizes,
    addresses: &Addresses,
) -> std::result::Result<u64, String> {
    let at =
        |list: &[Address], index: usize| list.get(index).copied().ok_or_else(|| "is not there".to_owned());
    let within = |value: u64, most: u64| match value <= most {
        true => Ok(value),
        false => Err(format!("{value} is more than {most}")),
    };
    match argument {
        Argument::Input(index) => at(&addresses.inputs, *index),
        Argument::Output(index) => at(&addresses.outputs, *index),
        Argument::Buffer(index) => at(&addresses.buffers, *index),
        Argument::Weight(index) => {
            let weight = manifest.weights.get(*index).ok_or_else(|| "is not there".to_owned())?;
            Ok(addresses.weights + weight.offset)
        }
        Argument::U32(size) => within(size.value(sizes)?, u64::from(u32::MAX)),
        Argument::I32(size) => within(size.value(sizes)?, i32::MAX as u64),
        Argument::U64(size) => size.value(sizes),
        Argument::I64(size) => within(size.value(sizes)?, i64::MAX as u64),
        Argument::F32(number) => Ok(u64::from(number.to_bits())),
        Argument::F64(number) => Ok(number.to_bits()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest::parse(
            r#"{"module": "m.ptx", "inputs": [{"name": "x", "dtype": "f32", "shape": ["batch", 3]}],
             "outputs": [{"name": "y", "dtype": "f16", "shape": ["batch"]}],
             "buffers": [{"name": "t", "dtype": "f64", "shape": ["batch", 100]}],
             "weights": {"file": "w", "tensors": [{"name": "w", "dtype": "f32", "shape": [4], "offset": 8}]},
             "kernels": [{"name": "k", "grid": [{"ceil_div": ["batch", 2]}], "block": [32], "arguments": [
                {"input": "x"}, {"output": "y"}, {"buffer": "t"}, {"weight": "w"}, {"u32": {"mul": ["batch", 3]}}, {"i64": "batch"},
                {"f32": -0.5}, {"f64": 2}, {"i32": {"mul": ["batch", 1000000000]}}]}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn places_do_not_overlap_and_are_aligned() {
        let manifest = manifest();
        let amounts = Amounts::of(&manifest, &manifest.sizes(&[&[5, 3]]).unwrap()).unwrap();
        assert_eq!(amounts, Amounts { inputs: vec![60], outputs: vec![10], buffers: vec![4000] });
        let (places, bytes) = amounts.places().unwrap();
        assert_eq!((places.inputs[0], places.outputs[0], places.buffers[0], bytes), (0, 256, 512, 4608));
        let smaller = Amounts::of(&manifest, &manifest.sizes(&[&[4, 3]]).unwrap()).unwrap();
        assert!(smaller.fits(&amounts) && !amounts.fits(&smaller));
        assert!(Amounts { inputs: vec![u64::MAX, 1], ..amounts }.places().is_err());
    }

    #[test]
    fn kernels_are_passed_what_the_manifest_says() {
        let manifest = manifest();
        let addresses = Addresses {
            inputs: vec![1 << 40],
            outputs: vec![2 << 40],
            buffers: vec![3 << 40],
            weights: 4 << 40,
        };
        let plan = Plan::new(&manifest, &manifest.sizes(&[&[2, 3]]).unwrap(), &addresses).unwrap();
        let launch = &plan.launches[0];
        assert_eq!(launch.geometry.grid, [1, 1, 1]);
        // SAFETY: each points to a value of the launch.
        let values: Vec<u64> =
            launch.parameters.iter().map(|at| unsafe { at.cast::<u64>().read() }).collect();
        let f32_bits = u64::from((-0.5f32).to_bits());
        let expected =
            [1 << 40, 2 << 40, 3 << 40, (4 << 40) + 8, 6, 2, f32_bits, 2f64.to_bits(), 2_000_000_000];
        assert_eq!(values, expected);
        let failure = Plan::new(&manifest, &manifest.sizes(&[&[3, 3]]).unwrap(), &addresses).err().unwrap();
        assert!(
            failure.text.contains("kernels[0].arguments[8]: 3000000000 is more than 2147483647"),
            "{}",
            failure.text
        );
        let moved = Addresses { inputs: vec![0], outputs: vec![256], ..Addresses::default() }.within(1000, 7);
        assert_eq!((moved.inputs[0], moved.outputs[0], moved.weights), (1000, 1256, 7));
    }

    #[test]
    fn missing_parameters_are_zeros() {
        let mut value = 7u64;
        for count in [1, 0, 1] {
            let parameters = vec![(&raw mut value).cast::<c_void>(); count];
            let read = with_enough(&parameters, |pointers| {
                let all = [0, 1, MOST_PARAMETERS - 1];
                // SAFETY: there are so many, each to a value or zeros.
                all.map(|at| unsafe { pointers.add(at).read().cast::<u64>().read() })
            });
            assert_eq!(read, [if count == 1 { 7 } else { 0 }, 0, 0]);
        }
    }
}
