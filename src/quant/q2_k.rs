//! Q2_K: 256 elements in 84 bytes. 16 bytes with a 4-bit scale (low) and a 4-bit minimum (high) for each sub-block of
//! 16; 64 bytes of codes; two f16, `d` and `dmin`. An element is `d * scale * code - dmin * minimum`.
//!
//! 32 bytes of codes are 128 elements: byte `i` holds the elements `i`, `i + 32`, `i + 64`, `i + 96`, from its lowest
//! bits up.

use super::rounding::{Affine, f16_bytes};
use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 256;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = BLOCK_LEN / 16 + BLOCK_LEN / 4 + 4;

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [fields @ .., d0, d1, m0, m1] = block;
        let (scales, codes) = fields.split_at(16);
        let (d, dmin) = (f16::from_le_bytes([*d0, *d1]).to_f32(), f16::from_le_bytes([*m0, *m1]).to_f32());
        for (j, (xs, packed)) in xs.chunks_exact_mut(16).zip(scales).enumerate() {
            let (scale, minimum) = (d * f32::from(packed & 15), dmin * f32::from(packed >> 4));
            for (x, byte) in xs.iter_mut().zip(&codes[j / 8 * 32 + j % 2 * 16..]) {
                *x = scale * f32::from(byte >> (j % 8 / 2 * 2) & 3) - minimum;
            }
        }
    }
}

/// Each sub-block from its smallest element (or 0) to its largest in 3 steps.
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let affine = Affine::<16>::of(xs, 3, 15);
        out.extend(affine.scales.iter().zip(affine.minimums).map(|(scale, minimum)| scale | minimum << 4));
        let code = |i: usize| affine.code(xs, i);
        let fours = (0..64).map(|i| i / 32 * 128 + i % 32);
        out.extend(fours.map(|i| (0..4).fold(0, |bits, n| bits | code(i + 32 * n) << (2 * n))));
        out.extend(f16_bytes(affine.d).0);
        out.extend(f16_bytes(affine.dmin).0);
    }
}
