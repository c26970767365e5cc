//! Random workloads over the real engine and the fake model, every property checked after every step.
//!
//! `SIM_SEED=n` runs one seed, `SIM_SEEDS=n` the first n.

mod workload;

use crate::support::fake_model::{FakeModel, token_cache};
use crate::support::random::{Random, Replay, seeds};
use llorch_cpud::engine::request::{NewSequence, RequestError};
use llorch_cpud::engine::{Engine, EngineConfig, StepReport};
use llorch_cpud::ops::pool::Pool;
use llorch_cpud::scheduler::{MAX_PREEMPTIONS, SchedulerConfig};
use llorch_cpud::types::{BlockId, FinishReason, SeqId, TokenId};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use workload::{EOG, MARKED, Swarm, VOCAB, random_limits, random_sequence, solo};

/// How often something happened over all seeds: a simulation in which nothing happens proves nothing.
#[derive(Default, Debug)]
struct Coverage {
    steps: u64,
    preemptions: u64,
    recomputed: u64,
    partial_prefills: u64,
    aborts: u64,
    refused: u64,
    stops: u64,
    lengths: u64,
    contexts: u64,
    nans: u64,
    hits: u64,
    hits_after_preemption: u64,
    evictions: u64,
    copies: u64,
    forks: u64,
    /// Prompts that were not computed for want of the cache though another domain had them.
    misses_by_salt: u64,
    bypasses: u64,
    /// Sequences that were preempted as often as may be.
    reserved: u64,
}

/// A sequence as the test follows it.
struct Tracked {
    new: NewSequence,
    tokens: Vec<TokenId>,
    end: Option<Result<FinishReason, RequestError>>,
    aborted: bool,
    computed: u32,
    preemptions: u32,
    /// The step by which it must have ended.
    deadline: u64,
}

impl Tracked {
    fn new(new: NewSequence) -> Self {
        Self { new, tokens: Vec::new(), end: None, aborted: false, computed: 0, preemptions: 0, deadline: u64::MAX }
    }

    fn is_alive(&self) -> bool {
        self.end.is_none() && !self.aborted
    }

    fn max_len(&self, limits: &SchedulerConfig) -> u64 {
        (self.new.prompt.len() as u64 + u64::from(self.new.params.stopping.max_tokens))
            .min(u64::from(limits.max_model_len))
    }
}

struct Simulation {
    random: Random,
    swarm: Swarm,
    limits: SchedulerConfig,
    engine: Engine<FakeModel>,
    tracked: BTreeMap<SeqId, Tracked>,
    /// Ids in the order in which they first ran.
    first_scheduled: Vec<SeqId>,
    step: u64,
    hasher: DefaultHasher,
    /// Prompt tokens of all submissions, and those that were computed or came from the cache.
    prompt_tokens: u64,
    prompt_tokens_done: u64,
}

impl Simulation {
    fn new(seed: u64, pool: &Arc<Pool>) -> Self {
        let mut random = Random::new(seed);
        let swarm = Swarm::new(&mut random);
        let limits = random_limits(&mut random, &swarm);
        let mut model = FakeModel::new(VOCAB, limits.block_size);
        model.nan_token = Some(MARKED);
        let config = EngineConfig { scheduler: limits, eog_ids: vec![EOG] };
        let engine = Engine::new(config, model, token_cache(&limits), Arc::clone(pool)).expect("valid limits");
        Self {
            random,
            swarm,
            limits,
            engine,
            tracked: BTreeMap::new(),
            first_scheduled: Vec::new(),
            step: 0,
            hasher: DefaultHasher::new(),
            prompt_tokens: 0,
            prompt_tokens_done: 0,
        }
    }

    fn run(&mut self, coverage: &mut Coverage) {
        let mut to_come = self.random.range(1, 12);
        let mut id = 0;
        while to_come > 0 || self.engine.has_work() {
            while to_come > 0 && !(self.swarm.arrivals_spread && self.random.one_in(2)) {
                id += self.submit(SeqId(id), coverage);
                to_come -= 1;
            }
            if self.swarm.aborts && self.random.one_in(6) && id > 0 {
                let victim = SeqId(self.random.next() % id);
                self.abort(victim, coverage);
            }
            self.step(coverage);
        }
        self.finish(coverage);
    }

