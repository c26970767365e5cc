//! Files that parse and yet describe no model we can run: each is refused with an error that names the key or tensor.
//!
//! The cases are those of well-known crashes of GGUF readers: zero and huge counts, heads that do not divide, scalars
//! that are not finite, tensors that are missing or of another shape.

use llorch_cpud::gguf::ModelFile;
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::gguf::writer::Value;
use llorch_cpud::model::config::ModelConfig;
use llorch_cpud::model::weights::Weights;

/// What loading says.
fn load(model: &TestModel) -> Result<(), String> {
    let file = ModelFile::from_bytes(model.build()).map_err(|e| e.to_string())?;
    let config = ModelConfig::from_metadata(file.metadata()).map_err(|e| e.to_string())?;
    Weights::load(&file, &config, &mut |_| {}).map(|_| ()).map_err(|e| e.to_string())
}

fn refused(model: &TestModel, named: &str) {
    match load(model) {
        Ok(()) => panic!("{named}: loaded"),
        Err(error) => {
            assert!(error.contains(named), "{named}: the error does not name it: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}

fn base() -> TestModel {
    TestModel::default()
}

#[test]
fn the_base_loads() {
    assert_eq!(load(&base()), Ok(()));
}

const REQUIRED: [&str; 7] = [
    "general.architecture",
    "llama.context_length",
    "llama.embedding_length",
    "llama.block_count",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.layer_norm_rms_epsilon",
];

#[test]
fn each_required_key_missing_is_named() {
    for key in REQUIRED {
        refused(&base().with_key_removed(key), key);
    }
}

#[test]
fn counts_of_zero_huge_negative_or_of_another_type_are_named() {
    let counts = REQUIRED.iter().filter(|k| k.starts_with("llama.") && !k.ends_with("epsilon"));
    for key in counts.chain(&["llama.attention.head_count_kv", "llama.rope.dimension_count"]) {
        let bad = [
            Value::U32(0),
            Value::U32(u32::MAX),
            Value::I32(-1),
            Value::U64(1 << 40),
            Value::F32(4.0),
            Value::Bool(true),
            Value::Str("4".into()),
            Value::U32s(vec![4]),
        ];
        for value in bad {
            refused(&base().with_key(key, value), key);
        }
    }
}

#[test]
fn heads_that_do_not_divide_are_refused() {
    refused(&base().with_key("llama.attention.head_count_kv", 3u32), "llama.attention.head_count_kv");
    refused(&base().with_key("llama.attention.head_count", 3u32), "llama.attention.head_count");
    refused(&base().with_key("llama.attention.key_length", 512u32), "llama.attention.key_length");
    refused(
        &base().with_key("llama.attention.key_length", 16u32).with_key("llama.attention.value_length", 8u32),
        "llama.attention.value_length",
    );
}

#[test]
fn odd_or_wide_rotations_are_refused() {
    for rotated in [7u32, 18, 64] {
        refused(&base().with_key("llama.rope.dimension_count", rotated), "llama.rope.dimension_count");
    }
}

#[test]
fn scalars_that_are_not_finite_or_out_of_range_are_refused() {
    for key in ["llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon"] {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
            refused(&base().with_key(key, value), key);
        }
        refused(&base().with_key(key, "1"), key);
    }
    refused(&base().with_key("llama.rope.freq_base", 0.0f32), "llama.rope.freq_base");
    refused(&base().with_key("llama.attention.layer_norm_rms_epsilon", 1e38f32), "layer_norm_rms_epsilon");
    let linear = base().with_key("llama.rope.scaling.type", "linear");
    for factor in [0.0f32, f32::NAN, -2.0] {
        refused(&linear.clone().with_key("llama.rope.scaling.factor", factor), "llama.rope.scaling.factor");
    }
}

#[test]
fn kinds_that_are_not_built_are_refused_by_name() {
    refused(&base().with_key("general.architecture", "mamba"), "mamba");
    refused(&base().with_key("general.architecture", ""), "general.architecture");
    refused(&base().with_key("general.architecture", "x".repeat(1 << 20).as_str()), "general.architecture");
    refused(&base().with_key("llama.rope.scaling.type", "dynamic"), "dynamic");
    refused(&base().with_key("llama.rope.scaling.type", "\x1b[2Jdynamic"), "\\u{1b}[2Jdynamic");
    refused(&base().with_extra_tensor("blk.0.attn_sinks.bias", &[64], 0), "blk.0.attn_sinks.bias");
    refused(&base().with_extra_tensor("blk.0.attn_sub_norm.weight", &[64], 0), "blk.0.attn_sub_norm.weight");
    refused(&base().with_extra_tensor("blk.0.attn_q.bias", &[63], 0), "blk.0.attn_q.bias");
    refused(&base().with_extra_tensor("blk.0.ffn_gate_exps.weight", &[64, 8], 0), "blk.0.ffn_gate_exps.weight");
}

#[test]
fn tensors_missing_or_of_another_shape_are_named() {
    let names = [
        "token_embd.weight",
        "output_norm.weight",
        "blk.1.attn_norm.weight",
        "blk.1.attn_q.weight",
        "blk.1.attn_k.weight",
        "blk.1.attn_v.weight",
        "blk.1.attn_output.weight",
        "blk.1.ffn_norm.weight",
        "blk.1.ffn_gate.weight",
        "blk.1.ffn_up.weight",
        "blk.1.ffn_down.weight",
    ];
    for name in names {
        refused(&base().with_tensor_removed(name), name);
        refused(&base().with_tensor_dims(name, &[63, 3]), name);
    }
    refused(&base().with_tensor_dims("blk.0.ffn_down.weight", &[64, 128]), "blk.0.ffn_down.weight");
    refused(&base().with_key("llama.block_count", 4096u32), "blk.2.");
}

#[test]
fn tensor_types_that_do_not_compute_are_named() {
    // Q4_K is 12, I32 is 26 in the format's numbering.
    refused(&base().with_tensor_type("blk.0.attn_q.weight", 26), "blk.0.attn_q.weight");
    let q4_k = base().with_extra_tensor("blk.9.attn_q.weight", &[256, 1], 12);
    assert!(load(&q4_k).is_ok(), "a tensor that is not used may be of any type");
}

#[test]
fn rope_factors_must_be_finite_and_positive() {
    for bad in [0.0f32, f32::NAN, -1.0] {
        let mut bytes = vec![0u8; 0];
        (0..8).for_each(|i| bytes.extend(if i == 3 { bad } else { 1.0 }.to_le_bytes()));
        let model =
            base().with_extra_tensor("rope_freqs.weight", &[8], 0).with_tensor_data("rope_freqs.weight", &bytes);
        refused(&model, "rope_freqs.weight");
    }
}
