//! Tensors as C describes them: see `abi::tensor`.

pub use crate::abi::tensor::*;

use super::read::sized;

sized!(blaze_tensor);

#[cfg(test)]
mod tests {
    use crate::tensor::DType;

    #[test]
    fn every_dtype_has_a_constant_of_its_name_and_number() {
        let source = include_str!("../abi/tensor.rs");
        for dtype in DType::ALL {
            let name = dtype.name().to_uppercase();
            let line = format!("pub const BLAZE_DTYPE_{name}: blaze_dtype = {};", dtype.code());
            assert!(source.contains(&line), "{line}");
        }
        assert_eq!(source.matches("\npub const BLAZE_DTYPE_").count(), DType::ALL.len());
    }
}
