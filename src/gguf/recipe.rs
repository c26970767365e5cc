//! Which type each tensor of a quantised file has. Pure: names and dimensions in, types out.
//!
//! The rules are those that give files of these names their known quality; they follow llama.cpp's quantiser for the
//! architectures that this program runs. `specs/quantize.md` has them as requirements.

use crate::quant::WeightType;
use std::fmt;
use std::str::FromStr;

/// What `quantize` can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    F16,
    BF16,
    Q8_0,
    Q4_0,
    /// Q4_K, with some tensors of Q6_K.
    Q4KM,
    Q6K,
}

/// A name that is no recipe's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown type; known are F16, BF16, Q8_0, Q4_0, Q4_K_M, Q6_K")]
pub struct UnknownRecipe;

impl Recipe {
    /// Every recipe.
    pub const ALL: [Self; 6] = [Self::F16, Self::BF16, Self::Q8_0, Self::Q4_0, Self::Q4KM, Self::Q6K];

    /// The number in `general.file_type`, as llama.cpp counts them.
    pub fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Q6K => 18,
            Self::BF16 => 32,
        }
    }

    /// The type of most matrices.
    fn main_type(self) -> WeightType {
        match self {
            Self::F16 => WeightType::F16,
            Self::BF16 => WeightType::BF16,
            Self::Q8_0 => WeightType::Q8_0,
            Self::Q4_0 => WeightType::Q4_0,
            Self::Q4KM => WeightType::Q4K,
            Self::Q6K => WeightType::Q6K,
        }
    }

    /// The type of the matrix that makes the logits.
    fn head_type(self) -> WeightType {
        match self {
            Self::Q4_0 | Self::Q4KM => WeightType::Q6K,
            other => other.main_type(),
        }
    }

    /// The type that the tensor `name` with `dims` (fastest first) gets in `model`; `None` where it stays as it is.
    pub fn choose(self, name: &str, dims: &[u64], model: &Model) -> Option<Choice> {
        if !is_quantised(name, dims) {
            return None;
        }
        let is_head = name == if model.tied { "token_embd.weight" } else { "output.weight" };
        let wanted = if is_head {
            self.head_type()
        } else if self == Self::Q4KM && needs_more_bits(name, model.layers) {
            WeightType::Q6K
        } else {
            self.main_type()
        };
        Some(Choice { wanted, ty: that_fits(wanted, *dims.first()?) })
    }
}

/// What a recipe wants for a tensor and what it can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub wanted: WeightType,
    /// Another one where the rows are no whole number of blocks.
    pub ty: WeightType,
}

/// What a recipe must know of the other tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Number of layers: one more than the highest `N` of `blk.N.`.
    pub layers: u64,
    /// Whether the embedding makes the logits, there being no `output.weight`.
    pub tied: bool,
}

impl Model {
    /// From the names of all tensors.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut model = Self { layers: 0, tied: true };
        for name in names {
            model.tied &= name != "output.weight";
            model.layers = layer(name).map_or(model.layers, |n| model.layers.max(n.saturating_add(1)));
        }
        model
    }
}

/// `N` of `blk.N.attn_q.weight`.
fn layer(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// Small or sensitive matrices, told by a part of their names: norms, the routers of experts, positions, token types,
/// convolutions, and the small matrices of some architectures.
const KEPT: [&str; 10] = [
    "_norm",
    "ffn_gate_inp",
    "position_embd",
    "token_types",
    "conv",
    "time_mix",
    "rel_b",
    "altup",
    "laurel",
    "per_layer_model_proj",
];

/// Matrices, and stacks of them, that rows of activations are multiplied with or taken from.
fn is_quantised(name: &str, dims: &[u64]) -> bool {
    let matrix = dims.iter().skip(1).any(|&dim| dim > 1);
    matrix && name.ends_with(".weight") && !KEPT.iter().any(|part| name.contains(part))
}

/// In Q4_K_M the values and the down projection of the first eighth of the layers, of the last, and of every third
/// between have Q6_K.
fn needs_more_bits(name: &str, layers: u64) -> bool {
    let sensitive = ["attn_v.weight", "attn_qkv.weight", "ffn_down"].iter().any(|part| name.contains(part));
    let Some(layer) = layer(name).filter(|_| sensitive) else { return false };
    let eighth = layers / 8;
    // Any number can stand in a name.
    let last_eighth = (7 * u128::from(layers) / 8) as u64;
    layer < eighth || layer >= last_eighth || (layer - eighth) % 3 == 2
}

/// `wanted`, or Q8_0 where rows are no multiple of 256, or F16 where they are none of 32.
fn that_fits(wanted: WeightType, row: u64) -> WeightType {
    let fits = |ty: &WeightType| row.is_multiple_of(ty.block_len() as u64);
    [wanted, WeightType::Q8_0].into_iter().find(fits).unwrap_or(WeightType::F16)
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4KM => "Q4_K_M",
            Self::Q6K => "Q6_K",
        })
    }
}

impl FromStr for Recipe {
    type Err = UnknownRecipe;

