//! `specs/numerics.md` word for word: what is stored, what attention gives, in f32 and in f64.

use super::{Heads, Sequence};
use crate::kv_cache::KvType;
use crate::ops::attention::AttentionSpec;
use crate::ops::attention::tile::TILE;
use crate::ops::tests::definitions::{exp, soft_cap, sum_of_lanes};
use half::{bf16, f16};

/// KV-1 and KV-2: a head's K or V as attention reads it.
pub(crate) fn as_stored(head: &[f32], kv_type: KvType) -> Vec<f32> {
    match kv_type {
        KvType::F16 => head.iter().map(|x| f16::from_f32(*x).to_f32()).collect(),
        KvType::BF16 => head.iter().map(|x| bf16::from_f32(*x).to_f32()).collect(),
        KvType::F32 => head.to_vec(),
        KvType::Q8_0 => head.chunks(32).flat_map(q8_0).collect(),
    }
}

/// KV-2.
fn q8_0(x: &[f32]) -> Vec<f32> {
    let a = x.iter().fold(0f32, |a, x| if x.is_nan() { f32::NAN } else { a.max(x.abs()) });
    let finite = x.iter().all(|x| x.is_finite());
    let d = f16::from_f32(a / 127.0);
    if !finite || d.is_infinite() {
        return vec![f32::NAN; x.len()];
    }
    if d == f16::ZERO {
        return vec![0.0; x.len()];
    }
    let r = 1.0 / (a / 127.0);
    // There is no integer -0.
    x.iter().map(|x| d.to_f32() * ((x * r).round_ties_even() + 0.0)).collect()
}

/// Softmax attention of one sequence by its definition, in f64, over K and V as stored; and, for each element, a bound
/// of the error of a computation in f32.
pub(super) fn reference(sequence: &Sequence, heads: Heads, kv_type: KvType, spec: &AttentionSpec) -> Vec<(f64, f64)> {
    let Heads { kv_heads, group, head_dim } = heads;
    let stored = |x: &[f32]| -> Vec<f64> {
        x.chunks(head_dim).flat_map(|head| as_stored(head, kv_type)).map(f64::from).collect()
    };
    let (k, v) = (stored(&sequence.k), stored(&sequence.v));
    let scale = f64::from(spec.scale);
    let unit = f64::from(f32::EPSILON) / 2.0;
    let mut all = Vec::new();
    for (query, q) in sequence.q.chunks_exact(head_dim).enumerate() {
        let (row, head) = (query / (kv_heads * group), query % (kv_heads * group));
        let at = |t: usize| (t * kv_heads + head / group) * head_dim;
        let (mut scores, mut magnitude) = (Vec::new(), 0f64);
        let seen = (row + 1).saturating_sub(spec.window.map_or(usize::MAX, |window| window as usize))..row + 1;
        for t in seen.clone() {
            let terms = q.iter().zip(&k[at(t)..]).map(|(q, k)| scale * f64::from(*q) * k);
            let score = terms.clone().sum::<f64>();
            scores.push(spec.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()));
            magnitude = magnitude.max(terms.map(f64::abs).sum());
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        // A score is off by a rounding for each term, the scaling and the subtraction of the maximum; so is the
        // maximum. A cap shrinks that error and adds its own. Then the exponential, and two factors for each tile and
        // chunk on the way to the output.
        let of_cap = spec.soft_cap.map_or(0.0, |_| 2.5e-7 + 2.0 * unit);
        let of_score = ((head_dim as f64 + 3.0) * unit + of_cap) * magnitude;
        let tiles = (row / TILE + 2) as f64;
        let of_weight = 2.0 * of_score + tiles * 2.0 * (1.2e-7 + 2.0 * unit) + (row + 9) as f64 * unit;
        for d in 0..head_dim {
            let terms = weights.iter().zip(seen.clone()).map(|(w, t)| w * v[at(t) + d] / sum);
            let magnitude: f64 = terms.clone().map(f64::abs).sum();
            all.push((terms.sum(), 2.0 * of_weight * magnitude));
        }
    }
    all
}

/// The scores of ATT-1 and ATT-5 of a query at position P, `k` being those of its KV head at 0 ..= P: -inf where it
/// does not see the position.
pub(in crate::ops::attention) fn scores(q: &[f32], k: &[&[f32]], spec: &AttentionSpec) -> Vec<f32> {
    let score = |k: &[f32]| q.iter().zip(k).fold(0f32, |acc, (q, k)| q.mul_add(*k, acc)) * spec.scale;
    let capped = |z: f32| spec.soft_cap.map_or(z, |cap| soft_cap(z, cap));
    let seen = |t: usize| spec.window.is_none_or(|window| k.len() - t <= window as usize);
    k.iter().enumerate().map(|(t, k)| if seen(t) { capped(score(k)) } else { f32::NEG_INFINITY }).collect()
}

/// `x - n`, where n may be the greatest of no score above -inf.
fn less(x: f32, n: f32) -> f32 {
    if n == f32::NEG_INFINITY { x } else { x - n }
}

/// ATT-1 and ATT-5, word for word, for one query `q` at position `P`; `k` and `v` are those of its KV head at 0 ..= P.
pub(super) fn att_1(q: &[f32], k: &[&[f32]], v: &[&[f32]], spec: &AttentionSpec) -> Vec<f32> {
    let (mut total_m, mut total_l, mut total_o) = (f32::NEG_INFINITY, 0f32, vec![0f32; q.len()]);
    let z = scores(q, k, spec);
    let first = k.len().saturating_sub(spec.window.map_or(usize::MAX, |window| window as usize));
    let terms: Vec<_> = (first..k.len()).map(|t| (t, z[t], v[t])).collect();
    for chunk in terms.chunk_by(|(a, ..), (b, ..)| a / 256 == b / 256) {
        let (mut m, mut l, mut o) = (f32::NEG_INFINITY, [0f32; 16], vec![0f32; q.len()]);
        for tile in chunk.chunk_by(|(a, ..), (b, ..)| a / 32 == b / 32) {
            let n = tile.iter().fold(m, |n, (_, z, _)| n.max(*z));
            let mut p = [0f32; 32];
            tile.iter().for_each(|(t, z, _)| p[t % 32] = exp(less(*z, n)));
            if n > m {
                let c = exp(less(m, n));
                o.iter_mut().chain(&mut l).for_each(|x| *x *= c);
            }
            (0..16).for_each(|i| l[i] += p[i] + p[i + 16]);
            for (t, _, v) in tile {
                o.iter_mut().zip(*v).for_each(|(o, v)| *o = p[t % 32].mul_add(*v, *o));
            }
            m = n;
        }
        let n = total_m.max(m);
        let (a, b) = (exp(less(total_m, n)), exp(less(m, n)));
        total_o.iter_mut().zip(&o).for_each(|(total, o)| *total = total.mul_add(a, o * b));
        total_l = total_l.mul_add(a, sum_of_lanes(l) * b);
        total_m = n;
    }
    total_o.iter().map(|o| o * (1.0 / total_l)).collect()
}
