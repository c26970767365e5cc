//! Log-probabilities of the model's own logits, before any processor.

use super::candidates::{argmax, id_of, select_best};
use super::math::{exp, ln};
use crate::types::{Sampled, TokenId, TokenLogprob};

/// Adds to `token` its log-probability and the `count` most likely tokens, best first.
///
/// log p(i) = (l(i) - max) - ln(sum over ascending j of exp(l(j) - max)), in f64, rounded once to f32.
pub fn report(logits: &[f32], token: TokenId, count: usize, keys: &mut Vec<u64>) -> Sampled {
    let max = argmax(logits).map_or(0.0, |(_, max)| f64::from(max));
    let sum = logits.iter().fold(0.0, |sum, &logit| sum + exp(f64::from(logit) - max));
    let log_sum = ln(sum);
    let logprob = |token: TokenId| ((f64::from(logits[token as usize]) - max) - log_sum) as f32;
    keys.clear();
    if count > 0 {
        select_best(logits, count, keys);
        keys.sort_unstable();
    }
    let top = keys.iter().map(|&key| id_of(key)).map(|token| TokenLogprob { token, logprob: logprob(token) });
    Sampled { token, logprob: Some(logprob(token)), top: top.collect() }
}
