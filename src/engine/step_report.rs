//! What a step did, for the actor and its metrics.

use super::request::RequestError;
use crate::scheduler::{FirstRun, ScheduledSequence, Scheduler, Sequence, StepPlan};
use crate::types::{Finish, Sampled, SeqId};

/// What a step did. Its memory is used again by the next one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// One for each sequence that sampled, oldest first. After a finish or an error the sequence is gone.
    pub outputs: Vec<SequenceOutput>,
    /// Sequences that ran for the first time: their time in the queue ended with this step's begin.
    pub first_scheduled: Vec<FirstRun>,
    /// Tokens computed, of all sequences.
    pub num_tokens: u32,
    /// Sequences in the step; 0 when there was nothing to do.
    pub num_sequences: u32,
    /// Sequences that computed one token and sampled: those that decode.
    pub num_decode_rows: u32,
    /// Prompt tokens computed for the first time.
    pub prompt_tokens_computed: u32,
    /// Prompt tokens that came from the prefix cache instead.
    pub prompt_tokens_cached: u32,
    /// Known tokens of the sequences that looked into the prefix cache as they began to run.
    pub queried_tokens: u32,
    /// Those of them that it held.
    pub hit_tokens: u32,
    /// Blocks copied because sequences that shared them went different ways.
    pub num_copies: u32,
    /// Tokens computed again: after a preemption, or by a fork that found no place.
    pub recomputed_tokens: u32,
    /// Sequences that lost their blocks to older ones.
    pub num_preempted: u32,
    /// After the step.
    pub occupancy: Occupancy,
}

/// What one sequence got from a step.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceOutput {
    pub id: SeqId,
    /// The next token, and how the sequence ended if it did; or why it failed.
    pub result: Result<(Sampled, Option<Finish>), RequestError>,
}

/// Sequences and blocks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    pub running: u32,
    /// Never ran, or preempted. Those that are to begin with the prompt of a waiting one count.
    pub waiting: u32,
    /// Known tokens of the waiting sequences.
    pub waiting_tokens: u64,
    /// Referenced by sequences.
    pub blocks_used: u32,
    /// Referenced by nobody, with contents that may be of use.
    pub blocks_cached: u32,
    pub blocks_free: u32,
    pub blocks_total: u32,
}

impl Occupancy {
    pub(super) fn of(scheduler: &Scheduler) -> Self {
        let (pool, queue) = (scheduler.pool(), scheduler.queue());
        let preempted_tokens: u64 = scheduler.preempted().map(Sequence::num_tokens).map(u64::from).sum();
        Self {
            running: scheduler.running().len() as u32,
            waiting: scheduler.preempted().map(|s| 1 + s.num_forks()).sum::<u32>() + queue.num_sequences() as u32,
            waiting_tokens: preempted_tokens + queue.num_tokens(),
            blocks_used: pool.num_used(),
            blocks_cached: pool.num_cached(),
            blocks_free: pool.num_free(),
            blocks_total: pool.num_blocks(),
        }
    }
}

impl StepReport {
    /// Forgets the step before and notes what is planned.
    pub(super) fn begin(&mut self, plan: &StepPlan) {
        self.outputs.clear();
        self.first_scheduled.clear();
        self.first_scheduled.extend_from_slice(&plan.first_scheduled);
        self.num_tokens = plan.num_tokens;
        self.num_sequences = plan.sequences.len() as u32;
        let decodes = |scheduled: &&ScheduledSequence| scheduled.num_tokens == 1 && scheduled.samples;
        self.num_decode_rows = plan.sequences.iter().filter(decodes).count() as u32;
        self.prompt_tokens_computed = plan.num_prompt_tokens;
        self.prompt_tokens_cached = plan.num_cached_prompt_tokens;
        self.queried_tokens = plan.num_queried_tokens;
        self.hit_tokens = plan.num_hit_tokens;
        self.num_copies = plan.copies.len() as u32;
        self.recomputed_tokens = plan.num_recomputed_tokens;
        self.num_preempted = plan.num_preempted();
    }

    pub(super) fn end(&mut self, scheduler: &Scheduler) {
        self.occupancy = Occupancy::of(scheduler);
    }
}
