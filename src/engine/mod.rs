//! The engine: a synchronous step, and the actor thread that drives it.

pub mod actor;
pub mod admission;
pub mod backlog;
pub mod batch;
mod delivery;
pub mod handle;
pub mod heartbeat;
pub mod load;
pub mod output_lengths;
pub mod pacing;
pub mod request;
mod request_trace;
mod row_sampler;
mod shared;
pub mod step_cost;
pub mod step_report;
pub mod ticket;
pub mod wait_estimate;

pub use step_report::{Occupancy, SequenceOutput, StepReport};

use crate::kv_cache::KvCache;
use crate::model::Model;
use crate::model::observer::Observer;
use crate::ops::pool::Pool;
use crate::sampling::stop;
use crate::scheduler::{ConfigError, Outcome, Sample, Scheduler, SchedulerConfig, Sharing, StepPlan};
use crate::types::{Finish, ForwardBatch, Sampled, SeqId, TokenId};
use request::{NewSequence, RequestError, Stage};
use row_sampler::RowSampler;
use std::collections::HashMap;
use std::sync::Arc;

/// What an engine is made with, beside the model.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    pub scheduler: SchedulerConfig,
    /// Tokens that end a sequence.
    pub eog_ids: Vec<TokenId>,
}

/// Sequences, the model that continues them, and the cache they share.
///
/// One thread owns it. Work inside a step is spread over the pool; between steps nothing runs.
pub struct Engine<M> {
    config: EngineConfig,
    scheduler: Scheduler,
    model: M,
    kv_cache: KvCache,
    pool: Arc<Pool>,
    /// Looked up by id, never iterated.
    sequences: HashMap<SeqId, NewSequence>,
    row_sampler: RowSampler,
    observed: Option<(SeqId, Box<dyn Observer>)>,
    #[cfg(debug_assertions)]
    fault_token: Option<TokenId>,
    // Buffers of the step.
    plan: StepPlan,
    batch: ForwardBatch,
    outcomes: Vec<Outcome>,
    report: StepReport,
}

impl<M: Model> Engine<M> {
    /// # Panics
    /// When `kv_cache` has not the number and size of blocks that `config` says.
    pub fn new(config: EngineConfig, model: M, kv_cache: KvCache, pool: Arc<Pool>) -> Result<Self, ConfigError> {
        let blocks = (kv_cache.num_blocks(), kv_cache.block_size());
        let planned = (config.scheduler.num_blocks as usize, config.scheduler.block_size as usize);
        assert_eq!(blocks, planned, "number and size of blocks: cache and scheduler");
        // Sequences may share blocks: together their lists can be longer than the pool.
        let most_blocks = config.scheduler.max_model_len.div_ceil(config.scheduler.block_size).min(planned.0 as u32);
        let num_entries = config.scheduler.max_num_seqs as usize * most_blocks as usize;
        let batch = ForwardBatch { block_tables: Vec::with_capacity(num_entries), ..ForwardBatch::default() };
        Ok(Self {
            scheduler: Scheduler::new(config.scheduler)?,
            row_sampler: RowSampler::new(pool.threads()),
            config,
            model,
            kv_cache,
            pool,
            sequences: HashMap::new(),
            observed: None,
            #[cfg(debug_assertions)]
            fault_token: None,
            plan: StepPlan::default(),
            batch,
            outcomes: Vec::new(),
            report: StepReport::default(),
        })
    }

    /// Makes the calling thread, which is to do nothing but step, worker 0 of the pool, on that worker's CPU if it has
    /// one.
    pub fn bind_thread(&self) {
        self.pool.bind_caller();
    }

    /// The shares of tenants, 1 for who is not named. Weights are finite and above 0.
    pub fn set_tenant_weights(&mut self, weights: &[(Arc<str>, f64)]) {
        self.scheduler.set_tenant_weights(weights);
    }

