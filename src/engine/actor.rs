//! The thread that drives the engine: takes in requests, ends what is to end, steps, delivers.

use super::admission::{Admission, QueueLimits};
use super::delivery::Delivery;
use super::handle::{EngineFacts, EngineHandle, Submission};
use super::heartbeat::Heartbeat;
use super::load::{EngineCounts, LoadWindow, StepSample};
use super::pacing::Pacing;
use super::request::{NewRequest, NewSequence};
use super::shared::Shared;
use super::{Engine, StepReport};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::types::{SeqId, Turn};
use crossbeam_channel::Receiver;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Faults within [`FAULT_WINDOW`] after which the actor gives up.
const MAX_FAULTS: usize = 3;
const FAULT_WINDOW: Duration = Duration::from_secs(60);

/// The engine failed again and again; the process should be started anew.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the engine failed {0} times within a minute")]
pub struct EngineGone(usize);

struct Actor<M> {
    engine: Engine<M>,
    inbox: Receiver<Submission>,
    delivery: Delivery,
    shared: Arc<Shared>,
    batch_sequences: u32,
    pacing: Pacing,
    /// When the actor began: the zero of the scheduler's clock.
    begin: Instant,
    faults: VecDeque<Instant>,
}

/// Starts the thread `llorch-engine`. `target_itl` is the time from token to token that prompts are to leave to those
/// who decode, as in [`Pacing::new`]. The thread ends when the last handle is gone and the last request is done, or
/// with [`EngineGone`].
pub fn spawn<M: Model + 'static>(
    engine: Engine<M>,
    limits: QueueLimits,
    target_itl: Option<Duration>,
    metrics: Arc<Metrics>,
) -> io::Result<(EngineHandle, JoinHandle<Result<(), EngineGone>>)> {
    let config = engine.scheduler().config();
    let facts = EngineFacts {
        vocab_size: engine.model().vocab_size(),
        max_model_len: config.max_model_len,
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
        block_size: config.block_size,
        num_blocks: config.num_blocks,
        target_itl,
    };
    metrics.engine.kv_block_size.set(f64::from(facts.block_size));
    let load = Mutex::new(LoadWindow::default());
    let admission = Admission::new(limits, facts.num_blocks);
    let shared = Arc::new(Shared { facts, admission, load, heartbeat: Heartbeat::default(), metrics });
    // Every queued request fits: the admission counts at least one for each.
    let (sender, inbox) = crossbeam_channel::bounded(limits.max_queued.max(1) as usize);
    let delivery = Delivery::new(Arc::clone(&shared));
    let mut actor = Actor {
        engine,
        inbox,
        delivery,
        shared: Arc::clone(&shared),
        batch_sequences: 0,
        pacing: Pacing::new(target_itl, facts.max_num_batched_tokens),
        begin: Instant::now(),
        faults: VecDeque::new(),
    };
    actor.publish();
    let thread = std::thread::Builder::new().name("llorch-engine".into()).spawn(move || actor.run())?;
    Ok((EngineHandle { shared, inbox: sender, over: watch::Sender::new(false) }, thread))
}

impl<M: Model> Actor<M> {
    fn run(mut self) -> Result<(), EngineGone> {
        self.engine.bind_thread();
        while self.take_in() {
            self.shared.heartbeat.set_busy(true);
            let now = Instant::now();
            let Self { delivery, engine, .. } = &mut self;
            delivery.reap(now, &mut |id| {
                engine.abort(id);
            });
            if self.engine.has_work() {
                self.step()?;
            } else {
                // Nothing can be open now. If something were, it would wait for ever and this loop would spin.
                self.delivery.fail_all();
            }
            if !self.engine.has_work() {
                self.batch_sequences = 0;
            }
            self.shared.heartbeat.set_busy(!self.delivery.is_empty());
            self.publish();
        }
        Ok(())
    }

    /// Takes in what was submitted; waits only when there is nothing else to do. False when nothing can come any more.
    fn take_in(&mut self) -> bool {
        if self.delivery.is_empty() {
            let Ok(submission) = self.inbox.recv() else { return false };
            self.accept(submission);
        }
        while let Ok(submission) = self.inbox.try_recv() {
            self.accept(submission);
        }
        true
    }

    fn accept(&mut self, submission: Submission) {
        let first = SeqId(submission.ticket.first);
        let request = submission.request.clone();
        let submitted = submission.ticket.submitted;
        self.delivery.open(submission);
        let NewRequest { prompt, params, n, domain, tenant, priority, .. } = request;
        let arrived_ms = u64::try_from(submitted.saturating_duration_since(self.begin).as_millis()).unwrap_or(u64::MAX);
        let turn = Turn { tenant, priority, arrived_ms };
        if let Err(error) = self.engine.submit(first, NewSequence { prompt, params, index: 0, n, domain, turn }) {
            self.delivery.fail_sequence(first, error, &mut |_| {});
        }
    }

