use super::*;
use crate::ops::tests::{TestRng, bits, for_each_ctx};

#[test]
fn act_1_silu_mul_matches_the_definition_and_every_context_gives_the_same_bits() {
    covers!("ACT-1");
    let mut rng = TestRng::new(3);
    for len in [0, 1, 15, 16, 17, 1000, 50_001] {
        let gate = rng.floats(len, 20.0);
        let up = rng.floats(len, 3.0);
        let mut first: Option<Vec<u32>> = None;
        for_each_ctx(|ctx| {
            let mut out = gate.clone();
            silu_mul(ctx, &mut out, &up);
            for ((got, gate), up) in out.iter().zip(&gate).zip(&up) {
                let exact = f64::from(*gate) / (1.0 + (-f64::from(*gate)).exp()) * f64::from(*up);
                // The exponential's 1.2e-7, then a sum, a quotient and a product.
                let bound = (1.2e-7 + 1.5 * f64::from(f32::EPSILON)) * exact.abs();
                assert!((f64::from(*got) - exact).abs() <= bound, "silu({gate}) * {up}: {got} for {exact}");
            }
            let bits = bits(&out);
            assert_eq!(first.get_or_insert_with(|| bits.clone()), &bits);
        });
    }
}

#[test]
fn silu_of_large_numbers() {
    covers!("ACT-1");
    for_each_ctx(|ctx| {
        let mut gate = [-1e30, -1000.0, -0.0, 1000.0, 1e30, f32::NAN];
        silu_mul(ctx, &mut gate, &[1.0; 6]);
        assert_eq!(gate[..5], [0.0, 0.0, 0.0, 1000.0, 1e30]);
        assert!(gate[5].is_nan());
    });
}

#[test]
fn add_adds() {
    covers!("ACT-1");
    let mut rng = TestRng::new(4);
    for len in [0, 5, 40_003] {
        let (x, y) = (rng.floats(len, 1.0), rng.floats(len, 1.0));
        for_each_ctx(|ctx| {
            let mut out = x.clone();
            add(ctx, &mut out, &y);
            assert!(out.iter().zip(x.iter().zip(&y)).all(|(out, (x, y))| *out == *x + *y));
        });
    }
}
