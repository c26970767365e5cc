//! Q4_K: 256 elements in 144 bytes. Two f16, `d` and `dmin`; 12 bytes with a 6-bit scale and a 6-bit minimum for each
//! sub-block of 32; 128 bytes of codes. An element is `d * scale * code - dmin * minimum`.
//!
//! 32 bytes of codes are 64 elements: byte `i` holds element `i` in its low half and element `i + 32` in its high half.

use super::rounding::{Affine, f16_bytes};
use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 256;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4 + PACKED_SCALES + BLOCK_LEN / 2;
/// Bytes of the packed scales and minimums.
pub const PACKED_SCALES: usize = 12;

/// The scales and minimums of the 8 sub-blocks, each 0 ..= 63. The first four bytes hold scales 0 to 3 in their low 6
/// bits, the next four the minimums likewise. The last four hold the low halves of scales (low) and minimums (high) 4
/// to 7, whose upper 2 bits are the upper 2 bits of the first eight bytes.
pub fn scales_and_minimums(packed: &[u8; PACKED_SCALES]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minimums) = ([0; 8], [0; 8]);
    for j in 0..4 {
        let (scale, minimum, halves) = (packed[j], packed[j + 4], packed[j + 8]);
        (scales[j], minimums[j]) = (scale & 63, minimum & 63);
        scales[j + 4] = halves & 15 | scale >> 6 << 4;
        minimums[j + 4] = halves >> 4 | minimum >> 6 << 4;
    }
    (scales, minimums)
}

/// The inverse of [`scales_and_minimums`].
pub(super) fn pack_scales(scales: &[u8; 8], minimums: &[u8; 8]) -> [u8; PACKED_SCALES] {
    let mut packed = [0; PACKED_SCALES];
    for j in 0..4 {
        packed[j] = scales[j] | scales[j + 4] >> 4 << 6;
        packed[j + 4] = minimums[j] | minimums[j + 4] >> 4 << 6;
        packed[j + 8] = scales[j + 4] & 15 | minimums[j + 4] << 4;
    }
    packed
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [d0, d1, m0, m1, rest @ ..] = block;
        let (packed, codes) = rest.split_at(PACKED_SCALES);
        let (d, dmin) = (f16::from_le_bytes([*d0, *d1]).to_f32(), f16::from_le_bytes([*m0, *m1]).to_f32());
        let (scales, minimums) = scales_and_minimums(packed.as_array().expect("12 bytes"));
        for (j, xs) in xs.chunks_exact_mut(32).enumerate() {
            let (scale, minimum) = (d * f32::from(scales[j]), dmin * f32::from(minimums[j]));
            for (x, byte) in xs.iter_mut().zip(&codes[j / 2 * 32..]) {
                *x = scale * f32::from(byte >> (j % 2 * 4) & 15) - minimum;
            }
        }
    }
}

/// Each sub-block from its smallest element (or 0) to its largest in 15 steps.
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let affine = Affine::<8>::of(xs, 15, 63);
        let halves = [f16_bytes(affine.d).0, f16_bytes(affine.dmin).0];
        pack(halves, (&affine.scales, &affine.minimums), |i| affine.code(xs, i), out);
    }
}

/// Appends one block: the bytes of `d` and `dmin`, scales and minimums, and the code (0 ..= 15) of each element.
pub(super) fn pack(
    halves: [[u8; 2]; 2],
    (scales, minimums): (&[u8; 8], &[u8; 8]),
    code: impl Fn(usize) -> u8,
    out: &mut Vec<u8>,
) {
    out.extend(halves.as_flattened());
    out.extend(pack_scales(scales, minimums));
    let pairs = (0..128).map(|i| i / 32 * 64 + i % 32);
    out.extend(pairs.map(|i| code(i) | code(i + 32) << 4));
}