    /// Returns how many sequences came.
    fn submit(&mut self, id: SeqId, coverage: &mut Coverage) -> u64 {
        let new = random_sequence(&mut self.random, &self.swarm, self.limits.max_model_len);
        let before = self.engine.occupancy();
        let result = self.engine.submit(id, new.clone());
        let mut ahead: u64 = self.tracked.values().filter(|t| t.is_alive()).map(|t| t.max_len(&self.limits)).sum();
        let n = u64::from(new.n);
        let mut max_len = 0;
        for offset in 0..new.n {
            let one = NewSequence { index: new.index + offset, n: 1, ..new.clone() };
            let mut tracked = Tracked::new(one);
            max_len = tracked.max_len(&self.limits);
            // SCH-5: at worst one token a step for this one and each that is older.
            ahead += max_len;
            tracked.deadline = self.step + ahead;
            if result.is_ok() {
                self.tracked.insert(SeqId(id.0 + u64::from(offset)), tracked);
            }
        }
        // SCH-8
        let capacity = u64::from(self.limits.num_blocks) * u64::from(self.limits.block_size);
        assert_eq!(result.is_err(), max_len > capacity, "SCH-8: {max_len} tokens in {capacity} places: {result:?}");
        if result.is_err() {
            assert_eq!(self.engine.occupancy(), before, "SCH-8: a refusal has no effect");
            coverage.refused += 1;
        } else {
            self.prompt_tokens += new.prompt.len() as u64;
            coverage.bypasses += u64::from(new.domain.is_none());
            coverage.forks += n - 1;
        }
        n
    }

    fn abort(&mut self, id: SeqId, coverage: &mut Coverage) {
        let alive = self.tracked.get(&id).is_some_and(Tracked::is_alive);
        let used = self.engine.occupancy().blocks_used;
        let scheduler = self.engine.scheduler();
        let (mut held, mut ended) = (0, id.0..id.0 + 1);
        if let Some(sequence) = scheduler.get(id) {
            let only_its = |block: &&BlockId| scheduler.pool().ref_count(**block) == 1;
            held = sequence.block_table().blocks().iter().filter(only_its).count();
            ended = sequence.id().0..sequence.id().0 + u64::from(sequence.num_forks()) + 1;
        }
        assert_eq!(self.engine.abort(id).is_some(), alive, "SCH-7: abort of {id:?}");
        assert_eq!(self.engine.occupancy().blocks_used as usize + held, used as usize, "SCH-7: blocks come back");
        self.engine.scheduler().check_invariants();
        if alive {
            for id in ended.map(SeqId) {
                self.tracked.get_mut(&id).expect("it was submitted").aborted = true;
            }
            coverage.aborts += 1;
        }
    }

    fn step(&mut self, coverage: &mut Coverage) {
        let had_work = self.engine.has_work();
        let report = self.engine.step().clone();
        self.step += 1;
        self.engine.plan().hash(&mut self.hasher);
        self.engine.scheduler().check_invariants();
        self.check_plan(&report, had_work, coverage);
        self.take_outputs(&report);
        self.first_scheduled.extend(report.first_scheduled.iter().map(|first| first.id));
        self.check_cache(&report, coverage);
        coverage.steps += 1;
        coverage.preemptions += u64::from(report.num_preempted);
        coverage.recomputed += u64::from(report.recomputed_tokens);
        for (id, tracked) in &self.tracked {
            assert!(!tracked.is_alive() || self.step < tracked.deadline, "SCH-5: {id:?} takes too long");
        }
    }

