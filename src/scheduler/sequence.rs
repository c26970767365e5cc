//! One sequence as the scheduler sees it: its tokens, how many are in the cache, and where.

use super::prefix_cache::{BlockKey, Contents};
use super::{BlockPool, BlockTable, TenantIndex};
use crate::types::{BlockCopy, BlockId, CacheDomain, SeqId, TokenId};

/// A sequence that is not finished; until it forks, the sequences that share its prompt as well.
#[derive(Clone, Debug)]
pub struct Sequence {
    id: SeqId,
    /// Sequences are numbered as they are submitted.
    arrival: u64,
    /// And as they first take a place: smaller is older. 0 until then.
    seniority: u64,
    /// When its turn comes among those of its tenant that wait, in milliseconds.
    due_ms: i64,
    tenant: TenantIndex,
    /// All known tokens: the prompt, then what was generated.
    tokens: Vec<TokenId>,
    num_prompt_tokens: u32,
    /// The first so many tokens have K and V in the cache.
    num_computed_tokens: u32,
    /// The most tokens that were ever in the cache: what lies below it is recomputed after a preemption.
    max_computed_tokens: u32,
    /// The first so many tokens were charged to the tenant, or came from the cache.
    num_charged_tokens: u32,
    /// The most tokens it can come to know.
    max_len: u32,
    /// Sequences that begin when the prompt is computed, with the ids and seniorities after its own.
    num_forks: u32,
    /// Where its prefix may come from and go to; `None`: it uses the prefix cache in no way.
    domain: Option<CacheDomain>,
    /// Of its first full blocks, as far as they were needed.
    keys: Vec<BlockKey>,
    table: BlockTable,
    num_preemptions: u32,
    was_scheduled: bool,
    ended: Option<Ended>,
}

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Finished,
    /// What is in its blocks is not to be used.
    Poisoned,
}

/// What a sequence is made from.
pub(super) struct NewSequence<'a> {
    pub id: SeqId,
    pub tenant: TenantIndex,
    pub arrival: u64,
    pub due_ms: i64,
    pub prompt: &'a [TokenId],
    pub max_len: u32,
    pub num_forks: u32,
    pub domain: Option<CacheDomain>,
    pub block_size: u32,
}

impl Sequence {
    pub(super) fn new(new: &NewSequence) -> Self {
        Self {
            id: new.id,
            arrival: new.arrival,
            seniority: 0,
            due_ms: new.due_ms,
            tenant: new.tenant,
            tokens: new.prompt.to_vec(),
            num_prompt_tokens: new.prompt.len() as u32,
            num_computed_tokens: 0,
            max_computed_tokens: 0,
            num_charged_tokens: 0,
            max_len: new.max_len,
            num_forks: new.num_forks,
            domain: new.domain,
            keys: Vec::new(),
            table: BlockTable::new(new.block_size),
            num_preemptions: 0,
            was_scheduled: false,
            ended: None,
        }
    }

    pub fn id(&self) -> SeqId {
        self.id
    }

    /// Its number in the order of submission.
    pub fn arrival(&self) -> u64 {
        self.arrival
    }

    /// When its turn comes among those of its tenant that wait, in milliseconds.
    pub fn due_ms(&self) -> i64 {
        self.due_ms
    }

    /// Its number in the order of first service; 0 before.
    pub fn seniority(&self) -> u64 {
        self.seniority
    }

    pub(super) fn set_seniority(&mut self, seniority: u64) {
        self.seniority = seniority;
    }

