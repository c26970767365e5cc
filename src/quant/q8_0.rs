//! Q8_0: 32 elements in 34 bytes, an f16 scale `d` and then 32 int8 `q`; an element is `d * q`.

use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 2 + BLOCK_LEN;

pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (block, xs) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK_LEN>().0) {
        let [d0, d1, q @ ..] = block;
        let d = f16::from_le_bytes([*d0, *d1]).to_f32();
        for (x, &q) in xs.iter_mut().zip(q) {
            *x = d * f32::from(q.cast_signed());
        }
    }
}

/// `d = max|x| / 127` and `q = round(x / d)`, halves away from zero, as llama.cpp. `d` is rounded to f16 after the
/// division, so `|q| <= 127`. A block with a NaN or an infinity gets a NaN scale.
pub(super) fn quantize(x: &[f32], out: &mut Vec<u8>) {
    for xs in x.as_chunks::<BLOCK_LEN>().0 {
        let finite = xs.iter().all(|v| v.is_finite());
        let amax = xs.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        let d = if finite { amax / 127.0 } else { f32::NAN };
        let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
        out.extend(f16::from_f32(d).to_le_bytes());
        out.extend(xs.iter().map(|v| ((v * inverse).round() as i8).cast_unsigned()));
    }
}
