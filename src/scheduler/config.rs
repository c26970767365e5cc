//! The limits of the scheduler, and what does not go with them.

/// The limits of the scheduler. All are at least 1, and `num_blocks * block_size` fits a `u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Sequences that may run at the same time.
    pub max_num_seqs: u32,
    /// The token budget: tokens computed in one step. It also bounds the running sequences, who get one token at least.
    pub max_num_batched_tokens: u32,
    /// Blocks of the KV pool.
    pub num_blocks: u32,
    /// Tokens of one block.
    pub block_size: u32,
    /// Tokens a sequence may have, prompt and generated together.
    pub max_model_len: u32,
}

/// A limit that the scheduler cannot work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{0} is 0, must be at least 1")]
    Zero(&'static str),
    #[error("num_blocks {num_blocks} times block_size {block_size} exceeds 4294967295 slots")]
    TooManySlots { num_blocks: u32, block_size: u32 },
}

/// A sequence that could not finish even with the whole pool for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sequence needs {needed} KV blocks, the pool has {available}")]
pub struct KvCapacity {
    pub needed: u64,
    pub available: u64,
}

impl SchedulerConfig {
    /// Whether a scheduler can be made from these limits.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let limits = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("num_blocks", self.num_blocks),
            ("block_size", self.block_size),
            ("max_model_len", self.max_model_len),
        ];
        if let Some((name, _)) = limits.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Zero(name));
        }
        if self.num_blocks.checked_mul(self.block_size).is_none() {
            return Err(ConfigError::TooManySlots { num_blocks: self.num_blocks, block_size: self.block_size });
        }
        Ok(())
    }

    /// Sequences that can run at the same time: each computes a token in a step.
    pub(super) fn max_running(&self) -> u32 {
        self.max_num_seqs.min(self.max_num_batched_tokens)
    }

    /// The most tokens a sequence of this prompt can come to know.
    pub(super) fn max_len(&self, prompt_len: usize, max_tokens: u32) -> u64 {
        (prompt_len as u64 + u64::from(max_tokens)).min(u64::from(self.max_model_len))
    }
}
