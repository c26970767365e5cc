//! Block formats of GGUF weights: sizes, and scalar conversion to and from f32.

pub mod encode;
mod float;
pub mod iq4_nl;
pub mod iq4_xs;
pub mod mxfp4;
pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
mod rounding;

use std::fmt;

/// A tensor type of a GGUF file that this build can compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    IQ4NL,
    MXFP4,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    IQ4XS,
}

impl WeightType {
    /// Every type, in the order of the declaration.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::IQ4NL,
        Self::MXFP4,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::IQ4XS,
    ];

    /// Elements of one block: the row length is a multiple of it.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::IQ4NL | Self::MXFP4 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::IQ4XS => 256,
        }
    }

    /// Bytes of one block as GGUF stores it.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => q8_0::BLOCK_BYTES,
            Self::Q4_0 => q4_0::BLOCK_BYTES,
            Self::Q4_1 => q4_1::BLOCK_BYTES,
            Self::Q5_0 => q5_0::BLOCK_BYTES,
            Self::Q5_1 => q5_1::BLOCK_BYTES,
            Self::IQ4NL => iq4_nl::BLOCK_BYTES,
            Self::MXFP4 => mxfp4::BLOCK_BYTES,
            Self::Q2K => q2_k::BLOCK_BYTES,
            Self::Q3K => q3_k::BLOCK_BYTES,
            Self::Q4K => q4_k::BLOCK_BYTES,
            Self::Q5K => q5_k::BLOCK_BYTES,
            Self::Q6K => q6_k::BLOCK_BYTES,
            Self::IQ4XS => iq4_xs::BLOCK_BYTES,
        }
    }

    /// Bytes of a row of `len` elements; `None` where `len` is no multiple of the block or the size overflows.
    pub fn row_bytes(self, len: usize) -> Option<usize> {
        if !len.is_multiple_of(self.block_len()) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::IQ4NL => "IQ4_NL",
            Self::MXFP4 => "MXFP4",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::IQ4XS => "IQ4_XS",
        })
    }
}

/// Widens one row (or any whole number of blocks) to f32: the exact value of each weight, rounded once.
///
/// # Panics
/// `bytes` does not hold exactly `out.len()` elements of type `ty`.
pub fn dequantize_row(ty: WeightType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(ty.row_bytes(out.len()), Some(bytes.len()), "a row of {} elements of type {ty}", out.len());
    match ty {
        WeightType::F32 => float::dequantize_f32(bytes, out),
        WeightType::F16 => float::dequantize_f16(bytes, out),
        WeightType::BF16 => float::dequantize_bf16(bytes, out),
        WeightType::Q8_0 => q8_0::dequantize(bytes, out),
        WeightType::Q4_0 => q4_0::dequantize(bytes, out),
        WeightType::Q4_1 => q4_1::dequantize(bytes, out),
        WeightType::Q5_0 => q5_0::dequantize(bytes, out),
        WeightType::Q5_1 => q5_1::dequantize(bytes, out),
        WeightType::IQ4NL => iq4_nl::dequantize(bytes, out),
        WeightType::MXFP4 => mxfp4::dequantize(bytes, out),
        WeightType::Q2K => q2_k::dequantize(bytes, out),
        WeightType::Q3K => q3_k::dequantize(bytes, out),
        WeightType::Q4K => q4_k::dequantize(bytes, out),
        WeightType::Q5K => q5_k::dequantize(bytes, out),
        WeightType::Q6K => q6_k::dequantize(bytes, out),
        WeightType::IQ4XS => iq4_xs::dequantize(bytes, out),
    }
}

/// Appends one row (or any whole number of blocks) in type `ty` to `out`.
///
/// # Panics
/// The length of `x` is no multiple of the type's block.
pub fn quantize_row(ty: WeightType, x: &[f32], out: &mut Vec<u8>) {
    assert!(x.len().is_multiple_of(ty.block_len()), "a row of {} elements of type {ty}", x.len());
    match ty {
        WeightType::F32 => float::quantize_f32(x, out),
        WeightType::F16 => float::quantize_f16(x, out),
        WeightType::BF16 => float::quantize_bf16(x, out),
        WeightType::Q8_0 => q8_0::quantize(x, out),
        WeightType::Q4_0 => q4_0::quantize(x, out),
        WeightType::Q4_1 => q4_1::quantize(x, out),
        WeightType::Q5_0 => q5_0::quantize(x, out),
        WeightType::Q5_1 => q5_1::quantize(x, out),
        WeightType::IQ4NL => iq4_nl::quantize(x, out),
        WeightType::MXFP4 => mxfp4::quantize(x, out),
        WeightType::Q2K => q2_k::quantize(x, out),
        WeightType::Q3K => q3_k::quantize(x, out),
        WeightType::Q4K => q4_k::quantize(x, out),
        WeightType::Q5K => q5_k::quantize(x, out),
        WeightType::Q6K => q6_k::quantize(x, out),
        WeightType::IQ4XS => iq4_xs::quantize(x, out),
    }
}

#[cfg(test)]
mod tests;
