//! Q5_K: 256 elements in 176 bytes. As Q4_K, with 32 bytes of high bits before the codes: bit `j` of byte `i` is bit 4
//! of the code of element `i` of sub-block `j`.

use super::q4_k::{PACKED_SCALES, pack_scales, scales_and_minimums};
use super::rounding::{Affine, f16_bytes};
use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 256;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4 + PACKED_SCALES + BLOCK_LEN / 8 + BLOCK_LEN / 2;

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [d0, d1, m0, m1, rest @ ..] = block;
        let (packed, rest) = rest.split_at(PACKED_SCALES);
        let (high, low) = rest.split_at(32);
        let (d, dmin) = (f16::from_le_bytes([*d0, *d1]).to_f32(), f16::from_le_bytes([*m0, *m1]).to_f32());
        let (scales, minimums) = scales_and_minimums(packed.as_array().expect("12 bytes"));
        for (j, xs) in xs.chunks_exact_mut(32).enumerate() {
            let (scale, minimum) = (d * f32::from(scales[j]), dmin * f32::from(minimums[j]));
            for ((x, low), high) in xs.iter_mut().zip(&low[j / 2 * 32..]).zip(high) {
                let code = low >> (j % 2 * 4) & 15 | (high >> j & 1) << 4;
                *x = scale * f32::from(code) - minimum;
            }
        }
    }
}

/// Each sub-block from its smallest element (or 0) to its largest in 31 steps.
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let affine = Affine::<8>::of(xs, 31, 63);
        out.extend(f16_bytes(affine.d).0);
        out.extend(f16_bytes(affine.dmin).0);
        out.extend(pack_scales(&affine.scales, &affine.minimums));
        let code = |i: usize| affine.code(xs, i);
        out.extend((0..32).map(|i| (0..8).fold(0, |bits, j| bits | code(32 * j + i) >> 4 << j)));
        let pairs = (0..128).map(|i| i / 32 * 64 + i % 32);
        out.extend(pairs.map(|i| code(i) & 15 | code(i + 32) << 4));
    }
}
