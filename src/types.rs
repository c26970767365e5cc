//! Values that cross module borders. Plain data: no IO, no threads, no clock.

use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Index into the model's vocabulary, `0 .. vocab_size`.
pub type TokenId = u32;

/// One sequence the engine advances. A request with `n = 3` is three sequences. Unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

/// A block of the KV-cache pool: `block_size` token places in every layer. `0 .. num_blocks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// One token's place in the pool: `block_id * block_size + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// Who shares cached prefixes: the sequences of one domain, and no others. A digest of model, tenant and salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheDomain(pub [u8; 32]);

impl CacheDomain {
    /// SHA-256 over the three, each after its length: no two triples run together.
    pub fn new(model: &str, tenant: &str, salt: &str) -> Self {
        let mut digest = Sha256::new_with_prefix("llorch-cpud prefix cache 1");
        for part in [model, tenant, salt] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        Self(digest.finalize().into())
    }
}

/// What decides when a sequence that waits gets its turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Whose it is. Tenants that wait at the same time share the engine by their weights.
    pub tenant: Arc<str>,
    /// Among the tenant's own a higher one goes first, unless another has waited long enough.
    pub priority: i32,
    /// When it came: milliseconds on a clock that never goes back.
    pub arrived_ms: u64,
}

/// A block whose contents are copied to another before anything is written in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockCopy {
    pub from: BlockId,
    pub to: BlockId,
}

/// Why a sequence ended well. Errors and cancellations are not finish reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-generation token, a stop token or a stop string.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The sequence filled the model's context.
    ContextLimit,
}

impl FinishReason {
    /// The label used in metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContextLimit => "context_limit",
        }
    }
}

/// How a sequence ended, told with its last token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish {
    pub reason: FinishReason,
    /// The last token is an end-of-generation or stop token: its text is not part of the output.
    pub by_stop_token: bool,
}

/// A token with the model's own log-probability (natural log, before any logits processor).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    pub token: TokenId,
    pub logprob: f32,
}

/// What sampling chose for one row of logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    pub token: TokenId,
    /// Log-probability of `token`; present when the sequence asked for log-probabilities.
    pub logprob: Option<f32>,
    /// The most likely tokens, best first; empty unless asked for.
    pub top: Vec<TokenLogprob>,
}

/// The arrays of one step, flat. Letters: `T` rows (tokens computed in this step), `B` sequences, `R` rows that sample.
///
/// Sequence `b` owns the rows `query_start_loc[b] .. query_start_loc[b + 1]`, in position order, and the blocks
/// `block_tables[block_table_start[b] .. block_table_start[b + 1]]`; position `p` of it lives in block `p / block_size`
/// of that list at offset `p % block_size`. Sequences may
/// share blocks; a block that is written in the step belongs to one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardBatch {
    /// Done in this order before the pass, by who calls the model: the sequences of `to` write behind what they share.
    pub block_copies: Vec<BlockCopy>,
    /// `[T]` input tokens.
    pub token_ids: Vec<TokenId>,
    /// `[T]` position of each token in its sequence, from 0.
    pub positions: Vec<u32>,
    /// `[T]` where the token's K and V are written. No slot occurs twice.
    pub slot_mapping: Vec<Slot>,
    /// `[B + 1]` prefix sums of the rows of each sequence.
    pub query_start_loc: Vec<u32>,
    /// `[B]` tokens of the sequence in the cache after this step: last position + 1.
    pub seq_lens: Vec<u32>,
    /// Blocks of all sequences, one list after the other.
    pub block_tables: Vec<BlockId>,
    /// `[B + 1]` prefix sums into `block_tables`.
    pub block_table_start: Vec<u32>,
    /// `[R]` rows whose logits are wanted, ascending.
    pub logits_rows: Vec<u32>,
}

impl ForwardBatch {
    /// `T`.
    pub fn num_rows(&self) -> usize {
        self.token_ids.len()
    }

    /// `B`.
    pub fn num_seqs(&self) -> usize {
        self.seq_lens.len()
    }

    /// Empties every array and keeps the memory.
    pub fn clear(&mut self) {
        self.block_copies.clear();
        self.token_ids.clear();
        self.positions.clear();
        self.slot_mapping.clear();
        self.query_start_loc.clear();
        self.seq_lens.clear();
        self.block_tables.clear();
        self.block_table_start.clear();
        self.logits_rows.clear();
    }
}
