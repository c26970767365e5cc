//! The encoders against the `gguf` package, against brute force, and at the edges of their formats.

use super::*;
use crate::quant::{dequantize_row, q4_k, q6_k};
use half::f16;
use proptest::prelude::*;

const K_TYPES: [WeightType; 2] = [WeightType::Q4K, WeightType::Q6K];
const BLOCK_TYPES: [WeightType; 4] = [WeightType::Q8_0, WeightType::Q4_0, WeightType::Q4K, WeightType::Q6K];

fn encoded(ty: WeightType, x: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_row(ty, x, &mut bytes).expect("finite");
    assert_eq!(Some(bytes.len()), ty.row_bytes(x.len()));
    bytes
}

fn decoded(ty: WeightType, bytes: &[u8], len: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; len];
    dequantize_row(ty, bytes, &mut out);
    out
}

fn round_trip(ty: WeightType, x: &[f32]) -> Vec<f32> {
    decoded(ty, &encoded(ty, x), x.len())
}

/// In f64: the encoders' own sums are f32.
fn squared_error(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// A fixed sequence of numbers in 0 .. 1 (a linear congruential generator, upper bits).
fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    }
}

/// Nearly normal: the sum of twelve uniform numbers.
fn normals(seed: u64) -> [f32; 256] {
    let mut uniform = random(seed);
    std::array::from_fn(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
}

#[test]
fn blocks_without_a_choice_are_those_of_the_gguf_package() {
    covers!("QNT-20");
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
    };
    for (ty, text) in [
        (WeightType::F16, include_str!("../../../tests/blocks/encode_f16.txt")),
        (WeightType::BF16, include_str!("../../../tests/blocks/encode_bf16.txt")),
        (WeightType::Q8_0, include_str!("../../../tests/blocks/encode_q8_0.txt")),
        (WeightType::Q4_0, include_str!("../../../tests/blocks/encode_q4_0.txt")),
    ] {
        assert!(text.lines().count() > 20);
        for (number, line) in text.lines().enumerate() {
            let (x, block) = line.split_once(' ').expect("two columns");
            let x: Vec<f32> = bytes(x).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            assert_eq!(encoded(ty, &x), bytes(block), "{ty} line {}", number + 1);
        }
    }
}

/// Blocks as they come in models and as they do not.
fn blocks() -> Vec<(String, [f32; 256])> {
    let mut blocks: Vec<(String, [f32; 256])> = Vec::new();
    for seed in 0..40 {
        let x = normals(seed);
        let size = 10f32.powi(seed as i32 % 8 - 5);
        blocks.push((format!("normal, seed {seed}, times {size}"), x.map(|x| x * size)));
        blocks.push((format!("heavy tails, seed {seed}"), x.map(|x| x * x * x * 0.01)));
        blocks.push((format!("positive, seed {seed}"), x.map(|x| x.abs() + 0.5)));
        let mut outlier = x.map(|x| x * 0.02);
        outlier[seed as usize * 6] = 3.0;
        blocks.push((format!("one outlier, seed {seed}"), outlier));
        let sizes = std::array::from_fn(|i| x[i] * 0.5f32.powi(i as i32 / 16));
        blocks.push((format!("each 16 of another size, seed {seed}"), sizes));
        let mut uniform = random(seed);
        blocks.push((format!("uniform, seed {seed}"), std::array::from_fn(|_| uniform() - 0.3)));
    }
    for value in [0.0, -0.0, 1.0, -1.0, 0.3, -0.3, 1e-6, 3e-8, 1e-20, 1e-40, 40_000.0] {
        blocks.push((format!("all {value}"), [value; 256]));
    }
    let one = |at: usize, value: f32| std::array::from_fn(|i| if i == at { value } else { 0.0 });
    blocks.extend([1.0, -1.0, 1e-7, 60_000.0].map(|value| (format!("{value} alone"), one(77, value))));
    blocks.push(("two values".into(), std::array::from_fn(|i| if i % 3 == 0 { 0.25 } else { -0.5 })));
    blocks
}

