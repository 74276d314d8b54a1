//! Joins the inputs of several requests along the first axis.

use super::queue::JoinKey;
use crate::error::Result;
use crate::tensor::{Buffer, Data, Shape, Tensor, TensorSpec};

/// One request's inputs, in the order of the model's signature.
pub type Inputs = Vec<Option<Tensor>>;

/// What requests must have in common to be joined; `None` if this one cannot be.
pub fn key(inputs: &[Option<Tensor>], specs: &[TensorSpec]) -> Option<JoinKey> {
    let mut key = JoinKey::new();
    for (tensor, spec) in inputs.iter().zip(specs) {
        match tensor {
            // Of an optional input that is given nobody knows whether it belongs to the rows or to the batch.
            Some(_) if spec.optional => return None,
            Some(tensor) if matches!(tensor.data, Data::Strings(_)) => return None,
            Some(tensor) => key.extend_from_slice(tensor.shape.get(1..)?),
            None => {}
        }
        key.push(-1); // so that [2],[3] and [2,3],[] differ
    }
    Some(key)
}

/// One batch out of requests with the same key, in order.
pub fn join(requests: &[Inputs]) -> Result<Inputs> {
    let count = requests.first().map_or(0, Vec::len);
    (0..count).map(|index| join_one(requests.iter().filter_map(|inputs| inputs[index].as_ref()))).collect()
}

fn join_one<'a>(parts: impl Iterator<Item = &'a Tensor> + Clone) -> Result<Option<Tensor>> {
    let Some(first) = parts.clone().next() else { return Ok(None) };
    let mut shape: Shape = first.shape.clone();
    shape[0] = parts.clone().map(|part| part.shape[0]).sum();
    let mut buffer = Buffer::zeroed(parts.clone().map(|part| part.bytes().len()).sum())?;
    let mut rest = buffer.bytes_mut();
    for part in parts {
        let (to, after) = rest.split_at_mut(part.bytes().len());
        to.copy_from_slice(part.bytes());
        rest = after;
    }
    Ok(Some(Tensor { dtype: first.dtype, shape, data: Data::Owned(buffer) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn tensor(shape: &[i64], bytes: &[u8]) -> Option<Tensor> {
        let data = Data::Owned(Buffer::copy_of(bytes).unwrap());
        Some(Tensor { dtype: DType::U8, shape: Shape::from_slice(shape), data })
    }

    #[test]
    fn rows_are_laid_one_after_the_other() {
        let joined = join(&[
            vec![tensor(&[1, 2], &[1, 2]), tensor(&[1], &[9])],
            vec![tensor(&[2, 2], &[3, 4, 5, 6]), tensor(&[2], &[8, 7])],
        ])
        .unwrap();
        let (first, second) = (joined[0].as_ref().unwrap(), joined[1].as_ref().unwrap());
        assert_eq!((first.shape.as_slice(), first.bytes()), (&[3i64, 2][..], &[1u8, 2, 3, 4, 5, 6][..]));
        assert_eq!((second.shape.as_slice(), second.bytes()), (&[3i64][..], &[9u8, 8, 7][..]));
    }

    #[test]
    fn keys_tell_shapes_apart() {
        let spec = |optional| TensorSpec { optional, ..TensorSpec::new("x", DType::U8, vec![]).unwrap() };
        let key = |shapes: &[&[i64]]| {
            let inputs: Vec<_> = shapes.iter().map(|shape| tensor(shape, &[])).collect();
            super::key(&inputs, &[spec(false), spec(false)])
        };
        assert_eq!(key(&[&[1, 2], &[1]]), key(&[&[5, 2], &[5]]));
        assert_ne!(key(&[&[1, 2], &[1]]), key(&[&[1], &[1, 2]]));
        assert_ne!(key(&[&[1, 2]]), key(&[&[1, 3]]));
        assert_eq!(key(&[&[]]), None);
        let optional = [spec(false), spec(true)];
        assert!(super::key(&[tensor(&[1], &[]), None], &optional).is_some());
        assert_eq!(super::key(&[tensor(&[1], &[]), tensor(&[1], &[])], &optional), None);
    }
}
