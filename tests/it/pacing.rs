//! Long prompts beside streams that decode, on a virtual clock: steps of known cost, and the bound that pacing gives
//! (`specs/03_BATCHED_SCHEDULER.md`, Pacing).
//!
//! `PACING_SEED=n` runs one seed, `PACING_SEEDS=n` the first n.

mod alone;
mod crowd;
mod scheduler;

use crate::support::random::{Random, Replay, seeds};
use llorch_cpud::engine::pacing::{LEAST_TARGET, MIN_CHUNK, Pacing};
use std::time::Duration;

const BUDGET: u32 = 512;
const PROMPT: u32 = 1500;

/// What a step costs, in milliseconds.
#[derive(Clone, Copy)]
struct Costs {
    /// Reading the weights.
    weights: f64,
    row: f64,
    token: f64,
    /// For each token that a computed one looks back on, of a stream and of a prompt.
    context: f64,
    prompt_context: f64,
    /// The weights are read while the rows are computed: only the longer of both counts.
    overlapped: bool,
    /// Relative, to both sides.
    noise: f64,
    /// A step in so many is held up, to five times its time. 0: none.
    one_held_up_in: u32,
}

/// About TinyLlama on two cores.
const ONE_B: Costs = Costs {
    weights: 60.0,
    row: 2.0,
    token: 1.5,
    context: 0.000_2,
    prompt_context: 0.000_2,
    overlapped: false,
    noise: 0.05,
    one_held_up_in: 0,
};

const ALL: [(&str, Costs); 5] = [
    ("as 1b", ONE_B),
    ("held up", Costs { one_held_up_in: 250, ..ONE_B }),
    ("overlapped", Costs { weights: 90.0, row: 1.5, token: 1.2, overlapped: true, ..ONE_B }),
    // Rows that decode cost as much as prompt tokens, and looking back soon costs more than both.
    ("attention", Costs { weights: 10.0, row: 1.3, token: 1.3, prompt_context: 0.002, ..ONE_B }),
    ("large", Costs { weights: 400.0, row: 12.0, token: 10.0, context: 0.002, prompt_context: 0.002, ..ONE_B }),
];

struct Simulation {
    costs: Costs,
    /// Everything takes so much longer.
    slowdown: f64,
    pacing: Pacing,
    random: Random,
    /// Tokens in the contexts of the streams.
    streams: Vec<u32>,
    /// Prompt tokens that wait, of the prompt that is being computed and of those behind it.
    waiting: u32,
    /// Tokens of the first prompt that are computed.
    done: u32,
    clock_ms: f64,
    prefilled: u64,
    /// Of all steps while streams decoded: milliseconds, and prompt tokens. Without those that were held up: what the
    /// system does to a step is not for us to keep, but what it does to those after it is.
    gaps: Vec<(f64, u32)>,
}

impl Simulation {
    fn new(costs: Costs, target: Option<Duration>, seed: u64) -> Self {
        Self {
            costs,
            slowdown: 1.0,
            pacing: Pacing::new(target, BUDGET),
            random: Random::new(seed),
            streams: Vec::new(),
            waiting: 0,
            done: 0,
            clock_ms: 0.0,
            prefilled: 0,
            gaps: Vec::new(),
        }
    }

    fn step(&mut self) {
        let rows = self.streams.len() as u32;
        let bound = self.pacing.max_prefill_tokens(rows, 1);
        assert!(rows > 0 && bound == 0 || (MIN_CHUNK..=BUDGET).contains(&bound), "{bound}");
        let tokens = self.waiting.min(bound).min(BUDGET - rows).min(PROMPT - self.done);
        if rows + tokens == 0 {
            return;
        }
        let ms = self.cost(tokens) * (1.0 + self.costs.noise * (f64::from(self.random.unit()) * 2.0 - 1.0));
        let held_up = self.costs.one_held_up_in > 0 && self.random.one_in(self.costs.one_held_up_in);
        let ms = if held_up { 5.0 * ms } else { ms };
        self.pacing.record(rows, tokens, Duration::from_secs_f64(ms / 1e3));
        self.clock_ms += ms;
        self.waiting -= tokens;
        self.done = (self.done + tokens) % PROMPT;
        self.prefilled += u64::from(tokens);
        self.streams.iter_mut().for_each(|context| *context += 1);
        if rows > 0 && !held_up {
            self.gaps.push((ms, tokens));
        }
    }

