//! The decision about one step, as a value.

use super::Sequence;
use crate::types::{BlockCopy, SeqId, TokenId};

/// What one sequence computes in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScheduledSequence {
    pub id: SeqId,
    /// Its place in [`super::Scheduler::running`] while the plan holds.
    pub index: u32,
    /// Position of the first token to compute.
    pub start: u32,
    /// At least 1.
    pub num_tokens: u32,
    /// The last known token is among them: its logits choose the next one.
    pub samples: bool,
    /// Sequences that begin here, with the ids that follow: they choose their first token from the same logits.
    pub num_forks: u32,
}

/// One choice of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Of the sequence that gets the token.
    pub id: SeqId,
    /// The place in [`super::Scheduler::running`] of the sequence that was computed.
    pub index: u32,
    /// Which of the rows of logits, `0 .. num_rows`.
    pub row: u32,
}

/// A sequence that runs for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FirstRun {
    pub id: SeqId,
    /// Tokens of its prompt that the prefix cache supplied.
    pub cached_tokens: u32,
}

/// What a step computes. A value without references whose memory is used again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StepPlan {
    /// Oldest first.
    pub sequences: Vec<ScheduledSequence>,
    /// To be made in this order, before anything is written.
    pub copies: Vec<BlockCopy>,
    /// Sequences that run for the first time, those that are to begin with their prompts among them.
    pub first_scheduled: Vec<FirstRun>,
    /// Sequences that lost their blocks to older ones.
    pub preempted: Vec<SeqId>,
    /// Tokens of all sequences, `T` of the batch.
    pub num_tokens: u32,
    /// Those of them that are prompt tokens computed for the first time.
    pub num_prompt_tokens: u32,
    /// Those of them that had been computed before: until a preemption, or by the group of a fork that found no place.
    pub num_recomputed_tokens: u32,
    /// Prompt tokens that the prefix cache supplied and that were not computed before.
    pub num_cached_prompt_tokens: u32,
    /// Known tokens of the admitted sequences that looked into the prefix cache.
    pub num_queried_tokens: u32,
    /// Those of them that it supplied.
    pub num_hit_tokens: u32,
}

/// What became of a sequence that sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on with this token.
    Append(TokenId),
    /// It ended, well or not.
    Finish,
    /// It ended, and what it computed is not to be used again.
    Poisoned,
}

impl StepPlan {
    /// Nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Sequences that lost their blocks.
    pub fn num_preempted(&self) -> u32 {
        self.preempted.len() as u32
    }

    /// Rows of logits, `R` of the batch.
    pub fn num_rows(&self) -> u32 {
        self.sequences.iter().filter(|s| s.samples).count() as u32
    }

    /// Tokens to be chosen: at least one a row.
    pub fn num_samples(&self) -> u32 {
        self.sequences.iter().filter(|s| s.samples).map(|s| 1 + s.num_forks).sum()
    }

    /// The tokens to be chosen, in plan order.
    pub fn samples(&self) -> impl Iterator<Item = Sample> {
        let sampling = self.sequences.iter().filter(|s| s.samples);
        sampling.zip(0..).flat_map(|(s, row)| {
            (0..=u64::from(s.num_forks)).map(move |fork| Sample { id: SeqId(s.id.0 + fork), index: s.index, row })
        })
    }

    pub(super) fn clear(&mut self) {
        self.sequences.clear();
        self.copies.clear();
        self.first_scheduled.clear();
        self.preempted.clear();
        self.num_tokens = 0;
        self.num_prompt_tokens = 0;
        self.num_recomputed_tokens = 0;
        self.num_cached_prompt_tokens = 0;
        self.num_queried_tokens = 0;
        self.num_hit_tokens = 0;
    }

    /// Returns how many sequences begin with what is computed.
    pub(super) fn push(&mut self, index: usize, sequence: &Sequence, num_tokens: u32) -> u32 {
        let start = sequence.num_computed_tokens();
        let end = start + num_tokens;
        let fresh = start.max(sequence.max_computed_tokens());
        let samples = end == sequence.num_tokens();
        self.num_tokens += num_tokens;
        self.num_recomputed_tokens += fresh.min(end) - start;
        self.num_prompt_tokens += sequence.num_prompt_tokens().min(end).saturating_sub(fresh);
        let num_forks = if samples { sequence.num_forks() } else { 0 };
        let index = index as u32;
        self.sequences.push(ScheduledSequence { id: sequence.id(), index, start, num_tokens, samples, num_forks });
        num_forks
    }

    /// Notes a sequence that begins to run with `hit` tokens of the prefix cache; `computed` as it was before.
    pub(super) fn note_start(&mut self, sequence: &Sequence, hit: u32, computed: u32, is_first: bool) {
        let cached_tokens = hit.min(sequence.num_prompt_tokens());
        self.num_cached_prompt_tokens += cached_tokens.saturating_sub(computed);
        if sequence.domain().is_some() {
            self.num_queried_tokens += sequence.num_tokens();
            self.num_hit_tokens += hit;
        }
        if is_first {
            let ids = (0..=u64::from(sequence.num_forks())).map(|fork| SeqId(sequence.id().0 + fork));
            self.first_scheduled.extend(ids.map(|id| FirstRun { id, cached_tokens }));
        }
    }
}