    fn check_plan(&mut self, report: &StepReport, had_work: bool, coverage: &mut Coverage) {
        let plan = self.engine.plan();
        assert_eq!(had_work, !plan.is_empty(), "SCH-5: work and no plan, or the other way round");
        let num_tokens: u32 = plan.sequences.iter().map(|s| s.num_tokens).sum();
        assert!(num_tokens <= self.limits.max_num_batched_tokens, "SCH-3: {num_tokens} tokens");
        assert!(plan.sequences.len() <= self.limits.max_num_seqs as usize, "SCH-3: sequences");
        assert_eq!((report.num_tokens, report.num_sequences as usize), (num_tokens, plan.sequences.len()));
        let oldest = self.tracked.iter().find(|(_, t)| t.is_alive()).map(|(id, _)| *id);
        assert_eq!(plan.sequences.first().map(|s| s.id), oldest, "SCH-5: the oldest computes in every step");
        let mut num_fallen = 0;
        for waiting in self.engine.scheduler().waiting() {
            let tracked = self.tracked.get_mut(&waiting.id()).expect("a sequence that was submitted");
            if std::mem::take(&mut tracked.computed) > 0 {
                assert_ne!(Some(waiting.id()), oldest, "SCH-6: the oldest is never preempted");
                tracked.preemptions += 1;
                coverage.reserved += u64::from(tracked.preemptions == MAX_PREEMPTIONS);
                num_fallen += 1;
            }
            assert_eq!(waiting.num_preemptions(), tracked.preemptions, "SCH-14: preemptions of {:?}", waiting.id());
        }
        assert_eq!(num_fallen, report.num_preempted, "SCH-4: computed tokens fall by preemption alone");
        let mut hit_tokens = 0;
        for scheduled in &plan.sequences {
            let tracked = self.tracked.get_mut(&scheduled.id).expect("a sequence that was submitted");
            assert!(tracked.is_alive(), "SCH-7: {:?} ended and is in a plan", scheduled.id);
            if tracked.computed == 0 && scheduled.start > 0 {
                assert!(tracked.new.domain.is_some(), "SCH-13: {:?} bypasses the cache and was served", scheduled.id);
                assert_eq!(scheduled.start % self.limits.block_size, 0, "SCH-17: whole blocks");
                hit_tokens += scheduled.start;
                coverage.hits += 1;
                coverage.hits_after_preemption += u64::from(tracked.preemptions > 0);
            } else {
                assert_eq!(scheduled.start, tracked.computed, "SCH-4: {:?} fell and was not preempted", scheduled.id);
            }
            tracked.computed = scheduled.start + scheduled.num_tokens;
            let known = (tracked.new.prompt.len() + tracked.tokens.len()) as u32;
            assert_eq!(scheduled.samples, tracked.computed == known, "rows that sample");
            coverage.partial_prefills += u64::from(tracked.computed < known);
        }
        assert_eq!(hit_tokens, report.hit_tokens, "SCH-17: tokens that were not computed");
        // What has begun with the prompt of another holds that prompt.
        for sequence in self.engine.scheduler().running() {
            let tracked = self.tracked.get_mut(&sequence.id()).expect("a sequence that was submitted");
            if tracked.computed == 0 && !plan.sequences.iter().any(|s| s.id == sequence.id()) {
                tracked.computed = sequence.num_prompt_tokens();
            }
            assert_eq!(sequence.num_computed_tokens(), tracked.computed, "SCH-4: {:?}", sequence.id());
        }
    }

    fn take_outputs(&mut self, report: &StepReport) {
        for output in &report.outputs {
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
        }
    }

    /// SCH-13, by search: a prompt of which another domain alone has the first block gets nothing.
    fn check_cache(&mut self, report: &StepReport, coverage: &mut Coverage) {
        let rest = self.engine.occupancy();
        let sum = rest.blocks_used + rest.blocks_cached + rest.blocks_free;
        assert_eq!(sum, self.limits.num_blocks, "LAW-3");
        self.prompt_tokens_done += u64::from(report.prompt_tokens_computed + report.prompt_tokens_cached);
        coverage.copies += u64::from(report.num_copies);
        let pool = self.engine.scheduler().pool();
        for first in &report.first_scheduled {
            let new = &self.tracked[&first.id].new;
            let (Some(domain), Some(tokens)) = (new.domain, new.prompt.get(..self.limits.block_size as usize)) else {
                continue;
            };
            let roots = (0..pool.num_blocks()).filter_map(|block| pool.cache().contents(BlockId(block)));
            let mut roots = roots.filter(|contents| contents.parent.is_none() && contents.tokens == tokens);
            coverage.misses_by_salt += u64::from(roots.any(|contents| contents.above.0 != domain.0));
        }
    }

