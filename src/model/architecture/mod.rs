//! One file an architecture: what it is made of, in terms of [`Description`].
//!
//! To add one: write its file and name it in [`describe`] and [`NAMES`].

mod gemma;
mod gpt2;
mod granite;
mod llama;
mod olmo2;
mod phi3;
mod qwen;
mod stablelm;
mod starcoder2;

use super::description::{Description, Experts, Window};
use super::keys::{ConfigError, Keys, MAX_WIDTH};

/// Architectures this build runs, by their GGUF name.
pub const NAMES: [&str; 13] = [
    "llama",
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

/// Sizes that descriptions depend on.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub num_layers: usize,
    pub hidden_size: usize,
    pub num_heads: usize,
}

/// The description of the architecture whose keys these are.
pub fn describe(keys: &Keys<'_>, sizes: Sizes) -> Result<Description, ConfigError> {
    match keys.prefix {
        "llama" => llama::describe(keys, sizes),
        "gpt2" => Ok(gpt2::describe()),
        "qwen2" => Ok(qwen::describe_qwen2()),
        "qwen3" => Ok(qwen::describe_qwen3()),
        "qwen3moe" => qwen::describe_qwen3moe(keys),
        "phi3" => Ok(phi3::describe()),
        "gemma" => Ok(gemma::describe_gemma(sizes)),
        "gemma2" => gemma::describe_gemma2(keys, sizes),
        "gemma3" => gemma::describe_gemma3(keys, sizes),
        "stablelm" => Ok(stablelm::describe()),
        "granite" => granite::describe(keys),
        "olmo2" => olmo2::describe(keys, sizes),
        "starcoder2" => Ok(starcoder2::describe()),
        name => Err(unknown(name)),
    }
}

/// The error for an architecture that is not in [`NAMES`].
pub fn unknown(name: &str) -> ConfigError {
    ConfigError::Architecture { name: name.chars().take(64).collect(), known: NAMES.join(", ") }
}

/// The experts that `expert_count` and `expert_used_count` tell of; `None` where there are none.
fn experts(keys: &Keys<'_>, intermediate_size: usize) -> Result<Option<Experts>, ConfigError> {
    let Some(count) = keys.nonzero("expert_count")? else { return Ok(None) };
    let count = keys.in_range("expert_count", count, 4096)?;
    let used = keys.size("expert_used_count", 4096)?;
    if used > count {
        return Err(keys.bad("expert_used_count", used, "is above expert_count"));
    }
    Ok(Some(Experts { count, used, intermediate_size }))
}

/// The window that `attention.sliding_window` tells of, `None` where the key is absent or 0.
///
/// The key `attention.sliding_window_pattern` says which layers have it: a bool or number for each, or a number `n`,
/// where the last layer of each `n` sees everything (0: none does).
fn window(keys: &Keys<'_>, sizes: Sizes, default_period: u32) -> Result<Option<Window>, ConfigError> {
    let Some(size) = keys.nonzero("attention.sliding_window")? else { return Ok(None) };
    let size = keys.in_range("attention.sliding_window", size, u32::MAX)? as u32;
    Ok(Some(Window { size, layers: local_layers(keys, sizes, default_period)?, rope_theta: None }))
}

fn local_layers(keys: &Keys<'_>, sizes: Sizes, default_period: u32) -> Result<Vec<bool>, ConfigError> {
    let suffix = "attention.sliding_window_pattern";
    let kind = keys.metadata.type_name(&keys.key(suffix)).unwrap_or_default();
    if kind.starts_with("array") {
        let layers = match kind.ends_with("bool") {
            true => keys.bools(suffix)?.unwrap_or_default(),
            false => keys.u32s(suffix)?.unwrap_or_default().into_iter().map(|number| number != 0).collect(),
        };
        if layers.len() < sizes.num_layers {
            return Err(keys.bad(suffix, layers.len(), "elements are fewer than layers"));
        }
        return Ok(layers.into_iter().take(sizes.num_layers).collect());
    }
    let period = keys.metadata.u32(&keys.key(suffix))?.unwrap_or(default_period) as usize;
    Ok((0..sizes.num_layers).map(|layer| period == 0 || layer % period < period - 1).collect())
}

/// Inner width of the experts where no key of their own tells it.
fn feed_forward_length(keys: &Keys<'_>) -> Result<usize, ConfigError> {
    keys.size("feed_forward_length", MAX_WIDTH)
}
