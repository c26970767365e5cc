//! What the quantisers share. They round to the nearest code and search for nothing better: good enough for synthetic
//! models and tests.

use half::f16;

/// `d` rounded to f16: its bytes, and the value they hold.
pub(super) fn f16_bytes(d: f32) -> ([u8; 2], f32) {
    let d = f16::from_f32(d);
    (d.to_le_bytes(), d.to_f32())
}

/// `1 / d`, and 0 for 0: a block of zeros gets codes that stand for 0.
pub(super) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The element of the largest magnitude with its sign; NaN where one is not finite.
pub(super) fn extreme(x: &[f32]) -> f32 {
    if x.iter().any(|v| !v.is_finite()) {
        return f32::NAN;
    }
    x.iter().fold(0.0, |extreme: f32, v| if v.abs() > extreme.abs() { *v } else { extreme })
}
