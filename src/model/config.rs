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
    /// What the keys say; a tensor of frequency factors comes before it.
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

    /// Linear scaling divides positions by the factor. Other kinds are refused, never ignored.
    fn rope_scaling(&self) -> Result<RopeScaling, ConfigError> {
        match self.metadata.str(&self.key("rope.scaling.type"))? {
            Some("none") => Ok(RopeScaling::None),
            Some("linear") => self.positive_or("rope.scaling.factor", 1.0).map(RopeScaling::Linear),
            Some(other) => {
                let shown: String = other.chars().take(64).collect();
                Err(self.bad("rope.scaling.type", shown, "is not supported; supported: none, linear"))
            }
            None => match self.metadata.f32(&self.key("rope.scale_linear"))? {
                Some(_) => self.positive_or("rope.scale_linear", 1.0).map(RopeScaling::Linear),
                None => Ok(RopeScaling::None),
            },
        }
    }
}
