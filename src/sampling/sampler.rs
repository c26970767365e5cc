//! Choosing one token from a row of logits.

use super::candidates::{self, id_of, key, select_best};
use super::math::exp;
use super::params::SequenceParams;
use super::{logprobs, philox, processors};
use crate::types::{Sampled, TokenId};

/// One row of logits and all that decides what is chosen from it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// `[vocab_size]`, from the model.
    pub logits: &'a [f32],
    pub params: &'a SequenceParams,
    /// The model's end-of-generation tokens.
    pub eog_ids: &'a [TokenId],
    /// All known tokens: the prompt, then what was generated. All within the vocabulary.
    pub tokens: &'a [TokenId],
    pub num_prompt_tokens: usize,
    /// Which of its request's sequences this is.
    pub sequence_index: u32,
}

impl Row<'_> {
    pub fn num_generated(&self) -> usize {
        self.tokens.len() - self.num_prompt_tokens
    }
}

/// Why no token could be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The model returned NaN or +inf somewhere, or -inf everywhere.
    #[error("logits are not finite")]
    NonFiniteLogits,
    /// Biases and suppressed stop tokens left nothing to choose from.
    #[error("every token is masked")]
    AllMasked,
}

/// Memory for sampling one row after another. Allocates nothing once it has seen the vocabulary.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    /// `[vocab_size]` logits after the processors.
    pub(super) logits: Vec<f32>,
    /// `[vocab_size]` occurrences of each token; all 0 between uses.
    pub(super) counts: Vec<u32>,
    /// Keys of [`candidates`].
    keys: Vec<u64>,
    /// Candidates in ascending order of id, and their weights.
    ids: Vec<TokenId>,
    weights: Vec<f64>,
}

/// Chooses the token that follows `row.tokens`. Exactly `specs/05_SAMPLING.md`.
pub fn sample(row: &Row, scratch: &mut Scratch) -> Result<Sampled, SampleError> {
    if !candidates::are_sane(row.logits) {
        return Err(SampleError::NonFiniteLogits);
    }
    let token = if processors::change_nothing(row) {
        choose(row, row.logits, scratch)
    } else {
        processors::apply(row, scratch);
        let logits = std::mem::take(&mut scratch.logits);
        let token = choose(row, &logits, scratch);
        scratch.logits = logits;
        token
    };
    let token = token.ok_or(SampleError::AllMasked)?;
    match row.params.logprobs {
        Some(count) => Ok(logprobs::report(row.logits, token, count as usize, &mut scratch.keys)),
        None => Ok(Sampled { token, logprob: None, top: Vec::new() }),
    }
}

/// Temperature, filters and the choice, on processed logits. `None` when all are masked.
fn choose(row: &Row, logits: &[f32], scratch: &mut Scratch) -> Option<TokenId> {
    let params = &row.params.sampling;
    let (best, max) = candidates::argmax(logits)?;
    if params.temperature == 0.0 || params.top_k == 1 {
        return Some(best);
    }
    let weight = Weight { max: f64::from(max), temperature: f64::from(params.temperature) };
    top_k(logits, params.top_k as usize, scratch);
    scratch.weights.clear();
    scratch.weights.extend(scratch.ids.iter().map(|&id| weight.of(logits[id as usize])));
    if params.top_p < 1.0 {
        top_p(logits, &weight, f64::from(params.top_p), scratch);
    }
    if params.min_p > 0.0 {
        let min_p = f64::from(params.min_p);
        retain(scratch, |_, weight| weight >= min_p);
    }
    let position = u32::try_from(row.tokens.len()).expect("positions are u32");
    Some(draw(&scratch.ids, &scratch.weights, philox::uniform(params.seed, row.sequence_index, position)))
}

/// What a candidate weighs: its probability times a constant. The best one weighs 1.
struct Weight {
    max: f64,
    temperature: f64,
}

impl Weight {
    fn of(&self, logit: f32) -> f64 {
        exp((f64::from(logit) - self.max) / self.temperature)
    }
}

