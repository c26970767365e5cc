//! Who computes how many tokens in the next step, and where their K and V go.
//!
//! Pure: no clock, no threads, no randomness; the same calls give the same plans. Behaviour:
//! `specs/03_BATCHED_SCHEDULER.md`.
//!
//! There is one rule and there are no phases. A sequence has tokens that are *known* (prompt and generated) and tokens
//! that are *computed* (their K and V are in the cache); a step hands out tokens to compute until the second number
//! catches up with the first. Prefill, a chunk of it, decoding and recomputing after a preemption are this one thing.
//! A sequence that starts takes what the prefix cache has of its tokens: those are computed already.

mod admission;
mod block_pool;
mod block_table;
mod config;
mod fair_queue;
mod invariants;
mod key_index;
mod lru_list;
mod plan;
pub mod prefix_cache;
mod sequence;
mod tenants;

pub use admission::MAX_PREEMPTIONS;
pub use block_pool::BlockPool;
pub use block_table::BlockTable;
pub use config::{ConfigError, KvCapacity, SchedulerConfig};
pub use fair_queue::{AGEING_MS, Begun, FairQueue};
pub use plan::{FirstRun, Outcome, Sample, ScheduledSequence, StepPlan};
pub use sequence::Sequence;
pub use tenants::TenantIndex;

use crate::types::{BlockId, CacheDomain, SeqId, TokenId, Turn};
use sequence::{Ended, NewSequence};
use std::collections::VecDeque;
use std::sync::Arc;

/// What sequences are submitted with, beside a prompt and a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Sequences that begin with the prompt, at least 1. It is computed once for those that find a place then.
    pub n: u32,
    /// With whom the prefix cache may share blocks; `None`: with nobody, and nothing is kept.
    pub domain: Option<CacheDomain>,
}

impl Sharing {
    /// One sequence, without the prefix cache.
    pub const NONE: Self = Self { n: 1, domain: None };
}

/// The sequences that [`Scheduler::abort`] ended: `count` ids from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    pub first: SeqId,
    pub count: u32,
}

/// All sequences that are not finished, and the blocks they hold.
///
/// `running` followed by `preempted` is always in order of first service, the oldest first: the preempted ones,
/// youngest first, go to the front, and are all back before a sequence of `queue` gets its turn.
#[derive(Clone, Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    running: Vec<Sequence>,
    /// Sequences that ran and lost their blocks.
    preempted: VecDeque<Sequence>,
    /// Sequences that never had a place.
    queue: FairQueue,
    pool: BlockPool,
    /// The numbers of the next sequence that comes, and of the next that is first served.
    next_arrival: u64,
    next_seniority: u64,
    /// The cached prefix of the sequence that is looked at.
    prefix: Vec<BlockId>,
}

