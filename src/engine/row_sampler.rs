//! Sampling the rows of a step side by side. A panic ends the sequence it happened in.

use super::EngineConfig;
use super::request::{NewSequence, RequestError};
use crate::ops::pool::Pool;
use crate::sampling::{Row, SampleError, Scratch, sample};
use crate::scheduler::{Scheduler, StepPlan};
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
    num_rows: usize,
}

impl<'a> Rows<'a> {
    pub fn new(
        plan: &'a StepPlan,
        scheduler: &'a Scheduler,
        sequences: &'a HashMap<SeqId, NewSequence>,
        config: &'a EngineConfig,
        logits: &'a [f32],
    ) -> Self {
        let num_rows = plan.num_samples() as usize;
        Self { plan, scheduler, sequences, config, logits, num_rows }
    }
}

/// One lane samples the rows `lane`, `lane + num_lanes`, ...
#[derive(Default)]
struct Lane {
    scratch: Scratch,
    /// In row order; taken by [`RowSampler::take`].
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

    /// Samples every row.
    pub fn sample(&mut self, pool: &Pool, rows: &Rows) {
        let num_lanes = self.lanes.len();
        pool.run_chunks(&mut self.lanes, 1, |first, lane| {
            lane[0].results.clear();
            for (row, scheduled) in rows.plan.samples().enumerate().skip(first).step_by(num_lanes) {
                let result = sample_row(rows, row, scheduled.index as usize, &mut lane[0].scratch);
                lane[0].results.push(Some(result));
            }
        });
    }

    /// The result of row `row`, once.
    pub fn take(&mut self, row: usize) -> Result<Sampled, RequestError> {
        let num_lanes = self.lanes.len();
        self.lanes[row % num_lanes].results[row / num_lanes].take().expect("each row is taken once")
    }
}

fn sample_row(rows: &Rows, row: usize, index: usize, scratch: &mut Scratch) -> Result<Sampled, RequestError> {
    let attempt = AssertUnwindSafe(|| {
        let sequence = &rows.scheduler.running()[index];
        let new = &rows.sequences[&sequence.id()];
        let vocab_size = rows.logits.len() / rows.num_rows;
        let row = Row {
            logits: &rows.logits[row * vocab_size..][..vocab_size],
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