    /// Milliseconds of a step, noise aside.
    fn cost(&self, tokens: u32) -> f64 {
        let Costs { weights, row, token, context, prompt_context, overlapped, .. } = self.costs;
        let rows = row * self.streams.len() as f64 + token * f64::from(tokens);
        let behind: u32 = self.streams.iter().sum();
        let of_prompt = f64::from(tokens) * f64::from(self.done + tokens / 2);
        let attention = context * f64::from(behind) + prompt_context * of_prompt;
        self.slowdown * (attention + if overlapped { weights.max(rows) } else { weights + rows })
    }

    fn steps(&mut self, count: usize) -> &mut Self {
        (0..count).for_each(|_| self.step());
        self
    }

    /// So many steps in which prompts never end.
    fn crowded(&mut self, count: usize) -> &mut Self {
        self.waiting = u32::MAX;
        self.steps(count);
        self.waiting = 0;
        self
    }

    fn take_gaps(&mut self) -> Gaps {
        let steps = std::mem::take(&mut self.gaps);
        let mut ms: Vec<f64> = steps.iter().map(|(ms, _)| *ms).collect();
        ms.sort_by(f64::total_cmp);
        let rank = |share: f64| ms[(share * (ms.len() - 1) as f64).ceil() as usize];
        Gaps { p50: rank(0.5), p99: rank(0.99), max: rank(1.0), steps }
    }
}

struct Gaps {
    p50: f64,
    p99: f64,
    max: f64,
    steps: Vec<(f64, u32)>,
}

impl Gaps {
    /// Prompt tokens a second.
    fn prefill(&self) -> f64 {
        let (ms, tokens) = self.steps.iter().fold((0.0, 0), |(ms, tokens), step| (ms + step.0, tokens + step.1));
        f64::from(tokens) / ms * 1e3
    }
}

/// The first `count` seeds, where the environment names no others.
fn for_seeds(count: u64, test: impl Fn(u64)) {
    for seed in seeds("PACING_SEED", "PACING_SEEDS", count) {
        let _replay = Replay { variable: "PACING_SEED", seed };
        test(seed);
    }
}

/// The costs of a simulation with 16 streams that decode.
fn streaming(costs: Costs, target: Option<u64>, seed: u64) -> Simulation {
    let mut simulation = Simulation::new(costs, target.map(Duration::from_millis), seed);
    // The streams' own prompts.
    simulation.waiting = 1600;
    simulation.steps(4);
    simulation.streams = vec![100; 16];
    simulation
}

/// Prompt tokens a second where nobody decodes.
fn prefill_alone(costs: Costs, seed: u64) -> f64 {
    let mut simulation = Simulation::new(Costs { one_held_up_in: 0, ..costs }, None, seed);
    simulation.crowded(200);
    simulation.prefilled as f64 / simulation.clock_ms * 1e3
}

/// A prompt of 1 500 tokens now and then, beside 16 streams that decode.
#[test]
fn long_prompts_stretch_the_gaps_to_two_steps() {
    covers!("PAC-1", "PAC-2");
    for_seeds(50, |seed| {
        for (name, costs) in ALL {
            let mut simulation = streaming(costs, None, seed);
            let before = simulation.steps(300).take_gaps();
            for _ in 0..4 {
                simulation.steps(10);
                simulation.waiting = PROMPT;
                let steps = (0..1000).find(|_| {
                    simulation.step();
                    simulation.waiting == 0
                });
                assert!(steps.is_some_and(|steps| steps < 250), "{name}: the prompt took {steps:?} steps");
            }
            let during = simulation.take_gaps();
            assert!(during.p99 <= 2.5 * before.p99, "{name}: p99 {} after {}", during.p99, before.p99);
            assert!(during.max <= 2.7 * before.p50, "{name}: {} after {}", during.max, before.p50);
        }
    });
}

