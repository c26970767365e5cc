use super::*;
use crate::ops::tests::{TestRng, bits, definitions, for_each_ctx};

const ULP: f64 = f32::EPSILON as f64;

/// Calls `op` on a copy of `x` in every context, which must give the same bits, and returns the result.
fn run(x: &[f32], op: impl Fn(&Ctx<'_>, &mut [f32])) -> Vec<f32> {
    let mut first: Option<Vec<f32>> = None;
    for_each_ctx(|ctx| {
        let mut out = x.to_vec();
        op(ctx, &mut out);
        let expected = first.get_or_insert_with(|| out.clone());
        assert_eq!(bits(expected), bits(&out), "{:?} {}", ctx.isa, ctx.pool.threads());
    });
    first.unwrap_or_default()
}

#[test]
fn act_1_silu_matches_the_definition_and_every_context_gives_the_same_bits() {
    covers!("ACT-1");
    let mut rng = TestRng::new(3);
    for len in [0, 1, 15, 16, 17, 1000, 50_001] {
        let (gate, up) = (rng.floats(len, 20.0), rng.floats(len, 3.0));
        let gated = run(&gate, |ctx, gate| gate_mul(ctx, Activation::Silu, gate, &up));
        let applied = run(&gate, |ctx, gate| apply(ctx, Activation::Silu, gate));
        for (i, gate) in gate.iter().enumerate() {
            let exact = f64::from(*gate) / (1.0 + (-f64::from(*gate)).exp());
            for (got, exact) in [(gated[i], exact * f64::from(up[i])), (applied[i], exact)] {
                // The exponential's 1.2e-7, then a sum, a quotient and a product.
                let bound = (1.2e-7 + 1.5 * ULP) * exact.abs();
                assert!((f64::from(got) - exact).abs() <= bound, "silu({gate}) * {}: {got} for {exact}", up[i]);
            }
        }
    }
}

#[test]
fn act_2_gelu_matches_the_definition_and_every_context_gives_the_same_bits() {
    covers!("ACT-2");
    let mut rng = TestRng::new(17);
    for (len, scale) in [(0, 1.0), (1, 1.0), (15, 0.01), (16, 3.0), (1000, 6.0), (50_001, 20.0)] {
        let (gate, up) = (rng.floats(len, scale), rng.floats(len, 3.0));
        let gated = run(&gate, |ctx, gate| gate_mul(ctx, Activation::GeluTanh, gate, &up));
        let applied = run(&gate, |ctx, gate| apply(ctx, Activation::GeluTanh, gate));
        for (i, gate) in gate.iter().enumerate() {
            let x = f64::from(*gate);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            // x/2 (1 + tanh u), where 1 + tanh u would cancel for negative u.
            let exact = x / (1.0 + (-2.0 * u).exp());
            assert!((exact - x / 2.0 * (1.0 + u.tanh())).abs() <= 1e-14 * (1.0 + x.abs()), "the two forms at {x}");
            for (got, exact) in [(gated[i], exact * f64::from(up[i])), (applied[i], exact)] {
                // The exponent's coefficient, square, fused sum and product: terms of one sign, so 2 units of it. Then
                // as above. Where e^-2u is infinite in f32, less than 3.4e-38 of |x| <= 20 is lost.
                let bound = (1.2e-7 + 1.5 * ULP + 2.0 * ULP * 2.0 * u.abs()) * exact.abs() + 1e-36;
                assert!((f64::from(got) - exact).abs() <= bound, "gelu({gate}) * {}: {got} for {exact}", up[i]);
            }
        }
    }
}

#[test]
fn act_1_act_2_exp_2_the_bits_are_those_of_the_definition() {
    covers!("ACT-1", "ACT-2", "EXP-2");
    let mut rng = TestRng::new(34);
    // 0.1 * 2^i reaches from where the exponential is nearly 1 to where it is 0 or infinite.
    let x: Vec<f32> = (-10..=10).flat_map(|i| rng.floats(201, 0.1 * 2f32.powi(i))).collect();
    let y = rng.floats(x.len(), 3.0);
    for (act, definition) in
        [(Activation::Silu, definitions::silu as fn(f32) -> f32), (Activation::GeluTanh, definitions::gelu)]
    {
        let expected: Vec<f32> = x.iter().map(|x| definition(*x)).collect();
        assert_eq!(bits(&run(&x, |ctx, x| apply(ctx, act, x))), bits(&expected), "{act:?}");
        let expected: Vec<f32> = expected.iter().zip(&y).map(|(x, y)| x * y).collect();
        assert_eq!(bits(&run(&x, |ctx, x| gate_mul(ctx, act, x, &y))), bits(&expected), "{act:?}");
    }
    let expected: Vec<f32> = x.iter().map(|x| definitions::soft_cap(*x, 30.0)).collect();
    assert_eq!(bits(&run(&x, |ctx, x| soft_cap(ctx, x, 30.0))), bits(&expected));
}

#[test]
fn activations_of_large_numbers() {
    covers!("ACT-1", "ACT-2");
    for act in [Activation::Silu, Activation::GeluTanh] {
        for_each_ctx(|ctx| {
            let mut gate = [-1e30, -1000.0, -0.0, 1000.0, 1e30, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
            gate_mul(ctx, act, &mut gate, &[1.0; 8]);
            assert_eq!(gate[..5], [0.0, 0.0, 0.0, 1000.0, 1e30]);
            assert!(gate[5].is_nan());
            assert_eq!(gate[6], f32::INFINITY);
            assert!(gate[7].is_nan());
        });
    }
}

#[test]
fn exp_2_soft_cap_matches_the_definition_and_every_context_gives_the_same_bits() {
    covers!("EXP-2");
    let mut rng = TestRng::new(18);
    for (len, scale, cap) in [(0, 1.0, 1.0), (1, 1.0, 30.0), (31, 100.0, 50.0), (1000, 0.1, 50.0), (40_001, 90.0, 30.0)]
    {
        let x = rng.floats(len, scale);
        for (x, got) in x.iter().zip(run(&x, |ctx, x| soft_cap(ctx, x, cap))) {
            let exact = f64::from(cap) * (f64::from(*x) / f64::from(cap)).tanh();
            // That of the tangent, and of the quotient and the product.
            let bound = (2.5e-7 + ULP) * exact.abs();
            assert!((f64::from(got) - exact).abs() <= bound, "{x} capped at {cap}: {got} for {exact}");
        }
    }
}

#[test]
fn scale_multiplies() {
    covers!("ACT-1");
    let mut rng = TestRng::new(19);
    for len in [0, 7, 33, 40_003] {
        let x = rng.floats(len, 5.0);
        let out = run(&x, |ctx, x| scale(ctx, x, 0.3));
        assert!(out.iter().zip(&x).all(|(out, x)| *out == *x * 0.3));
    }
}

#[test]
fn add_bias_adds_to_every_row() {
    covers!("ACT-1");
    let mut rng = TestRng::new(20);
    for (rows, width) in [(0, 3), (1, 1), (5, 33), (70, 601)] {
        let (x, bias) = (rng.floats(rows * width, 1.0), rng.floats(width, 1.0));
        let out = run(&x, |ctx, x| add_bias(ctx, x, &bias));
        assert!((0..out.len()).all(|i| out[i] == x[i] + bias[i % width]), "{rows} rows of {width}");
    }
}

#[test]
fn add_adds() {
    covers!("ACT-1");
    let mut rng = TestRng::new(4);
    for len in [0, 5, 40_003] {
        let (x, y) = (rng.floats(len, 1.0), rng.floats(len, 1.0));
        let out = run(&x, |ctx, x| add(ctx, x, &y));
        assert!(out.iter().zip(x.iter().zip(&y)).all(|(out, (x, y))| *out == *x + *y));
    }
}
