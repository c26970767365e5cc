//! The float types: F32, F16 and BF16, little-endian, one element a block.

use half::{bf16, f16};

pub(super) fn dequantize_f32(bytes: &[u8], out: &mut [f32]) {
    for (x, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *x = f32::from_le_bytes(*raw);
    }
}

pub(super) fn dequantize_f16(bytes: &[u8], out: &mut [f32]) {
    for (x, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *x = f16::from_le_bytes(*raw).to_f32();
    }
}

pub(super) fn dequantize_bf16(bytes: &[u8], out: &mut [f32]) {
    for (x, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *x = bf16::from_le_bytes(*raw).to_f32();
    }
}

pub(super) fn quantize_f32(x: &[f32], out: &mut Vec<u8>) {
    out.extend(x.iter().flat_map(|v| v.to_le_bytes()));
}

/// Rounds to nearest, ties to even.
pub(super) fn quantize_f16(x: &[f32], out: &mut Vec<u8>) {
    out.extend(x.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()));
}

/// Rounds to nearest, ties to even.
pub(super) fn quantize_bf16(x: &[f32], out: &mut Vec<u8>) {
    out.extend(x.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()));
}
