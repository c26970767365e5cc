//! One sequence as the scheduler sees it: its tokens, how many are in the cache, and where.

use super::{BlockPool, BlockTable};
use crate::types::{SeqId, TokenId};

/// A sequence that is not finished.
#[derive(Clone, Debug)]
pub struct Sequence {
    id: SeqId,
    /// Sequences are numbered as they are submitted: smaller is older.
    arrival: u64,
    /// All known tokens: the prompt, then what was generated.
    tokens: Vec<TokenId>,
    num_prompt_tokens: u32,
    /// The first so many tokens have K and V in the cache.
    num_computed_tokens: u32,
    /// The most tokens that were ever computed: what lies below it is recomputed after a preemption.
    max_computed_tokens: u32,
    /// The most tokens it can come to know.
    max_len: u32,
    table: BlockTable,
    was_scheduled: bool,
    finished: bool,
}

impl Sequence {
    pub(super) fn new(id: SeqId, arrival: u64, prompt: &[TokenId], max_len: u32, block_size: u32) -> Self {
        Self {
            id,
            arrival,
            tokens: prompt.to_vec(),
            num_prompt_tokens: prompt.len() as u32,
            num_computed_tokens: 0,
            max_computed_tokens: 0,
            max_len,
            table: BlockTable::new(block_size),
            was_scheduled: false,
            finished: false,
        }
    }

    pub fn id(&self) -> SeqId {
        self.id
    }

    pub fn arrival(&self) -> u64 {
        self.arrival
    }

    /// All known tokens: the prompt, then what was generated.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    pub fn num_tokens(&self) -> u32 {
        self.tokens.len() as u32
    }

    pub fn num_prompt_tokens(&self) -> u32 {
        self.num_prompt_tokens
    }

    pub fn num_generated_tokens(&self) -> u32 {
        self.num_tokens() - self.num_prompt_tokens
    }

    pub fn num_computed_tokens(&self) -> u32 {
        self.num_computed_tokens
    }

    /// Known but not in the cache. At least 1: the last known token is computed to sample the next.
    pub fn num_pending_tokens(&self) -> u32 {
        self.num_tokens() - self.num_computed_tokens
    }

    /// See [`Sequence::num_computed_tokens`]; this one does not fall when the sequence is preempted.
    pub fn max_computed_tokens(&self) -> u32 {
        self.max_computed_tokens
    }

    /// `prompt + max_tokens`, capped by the context.
    pub fn max_len(&self) -> u32 {
        self.max_len
    }

    pub fn block_table(&self) -> &BlockTable {
        &self.table
    }

    /// Whether it ever ran.
    pub fn was_scheduled(&self) -> bool {
        self.was_scheduled
    }

    /// Blocks to allocate before the next `num_tokens` tokens fit.
    pub(super) fn num_missing_blocks(&self, num_tokens: u32) -> u32 {
        self.table.num_missing(self.num_computed_tokens + num_tokens)
    }

    /// Takes blocks for the next `wanted` tokens, as far as the pool goes. Returns the tokens there is room for.
    pub(super) fn grow(&mut self, wanted: u32, pool: &mut BlockPool) -> u32 {
        self.table.grow(self.num_computed_tokens + wanted, pool);
        wanted.min(self.table.capacity() - self.num_computed_tokens)
    }

    /// Told when it starts to run. `true` the first time.
    ///
    /// Memory for all it may become is reserved here and not at submit, where the queue could be long.
    pub(super) fn start(&mut self) -> bool {
        self.tokens.reserve_exact((self.max_len - self.num_tokens()) as usize);
        self.table.reserve(self.max_len);
        !std::mem::replace(&mut self.was_scheduled, true)
    }

    pub(super) fn advance(&mut self, num_tokens: u32) {
        self.num_computed_tokens += num_tokens;
        self.max_computed_tokens = self.max_computed_tokens.max(self.num_computed_tokens);
    }

    pub(super) fn append(&mut self, token: TokenId) {
        assert!(self.num_tokens() < self.max_len, "{:?} grows past its limit of {} tokens", self.id, self.max_len);
        self.tokens.push(token);
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Gives the blocks back and forgets what was computed.
    pub(super) fn release(&mut self, pool: &mut BlockPool) {
        self.table.release(pool);
        self.num_computed_tokens = 0;
    }
}
