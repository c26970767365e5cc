//! Q6_K: 256 elements in 210 bytes. 128 bytes of low codes; 64 bytes of high bits; an int8 scale for each sub-block of
//! 16; an f16 scale `d`. An element is `d * scale * (code - 32)`.
//!
//! Each 128 elements have 64 bytes of low codes and 32 of high bits. Byte `i` of the low codes holds the low 4 bits of
//! element `i` in its low half and of element `i + 64` in its high half. Byte `i` of the high bits holds the upper 2
//! bits of the elements `i`, `i + 32`, `i + 64`, `i + 96`, from its lowest bits up.

use super::rounding::{Scaled, f16_bytes};
use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 256;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = BLOCK_LEN / 2 + BLOCK_LEN / 4 + BLOCK_LEN / 16 + 2;

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [fields @ .., d0, d1] = block;
        let (low, rest) = fields.split_at(128);
        let (high, scales) = rest.split_at(64);
        let d = f16::from_le_bytes([*d0, *d1]).to_f32();
        for (i, x) in xs.iter_mut().enumerate() {
            let (half, place) = (i / 128, i % 128);
            let low = low[64 * half + place % 64] >> (place / 64 * 4) & 15;
            let high = high[32 * half + place % 32] >> (place / 32 * 2) & 3;
            let scale = d * f32::from(scales[i / 16].cast_signed());
            *x = scale * (f32::from(low | high << 4) - 32.0);
        }
    }
}

/// The element of the largest magnitude of each sub-block becomes -32 or 32 (and then 31).
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let scaled = Scaled::<16>::of(xs, 32.0, 127.0);
        let code = |i: usize| (scaled.multiple(xs, i).round().clamp(-32.0, 31.0) + 32.0) as u8;
        pack(f16_bytes(scaled.d).0, &scaled.scales, code, out);
    }
}

/// Appends one block: the bytes of `d`, the scales, and the code (0 ..= 63) of each element.
pub(super) fn pack(d: [u8; 2], scales: &[i8; 16], code: impl Fn(usize) -> u8, out: &mut Vec<u8>) {
    let pairs = (0..128).map(|i| i / 64 * 128 + i % 64);
    out.extend(pairs.map(|i| code(i) & 15 | code(i + 64) << 4));
    let fours = (0..64).map(|i| i / 32 * 128 + i % 32);
    out.extend(fours.map(|i| (0..4).fold(0, |bits, n| bits | code(i + 32 * n) >> 4 << (2 * n))));
    out.extend(scales.map(i8::cast_unsigned));
    out.extend(d);
}
