//! The sizes of a model: GGUF keys translated to our names, once, and checked.
//!
//! Everything below `model/` may rely on what [`ModelConfig::from_metadata`] checked: no size is zero, products fit,
//! heads divide into groups, scalars are finite.

use crate::gguf::{GgufError, Metadata};
use crate::kv_cache::MAX_HEAD_DIM;
use crate::ops::rope::RopeScaling;

/// Architectures this build runs, by their GGUF name.
pub const ARCHITECTURES: [&str; 1] = ["llama"];

/// Upper bounds on what a file may claim, far above any published model: they keep size arithmetic within `u64`.
const MAX_LAYERS: u32 = 4096;
const MAX_WIDTH: u32 = 1 << 20;
const MAX_CONTEXT: u32 = 1 << 30;

/// The sizes and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, or the architecture where the file has none.
    pub name: String,
    /// Tokens of context the model was trained for.
    pub context_length: u32,
    pub num_layers: usize,
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    pub num_heads: usize,
    /// Divides `num_heads`.
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// Leading dimensions of a head that rotate; even, at most `head_dim`.
    pub rope_dim: usize,
    /// Base of the rotation frequencies.
    pub rope_theta: f32,
    /// What the keys say; a tensor of frequency factors comes on top.
    pub rope_scaling: RopeScaling,
    pub rms_norm_eps: f32,
}

/// A model file whose keys do not describe a model we can run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("general.architecture {0:?} is not supported; supported: {known}", known = ARCHITECTURES.join(", "))]
    Architecture(String),
    #[error("key {key}: {value} {problem}")]
    Value { key: String, value: String, problem: &'static str },
}

/// Reads keys below one architecture's prefix.
struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'a str,
}

impl ModelConfig {
    /// Translates and checks the keys of a file.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, ConfigError> {
        let architecture = metadata.require_str("general.architecture")?.to_owned();
        if !ARCHITECTURES.contains(&architecture.as_str()) {
            let shown: String = architecture.chars().take(64).collect();
            return Err(ConfigError::Architecture(shown));
        }
        let name = metadata.str("general.name")?.unwrap_or(&architecture).to_owned();
        let keys = Keys { metadata, prefix: &architecture };
        let hidden_size = keys.size("embedding_length", MAX_WIDTH)?;
        let num_heads = keys.size("attention.head_count", MAX_WIDTH)?;
        let num_kv_heads = keys.size_or("attention.head_count_kv", num_heads, MAX_WIDTH)?;
        if !num_heads.is_multiple_of(num_kv_heads) {
            return Err(keys.bad("attention.head_count_kv", num_kv_heads, "does not divide attention.head_count"));
        }
        let head_dim = keys.head_dim(hidden_size, num_heads)?;
        let rope_dim = keys.size_or("rope.dimension_count", head_dim, MAX_WIDTH)?;
        if !rope_dim.is_multiple_of(2) || rope_dim > head_dim {
            return Err(keys.bad("rope.dimension_count", rope_dim, "is odd or above the head size"));
        }
        Ok(Self {
            context_length: keys.size("context_length", MAX_CONTEXT)? as u32,
            num_layers: keys.size("block_count", MAX_LAYERS)?,
            hidden_size,
            intermediate_size: keys.size("feed_forward_length", MAX_WIDTH)?,
            num_heads,
            num_kv_heads,
            head_dim,
            rope_dim,
            rope_theta: keys.positive_or("rope.freq_base", 10_000.0)?,
            rope_scaling: keys.rope_scaling()?,
            rms_norm_eps: keys.epsilon("attention.layer_norm_rms_epsilon")?,
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

impl Keys<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.prefix)
    }

    fn bad(&self, suffix: &str, value: impl ToString, problem: &'static str) -> ConfigError {
        ConfigError::Value { key: self.key(suffix), value: value.to_string(), problem }
    }

    /// A required count in `1 ..= max`.
    fn size(&self, suffix: &str, max: u32) -> Result<usize, ConfigError> {
        let value = self.metadata.require_u32(&self.key(suffix))?;
        self.in_range(suffix, value, max)
    }

