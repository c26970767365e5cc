use super::*;
use crate::ops::tests::{TestRng, bits, for_each_ctx};

/// The rotation as a complex product in f64, element by element.
fn reference(x: &[f32], shape: (usize, usize, usize), positions: &[u32], base: f64, factors: &[f64]) -> Vec<f64> {
    let (heads, head_dim, rot) = shape;
    let mut out: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    for (t, position) in positions.iter().enumerate() {
        for head in 0..heads {
            for pair in 0..rot / 2 {
                let theta = f64::from(*position) / (base.powf(2.0 * pair as f64 / rot as f64) * factors[pair]);
                let at = (t * heads + head) * head_dim + 2 * pair;
                let (a, b) = (f64::from(x[at]), f64::from(x[at + 1]));
                out[at] = a * theta.cos() - b * theta.sin();
                out[at + 1] = a * theta.sin() + b * theta.cos();
            }
        }
    }
    out
}

#[test]
fn rope_1_rotation_matches_the_formula_and_every_context_gives_the_same_bits() {
    covers!("ROPE-1");
    let mut rng = TestRng::new(5);
    let shapes = [(1, 2, 2), (3, 8, 8), (2, 80, 32), (4, 64, 64), (32, 64, 64)];
    for (heads, head_dim, rot) in shapes {
        let positions: Vec<u32> = (0..17).chain([131_071, 5]).collect();
        let x = rng.floats(positions.len() * heads * head_dim, 2.0);
        let factors: Vec<f32> = (0..rot / 2).map(|_| 1.0 + rng.float(0.5).abs()).collect();
        let scalings = [RopeScaling::None, RopeScaling::Linear(4.0), RopeScaling::FreqFactors(factors.clone())];
        let all_factors = [vec![1.0; rot / 2], vec![4.0; rot / 2], factors.iter().map(|&f| f.into()).collect()];
        for (scaling, factors) in scalings.iter().zip(&all_factors) {
            let table = RopeTable::new(rot, 10_000.0, scaling).unwrap();
            let mut cos_sin = vec![9.0; 3];
            table.fill(&positions, &mut cos_sin);
            let expected = reference(&x, (heads, head_dim, rot), &positions, 10_000.0, factors);
            let mut first: Option<Vec<u32>> = None;
            for_each_ctx(|ctx| {
                let mut out = x.clone();
                rope_adjacent(ctx, &mut out, heads, head_dim, rot, &cos_sin);
                for (i, (got, want)) in out.iter().zip(&expected).enumerate() {
                    // |a|, |b| <= 2: two products of rounded factors and a sum, 3 roundings of at most 4.
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= 4.0 * 1.5 * f64::from(f32::EPSILON), "element {i}: {got} for {want}");
                }
                let bits = bits(&out);
                assert_eq!(first.get_or_insert_with(|| bits.clone()), &bits);
            });
        }
    }
}

#[test]
fn bad_parameters_are_named() {
    let table = |rot, base, scaling: RopeScaling| RopeTable::new(rot, base, &scaling).unwrap_err().to_string();
    assert_eq!(table(7, 1e4, RopeScaling::None), "rope dimension count 7: must be even and not 0");
    assert_eq!(table(0, 1e4, RopeScaling::None), "rope dimension count 0: must be even and not 0");
    assert_eq!(table(8, 0.0, RopeScaling::None), "rope frequency base 0: must be finite and greater than 0");
    assert_eq!(table(8, f32::NAN, RopeScaling::None), "rope frequency base NaN: must be finite and greater than 0");
    assert_eq!(table(8, 1e4, RopeScaling::Linear(0.0)), "rope scaling factor 0: must be finite and greater than 0");
    let three = RopeScaling::FreqFactors(vec![1.0; 3]);
    assert_eq!(table(8, 1e4, three), "rope frequency factors: 3 of them, 4 expected");
}