    fn step(&mut self) -> Result<(), EngineGone> {
        let begin = Instant::now();
        // What a panic leaves half changed is thrown away by `recover`.
        if catch_unwind(AssertUnwindSafe(|| self.plan_and_run(begin))).is_err() {
            return self.recover(begin);
        }
        self.shared.heartbeat.beat();
        let end = Instant::now();
        self.batch_sequences = self.engine.report().num_sequences;
        // Before the events: whoever hears of an end finds the blocks free.
        self.publish();
        let report = self.engine.report();
        self.pacing.record(report.num_decode_rows, report.num_tokens - report.num_decode_rows, end - begin);
        record_step(&self.shared, report, end - begin);
        for scheduled in self.engine.plan().sequences.iter().filter(|scheduled| !scheduled.samples) {
            self.delivery.progressed(scheduled.id, scheduled.num_tokens);
        }
        let mut failed = Vec::new();
        for output in &report.outputs {
            match &output.result {
                Ok((sampled, finish)) => self.delivery.token(output.id, sampled, *finish, end),
                Err(error) => failed.push((output.id, error.clone())),
            }
        }
        for (id, error) in failed {
            let engine = &mut self.engine;
            self.delivery.fail_sequence(id, error, &mut |id| {
                engine.abort(id);
            });
        }
        Ok(())
    }

    /// A step. What it takes up has left the queue before it runs: a step can be long.
    fn plan_and_run(&mut self, begin: Instant) {
        let scheduler = self.engine.scheduler();
        let max_prefill_tokens = self.pacing.max_prefill_tokens(scheduler.num_decoding(), scheduler.num_awaiting());
        let plan = self.engine.plan_step(max_prefill_tokens);
        for &id in &plan.preempted {
            self.delivery.preempted(id);
        }
        for first in &plan.first_scheduled {
            self.delivery.started(first.id, first.cached_tokens, begin);
        }
        self.publish();
        self.engine.run_step();
    }

    /// A step panicked: fails what it had in hand and begins anew with no sequences, unless that is too often.
    fn recover(&mut self, now: Instant) -> Result<(), EngineGone> {
        tracing::error!("a step of the engine panicked; its requests have failed");
        self.faults.retain(|&at| now.saturating_duration_since(at) < FAULT_WINDOW);
        self.faults.push_back(now);
        let gone = self.faults.len() > MAX_FAULTS;
        if gone {
            self.shared.admission.close();
        } else {
            self.shared.metrics.engine.restarts.increment(1);
        }
        self.delivery.fail_all();
        self.engine.reset();
        self.batch_sequences = 0;
        self.publish();
        if gone { Err(EngineGone(self.faults.len())) } else { Ok(()) }
    }

    /// Tells the load to readers and gauges.
    fn publish(&mut self) {
        let occupancy = self.engine.occupancy();
        let counts = EngineCounts {
            running: occupancy.running,
            preempted: occupancy.waiting.saturating_sub(self.delivery.num_not_started()),
            batch_sequences: self.batch_sequences,
            kv_used: occupancy.blocks_used,
            kv_cached: occupancy.blocks_cached,
            kv_free: occupancy.blocks_free,
            kv_total: occupancy.blocks_total,
            max_num_seqs: self.shared.facts.max_num_seqs,
        };
        {
            let mut load = self.shared.load();
            load.counts = counts;
            load.estimator.see(self.engine.scheduler());
        }
        self.shared.admission.set_begun(self.engine.scheduler().queue().begun());
        self.shared.set_gauges();
    }
}

fn record_step(shared: &Shared, report: &StepReport, duration: Duration) {
    let metrics = &shared.metrics.engine;
    metrics.step_seconds.record(duration.as_secs_f64());
    metrics.step_tokens.record(f64::from(report.num_tokens));
    metrics.step_sequences.record(f64::from(report.num_sequences));
    metrics.prompt_computed.increment(u64::from(report.prompt_tokens_computed));
    metrics.prompt_cached.increment(u64::from(report.prompt_tokens_cached));
    metrics.prefix_queried.increment(u64::from(report.queried_tokens));
    metrics.prefix_hit.increment(u64::from(report.hit_tokens));
    metrics.preemptions.increment(u64::from(report.num_preempted));
    metrics.recomputed.increment(u64::from(report.recomputed_tokens));
    metrics.wasted_preempt.increment(u64::from(report.recomputed_tokens));
    let prefill_tokens = report.prompt_tokens_computed + report.recomputed_tokens;
    shared.load().push(StepSample {
        duration,
        prompt_tokens: report.prompt_tokens_computed,
        cached_tokens: report.prompt_tokens_cached,
        prefill_tokens,
        decoding: report.num_tokens.saturating_sub(prefill_tokens),
        generated_tokens: report.outputs.len() as u32,
    });
}
