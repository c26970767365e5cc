//! What must hold of each plan and its outputs.

use super::Simulation;
use llorch_cpud::engine::StepReport;
use llorch_cpud::scheduler::MAX_PREEMPTIONS;
use llorch_cpud::types::{BlockId, SeqId};
use std::hash::Hash;

/// What is to be known of the time before a plan.
pub(super) struct Before {
    /// Running sequences with one token to compute.
    decoding: Vec<SeqId>,
    oldest: Option<SeqId>,
}

impl Simulation {
    pub(super) fn before_step(&self) -> Before {
        let running = self.engine.scheduler().running().iter();
        Before {
            decoding: running.filter(|s| s.num_pending_tokens() == 1).map(|s| s.id()).collect(),
            oldest: self.service.first().copied().or_else(|| self.turns.next()),
        }
    }

    pub(super) fn check_plan(&mut self, report: &StepReport, before: &Before, had_work: bool, max_prefill_tokens: u32) {
        let plan = self.engine.plan();
        assert_eq!(had_work, !plan.is_empty(), "SCH-5: work and no plan, or the other way round");
        let num_tokens: u32 = plan.sequences.iter().map(|s| s.num_tokens).sum();
        assert!(num_tokens <= self.limits.max_num_batched_tokens, "SCH-3: {num_tokens} tokens");
        assert!(plan.sequences.len() <= self.limits.max_num_seqs as usize, "SCH-3: sequences");
        assert_eq!((report.num_tokens, report.num_sequences as usize), (num_tokens, plan.sequences.len()));
        assert_eq!(plan.sequences.first().map(|s| s.id), before.oldest, "SCH-5: the oldest computes in every step");
        let decodes = |id: &SeqId| before.decoding.contains(id);
        let prefill: u32 = plan.sequences.iter().filter(|s| !decodes(&s.id)).map(|s| s.num_tokens).sum();
        let most = if before.decoding.is_empty() { max_prefill_tokens.max(1) } else { max_prefill_tokens };
        assert!(prefill <= most, "SCH-19: {prefill} tokens of prompts, not {most}");
        if !before.decoding.is_empty() {
            self.coverage.held_back += u64::from(prefill == max_prefill_tokens);
            self.coverage.decode_only += u64::from(max_prefill_tokens == 0);
        }
        self.check_preempted(report, before);
        let mut hit_tokens = 0;
        for scheduled in &self.engine.plan().sequences {
            let tracked = self.tracked.get_mut(&scheduled.id).expect("a sequence that was submitted");
            assert!(tracked.is_alive(), "SCH-7: {:?} ended and is in a plan", scheduled.id);
            if tracked.computed == 0 && scheduled.start > 0 {
                assert!(tracked.new.domain.is_some(), "SCH-13: {:?} bypasses the cache and was served", scheduled.id);
                assert_eq!(scheduled.start % self.limits.block_size, 0, "SCH-17: whole blocks");
                hit_tokens += scheduled.start;
                self.coverage.hits += 1;
                self.coverage.hits_after_preemption += u64::from(tracked.preemptions > 0);
            } else {
                assert_eq!(scheduled.start, tracked.computed, "SCH-4: {:?} fell and was not preempted", scheduled.id);
            }
            tracked.computed = scheduled.start + scheduled.num_tokens;
            let known = (tracked.new.prompt.len() + tracked.tokens.len()) as u32;
            assert_eq!(scheduled.samples, tracked.computed == known, "rows that sample");
            self.coverage.partial_prefills += u64::from(tracked.computed < known);
        }
        assert_eq!(hit_tokens, report.hit_tokens, "SCH-17: tokens that were not computed");
    }

    fn check_preempted(&mut self, report: &StepReport, before: &Before) {
        let mut num_fallen = 0;
        for preempted in self.engine.scheduler().preempted() {
            let tracked = self.tracked.get_mut(&preempted.id()).expect("a sequence that was submitted");
            if std::mem::take(&mut tracked.computed) > 0 {
                assert_ne!(Some(preempted.id()), before.oldest, "SCH-6: the oldest is never preempted");
                tracked.preemptions += 1;
                self.coverage.reserved += u64::from(tracked.preemptions == MAX_PREEMPTIONS);
                num_fallen += 1;
            }
            let counts = (preempted.num_preemptions(), tracked.preemptions);
            assert_eq!(counts.0, counts.1, "SCH-14: preemptions of {:?}", preempted.id());
        }
        assert_eq!(num_fallen, report.num_preempted, "SCH-4: computed tokens fall by preemption alone");
    }

