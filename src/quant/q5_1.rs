//! Q5_1: 32 elements in 24 bytes, an f16 scale `d`, an f16 minimum `m`, then high bits and codes as in Q5_0; an
//! element is `d * code + m`.

use super::q5_0::{codes, pack_codes};
use super::rounding::{f16_bytes, inverse, span};
use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 2 + 2 + 4 + BLOCK_LEN / 2;

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [d0, d1, m0, m1, h0, h1, h2, h3, low @ ..] = block;
        let (d, m) = (f16::from_le_bytes([*d0, *d1]).to_f32(), f16::from_le_bytes([*m0, *m1]).to_f32());
        for (x, code) in xs.iter_mut().zip(codes([*h0, *h1, *h2, *h3], low)) {
            *x = d * f32::from(code) + m;
        }
    }
}

/// From the smallest element to the largest in 31 steps.
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let (low, high) = span(xs);
        let ((d_bytes, d), (m_bytes, m)) = (f16_bytes((high - low) / 31.0), f16_bytes(low));
        let (high, low) = pack_codes(&xs.map(|x| ((x - m) * inverse(d)).round().clamp(0.0, 31.0) as u8));
        out.extend(d_bytes);
        out.extend(m_bytes);
        out.extend(high);
        out.extend(low);
    }
}