/// What the K types promise: never worse than the plain choice from the smallest to the largest element.
#[test]
fn the_error_is_never_above_the_plain_choices() {
    covers!("QNT-23");
    for ty in K_TYPES {
        let (mut ours, mut plain) = (0.0, 0.0);
        for (what, x) in blocks() {
            let mut bytes = Vec::new();
            quantize_row(ty, &x, &mut bytes);
            let (error, other) = (squared_error(&x, &round_trip(ty, &x)), squared_error(&x, &decoded(ty, &bytes, 256)));
            // Both choose by sums of 256 squares in f32, each good to 2^-24 of the sum for each addition.
            assert!(error <= other * (1.0 + 256.0 * 2f64.powi(-24)), "{ty} {what}: {error} over {other}");
            if what.starts_with("normal") {
                // Errors are about in proportion to the size.
                let size: f64 = x.iter().map(|x| f64::from(x * x)).sum();
                (ours, plain) = (ours + error / size, plain + other / size);
            }
        }
        assert!(ours < 0.9 * plain, "{ty}: {ours} of {plain} for normal weights: the search gains nothing");
    }
}

/// The least squared error of multiples of one scale with codes `-32 ..= 31`: all scales in steps of 1/1000 around
/// those that bring the largest element to 28 ..= 36.
fn least_of_one_scale(x: &[f32]) -> f64 {
    let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let tried = (28_000..36_000).flat_map(|end| [-1.0, 1.0].map(|sign| sign * largest / (end as f32 / 1000.0)));
    let error = |scale: f32| -> f64 {
        x.iter().map(|x| f64::from(x - scale * (x / scale).round().clamp(-32.0, 31.0)).powi(2)).sum()
    };
    tried.map(error).fold(f64::INFINITY, f64::min)
}

/// The least squared error of `step * code - low` with codes `0 ..= 15`, over a fine grid of ends.
fn least_of_one_line(x: &[f32]) -> f64 {
    let low = x.iter().fold(0.0f32, |m, v| m.min(*v));
    let high = x.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let mut least = f64::INFINITY;
    for from in -15..=40 {
        for to in -15..=40 {
            let (from, to) = (low + (high - low) * from as f32 / 200.0, high - (high - low) * to as f32 / 200.0);
            let (step, low) = ((to - from) / 15.0, (-from).max(0.0));
            let error = |x: &f32| f64::from(x - (step * ((x + low) / step).round().clamp(0.0, 15.0) - low)).powi(2);
            least = least.min(x.iter().map(error).sum());
        }
    }
    least
}

/// Brute force over real scales, sub-block by sub-block, is a bound that no block of the format can pass by more than
/// the grid is coarse: its scales are integers of 6 or 8 bits times one f16.
#[test]
fn the_error_is_near_what_brute_force_finds_for_real_scales() {
    covers!("QNT-22");
    let (mut six, mut four) = ((0.0, 0.0), (0.0, 0.0));
    for seed in 100..112 {
        let x = normals(seed);
        six.0 += squared_error(&x, &round_trip(WeightType::Q6K, &x));
        six.1 += x.chunks(16).map(least_of_one_scale).sum::<f64>();
        four.0 += squared_error(&x, &round_trip(WeightType::Q4K, &x));
        four.1 += x.chunks(32).map(least_of_one_line).sum::<f64>();
    }
    assert!(six.0 < 1.10 * six.1, "Q6_K, seeds 100..112: {six:?}");
    assert!(four.0 < 1.10 * four.1, "Q4_K, seeds 100..112: {four:?}");
}

/// The steps between neighbouring codes, as the bytes say, and the range of the codes in each sub-block.
fn ranges(ty: WeightType, bytes: &[u8]) -> Vec<(f32, f32, f32)> {
    let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
    match ty {
        WeightType::Q8_0 => vec![(half(0), -127.0 * half(0), 127.0 * half(0))],
        WeightType::Q4_0 => vec![(half(0).abs(), -8.0 * half(0), 7.0 * half(0))],
        WeightType::Q4K => {
            let (scales, minimums) = q4_k::scales_and_minimums(bytes[4..16].as_array().expect("12 bytes"));
            let line = |(s, m): (u8, u8)| (half(0) * f32::from(s), half(2) * f32::from(m));
            let lines = scales.into_iter().zip(minimums).map(line);
            lines.map(|(step, low)| (step, -low, 15.0 * step - low)).collect()
        }
        _ => {
            let scales = bytes[192..208].iter().map(|s| half(208) * f32::from(s.cast_signed()));
            scales.map(|step| (step.abs(), -32.0 * step, 31.0 * step)).collect()
        }
    }
}

