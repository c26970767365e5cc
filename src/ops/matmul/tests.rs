//! One suite for every instruction-set path, type, shape and thread count, against `specs/numerics.md` spelled out over
//! the raw tensor.

mod definition;

use super::{matmul, matmul_add, matmul_each, matmul_gated};
use crate::kernels::Isa;
use crate::ops::Ctx;
use crate::ops::activation::{Activation, gate_mul};
use crate::ops::activations::Activations;
use crate::ops::norm::{Norm, NormKind, normalize};
use crate::ops::packed_matrix::PackedMatrix;
use crate::ops::pool::Pool;
use crate::ops::test_weights::{Range, below, f16_places, integer_types, random_activations, random_tensor};
use crate::ops::tests::TestRng;
use crate::quant::WeightType;
use definition::{Case, decode_exactly};

fn run(isa: Isa, pool: &Pool, weights: &PackedMatrix, x: &[f32], m: usize) -> Vec<f32> {
    let ctx = Ctx { pool, isa };
    let mut activations = Activations::new(m, weights.k());
    activations.prepare(&ctx, x, m, weights.k(), weights.ty());
    let mut out = vec![f32::MAX; m * weights.n()];
    matmul(&ctx, weights, &activations, &mut out);
    out
}

/// Equal bits; NaN equals NaN.
#[track_caller]
fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "{what}: output {i} is {a:e}, not {b:e}");
    }
}

fn pools() -> [Pool; 3] {
    [1, 2, 3].map(|threads| Pool::new(threads).unwrap())
}

/// Lengths of K around the segments' and vectors' borders.
fn lengths(ty: WeightType) -> &'static [usize] {
    match ty {
        _ if ty.block_len() == 256 => &[256, 512, 768],
        _ if ty.block_len() == 32 => &[32, 64, 256, 288, 544],
        _ => &[1, 2, 3, 31, 64, 65, 128, 129, 300],
    }
}