    /// Queues `new.n` sequences, of the ids from `id` on. The only error is [`RequestError::KvCapacity`]: one of them
    /// could never fit the pool.
    ///
    /// # Panics
    /// When the prompt is empty or fills the context, `max_tokens` or `n` is 0 or an id is alive: the edge checks
    /// these.
    pub fn submit(&mut self, id: SeqId, new: NewSequence) -> Result<(), RequestError> {
        let sharing = Sharing { n: new.n, domain: new.domain };
        self.scheduler
            .submit(id, &new.prompt, new.params.stopping.max_tokens, sharing, &new.turn)
            .map_err(|e| RequestError::KvCapacity { needed: e.needed, available: e.available })?;
        for offset in 0..new.n {
            let one = NewSequence { index: new.index + offset, n: 1, ..new.clone() };
            self.sequences.insert(SeqId(id.0 + u64::from(offset)), one);
        }
        Ok(())
    }

    /// Ends a sequence from outside; its blocks are free, or cached, at once. Tells where it was, `None` when it is not
    /// known. Sequences that were submitted together are one until their prompt is computed: all of them end.
    pub fn abort(&mut self, id: SeqId) -> Option<Stage> {
        let stage = self.stage(id)?;
        let aborted = self.scheduler.abort(id)?;
        for offset in 0..aborted.count {
            self.sequences.remove(&SeqId(aborted.first.0 + u64::from(offset)));
        }
        Some(stage)
    }

    /// Ends a sequence whose stop string was found at the edge. Without effect when it is not known.
    pub fn finish_early(&mut self, id: SeqId) {
        self.abort(id);
    }

    /// Where a sequence is: in the queue until it first runs, decoding from its first token on.
    pub fn stage(&self, id: SeqId) -> Option<Stage> {
        let sequence = self.scheduler.get(id)?;
        Some(if sequence.num_generated_tokens() > 0 {
            Stage::Decode
        } else if sequence.was_scheduled() {
            Stage::Prefill
        } else {
            Stage::Queue
        })
    }

    /// Sequences are running or waiting.
    pub fn has_work(&self) -> bool {
        self.scheduler.has_work()
    }

