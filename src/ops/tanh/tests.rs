use super::*;
use crate::kernels::Isa;
use crate::kernels::lanes::{LANES, LaneOp, run};
use crate::ops::tests::definitions;

struct Tanh([f32; LANES]);

impl LaneOp for Tanh {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        l.store(tanh(l, l.load(&self.0)), &mut out);
        out
    }
}

/// Every `stride`-th f32 from `from` to `to`, both of the same sign, by bits.
fn sweep(isa: Isa, from: f32, to: f32, stride: usize) -> f64 {
    let mut worst = 0f64;
    let bits: Vec<u32> = (from.to_bits()..=to.to_bits()).step_by(stride).collect();
    for chunk in bits.chunks(LANES) {
        let y = std::array::from_fn(|i| f32::from_bits(chunk[i.min(chunk.len() - 1)]));
        for (y, got) in y.into_iter().zip(run(isa, Tanh(y))) {
            let exact = f64::from(y).tanh();
            worst = worst.max(((f64::from(got) - exact) / exact).abs());
        }
    }
    worst
}

#[test]
fn exp_2_the_relative_error_is_within_the_stated_bound() {
    covers!("EXP-2");
    let isa = Isa::detect();
    // Normal numbers from the smallest; below 2^-126 a unit is no longer relative.
    for (from, to) in [(f32::MIN_POSITIVE, 100.0), (-f32::MIN_POSITIVE, -100.0)] {
        let worst = sweep(isa, from, to, 101);
        assert!(worst <= 2.5e-7, "relative error {worst:e}");
    }
    // On both sides of where the two formulas meet: every number.
    let worst = sweep(isa, 0.6, 0.65, 1);
    assert!(worst <= 2.5e-7, "relative error {worst:e}");
}

#[test]
fn exp_2_special_values() {
    covers!("EXP-2");
    for isa in Isa::available() {
        let of = |y: f32| run(isa, Tanh([y; LANES]))[5];
        for y in [10.0, 44.0, 45.0, 1e30, f32::INFINITY] {
            assert_eq!((of(y), of(-y)), (1.0, -1.0), "{isa:?} tanh({y})");
        }
        assert_eq!((of(0.0).to_bits(), of(-0.0).to_bits()), (0, 0), "{isa:?}");
        assert!(of(f32::NAN).is_nan());
    }
}

#[test]
fn exp_2_every_path_gives_the_bits_of_the_definition() {
    covers!("EXP-2");
    assert_eq!(POLYNOMIAL, *definitions::TANH);
    for bits in (0..=u32::MAX).step_by(65_537 * LANES) {
        let x = std::array::from_fn(|i| f32::from_bits(bits.wrapping_add(65_537 * i as u32)));
        let expected = x.map(definitions::tanh);
        for isa in Isa::available() {
            for (i, (a, b)) in run(isa, Tanh(x)).into_iter().zip(expected).enumerate() {
                let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
                assert!(same, "{isa:?} tanh({}): {a} for {b}", x[i]);
            }
        }
    }
}
