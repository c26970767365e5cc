//! Llama 1 to 3, Mistral, Mixtral, Code Llama, TinyLlama, SmolLM: what `llama` files hold.
//!
//! Converters permute the rows of Q and K so that neighbours rotate together. Files with `expert_count` are mixtures
//! (Mixtral): every layer has experts instead of one feed-forward layer.

use super::{Sizes, experts, feed_forward_length, window};
use crate::model::description::Description;
use crate::model::keys::{ConfigError, Keys};

pub fn describe(keys: &Keys<'_>, sizes: Sizes) -> Result<Description, ConfigError> {
    Ok(Description {
        experts: experts(keys, feed_forward_length(keys)?)?,
        // Every layer, unless the file has a pattern.
        window: window(keys, sizes, 0)?,
        ..Description::default()
    })
}
