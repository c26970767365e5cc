//! Q4_1: 32 elements in 20 bytes, an f16 scale `d`, an f16 minimum `m` and 16 bytes of codes as in Q4_0; an element is
//! `d * code + m`.

use super::rounding::{f16_bytes, inverse, span};
use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 2 + 2 + BLOCK_LEN / 2;

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [d0, d1, m0, m1, codes @ ..] = block;
        let (d, m) = (f16::from_le_bytes([*d0, *d1]).to_f32(), f16::from_le_bytes([*m0, *m1]).to_f32());
        for (i, code) in codes.iter().enumerate() {
            xs[i] = d * f32::from(code & 15) + m;
            xs[i + 16] = d * f32::from(code >> 4) + m;
        }
    }
}

/// From the smallest element to the largest in 15 steps.
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let (low, high) = span(xs);
        let ((d_bytes, d), (m_bytes, m)) = (f16_bytes((high - low) / 15.0), f16_bytes(low));
        let code = |x: f32| ((x - m) * inverse(d)).round().clamp(0.0, 15.0) as u8;
        out.extend(d_bytes);
        out.extend(m_bytes);
        out.extend((0..16).map(|i| code(xs[i]) | code(xs[i + 16]) << 4));
    }
}
