use super::*;
use crate::ops::tests::{TestRng, bits, for_each_ctx};

/// The definition, in f64.
fn reference(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let rows = x.chunks_exact(weight.len()).flat_map(|x| {
        let squares: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
        let factor = (squares / x.len() as f64 + f64::from(eps)).sqrt().recip();
        x.iter().zip(weight).map(move |(&x, &w)| f64::from(x) * factor * f64::from(w))
    });
    rows.collect()
}

#[test]
fn norm_1_rows_match_the_definition_and_every_context_gives_the_same_bits() {
    covers!("NORM-1");
    let mut rng = TestRng::new(1);
    for (rows, width) in [(0, 3), (1, 1), (3, 7), (2, 16), (5, 33), (3, 2048), (40, 1000)] {
        let x = rng.floats(rows * width, 3.0);
        let weight = rng.floats(width, 2.0);
        let expected = reference(&x, &weight, 1e-5);
        let mut first: Option<Vec<u32>> = None;
        for_each_ctx(|ctx| {
            let mut out = vec![f32::NAN; x.len()];
            rms_norm(ctx, &x, &weight, 1e-5, &mut out);
            // Each lane's chain of width / 16 fused sums, 4 levels of the tree and the division, halved by the square
            // root, then the root, the reciprocal and two products.
            let roundings = ((width.div_ceil(LANES) + 6) as f64) / 2.0 + 4.0;
            let bound = roundings * f64::from(f32::EPSILON) / 2.0;
            for (i, (got, want)) in out.iter().zip(&expected).enumerate() {
                let error = (f64::from(*got) - want).abs();
                assert!(error <= bound * want.abs(), "element {i} of width {width}: {got} for {want}");
            }
            let bits = bits(&out);
            assert_eq!(first.get_or_insert_with(|| bits.clone()), &bits, "{:?} {}", ctx.isa, ctx.pool.threads());
        });
    }
}

#[test]
fn norm_1_a_row_does_not_depend_on_the_others() {
    covers!("NORM-1");
    let mut rng = TestRng::new(2);
    let (rows, width) = (30, 1001);
    let x = rng.floats(rows * width, 1.0);
    let weight = rng.floats(width, 1.0);
    for_each_ctx(|ctx| {
        let (mut all, mut one) = (vec![0.0; x.len()], vec![0.0; width]);
        rms_norm(ctx, &x, &weight, 1e-6, &mut all);
        for (x, all) in x.chunks_exact(width).zip(all.chunks_exact(width)) {
            rms_norm(ctx, x, &weight, 1e-6, &mut one);
            assert_eq!(bits(&one), bits(all));
        }
    });
}
