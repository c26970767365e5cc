//! Root-mean-square normalisation.

use super::Ctx;
use super::disjoint::rows_per_unit;
use crate::kernels::Isa;
use crate::kernels::lanes::{self, LANES, LaneOp, Lanes};

#[cfg(test)]
mod tests;

/// `out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight` for each row `t`: `x` and `out` are `[T, D]`,
/// `weight` is `[D]`.
///
/// # Panics
/// If `weight` is empty, or the lengths do not fit.
pub fn rms_norm(ctx: &Ctx<'_>, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(width > 0 && x.len().is_multiple_of(width), "x of {} elements, rows of {width}", x.len());
    assert_eq!(x.len(), out.len(), "x and out differ in length");
    ctx.pool.run_chunks(out, rows_per_unit(x.len(), width) * width, |unit, out| {
        let first = unit * rows_per_unit(x.len(), width) * width;
        norm_rows(ctx.isa, &x[first..first + out.len()], weight, eps, out);
    });
}

/// [`rms_norm`] for the calling thread.
pub(super) fn norm_rows(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    lanes::run(isa, RmsNorm { x, weight, eps, out });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl LaneOp for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let width = self.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let mean = sum_of_squares(l, x) / width as f32;
            let factor = 1.0 / (mean + self.eps).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = (x * factor) * weight;
            }
        }
    }
}

/// Element `i` goes to lane `i % 16`, in order; then the lanes are summed as [`Lanes::sum`] says.
#[inline(always)]
fn sum_of_squares<L: Lanes>(l: L, x: &[f32]) -> f32 {
    let mut sum = l.splat(0.0);
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        let x = l.load(x);
        sum = l.fma(x, x, sum);
    }
    // The zeros behind a short rest leave their lanes as they are: a sum of squares is never -0.
    let rest = l.load_part(rest);
    l.sum(l.fma(rest, rest, sum))
}
