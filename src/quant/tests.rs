use super::*;
use crate::ops::test_weights::{decode, golden_blocks, integer_types};
use proptest::prelude::*;

fn round_trip(ty: WeightType, x: &[f32]) -> Vec<f32> {
    let mut bytes = Vec::new();
    quantize_row(ty, x, &mut bytes);
    assert_eq!(Some(bytes.len()), ty.row_bytes(x.len()));
    let mut out = vec![f32::NAN; x.len()];
    dequantize_row(ty, &bytes, &mut out);
    out
}

#[test]
fn known_bytes() {
    // 1.0, -2.0 and 0.15625 in each format, from the formats' definitions.
    let cases: [(WeightType, &[u8]); 3] = [
        (WeightType::F32, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0, 0, 0x20, 0x3e]),
        (WeightType::F16, &[0x00, 0x3c, 0x00, 0xc0, 0x00, 0x31]),
        (WeightType::BF16, &[0x80, 0x3f, 0x00, 0xc0, 0x20, 0x3e]),
    ];
    for (ty, bytes) in cases {
        let mut out = [0.0; 3];
        dequantize_row(ty, bytes, &mut out);
        assert_eq!(out, [1.0, -2.0, 0.15625], "{ty}");
        let mut back = Vec::new();
        quantize_row(ty, &out, &mut back);
        assert_eq!(back, bytes, "{ty}");
    }
}

#[test]
fn q8_0_block_by_hand() {
    // The largest is 127 * 0.5, so d = 0.5 = 0x3800 and every multiple of 0.5 is exact.
    let mut x = [0.0f32; 32];
    (x[0], x[1], x[2], x[31]) = (63.5, -63.5, 0.5, -1.0);
    let mut bytes = Vec::new();
    quantize_row(WeightType::Q8_0, &x, &mut bytes);
    assert_eq!(bytes[..5], [0x00, 0x38, 127, 129, 1]);
    assert_eq!(bytes[33], 254);
    assert_eq!(round_trip(WeightType::Q8_0, &x), x);
}

#[test]
fn q8_0_rounds_halves_away_from_zero() {
    // d = 1: 0.5 and -2.5 lie between two codes.
    let mut x = [0.0f32; 32];
    (x[0], x[1], x[2]) = (127.0, 0.5, -2.5);
    assert_eq!(round_trip(WeightType::Q8_0, &x)[..3], [127.0, 1.0, -3.0]);
}

#[test]
fn q8_0_of_zeros_and_of_what_is_no_number() {
    assert_eq!(round_trip(WeightType::Q8_0, &[0.0; 32]), [0.0; 32]);
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = [1.0; 64];
        x[40] = odd;
        let out = round_trip(WeightType::Q8_0, &x);
        assert!(out[..32].iter().all(|v| (v - 1.0).abs() < 1e-3), "the other block is untouched");
        assert!(out[32..].iter().all(|v| v.is_nan()), "{odd}");
    }
}

/// Blocks of every pattern of bits, as llama.cpp's `gguf` package decodes them, by this module and by the definition
/// that the tests of the kernels go by.
#[test]
fn blocks_decode_as_the_gguf_package_does() {
    for ty in integer_types() {
        let blocks = golden_blocks(ty);
        assert!(blocks.len() >= 6);
        for (i, (block, expected)) in blocks.iter().enumerate() {
            let mut found = vec![f32::NAN; expected.len()];
            dequantize_row(ty, block, &mut found);
            assert_eq!(&found, expected, "{ty} block {i}");
            assert_eq!(&decode(ty, block), expected, "{ty} block {i} by the definition");
        }
    }
}

/// The largest error of a quantiser on numbers in -1 ..= 1, half a step of its coarsest block with some room for what
/// the scales round.
#[test]
fn quantisers_stay_within_a_step() {
    let x: Vec<f32> = (0..1024).map(|i| ((i * 7919 % 2048) as f32 / 1023.5 - 1.0) * 0.9f32.powi(i / 64)).collect();
    for (ty, bound) in [
        (WeightType::Q4_0, 0.14),
        (WeightType::Q4_1, 0.08),
        (WeightType::Q5_0, 0.07),
        (WeightType::Q5_1, 0.04),
        (WeightType::IQ4NL, 0.15),
        (WeightType::MXFP4, 0.35),
        (WeightType::Q2K, 0.45),
        (WeightType::Q3K, 0.3),
        (WeightType::Q4K, 0.09),
        (WeightType::Q5K, 0.05),
        (WeightType::Q6K, 0.05),
        (WeightType::IQ4XS, 0.15),
    ] {
        let worst = x.iter().zip(round_trip(ty, &x)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 0.005 && worst < bound, "{ty}: {worst}");
        assert!(round_trip(ty, &[0.0; 256]).iter().all(|v| *v == 0.0), "{ty}");
    }
}

#[test]
fn what_is_no_number_spoils_its_block_alone() {
    for ty in integer_types().filter(|ty| *ty != WeightType::MXFP4) {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 512];
            x[300] = odd;
            let out = round_trip(ty, &x);
            assert!(out[..256].iter().all(|v| v.is_finite()), "{ty}");
            assert!(out[300].is_nan(), "{ty} {odd}");
        }
    }
}

#[test]
fn float_types_keep_infinities_and_nan() {
    for ty in [WeightType::F32, WeightType::F16, WeightType::BF16] {
        let out = round_trip(ty, &[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0]);
        assert_eq!(out[..2], [f32::INFINITY, f32::NEG_INFINITY]);
        assert!(out[2].is_nan() && out[3] == 0.0 && out[3].is_sign_negative(), "{ty}");
    }
    assert_eq!(round_trip(WeightType::F16, &[1e6])[0], f32::INFINITY);
}

#[test]
#[should_panic(expected = "a row of 31 elements of type Q8_0")]
fn rows_of_no_whole_blocks_are_a_fault_of_the_caller() {
    quantize_row(WeightType::Q8_0, &[0.0; 31], &mut Vec::new());
}

proptest! {
    /// Half a step of each format: relative 2^-11 and 2^-8 for the floats, d / 2 plus d's own rounding for Q8_0.
    #[test]
    fn rounding_errors_are_bounded(x in prop::collection::vec(-100.0f32..100.0, 64)) {
        prop_assert_eq!(round_trip(WeightType::F32, &x), x.clone());
        for (a, b) in x.iter().zip(round_trip(WeightType::F16, &x)) {
            prop_assert!((a - b).abs() <= a.abs() * 2f32.powi(-11) + 2f32.powi(-25));
        }
        for (a, b) in x.iter().zip(round_trip(WeightType::BF16, &x)) {
            prop_assert!((a - b).abs() <= a.abs() * 2f32.powi(-8));
        }
        for (block, out) in x.chunks(32).zip(round_trip(WeightType::Q8_0, &x).chunks(32)) {
            let d = block.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
            for (a, b) in block.iter().zip(out) {
                prop_assert!((a - b).abs() <= d * 0.5001 + 127.0 * d * 2f32.powi(-11), "{} became {}", a, b);
            }
        }
    }
}
