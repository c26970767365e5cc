use super::*;
use crate::gguf::ModelFile;
use crate::quant::dequantize_row;

fn f32s(file: &ModelFile, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).expect("the tensor is there");
    let ty = tensor.weight_type().expect("a type we know");
    let mut out = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
    dequantize_row(ty, tensor.data, &mut out);
    out
}

fn open(model: &TestModel) -> ModelFile {
    ModelFile::from_bytes(model.build()).expect("a valid file")
}

fn deviation(x: &[f32]) -> f32 {
    (x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64).sqrt() as f32
}

#[test]
fn default_model_has_the_keys_and_tensors_of_its_shape() {
    let file = open(&TestModel::default());
    let m = file.metadata();
    assert_eq!(m.require_str("general.architecture").unwrap(), "llama");
    assert_eq!(m.require_u32("llama.embedding_length").unwrap(), 64);
    assert_eq!(m.require_u32("llama.attention.head_count_kv").unwrap(), 2);
    assert_eq!(m.require_f32("llama.rope.freq_base").unwrap(), 10_000.0);
    assert_eq!(m.u32("llama.attention.key_length").unwrap(), None);
    let tokens: Vec<&str> = m.strings("tokenizer.ggml.tokens").unwrap().expect("tokens").collect();
    assert_eq!(tokens.len(), 320);
    assert_eq!((tokens[1], tokens[3], tokens[258], tokens[259]), ("<s>", "<0x00>", "<0xFF>", "\u{2581}"));
    assert_eq!(m.f32s("tokenizer.ggml.scores").unwrap().expect("scores").len(), 320);
    assert_eq!(m.i32s("tokenizer.ggml.token_type").unwrap().expect("types")[..4], [2, 3, 3, 6]);
    assert_eq!(file.tensors().len(), 3 + 2 * 9);
    assert_eq!(file.tensor("blk.1.ffn_down.weight").expect("ffn_down").dims, [128, 64]);
    assert_eq!(file.tensor("blk.0.attn_k.weight").expect("attn_k").dims, [64, 32]);
    assert!(file.tensor("blk.2.attn_k.weight").is_none());
}

#[test]
fn optional_parts_follow_the_description() {
    let model = TestModel {
        tied: true,
        head_dim: 8,
        rope_scaling: RopeScaling::FreqFactors(vec![1.0, 2.0, 4.0, 8.0]),
        ..TestModel::default()
    };
    let file = open(&model);
    assert!(file.tensor("output.weight").is_none());
    assert_eq!(file.metadata().require_u32("llama.attention.key_length").unwrap(), 8);
    assert_eq!(f32s(&file, "rope_freqs.weight"), [1.0, 2.0, 4.0, 8.0]);
    let linear = open(&TestModel { rope_scaling: RopeScaling::Linear(4.0), ..TestModel::default() });
    assert_eq!(linear.metadata().require_f32("llama.rope.scaling.factor").unwrap(), 4.0);
    assert_eq!(linear.metadata().require_str("llama.rope.scaling.type").unwrap(), "linear");
}

#[test]
fn weights_have_the_deviation_of_their_fan_in() {
    let file = open(&TestModel::default());
    assert!((deviation(&f32s(&file, "blk.0.ffn_up.weight")) - 0.125).abs() < 0.005);
    assert!((deviation(&f32s(&file, "token_embd.weight")) - 1.0).abs() < 0.02);
    let norm = f32s(&file, "blk.0.attn_norm.weight");
    assert!(norm.iter().all(|v| (0.5..1.5).contains(v)) && norm.iter().any(|v| (v - 1.0).abs() > 0.05));
}

#[test]
fn the_same_seed_gives_the_same_file_and_another_seed_another() {
    let model = TestModel::default();
    assert_eq!(model.build(), model.build());
    assert_ne!(model.build(), TestModel { seed: 43, ..model.clone() }.build());
    let file = open(&model);
    assert_ne!(f32s(&file, "blk.0.attn_q.weight"), f32s(&file, "blk.1.attn_q.weight"));
}