    fn finish(&mut self, coverage: &mut Coverage) {
        let pool = self.engine.scheduler().pool();
        coverage.evictions += pool.num_evicted();
        if !self.swarm.aborts {
            assert_eq!(self.prompt_tokens_done, self.prompt_tokens, "each prompt token is computed or cached once");
            let known = (0..pool.num_blocks()).filter_map(|block| pool.cache().contents(BlockId(block)));
            assert!(
                !known.into_iter().any(|contents| contents.tokens.contains(&MARKED)),
                "SCH-16: a block of NaN is known"
            );
        }
        let rest = self.engine.occupancy();
        assert_eq!((rest.running, rest.waiting, rest.blocks_used), (0, 0, 0), "SCH-1: at rest all is free");
        assert!(self.first_scheduled.is_sorted_by(|a, b| a < b), "SCH-6: first service: {:?}", self.first_scheduled);
        for (id, tracked) in &self.tracked {
            let (tokens, end) = solo(&tracked.new, &self.limits);
            if tracked.aborted {
                assert!(tokens.starts_with(&tracked.tokens), "ENG-1: {id:?} until it was aborted");
            } else {
                assert_eq!((&tracked.tokens, &tracked.end), (&tokens, &Some(end)), "ENG-1: {id:?}");
            }
            match &tracked.end {
                Some(Ok(FinishReason::Stop)) => coverage.stops += 1,
                Some(Ok(FinishReason::Length)) => coverage.lengths += 1,
                Some(Ok(FinishReason::ContextLimit)) => coverage.contexts += 1,
                Some(Err(_)) => coverage.nans += 1,
                None => {}
            }
        }
    }
}

#[test]
fn eng_1_and_sch_1_to_17_hold_under_random_workloads() {
    covers!("ENG-1", "SCH-1", "SCH-2", "SCH-3", "SCH-4", "SCH-5", "SCH-6", "SCH-7", "SCH-8", "SCH-9", "DET-4");
    covers!("SCH-11", "SCH-12", "SCH-13", "SCH-14", "SCH-15", "SCH-16", "SCH-17");
    let pools = [1, 2].map(|threads| Arc::new(Pool::new(threads).expect("threads")));
    let mut coverage = Coverage::default();
    let seeds = seeds("SIM_SEED", "SIM_SEEDS", 20_000);
    let num_seeds = seeds.end - seeds.start;
    for seed in seeds {
        let _replay = Replay { variable: "SIM_SEED", seed };
        let mut first = Simulation::new(seed, &pools[usize::from(seed % 16 == 1)]);
        first.run(&mut coverage);
        if seed % 8 == 0 {
            let mut second = Simulation::new(seed, &pools[1]);
            second.run(&mut Coverage::default());
            assert_eq!(first.hasher.finish(), second.hasher.finish(), "SCH-9: the same inputs, other plans");
        }
    }
    if num_seeds >= 1000 {
        let c = &coverage;
        let counts = [c.preemptions, c.recomputed, c.partial_prefills, c.aborts, c.refused];
        let ends = [c.stops, c.lengths, c.contexts, c.nans];
        let cache = [c.hits, c.hits_after_preemption, c.evictions, c.copies, c.forks, c.misses_by_salt, c.bypasses];
        let often = counts.iter().chain(&ends).chain(&cache);
        assert!(often.into_iter().all(|&count| count > num_seeds / 20), "too little happened: {coverage:?}");
        assert!(c.reserved > num_seeds / 1000, "too little happened: {coverage:?}");
    }
}
