//! `specs/05_SAMPLING.md` against a slow oracle: sort everything, sum naively, with the standard library's functions.
//!
//! `SMP_SEED=n` runs one seed of the random test, `SMP_SEEDS=n` the first n.

use crate::support::random::{Random, Replay, seeds};
use llorch_cpud::sampling::params::SequenceParams;
use llorch_cpud::sampling::{Row, SampleError, Scratch, sample, uniform};
use llorch_cpud::types::TokenId;

const EOG: TokenId = 1;

fn row<'a>(logits: &'a [f32], params: &'a SequenceParams, tokens: &'a [TokenId], num_prompt_tokens: usize) -> Row<'a> {
    Row { logits, params, eog_ids: &[EOG], tokens, num_prompt_tokens, sequence_index: 0 }
}

fn token(row: &Row) -> Result<TokenId, SampleError> {
    sample(row, &mut Scratch::default()).map(|sampled| sampled.token)
}

fn greedy() -> SequenceParams {
    let mut params = SequenceParams::default();
    params.sampling.temperature = 0.0;
    params
}

/// The token that greedy sampling finds after the processors: reveals the order of processed logits.
fn best(logits: &[f32], params: &SequenceParams, tokens: &[TokenId], num_prompt_tokens: usize) -> TokenId {
    token(&row(logits, params, tokens, num_prompt_tokens)).expect("a token")
}

/// The processed logits, written from the spec's formulas.
fn oracle_logits(row: &Row) -> Vec<f32> {
    let (sampling, stopping) = (&row.params.sampling, &row.params.stopping);
    let generated = &row.tokens[row.num_prompt_tokens..];
    let window = match sampling.repetition_window as usize {
        0 => row.tokens,
        w if w >= row.tokens.len() => row.tokens,
        w => &row.tokens[row.tokens.len() - w..],
    };
    let process = |(id, &logit): (usize, &f32)| {
        let id = id as TokenId;
        let stops = stopping.stop_token_ids.contains(&id) || (!stopping.ignore_eos && row.eog_ids.contains(&id));
        if generated.len() < stopping.min_tokens as usize && stops {
            return f32::NEG_INFINITY;
        }
        let mut logit = sampling.logit_bias.iter().filter(|(b, _)| *b == id).fold(logit, |l, (_, bias)| l + bias);
        if window.contains(&id) {
            logit = if logit > 0.0 { logit / sampling.repetition_penalty } else { logit * sampling.repetition_penalty };
        }
        let count = generated.iter().filter(|g| **g == id).count();
        if count > 0 {
            logit -= sampling.frequency_penalty * count as f32 + sampling.presence_penalty;
        }
        logit
    };
    row.logits.iter().enumerate().map(process).collect()
}

/// What is left to choose from, best first, and the choice.
fn oracle(row: &Row) -> (Vec<TokenId>, TokenId) {
    let p = &row.params.sampling;
    let logits = oracle_logits(row);
    let mut order: Vec<TokenId> =
        (0..logits.len() as TokenId).filter(|&id| logits[id as usize] > f32::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).expect("no NaN").then(a.cmp(&b)));
    if p.temperature == 0.0 {
        return (vec![order[0]], order[0]);
    }
    if p.top_k > 0 {
        order.truncate(p.top_k as usize);
    }
    let max = f64::from(logits[order[0] as usize]);
    let weight = |id: TokenId| ((f64::from(logits[id as usize]) - max) / f64::from(p.temperature)).exp();
    let sum = |ids: &[TokenId]| ids.iter().map(|&id| weight(id)).sum::<f64>();
    if p.top_p < 1.0 {
        let total = sum(&order);
        let enough = (1..order.len()).find(|&n| sum(&order[..n]) >= f64::from(p.top_p) * total);
        order.truncate(enough.unwrap_or(order.len()));
    }
    order.retain(|&id| weight(id) >= f64::from(p.min_p));
    let mut by_id = order.clone();
    by_id.sort_unstable();
    let target = uniform(p.seed, row.sequence_index, row.tokens.len() as u32) * sum(&by_id);
    let chosen = (1..=by_id.len()).find(|&n| sum(&by_id[..n]) > target).expect("the whole sum exceeds the target");
    (order, by_id[chosen - 1])
}

