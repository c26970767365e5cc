//! Q4_0: 32 elements in 18 bytes, an f16 scale `d` and 16 bytes of codes; an element is `d * (code - 8)`. Byte `i`
//! holds element `i` in its low half and element `i + 16` in its high half.

use super::rounding::{extreme, f16_bytes, inverse};
use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 2 + BLOCK_LEN / 2;

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [d0, d1, codes @ ..] = block;
        let d = f16::from_le_bytes([*d0, *d1]).to_f32();
        for (i, code) in codes.iter().enumerate() {
            xs[i] = d * (f32::from(code & 15) - 8.0);
            xs[i + 16] = d * (f32::from(code >> 4) - 8.0);
        }
    }
}

/// The element of the largest magnitude becomes -8, the others the nearest code.
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let (bytes, d) = f16_bytes(extreme(xs) / -8.0);
        let code = |x: f32| (x * inverse(d) + 8.0).round().clamp(0.0, 15.0) as u8;
        out.extend(bytes);
        out.extend((0..16).map(|i| code(xs[i]) | code(xs[i + 16]) << 4));
    }
}