    /// Sequences and blocks as they are now.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy::of(&self.scheduler)
    }

    /// Advances every sequence that the budget reaches: one pass over the model's weights. Idle, it does nothing.
    ///
    /// A panic in the model goes to the caller, and the engine is not to be used again before [`Engine::reset`].
    pub fn step(&mut self) -> &StepReport {
        self.plan_step(u32::MAX);
        self.run_step()
    }

    /// The first half of a step: what is to be computed. Nothing but [`Engine::run_step`] may follow.
    /// `max_prefill_tokens` is as in [`Scheduler::plan`].
    pub fn plan_step(&mut self, max_prefill_tokens: u32) -> &StepPlan {
        self.scheduler.plan(&mut self.plan, max_prefill_tokens);
        self.report.begin(&self.plan);
        self.outcomes.clear();
        &self.plan
    }

    /// The second half of a step: computes and samples what was planned.
    pub fn run_step(&mut self) -> &StepReport {
        let pool = Arc::clone(&self.pool);
        let _awake = pool.begin_step();
        batch::fill(&self.plan, &self.scheduler, &mut self.batch);
        #[cfg(debug_assertions)]
        self.break_down();
        if !self.plan.is_empty() {
            for copy in &self.batch.block_copies {
                self.kv_cache.copy_block(copy.from.0 as usize, copy.to.0 as usize);
            }
            let vocab_size = self.model.vocab_size();
            let logits = forward(&mut self.model, &self.plan, &self.batch, &mut self.kv_cache, &mut self.observed);
            assert_eq!(logits.len(), self.batch.logits_rows.len() * vocab_size, "logits are [R, vocab_size]");
            let rows = row_sampler::Rows::new(&self.plan, &self.scheduler, &self.sequences, &self.config, logits);
            self.row_sampler.sample(&pool, &rows);
            self.conclude();
        }
        self.scheduler.commit(&self.plan, &self.outcomes);
        self.report.end(&self.scheduler);
        &self.report
    }

    /// Turns what was sampled into outputs for the caller and outcomes for the scheduler.
    fn conclude(&mut self) {
        for (number, choice) in self.plan.samples().enumerate() {
            let result = self.row_sampler.take(number).map(|sampled| {
                let finish = finish(&self.scheduler, &self.sequences, &self.config, &choice, &sampled);
                (sampled, finish)
            });
            let outcome = match &result {
                Ok((sampled, None)) => Outcome::Append(sampled.token),
                Err(RequestError::NonFiniteLogits) => Outcome::Poisoned,
                Ok((_, Some(_))) | Err(_) => Outcome::Finish,
            };
            if let (Ok((sampled, _)), Some((id, observer))) = (&result, &mut self.observed)
                && *id == choice.id
            {
                observer.sampled(sampled.token);
            }
            if !matches!(outcome, Outcome::Append(_)) {
                self.sequences.remove(&choice.id);
            }
            self.outcomes.push(outcome);
            self.report.outputs.push(SequenceOutput { id: choice.id, result });
        }
    }

    /// Forgets every sequence and takes all blocks back: what is left to do after a step that panicked.
    pub fn reset(&mut self) {
        self.scheduler.reset();
        self.sequences.clear();
        self.row_sampler = RowSampler::new(self.pool.threads());
    }

    /// Makes every step that computes `token` panic, in all workers of the pool: for tests of what follows. Builds for
    /// use have no such thing.
    #[cfg(debug_assertions)]
    pub fn panic_on(&mut self, token: TokenId) {
        self.fault_token = Some(token);
    }

    #[cfg(debug_assertions)]
    fn break_down(&self) {
        if self.fault_token.is_some_and(|token| self.batch.token_ids.contains(&token)) {
            let all = std::sync::Barrier::new(self.pool.threads());
            self.pool.run(self.pool.threads(), &|_| {
                all.wait();
                panic!("the step was told to panic");
            });
        }
    }

    /// Shows the steps of one sequence to `observer` from now on; they are slower, with the same bits.
    pub fn observe(&mut self, id: SeqId, observer: Box<dyn Observer>) {
        self.observed = Some((id, observer));
    }

    /// Ends what [`Engine::observe`] began.
    pub fn take_observer(&mut self) -> Option<Box<dyn Observer>> {
        self.observed.take().map(|(_, observer)| observer)
    }

    /// What the last step did.
    pub fn report(&self) -> &StepReport {
        &self.report
    }

    /// The plan of the last step.
    pub fn plan(&self) -> &StepPlan {
        &self.plan
    }

    /// The arrays of the last step.
    pub fn batch(&self) -> &ForwardBatch {
        &self.batch
    }

    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    pub fn model(&self) -> &M {
        &self.model
    }
}

/// The forward pass of a step, shown to the observer where the observed sequence takes part.
fn forward<'m, M: Model>(
    model: &'m mut M,
    plan: &StepPlan,
    batch: &ForwardBatch,
    kv_cache: &mut KvCache,
    observed: &mut Option<(SeqId, Box<dyn Observer>)>,
) -> &'m mut [f32] {
    if let Some((id, observer)) = observed
        && let Some(place) = plan.sequences.iter().position(|scheduled| scheduled.id == *id)
    {
        let rows = batch.query_start_loc[place] as usize..batch.query_start_loc[place + 1] as usize;
        observer.begin_step(place, rows.clone(), batch);
        return model.forward_observed(batch, kv_cache, rows, &mut **observer);
    }
    model.forward(batch, kv_cache)
}

/// The stop criteria for a token that is not appended yet.
fn finish(
    scheduler: &Scheduler,
    sequences: &HashMap<SeqId, NewSequence>,
    config: &EngineConfig,
    choice: &Sample,
    sampled: &Sampled,
) -> Option<Finish> {
    let sequence = &scheduler.running()[choice.index as usize];
    let (num_generated, num_tokens) = (sequence.num_generated_tokens() + 1, sequence.num_tokens() + 1);
    let stopping = &sequences[&choice.id].params.stopping;
    stop::finish(sampled.token, num_generated, num_tokens, stopping, &config.eog_ids, config.scheduler.max_model_len)
}