/// Codes are the nearest for the scales that are written: an element is within half a step, or beyond the last code and
/// decodes to it. Q8_0 and Q4_0 round by the scale before it becomes f16, which is off by 2^-11 of it (or 2^-25 of 1):
/// their codes of at most 127 and 8 are off by that many times as much.
#[test]
fn every_element_is_within_half_a_step() {
    covers!("QNT-24");
    for ty in BLOCK_TYPES {
        let length = ty.block_len();
        for (what, x) in blocks() {
            for x in x.chunks(length) {
                let bytes = encoded(ty, x);
                let y = decoded(ty, &bytes, length);
                let ranges = ranges(ty, &bytes);
                let slack = match ty {
                    WeightType::Q8_0 => 127.0,
                    WeightType::Q4_0 => 8.0,
                    _ => 0.0,
                };
                for (i, (x, y)) in x.iter().zip(&y).enumerate() {
                    let (step, a, b) = ranges[i * ranges.len() / length];
                    let nearest = x.clamp(a.min(b), a.max(b));
                    let rounding = slack * (step * 2f32.powi(-11) + 2f32.powi(-25)) + x.abs().max(a.abs()) * 1e-6;
                    assert!((nearest - y).abs() <= step / 2.0 + rounding, "{ty} {what}, element {i}: {x} became {y}");
                }
            }
        }
    }
}

#[test]
fn values_on_the_grid_come_back_exactly() {
    let code = |i: usize, n: usize| (i * 7 + i / 11) % n;
    let q8: [f32; 32] = std::array::from_fn(|i| 0.375 * (if i == 9 { -127.0 } else { code(i, 255) as f32 - 127.0 }));
    assert_eq!(round_trip(WeightType::Q8_0, &q8), q8);
    let q4: [f32; 32] = std::array::from_fn(|i| -0.375 * (if i == 9 { -8.0 } else { code(i, 15) as f32 - 7.0 }));
    assert_eq!(round_trip(WeightType::Q4_0, &q4), q4);
    // Every sub-block reaches both of its ends, and one has the largest scale and minimum.
    let q4_k: [f32; 256] = std::array::from_fn(|i| {
        let (j, code) = (i / 32, if i % 32 == 0 { 15 } else { i % 32 % 16 });
        let (scale, minimum) = ([63, 20, 33, 4, 61, 17, 8, 50][j], [11, 63, 0, 5, 40, 2, 30, 21][j]);
        0.0625 * (scale * code) as f32 - 0.25 * minimum as f32
    });
    assert_eq!(round_trip(WeightType::Q4K, &q4_k), q4_k);
    let q6_k: [f32; 256] = std::array::from_fn(|i| {
        let scale = [127, 3, 64, 90, 17, 120, 55, 41, 8, 99, 110, 77, 31, 100, 66, 5][i / 16];
        let code = if i % 16 == 3 { -32 } else { code(i, 63) as i32 - 31 };
        0.03125 * (scale * code) as f32
    });
    assert_eq!(round_trip(WeightType::Q6K, &q6_k), q6_k);
}

#[test]
fn zeros_stay_zeros_and_what_is_too_small_for_a_scale_becomes_zero() {
    covers!("QNT-25");
    for ty in BLOCK_TYPES {
        for value in [0.0, -0.0, 1e-45, -1e-40, 1e-20] {
            let out = round_trip(ty, &[value; 256]);
            assert!(out.iter().all(|v| *v == 0.0), "{ty} {value}: {:?}", &out[..4]);
        }
    }
    // A step of the smallest f16, 2^-24, is still of use.
    for ty in K_TYPES {
        let x: [f32; 256] = std::array::from_fn(|i| (i % 8) as f32 * 2f32.powi(-24));
        assert_eq!(round_trip(ty, &x), x, "{ty}");
    }
}