#[test]
fn every_weight_type_is_the_f32_model_rounded() {
    let exact = f32s(&open(&TestModel::default()), "blk.0.attn_q.weight");
    for (weight_type, relative) in [(WeightType::F16, 1e-3), (WeightType::BF16, 8e-3), (WeightType::Q8_0, 8e-3)] {
        let rounded = f32s(&open(&TestModel { weight_type, ..TestModel::default() }), "blk.0.attn_q.weight");
        let worst = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst < relative, "{weight_type}: {worst}");
    }
}

#[test]
fn matrices_may_be_of_several_types() {
    let other_types = vec![("ffn_down", WeightType::Q6K), ("attn_v", WeightType::F16)];
    let model = TestModel {
        hidden: 256,
        ffn: 512,
        heads: 16,
        weight_type: WeightType::Q4K,
        odd_rows_as: Some(WeightType::Q8_0),
        other_types,
        ..TestModel::default()
    };
    let file = open(&model);
    let ty = |name: &str| file.tensor(name).expect("there").weight_type().expect("known");
    assert_eq!(ty("blk.0.ffn_up.weight"), WeightType::Q4K);
    assert_eq!(ty("blk.1.ffn_down.weight"), WeightType::Q6K);
    assert_eq!(ty("blk.1.attn_v.weight"), WeightType::F16);
    let narrow = TestModel { ffn: 320, ..model };
    let file = open(&narrow);
    assert_eq!(file.tensor("blk.1.ffn_down.weight").expect("there").weight_type().expect("known"), WeightType::Q8_0);
}

#[test]
fn large_matrices_of_super_blocks_come_from_the_pool() {
    let model = TestModel {
        hidden: 256,
        vocab: 5000,
        head_dim: 64,
        layers: 0,
        weight_type: WeightType::Q6K,
        ..TestModel::default()
    };
    let embedding = f32s(&open(&model), "token_embd.weight");
    assert!((deviation(&embedding) - 1.0).abs() < 0.01);
    assert_ne!(embedding[..256], embedding[256..512]);
}

#[test]
fn large_matrices_come_from_the_pool_without_equal_rows() {
    let (hidden, vocab) = (256usize, 40_000usize);
    let model =
        TestModel { hidden, vocab, head_dim: 64, layers: 0, weight_type: WeightType::F16, ..TestModel::default() };
    let embedding = f32s(&open(&model), "token_embd.weight");
    assert!((deviation(&embedding) - 1.0).abs() < 0.01);
    let mut rows: Vec<&[f32]> = embedding.chunks(hidden).collect();
    rows.sort_unstable_by(|a, b| a.partial_cmp(b).expect("numbers"));
    assert!(rows.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn shapes_that_a_type_cannot_hold_are_refused_with_the_tensor() {
    let model = TestModel { hidden: 48, head_dim: 12, weight_type: WeightType::Q8_0, ..TestModel::default() };
    let error = model.write(&mut Vec::new()).expect_err("rows of 48");
    assert!(error.to_string().contains("token_embd.weight"), "{error}");
}

#[test]
fn edits_change_what_they_name() {
    let model = TestModel::default()
        .with_key_removed("llama.block_count")
        .with_key("llama.context_length", Value::Str("long".into()))
        .with_tensor_removed("output.weight")
        .with_tensor_dims("output_norm.weight", &[32, 2])
        .with_tensor_type("blk.0.attn_q.weight", 9)
        .with_tensor_data("blk.0.attn_norm.weight", &[0xff; 256])
        .with_extra_tensor("extra", &[256, 2], 12);
    let file = open(&model);
    assert!(!file.metadata().contains("llama.block_count"));
    assert!(file.metadata().require_u32("llama.context_length").is_err());
    assert!(file.tensor("output.weight").is_none());
    assert_eq!(file.tensor("output_norm.weight").expect("there").dims, [32, 2]);
    let error = file.tensor("blk.0.attn_q.weight").expect("there").weight_type().expect_err("Q8_1");
    assert_eq!(error.to_string(), "tensor blk.0.attn_q.weight: type Q8_1 is not supported yet");
    assert!(f32s(&file, "blk.0.attn_norm.weight")[0].is_nan());
    assert_eq!(file.tensor("extra").expect("there").data.len(), 288);
}