/// Prompts that never end get their share, and the streams theirs.
#[test]
fn a_stream_of_prompts_leaves_time_and_gets_time() {
    covers!("PAC-2", "PAC-3", "PAC-4");
    for_seeds(50, |seed| {
        for (name, costs) in ALL {
            let mut simulation = streaming(costs, None, seed);
            let before = simulation.steps(300).take_gaps();
            let during = simulation.crowded(600).take_gaps();
            assert!(during.p99 <= 2.5 * before.p99, "{name}: p99 {} after {}", during.p99, before.p99);
            let (share, alone) = (during.prefill(), prefill_alone(costs, seed));
            assert!(share >= 0.4 * alone, "{name}: {share} of {alone} prompt tokens a second");
            let without = during.steps.iter().filter(|(_, tokens)| *tokens == 0).count();
            assert!((600 / 20..=600 / 12).contains(&without), "{name}: {without} steps without prompt tokens");
        }
    });
}

/// Streams come one by one while prompts never end: no decode-only step happens by itself.
#[test]
fn a_batch_that_grows_under_prompts_is_measured_as_it_grows() {
    covers!("PAC-4");
    for_seeds(50, |seed| {
        let costs = Costs { row: 10.0, ..ONE_B };
        let mut simulation = Simulation::new(costs, None, seed);
        simulation.waiting = u32::MAX;
        simulation.steps(4);
        for _ in 0..16 {
            simulation.streams.push(100);
            simulation.steps(6).take_gaps();
            let decode = simulation.cost(0);
            let gaps = simulation.steps(20).take_gaps();
            let rows = simulation.streams.len();
            assert!(gaps.max <= 2.5 * decode, "{rows} rows: {} beside {decode}", gaps.max);
            assert!(gaps.p50 >= 1.5 * decode, "{rows} rows: {} beside {decode}", gaps.p50);
        }
    });
}

/// A target that was given is kept where it can be; where decoding alone takes longer, prompts go on slowly.
#[test]
fn a_target_is_kept() {
    covers!("PAC-2", "PAC-3");
    for_seeds(50, |seed| {
        for (name, costs) in ALL.into_iter().filter(|(_, costs)| costs.one_held_up_in == 0) {
            let decode = streaming(costs, None, seed).cost(0);
            for share in [1.3, 1.6, 3.0, 6.0] {
                let target = (share * decode) as u64;
                let mut simulation = streaming(costs, Some(target), seed);
                let gaps = simulation.crowded(300).take_gaps();
                let most = target as f64 * 1.3;
                assert!(gaps.p99 <= most, "{name}: p99 {} for {target}", gaps.p99);
                let least = if share < 1.5 { 0.8 } else { 0.85 } * target as f64;
                let full = gaps.steps.iter().any(|(_, tokens)| *tokens == BUDGET - 16);
                assert!(full || gaps.p50 >= least, "{name}: median {} for {target}", gaps.p50);
            }
            let gaps = streaming(costs, Some(1), seed).crowded(300).take_gaps();
            let least = f64::from(MIN_CHUNK) * (costs.token + costs.prompt_context * f64::from(PROMPT));
            assert!(gaps.p99 <= 1.1 * (decode + least), "{name}: p99 {} beside {decode}", gaps.p99);
            assert!(gaps.steps.iter().skip(20).filter(|(_, tokens)| *tokens == MIN_CHUNK).count() > 240);
        }
    });
}

/// A small model keeps to the least target, not to a few milliseconds.
#[test]
fn small_models_take_large_pieces() {
    covers!("PAC-2");
    for_seeds(50, |seed| {
        let costs = Costs { weights: 2.0, row: 0.1, token: 0.15, context: 0.000_02, prompt_context: 0.000_02, ..ONE_B };
        let mut simulation = streaming(costs, None, seed);
        let gaps = simulation.crowded(400).take_gaps();
        let target = LEAST_TARGET.as_secs_f64() * 1e3;
        assert!(gaps.p99 <= 1.2 * target && gaps.p50 >= 0.85 * target, "{} {}", gaps.p50, gaps.p99);
    });
}

