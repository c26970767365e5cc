//! Models: a forward pass over a batch of rows from many sequences.

pub mod config;

use crate::kv_cache::KvCache;
use crate::types::{BlockId, Slot, TokenId};

/// The arrays of one step, flat. Letters: `T` rows (tokens computed in this step), `B` sequences, `R` rows that sample.
///
/// Sequence `b` owns the rows `query_start_loc[b] .. query_start_loc[b + 1]`, in position order, and the blocks
/// `block_tables[block_table_start[b] .. block_table_start[b + 1]]`; position `p` of it lives in block `p / block_size`
/// of that list at offset `p % block_size`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardBatch {
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

/// A model the engine can step.
pub trait Model: Send {
    /// Entries of one row of logits.
    fn vocab_size(&self) -> usize;

    /// One pass over the weights for every row of `batch`. Writes K and V to their slots and returns the logits of
    /// `batch.logits_rows`, `[R, vocab_size]`. The bits of a row depend on its own sequence alone (LAW-1).
    fn forward(&mut self, batch: &ForwardBatch, kv_cache: &mut KvCache) -> &mut [f32];
}