impl Scheduler {
    pub fn new(config: SchedulerConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            running: Vec::with_capacity(config.max_running() as usize),
            preempted: VecDeque::new(),
            queue: FairQueue::default(),
            pool: BlockPool::new(config.num_blocks, config.block_size),
            next_arrival: 0,
            next_seniority: 0,
            prefix: Vec::new(),
        })
    }

    /// The shares of tenants that come from now on, 1 for who is not named. Weights are finite and above 0.
    pub fn set_tenant_weights(&mut self, weights: &[(Arc<str>, f64)]) {
        self.queue.set_weights(weights);
    }

    /// Queues `sharing.n` sequences, of the ids from `id` on. Errors when `prompt + max_tokens`, capped by the context,
    /// can never fit.
    ///
    /// # Panics
    /// When `prompt` is empty or fills the context, `max_tokens` or `n` is 0, or an id is alive: the caller checks
    /// these.
    pub fn submit(
        &mut self,
        id: SeqId,
        prompt: &[TokenId],
        max_tokens: u32,
        sharing: Sharing,
        turn: &Turn,
    ) -> Result<(), KvCapacity> {
        assert!(!prompt.is_empty() && max_tokens > 0 && sharing.n > 0, "{id:?}: nothing to compute");
        assert!((prompt.len() as u64) < u64::from(self.config.max_model_len), "{id:?}: prompt fills the context");
        let last = SeqId(id.0 + u64::from(sharing.n) - 1);
        let overlaps = |s: &Sequence| s.covers(id) || (id..=last).contains(&s.id());
        let started = self.running.iter().chain(&self.preempted).any(overlaps);
        assert!(!started && !self.queue.overlaps(id, last), "{id:?} is alive");
        let max_len = self.config.max_len(prompt.len(), max_tokens);
        let needed = max_len.div_ceil(u64::from(self.config.block_size));
        let available = u64::from(self.config.num_blocks);
        if needed > available {
            return Err(KvCapacity { needed, available });
        }
        let max_len = u32::try_from(max_len).expect("capped by max_model_len");
        let tenant = self.queue.enter(&turn.tenant);
        let sequence = Sequence::new(&NewSequence {
            id,
            tenant,
            arrival: self.next_arrival,
            due_ms: fair_queue::due_ms(turn),
            prompt,
            max_len,
            num_forks: sharing.n - 1,
            domain: sharing.domain,
            block_size: self.config.block_size,
        });
        self.queue.push(sequence);
        self.next_arrival += u64::from(sharing.n);
        Ok(())
    }

    /// Decides the next step and allocates its blocks. `plan` is overwritten; [`Scheduler::commit`] is to follow before
    /// any other method that takes `&mut self`.
    ///
    /// All sequences that do not decode are together given at most `max_prefill_tokens` tokens: a long prompt is not to
    /// hold up those who are being answered, nor to make a step of itself too long. 0 lets them wait for a step; where
    /// nobody decodes it is taken as 1.
    pub fn plan(&mut self, plan: &mut StepPlan, max_prefill_tokens: u32) {
        plan.clear();
        let mut budget = self.config.max_num_batched_tokens;
        let mut prefill = if self.num_decoding() > 0 { max_prefill_tokens } else { max_prefill_tokens.max(1) };
        let mut index = 0;
        while index < self.running.len() {
            let pending = self.running[index].num_pending_tokens();
            let wanted = if pending > 1 { pending.min(budget).min(prefill) } else { pending.min(budget) };
            let num_tokens = self.grow(index, wanted, plan);
            self.schedule(index, num_tokens, plan);
            budget -= num_tokens;
            prefill -= if pending > 1 { num_tokens } else { 0 };
            index += 1;
        }
        while budget > 0 && prefill > 0 && self.admit(plan) {
            let index = self.running.len() - 1;
            let num_tokens = self.running[index].num_pending_tokens().min(budget).min(prefill);
            let granted = self.grow(index, num_tokens, plan);
            assert_eq!(granted, num_tokens, "SCH-5: an admitted sequence has its blocks");
            self.schedule(index, num_tokens, plan);
            budget -= num_tokens;
            prefill -= num_tokens;
        }
    }

    /// Running sequences that are about to compute the one token that they know and have not computed.
    pub fn num_decoding(&self) -> u32 {
        self.running.iter().filter(|sequence| sequence.num_pending_tokens() == 1).count() as u32
    }

    /// Sequences that have more than one token to compute, or wait and have a place.
    pub fn num_awaiting(&self) -> u32 {
        let places: u64 = self.running.iter().map(|sequence| 1 + u64::from(sequence.num_forks())).sum();
        let free = u64::from(self.config.max_running()).saturating_sub(places);
        let waiting = self.preempted.len() as u64 + self.queue.num_sequences();
        let behind = self.running.iter().filter(|sequence| sequence.num_pending_tokens() > 1).count();
        behind as u32 + waiting.min(free) as u32
    }

    /// Records that `plan` was computed. `outcomes` has an entry for each of [`StepPlan::samples`].
    ///
    /// # Panics
    /// When `plan` is not the last one made, or `outcomes` has another length.
    pub fn commit(&mut self, plan: &StepPlan, outcomes: &[Outcome]) {
        assert_eq!(outcomes.len(), plan.num_samples() as usize, "one outcome for each token to be chosen");
        let (mut outcomes, mut num_begun) = (outcomes, 0);
        for scheduled in &plan.sequences {
            let index = scheduled.index as usize + num_begun;
            let sequence = &mut self.running[index];
            assert_eq!(sequence.id(), scheduled.id, "the plan is the last one made");
            sequence.advance(scheduled.num_tokens);
            let (of_this, rest) =
                outcomes.split_at(if scheduled.samples { 1 + scheduled.num_forks as usize } else { 0 });
            outcomes = rest;
            if !of_this.contains(&Outcome::Poisoned) {
                sequence.publish(scheduled.num_tokens, &mut self.pool);
            }
            if let Some((own, forks)) = of_this.split_first() {
                num_begun += self.fork(index, forks);
                match own {
                    Outcome::Append(token) => self.running[index].append(*token),
                    Outcome::Finish => self.running[index].end(Ended::Finished),
                    Outcome::Poisoned => self.running[index].end(Ended::Poisoned),
                }
            }
        }
        self.remove_ended();
        self.check();
    }

    /// Begins the sequences that waited for the prompt of the one at `index`, behind it. Returns how many did not end
    /// with their first token.
    fn fork(&mut self, index: usize, outcomes: &[Outcome]) -> usize {
        let mut place = index + 1;
        for (offset, outcome) in (1..).zip(outcomes) {
            if let Outcome::Append(token) = outcome {
                let fork = self.running[index].fork(offset, *token, &mut self.pool);
                self.running.insert(place, fork);
                place += 1;
            }
        }
        let num_begun = place - index - 1;
        self.queue.tenants_mut().add(self.running[index].tenant(), num_begun as u32);
        self.running[index].forget_forks();
        num_begun
    }

    /// Takes out what ended, and puts into the queue the forks that find no place. They are of the youngest group:
    /// behind one that has more forks than there are places nobody is admitted.
    fn remove_ended(&mut self) {
        let (pool, tenants) = (&mut self.pool, self.queue.tenants_mut());
        self.running.retain_mut(|sequence| {
            let Some(ended) = sequence.ended() else { return true };
            if ended == Ended::Poisoned {
                pool.distrust(sequence.block_table().blocks());
            }
            sequence.release(pool);
            tenants.leave(sequence.tenant());
            false
        });
        while self.running.len() > self.config.max_running() as usize {
            let mut fork = self.running.pop().expect("more than can run");
            fork.queue_fork(&mut self.pool);
            self.queue.push(fork);
        }
    }

    /// Ends a sequence from outside. Its blocks are free, or cached, at once. `None` when it is not known. Until the
    /// prompt is computed the sequences that begin with it are one: all of them end.
    pub fn abort(&mut self, id: SeqId) -> Option<Aborted> {
        let covers = |s: &Sequence| s.covers(id);
        let sequence = if let Some(index) = self.running.iter().position(covers) {
            let mut sequence = self.running.remove(index);
            sequence.release(&mut self.pool);
            sequence
        } else if let Some(index) = self.preempted.iter().position(covers) {
            self.preempted.remove(index)?
        } else {
            self.queue.remove(id)?
        };
        self.queue.tenants_mut().leave(sequence.tenant());
        self.check();
        Some(Aborted { first: sequence.id(), count: 1 + sequence.num_forks() })
    }

    /// Panics, naming the property, when the state breaks one of `specs/03_BATCHED_SCHEDULER.md`. Takes time with the
    /// pool's size.
    pub fn check_invariants(&self) {
        invariants::check(&self.config, &self.running, &self.preempted, &self.queue, &self.pool);
        invariants::check_keys(&self.pool);
    }

    /// Forgets every sequence, whatever state they and the pool are in.
    pub fn reset(&mut self) {
        self.running.clear();
        self.preempted.clear();
        self.queue.reset();
        self.pool = BlockPool::new(self.config.num_blocks, self.config.block_size);
    }

    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Running sequences, oldest first. [`ScheduledSequence::index`] points in here.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// Sequences that lost their blocks, the oldest first. They run again before any that is queued.
    pub fn preempted(&self) -> impl Iterator<Item = &Sequence> {
        self.preempted.iter()
    }

    /// Sequences that never had a place.
    pub fn queue(&self) -> &FairQueue {
        &self.queue
    }

    /// All sequences that do not run.
    pub fn waiting(&self) -> impl Iterator<Item = &Sequence> {
        self.preempted.iter().chain(self.queue.iter())
    }

    pub fn has_work(&self) -> bool {
        !(self.running.is_empty() && self.preempted.is_empty() && self.queue.is_empty())
    }

    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// The sequence of this id, running or waiting, or the one with whose prompt it is to begin.
    pub fn get(&self, id: SeqId) -> Option<&Sequence> {
        self.running.iter().chain(&self.preempted).find(|s| s.covers(id)).or_else(|| self.queue.get(id))
    }

    /// Makes room for `wanted` more tokens of the running sequence `index`: from the pool, then by preempting the
    /// youngest. The youngest itself gets what the pool has left, perhaps nothing, and keeps what it holds.
    /// Returns the tokens there is room for.
    fn grow(&mut self, index: usize, wanted: u32, plan: &mut StepPlan) -> u32 {
        while index + 1 < self.running.len()
            && self.running[index].num_missing_blocks(wanted, &self.pool) > self.pool.num_available()
        {
            self.preempt_youngest(plan);
        }
        self.running[index].grow(wanted, &mut self.pool, &mut plan.copies)
    }

    /// Its full blocks stay cached until they are needed: what has to be computed again is what was needed.
    fn preempt_youngest(&mut self, plan: &mut StepPlan) {
        let mut victim = self.running.pop().expect("the caller saw a younger sequence");
        victim.preempt(&mut self.pool);
        plan.preempted.push(victim.id());
        self.preempted.push_front(victim);
    }

    /// Tokens that a preemption made in vain are not charged again. The first token of a fork is charged: it takes a
    /// row of logits, and a place, though it computes nothing.
    fn schedule(&mut self, index: usize, num_tokens: u32, plan: &mut StepPlan) {
        if num_tokens > 0 {
            let sequence = &mut self.running[index];
            let num_forks = plan.push(index, sequence, num_tokens);
            self.queue.tenants_mut().charge(sequence.tenant(), sequence.charge(num_tokens) + num_forks);
        }
    }

    /// What is checked after every change: everything in debug builds, conservation at rest always.
    fn check(&self) {
        if cfg!(debug_assertions) {
            invariants::check(&self.config, &self.running, &self.preempted, &self.queue, &self.pool);
        }
        if !self.has_work() {
            assert_eq!(self.pool.num_used(), 0, "SCH-1: blocks are held at rest");
        }
    }
}
