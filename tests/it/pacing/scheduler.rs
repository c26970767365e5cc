//! The same through the real scheduler: what a plan does with the bound, and who waits for whom.

use super::{BUDGET, ONE_B, PROMPT, for_seeds};
use crate::support::random::Random;
use llorch_cpud::engine::pacing::Pacing;
use llorch_cpud::scheduler::{Outcome, Scheduler, SchedulerConfig, Sharing, StepPlan};
use llorch_cpud::types::{SeqId, Turn};
use std::collections::BTreeMap;
use std::time::Duration;

const STREAMS: u64 = 16;

/// A scheduler whose steps cost what [`ONE_B`] says.
struct Machine {
    scheduler: Scheduler,
    pacing: Pacing,
    plan: StepPlan,
    random: Random,
    clock_ms: f64,
    /// When each sequence last got a token.
    last: BTreeMap<SeqId, f64>,
    /// Milliseconds between two tokens of a stream.
    gaps: Vec<f64>,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let config = SchedulerConfig {
            max_num_seqs: 64,
            max_num_batched_tokens: BUDGET,
            num_blocks: 2400,
            block_size: 16,
            max_model_len: 4096,
        };
        Self {
            scheduler: Scheduler::new(config).expect("valid limits"),
            pacing: Pacing::new(None, BUDGET),
            plan: StepPlan::default(),
            random: Random::new(seed),
            clock_ms: 0.0,
            last: BTreeMap::new(),
            gaps: Vec::new(),
        }
    }

    /// A sequence that goes on for `max_tokens` at least.
    fn submit(&mut self, id: u64, prompt: u32, max_tokens: u32) {
        let prompt = vec![1; prompt as usize];
        self.scheduler
            .submit(SeqId(id), &prompt, max_tokens, Sharing::NONE, &Turn::default())
            .expect("the pool is large");
    }

    fn step(&mut self) {
        let decoding: Vec<SeqId> =
            self.scheduler.running().iter().filter(|s| s.num_pending_tokens() == 1).map(|s| s.id()).collect();
        let bound = self.pacing.max_prefill_tokens(self.scheduler.num_decoding(), self.scheduler.num_awaiting());
        self.scheduler.plan(&mut self.plan, bound);
        let of = |id: &SeqId| self.plan.sequences.iter().find(|scheduled| scheduled.id == *id);
        assert!(decoding.iter().all(|id| of(id).is_some_and(|one| one.samples)), "PAC-1: a stream missed a step");
        let rows = decoding.len() as u32;
        let others = self.plan.num_tokens - rows;
        assert!(others <= bound, "PAC-1: {others} prompt tokens, bounded by {bound}");
        let behind: u32 = self.plan.sequences.iter().map(|one| one.num_tokens * one.start).sum();
        let noise = 1.0 + ONE_B.noise * (f64::from(self.random.unit()) * 2.0 - 1.0);
        let tokens = ONE_B.row * f64::from(rows) + ONE_B.token * f64::from(others);
        let ms = noise * (ONE_B.weights + tokens + ONE_B.context * f64::from(behind));
        self.pacing.record(rows, others, Duration::from_secs_f64(ms / 1e3));
        self.clock_ms += ms;
        for sample in self.plan.samples() {
            let before = self.last.insert(sample.id, self.clock_ms);
            self.gaps.extend(before.filter(|_| sample.id.0 < STREAMS).map(|before| self.clock_ms - before));
        }
        let max_tokens_reached = |id: SeqId| {
            let sequence = self.scheduler.get(id).expect("it runs");
            id.0 >= STREAMS && sequence.num_generated_tokens() >= 3
        };
        let outcome = |id| if max_tokens_reached(id) { Outcome::Finish } else { Outcome::Append(7) };
        let outcomes: Vec<Outcome> = self.plan.samples().map(|sample| outcome(sample.id)).collect();
        self.scheduler.commit(&self.plan, &outcomes);
    }

    /// Steps until the sequence is gone; returns how many.
    fn until_ended(&mut self, id: SeqId) -> u32 {
        let mut steps = 0;
        while self.scheduler.get(id).is_some() {
            self.step();
            steps += 1;
        }
        steps
    }

    /// The 99th percentile and the longest of the gaps since the last call.
    fn take_gaps(&mut self) -> (f64, f64) {
        let mut gaps = std::mem::take(&mut self.gaps);
        gaps.sort_by(f64::total_cmp);
        (gaps[gaps.len() * 99 / 100], gaps[gaps.len() - 1])
    }
}

/// 16 streams decode; prompts of 1 500 tokens come one at a time, and then in a crowd.
#[test]
fn streams_go_on_while_prompts_come() {
    covers!("PAC-1", "PAC-2", "PAC-3");
    for_seeds(3, |seed| {
        let mut machine = Machine::new(seed);
        (0..STREAMS).for_each(|id| machine.submit(id, 50, 3000));
        (0..200).for_each(|_| machine.step());
        machine.take_gaps();
        (0..200).for_each(|_| machine.step());
        let (before, _) = machine.take_gaps();
        for id in 0..3 {
            machine.submit(100 + id, PROMPT, 3);
            let steps = machine.until_ended(SeqId(100 + id));
            assert!(steps < 45, "the prompt took {steps} steps");
        }
        (0..3).for_each(|id| machine.submit(110 + id, PROMPT, 3));
        machine.until_ended(SeqId(112));
        let (p99, longest) = machine.take_gaps();
        assert!(p99 <= 2.5 * before && longest <= 2.7 * before, "few prompts: {p99} {longest} after {before}");
        (0..10).for_each(|id| machine.submit(200 + id, PROMPT, 3));
        let begin = machine.clock_ms;
        machine.until_ended(SeqId(209));
        let (p99, longest) = machine.take_gaps();
        // Six times twice a decode-only step, as far as pacing keeps to it.
        assert!(p99 <= 13.0 * before && longest <= 14.0 * before, "a crowd: {p99} {longest} after {before}");
        let alone = ONE_B.token + ONE_B.weights / f64::from(BUDGET) + ONE_B.context * f64::from(PROMPT) / 2.0;
        let (share, most) = (10.0 * f64::from(PROMPT) / (machine.clock_ms - begin), 1.0 / alone);
        assert!(share >= 0.7 * most, "{share} of {most} prompt tokens a millisecond");
    });
}
