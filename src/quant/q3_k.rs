//! Q3_K: 256 elements in 110 bytes. 32 bytes of high bits; 64 bytes of low codes; 12 bytes with a 6-bit scale for each
//! sub-block of 16; an f16 scale `d`. An element is `d * (scale - 32) * (code - 4)`.
//!
//! The low 2 bits of a code lie as in Q2_K. Bit `n` of byte `i` of the high bits is bit 2 of the code of element
//! `32 * n + i`.

use super::rounding::{Scaled, f16_bytes};
use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 256;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = BLOCK_LEN / 8 + BLOCK_LEN / 4 + PACKED_SCALES + 2;
/// Bytes of the packed scales.
pub const PACKED_SCALES: usize = 12;

/// The scales of the 16 sub-blocks, each -32 ..= 31. The first eight bytes hold the low 4 bits of scales 0 to 7 in
/// their low halves and of 8 to 15 in their high ones. Byte `8 + i` holds the upper 2 bits of scales `i`, `i + 4`, `i
/// + 8`, `i + 12`, from its lowest bits up.
pub fn scales(packed: &[u8; PACKED_SCALES]) -> [i8; 16] {
    std::array::from_fn(|j| {
        let low = packed[j % 8] >> (j / 8 * 4) & 15;
        let high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        (low | high << 4).cast_signed() - 32
    })
}

/// The inverse of [`scales`].
fn pack_scales(scales: &[i8; 16]) -> [u8; PACKED_SCALES] {
    let mut packed = [0; PACKED_SCALES];
    for (j, scale) in scales.iter().enumerate() {
        let scale = (scale + 32).cast_unsigned();
        packed[j % 8] |= (scale & 15) << (j / 8 * 4);
        packed[8 + j % 4] |= scale >> 4 << (j / 4 * 2);
    }
    packed
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [fields @ .., d0, d1] = block;
        let (high, rest) = fields.split_at(32);
        let (low, packed) = rest.split_at(64);
        let d = f16::from_le_bytes([*d0, *d1]).to_f32();
        let scales = scales(packed.as_array().expect("12 bytes"));
        for (j, xs) in xs.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(scales[j]);
            let bytes = low[j / 8 * 32 + j % 2 * 16..].iter().zip(&high[j % 2 * 16..]);
            for (x, (low, high)) in xs.iter_mut().zip(bytes) {
                let code = low >> (j % 8 / 2 * 2) & 3 | (high >> (j / 2) & 1) << 2;
                *x = scale * (f32::from(code) - 4.0);
            }
        }
    }
}

/// The element of the largest magnitude of each sub-block becomes -4 or 4 (and then 3).
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let scaled = Scaled::<16>::of(xs, 4.0, 31.0);
        let code = |i: usize| (scaled.multiple(xs, i).round().clamp(-4.0, 3.0) + 4.0) as u8;
        out.extend((0..32).map(|i| (0..8).fold(0, |bits, n| bits | code(32 * n + i) >> 2 << n)));
        let fours = (0..64).map(|i| i / 32 * 128 + i % 32);
        out.extend(fours.map(|i| (0..4).fold(0, |bits, n| bits | (code(i + 32 * n) & 3) << (2 * n))));
        out.extend(pack_scales(&scaled.scales));
        out.extend(f16_bytes(scaled.d).0);
    }
}
