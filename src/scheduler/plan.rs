//! The decision about one step, as a value.

use super::Sequence;
use crate::types::{SeqId, TokenId};

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
}

/// What a step computes. A value without references whose memory is used again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StepPlan {
    /// Oldest first.
    pub sequences: Vec<ScheduledSequence>,
    /// Sequences that run for the first time.
    pub first_scheduled: Vec<SeqId>,
    /// Sequences that lost their blocks to older ones.
    pub num_preempted: u32,
    /// Tokens of all sequences, `T` of the batch.
    pub num_tokens: u32,
    /// Those of them that are prompt tokens computed for the first time.
    pub num_prompt_tokens: u32,
    /// Those of them that had been computed before a preemption.
    pub num_recomputed_tokens: u32,
}

/// What became of a sequence that sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on with this token.
    Append(TokenId),
    /// It ended, well or not.
    Finish,
}

impl StepPlan {
    /// Nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Sequences that sample, `R` of the batch.
    pub fn num_samples(&self) -> u32 {
        self.samples().count() as u32
    }

    /// The sequences that sample, in plan order: the order of the rows of logits.
    pub fn samples(&self) -> impl Iterator<Item = &ScheduledSequence> {
        self.sequences.iter().filter(|s| s.samples)
    }

    pub(super) fn clear(&mut self) {
        self.sequences.clear();
        self.first_scheduled.clear();
        self.num_preempted = 0;
        self.num_tokens = 0;
        self.num_prompt_tokens = 0;
        self.num_recomputed_tokens = 0;
    }

    pub(super) fn push(&mut self, index: usize, sequence: &Sequence, num_tokens: u32) {
        let start = sequence.num_computed_tokens();
        let end = start + num_tokens;
        let fresh = start.max(sequence.max_computed_tokens());
        self.num_tokens += num_tokens;
        self.num_recomputed_tokens += fresh.min(end) - start;
        self.num_prompt_tokens += sequence.num_prompt_tokens().min(end).saturating_sub(fresh);
        self.sequences.push(ScheduledSequence {
            id: sequence.id(),
            index: index as u32,
            start,
            num_tokens,
            samples: end == sequence.num_tokens(),
        });
    }
}
