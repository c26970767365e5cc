//! IQ4_XS: 256 elements in 136 bytes. An f16 scale `d`; a 6-bit scale for each sub-block of 32: 2 bytes with their
//! upper 2 bits, 4 bytes with their low 4 bits; 128 bytes of codes. An element is `d * (scale - 32) * VALUES[code]`
//! with the values of IQ4_NL. The 16 bytes of codes of a sub-block lie as in Q4_0.

use super::iq4_nl::VALUES;
use super::rounding::{Scaled, f16_bytes, nearest};
use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 256;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 2 + 2 + 4 + BLOCK_LEN / 2;

/// The scales of the 8 sub-blocks, each -32 ..= 31: `high` has 2 bits of each and `low` 4 bits, from the lowest bits
/// up.
pub fn scales(high: [u8; 2], low: [u8; 4]) -> [i8; 8] {
    let high = u16::from_le_bytes(high);
    std::array::from_fn(|j| {
        let high = (high >> (2 * j) & 3) as u8;
        (low[j / 2] >> (j % 2 * 4) & 15 | high << 4).cast_signed() - 32
    })
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [d0, d1, h0, h1, l0, l1, l2, l3, codes @ ..] = block;
        let d = f16::from_le_bytes([*d0, *d1]).to_f32();
        let scales = scales([*h0, *h1], [*l0, *l1, *l2, *l3]);
        for (j, xs) in xs.chunks_exact_mut(32).enumerate() {
            let scale = d * f32::from(scales[j]);
            for (i, x) in xs.iter_mut().enumerate() {
                let code = codes[16 * j + i % 16] >> (i / 16 * 4) & 15;
                *x = scale * f32::from(VALUES[usize::from(code)]);
            }
        }
    }
}

/// The element of the largest magnitude of each sub-block becomes -127 or, if it is positive, 113.
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let scaled = Scaled::<8>::of(xs, 120.0, 31.0);
        let code = |i: usize| nearest(&VALUES, scaled.multiple(xs, i));
        let stored = scaled.scales.map(|scale| (scale + 32).cast_unsigned());
        let high = (0..8).fold(0u16, |bits, j| bits | u16::from(stored[j] >> 4) << (2 * j));
        out.extend(f16_bytes(scaled.d).0);
        out.extend(high.to_le_bytes());
        out.extend((0..4).map(|j| stored[2 * j] & 15 | stored[2 * j + 1] << 4));
        let pairs = (0..128).map(|i| i / 16 * 32 + i % 16);
        out.extend(pairs.map(|i| code(i) | code(i + 16) << 4));
    }
}
