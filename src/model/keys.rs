//! Reading the keys below one architecture's prefix, with the bounds that the rest of `model` relies on.

use crate::gguf::{GgufError, Metadata};

/// Upper bounds on what a file may claim, far above any published model: they keep size arithmetic within `u64`.
pub const MAX_LAYERS: u32 = 4096;
pub const MAX_WIDTH: u32 = 1 << 20;
pub const MAX_CONTEXT: u32 = 1 << 30;

/// A model file whose keys do not describe a model we can run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("general.architecture {name:?} is not supported; supported: {known}")]
    Architecture { name: String, known: String },
    #[error("key {key}: {value} {problem}")]
    Value { key: String, value: String, problem: &'static str },
}

/// The keys `<prefix>.…` of a file.
pub struct Keys<'a> {
    pub metadata: &'a Metadata,
    pub prefix: &'a str,
}

impl Keys<'_> {
    /// The whole key.
    pub fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.prefix)
    }

    /// The error for a value that is no good.
    pub fn bad(&self, suffix: &str, value: impl ToString, problem: &'static str) -> ConfigError {
        ConfigError::Value { key: self.key(suffix), value: value.to_string(), problem }
    }

    pub fn contains(&self, suffix: &str) -> bool {
        self.metadata.contains(&self.key(suffix))
    }

    pub fn str(&self, suffix: &str) -> Result<Option<&str>, ConfigError> {
        Ok(self.metadata.str(&self.key(suffix))?)
    }

    pub fn bool(&self, suffix: &str) -> Result<Option<bool>, ConfigError> {
        Ok(self.metadata.bool(&self.key(suffix))?)
    }

    pub fn bools(&self, suffix: &str) -> Result<Option<Vec<bool>>, ConfigError> {
        Ok(self.metadata.bools(&self.key(suffix))?)
    }

    pub fn u32s(&self, suffix: &str) -> Result<Option<Vec<u32>>, ConfigError> {
        Ok(self.metadata.u32s(&self.key(suffix))?)
    }

    /// A number that may be 0 or absent; both give `None`.
    pub fn nonzero(&self, suffix: &str) -> Result<Option<u32>, ConfigError> {
        Ok(self.metadata.u32(&self.key(suffix))?.filter(|value| *value > 0))
    }

    /// A required count in `1 ..= max`.
    pub fn size(&self, suffix: &str, max: u32) -> Result<usize, ConfigError> {
        let value = self.metadata.require_u32(&self.key(suffix))?;
        self.in_range(suffix, value, max)
    }

    pub fn size_or(&self, suffix: &str, default: usize, max: u32) -> Result<usize, ConfigError> {
        match self.metadata.u32(&self.key(suffix))? {
            Some(value) => self.in_range(suffix, value, max),
            None => Ok(default),
        }
    }

    pub fn in_range(&self, suffix: &str, value: u32, max: u32) -> Result<usize, ConfigError> {
        if value == 0 {
            return Err(self.bad(suffix, value, "must not be zero"));
        }
        if value > max {
            return Err(self.bad(suffix, value, "is larger than any model this build can run"));
        }
        Ok(value as usize)
    }

    /// A factor that is finite and above zero, if the file has it.
    pub fn positive(&self, suffix: &str) -> Result<Option<f32>, ConfigError> {
        match self.metadata.f32(&self.key(suffix))? {
            Some(value) if value.is_finite() && value > 0.0 => Ok(Some(value)),
            Some(value) => Err(self.bad(suffix, value, "must be finite and above zero")),
            None => Ok(None),
        }
    }

    pub fn positive_or(&self, suffix: &str, default: f32) -> Result<f32, ConfigError> {
        Ok(self.positive(suffix)?.unwrap_or(default))
    }

    /// A number that is finite, if the file has it.
    pub fn finite(&self, suffix: &str) -> Result<Option<f32>, ConfigError> {
        match self.metadata.f32(&self.key(suffix))? {
            Some(value) if value.is_finite() => Ok(Some(value)),
            Some(value) => Err(self.bad(suffix, value, "must be finite")),
            None => Ok(None),
        }
    }

    /// As [`Keys::finite`], where 0 means that there is no such thing.
    pub fn switched_off_by_zero(&self, suffix: &str) -> Result<Option<f32>, ConfigError> {
        Ok(self.finite(suffix)?.filter(|value| *value != 0.0))
    }

    /// A norm's epsilon: required, since the published values differ by a factor of ten.
    pub fn epsilon(&self, suffix: &str) -> Result<f32, ConfigError> {
        let value = self.metadata.require_f32(&self.key(suffix))?;
        if value.is_finite() && (0.0..=1.0).contains(&value) {
            return Ok(value);
        }
        Err(self.bad(suffix, value, "must be within 0 and 1"))
    }
}