/// Puts the `k` best candidates into `scratch.ids`, ascending; all candidates when `k` is 0.
fn top_k(logits: &[f32], k: usize, scratch: &mut Scratch) {
    scratch.ids.clear();
    if k == 0 || k >= logits.len() {
        let ids = 0..logits.len() as TokenId;
        scratch.ids.extend(ids.filter(|&id| logits[id as usize] > f32::NEG_INFINITY));
        return;
    }
    select_best(logits, k, &mut scratch.keys);
    scratch.ids.extend(scratch.keys.iter().map(|&key| id_of(key)));
    scratch.ids.sort_unstable();
}

/// Keeps the shortest run of best candidates whose weights reach `p` times the sum of all of them.
fn top_p(logits: &[f32], weight: &Weight, p: f64, scratch: &mut Scratch) {
    let enough = p * scratch.weights.iter().fold(0.0, |sum, w| sum + w);
    let num_candidates = scratch.ids.len();
    // Mass gathers in few candidates: look at some of the best, and at more only when they fall short.
    let mut count = 256;
    let worst = loop {
        select_best(logits, count.min(num_candidates), &mut scratch.keys);
        scratch.keys.sort_unstable();
        let mut sum = 0.0;
        let reached = scratch.keys.iter().find(|&&key| {
            sum += weight.of(logits[id_of(key) as usize]);
            sum >= enough
        });
        match reached {
            Some(&worst) => break worst,
            None if count >= num_candidates => return,
            None => count *= 8,
        }
    };
    retain(scratch, |id, _| key(logits[id as usize], id) <= worst);
}

/// Keeps the candidates for which `keep(id, weight)` holds, in order.
fn retain(scratch: &mut Scratch, keep: impl Fn(TokenId, f64) -> bool) {
    let mut kept = 0;
    for i in 0..scratch.ids.len() {
        let (id, weight) = (scratch.ids[i], scratch.weights[i]);
        if keep(id, weight) {
            scratch.ids[kept] = id;
            scratch.weights[kept] = weight;
            kept += 1;
        }
    }
    scratch.ids.truncate(kept);
    scratch.weights.truncate(kept);
}

/// The first candidate, by ascending id, at which the running sum of weights exceeds `u` times the whole sum.
///
/// The best candidate weighs 1 and is never dropped, so the sum is at least 1; `u < 1`, so the last sum exceeds it.
fn draw(ids: &[TokenId], weights: &[f64], u: f64) -> TokenId {
    let target = u * weights.iter().fold(0.0, |sum, w| sum + w);
    let mut sum = 0.0;
    for (&id, weight) in ids.iter().zip(weights) {
        sum += weight;
        if sum > target {
            return id;
        }
    }
    unreachable!("SMP-6: u {u} is below 1 and the weights sum to {sum}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [2.0, 1.0, 3.0, 0.0, 3.0];

    /// The candidates that are left, and their weights.
    fn left(params: &SequenceParams) -> (Vec<TokenId>, Vec<f64>) {
        let row = Row { logits: &LOGITS, params, eog_ids: &[], tokens: &[0], num_prompt_tokens: 1, sequence_index: 0 };
        let mut scratch = Scratch::default();
        let token = sample(&row, &mut scratch).unwrap().token;
        if scratch.ids.is_empty() { (vec![token], vec![1.0]) } else { (scratch.ids, scratch.weights) }
    }

    #[test]
    fn smp_4_weights_are_those_of_the_table() {
        covers!("SMP-4");
        for row in crate::spec::table("SMP-4").rows() {
            let mut params = SequenceParams::default();
            params.sampling.temperature = row.get("temperature");
            let (ids, weights) = left(&params);
            assert_eq!(ids, [0, 1, 2, 3, 4]);
            for (found, expected) in weights.iter().zip(row.list::<f64>("weights")) {
                // SMP-9, and half a unit of the number that the table prints.
                assert!((found / expected - 1.0).abs() <= 2f64.powi(-51) + 2f64.powi(-53), "{found} for {expected}");
            }
        }
    }

    #[test]
    fn smp_5_filters_leave_what_the_table_says() {
        covers!("SMP-5");
        for row in crate::spec::table("SMP-5").rows() {
            let mut params = SequenceParams::default();
            params.sampling.temperature = row.get("temperature");
            params.sampling.top_k = row.get("top_k");
            params.sampling.top_p = row.get("top_p");
            params.sampling.min_p = row.get("min_p");
            assert_eq!(left(&params).0, row.list::<TokenId>("left"), "{params:?}");
        }
    }
}
