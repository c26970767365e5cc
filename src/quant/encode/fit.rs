//! Arithmetic that the encoders of Q4_K and Q6_K share.

use half::f16;

/// No element below this magnitude can be told from 0: half the smallest f16, 2^-24, with a scale and a code of 1.
pub(super) const NOTHING: f32 = 1.0 / (1 << 25) as f32;

/// The nearest integer, ties to even, of `|x| < 2^22`. A float of the size of this constant has no bits behind the
/// point, so that the addition rounds; unlike `round` it is one instruction on every CPU, for several numbers at once.
#[inline(always)]
pub(super) fn nearest(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    x + NO_FRACTION - NO_FRACTION
}

/// `d` as f16: finite, and 0 for 0 alone.
pub(super) fn scale(d: f32) -> f16 {
    let rounded = f16::from_f32(d.clamp(-65504.0, 65504.0));
    if rounded == f16::ZERO && d != 0.0 {
        return f16::MIN_POSITIVE_SUBNORMAL.copysign(f16::from_f32(d.signum()));
    }
    rounded
}

/// `Σ (x - y)²`.
#[inline(always)]
pub(super) fn squared_distance<const N: usize>(x: &[f32; N], y: impl Fn(usize) -> f32) -> f32 {
    let mut sum = 0.0;
    for i in 0..N {
        let delta = x[i] - y(i);
        sum += delta * delta;
    }
    sum
}
