//! Sampling the rows of a step side by side. A panic ends the sequence it happened in.

use super::EngineConfig;
use super::request::{NewSequence, RequestError};
use crate::ops::pool::Pool;
use crate::sampling::{Row, SampleError, Scratch, sample};
use crate::scheduler::{Sample, Scheduler, StepPlan};
use crate::types::{Sampled, SeqId};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The rows of logits of a step, with what is needed to sample them.
pub struct Rows<'a> {
    plan: &'a StepPlan,
    scheduler: &'a Scheduler,
    sequences: &'a HashMap<SeqId, NewSequence>,
    config: &'a EngineConfig,
    /// `[R, vocab_size]`
    logits: &'a [f32],
    vocab_size: usize,
}

impl<'a> Rows<'a> {
    pub fn new(
        plan: &'a StepPlan,
        scheduler: &'a Scheduler,
        sequences: &'a HashMap<SeqId, NewSequence>,
        config: &'a EngineConfig,
        logits: &'a [f32],
    ) -> Self {
        let vocab_size = logits.len() / plan.num_rows().max(1) as usize;
        Self { plan, scheduler, sequences, config, logits, vocab_size }
    }
}

/// One lane makes the choices `lane`, `lane + num_lanes`, ...
#[derive(Default)]
struct Lane {
    scratch: Scratch,
    /// In plan order; taken by [`RowSampler::take`].
    results: Vec<Option<Result<Sampled, RequestError>>>,
}

/// Memory for sampling, one part for each thread.
pub struct RowSampler {
    lanes: Vec<Lane>,
}

impl RowSampler {
    pub fn new(threads: usize) -> Self {
        Self { lanes: (0..threads).map(|_| Lane::default()).collect() }
    }

    /// Makes every choice of the plan.
    pub fn sample(&mut self, pool: &Pool, rows: &Rows) {
        let num_lanes = self.lanes.len();
        pool.run_chunks(&mut self.lanes, 1, |first, lane| {
            lane[0].results.clear();
            for choice in rows.plan.samples().skip(first).step_by(num_lanes) {
                let result = sample_row(rows, &choice, &mut lane[0].scratch);
                lane[0].results.push(Some(result));
            }
        });
    }

    /// The result of choice number `choice`, once.
    pub fn take(&mut self, choice: usize) -> Result<Sampled, RequestError> {
        let num_lanes = self.lanes.len();
        self.lanes[choice % num_lanes].results[choice / num_lanes].take().expect("each choice is taken once")
    }
}

fn sample_row(rows: &Rows, choice: &Sample, scratch: &mut Scratch) -> Result<Sampled, RequestError> {
    let attempt = AssertUnwindSafe(|| {
        let sequence = &rows.scheduler.running()[choice.index as usize];
        let new = &rows.sequences[&choice.id];
        let row = Row {
            logits: &rows.logits[choice.row as usize * rows.vocab_size..][..rows.vocab_size],
            params: &new.params,
            eog_ids: &rows.config.eog_ids,
            tokens: sequence.tokens(),
            num_prompt_tokens: sequence.num_prompt_tokens() as usize,
            sequence_index: new.index,
        };
        sample(&row, scratch)
    });
    match catch_unwind(attempt) {
        Ok(result) => result.map_err(|error| match error {
            SampleError::NonFiniteLogits => RequestError::NonFiniteLogits,
            SampleError::AllMasked => RequestError::AllMasked,
        }),
        Err(_) => {
            // What the panic left behind is nobody's to find.
            *scratch = Scratch::default();
            Err(RequestError::SequencePanic)
        }
    }
}
