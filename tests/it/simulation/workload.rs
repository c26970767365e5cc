//! What is submitted in a simulation, and what must come of it.

use crate::support::fake_model::FakeModel;
use crate::support::random::Random;
use llorch_cpud::engine::request::{NewSequence, RequestError};
use llorch_cpud::sampling::params::SequenceParams;
use llorch_cpud::sampling::{Row, Scratch, sample};
use llorch_cpud::scheduler::SchedulerConfig;
use llorch_cpud::types::{CacheDomain, FinishReason, TokenId, Turn};
use std::sync::Arc;

pub const VOCAB: usize = 16;
pub const EOG: TokenId = 2;
/// A sequence with this token gets logits of NaN. It is never generated: every sequence has a bias against it.
pub const MARKED: TokenId = VOCAB as TokenId - 1;
/// A step that computes this token panics. It is never generated, either.
pub const FATAL: TokenId = VOCAB as TokenId - 2;

/// What kinds of things happen under a seed. Each is on for some seeds and off for others, so that rare combinations
/// are not drowned by the usual.
pub struct Swarm {
    pub arrivals_spread: bool,
    pub aborts: bool,
    pub eog: bool,
    pub stop_ids: bool,
    pub sampling: bool,
    pub penalties: bool,
    pub nan: bool,
    /// Prompts begin alike.
    pub shared_prefixes: bool,
    /// Some requests do without the prefix cache.
    pub bypass: bool,
    pub salts: bool,
    pub forks: bool,
    /// Long outputs, for which the pool is far too small: the same sequences lose their blocks again and again.
    pub long: bool,
    /// Many requests at once.
    pub bursts: bool,
    /// Prompts of up to the context's length.
    pub long_prompts: bool,
    pub tenants: bool,
    pub priorities: bool,
    pub deadlines: bool,
    pub slow_readers: bool,
    pub panics: bool,
    /// A bound for the tokens of prompts while others decode.
    pub paced: bool,
}

impl Swarm {
    pub fn new(random: &mut Random) -> Self {
        let mut flag = || random.one_in(2);
        Self {
            arrivals_spread: flag(),
            aborts: flag(),
            eog: flag(),
            stop_ids: flag(),
            sampling: flag(),
            penalties: flag(),
            nan: flag() && flag(),
            shared_prefixes: flag(),
            bypass: flag(),
            salts: flag(),
            forks: flag(),
            long: flag() && flag(),
            bursts: flag() && flag(),
            long_prompts: flag(),
            tenants: flag(),
            priorities: flag(),
            deadlines: flag() && flag(),
            slow_readers: flag() && flag(),
            panics: flag() && flag() && flag(),
            paced: flag(),
        }
    }
}

pub fn random_limits(random: &mut Random, swarm: &Swarm) -> SchedulerConfig {
    if swarm.long {
        return SchedulerConfig {
            max_num_seqs: random.range(3, 8),
            max_num_batched_tokens: random.pick(&[8, 16, 64]),
            num_blocks: random.range(40, 60),
            block_size: random.pick(&[1, 2]),
            max_model_len: 40,
        };
    }
    SchedulerConfig {
        max_num_seqs: random.range(1, 8),
        max_num_batched_tokens: random.pick(&[1, 2, 3, 5, 8, 16, 64]),
        num_blocks: random.pick(&[2, 4, 6, 9, 14, 40]),
        block_size: random.pick(&[1, 2, 3, 16]),
        max_model_len: random.pick(&[6, 16, 30]),
    }
}

fn random_prompt(random: &mut Random, swarm: &Swarm, max_model_len: u32) -> Vec<TokenId> {
    let longest = if swarm.long_prompts { max_model_len - 1 } else { (max_model_len - 1).min(14) };
    let length = random.range(1, longest);
    let alike = if swarm.shared_prefixes { random.range(0, length) } else { 0 };
    let begin = random.range(3, 5);
    let token = |i| if i < alike { begin + i % 4 } else { random.range(3, VOCAB as u32 - 3) };
    (0..length).map(token).collect()
}

pub fn random_sequence(random: &mut Random, swarm: &Swarm, max_model_len: u32, now_ms: u64) -> NewSequence {
    let mut prompt = random_prompt(random, swarm, max_model_len);
    let mut params = SequenceParams::default();
    params.stopping.max_tokens = if swarm.long { random.range(20, 40) } else { random.range(1, 12) };
    params.stopping.ignore_eos = !swarm.eog;
    if swarm.stop_ids {
        params.stopping.stop_token_ids = vec![random.range(0, VOCAB as u32 - 1)];
        params.stopping.min_tokens = random.range(0, params.stopping.max_tokens);
    }
    params.sampling.seed = random.next();
    params.sampling.temperature = if swarm.sampling { random.pick(&[0.0, 0.5, 1.0, 2.0]) } else { 0.0 };
    params.sampling.top_k = random.pick(&[0, 0, 1, 4]);
    params.sampling.top_p = random.pick(&[1.0, 0.8]);
    params.sampling.logit_bias = vec![(FATAL, f32::NEG_INFINITY), (MARKED, f32::NEG_INFINITY)];
    if swarm.penalties {
        params.sampling.repetition_penalty = 1.3;
        params.sampling.repetition_window = random.pick(&[0, 3]);
        params.sampling.frequency_penalty = 0.5;
        params.sampling.presence_penalty = 0.25;
    }
    params.logprobs = random.pick(&[None, None, Some(2)]);
    if swarm.nan && random.one_in(4) {
        prompt[0] = MARKED;
    }
    if swarm.panics && random.one_in(12) {
        let place = random.range(0, prompt.len() as u32 - 1);
        prompt[place as usize] = FATAL;
    }
    let salt = if swarm.salts { random.pick(&["a", "b"]) } else { "" };
    let bypasses = swarm.bypass && random.one_in(2);
    NewSequence {
        prompt: prompt.into(),
        params: Arc::new(params),
        index: random.range(0, 2),
        n: if swarm.forks && random.one_in(2) { random.range(2, 5) } else { 1 },
        turn: random_turn(random, swarm, now_ms),
        domain: (!bypasses).then(|| CacheDomain::new("fake", "", salt)),
    }
}

/// The tenants there are, with their weights; another one has none.
pub fn weights() -> [(Arc<str>, f64); 2] {
    [("half".into(), 0.5), ("double".into(), 2.0)]
}

fn random_turn(random: &mut Random, swarm: &Swarm, arrived_ms: u64) -> Turn {
    let tenant = if swarm.tenants { random.pick(&["", "half", "double"]) } else { "" };
    let priority = if swarm.priorities { random.range(0, 20) as i32 - 10 } else { 0 };
    Turn { tenant: tenant.into(), priority, arrived_ms }
}

/// What a sequence generates when nothing else exists: no engine, no scheduler, no cache.
pub fn solo(new: &NewSequence, limits: &SchedulerConfig) -> (Vec<TokenId>, Result<FinishReason, RequestError>) {
    let (params, mut scratch) = (&new.params, Scratch::default());
    let mut tokens = new.prompt.to_vec();
    let generated = |tokens: &[TokenId]| tokens[new.prompt.len()..].to_vec();
    if tokens.contains(&FATAL) {
        return (Vec::new(), Err(RequestError::EngineFault));
    }
    if tokens.contains(&MARKED) {
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
