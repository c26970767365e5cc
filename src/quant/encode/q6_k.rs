//! Q6_K by least squares. An element is `d * scale * code` with codes of -32 ..= 31 here, scales of -128 ..= 127 for
//! each 16 elements, and one f16 `d`.
//!
//! ```text
//! 1  for each sub-block    the real scale of the least squared error, of a few that bring its extreme near ±32
//! 2  d                     so that the largest of these scales is -128
//! 3  for each sub-block    of the integer scales beside scale / d the best, each with its nearest codes
//! 4  d again               least squares for these scales and codes; from 3, while the error falls
//! ```
//! The plain choice (extremes at 32, the largest scale 127) goes through 3 as well and is taken where it is better: so
//! the error is never above the plain choice's.

use half::f16;

use super::fit::{NOTHING, nearest, scale, squared_distance};
use crate::quant::q6_k::{BLOCK_LEN, pack};
use crate::quant::rounding::extreme;

/// Elements of a sub-block.
const SUB: usize = 16;
type Sub = [f32; SUB];
type Block = [Sub; BLOCK_LEN / SUB];

/// Times that `d` is fitted again.
const ROUNDS: usize = 3;

/// A block as it will be written, and its squared error.
struct Fit {
    d: f16,
    scales: [i8; BLOCK_LEN / SUB],
    codes: Block,
    error: f32,
}

/// Appends one block of finite numbers.
pub(super) fn encode(x: &[f32; BLOCK_LEN], out: &mut Vec<u8>) {
    let (subs, _) = x.as_chunks::<SUB>();
    let x: &Block = subs.try_into().expect("16 sub-blocks");
    let fit = best_fit(x);
    pack(fit.d.to_le_bytes(), &fit.scales, |i| (fit.codes[i / SUB][i % SUB] + 32.0) as u8, out);
}

fn best_fit(x: &Block) -> Fit {
    let wanted = x.each_ref().map(best_scale);
    let mut best = fit(x, scale(extreme(&wanted) / -128.0), &wanted);
    for _ in 0..ROUNDS {
        let d = best_d(x, &best);
        let scales = best.scales.map(|s| f32::from(s) * best.d.to_f32());
        let next = fit(x, d, &scales);
        if next.error >= best.error {
            break;
        }
        best = next;
    }
    let plain = x.each_ref().map(|x| extreme(x).abs() / 32.0);
    let other = fit(x, scale(extreme(&plain) / 127.0), &plain);
    if other.error < best.error { other } else { best }
}

/// The scale that makes `Σ (x - scale * code)²` least, of those tried; 0 where all elements are as good as 0.
fn best_scale(x: &Sub) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < NOTHING {
        return 0.0;
    }
    let (mut gain, mut best) = (0.0, 0.0);
    // Beyond 32 the extreme is cut, and all others are nearer to their codes.
    for quarter in 0..=18 {
        let end = 30.0 + 0.25 * quarter as f32;
        // The extreme at the lower end of the codes, and at the upper one, which is nearer to 0 by one.
        for inverse in [-end / extreme, (end - 1.0) / extreme] {
            let codes = codes(x, inverse);
            let (mut xq, mut qq) = (0.0, 0.0);
            for i in 0..SUB {
                xq += x[i] * codes[i];
                qq += codes[i] * codes[i];
            }
            // For these codes the best scale is xq / qq, and the error is Σ x² less the following.
            if qq > 0.0 && xq * xq / qq > gain {
                (gain, best) = (xq * xq / qq, xq / qq);
            }
        }
    }
    best
}

/// The nearest codes to `x * inverse`.
#[inline(always)]
fn codes(x: &Sub, inverse: f32) -> Sub {
    x.map(|x| nearest((x * inverse).clamp(-32.0, 31.0)))
}

/// Scales beside those wanted, and codes, for a given `d`.
fn fit(x: &Block, d: f16, wanted: &[f32; BLOCK_LEN / SUB]) -> Fit {
    let mut fit = Fit { d, scales: [0; BLOCK_LEN / SUB], codes: [[0.0; SUB]; BLOCK_LEN / SUB], error: 0.0 };
    let d = d.to_f32();
    for (j, x) in x.iter().enumerate() {
        let mut least = squared_distance(x, |_| 0.0);
        if d != 0.0 {
            let near = nearest((wanted[j] / d).clamp(-128.0, 127.0)) as i32;
            for s in (near - 1).max(-128)..=(near + 1).min(127) {
                if s == 0 {
                    continue;
                }
                let step = d * s as f32;
                let codes = codes(x, 1.0 / step);
                let error = squared_distance(x, |i| step * codes[i]);
                if error < least {
                    (least, fit.scales[j], fit.codes[j]) = (error, s as i8, codes);
                }
            }
        }
        fit.error += least;
    }
    fit
}

/// The `d` of the least squared error for the scales and codes of `fit`.
fn best_d(x: &Block, fit: &Fit) -> f16 {
    let (mut xq, mut qq) = (0.0f64, 0.0f64);
    for (j, x) in x.iter().enumerate() {
        let s = f64::from(fit.scales[j]);
        for (x, code) in x.iter().zip(&fit.codes[j]) {
            let multiple = s * f64::from(*code);
            xq += f64::from(*x) * multiple;
            qq += multiple * multiple;
        }
    }
    if qq > 0.0 { scale((xq / qq) as f32) } else { fit.d }
}
