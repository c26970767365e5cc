//! The memory that a model's weights will take, told from the table of its file alone.

use crate::gguf::tensor_type::TensorType;
use crate::gguf::{ModelFile, TensorInfo};
use crate::ops::packed_matrix::PackedMatrix;

/// Bytes of all weights once loaded: matrices in panels, vectors as f32. `None` where a tensor is of a type this build
/// cannot compute with.
pub fn weight_bytes(file: &ModelFile) -> Option<u64> {
    file.tensors().try_fold(0u64, |sum, tensor| sum.checked_add(tensor_bytes(tensor)?))
}

fn tensor_bytes(tensor: &TensorInfo) -> Option<u64> {
    let ty = TensorType::from_id(tensor.ggml_type)?.weight_type()?;
    let (k, rest) = tensor.dims.split_first()?;
    let Some((n, stack)) = rest.split_first() else { return k.checked_mul(4) };
    let panels = PackedMatrix::planned_bytes(ty, usize::try_from(*n).ok()?, usize::try_from(*k).ok()?)?;
    stack.iter().try_fold(panels as u64, |bytes, dim| bytes.checked_mul(*dim))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::test_model::TestModel;
    use crate::model::config::ModelConfig;
    use crate::model::weights::Weights;
    use crate::quant::WeightType;

    #[test]
    fn the_planned_bytes_are_those_loaded() {
        for weight_type in WeightType::ALL {
            // Rows that fill no panel; a K and V width that is no multiple of a panel either.
            let model =
                TestModel { hidden: 256, ffn: 512, vocab: 301, head_dim: 64, weight_type, ..TestModel::default() };
            let file = ModelFile::from_bytes(model.build()).expect("valid");
            let config = ModelConfig::from_metadata(file.metadata()).expect("a model");
            let weights = Weights::load(&file, &config, &mut |_| {}).expect("loaded");
            // Two norms a layer and the last one are vectors.
            let vectors = (2 * model.layers + 1) * model.hidden * size_of::<f32>();
            assert_eq!(weight_bytes(&file), Some(weights.bytes() + vectors as u64), "{weight_type}");
        }
    }

    #[test]
    fn experts_count_each_and_unknown_types_are_unknown() {
        let info = |dims: &[u64], ggml_type| TensorInfo {
            name: "x".into(),
            dims: dims.into(),
            ggml_type,
            offset: 0,
            num_bytes: 0,
        };
        // 33 rows are two panels of 32, 64 f32 each, eight times.
        assert_eq!(tensor_bytes(&info(&[64, 33, 8], 0)), Some(8 * 2 * 32 * 64 * 4));
        assert_eq!(tensor_bytes(&info(&[64], 1)), Some(256));
        assert_eq!(tensor_bytes(&info(&[64, 2], 9)), None);
    }
}
