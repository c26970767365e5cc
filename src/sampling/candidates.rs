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

#[cfg(test)]
mod tests {
    use super::*;

    /// A vocabulary with many ties, both zeros and masked tokens.
    fn logits(len: u32) -> Vec<f32> {
        let logit = |i: u32| match i.wrapping_mul(2_654_435_761) >> 20 {
            x if x % 11 == 0 => f32::NEG_INFINITY,
            x if x % 13 == 0 => -0.0,
            x => (x % 97) as f32 - 40.0,
        };
        (0..len).map(logit).collect()
    }

    #[test]
    fn smp_3_select_best_equals_sorting_all() {
        covers!("SMP-3");
        let mut best = Vec::new();
        for len in [1, 2, 63, 64, 65, 1000, 32_000] {
            let logits = logits(len);
            let mut order: Vec<TokenId> = (0..len).filter(|&id| logits[id as usize] > f32::NEG_INFINITY).collect();
            order.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).unwrap().then(a.cmp(&b)));
            for count in [1, 2, 31, 32, 33, 500, 1000, 40_000] {
                select_best(&logits, count, &mut best);
                let worst = best.last().copied();
                best.sort_unstable();
                let ids: Vec<TokenId> = best.iter().map(|&key| id_of(key)).collect();
                assert_eq!(ids, order[..count.min(order.len())], "{count} of {len}");
                assert_eq!(worst, best.last().copied(), "the worst is last");
            }
        }
    }

    #[test]
    fn smp_3_argmax_is_the_first_of_the_order() {
        covers!("SMP-3");
        for len in 1..200 {
            let logits = logits(len);
            let first =
                (0..len).filter(|&i| logits[i as usize] > f32::NEG_INFINITY).map(|i| key(logits[i as usize], i));
            assert_eq!(argmax(&logits).map(|(id, _)| id), first.min().map(id_of));
        }
    }

    #[test]
    fn smp_10_sanity_is_seen_at_every_place() {
        covers!("SMP-10");
        for len in 1..70 {
            for place in 0..len {
                for bad in [f32::NAN, f32::INFINITY] {
                    let mut logits = vec![-1.0; len];
                    assert!(are_sane(&logits));
                    logits[place] = bad;
                    assert!(!are_sane(&logits), "{bad} at {place} of {len}");
                }
            }
            assert!(!are_sane(&vec![f32::NEG_INFINITY; len]));
        }
    }
}
