//! IQ4_NL: 32 elements in 18 bytes, as Q4_0, but a code stands for one of 16 fixed integers: an element is
//! `d * VALUES[code]`.

use super::rounding::{extreme, f16_bytes, inverse, nearest};
use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 2 + BLOCK_LEN / 2;

/// What the codes stand for, as ggml defines the format (`kvalues_iq4nl` in `ggml-common.h`).
pub const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [d0, d1, codes @ ..] = block;
        let d = f16::from_le_bytes([*d0, *d1]).to_f32();
        for (i, code) in codes.iter().enumerate() {
            xs[i] = d * f32::from(VALUES[usize::from(code & 15)]);
            xs[i + 16] = d * f32::from(VALUES[usize::from(code >> 4)]);
        }
    }
}

/// The element of the largest magnitude becomes -127, the others the nearest value.
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let (bytes, d) = f16_bytes(extreme(xs) / -127.0);
        let code = |x: f32| nearest(&VALUES, x * inverse(d));
        out.extend(bytes);
        out.extend((0..16).map(|i| code(xs[i]) | code(xs[i + 16]) << 4));
    }
}
