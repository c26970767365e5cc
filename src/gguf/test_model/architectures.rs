//! A small model of every architecture: what distinguishes it from [`TestModel::default`], which is a Llama.
//!
//! Keys and tensors are those that llama.cpp loads for the architecture. Constants are chosen so that leaving one out
//! is seen: soft caps within the reach of the values, windows shorter than a short prompt, scales far from 1.

use super::layout::{Layout, QkNorm};
use super::{RopeScaling, TestModel};
use crate::gguf::writer::Value;

impl TestModel {
    /// Names that [`TestModel::of`] takes: those of GGUF, and `mixtral` for a `llama` with experts.
    pub const ARCHITECTURES: [&'static str; 14] = [
        "llama",
        "mixtral",
        "gpt2",
        "qwen2",
        "qwen3",
        "qwen3moe",
        "phi3",
        "gemma",
        "gemma2",
        "gemma3",
        "stablelm",
        "granite",
        "olmo2",
        "starcoder2",
    ];

    /// Further names that [`TestModel::of`] takes: other forms in which files of these architectures come.
    pub const VARIANTS: [&'static str; 5] =
        ["llama-yarn", "llama-biases", "phi3-long", "stablelm-parallel", "olmo2-windows"];

    /// A small valid model of an architecture or a variant: hidden 64, vocabulary of 320, context of 256, F32; two
    /// layers, or as many as it takes to have local and global ones. `None` for another name.
    pub fn of(name: &str) -> Option<Self> {
        let mut model = match name {
            "llama" => Self::default(),
            "mixtral" => Self { experts: 8, experts_used: 2, ffn: 96, ..Self::default() },
            "llama-yarn" => {
                let rope_scaling = RopeScaling::Yarn { factor: 4.0, original_context: 64 };
                Self { rope_scaling, ..Self::default() }
            }
            "llama-biases" => {
                let layout =
                    Layout { fused_qkv: true, qkv_bias: true, output_bias: true, ffn_bias: true, ..Layout::LLAMA };
                Self { layout, ..Self::default() }
            }
            "gpt2" => Self { layout: Layout::GPT2, kv_heads: 4, ffn: 256, tied: true, ..Self::default() },
            "starcoder2" => Self { layout: Layout::STARCODER2, ffn: 256, tied: true, ..Self::default() },
            "qwen2" | "qwen3" | "qwen3moe" => qwen(name),
            "phi3" => phi3(256),
            "phi3-long" => phi3(64),
            "gemma" | "gemma2" | "gemma3" => gemma(name),
            "stablelm" | "stablelm-parallel" => stablelm(name == "stablelm-parallel"),
            "granite" => granite(),
            "olmo2" => Self { layout: Layout::OLMO2, rms_eps: 1e-6, rope_base: 500_000.0, ..Self::default() },
            "olmo2-windows" => olmo2_windows(),
            _ => return None,
        };
        // llama.cpp looks for "phi3" in the name of a model, and then for tokens that this vocabulary has not.
        model.name = name.replace("phi3", "phi_3");
        if model.tied {
            model.embedding_gain = 0.25;
        }
        model.arch = match name {
            "mixtral" => "llama".into(),
            _ => name.split('-').next().unwrap_or(name).into(),
        };
        Some(model)
    }
}

fn qwen(name: &str) -> TestModel {
    let common = TestModel { rms_eps: 1e-6, rope_base: 1e6, ..TestModel::default() };
    let layout = Layout { qk_norm: QkNorm::Shared, ..Layout::LLAMA };
    match name {
        "qwen2" => TestModel { layout: Layout { qkv_bias: true, ..Layout::LLAMA }, tied: true, ..common },
        "qwen3" => TestModel { layout, head_dim: 32, ..common },
        // The width of an expert has its own key.
        _ => TestModel {
            layout,
            head_dim: 32,
            experts: 8,
            experts_used: 2,
            ffn: 96,
            more_keys: vec![("expert_feed_forward_length", Value::U32(96))],
            ..common
        },
    }
}

/// Contexts up to `original_context` take the short divisors; the model's own is 256.
fn phi3(original_context: usize) -> TestModel {
    TestModel {
        layout: Layout::PHI3,
        rope_dims: Some(12),
        rope_scaling: RopeScaling::LongRope { original_context, magnitude: 1.19 },
        // llama.cpp reads it and sees everything all the same.
        window: Some(8),
        ..TestModel::default()
    }
}

fn gemma(name: &str) -> TestModel {
    let common = TestModel { head_dim: 32, kv_heads: 1, tied: true, rms_eps: 1e-6, ..TestModel::default() };
    let layout = Layout { post_norms: true, ..Layout::LLAMA };
    match name {
        "gemma" => common,
        "gemma2" => TestModel {
            layout,
            layers: 4,
            kv_heads: 2,
            window: Some(8),
            more_keys: vec![("attn_logit_softcapping", Value::F32(3.0)), ("final_logit_softcapping", Value::F32(0.5))],
            ..common
        },
        // Five local layers, a global one, a local one; the scaling is for global layers.
        _ => TestModel {
            layout: Layout { qk_norm: QkNorm::Shared, ..layout },
            layers: 7,
            window: Some(8),
            rope_base: 1e6,
            rope_scaling: RopeScaling::Linear(8.0),
            ..common
        },
    }
}

/// The form of 1.6B: biases, two norms. `parallel`: the form of 12B, in which attention and feed-forward network read
/// the same norm and each head has norms of its own.
fn stablelm(parallel: bool) -> TestModel {
    let layout = Layout { layer_norm: true, ..Layout::LLAMA };
    let common = TestModel { rope_dims: Some(4), ..TestModel::default() };
    if parallel {
        let layout = Layout { ffn_norm: false, qk_norm: QkNorm::PerHead, ..layout };
        TestModel { layout, more_keys: vec![("use_parallel_residual", Value::Bool(true))], ..common }
    } else {
        let more_keys = vec![("use_parallel_residual", Value::Bool(false))];
        TestModel { layout: Layout { qkv_bias: true, ..layout }, kv_heads: 4, more_keys, ..common }
    }
}

fn granite() -> TestModel {
    TestModel {
        tied: true,
        more_keys: vec![
            ("embedding_scale", Value::F32(3.0)),
            ("residual_scale", Value::F32(0.4)),
            ("attention.scale", Value::F32(0.4)),
            ("logit_scale", Value::F32(4.0)),
        ],
        ..TestModel::default()
    }
}

/// OLMo 3: three local layers and a global one, which alone has YaRN.
fn olmo2_windows() -> TestModel {
    let local = vec![true, true, true, false];
    TestModel {
        layout: Layout::OLMO2,
        layers: local.len(),
        rms_eps: 1e-6,
        rope_base: 500_000.0,
        rope_scaling: RopeScaling::Yarn { factor: 8.0, original_context: 32 },
        window: Some(8),
        more_keys: vec![("attention.sliding_window_pattern", Value::Bools(local))],
        ..TestModel::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::ModelFile;

    fn built(name: &str) -> ModelFile {
        ModelFile::from_bytes(TestModel::of(name).expect("known").build()).expect("a valid file")
    }

    fn dims(file: &ModelFile, tensor: &str) -> Option<Vec<u64>> {
        file.tensor(tensor).map(|tensor| tensor.dims.to_vec())
    }

    #[test]
    fn every_name_gives_a_file_of_its_architecture() {
        for name in TestModel::ARCHITECTURES.into_iter().chain(TestModel::VARIANTS) {
            let file = built(name);
            let arch = file.metadata().require_str("general.architecture").expect("there").to_owned();
            assert_eq!(arch, if name == "mixtral" { "llama" } else { name.split('-').next().expect("a part") });
            assert_eq!(file.metadata().require_u32(&format!("{arch}.embedding_length")).expect("there"), 64, "{name}");
            assert_eq!(dims(&file, "token_embd.weight"), Some(vec![64, 320]), "{name}");
        }
        assert!(TestModel::of("llama2").is_none());
    }

    #[test]
    fn a_llama_is_the_default() {
        let default = TestModel { name: "llama".into(), ..TestModel::default() };
        assert_eq!(TestModel::of("llama").expect("known").build(), default.build());
    }

    #[test]
    fn gpt2_has_its_tensors_and_no_others() {
        let file = built("gpt2");
        let mut names: Vec<&str> = file.tensors().map(|tensor| tensor.name.as_str()).collect();
        names.retain(|name| !name.starts_with("blk.1."));
        let block = ["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"];
        let with_bias = |part: &str| [format!("{part}.weight"), format!("{part}.bias")];
        let mut expected = vec!["token_embd.weight".to_owned(), "position_embd.weight".into()];
        expected.extend(with_bias("output_norm"));
        expected.extend(block.iter().flat_map(|part| with_bias(&format!("blk.0.{part}"))));
        assert_eq!(names, expected);
        assert_eq!(dims(&file, "position_embd.weight"), Some(vec![64, 256]));
        assert_eq!(dims(&file, "blk.1.attn_qkv.weight"), Some(vec![64, 192]));
        assert_eq!(dims(&file, "blk.1.attn_qkv.bias"), Some(vec![192]));
        assert!(!file.metadata().keys().any(|key| key.starts_with("gpt2.rope")));
        assert!(file.metadata().contains("gpt2.attention.layer_norm_epsilon"));
    }

    #[test]
    fn the_parts_of_each_family_have_their_shapes() {
        let expected: [(&str, &str, Option<&[u64]>); 17] = [
            ("mixtral", "blk.0.ffn_gate_inp.weight", Some(&[64, 8])),
            ("mixtral", "blk.0.ffn_down_exps.weight", Some(&[96, 64, 8])),
            ("mixtral", "blk.0.ffn_down.weight", None),
            ("qwen2", "blk.0.attn_k.bias", Some(&[32])),
            ("qwen3", "blk.0.attn_q_norm.weight", Some(&[32])),
            ("qwen3moe", "blk.1.ffn_up_exps.weight", Some(&[64, 96, 8])),
            ("phi3", "blk.0.ffn_up.weight", Some(&[64, 256])),
            ("phi3", "blk.0.ffn_gate.weight", None),
            ("phi3", "rope_factors_long.weight", Some(&[6])),
            ("gemma", "blk.0.attn_output.weight", Some(&[128, 64])),
            ("gemma2", "blk.3.post_ffw_norm.weight", Some(&[64])),
            ("gemma3", "blk.6.attn_k_norm.weight", Some(&[32])),
            ("stablelm", "blk.0.ffn_norm.bias", Some(&[64])),
            ("stablelm-parallel", "blk.0.ffn_norm.weight", None),
            ("stablelm-parallel", "blk.0.attn_k_norm.weight", Some(&[16, 2])),
            ("olmo2", "blk.0.attn_k_norm.weight", Some(&[32])),
            ("starcoder2", "blk.0.attn_output.bias", Some(&[64])),
        ];
        for (name, tensor, shape) in expected {
            assert_eq!(dims(&built(name), tensor).as_deref(), shape, "{name}: {tensor}");
        }
    }

    #[test]
    fn routers_and_biases_stay_f32_in_a_quantised_file() {
        let weight_type = crate::quant::WeightType::Q8_0;
        let model = TestModel { weight_type, layout: Layout::STARCODER2, ..TestModel::of("mixtral").expect("known") };
        let file = ModelFile::from_bytes(model.build()).expect("valid");
        let kind = |name: &str| file.tensor(name).expect("there").weight_type().expect("known").to_string();
        assert_eq!(kind("blk.0.ffn_gate_inp.weight"), "F32");
        assert_eq!(kind("blk.0.attn_q.bias"), "F32");
        assert_eq!(kind("blk.0.ffn_up_exps.weight"), "Q8_0");
    }
}