/// Every cost doubles, or is halved, while prompts never end.
#[test]
fn a_change_of_pace_is_followed() {
    covers!("PAC-5");
    for_seeds(50, |seed| {
        for (name, costs) in ALL {
            for factor in [2.0, 0.5] {
                let mut simulation = streaming(costs, None, seed);
                simulation.crowded(200);
                simulation.slowdown = factor;
                simulation.crowded(30).take_gaps();
                let decode = simulation.cost(0);
                let gaps = simulation.crowded(300).take_gaps();
                let most = 2.6 * decode.max(LEAST_TARGET.as_secs_f64() * 500.0);
                assert!(gaps.p99 <= most, "{name} {factor}: p99 {} beside {decode}", gaps.p99);
                let (share, alone) = (gaps.prefill(), prefill_alone(costs, seed) / factor);
                assert!(share >= 0.4 * alone, "{name} {factor}: {share} of {alone} prompt tokens a second");
            }
        }
    });
}

/// Steps that decode 16 rows in 100 ms and take 10 ms for a prompt token, until all is known.
fn settled() -> Pacing {
    let mut pacing = Pacing::new(None, BUDGET);
    for _ in 0..40 {
        let tokens = pacing.max_prefill_tokens(16, 1);
        pacing.record(16, tokens, Duration::from_millis(100 + 10 * u64::from(tokens)));
    }
    for _ in 0..4 {
        pacing.record(16, 0, Duration::from_millis(100));
    }
    pacing
}

/// One step of 10 ms a prompt token, and one that decodes 16 rows in `decode_ms`.
fn measured_once(target: Option<Duration>, decode_ms: u64) -> Pacing {
    let mut pacing = Pacing::new(target, BUDGET);
    pacing.record(0, 100, Duration::from_secs(1));
    pacing.record(16, 0, Duration::from_millis(decode_ms));
    pacing
}

/// Steps until the next one that is to be decode-only.
fn until_asked(pacing: &mut Pacing) -> usize {
    for count in 0..100 {
        let tokens = pacing.max_prefill_tokens(16, 1);
        if tokens == 0 {
            return count;
        }
        pacing.record(16, tokens, Duration::from_millis(100 + 10 * u64::from(tokens)));
    }
    panic!("never");
}

#[test]
fn one_bad_step_moves_the_bound_by_no_more_than_a_half() {
    covers!("PAC-5");
    let mut pacing = settled();
    let before = pacing.max_prefill_tokens(16, 1);
    assert!((8..=16).contains(&before), "{before}");
    let mut pacing = measured_once(Some(Duration::from_millis(600)), 100);
    assert_eq!(pacing.max_prefill_tokens(16, 1), 50);
    pacing.record(16, 50, Duration::from_secs(60));
    assert_eq!(pacing.max_prefill_tokens(16, 1), 28);
    // A decode-only step that was held up counts for nothing.
    pacing.record(16, 0, Duration::from_secs(60));
    assert_eq!(pacing.max_prefill_tokens(16, 1), 28);
}

#[test]
fn decode_only_steps_are_asked_for_when_due() {
    covers!("PAC-4");
    let mut pacing = settled();
    assert_eq!(until_asked(&mut pacing), 16);
    pacing.record(16, 0, Duration::from_millis(110));
    assert_eq!(until_asked(&mut pacing), 16);
    pacing.record(16, 0, Duration::from_millis(150));
    assert_eq!(until_asked(&mut pacing), 4);
    pacing.record(16, 0, Duration::from_millis(100));
    assert_eq!(until_asked(&mut pacing), 16);
    // Asked for and not made, as when the only sequence that decoded has ended: the next step is as long as any.
    assert_ne!(pacing.max_prefill_tokens(16, 1), 0);
    let mut new = Pacing::new(None, BUDGET);
    assert_eq!((new.max_prefill_tokens(0, 1), new.max_prefill_tokens(1, 1)), (64, 0));
    assert_eq!(new.max_prefill_tokens(1, 1), 64);
    new.record(1, 0, Duration::from_millis(100));
    // Another size: as soon as may be, the fourth step after the last that was asked for.
    assert_eq!(until_asked(&mut new), 3);
}