fn random_params(random: &mut Random, vocab: u32) -> SequenceParams {
    let mut params = SequenceParams::default();
    let s = &mut params.sampling;
    s.temperature = random.pick(&[0.0, 0.3, 1.0, 1.7]);
    s.top_k = random.pick(&[0, 0, 1, 2, 7, 40, 100_000]);
    s.top_p = random.pick(&[1.0, 1.0, 0.95, 0.5, 0.01]);
    s.min_p = random.pick(&[0.0, 0.0, 0.02, 0.5, 1.0]);
    s.repetition_penalty = random.pick(&[1.0, 1.25, 0.5]);
    s.repetition_window = random.pick(&[0, 1, 4, 64]);
    s.presence_penalty = random.pick(&[0.0, 1.5, -0.5]);
    s.frequency_penalty = random.pick(&[0.0, 0.75, -2.0]);
    s.seed = random.next();
    for id in 0..random.range(0, 3) {
        s.logit_bias.push((id * 2 % vocab, random.pick(&[-3.0, 5.0, f32::NEG_INFINITY])));
    }
    params.stopping.min_tokens = random.range(0, 6);
    params.stopping.ignore_eos = random.one_in(2);
    params.stopping.stop_token_ids = if random.one_in(2) { vec![random.range(0, vocab - 1)] } else { vec![] };
    params
}

#[test]
fn smp_2_to_6_equal_the_oracle() {
    covers!("SMP-2", "SMP-3", "SMP-4", "SMP-5", "SMP-6");
    let mut scratch = Scratch::default();
    for seed in seeds("SMP_SEED", "SMP_SEEDS", 4000) {
        let _replay = Replay { variable: "SMP_SEED", seed };
        let mut random = Random::new(seed);
        let vocab = random.pick(&[12, 16, 17, 100, 700]);
        let params = random_params(&mut random, vocab);
        // Coarse values for some seeds, so that ties are common.
        let coarse = random.one_in(2);
        let mut logits: Vec<f32> = (0..vocab).map(|_| random.unit() * 12.0 - 6.0).collect();
        if coarse {
            logits.iter_mut().for_each(|logit| *logit = logit.round());
        }
        let tokens: Vec<TokenId> = (0..random.range(1, 9)).map(|_| random.range(0, vocab - 1)).collect();
        let num_prompt_tokens = random.range(1, tokens.len() as u32) as usize;
        let row = row(&logits, &params, &tokens, num_prompt_tokens);
        let sampled = sample(&row, &mut scratch).expect("a token is left").token;
        assert_eq!(sampled, oracle(&row).1, "{params:?}");
    }
}

#[test]
fn smp_1_temperature_0_and_top_k_1_are_argmax_with_ties_to_the_lowest_id() {
    covers!("SMP-1", "DET-1");
    let logits = [0.5, -0.0, 3.0, 1.0, 3.0, 2.0];
    assert_eq!(best(&logits, &greedy(), &[0], 1), 2);
    for seed in 0..50 {
        let mut params = SequenceParams::default();
        (params.sampling.top_k, params.sampling.seed) = (1, seed);
        assert_eq!(best(&logits, &params, &[0], 1), 2);
        (params.sampling.top_k, params.sampling.top_p) = (0, 1e-6);
        assert_eq!(best(&logits, &params, &[0], 1), 2);
        (params.sampling.top_p, params.sampling.min_p) = (1.0, 1.0);
        assert!([2, 4].contains(&best(&logits, &params, &[0], 1)), "min_p 1 keeps all of the best");
    }
    assert_eq!(best(&[-1.0, -0.0, 0.0], &greedy(), &[0], 1), 1, "both zeros are the same");
}

