//! `exp` and `ln` with the same bits on every platform.
//!
//! The standard library's call the platform's C library. These use additions, multiplications and divisions of f64
//! alone, in the order written; none is fused.

use std::f64::consts::{LN_2, LOG2_E};

/// Below it, `exp` returns 0: the result would leave the normal numbers.
const EXP_MIN: f64 = -708.0;
/// ln 2 in two parts; the first has 21 trailing zero bits, so that `k * LN_2_HIGH` is exact for |k| <= 1024.
const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
const LN_2_LOW: f64 = f64::from_bits(0x3DEA_39EF_3579_3C76);
/// 1.5 * 2^52: adding it to a small number rounds that to an integer, held in the lowest bits.
const ROUNDER: f64 = 6_755_399_441_055_744.0;
/// 1/n! for n = 13, 12 .. 2.
const EXP_TERMS: [f64; 12] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    1.0 / 2.0,
];

/// e^x for x <= 0, relative error below 2^-51; 0 below -708 (also for -inf). No branch, so that loops vectorise.
pub fn exp(x: f64) -> f64 {
    // x = k * ln 2 + r with |r| <= ln 2 / 2; e^x = 2^k * e^r, the latter by its series (the rest is below 2^-57).
    let shifted = x * LOG2_E + ROUNDER;
    let k = shifted - ROUNDER;
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    let mut sum = EXP_TERMS[0];
    for term in &EXP_TERMS[1..] {
        sum = sum * r + term;
    }
    let mantissa = (sum * r) * r + r + 1.0;
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < EXP_MIN { 0.0 } else { mantissa * power }
}

/// Natural logarithm of a normal number above 0, relative error below 2^-50 (away from 1) and absolute below 2^-52.
pub fn ln(x: f64) -> f64 {
    // x = m * 2^e with m in [sqrt(1/2), sqrt 2]; ln m = 2 artanh(s), s = (m - 1) / (m + 1), by its odd series.
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        m /= 2.0;
        exponent += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for n in (1..=12).rev() {
        sum = (sum + 1.0 / f64::from(2 * n + 1)) * square;
    }
    exponent as f64 * LN_2 + 2.0 * (s + s * sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smp_9_exp_is_close_to_the_standard_one() {
        covers!("SMP-9");
        let bound = 2f64.powi(-51);
        for i in 0..=708_000 {
            let x = -f64::from(i) / 1000.0;
            let error = (exp(x) / x.exp() - 1.0).abs();
            assert!(error <= bound, "exp({x}) is off by {error:e}");
        }
        for i in 0..100_000 {
            let x = -f64::from(i) * 1e-7;
            assert!((exp(x) / x.exp() - 1.0).abs() <= bound, "exp({x})");
        }
    }

    #[test]
    fn smp_9_exp_at_the_ends() {
        covers!("SMP-9");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(-708.5), 0.0);
        assert_eq!(exp(-1e300), 0.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
    }

    #[test]
    fn smp_9_ln_is_close_to_the_standard_one() {
        covers!("SMP-9");
        assert_eq!(ln(1.0), 0.0);
        for i in 1..200_000 {
            let x = f64::from(i) * 0.7;
            let error = (ln(x) - x.ln()).abs() / x.ln().abs().max(1.0);
            assert!(error <= 2f64.powi(-51), "ln({x}) is off by {error:e}");
        }
    }
}