#[test]
fn constant_blocks_keep_their_value() {
    for value in [1.0f32, -1.0, 0.3, -0.3, 12_345.0, -0.001] {
        for ty in BLOCK_TYPES {
            for y in round_trip(ty, &[value; 256]) {
                // The scale's f16 is off by 2^-11 of it, or 2^-25 in 63 and 15 steps of a subnormal one.
                let bound = value.abs() * 2f32.powi(-11) + 63.0 * 15.0 * 2f32.powi(-25);
                assert!((y - value).abs() <= bound, "{ty}: {value} became {y}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_is_refused_and_named() {
    covers!("QNT-21");
    let types = WeightType::ALL;
    for ty in types {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [0.5; 512];
            x[300] = odd;
            let mut out = vec![1, 2, 3];
            let error = encode_row(ty, &x, &mut out).expect_err("refused");
            assert!(matches!(error, EncodeError::NotFinite { index: 300, .. }), "{ty} {odd}: {error}");
            assert_eq!(out, [1, 2, 3], "{ty}");
        }
    }
}

/// The largest magnitudes that have a finite encoding, and the next that has none.
#[test]
fn what_would_become_infinite_is_refused_and_named() {
    covers!("QNT-21");
    for (ty, limit) in [
        (WeightType::F16, 65_504.0),
        (WeightType::Q8_0, 65_504.0 * 127.0),
        (WeightType::Q4_0, 65_504.0 * 8.0),
        (WeightType::Q4K, 65_504.0 * 63.0),
        (WeightType::Q6K, 65_504.0 * 32.0 * 127.0),
        (WeightType::BF16, 3.3e38),
    ] {
        for sign in [1.0, -1.0] {
            let mut x = normals(1);
            x[200] = sign * limit;
            let out = round_trip(ty, &x);
            assert!(out.iter().all(|y| y.is_finite()), "{ty}");
            assert!((out[200] / x[200] - 1.0).abs() < 0.13, "{ty}: {} became {}", x[200], out[200]);
            // Half an f16 step above the largest f16; half a step of bf16 above the largest.
            x[200] = sign * (limit * 1.0003).max(if ty == WeightType::BF16 { 3.397e38 } else { 0.0 });
            let error = encode_row(ty, &x, &mut Vec::new()).expect_err("refused");
            assert_eq!(error, EncodeError::TooLarge { index: 200, value: x[200], ty });
            assert!(error.to_string().contains(&format!("larger than {ty} can hold")), "{error}");
        }
    }
}

proptest! {
    /// Any bits: an error, or blocks of finite numbers.
    #[test]
    fn any_finite_block_becomes_finite_numbers(bits in prop::collection::vec(any::<u32>(), 256)) {
        let x: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let milder: Vec<f32> = x.iter().map(|x| if x.abs() < 1e4 { *x } else { 1.0 }).collect();
        for ty in BLOCK_TYPES {
            let mut bytes = Vec::new();
            if encode_row(ty, &x, &mut bytes).is_ok() {
                prop_assert!(decoded(ty, &bytes, 256).iter().all(|y| y.is_finite()), "{}", ty);
            }
            prop_assert!(round_trip(ty, &milder).iter().all(|y| y.is_finite()), "{}", ty);
        }
    }
}

/// Blocks of the K types are those that the kernels and llama.cpp read: sub-scales in their ranges, whatever comes.
#[test]
fn codes_and_scales_use_their_whole_range() {
    let x: [f32; 256] = std::array::from_fn(|i| normals(7)[i] * if i < 32 { 8.0 } else { 1.0 });
    let bytes = encoded(WeightType::Q4K, &x);
    let (scales, _) = q4_k::scales_and_minimums(bytes[4..16].as_array().expect("12 bytes"));
    assert!(scales[0] >= 60, "{scales:?}");
    let bytes = encoded(WeightType::Q6K, &x);
    let largest = bytes[192..208].iter().map(|s| s.cast_signed().unsigned_abs()).max();
    assert!(largest >= Some(120), "{largest:?}");
    assert_eq!(bytes.len(), q6_k::BLOCK_BYTES);
}