#[test]
fn smp_2_repetition_looks_at_prompt_and_output_within_the_window() {
    covers!("SMP-2");
    let mut params = greedy();
    params.sampling.repetition_penalty = 2.0;
    let logits = [4.0, 0.1, 3.0, 1.9];
    // 0 in the prompt, 2 generated: 4/2 = 2 and 3/2 = 1.5.
    assert_eq!(best(&logits, &params, &[0, 2], 1), 0);
    assert_eq!(best(&[4.0, 0.1, 3.0, 2.1], &params, &[0, 2], 1), 3);
    params.sampling.repetition_window = 1;
    assert_eq!(best(&[4.0, 0.1, 3.0, 2.1], &params, &[0, 2], 1), 0, "the window has 2 alone");
    // Negative logits are multiplied, once however often the token occurs.
    params.sampling.repetition_window = 0;
    assert_eq!(best(&[-1.0, -9.0, -1.9], &params, &[0, 0, 0], 1), 2);
    assert_eq!(best(&[-1.0, -9.0, -2.1], &params, &[0, 0, 0], 1), 0);
}

#[test]
fn smp_2_presence_and_frequency_look_at_the_output_alone() {
    covers!("SMP-2");
    let mut params = greedy();
    (params.sampling.presence_penalty, params.sampling.frequency_penalty) = (0.5, 0.25);
    assert_eq!(best(&[2.0, 0.0, 1.9], &params, &[0, 0, 0], 3), 0, "the prompt does not count");
    // Twice generated: 2 - (0.25 * 2 + 0.5) = 1.
    assert_eq!(best(&[2.0, 0.0, 1.1], &params, &[5, 0, 0], 1), 2);
    assert_eq!(best(&[2.0, 0.0, 0.9], &params, &[5, 0, 0], 1), 0);
}

#[test]
fn smp_2_min_tokens_masks_what_ends_the_sequence() {
    covers!("SMP-2");
    let mut params = greedy();
    (params.stopping.min_tokens, params.stopping.stop_token_ids) = (2, vec![3]);
    let logits = [0.0, 5.0, 1.0, 9.0];
    assert_eq!(best(&logits, &params, &[0, 0], 1), 2, "one generated");
    assert_eq!(best(&logits, &params, &[0, 0, 0], 1), 3, "two generated");
    params.stopping.ignore_eos = true;
    assert_eq!(best(&logits, &params, &[0, 0], 1), EOG, "not suppressed when it does not end");
}

#[test]
fn smp_2_an_overflow_masks_nothing_and_makes_no_nan() {
    covers!("SMP-2");
    let mut params = SequenceParams::default();
    params.sampling.logit_bias = vec![(0, f32::MAX), (1, f32::MIN)];
    params.sampling.repetition_penalty = 1e-30;
    params.sampling.temperature = f32::MIN_POSITIVE;
    assert_eq!(token(&row(&[f32::MAX, f32::MIN, 1.0], &params, &[0, 1, 2], 1)), Ok(0));
}