    /// SCH-6 and SCH-18: who is served for the first time is who the oracle says, at that point of the plan.
    pub(super) fn check_turns(&mut self) {
        let none_preempted = self.engine.scheduler().preempted().next().is_none();
        for scheduled in &self.engine.plan().sequences {
            let id = scheduled.id;
            if self.turns.is_waiting(id) {
                assert!(none_preempted, "SCH-6: {id:?} is served before one that was preempted");
                assert_eq!(self.turns.next(), Some(id), "SCH-18: whose turn it is");
                self.turns.start(id);
                let is_fork = !self.tracked[&id].tokens.is_empty();
                let group_len = if is_fork { 1 } else { u64::from(self.tracked[&id].group_len) };
                let len = self.tracked[&id].max_len(&self.limits);
                let seniors = self.service.iter().map(|senior| self.tracked[senior].max_len(&self.limits));
                let mut last_step = self.step + seniors.sum::<u64>();
                for id in (id.0..id.0 + group_len).map(SeqId) {
                    // SCH-5: at worst one token a step for this one and each that is older.
                    last_step += len;
                    self.service.push(id);
                    let tracked = self.tracked.get_mut(&id).expect("it was submitted");
                    (tracked.was_served, tracked.last_step) = (true, last_step);
                }
                self.coverage.overtaken += u64::from(self.turns.next().is_some_and(|next| next < id));
            }
            self.turns.compute(id, scheduled.start, scheduled.start + scheduled.num_tokens);
            let is_first_token = scheduled.samples && self.tracked[&id].tokens.is_empty();
            self.turns.begin_forks(id, if is_first_token { self.tracked[&id].group_len - 1 } else { 0 });
        }
    }

    /// Forks that found no place: there was none.
    pub(super) fn check_queued_forks(&mut self) {
        let scheduler = self.engine.scheduler();
        let of_groups = scheduler.queue().iter().filter(|sequence| sequence.num_generated_tokens() > 0);
        let new: Vec<SeqId> = of_groups.map(|one| one.id()).filter(|id| !self.turns.is_waiting(*id)).collect();
        let places = self.limits.max_num_seqs.min(self.limits.max_num_batched_tokens) as usize;
        assert!(new.is_empty() || scheduler.running().len() == places, "SCH-15: {new:?} wait, and places are free");
        self.coverage.queued_forks += new.len() as u64;
        for id in new {
            self.turns.queue_fork(id);
            self.service.retain(|one| *one != id);
            self.tracked.get_mut(&id).expect("it was submitted").last_step = u64::MAX;
        }
    }

    /// What has begun with the prompt of another holds that prompt.
    pub(super) fn check_computed(&mut self) {
        let plan = self.engine.plan();
        for sequence in self.engine.scheduler().running() {
            let tracked = self.tracked.get_mut(&sequence.id()).expect("a sequence that was submitted");
            if tracked.computed == 0 && !plan.sequences.iter().any(|s| s.id == sequence.id()) {
                tracked.computed = sequence.num_prompt_tokens();
            }
            assert_eq!(sequence.num_computed_tokens(), tracked.computed, "SCH-4: {:?}", sequence.id());
        }
        for (id, tracked) in &self.tracked {
            assert!(!tracked.is_alive() || self.step < tracked.last_step, "SCH-5: {id:?} takes too long");
        }
    }

    pub(super) fn take_outputs(&mut self, report: &StepReport) {
        let mut ended = Vec::new();
        let mut leader = None;
        for output in &report.outputs {
            let scheduled = self.engine.plan().sequences.iter().any(|s| s.id == output.id);
            leader = if scheduled { Some(output.id) } else { leader };
            let tracked = self.tracked.get_mut(&output.id).expect("a sequence that was submitted");
            assert!(tracked.is_alive(), "SCH-7: {:?} ended and has an output", output.id);
            match &output.result {
                Ok((sampled, finish)) => {
                    sampled.token.hash(&mut self.hasher);
                    tracked.tokens.push(sampled.token);
                    tracked.end = finish.map(|finish| Ok(finish.reason));
                }
                Err(error) => tracked.end = Some(Err(error.clone())),
            }
            match (tracked.end.is_some(), leader) {
                (true, _) => ended.push(output.id),
                (false, Some(leader)) if leader != output.id => {
                    self.turns.fork(leader, output.id, tracked.new.prompt.len() as u32);
                }
                (false, _) => {}
            }
        }
        for id in ended {
            self.end(id);
        }
    }

    /// SCH-13, by search: a prompt of which another domain alone has the first block gets nothing.
    pub(super) fn check_cache(&mut self, report: &StepReport) {
        let rest = self.engine.occupancy();
        let sum = rest.blocks_used + rest.blocks_cached + rest.blocks_free;
        assert_eq!(sum, self.limits.num_blocks, "LAW-3");
        self.prompt_tokens_done += u64::from(report.prompt_tokens_computed + report.prompt_tokens_cached);
        self.coverage.copies += u64::from(report.num_copies);
        let pool = self.engine.scheduler().pool();
        for first in &report.first_scheduled {
            let new = &self.tracked[&first.id].new;
            let (Some(domain), Some(tokens)) = (new.domain, new.prompt.get(..self.limits.block_size as usize)) else {
                continue;
            };
            let roots = (0..pool.num_blocks()).filter_map(|block| pool.cache().contents(BlockId(block)));
            let mut roots = roots.filter(|contents| contents.parent.is_none() && contents.tokens == tokens);
            self.coverage.misses_by_salt += u64::from(roots.any(|contents| contents.above.0 != domain.0));
        }
    }
}
