use super::*;

const NUMBERS: [f32; LANES] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    3.25e-41,
    1e38,
    -1e38,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    7.0,
    0.1,
    -0.3,
    1e-20,
    2e19,
    -88.0,
];

/// Every method on one pair of inputs, the results one after the other.
struct Everything {
    a: [f32; LANES],
    b: [f32; LANES],
}

impl LaneOp for Everything {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Vec<f32> {
        let (a, b) = (l.load(&self.a), l.load(&self.b));
        let halves: [f16; LANES] = std::array::from_fn(|i| f16::from_f32(self.a[i]));
        let short: [bf16; LANES] = std::array::from_fn(|i| bf16::from_f32(self.a[i]));
        let integers: [i8; LANES] = std::array::from_fn(|i| (i * 17) as u8 as i8);
        let shifted: [f32; LANES] = std::array::from_fn(|i| 12_582_912.0 + (i as f32 * 16.0 - 120.0));
        let mut all = vec![l.sum(a), l.sum(b), l.greatest(a), l.greatest(b)];
        let mut keep = |v: L::V| {
            let mut out = [0.0; LANES];
            l.store(v, &mut out);
            all.extend(out);
        };
        for v in [l.add(a, b), l.sub(a, b), l.mul(a, b), l.div(a, b), l.fma(a, b, a), l.max(a, b), l.splat(self.a[3])] {
            keep(v);
        }
        keep(l.load_f16(&halves));
        keep(l.load_bf16(&short));
        keep(l.load_i8(&integers));
        keep(l.half_power_of_two(l.load(&shifted)));
        keep(l.if_greater(a, b, l.splat(1.0), l.splat(2.0)));
        for count in [0, 1, 7, 8, 9, 15, 16, 99] {
            keep(l.if_before(count, a, b));
        }
        for len in [0, 1, 15, 16] {
            keep(l.load_part(&self.a[..len]));
            let mut part = [9.0; LANES];
            l.store_part(b, &mut part[..len]);
            keep(l.load(&part));
        }
        all
    }
}

#[test]
fn every_path_gives_the_bits_of_plain_rust() {
    for shift in 0..LANES {
        let b: [f32; LANES] = std::array::from_fn(|i| NUMBERS[(i + shift) % LANES]);
        let expected = run(Isa::require(Path::Scalar).unwrap(), Everything { a: NUMBERS, b });
        for isa in Isa::available() {
            let got = run(isa, Everything { a: NUMBERS, b });
            assert_eq!(got.len(), expected.len());
            for (i, (x, y)) in got.iter().zip(&expected).enumerate() {
                assert!(x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()), "{isa:?} result {i}: {x} for {y}");
            }
        }
    }
}

#[test]
fn powers_of_two_are_exact() {
    struct Power(f32);
    impl LaneOp for Power {
        type Output = f32;
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> f32 {
            l.greatest(l.half_power_of_two(l.splat(12_582_912.0 + self.0)))
        }
    }
    for isa in Isa::available() {
        for n in -125..=128 {
            assert_eq!(f64::from(run(isa, Power(n as f32))), 2f64.powi(n - 1), "{isa:?} {n}");
        }
    }
}
