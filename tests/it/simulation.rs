//! Random workloads over the real engine and the fake model, every property checked after every step.
//!
//! `SIM_SEED=n` runs one seed, `SIM_SEEDS=n` the first n.

use crate::support::fake_model::{FakeModel, unused_kv_cache};
use crate::support::random::{Random, Replay, seeds};
use llorch_cpud::engine::request::{NewSequence, RequestError};
use llorch_cpud::engine::{Engine, EngineConfig, StepReport};
use llorch_cpud::ops::pool::Pool;
use llorch_cpud::sampling::params::SequenceParams;
use llorch_cpud::sampling::{Row, Scratch, sample};
use llorch_cpud::scheduler::SchedulerConfig;
use llorch_cpud::types::{FinishReason, SeqId, TokenId};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

const VOCAB: usize = 16;
const EOG: TokenId = 2;

/// What kinds of things happen under a seed. Each is on for some seeds and off for others, so that rare combinations
/// are not drowned by the usual.
struct Swarm {
    arrivals_spread: bool,
    aborts: bool,
    eog: bool,
    stop_ids: bool,
    sampling: bool,
    penalties: bool,
    nan: bool,
}

impl Swarm {
    fn new(random: &mut Random) -> Self {
        let mut flag = || random.one_in(2);
        Self {
            arrivals_spread: flag(),
            aborts: flag(),
            eog: flag(),
            stop_ids: flag(),
            sampling: flag(),
            penalties: flag(),
            nan: flag() && flag(),
        }
    }
}

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
}

/// A sequence as the test follows it.
struct Tracked {
    new: NewSequence,
    tokens: Vec<TokenId>,
    end: Option<Result<FinishReason, RequestError>>,
    aborted: bool,
    computed: u32,
    /// The step by which it must have ended.
    deadline: u64,
}

impl Tracked {
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
}

fn random_limits(random: &mut Random) -> SchedulerConfig {
    SchedulerConfig {
        max_num_seqs: random.range(1, 8),
        max_num_batched_tokens: random.pick(&[1, 2, 3, 5, 8, 16, 64]),
        num_blocks: random.pick(&[2, 4, 6, 9, 14, 40]),
        block_size: random.pick(&[1, 2, 3, 16]),
        max_model_len: random.pick(&[6, 16, 30]),
    }
}

fn random_sequence(random: &mut Random, swarm: &Swarm, max_model_len: u32) -> NewSequence {
    let length = random.range(1, (max_model_len - 1).min(14));
    let prompt: Vec<TokenId> = (0..length).map(|_| random.range(3, VOCAB as u32 - 2)).collect();
    let mut params = SequenceParams::default();
    params.stopping.max_tokens = random.range(1, 12);
    params.stopping.ignore_eos = !swarm.eog;
    if swarm.stop_ids {
        params.stopping.stop_token_ids = vec![random.range(0, VOCAB as u32 - 1)];
        params.stopping.min_tokens = random.range(0, params.stopping.max_tokens);
    }
    params.sampling.seed = random.next();
    params.sampling.temperature = if swarm.sampling { random.pick(&[0.0, 0.5, 1.0, 2.0]) } else { 0.0 };
    params.sampling.top_k = random.pick(&[0, 0, 1, 4]);
    params.sampling.top_p = random.pick(&[1.0, 0.8]);
    params.sampling.logit_bias = vec![(VOCAB as TokenId - 1, f32::NEG_INFINITY)];
    if swarm.penalties {
        params.sampling.repetition_penalty = 1.3;
        params.sampling.repetition_window = random.pick(&[0, 3]);
        params.sampling.frequency_penalty = 0.5;
        params.sampling.presence_penalty = 0.25;
    }
    params.logprobs = random.pick(&[None, None, Some(2)]);
    let mut prompt = prompt;
    if swarm.nan && random.one_in(4) {
        // The marked token: never generated, as every sequence has a bias against it.
        prompt[0] = VOCAB as TokenId - 1;
    }
    NewSequence { prompt: prompt.into(), params: Arc::new(params), index: random.range(0, 2) }
}

impl Simulation {
    fn new(seed: u64, pool: &Arc<Pool>) -> Self {
        let mut random = Random::new(seed);
        let swarm = Swarm::new(&mut random);
        let limits = random_limits(&mut random);
        let mut model = FakeModel::new(VOCAB, limits.num_blocks, limits.block_size);
        model.nan_token = Some(VOCAB as TokenId - 1);
        let config = EngineConfig { scheduler: limits, eog_ids: vec![EOG] };
        let engine = Engine::new(config, model, unused_kv_cache(&limits), Arc::clone(pool)).expect("valid limits");
        Self {
            random,
            swarm,
            limits,
            engine,
            tracked: BTreeMap::new(),
            first_scheduled: Vec::new(),
            step: 0,
            hasher: DefaultHasher::new(),
        }
    }

