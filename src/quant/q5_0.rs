//! Q5_0: 32 elements in 22 bytes, an f16 scale `d`, 4 bytes of high bits and 16 bytes of codes as in Q4_0; an element
//! is `d * (code - 16)`. Bit `i` of the four bytes as one little-endian number is bit 4 of the code of element `i`.

use super::rounding::{extreme, f16_bytes, inverse};
use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 2 + 4 + BLOCK_LEN / 2;

/// The codes of a block from its high bits and its low halves.
pub(super) fn codes(high: [u8; 4], low: &[u8; 16]) -> [u8; 32] {
    let high = u32::from_le_bytes(high);
    std::array::from_fn(|i| low[i % 16] >> (i / 16 * 4) & 15 | ((high >> i & 1) as u8) << 4)
}

/// The inverse of [`codes`].
pub(super) fn pack_codes(codes: &[u8; 32]) -> ([u8; 4], [u8; 16]) {
    let high = (0..32).fold(0u32, |bits, i| bits | u32::from(codes[i] >> 4) << i);
    (high.to_le_bytes(), std::array::from_fn(|i| codes[i] & 15 | codes[i + 16] << 4))
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [d0, d1, h0, h1, h2, h3, low @ ..] = block;
        let d = f16::from_le_bytes([*d0, *d1]).to_f32();
        for (x, code) in xs.iter_mut().zip(codes([*h0, *h1, *h2, *h3], low)) {
            *x = d * (f32::from(code) - 16.0);
        }
    }
}

/// The element of the largest magnitude becomes -16, the others the nearest code.
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let (bytes, d) = f16_bytes(extreme(xs) / -16.0);
        let (high, low) = pack_codes(&xs.map(|x| (x * inverse(d) + 16.0).round().clamp(0.0, 31.0) as u8));
        out.extend(bytes);
        out.extend(high);
        out.extend(low);
    }
}
