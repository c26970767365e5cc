use super::*;
use crate::kernels::Isa;
use crate::kernels::lanes::{LANES, LaneOp, run};
use crate::ops::tests::definitions;

struct Exp([f32; LANES]);

impl LaneOp for Exp {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        l.store(exp(l, l.load(&self.0)), &mut out);
        out
    }
}

fn exp_of(isa: Isa, x: f32) -> f32 {
    run(isa, Exp([x; LANES]))[5]
}

/// Every `stride`-th f32 from `from` to `to`, both of the same sign, by bits.
fn sweep(isa: Isa, from: f32, to: f32, stride: usize) -> f64 {
    let mut worst = 0f64;
    let bits: Vec<u32> = (from.to_bits()..=to.to_bits()).step_by(stride).collect();
    for chunk in bits.chunks(LANES) {
        let x = std::array::from_fn(|i| f32::from_bits(chunk[i.min(chunk.len() - 1)]));
        for (x, y) in x.into_iter().zip(run(isa, Exp(x))) {
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(y) - exact) / exact).abs());
        }
    }
    worst
}

#[test]
fn exp_1_the_relative_error_is_within_the_stated_bound() {
    covers!("EXP-1");
    let isa = Isa::detect();
    let worst = sweep(isa, -0.0, EXP_ZERO_BELOW, 101).max(sweep(isa, 0.0, 88.72, 101));
    assert!(worst <= 1.2e-7, "relative error {worst:e}");
    // Near the ends of the reduced interval, where the polynomial is worst: every number.
    let worst = sweep(isa, 0.346, 0.3475, 1).max(sweep(isa, -0.346, -0.3475, 1));
    assert!(worst <= 1.2e-7, "relative error {worst:e}");
}

#[test]
fn exp_1_special_values() {
    covers!("EXP-1");
    for isa in Isa::available() {
        for (x, y) in [
            (0.0, 1.0),
            (-0.0, 1.0),
            (f32::NEG_INFINITY, 0.0),
            (-1e30, 0.0),
            (-86.91, 0.0),
            (f32::INFINITY, f32::INFINITY),
            (88.73, f32::INFINITY),
            (3e38, f32::INFINITY),
        ] {
            assert_eq!(exp_of(isa, x), y, "{isa:?} exp({x})");
        }
        assert!(exp_of(isa, f32::NAN).is_nan());
        assert!(exp_of(isa, 88.72).is_finite());
        assert!(exp_of(isa, EXP_ZERO_BELOW).is_normal());
    }
}

#[test]
fn exp_1_every_path_gives_the_bits_of_the_definition() {
    covers!("EXP-1");
    assert_eq!(POLYNOMIAL, *definitions::EXP);
    for bits in (0..=u32::MAX).step_by(65_537 * LANES) {
        let x = std::array::from_fn(|i| f32::from_bits(bits.wrapping_add(65_537 * i as u32)));
        let expected = x.map(definitions::exp);
        for isa in Isa::available() {
            for (i, (a, b)) in run(isa, Exp(x)).into_iter().zip(expected).enumerate() {
                let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
                assert!(same, "{isa:?} exp({}): {a} for {b}", x[i]);
            }
        }
    }
}
