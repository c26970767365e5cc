//! The sizes of a model: GGUF keys translated to our names, once, and checked.
//!
//! Everything below `model/` may rely on what [`ModelConfig::from_metadata`] checked: no size is zero, products fit,
//! heads divide into groups, scalars are finite.

use super::architecture::{self, Sizes};
use super::description::{Description, Positions};
pub use super::keys::ConfigError;
use super::keys::{Keys, MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH};
use crate::gguf::Metadata;
use crate::gguf::error::shown;
use crate::kv_cache::MAX_HEAD_DIM;
use crate::ops::norm::NormKind;
use crate::ops::rope::{RopeScaling, Yarn};

/// The sizes and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, or the architecture where the file has none.
    pub name: String,
    /// Which variant of each block the model has.
    pub description: Description,
    /// Tokens of context the model was trained for.
    pub context_length: u32,
    pub num_layers: usize,
    pub hidden_size: usize,
    /// Width of the feed-forward layer; of an expert in a mixture.
    pub intermediate_size: usize,
    pub num_heads: usize,
    /// Divides `num_heads`.
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// Leading dimensions of a head that rotate; even, at most `head_dim`. 0 where nothing rotates.
    pub rope_dim: usize,
    /// Base of the rotation frequencies.
    pub rope_theta: f32,
    /// What the keys say; a tensor of frequency factors comes on top.
    pub rope_scaling: RopeScaling,
    /// Factor of the rotated vectors that the keys say, beside that of [`RopeScaling::Yarn`].
    pub rope_magnitude: f32,
    /// Context before scaling: longer contexts take the long ones of two sets of frequency factors.
    pub original_context: u32,
    /// The longest sequence to expect: `context_length` until the server bounds it lower.
    pub longest_sequence: u32,
    pub norm_eps: f32,
}

/// Characters of a name that are kept: it is told in every answer about the model, and hashed for every request.
const MAX_NAME: usize = 256;

impl ModelConfig {
    /// Translates and checks the keys of a file.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, ConfigError> {
        let architecture = metadata.require_str("general.architecture")?.to_owned();
        if !architecture::NAMES.contains(&architecture.as_str()) {
            return Err(architecture::unknown(&architecture));
        }
        let name = metadata.str("general.name")?.unwrap_or(&architecture).chars().take(MAX_NAME).collect();
        let keys = Keys { metadata, prefix: &architecture };
        let hidden_size = keys.size("embedding_length", MAX_WIDTH)?;
        let num_heads = keys.size("attention.head_count", MAX_WIDTH)?;
        let num_kv_heads = keys.size_or("attention.head_count_kv", num_heads, MAX_WIDTH)?;
        if !num_heads.is_multiple_of(num_kv_heads) {
            return Err(keys.bad("attention.head_count_kv", num_kv_heads, "does not divide attention.head_count"));
        }
        let head_dim = head_dim(&keys, hidden_size, num_heads)?;
        let context_length = keys.size("context_length", MAX_CONTEXT)? as u32;
        let num_layers = keys.size("block_count", MAX_LAYERS)?;
        let description = architecture::describe(&keys, Sizes { num_layers, hidden_size, num_heads })?;
        let intermediate_size = match description.experts {
            Some(experts) => experts.intermediate_size,
            None => keys.size("feed_forward_length", MAX_WIDTH)?,
        };
        let epsilon = match description.norm {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        let rotates = matches!(description.positions, Positions::Rotary(_));
        let rope_scaling = if rotates { rope_scaling(&keys, context_length)? } else { RopeScaling::None };
        Ok(Self {
            rope_dim: rope_dim(&keys, &description, head_dim)?,
            rope_theta: if rotates { keys.positive_or("rope.freq_base", 10_000.0)? } else { 10_000.0 },
            rope_magnitude: match rope_scaling {
                RopeScaling::Yarn(_) => 1.0,
                _ if !rotates => 1.0,
                _ => keys.positive_or("rope.scaling.attn_factor", 1.0)?,
            },
            rope_scaling,
            original_context: original_context(&keys, context_length)?,
            longest_sequence: context_length,
            norm_eps: keys.epsilon(epsilon)?,
            context_length,
            num_layers,
            hidden_size,
            intermediate_size,
            num_heads,
            num_kv_heads,
            head_dim,
            description,
            architecture: architecture.clone(),
            name,
        })
    }

