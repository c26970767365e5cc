//! The hyperbolic tangent: the same bits on every path.

use super::exp::exp;
use crate::kernels::lanes::Lanes;

#[cfg(test)]
mod tests;

/// Up to this magnitude a polynomial is used, above it the exponential, whose error then weighs little.
const SMALL: f32 = 0.625;

/// `(tanh(y) - y) / y^3` as a polynomial of y^2 for |y| <= [`SMALL`], lowest power first: interpolated at the Chebyshev
/// nodes of y^2 in 0 ..= SMALL^2.
const POLYNOMIAL: [f32; 5] = [-0.333_333_28, 0.133_327_7, -0.053_850_908, 0.020_997_18, -0.006_096_714];

/// `tanh(y)` in every lane: relative error at most 2.5e-7, +0 at both zeros, NaN for NaN. EXP-2 of
/// `specs/numerics.md`.
#[inline(always)]
pub fn tanh<L: Lanes>(l: L, y: L::V) -> L::V {
    let (zero, one) = (l.splat(0.0), l.splat(1.0));
    let z = l.mul(y, y);
    let mut q = l.splat(POLYNOMIAL[4]);
    for c in POLYNOMIAL.into_iter().rev().skip(1) {
        q = l.fma(q, z, l.splat(c));
    }
    let small = l.fma(l.mul(y, z), q, y);

    let magnitude = l.max(y, l.sub(zero, y));
    let e = exp(l, l.add(magnitude, magnitude));
    let great = l.sub(one, l.div(l.splat(2.0), l.add(e, one)));
    let great = l.if_greater(zero, y, l.sub(zero, great), great);
    l.if_greater(magnitude, l.splat(SMALL), great, small)
}

/// `cap * tanh(x / cap)` in every lane.
#[inline(always)]
pub fn soft_cap<L: Lanes>(l: L, x: L::V, cap: f32) -> L::V {
    let cap = l.splat(cap);
    l.mul(cap, tanh(l, l.div(x, cap)))
}