    fn run(&mut self, coverage: &mut Coverage) {
        let mut to_come = self.random.range(1, 12);
        let mut id = 0;
        while to_come > 0 || self.engine.has_work() {
            while to_come > 0 && !(self.swarm.arrivals_spread && self.random.one_in(2)) {
                self.submit(SeqId(id), coverage);
                (id, to_come) = (id + 1, to_come - 1);
            }
            if self.swarm.aborts && self.random.one_in(6) && id > 0 {
                let victim = SeqId(self.random.next() % id);
                self.abort(victim, coverage);
            }
            self.step(coverage);
        }
        self.finish(coverage);
    }

    fn submit(&mut self, id: SeqId, coverage: &mut Coverage) {
        let new = random_sequence(&mut self.random, &self.swarm, self.limits.max_model_len);
        let mut tracked =
            Tracked { new, tokens: Vec::new(), end: None, aborted: false, computed: 0, deadline: u64::MAX };
        let max_len = tracked.max_len(&self.limits);
        let before = self.engine.occupancy();
        let result = self.engine.submit(id, tracked.new.clone());
        // SCH-8
        let capacity = u64::from(self.limits.num_blocks) * u64::from(self.limits.block_size);
        assert_eq!(result.is_err(), max_len > capacity, "SCH-8: {max_len} tokens in {capacity} places: {result:?}");
        if result.is_err() {
            assert_eq!(self.engine.occupancy(), before, "SCH-8: a refusal has no effect");
            coverage.refused += 1;
            return;
        }
        // SCH-5: at worst one token a step for this one and each that is older.
        let ahead: u64 = self.tracked.values().filter(|t| t.is_alive()).map(|t| t.max_len(&self.limits)).sum();
        tracked.deadline = self.step + ahead + max_len;
        self.tracked.insert(id, tracked);
    }

    fn abort(&mut self, id: SeqId, coverage: &mut Coverage) {
        let alive = self.tracked.get(&id).is_some_and(Tracked::is_alive);
        let used: u32 = self.engine.occupancy().blocks_used;
        let held = self.engine.scheduler().get(id).map_or(0, |s| s.block_table().blocks().len());
        assert_eq!(self.engine.abort(id).is_some(), alive, "SCH-7: abort of {id:?}");
        assert_eq!(self.engine.occupancy().blocks_used as usize + held, used as usize, "SCH-7: blocks come back");
        self.engine.scheduler().check_invariants();
        if alive {
            self.tracked.get_mut(&id).expect("alive").aborted = true;
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
        self.first_scheduled.extend(&report.first_scheduled);
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
                num_fallen += 1;
            }
        }
        assert_eq!(num_fallen, report.num_preempted, "SCH-4: computed tokens fall by preemption alone");
        for scheduled in &plan.sequences {
            let tracked = self.tracked.get_mut(&scheduled.id).expect("a sequence that was submitted");
            assert!(tracked.is_alive(), "SCH-7: {:?} ended and is in a plan", scheduled.id);
            assert_eq!(scheduled.start, tracked.computed, "SCH-4: {:?} fell and was not preempted", scheduled.id);
            tracked.computed = scheduled.start + scheduled.num_tokens;
            let known = (tracked.new.prompt.len() + tracked.tokens.len()) as u32;
            assert_eq!(scheduled.samples, tracked.computed == known, "rows that sample");
            coverage.partial_prefills += u64::from(tracked.computed < known);
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

    fn finish(&mut self, coverage: &mut Coverage) {
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

/// What a sequence generates when nothing else exists: no engine, no scheduler, no cache.
fn solo(new: &NewSequence, limits: &SchedulerConfig) -> (Vec<TokenId>, Result<FinishReason, RequestError>) {
    let (params, mut scratch) = (&new.params, Scratch::default());
    let mut tokens = new.prompt.to_vec();
    let generated = |tokens: &[TokenId]| tokens[new.prompt.len()..].to_vec();
    if tokens.contains(&(VOCAB as TokenId - 1)) {
        return (Vec::new(), Err(RequestError::NonFiniteLogits));
    }
    loop {
        let logits = FakeModel::logits_after(tokens.iter().copied(), VOCAB);
        let row = Row {
            logits: &logits,
            params,
            eog_ids: &[EOG],
            tokens: &tokens,
            num_prompt_tokens: new.prompt.len(),
            sequence_index: new.index,
        };
        let token = sample(&row, &mut scratch).expect("finite logits").token;
        tokens.push(token);
        let num_generated = tokens.len() - new.prompt.len();
        if (token == EOG && !params.stopping.ignore_eos) || params.stopping.stop_token_ids.contains(&token) {
            return (generated(&tokens), Ok(FinishReason::Stop));
        }
        if num_generated == params.stopping.max_tokens as usize {
            return (generated(&tokens), Ok(FinishReason::Length));
        }
        if tokens.len() == limits.max_model_len as usize {
            return (generated(&tokens), Ok(FinishReason::ContextLimit));
        }
    }
}

#[test]
fn eng_1_and_sch_1_to_9_hold_under_random_workloads() {
    covers!("ENG-1", "SCH-1", "SCH-2", "SCH-3", "SCH-4", "SCH-5", "SCH-6", "SCH-7", "SCH-8", "SCH-9", "DET-4");
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
        assert!(counts.iter().chain(&ends).all(|&count| count > num_seeds / 20), "too little happened: {coverage:?}");
    }
}