    fn size_or(&self, suffix: &str, default: usize, max: u32) -> Result<usize, ConfigError> {
        match self.metadata.u32(&self.key(suffix))? {
            Some(value) => self.in_range(suffix, value, max),
            None => Ok(default),
        }
    }

    fn in_range(&self, suffix: &str, value: u32, max: u32) -> Result<usize, ConfigError> {
        if value == 0 {
            return Err(self.bad(suffix, value, "must not be zero"));
        }
        if value > max {
            return Err(self.bad(suffix, value, "is larger than any model this build can run"));
        }
        Ok(value as usize)
    }

    /// `attention.key_length` where present, else the hidden size shared out among the heads. K and V heads have one
    /// size.
    fn head_dim(&self, hidden_size: usize, num_heads: usize) -> Result<usize, ConfigError> {
        let head_dim = match self.metadata.u32(&self.key("attention.key_length"))? {
            Some(value) => self.in_range("attention.key_length", value, MAX_WIDTH)?,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => return Err(self.bad("attention.head_count", num_heads, "does not divide embedding_length")),
        };
        let value_dim = self.size_or("attention.value_length", head_dim, MAX_WIDTH)?;
        if value_dim != head_dim {
            return Err(self.bad("attention.value_length", value_dim, "differs from attention.key_length"));
        }
        if head_dim > MAX_HEAD_DIM {
            return Err(self.bad("attention.key_length", head_dim, "is above the largest head size, 256"));
        }
        Ok(head_dim)
    }

    fn positive_or(&self, suffix: &str, default: f32) -> Result<f32, ConfigError> {
        let value = self.metadata.f32(&self.key(suffix))?.unwrap_or(default);
        if value.is_finite() && value > 0.0 {
            return Ok(value);
        }
        Err(self.bad(suffix, value, "must be finite and above zero"))
    }

    /// The norm's epsilon: required, since the published values differ by a factor of ten.
    fn epsilon(&self, suffix: &str) -> Result<f32, ConfigError> {
        let value = self.metadata.require_f32(&self.key(suffix))?;
        if value.is_finite() && (0.0..=1.0).contains(&value) {
            return Ok(value);
        }
        Err(self.bad(suffix, value, "must be within 0 and 1"))
    }

    /// Linear scaling divides positions by the factor; it is what a factor without a type means. Older files name the
    /// factor `rope.scale_linear`. Other kinds are refused, never ignored.
    fn rope_scaling(&self) -> Result<RopeScaling, ConfigError> {
        match self.metadata.str(&self.key("rope.scaling.type"))? {
            Some("none") => Ok(RopeScaling::None),
            Some("linear") | None => self.linear_factor(),
            Some(other) => {
                let shown: String = other.chars().take(64).collect();
                Err(self.bad("rope.scaling.type", shown, "is not supported; supported: none, linear"))
            }
        }
    }

    fn linear_factor(&self) -> Result<RopeScaling, ConfigError> {
        for suffix in ["rope.scaling.factor", "rope.scale_linear"] {
            if self.metadata.contains(&self.key(suffix)) {
                return self.positive_or(suffix, 1.0).map(RopeScaling::Linear);
            }
        }
        Ok(RopeScaling::None)
    }
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
    fn a_linear_factor_and_frequency_factors_both_count() {
        covers!("LLAMA2-ROPE-003");
        let factors = crate::gguf::test_model::RopeScaling::FreqFactors(vec![1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 8.0, 8.0]);
        let plain = TestModel { rope_scaling: factors, ..TestModel::default() };
        let slowed = plain.clone().with_key("llama.rope.scaling.type", "linear");
        let angles = |model: &TestModel, position: u32| {
            let (file, config) = open(model);
            let mut cos_sin = Vec::new();
            Weights::load(&file, &config, &mut |_| {}).unwrap().rope.fill(&[position], &mut cos_sin);
            cos_sin
        };
        let slowed = slowed.with_key("llama.rope.scaling.factor", 4.0f32);
        assert_eq!(angles(&slowed, 12), angles(&plain, 3));
    }
}
