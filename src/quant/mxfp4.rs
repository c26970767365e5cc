//! MXFP4: 32 elements in 17 bytes, an exponent byte and 16 bytes of codes as in Q4_0. A code is an FP4 number (E2M1);
//! an element is twice that, from [`VALUES`], times half the block's scale, so `2^(exponent - 128) * VALUES[code]`.

use super::rounding::{extreme, nearest};

/// Elements of a block.
pub const BLOCK_LEN: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 1 + BLOCK_LEN / 2;

/// Twice the numbers of FP4: sign, two bits of exponent, one of fraction (OCP Microscaling Formats 1.0).
pub const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `2^(exponent - 128)`, exactly: two of them are subnormal. As in ggml, 255 is no NaN.
pub fn scale(exponent: u8) -> f32 {
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (u32::from(exponent) - 1) << 23 })
}

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [exponent, codes @ ..] = block;
        let d = scale(*exponent);
        for (i, code) in codes.iter().enumerate() {
            xs[i] = d * f32::from(VALUES[usize::from(code & 15)]);
            xs[i + 16] = d * f32::from(VALUES[usize::from(code >> 4)]);
        }
    }
}

/// The largest magnitude is at most 8 half scales: its own exponent less 2, and the nearest values. What is not finite
/// gets the largest scale, as the format has no other way to say it.
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let exponent = (extreme(xs).to_bits() >> 23) as u8;
        let exponent = if exponent == u8::MAX { exponent } else { exponent.saturating_sub(2) };
        let code = |x: f32| nearest(&VALUES, x / scale(exponent));
        out.push(exponent);
        out.extend((0..16).map(|i| code(xs[i]) | code(xs[i + 16]) << 4));
    }
}
