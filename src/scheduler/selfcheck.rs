//! Does a model treat its rows one by one? Asked at load, by running it.
//!
//! A symbolic first axis does not prove it: a model may normalize over the batch, or reshape it. So one row is
//! run alone, and beside two different companions. If what it gives depends on the company, requests must not
//! be joined.

use crate::backend::{Interrupt, Model};
use crate::error::Result;
use crate::memory::Pool;
use crate::tensor::{
    Buffer, DType, Data, Dim, Shape, StringTensor, Tensor, TensorSpec, element_count, size_bytes,
};
use std::sync::Arc;

/// Sizes tried for axes other than the first that may have any size.
const AXIS_SIZES: [i64; 3] = [2, 8, 1];

/// What the check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Independent,
    /// Requests must run alone, for this reason.
    Alone(String),
}

/// Runs the model on made-up rows and compares. Declared shapes must allow batching already.
pub fn rows_are_independent(model: &dyn Model, pool: &Arc<Pool>, interrupt: &Interrupt) -> Verdict {
    let mut failure = String::new();
    for size in AXIS_SIZES {
        match compare(model, pool, size, interrupt) {
            Ok(verdict) => return verdict,
            Err(error) => failure = error.message,
        }
    }
    Verdict::Alone(format!("the self-check could not run the model on made-up input ({failure})"))
}

/// Runs the model once on made-up input of `rows` rows, so that the first request finds everything in place.
pub fn warm_up(model: &dyn Model, pool: &Arc<Pool>, rows: usize, interrupt: &Interrupt) -> Result<()> {
    let seeds: Vec<u64> = (1..=rows as u64).collect();
    let mut last = Ok(());
    for size in AXIS_SIZES {
        last = run(model, pool, size, &seeds, interrupt).map(drop);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Runs the model on one made-up row for each seed; a fixed first axis keeps its size.
fn run(
    model: &dyn Model,
    pool: &Arc<Pool>,
    axis_size: i64,
    seeds: &[u64],
    interrupt: &Interrupt,
) -> Result<Vec<Tensor>> {
    let inputs: Result<Vec<Option<Tensor>>> = model
        .signature()
        .inputs
        .iter()
        .map(|spec| if spec.optional { Ok(None) } else { made_up(spec, pool, axis_size, seeds).map(Some) })
        .collect();
    model.run(&inputs?, interrupt)
}

fn compare(model: &dyn Model, pool: &Arc<Pool>, axis_size: i64, interrupt: &Interrupt) -> Result<Verdict> {
    let run = |seeds: &[u64]| run(model, pool, axis_size, seeds, interrupt);
    let (alone, first, second) = (run(&[1])?, run(&[1, 2])?, run(&[1, 3])?);
    for (index, spec) in model.signature().outputs.iter().enumerate() {
        let (alone, first, second) = (&alone[index], &first[index], &second[index]);
        if alone.rows() != 1
            || first.rows() != 2
            || second.rows() != 2
            || alone.shape.get(1..) != first.shape.get(1..)
        {
            return Ok(Verdict::Alone(format!("output {:?} does not have one row per input row", spec.name)));
        }
        let half = |tensor: &Tensor| tensor.bytes()[..tensor.bytes().len() / 2].to_vec();
        let (beside_second, beside_third) = (half(first), half(second));
        // The same shapes run the same kernels: only rounding in another order may differ.
        // Another batch size may take other kernels, hence the wider bound.
        if !close(spec.dtype, &beside_second, &beside_third, 1e-5)
            || !close(spec.dtype, alone.bytes(), &beside_second, 2e-2)
        {
            return Ok(Verdict::Alone(format!(
                "a row of output {:?} depends on the rows beside it",
                spec.name
            )));
        }
    }
    Ok(Verdict::Independent)
}

/// A tensor with one row for each seed, filled from it. Without a symbolic first axis the first seed fills it all.
fn made_up(spec: &TensorSpec, pool: &Arc<Pool>, axis_size: i64, seeds: &[u64]) -> Result<Tensor> {
    let mut shape: Shape = spec
        .dims
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbolic(_) => axis_size,
        })
        .collect();
    let rows = if spec.first_axis_is_symbolic() { seeds.len() } else { 1 };
    if spec.first_axis_is_symbolic() {
        shape[0] = rows as i64;
    }
    if spec.dtype == DType::String {
        let texts = vec![&b"a"[..]; element_count(&shape).unwrap_or(0)];
        let data = Data::Strings(StringTensor::copy_of(texts.into_iter())?);
        return Ok(Tensor { dtype: spec.dtype, shape, data });
    }
    let mut buffer = Buffer::zeroed(pool, size_bytes(spec.dtype, &shape)?)?;
    let element = spec.dtype.whole_bytes().unwrap_or(1);
    let row = (buffer.bytes().len() / rows.max(1)).max(1);
    for (row, &seed) in buffer.bytes_mut().chunks_mut(row).zip(seeds) {
        // A multiplicative generator is plenty here: rows only have to differ.
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for place in row.chunks_exact_mut(element) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            encode(spec.dtype, (state >> 40) as u32, place);
        }
    }
    Ok(Tensor { dtype: spec.dtype, shape, data: Data::Owned(buffer) })
}