    /// In any case of letters.
    fn from_str(text: &str) -> Result<Self, UnknownRecipe> {
        Self::ALL.into_iter().find(|recipe| recipe.to_string().eq_ignore_ascii_case(text)).ok_or(UnknownRecipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use WeightType::{BF16, F16, Q4_0, Q4K, Q6K, Q8_0};

    const TIED: Model = Model { layers: 22, tied: true };
    const UNTIED: Model = Model { layers: 22, tied: false };

    fn chosen(recipe: Recipe, name: &str, dims: &[u64], model: &Model) -> Option<WeightType> {
        recipe.choose(name, dims, model).map(|choice| choice.ty)
    }

    #[test]
    fn names_are_read_in_any_case() {
        assert_eq!("q4_k_m".parse(), Ok(Recipe::Q4KM));
        assert_eq!("Bf16".parse(), Ok(Recipe::BF16));
        for recipe in Recipe::ALL {
            assert_eq!(recipe.to_string().parse(), Ok(recipe));
        }
        for unknown in ["q4_k", "q5_0", "", "Q8_0 "] {
            assert_eq!(unknown.parse::<Recipe>(), Err(UnknownRecipe), "{unknown}");
        }
    }

    #[test]
    fn norms_vectors_routers_and_positions_stay() {
        covers!("QNT-1");
        for (name, dims) in [
            ("blk.0.attn_norm.weight", &[256][..]),
            ("blk.0.attn_q_norm.weight", &[256, 4]),
            ("blk.0.attn_q.bias", &[256, 256]),
            ("blk.0.attn_q.weight", &[256, 1]),
            ("blk.0.ffn_gate_inp.weight", &[256, 8]),
            ("position_embd.weight", &[768, 1024]),
            ("rope_freqs.weight", &[64]),
            ("blk.0.ssm_conv1d.weight", &[4, 512]),
        ] {
            for recipe in Recipe::ALL {
                assert_eq!(recipe.choose(name, dims, &UNTIED), None, "{name}");
            }
        }
    }

    #[test]
    fn the_head_has_six_bits_in_the_recipes_of_four() {
        for (recipe, embedding, head) in [
            (Recipe::F16, F16, F16),
            (Recipe::BF16, BF16, BF16),
            (Recipe::Q8_0, Q8_0, Q8_0),
            (Recipe::Q4_0, Q4_0, Q6K),
            (Recipe::Q4KM, Q4K, Q6K),
            (Recipe::Q6K, Q6K, Q6K),
        ] {
            let dims = [512, 320];
            assert_eq!(chosen(recipe, "token_embd.weight", &dims, &UNTIED), Some(embedding), "{recipe}");
            assert_eq!(chosen(recipe, "output.weight", &dims, &UNTIED), Some(head), "{recipe}");
            assert_eq!(chosen(recipe, "token_embd.weight", &dims, &TIED), Some(head), "{recipe}");
        }
    }

    /// What llama.cpp's quantiser chose for models of 22 and of 32 layers.
    #[test]
    fn layers_with_more_bits_are_llama_cpps() {
        let with_more = |layers: u64, name: &str| -> Vec<u64> {
            let model = Model { layers, tied: false };
            let ty = |n: &u64| chosen(Recipe::Q4KM, &format!("blk.{n}.{name}.weight"), &[256, 256], &model);
            (0..layers).filter(|n| ty(n) == Some(Q6K)).collect()
        };
        let of_22 = [0, 1, 4, 7, 10, 13, 16, 19, 20, 21];
        let of_32 = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
        for name in ["attn_v", "ffn_down", "attn_qkv", "ffn_down_exps"] {
            assert_eq!(with_more(22, name), of_22, "{name}");
            assert_eq!(with_more(32, name), of_32, "{name}");
        }
        assert!(with_more(22, "attn_q").is_empty(), "no other matrix");
        assert_eq!(with_more(4, "ffn_down"), [2, 3]);
    }

    /// A name can have any number.
    #[test]
    fn a_layer_beyond_all_bounds_is_the_last() {
        let model = Model { layers: u64::MAX, tied: false };
        let name = format!("blk.{}.attn_v.weight", u64::MAX - 1);
        assert_eq!(chosen(Recipe::Q4KM, &name, &[256, 256], &model), Some(Q6K));
    }

    #[test]
    fn rows_that_are_no_whole_blocks_fall_back() {
        covers!("QNT-2");
        for (recipe, row, expected) in [
            (Recipe::Q4KM, 688, F16),
            (Recipe::Q4KM, 704, Q8_0),
            (Recipe::Q6K, 96, Q8_0),
            (Recipe::Q4_0, 96, Q4_0),
            (Recipe::Q4_0, 48, F16),
            (Recipe::Q8_0, 48, F16),
            (Recipe::BF16, 7, BF16),
        ] {
            assert_eq!(chosen(recipe, "blk.0.attn_q.weight", &[row, 8], &UNTIED), Some(expected), "{recipe} {row}");
        }
    }

    #[test]
    fn what_must_be_known_of_the_model_is_read_from_the_names() {
        let names = ["token_embd.weight", "blk.0.attn_q.weight", "blk.11.attn_q.weight", "blk.x.weight"];
        assert_eq!(Model::of(names.into_iter()), Model { layers: 12, tied: true });
        assert!(!Model::of(["output.weight"].into_iter()).tied);
    }
}