#[test]
fn mm_2_to_mm_6_mm_8_to_mm_11_every_path_gives_the_bits_of_the_definition() {
    covers!("MM-2", "MM-3", "MM-4", "MM-5", "MM-6", "MM-8", "MM-9", "MM-10", "MM-11");
    let mut random = TestRng::new(20_261_123);
    let pools = pools();
    for ty in WeightType::ALL {
        for (i, &k) in lengths(ty).iter().enumerate() {
            for m in [1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 25, 40, 48, 49, 61, 100] {
                let n = [1, 31, 32, 33, 64, 70][below(&mut random, 6) as usize];
                let range = if i % 2 == 0 { Range::Wild } else { Range::Plain };
                let case = Case::random(&mut random, range, ty, (n, k, m));
                for isa in Isa::available() {
                    let expected = case.expected(isa);
                    for pool in &pools {
                        let what = format!("{} {isa:?} {} threads", case.describe(), pool.threads());
                        assert_same(&case.run(isa, pool), &expected, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn mm_2_many_panels_are_shared_out_without_a_gap() {
    covers!("MM-2");
    let mut random = TestRng::new(20_261_123);
    for ty in WeightType::ALL {
        let case = Case::random(&mut random, Range::Plain, ty, (32 * 53 + 5, ty.block_len().max(64), 14));
        for isa in Isa::available() {
            let expected = case.expected(isa);
            for pool in &pools() {
                assert_same(&case.run(isa, pool), &expected, &format!("{} {isa:?}", case.describe()));
            }
        }
    }
}

#[test]
fn mm_1_a_row_is_computed_alone_as_among_others() {
    covers!("MM-1");
    let mut random = TestRng::new(20_261_123);
    let pool = Pool::new(2).unwrap();
    for ty in WeightType::ALL {
        for isa in Isa::available() {
            for m in 1..=40 {
                let case =
                    Case::random(&mut random, Range::Plain, ty, (37, 320usize.next_multiple_of(ty.block_len()), m));
                let packed = case.packed();
                let alone: Vec<f32> = case.x.chunks(case.k).flat_map(|x| run(isa, &pool, &packed, x, 1)).collect();
                assert_same(&case.run(isa, &pool), &alone, &format!("{} {isa:?}", case.describe()));
            }
        }
    }
}

#[test]
fn mm_1_values_that_are_not_finite_stay_in_their_row() {
    covers!("MM-1");
    let mut random = TestRng::new(20_261_123);
    let pool = Pool::new(2).unwrap();
    for ty in WeightType::ALL {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for isa in Isa::available() {
                let k = 96usize.next_multiple_of(ty.block_len());
                let mut case = Case::random(&mut random, Range::Plain, ty, (40, k, 15));
                let clean = case.run(isa, &pool);
                let row = below(&mut random, 15) as usize;
                let column = below(&mut random, k as u64) as usize;
                case.x[row * case.k + column] = bad;
                let found = case.run(isa, &pool);
                for (m, (found, clean)) in found.chunks(case.n).zip(clean.chunks(case.n)).enumerate() {
                    let what = format!("{} {isa:?} {bad} in row {row}, row {m}", case.describe());
                    if m != row {
                        assert_same(found, clean, &what);
                    } else {
                        assert!(found.iter().all(|v| !v.is_finite()), "{what}");
                        assert!(ty.block_len() == 1 || found.iter().all(|v| v.is_nan()), "{what}");
                    }
                }
            }
        }
    }
}

/// NaN and infinity among the weights, or as the scale of a block.
#[test]
fn mm_1_mm_2_weights_that_are_not_finite_stay_in_their_column() {
    covers!("MM-1", "MM-2");
    let mut random = TestRng::new(20_261_127);
    let pool = Pool::new(2).unwrap();
    for ty in WeightType::ALL.into_iter().filter(|ty| *ty != WeightType::MXFP4) {
        let half = f16_places(ty).first().copied();
        let bad: &[&[u8]] = match ty {
            WeightType::F32 => &[&[0, 0, 0xc0, 0x7f], &[0, 0, 0x80, 0x7f], &[0, 0, 0x80, 0xff]],
            WeightType::BF16 => &[&[0xc0, 0x7f], &[0x80, 0x7f], &[0x80, 0xff]],
            _ => &[&[0x00, 0x7e], &[0x00, 0x7c], &[0x00, 0xfc]],
        };
        for bytes in bad {
            let k = 96usize.next_multiple_of(ty.block_len());
            let mut case = Case::random(&mut random, Range::Plain, ty, (40, k, 7));
            let row_bytes = case.raw.len() / 40;
            let clean: Vec<_> = Isa::available().into_iter().map(|isa| case.run(isa, &pool)).collect();
            let block = below(&mut random, (k / ty.block_len()) as u64) as usize * ty.block_bytes();
            case.raw[17 * row_bytes + block + half.unwrap_or(0)..][..bytes.len()].copy_from_slice(bytes);
            for (isa, clean) in Isa::available().into_iter().zip(&clean) {
                let found = case.run(isa, &pool);
                let what = format!("{} {isa:?} {bytes:x?}", case.describe());
                assert_same(&found, &case.expected(isa), &what);
                for (i, (found, clean)) in found.iter().zip(clean).enumerate() {
                    let same = found.to_bits() == clean.to_bits();
                    assert!(if i % 40 == 17 { !found.is_finite() } else { same }, "{what}: output {i} is {found:e}");
                }
            }
        }
    }
}

/// A product too small for f32 leaves -0, which a padded step would turn into +0.
#[test]
fn mm_4_an_odd_k_adds_no_padding() {
    covers!("MM-4");
    let pool = Pool::new(1).unwrap();
    let tiny = 1e-30f32.to_bits() & 0xffff_0000;
    for (ty, raw) in [
        (WeightType::F32, tiny.to_le_bytes().to_vec()),
        (WeightType::BF16, ((tiny >> 16) as u16).to_le_bytes().to_vec()),
        (WeightType::F16, 1u16.to_le_bytes().to_vec()),
    ] {
        let case = Case { ty, n: 1, k: 1, m: 1, raw, x: vec![-1e-40] };
        for isa in Isa::available().into_iter().filter(|isa| ty != WeightType::BF16 || !isa.has_bf16()) {
            let out = case.run(isa, &pool);
            assert_eq!(out[0].to_bits(), (-0f32).to_bits(), "{ty} {isa:?}");
        }
    }
}

/// The largest magnitude a block can reach, with both signs.
#[test]
fn mm_6_extreme_bytes_do_not_saturate() {
    covers!("MM-6");
    let pool = Pool::new(1).unwrap();
    for (byte, x) in [(0x80u8, 1.0f32), (0x80, -1.0), (0x7f, 1.0), (0x7f, -1.0)] {
        let one = 0x3c00u16.to_le_bytes();
        let raw: Vec<u8> = one.into_iter().chain([byte; 32]).collect();
        let case = Case { ty: WeightType::Q8_0, n: 1, k: 32, m: 7, raw, x: vec![x; 7 * 32] };
        // 32 * byte * 127 / 127, in the two roundings of MM-6.
        let dot = 32.0 * f32::from(byte as i8) * 127.0 * x;
        for isa in Isa::available() {
            assert_same(&case.run(isa, &pool), &[dot * (1.0 / 127.0); 7], &format!("{isa:?} {byte:#x} {x}"));
        }
    }
}

/// Blocks of nothing but 0x00, 0xff, 0x80 or 0x7f, scales of 1 apart, with activations at the ends of their range: the
/// largest sums of products there are.
#[test]
fn mm_6_mm_8_mm_10_extreme_codes_do_not_saturate() {
    covers!("MM-6", "MM-8", "MM-10");
    let pool = Pool::new(1).unwrap();
    for ty in integer_types() {
        let k = ty.block_len();
        for byte in [0x00, 0xff, 0x80, 0x7f] {
            let mut raw = vec![byte; ty.block_bytes()];
            f16_places(ty).iter().for_each(|at| raw[*at..][..2].copy_from_slice(&0x3c00u16.to_le_bytes()));
            if ty == WeightType::MXFP4 {
                raw[0] = 128;
            }
            for (even, odd) in [(1.0, 1.0), (-1.0, -1.0), (1.0, -1.0)] {
                let x = [even, odd].repeat(7 * k / 2);
                let case = Case { ty, n: 1, k, m: 7, raw: raw.clone(), x };
                for isa in Isa::available() {
                    let what = format!("{ty} {byte:#x} {even} {odd} {isa:?}");
                    assert_same(&case.run(isa, &pool), &case.expected(isa), &what);
                }
            }
        }
    }
}

#[test]
fn mm_5_halves_round_to_even() {
    covers!("MM-5");
    let pool = Pool::new(1).unwrap();
    // The unit matrix, so that the outputs are the rounded activations; 127 makes the scale 1.
    let one = 0x3c00u16.to_le_bytes();
    let raw: Vec<u8> = (0..32).flat_map(|n| one.into_iter().chain((0..32).map(move |i| u8::from(i == n)))).collect();
    let mut x = vec![0.0; 32];
    x[..8].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]);
    let case = Case { ty: WeightType::Q8_0, n: 32, k: 32, m: 1, raw, x };
    for isa in Isa::available() {
        let out = case.run(isa, &pool);
        assert_eq!(out[..8], [127.0, 0.0, 2.0, 2.0, 0.0, -2.0, -2.0, 126.0], "{isa:?}");
    }
}

#[test]
fn mm_5_zero_and_tiny_blocks_count_as_zero() {
    covers!("MM-5");
    let mut random = TestRng::new(20_261_123);
    let pool = Pool::new(1).unwrap();
    let raw = random_tensor(&mut random, Range::Plain, WeightType::Q8_0, 33, 64);
    for x in [0.0, -0.0, 1e-45, 3.7e-37] {
        let case = Case { ty: WeightType::Q8_0, n: 33, k: 64, m: 2, raw: raw.clone(), x: vec![x; 128] };
        for isa in Isa::available() {
            assert!(case.run(isa, &pool).iter().all(|&v| v == 0.0), "{isa:?} {x:e}");
        }
    }
    let case = Case { ty: WeightType::Q8_0, n: 33, k: 64, m: 2, raw, x: vec![3.8e-37; 128] };
    assert!(case.run(Isa::detect(), &pool).iter().any(|&v| v != 0.0));
}

/// The error bounds that `specs/numerics.md` states, against sums in f64.
#[test]
fn mm_4_mm_6_mm_8_mm_10_mm_11_errors_are_within_the_stated_bounds() {
    covers!("MM-4", "MM-6", "MM-8", "MM-10", "MM-11");
    let mut random = TestRng::new(20_261_123);
    let pool = Pool::new(2).unwrap();
    for ty in WeightType::ALL {
        for k in [32, 96, 1024, 2048].map(|k: usize| k.next_multiple_of(ty.block_len())) {
            let case = Case::random(&mut random, Range::Plain, ty, (33, k, 3));
            let found = case.run(Isa::detect(), &pool);
            let bounds = case.bounds();
            let weights = decode_exactly(ty, &case.raw);
            let pairs = case.x.chunks(k).flat_map(|x| weights.chunks(k).map(move |w| (w, x)));
            for (i, (w, x)) in pairs.enumerate() {
                let products = || w.iter().zip(x).map(|(w, x)| w * f64::from(*x));
                let exact: f64 = products().sum();
                let magnitude: f64 = products().map(f64::abs).sum();
                let (error, bound) = ((f64::from(found[i]) - exact).abs(), bounds[i]);
                assert!(error <= bound, "{} output {i}: error {error:e}, bound {bound:e}", case.describe());
                assert!(bound < 0.05 * magnitude, "a bound that shows nothing: {bound:e} of {magnitude:e}");
            }
        }
    }
}

/// The fused products are the separate ones, bit for bit (ACT-1, ACT-2).
#[test]
fn act_1_act_2_fused_products_are_the_separate_ones() {
    covers!("ACT-1", "ACT-2");
    let mut random = TestRng::new(20_261_126);
    for threads in 1..4 {
        let pool = Pool::new(threads).unwrap();
        for isa in Isa::available() {
            let ctx = Ctx { pool: &pool, isa };
            for (ty, other) in [(WeightType::Q8_0, WeightType::Q4_0), (WeightType::Q4K, WeightType::Q6K)] {
                for (n, m) in [(33, 1), (70, 7), (200, 150)] {
                    let k = 512;
                    let first = Case::random(&mut random, Range::Plain, ty, (n, k, m));
                    let raw = random_tensor(&mut random, Range::Plain, other, n, k);
                    let second = Case { ty: other, n, k, m, raw, x: first.x.clone() };
                    let (a, b) = (first.packed(), second.packed());
                    let (out_a, out_b) = (first.run(isa, &pool), second.run(isa, &pool));
                    let mut x = Activations::new(m, k);
                    x.prepare(&ctx, &first.x, m, k, ty);
                    let what = format!("{} {isa:?} {threads} threads", first.describe());

                    let (mut each_a, mut each_b) = (vec![0.0; m * n], vec![0.0; m * n]);
                    matmul_each(&ctx, &x, &mut [(&a, &mut each_a), (&b, &mut each_b)]);
                    assert_same(&each_a, &out_a, &what);
                    assert_same(&each_b, &out_b, &what);

                    let mut residual = random_activations(&mut random, Range::Plain, m, n);
                    let expected: Vec<f32> = residual.iter().zip(&out_a).map(|(x, y)| x + y).collect();
                    matmul_add(&ctx, &a, &x, &mut residual);
                    assert_same(&residual, &expected, &what);

                    for act in [Activation::Silu, Activation::GeluTanh] {
                        let mut expected = out_a.clone();
                        gate_mul(&ctx, act, &mut expected, &out_b);
                        let mut gated = vec![0.0; m * n];
                        matmul_gated(&ctx, act, &a, &b, &x, &mut gated);
                        assert_same(&gated, &expected, &format!("{act:?} {what}"));
                    }
                }
            }
        }
    }
}

/// Normalising where rows are rounded is normalising first (NORM-1, NORM-2), for every form of activations.
#[test]
fn norm_1_norm_2_a_normed_input_is_the_norm_prepared() {
    covers!("NORM-1", "NORM-2");
    let mut random = TestRng::new(20_261_126);
    let pool = Pool::new(2).unwrap();
    for isa in Isa::available() {
        let ctx = Ctx { pool: &pool, isa };
        for ty in [WeightType::F32, WeightType::BF16, WeightType::Q8_0, WeightType::Q4K] {
            for m in [1, 5, 40] {
                let case = Case::random(&mut random, Range::Plain, ty, (33, 512, m));
                let weight = random_activations(&mut random, Range::Plain, 1, 512);
                let rms = Norm { kind: NormKind::Rms, weight: &weight, bias: None, eps: 1e-5 };
                for norm in [rms, Norm { kind: NormKind::Layer, bias: Some(&weight), ..rms }] {
                    let mut normed = vec![0.0; m * 512];
                    normalize(&ctx, &case.x, &norm, &mut normed);
                    let expected = run(isa, &pool, &case.packed(), &normed, m);
                    let (mut x, mut out) = (Activations::new(m, 512), vec![0.0; m * 33]);
                    x.prepare_normed(&ctx, &case.x, &norm, ty);
                    matmul(&ctx, &case.packed(), &x, &mut out);
                    assert_same(&out, &expected, &format!("{} {isa:?} {:?}", case.describe(), norm.kind));
                }
            }
        }
    }
}

/// A workspace serves one input after the other, of other shapes and forms.
#[test]
fn activations_are_reused() {
    let mut random = TestRng::new(20_261_123);
    let pool = Pool::new(2).unwrap();
    let ctx = Ctx { pool: &pool, isa: Isa::detect() };
    let mut activations = Activations::new(31, 512);
    for (m, k) in [(31, 512usize), (1, 32), (13, 288), (25, 256), (0, 512)] {
        for ty in WeightType::ALL.into_iter().filter(|ty| k.is_multiple_of(ty.block_len())) {
            let case = Case::random(&mut random, Range::Plain, ty, (33, k, m));
            activations.prepare(&ctx, &case.x, m, k, ty);
            let mut out = vec![0.0; m * case.n];
            matmul(&ctx, &case.packed(), &activations, &mut out);
            assert_same(&out, &case.expected(ctx.isa), &case.describe());
        }
    }
}

#[test]
#[should_panic(expected = "activations were not prepared for Q8_0 weights")]
fn activations_of_another_form_are_refused() {
    let mut random = TestRng::new(20_261_123);
    let pool = Pool::new(1).unwrap();
    let ctx = Ctx { pool: &pool, isa: Isa::detect() };
    let case = Case::random(&mut random, Range::Plain, WeightType::Q8_0, (1, 32, 1));
    let mut activations = Activations::new(1, 32);
    activations.prepare(&ctx, &case.x, 1, 32, WeightType::F32);
    matmul(&ctx, &case.packed(), &activations, &mut [0.0]);
}
