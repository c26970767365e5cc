//! The exponential function: one polynomial, the same bits on every path.

use crate::kernels::lanes::Lanes;

#[cfg(test)]
mod tests;

/// Below this, `exp` is 0: its value would be less than 1.8e-38, and no later step has to handle subnormal numbers.
pub const EXP_ZERO_BELOW: f32 = -86.9;

/// Above this, `exp` is infinite in f32.
const EXP_INFINITE_ABOVE: f32 = 89.0;

/// Adding it rounds to an integer (ties to even) that sits in the low mantissa bits: 1.5 * 2^23.
const ROUND: f32 = 12_582_912.0;

/// ln 2 = HI + LO; HI has 9 significant bits, so that its product with an 8-bit integer is exact.
const LN_2_HI: f32 = 0.693_359_4;
const LN_2_LO: f32 = -0.000_212_194_44;

/// `(e^r - 1 - r) / r^2` for |r| <= ln 2 / 2, lowest power first: interpolated at the Chebyshev nodes of that interval
/// and a little more, as `r` is rounded.
const POLYNOMIAL: [f32; 5] = [0.5, 0.166_665_76, 0.041_666_556, 0.008_363_203, 0.001_392_621_3];

/// `e^x` in every lane: relative error at most 1.2e-7 where the result is not 0; 0 below [`EXP_ZERO_BELOW`], infinity
/// from about 88.73, exactly 1 at 0, NaN for NaN.
#[inline(always)]
pub fn exp<L: Lanes>(l: L, x: L::V) -> L::V {
    let zero_below = l.splat(EXP_ZERO_BELOW);
    let infinite_above = l.splat(EXP_INFINITE_ABOVE);
    // In this order both leave a NaN in place.
    let clamped = l.if_greater(x, infinite_above, infinite_above, x);
    let clamped = l.max(zero_below, clamped);

    // x = n ln 2 + r
    let shifted = l.fma(clamped, l.splat(std::f32::consts::LOG2_E), l.splat(ROUND));
    let n = l.sub(shifted, l.splat(ROUND));
    let r = l.fma(n, l.splat(-LN_2_HI), clamped);
    let r = l.fma(n, l.splat(-LN_2_LO), r);

    let mut q = l.splat(POLYNOMIAL[4]);
    for c in POLYNOMIAL.into_iter().rev().skip(1) {
        q = l.fma(q, r, l.splat(c));
    }
    let e_r = l.add(l.fma(l.mul(r, r), q, r), l.splat(1.0));

    // 2^n in two factors, as 2^128 is not a finite f32.
    let value = l.mul(l.add(e_r, e_r), l.half_power_of_two(shifted));
    l.if_greater(zero_below, x, l.splat(0.0), value)
}