#[test]
fn smp_10_what_cannot_be_sampled_is_an_error() {
    covers!("SMP-10");
    let mut masked = SequenceParams::default();
    masked.sampling.logit_bias = vec![(0, f32::NEG_INFINITY), (1, f32::NEG_INFINITY)];
    for params in [masked, greedy()] {
        for bad in [f32::NAN, f32::INFINITY] {
            for position in [0, 1, 20, 39] {
                let mut logits = vec![0.5; 40];
                logits[position] = bad;
                assert_eq!(token(&row(&logits, &params, &[0], 1)), Err(SampleError::NonFiniteLogits));
            }
        }
        let nothing = [f32::NEG_INFINITY; 2];
        assert_eq!(token(&row(&nothing, &params, &[0], 1)), Err(SampleError::NonFiniteLogits));
    }
    let mut masked = greedy();
    masked.sampling.logit_bias = vec![(0, f32::NEG_INFINITY), (1, f32::NEG_INFINITY)];
    assert_eq!(token(&row(&[1.0, 2.0], &masked, &[0], 1)), Err(SampleError::AllMasked));
    masked.sampling.temperature = 1.0;
    assert_eq!(token(&row(&[1.0, 2.0], &masked, &[0], 1)), Err(SampleError::AllMasked));
    // A model may mask tokens itself.
    assert_eq!(token(&row(&[f32::NEG_INFINITY, -50.0], &greedy(), &[0], 1)), Ok(1));
}

#[test]
fn smp_6_frequencies_follow_the_probabilities() {
    covers!("SMP-6", "DET-2");
    // Probabilities 1/8, 1/8, 1/4, 1/2.
    let logits = [0.0, 0.0, 2f32.ln(), 4f32.ln()];
    let mut counts = [0u32; 4];
    let mut params = SequenceParams::default();
    let mut scratch = Scratch::default();
    for seed in 0..16_000 {
        params.sampling.seed = seed;
        counts[sample(&row(&logits, &params, &[0], 1), &mut scratch).unwrap().token as usize] += 1;
    }
    // Five standard deviations of the binomial are below 320.
    for (count, expected) in counts.into_iter().zip([2000u32, 2000, 4000, 8000]) {
        assert!(count.abs_diff(expected) < 320, "{counts:?}");
    }
}

/// The stream that a seed names: a change of these tokens changes what every seed means.
#[test]
fn smp_6_the_text_of_a_seed_is_fixed() {
    covers!("SMP-6", "DET-2");
    let logits: Vec<f32> = (0..50u32).map(|i| (i * 37 % 50) as f32 / 10.0).collect();
    for row in crate::spec::table("SMP-6").rows() {
        let mut params = SequenceParams::default();
        params.sampling.seed = row.get("seed");
        params.sampling.temperature = row.get("temperature");
        (params.sampling.top_k, params.sampling.top_p) = (row.get("top_k"), row.get("top_p"));
        params.sampling.min_p = row.get("min_p");
        let expected: Vec<TokenId> = row.list("tokens");
        let mut tokens = vec![0];
        for _ in &expected {
            tokens.push(best(&logits, &params, &tokens, 1));
        }
        assert_eq!(tokens[1..], expected);
    }
}

#[test]
fn smp_12_logprobs_are_the_models_own() {
    covers!("SMP-12");
    let logits: Vec<f32> = (0..300u32).map(|i| (i * 7919 % 300) as f32 / 30.0 - 5.0).collect();
    let mut params = greedy();
    params.logprobs = Some(3);
    params.sampling.logit_bias = vec![(0, 100.0)];
    let sampled = sample(&row(&logits, &params, &[0], 1), &mut Scratch::default()).unwrap();
    let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let expected = |id: TokenId| (f64::from(logits[id as usize]) - sum.ln()) as f32;
    assert_eq!(sampled.token, 0);
    assert!((sampled.logprob.unwrap() - expected(0)).abs() < 1e-6);
    let mut order: Vec<TokenId> = (0..300).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    assert_eq!(sampled.top.iter().map(|t| t.token).collect::<Vec<_>>(), order[..3]);
    assert!(sampled.top.iter().all(|t| (t.logprob - expected(t.token)).abs() < 1e-6));
    params.logprobs = Some(0);
    let sampled = sample(&row(&logits, &params, &[0], 1), &mut Scratch::default()).unwrap();
    assert!(sampled.logprob.is_some() && sampled.top.is_empty());
    params.logprobs = None;
    assert_eq!(sample(&row(&logits, &params, &[0], 1), &mut Scratch::default()).unwrap().logprob, None);
}