    /// Width of the query projection, `num_heads * head_dim`.
    pub fn q_dim(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of the key (and of the value) projection, `num_kv_heads * head_dim`.
    pub fn kv_dim(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }
}

/// `attention.key_length` where present, else the hidden size shared out among the heads. K and V heads have one size.
fn head_dim(keys: &Keys<'_>, hidden_size: usize, num_heads: usize) -> Result<usize, ConfigError> {
    let head_dim = match keys.metadata.u32(&keys.key("attention.key_length"))? {
        Some(value) => keys.in_range("attention.key_length", value, MAX_WIDTH)?,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => return Err(keys.bad("attention.head_count", num_heads, "does not divide embedding_length")),
    };
    let value_dim = keys.size_or("attention.value_length", head_dim, MAX_WIDTH)?;
    if value_dim != head_dim {
        return Err(keys.bad("attention.value_length", value_dim, "differs from attention.key_length"));
    }
    if head_dim > MAX_HEAD_DIM {
        return Err(keys.bad("attention.key_length", head_dim, "is above the largest head size, 256"));
    }
    Ok(head_dim)
}

fn rope_dim(keys: &Keys<'_>, description: &Description, head_dim: usize) -> Result<usize, ConfigError> {
    if !matches!(description.positions, Positions::Rotary(_)) {
        return Ok(0);
    }
    let rope_dim = keys.size_or("rope.dimension_count", head_dim, MAX_WIDTH)?;
    if !rope_dim.is_multiple_of(2) || rope_dim > head_dim {
        return Err(keys.bad("rope.dimension_count", rope_dim, "is odd or above the head size"));
    }
    Ok(rope_dim)
}

fn original_context(keys: &Keys<'_>, context_length: u32) -> Result<u32, ConfigError> {
    Ok(keys.size_or("rope.scaling.original_context_length", context_length as usize, MAX_CONTEXT)? as u32)
}

/// Linear scaling divides positions by the factor; it is what a factor without a type means. Older files name the
/// factor `rope.scale_linear`. `longrope` is in tensors alone. Other kinds are refused, never ignored.
fn rope_scaling(keys: &Keys<'_>, context_length: u32) -> Result<RopeScaling, ConfigError> {
    match keys.str("rope.scaling.type")? {
        Some("none" | "longrope") => Ok(RopeScaling::None),
        Some("linear") | None => Ok(rope_factor(keys)?.map_or(RopeScaling::None, RopeScaling::Linear)),
        Some("yarn") => Ok(RopeScaling::Yarn(Yarn {
            factor: rope_factor(keys)?.unwrap_or(1.0),
            original_context: original_context(keys, context_length)?,
            ext_factor: keys.finite("rope.scaling.yarn_ext_factor")?.filter(|f| *f >= 0.0).unwrap_or(1.0),
            attn_factor: keys.positive_or("rope.scaling.attn_factor", 1.0)?,
            beta_fast: keys.positive_or("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: keys.positive_or("rope.scaling.yarn_beta_slow", 1.0)?,
        })),
        Some(other) => Err(keys.bad(
            "rope.scaling.type",
            shown(other.as_bytes()),
            "is not supported; supported: none, linear, yarn, longrope",
        )),
    }
}

fn rope_factor(keys: &Keys<'_>) -> Result<Option<f32>, ConfigError> {
    for suffix in ["rope.scaling.factor", "rope.scale_linear"] {
        if keys.contains(suffix) {
            return keys.positive(suffix);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::ModelFile;
    use crate::gguf::test_model::TestModel;
    use crate::model::weights::Weights;

    fn open(model: &TestModel) -> (ModelFile, ModelConfig) {
        let file = ModelFile::from_bytes(model.build()).unwrap();
        let config = ModelConfig::from_metadata(file.metadata()).unwrap();
        (file, config)
    }

    #[test]
    fn a_name_is_cut() {
        let name = |name: &str| open(&TestModel::default().with_key("general.name", name)).1.name;
        assert_eq!(name("é"), "é");
        assert_eq!(name(&"é".repeat(1 << 20)), "é".repeat(256));
    }

    #[test]
    fn a_linear_factor_counts_under_either_name_and_without_a_type() {
        covers!("LLAMA2-ROPE-003");
        let (kind, factor, old) = ("llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scale_linear");
        let base = TestModel::default;
        let linear = RopeScaling::Linear(4.0);
        for (model, expected) in [
            (base(), RopeScaling::None),
            (base().with_key(kind, "linear").with_key(factor, 4.0f32), linear.clone()),
            (base().with_key(kind, "linear").with_key(old, 4.0f32), linear.clone()),
            (base().with_key(factor, 4.0f32), linear.clone()),
            (base().with_key(old, 4.0f32), linear.clone()),
            (base().with_key(factor, 4.0f32).with_key(old, 8.0f32), linear),
            (base().with_key(kind, "none").with_key(factor, 4.0f32), RopeScaling::None),
        ] {
            assert_eq!(open(&model).1.rope_scaling, expected, "{:?}", open(&model).0.metadata().f32(factor));
        }
    }

    #[test]
    fn layers_with_a_window_may_have_a_base_of_their_own() {
        let model = TestModel::of("olmo2-windows").unwrap();
        let theta = |model: &TestModel| open(model).1.description.window.unwrap().rope_theta;
        assert_eq!(theta(&model), Some(500_000.0));
        assert_eq!(theta(&model.with_key("olmo2.rope.freq_base_swa", 10_000.0f32)), Some(10_000.0));
    }

    #[test]
    fn a_linear_factor_and_frequency_factors_both_count() {
        covers!("LLAMA2-ROPE-003");
        let factors = crate::gguf::test_model::RopeScaling::FreqFactors(vec![1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 8.0, 8.0]);
        let plain = TestModel { rope_scaling: factors, ..TestModel::default() };
        let slowed = plain.clone().with_key("llama.rope.scaling.type", "linear");
        let angles = |model: &TestModel, position: u32| {
            let (file, config) = open(model);
            let mut cos_sin = Vec::new();
            let weights = Weights::load(&file, &config, &mut |_| {}).unwrap();
            weights.rope.unwrap().fill(&[position], &mut cos_sin);
            cos_sin
        };
        let slowed = slowed.with_key("llama.rope.scaling.factor", 4.0f32);
        assert_eq!(angles(&slowed, 12), angles(&plain, 3));
    }
}
