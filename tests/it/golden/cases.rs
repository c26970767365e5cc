//! The models behind `tests/golden/*.json`: odd shapes, every weight type, every RoPE scaling. A golden file belongs to
//! the exact bytes built here (it stores their SHA-256), so a changed shape or seed needs a new golden file:
//! `tests/reference/README.md`.

use llorch_cpud::gguf::test_model::{RopeScaling, TestModel};
use llorch_cpud::quant::WeightType;

/// One golden file.
pub struct Case {
    /// `tests/golden/<name>.json`.
    pub name: &'static str,
    pub model: TestModel,
}

/// Frequency divisors as Llama 3 has them: 1 for fast pairs, 8 for slow ones, between them a slope.
fn llama3_factors(pairs: usize) -> RopeScaling {
    let factor = |i: usize| 1.0 + 7.0 * (i as f32 * 2.0 / pairs as f32 - 0.5).clamp(0.0, 1.0);
    RopeScaling::FreqFactors((0..pairs).map(factor).collect())
}

fn base(seed: u64) -> TestModel {
    TestModel { vocab: 300, context: 512, layers: 2, seed, ..TestModel::default() }
}

fn case(name: &'static str, model: TestModel) -> Case {
    Case { name, model }
}

pub fn all() -> Vec<Case> {
    let mut cases = of_one_type();
    cases.extend(of_several_types());
    cases
}

fn of_one_type() -> Vec<Case> {
    use WeightType::{BF16, F16, Q8_0};
    vec![
        // GQA 8:1, head_dim 8, FFN 172, tied.
        case("gqa8_tied_f32", TestModel { heads: 8, kv_heads: 1, head_dim: 8, ffn: 172, tied: true, ..base(101) }),
        // GQA 7:1, heads * head_dim (112) above hidden (96), untied.
        case(
            "gqa7_untied_f32",
            TestModel { hidden: 96, heads: 7, kv_heads: 1, head_dim: 16, ffn: 160, layers: 3, ..base(102) },
        ),
        // head_dim 32 where hidden / heads is 16; positions divided by 4.
        case(
            "linear_rope_f32",
            TestModel { head_dim: 32, ffn: 172, rope_scaling: RopeScaling::Linear(4.0), ..base(103) },
        ),
        // Llama-3 frequency factors, another base, no two heads share K and V.
        case(
            "llama3_rope_f32",
            TestModel {
                hidden: 80,
                heads: 3,
                kv_heads: 3,
                head_dim: 24,
                ffn: 100,
                tied: true,
                rope_base: 500_000.0,
                rope_scaling: llama3_factors(12),
                ..base(104)
            },
        ),
        case("gqa7_f16", TestModel { heads: 7, kv_heads: 1, head_dim: 8, ffn: 172, weight_type: F16, ..base(105) }),
        case(
            "gqa8_tied_bf16",
            TestModel { heads: 8, kv_heads: 1, head_dim: 10, ffn: 171, tied: true, weight_type: BF16, ..base(106) },
        ),
        case(
            "gqa4_q8_0",
            TestModel { hidden: 96, heads: 8, kv_heads: 2, head_dim: 16, ffn: 160, weight_type: Q8_0, ..base(107) },
        ),
        case(
            "gqa8_tied_q8_0",
            TestModel { heads: 8, kv_heads: 1, head_dim: 8, ffn: 192, tied: true, weight_type: Q8_0, ..base(108) },
        ),
    ]
}

/// Integer types of all kinds.
fn of_several_types() -> Vec<Case> {
    use WeightType::{IQ4NL, IQ4XS, MXFP4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K};
    vec![
        // Every type with blocks of 32.
        case(
            "gqa4_blocks_of_32",
            TestModel {
                hidden: 96,
                heads: 8,
                kv_heads: 2,
                head_dim: 16,
                ffn: 160,
                weight_type: Q4_0,
                other_types: vec![
                    ("attn_k", Q5_0),
                    ("attn_v", Q5_1),
                    ("attn_output", IQ4NL),
                    ("ffn_up", MXFP4),
                    ("ffn_down", Q4_1),
                ],
                ..base(109)
            },
        ),
        // Every type with super-blocks, Q4_K and Q6_K where Q4_K_M has them.
        case(
            "gqa4_super_blocks",
            TestModel {
                hidden: 256,
                heads: 8,
                kv_heads: 2,
                head_dim: 32,
                ffn: 512,
                weight_type: Q4K,
                other_types: vec![
                    ("output.weight", Q6K),
                    ("attn_v", Q6K),
                    ("ffn_down", Q6K),
                    ("attn_k", Q5K),
                    ("blk.0.ffn_up", IQ4XS),
                    ("blk.1.ffn_up", Q3K),
                    ("blk.1.attn_q", Q2K),
                ],
                ..base(110)
            },
        ),
    ]
}

/// Writes every model to the folder named by `LLORCH_REFERENCE_MODELS`, for `tests/reference/make_golden.py`.
#[test]
#[ignore = "writes the models that the golden files are made from"]
fn write_reference_models() {
    let folder = std::env::var_os("LLORCH_REFERENCE_MODELS").expect("LLORCH_REFERENCE_MODELS names a folder");
    let folder = std::path::PathBuf::from(folder);
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    for case in all() {
        let path = folder.join(case.name).with_extension("gguf");
        std::fs::write(path, case.model.build()).expect("the folder is writable");
    }
}
