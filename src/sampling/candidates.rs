//! The order of candidates, and the best of them without sorting all.

use crate::types::TokenId;

/// A candidate as one integer: smaller is better. Higher logit first, then lower id (SMP-3).
///
/// Both zeros are the same logit. Not for NaN.
pub fn key(logit: f32, id: TokenId) -> u64 {
    let bits = (logit + 0.0).to_bits();
    // Monotone in the float: flip all bits of negative numbers and the sign bit of the others.
    let ascending = if bits >> 31 == 1 { !bits } else { bits | (1 << 31) };
    (u64::from(!ascending) << 32) | u64::from(id)
}

pub fn id_of(key: u64) -> TokenId {
    key as u32
}

/// Leaves in `best` the keys of the `count` best candidates of `logits`, in no order, the worst of them last.
/// Fewer when there are fewer: a logit of -inf is no candidate. `count` is at least 1.
pub fn select_best(logits: &[f32], count: usize, best: &mut Vec<u64>) {
    best.clear();
    let count = count.min(logits.len());
    // Collect what beats the worst of the best so far, and cut back when twice too many came together.
    let capacity = (2 * count).max(64);
    let mut floor = f32::NEG_INFINITY;
    let mut worst = u64::MAX;
    for (id, &logit) in logits.iter().enumerate() {
        if logit < floor || logit == f32::NEG_INFINITY {
            continue;
        }
        let key = key(logit, id as TokenId);
        if key > worst {
            continue;
        }
        best.push(key);
        if best.len() == capacity {
            cut(best, count);
            worst = best[count - 1];
            floor = logits[id_of(worst) as usize];
        }
    }
    cut(best, count);
}

fn cut(best: &mut Vec<u64>, count: usize) {
    if best.is_empty() {
        return;
    }
    let count = count.min(best.len());
    best.select_nth_unstable(count - 1);
    best.truncate(count);
}

/// The largest logit and its lowest id; both zeros are the same. `None` when all are -inf. Not for NaN.
pub fn argmax(logits: &[f32]) -> Option<(TokenId, f32)> {
    let max = max(logits);
    if max == f32::NEG_INFINITY {
        return None;
    }
    let id = logits.iter().position(|&logit| logit == max)?;
    Some((id as TokenId, max))
}

/// The largest of `values`, NaN passed over.
fn max(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], chunk[lane]);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

/// Whether the model's logits can be sampled from: no NaN, no +inf, not all -inf.
pub fn are_sane(logits: &[f32]) -> bool {
    let all_below_infinity = logits.iter().fold(true, |sane, &logit| sane & (logit < f32::INFINITY));
    all_below_infinity && max(logits) > f32::NEG_INFINITY
}
