//! Who computes how many tokens in the next step, and where their K and V go.
//!
//! Pure: no clock, no threads, no randomness; the same calls give the same plans. Behaviour:
//! `specs/03_BATCHED_SCHEDULER.md`.
//!
//! There is one rule and there are no phases. A sequence has tokens that are *known* (prompt and generated) and tokens
//! that are *computed* (their K and V are in the cache); a step hands out tokens to compute until the second number
//! catches up with the first. Prefill, a chunk of it, decoding and recomputing after a preemption are this one thing.

mod block_pool;
mod block_table;
mod invariants;
mod plan;
mod sequence;

pub use block_pool::BlockPool;
pub use block_table::BlockTable;
pub use plan::{Outcome, ScheduledSequence, StepPlan};
pub use sequence::Sequence;

use crate::types::{SeqId, TokenId};
use std::collections::VecDeque;

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

    /// The most tokens a sequence of this prompt can come to know.
    fn max_len(&self, prompt_len: usize, max_tokens: u32) -> u64 {
        (prompt_len as u64 + u64::from(max_tokens)).min(u64::from(self.max_model_len))
    }
}

/// All sequences that are not finished, and the blocks they hold.
///
/// `running` followed by `waiting` is always in order of arrival: sequences are admitted from the front of `waiting`,
/// and the preempted ones, youngest first, go back there.
#[derive(Clone, Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    pool: BlockPool,
    /// The number of the next arrival.
    next_arrival: u64,
}

impl Scheduler {
    pub fn new(config: SchedulerConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let max_running = config.max_num_seqs.min(config.max_num_batched_tokens).min(config.num_blocks);
        Ok(Self {
            config,
            running: Vec::with_capacity(max_running as usize),
            waiting: VecDeque::new(),
            pool: BlockPool::new(config.num_blocks),
            next_arrival: 0,
        })
    }

    /// Queues a sequence behind all others. Errors when `prompt + max_tokens`, capped by the context, can never fit.
    ///
    /// # Panics
    /// When `prompt` is empty or fills the context, `max_tokens` is 0, or `id` is alive: the caller checks these.
    pub fn submit(&mut self, id: SeqId, prompt: &[TokenId], max_tokens: u32) -> Result<(), KvCapacity> {
        assert!(!prompt.is_empty() && max_tokens > 0, "{id:?}: nothing to compute");
        assert!((prompt.len() as u64) < u64::from(self.config.max_model_len), "{id:?}: prompt fills the context");
        assert!(self.get(id).is_none(), "{id:?} is alive");
        let max_len = self.config.max_len(prompt.len(), max_tokens);
        let needed = max_len.div_ceil(u64::from(self.config.block_size));
        let available = u64::from(self.config.num_blocks);
        if needed > available {
            return Err(KvCapacity { needed, available });
        }
        let max_len = u32::try_from(max_len).expect("capped by max_model_len");
        self.waiting.push_back(Sequence::new(id, self.next_arrival, prompt, max_len, self.config.block_size));
        self.next_arrival += 1;
        Ok(())
    }

    /// Decides the next step and allocates its blocks. `plan` is overwritten; [`Scheduler::commit`] is to follow before
    /// any other method that takes `&mut self`.
    pub fn plan(&mut self, plan: &mut StepPlan) {
        plan.clear();
        let mut budget = self.config.max_num_batched_tokens;
        let mut index = 0;
        while index < self.running.len() {
            let wanted = self.running[index].num_pending_tokens().min(budget);
            let num_tokens = self.grow(index, wanted, plan);
            self.schedule(index, num_tokens, plan);
            budget -= num_tokens;
            index += 1;
        }
        while budget > 0 && self.admit(plan) {
            let index = self.running.len() - 1;
            let num_tokens = self.running[index].num_pending_tokens().min(budget);
            let granted = self.grow(index, num_tokens, plan);
            assert_eq!(granted, num_tokens, "SCH-5: an admitted sequence has its blocks");
            self.schedule(index, num_tokens, plan);
            budget -= num_tokens;
        }
    }