/// Writes one element: reals in [-1, 1); whole numbers 0 or 1, which are valid as an index of almost any table.
fn encode(dtype: DType, random: u32, place: &mut [u8]) {
    let real = f64::from(random & 0xFFFF) / 32_768.0 - 1.0;
    match dtype {
        DType::F32 => place.copy_from_slice(&(real as f32).to_ne_bytes()),
        DType::F64 => place.copy_from_slice(&real.to_ne_bytes()),
        DType::F16 => place.copy_from_slice(&half::f16::from_f64(real).to_ne_bytes()),
        DType::Bf16 => place.copy_from_slice(&half::bf16::from_f64(real).to_ne_bytes()),
        _ if cfg!(target_endian = "little") => place[0] = (random >> 8) as u8 & 1,
        _ => {
            if let Some(last) = place.last_mut() {
                *last = (random >> 8) as u8 & 1;
            }
        }
    }
}

/// Whether two runs of elements are the same: reals to `tolerance` of the largest of them, others exactly.
fn close(dtype: DType, a: &[u8], b: &[u8], tolerance: f64) -> bool {
    let tolerance = if matches!(dtype, DType::F16 | DType::Bf16) { tolerance.max(5e-2) } else { tolerance };
    let (Some(a), Some(b)) = (reals(dtype, a), reals(dtype, b)) else { return a == b };
    let largest = a
        .iter()
        .chain(&b)
        .filter(|value| value.is_finite())
        .fold(0.0f64, |most, value| most.max(value.abs()));
    a.len() == b.len()
        && a.iter()
            .zip(&b)
            .all(|(a, b)| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * largest)
}

fn reals(dtype: DType, bytes: &[u8]) -> Option<Vec<f64>> {
    fn each<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| decode(*chunk)).collect()
    }
    match dtype {
        DType::F32 => Some(each(bytes, |b| f64::from(f32::from_ne_bytes(b)))),
        DType::F64 => Some(each(bytes, f64::from_ne_bytes)),
        DType::F16 => Some(each(bytes, |b| half::f16::from_ne_bytes(b).to_f64())),
        DType::Bf16 => Some(each(bytes, |b| half::bf16::from_ne_bytes(b).to_f64())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closeness_is_relative_to_the_largest_element() {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<u8>>();
        assert!(close(DType::F32, &bytes(&[100.0, 0.0]), &bytes(&[100.0, 1e-4]), 1e-5));
        assert!(!close(DType::F32, &bytes(&[100.0, 0.0]), &bytes(&[100.0, 1e-2]), 1e-5));
        assert!(close(DType::F32, &bytes(&[f32::NAN]), &bytes(&[f32::NAN]), 1e-5));
        assert!(!close(DType::F32, &bytes(&[f32::NAN]), &bytes(&[1.0]), 1e-5));
        assert!(!close(DType::I64, &[1], &[2], 1.0));
    }
}
