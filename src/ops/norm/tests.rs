use super::*;
use crate::ops::tests::{TestRng, bits, definitions, for_each_ctx};

const SHAPES: [(usize, usize); 7] = [(0, 3), (1, 1), (3, 7), (2, 16), (5, 33), (3, 2048), (40, 1000)];

fn rms<'a>(weight: &'a [f32]) -> Norm<'a> {
    Norm { kind: NormKind::Rms, weight, bias: None, eps: 1e-5 }
}

/// Runs the norm on every path and in both ways, which must give the same bits, and returns the result.
fn run(x: &[f32], norm: &Norm<'_>) -> Vec<f32> {
    let mut first: Option<Vec<f32>> = None;
    for_each_ctx(|ctx| {
        let (mut out, mut in_place) = (vec![f32::NAN; x.len()], x.to_vec());
        normalize(ctx, x, norm, &mut out);
        normalize_in_place(ctx, &mut in_place, norm);
        assert_eq!(bits(&in_place), bits(&out), "in place, {:?} {}", ctx.isa, ctx.pool.threads());
        let expected = first.get_or_insert_with(|| out.clone());
        assert_eq!(bits(expected), bits(&out), "{:?} {}", ctx.isa, ctx.pool.threads());
    });
    first.unwrap_or_default()
}

/// The definition, in f64: each element with what it is before the bias, and what a row's elements are multiplied by.
fn reference(x: &[f32], norm: &Norm<'_>) -> Vec<(f64, f64, f64)> {
    let width = norm.weight.len();
    let rows = x.chunks_exact(width).flat_map(|x| {
        let mean = match norm.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => x.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64,
        };
        let squares: f64 = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        let factor = (squares / width as f64 + f64::from(norm.eps)).sqrt().recip();
        x.iter().enumerate().map(move |(i, &x)| {
            let unbiased = (f64::from(x) - mean) * factor * f64::from(norm.weight[i]);
            (unbiased + norm.bias.map_or(0.0, |bias| f64::from(bias[i])), unbiased, factor)
        })
    });
    rows.collect()
}

#[test]
fn norm_1_rows_match_the_definition_and_every_context_gives_the_same_bits() {
    covers!("NORM-1");
    let mut rng = TestRng::new(1);
    for (rows, width) in SHAPES {
        let x = rng.floats(rows * width, 3.0);
        let weight = rng.floats(width, 2.0);
        // Each lane's chain of width / 16 fused sums, 4 levels of the tree and the division, halved by the square
        // root, then the root, the reciprocal and two products.
        let roundings = ((width.div_ceil(LANES) + 6) as f64) / 2.0 + 4.0;
        let bound = roundings * f64::from(f32::EPSILON) / 2.0;
        for (i, (got, (want, ..))) in run(&x, &rms(&weight)).iter().zip(reference(&x, &rms(&weight))).enumerate() {
            let error = (f64::from(*got) - want).abs();
            assert!(error <= bound * want.abs(), "element {i} of width {width}: {got} for {want}");
        }
    }
}

#[test]
fn norm_2_rows_match_the_definition_and_every_context_gives_the_same_bits() {
    covers!("NORM-2");
    let mut rng = TestRng::new(15);
    let unit = f64::from(f32::EPSILON) / 2.0;
    for ((rows, width), offset) in SHAPES.into_iter().flat_map(|shape| [(shape, 0.0), (shape, -40.0)]) {
        let x: Vec<f32> = rng.floats(rows * width, 3.0).into_iter().map(|x| x + offset).collect();
        let (weight, bias) = (rng.floats(width, 2.0), rng.floats(width, 1.0));
        for bias in [None, Some(&bias[..])] {
            let norm = Norm { kind: NormKind::Layer, weight: &weight, bias, eps: 1e-5 };
            // The mean is off by a rounding for each sum and the division.
            let chain = (width.div_ceil(LANES) + 5) as f64;
            let greatest = x.iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
            let off = 1.01 * chain * unit * greatest;
            for (i, (got, (want, unbiased, factor))) in run(&x, &norm).iter().zip(reference(&x, &norm)).enumerate() {
                // An error of the mean adds its square to the variance, as exact deviations sum to 0; the others are
                // those of NORM-1 and two of the difference. Half of the sum reaches the root.
                let of_factor = ((chain + 3.0) * unit + (off * factor).powi(2)) / 2.0 + 2.0 * unit;
                let scale = factor * f64::from(weight[i % width].abs());
                let bound = 1.01 * ((of_factor + 3.0 * unit) * unbiased.abs() + off * scale) + unit * want.abs();
                let error = (f64::from(*got) - want).abs();
                assert!(error <= bound, "element {i} of width {width}: {got} for {want}, bound {bound:e}");
            }
        }
    }
}

/// "Sums over lanes" of `specs/numerics.md`; `term(i, lane)` is what the lane becomes.
fn sum_of_lanes(width: usize, term: impl Fn(usize, f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    (0..width).for_each(|i| lanes[i % 16] = term(i, lanes[i % 16]));
    definitions::sum_of_lanes(lanes)
}

#[test]
fn norm_1_norm_2_the_bits_are_those_of_the_definition() {
    covers!("NORM-1", "NORM-2");
    let mut rng = TestRng::new(16);
    for width in [1, 5, 16, 40, 1001] {
        let (x, weight) = (rng.floats(width, 3.0), rng.floats(width, 2.0));
        let n = width as f32;

        assert_eq!(bits(&run(&x, &rms(&weight))), bits(&definitions::rms_norm(&x, &weight, 1e-5)));

        let mean = sum_of_lanes(width, |i, s| s + x[i]) / n;
        let squares = sum_of_lanes(width, |i, s| (x[i] - mean).mul_add(x[i] - mean, s));
        let f = 1.0 / (squares / n + 1e-5).sqrt();
        let bias = rng.floats(width, 1.0);
        let expected: Vec<f32> = (0..width).map(|i| ((x[i] - mean) * f) * weight[i] + bias[i]).collect();
        let norm = Norm { kind: NormKind::Layer, bias: Some(&bias), ..rms(&weight) };
        assert_eq!(bits(&run(&x, &norm)), bits(&expected));
    }
}

#[test]
fn norm_1_norm_2_a_row_does_not_depend_on_the_others() {
    covers!("NORM-1", "NORM-2");
    let mut rng = TestRng::new(2);
    let (rows, width) = (30, 1001);
    let mut x = rng.floats(rows * width, 1.0);
    x[width + 3] = f32::NAN;
    let (weight, bias) = (rng.floats(width, 1.0), rng.floats(width, 1.0));
    for kind in [NormKind::Rms, NormKind::Layer] {
        let norm = Norm { kind, weight: &weight, bias: Some(&bias), eps: 1e-6 };
        for_each_ctx(|ctx| {
            let (mut all, mut one) = (vec![0.0; x.len()], vec![0.0; width]);
            normalize(ctx, &x, &norm, &mut all);
            for (t, (x, all)) in x.chunks_exact(width).zip(all.chunks_exact(width)).enumerate() {
                normalize(ctx, x, &norm, &mut one);
                assert!(if t == 1 { all.iter().all(|x| x.is_nan()) } else { bits(&one) == bits(all) }, "row {t}");
            }
        });
    }
}

#[test]
#[should_panic(expected = "the norm's bias is not of 4 elements")]
fn a_bias_of_another_length_is_refused() {
    for_each_ctx(|ctx| normalize_in_place(ctx, &mut [1.0; 8], &Norm { bias: Some(&[0.0; 3]), ..rms(&[1.0; 4]) }));
}