    /// Records that `plan` was computed. `outcomes` has an entry for each sequence that samples, in plan order.
    ///
    /// # Panics
    /// When `plan` is not the last one made, or `outcomes` has another length.
    pub fn commit(&mut self, plan: &StepPlan, outcomes: &[Outcome]) {
        assert_eq!(outcomes.len(), plan.num_samples() as usize, "one outcome for each sequence that samples");
        let mut outcomes = outcomes.iter();
        for scheduled in &plan.sequences {
            let sequence = &mut self.running[scheduled.index as usize];
            assert_eq!(sequence.id(), scheduled.id, "the plan is the last one made");
            sequence.advance(scheduled.num_tokens);
            if scheduled.samples {
                match outcomes.next().expect("counted above") {
                    Outcome::Append(token) => sequence.append(*token),
                    Outcome::Finish => sequence.finish(),
                }
            }
        }
        let pool = &mut self.pool;
        self.running.retain_mut(|sequence| {
            if sequence.is_finished() {
                sequence.release(pool);
            }
            !sequence.is_finished()
        });
        self.check();
    }

    /// Ends a sequence from outside. Its blocks are free at once. `false` when it is not known.
    pub fn abort(&mut self, id: SeqId) -> bool {
        if let Some(index) = self.running.iter().position(|s| s.id() == id) {
            self.running.remove(index).release(&mut self.pool);
        } else if let Some(index) = self.waiting.iter().position(|s| s.id() == id) {
            self.waiting.remove(index);
        } else {
            return false;
        }
        self.check();
        true
    }

    /// Panics, naming the property, when the state breaks one of `specs/03_BATCHED_SCHEDULER.md`. Takes time with the
    /// pool's size.
    pub fn check_invariants(&self) {
        invariants::check(&self.config, &self.running, &self.waiting, &self.pool);
    }

    /// Forgets every sequence, whatever state they and the pool are in.
    pub fn reset(&mut self) {
        self.running.clear();
        self.waiting.clear();
        self.pool = BlockPool::new(self.config.num_blocks);
    }

    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Running sequences, oldest first. [`ScheduledSequence::index`] points in here.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// Waiting sequences, the next one first.
    pub fn waiting(&self) -> impl Iterator<Item = &Sequence> {
        self.waiting.iter()
    }

    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// The sequence of this id, running or waiting.
    pub fn get(&self, id: SeqId) -> Option<&Sequence> {
        self.running.iter().chain(&self.waiting).find(|s| s.id() == id)
    }

    /// Makes room for `wanted` more tokens of the running sequence `index`: from the free list, then by preempting the
    /// youngest. The youngest itself gets what the free list has left, perhaps nothing, and keeps what it holds.
    /// Returns the tokens there is room for.
    fn grow(&mut self, index: usize, wanted: u32, plan: &mut StepPlan) -> u32 {
        while self.running[index].num_missing_blocks(wanted) > self.pool.num_free() && index + 1 < self.running.len() {
            self.preempt_youngest(plan);
        }
        self.running[index].grow(wanted, &mut self.pool)
    }

    fn preempt_youngest(&mut self, plan: &mut StepPlan) {
        let mut victim = self.running.pop().expect("the caller saw a younger sequence");
        victim.release(&mut self.pool);
        plan.num_preempted += 1;
        self.waiting.push_front(victim);
    }

    /// Moves the first waiting sequence to the running ones if it may start now.
    ///
    /// All its known tokens must fit beside those that running sequences have still to compute, and one block must stay
    /// for each of them to grow into: a sequence that is admitted only to be preempted at once has computed in vain.
    /// Alone it always fits, by the check at submit.
    fn admit(&mut self, plan: &mut StepPlan) -> bool {
        let Some(candidate) = self.waiting.front() else { return false };
        if self.running.len() >= self.config.max_num_seqs as usize {
            return false;
        }
        let missing = |s: &Sequence| u64::from(s.num_missing_blocks(s.num_pending_tokens()));
        let reserved: u64 = self.running.iter().map(|s| missing(s) + 1).sum();
        if missing(candidate) + reserved > u64::from(self.pool.num_free()) {
            return false;
        }
        let mut sequence = self.waiting.pop_front().expect("seen above");
        if sequence.start() {
            plan.first_scheduled.push(sequence.id());
        }
        self.running.push(sequence);
        true
    }

    fn schedule(&self, index: usize, num_tokens: u32, plan: &mut StepPlan) {
        if num_tokens > 0 {
            plan.push(index, &self.running[index], num_tokens);
        }
    }

    /// What is checked after every change: everything in debug builds, conservation at rest always.
    fn check(&self) {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        if !self.has_work() {
            assert_eq!(self.pool.num_used(), 0, "SCH-1: blocks are held at rest");
        }
    }
}
