//! What memory a model needs at a given context and concurrency, by the functions that `serve` plans with.

use super::error::CliError;
use super::memory::KvPlan;
use super::model_args::{EngineLimits, kv_shape};
use crate::gguf::ModelFile;
use crate::kv_cache::{KvCacheError, KvType};
use crate::model::config::ModelConfig;
use crate::model::footprint;

/// The flags of `serve` that memory depends on.
#[derive(clap::Args, Clone, Debug)]
pub struct NeedArgs {
    /// Longest sequence, prompt and completion [default: the model's context].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_model_len: Option<u32>,
    /// Most sequences that run at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_num_seqs: u32,
    /// Most tokens computed in one step.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_num_batched_tokens: u32,
    /// Type of the cached K and V: f16, bf16, q8_0 or f32.
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    kv_type: String,
    /// Tokens in a KV block.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    block_size: u32,
}

/// Bytes of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Longest sequence.
    pub max_model_len: u32,
    /// Sequences at once.
    pub max_num_seqs: u32,
    /// Tokens in a step.
    pub max_num_batched_tokens: u32,
    pub kv_type: KvType,
    /// All weights, as the kernels read them.
    pub weights: u64,
    /// K and V of one token in all layers.
    pub kv_per_token: u64,
    /// Blocks that hold every sequence at full length: what `--kv-cache` must be for it.
    pub kv_cache: u64,
    /// Buffers of a step.
    pub workspace: u64,
}

impl Need {
    /// Of the model in `file`; `None` where this build cannot run it.
    ///
    /// # Errors
    /// A flag that `serve` would refuse.
    pub fn of(file: &ModelFile, args: &NeedArgs) -> Result<Option<Self>, CliError> {
        let kv_type: KvType = args.kv_type.parse().map_err(|e: KvCacheError| CliError::Config(e.to_string()))?;
        let vocab = file.tensor("token_embd.weight").and_then(|tensor| tensor.dims.get(1).copied());
        let vocab = vocab.and_then(|rows| usize::try_from(rows).ok());
        let config = ModelConfig::from_metadata(file.metadata()).ok();
        let (Some(config), Some(vocab), Some(weights)) = (config, vocab, footprint::weight_bytes(file)) else {
            return Ok(None);
        };
        let limits = EngineLimits {
            max_num_seqs: args.max_num_seqs,
            max_num_batched_tokens: args.max_num_batched_tokens,
            default_max_model_len: None,
        };
        let workspace = limits.workspace_bytes(&config, vocab);
        let max_model_len = limits.max_model_len(args.max_model_len, config.context_length)?;
        let shape = kv_shape(&config, args.block_size, kv_type);
        let block_bytes = shape.block_bytes().map_err(|e| CliError::Config(e.to_string()))?;
        let plan = KvPlan {
            block_bytes,
            block_size: args.block_size,
            max_model_len,
            max_num_seqs: args.max_num_seqs,
            reserved_bytes: workspace,
        };
        Ok(Some(Self {
            max_model_len,
            max_num_seqs: args.max_num_seqs,
            max_num_batched_tokens: args.max_num_batched_tokens,
            kv_type,
            weights,
            kv_per_token: block_bytes / u64::from(args.block_size),
            kv_cache: plan.full_blocks().saturating_mul(block_bytes),
            workspace,
        }))
    }

    /// Weights, cache and buffers together.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv_cache).saturating_add(self.workspace)
    }
}