    /// Who it counts for.
    pub fn tenant(&self) -> TenantIndex {
        self.tenant
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

    /// Sequences that are to begin with this one's prompt: they have the ids that follow.
    pub fn num_forks(&self) -> u32 {
        self.num_forks
    }

    /// Whether `id` is this sequence or one that is to begin with its prompt.
    pub fn covers(&self, id: SeqId) -> bool {
        (self.id.0..=self.id.0 + u64::from(self.num_forks)).contains(&id.0)
    }

    /// Where its prefix may come from and go to.
    pub fn domain(&self) -> Option<CacheDomain> {
        self.domain
    }

    pub fn block_table(&self) -> &BlockTable {
        &self.table
    }

    /// How often it lost its blocks.
    pub fn num_preemptions(&self) -> u32 {
        self.num_preemptions
    }

    /// Whether it ever ran.
    pub fn was_scheduled(&self) -> bool {
        self.was_scheduled
    }

    /// The keys of its first blocks, as far as they are known: for checks.
    pub fn keys(&self) -> &[BlockKey] {
        &self.keys
    }

    /// Blocks to allocate before the next `num_tokens` tokens fit: new ones, and one to copy a shared block to.
    pub(super) fn num_missing_blocks(&self, num_tokens: u32, pool: &BlockPool) -> u32 {
        let copied = num_tokens > 0 && self.table.is_shared(self.num_computed_tokens, pool);
        u32::from(copied) + self.table.num_missing(self.num_computed_tokens + num_tokens)
    }

    /// Blocks to allocate before it and all its forks have what they can come to need, at most.
    pub(super) fn num_missing_to_limit(&self, pool: &BlockPool) -> u64 {
        let all_of_one = u64::from(self.max_len.div_ceil(self.table.block_size()));
        let copied = self.table.is_shared(self.num_computed_tokens, pool);
        u64::from(copied) + u64::from(self.table.num_missing(self.max_len)) + u64::from(self.num_forks) * all_of_one
    }

    /// Takes blocks for the next `wanted` tokens, as far as the pool goes; a shared block that would be written is
    /// exchanged for a copy, which is added to `copies`. Returns the tokens there is room for.
    pub(super) fn grow(&mut self, wanted: u32, pool: &mut BlockPool, copies: &mut Vec<BlockCopy>) -> u32 {
        if wanted > 0 && self.table.is_shared(self.num_computed_tokens, pool) {
            let Some(copy) = self.table.unshare(self.num_computed_tokens, pool) else { return 0 };
            copies.push(copy);
        }
        self.table.grow(self.num_computed_tokens + wanted, pool);
        wanted.min(self.table.capacity() - self.num_computed_tokens)
    }

    /// The longest cached prefix of whole blocks that leaves a token to compute, to `found`.
    pub(super) fn find_prefix(&mut self, pool: &BlockPool, found: &mut Vec<BlockId>) {
        found.clear();
        let Some(domain) = self.domain else { return };
        let most = (self.num_tokens() - 1) / self.table.block_size();
        for index in 0..most {
            let parent = found.last().copied();
            self.compute_key(index, domain, pool);
            let Some(block) = pool.cache().find(&self.contents(index, domain, parent)) else { return };
            found.push(block);
        }
    }

    /// Told when it starts to run, with the cached blocks it begins with. `true` the first time.
    ///
    /// Memory for all it may become is reserved here and not at submit, where the queue could be long.
    pub(super) fn start(&mut self, prefix: &[BlockId], pool: &mut BlockPool) -> bool {
        self.reserve();
        self.table.adopt(prefix, pool);
        self.num_computed_tokens = self.table.capacity();
        self.max_computed_tokens = self.max_computed_tokens.max(self.num_computed_tokens);
        !std::mem::replace(&mut self.was_scheduled, true)
    }

    fn reserve(&mut self) {
        self.tokens.reserve_exact((self.max_len - self.num_tokens()) as usize);
        self.table.reserve(self.max_len);
        if self.domain.is_some() {
            let num_blocks = (self.max_len / self.table.block_size()) as usize;
            self.keys.reserve_exact(num_blocks.saturating_sub(self.keys.len()));
        }
    }

    pub(super) fn advance(&mut self, num_tokens: u32) {
        self.num_computed_tokens += num_tokens;
        self.max_computed_tokens = self.max_computed_tokens.max(self.num_computed_tokens);
    }

    /// Makes the blocks that the last `num_tokens` computed tokens have filled known to the cache.
    pub(super) fn publish(&mut self, num_tokens: u32, pool: &mut BlockPool) {
        let Some(domain) = self.domain else { return };
        let block_size = self.table.block_size();
        let first = (self.num_computed_tokens - num_tokens) / block_size;
        for index in first..self.num_computed_tokens / block_size {
            let parent = index.checked_sub(1).map(|above| self.table.blocks()[above as usize]);
            if parent.is_some_and(|parent| !pool.cache().knows(parent)) {
                return;
            }
            self.compute_key(index, domain, pool);
            let block = pool.learn(self.table.blocks()[index as usize], &self.contents(index, domain, parent));
            self.table.replace(index, block);
        }
    }

    pub(super) fn append(&mut self, token: TokenId) {
        assert!(self.num_tokens() < self.max_len, "{:?} grows past its limit of {} tokens", self.id, self.max_len);
        self.tokens.push(token);
    }

    /// The sequence number `offset` of those that begin with this one's prompt, with its first token.
    pub(super) fn fork(&self, offset: u32, token: TokenId, pool: &mut BlockPool) -> Self {
        let mut table = BlockTable::new(self.table.block_size());
        table.reserve(self.max_len);
        table.adopt(self.table.blocks(), pool);
        let mut fork = Self {
            id: SeqId(self.id.0 + u64::from(offset)),
            arrival: self.arrival + u64::from(offset),
            seniority: self.seniority + u64::from(offset),
            tokens: self.tokens[..self.num_prompt_tokens as usize].to_vec(),
            num_forks: 0,
            keys: self.keys.clone(),
            table,
            num_preemptions: 0,
            ended: None,
            ..*self
        };
        fork.reserve();
        fork.append(token);
        fork
    }

    /// The forks have begun.
    pub(super) fn forget_forks(&mut self) {
        self.num_forks = 0;
    }

    pub(super) fn end(&mut self, ended: Ended) {
        self.ended = Some(ended);
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        self.ended
    }

    pub(super) fn preempt(&mut self, pool: &mut BlockPool) {
        self.num_preemptions += 1;
        self.release(pool);
    }

    /// A fork without a place: what its group computed is not its own.
    pub(super) fn queue_fork(&mut self, pool: &mut BlockPool) {
        self.num_charged_tokens = 0;
        self.release(pool);
    }

    /// Tokens to charge for the next `num_tokens`: those that were not charged before.
    pub(super) fn charge(&mut self, num_tokens: u32) -> u32 {
        let end = self.num_computed_tokens + num_tokens;
        let start = self.num_computed_tokens.max(self.num_charged_tokens);
        self.num_charged_tokens = self.num_charged_tokens.max(end);
        end.saturating_sub(start)
    }

    /// Gives the blocks back and forgets what was computed.
    pub(super) fn release(&mut self, pool: &mut BlockPool) {
        self.table.release(pool);
        self.num_computed_tokens = 0;
    }

    /// Computes the key of block `index`; those before it are there.
    fn compute_key(&mut self, index: u32, domain: CacheDomain, pool: &BlockPool) {
        if self.keys.len() == index as usize {
            let contents = self.contents_without_key(index, domain);
            let key = pool.cache().key(&contents.0, contents.1);
            self.keys.push(key);
        }
    }

    fn contents(&self, index: u32, domain: CacheDomain, parent: Option<BlockId>) -> Contents<'_> {
        let (above, tokens) = self.contents_without_key(index, domain);
        Contents { key: self.keys[index as usize], above, parent, tokens }
    }

    /// The key above block `index`, and its tokens.
    fn contents_without_key(&self, index: u32, domain: CacheDomain) -> (BlockKey, &[TokenId]) {
        let above = index.checked_sub(1).map_or(domain.into(), |above| self.keys[above as usize]);
        let block_size = self.table.block_size() as usize;
        (above, &self.tokens[index as usize * block_size..][..block_size])
    }
}
