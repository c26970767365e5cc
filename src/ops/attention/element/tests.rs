use super::*;
use crate::kv_cache::KvType;
use crate::ops::attention::tests::definition::as_stored;
use crate::ops::tests::{TestRng, bits};

/// The scale and the integers of one block.
fn rounded(x: &[f32]) -> (f16, Vec<i8>) {
    let (mut out, mut scales) = (vec![99; x.len()], [f16::ONE]);
    i8::round(x, &mut out, &mut scales);
    (scales[0], out)
}

#[test]
fn kv_2_special_blocks() {
    covers!("KV-2");
    assert_eq!(rounded(&[1.0, -127.0, 2.5, 3.5, -0.4]), (f16::ONE, vec![1, -127, 2, 4, 0]));
    assert_eq!(rounded(&[0.0, -0.0]), (f16::ZERO, vec![0, 0]));
    // The scale is 2^-25, halfway to the smallest f16, and the next one above.
    let smallest = 127.0 * 2f32.powi(-25);
    assert_eq!(rounded(&[smallest, 0.0]), (f16::ZERO, vec![0, 0]));
    assert_eq!(rounded(&[smallest * 1.001, 0.0]), (f16::from_bits(1), vec![127, 0]));
    assert_eq!(rounded(&[127.0 * 65519.0]), (f16::MAX, vec![127]));
    for x in [127.0 * 65520.0, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let (scale, out) = rounded(&[1.0, x, 3.0]);
        assert!(scale.is_nan() && out == [0; 3], "{x}");
    }
}

#[test]
fn kv_2_the_error_is_within_the_stated_bound() {
    covers!("KV-2");
    let mut rng = TestRng::new(14);
    for exponent in -40..23 {
        let x = rng.floats(32, 2f32.powi(exponent));
        let greatest = x.iter().fold(0f64, |a, x| a.max(f64::from(x.abs())));
        let bound = (0.5 / 127.0 + 2f64.powi(-11) + 2f64.powi(-20)) * greatest + 127.0 * 2f64.powi(-25);
        let (scale, q) = rounded(&x);
        let read: Vec<f32> = q.iter().map(|q| q.widen() * scale.to_f32()).collect();
        assert_eq!(bits(&read), bits(&as_stored(&x, KvType::Q8_0)));
        for (x, read) in x.iter().zip(read) {
            let error = (f64::from(*x) - f64::from(read)).abs();
            assert!(error <= bound, "{x} read as {read}: error {error:e}, bound {bound:e}");
        }
    }
}
