//! For the tests of the matrix ops: random tensors as a GGUF file stores them, and their decoding by definition.
//! Shares no code with the packing and the kernels.

use super::tests::TestRng;
use crate::quant::WeightType;

pub const TYPES: [WeightType; 4] = [WeightType::F32, WeightType::F16, WeightType::BF16, WeightType::Q8_0];

/// How wild the values of a test are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Near 1, as in a model.
    Plain,
    /// All magnitudes, zeros, subnormals, for Q8_0 every byte and scale; finite.
    Wild,
}

/// The rows of an `[n, k]` tensor.
pub fn random_tensor(random: &mut TestRng, range: Range, ty: WeightType, n: usize, k: usize) -> Vec<u8> {
    let mut raw = Vec::new();
    for _ in 0..n * k / ty.block_len() {
        match ty {
            WeightType::F32 => raw.extend(random_f32(random, range).to_le_bytes()),
            WeightType::F16 => raw.extend(random_f16_bits(random, range).to_le_bytes()),
            WeightType::BF16 => raw.extend(((random_f32(random, range).to_bits() >> 16) as u16).to_le_bytes()),
            WeightType::Q8_0 => {
                raw.extend(random_f16_bits(random, range).to_le_bytes());
                let extreme = below(random, 4) == 0;
                raw.extend(
                    (0..32)
                        .map(|_| if extreme { [0x80, 0x7f][below(random, 2) as usize] } else { random.next() as u8 }),
                );
            }
        }
    }
    raw
}

/// `[m, k]` activations. Wild ones come in stretches of 32 of like magnitude, some of them zero.
pub fn random_activations(random: &mut TestRng, range: Range, m: usize, k: usize) -> Vec<f32> {
    let mut x: Vec<f32> = (0..m * k).map(|_| random.float(1.0)).collect();
    if range == Range::Wild {
        for stretch in x.chunks_mut(32) {
            let scale = match below(random, 6) {
                0 => 0.0,
                1 => -1e-39,
                2 => 1e30,
                _ => 2f32.powi(below(random, 160) as i32 - 100),
            };
            stretch.iter_mut().for_each(|x| *x *= scale);
        }
    }
    x
}

fn random_f32(random: &mut TestRng, range: Range) -> f32 {
    match (range, below(random, 16)) {
        (Range::Wild, 0) => 0.0,
        (Range::Wild, 1) => -0.0,
        (Range::Wild, 2) => f32::from_bits(below(random, 1 << 23) as u32),
        (Range::Wild, _) => random.float(1.0) * 2f32.powi(below(random, 100) as i32 - 70),
        (Range::Plain, _) => random.float(1.0),
    }
}

fn random_f16_bits(random: &mut TestRng, range: Range) -> u16 {
    let bits = random.next() as u16;
    match range {
        // Any finite value: an exponent of all ones is made one less.
        Range::Wild => {
            if bits & 0x7c00 == 0x7c00 {
                bits & !0x0400
            } else {
                bits
            }
        }
        // Exponents of 2^-8 to 2^-1.
        Range::Plain => (bits & 0x83ff) | ((7 + below(random, 8) as u16) << 10),
    }
}

/// An f16 by its definition.
pub fn f16_value(bits: u16) -> f64 {
    let (sign, exponent, fraction) = (bits >> 15, i32::from((bits >> 10) & 31), f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 => {
            if fraction == 0.0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if sign == 1 { -magnitude } else { magnitude }
}

/// Weights `[n * k]` of a float type, or the bytes of Q8_0 without their scales.
pub fn decode_elements(ty: WeightType, raw: &[u8]) -> Vec<f32> {
    match ty {
        WeightType::F32 => raw.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        WeightType::F16 => raw.chunks(2).map(|b| f16_value(u16::from_le_bytes([b[0], b[1]])) as f32).collect(),
        WeightType::BF16 => raw.chunks(2).map(|b| f32::from_le_bytes([0, 0, b[0], b[1]])).collect(),
        WeightType::Q8_0 => raw.chunks(34).flat_map(|b| b[2..].iter().map(|&q| f32::from(q as i8))).collect(),
    }
}

/// The scales of Q8_0 rows, one for each 32 weights.
pub fn decode_scales(raw: &[u8]) -> Vec<f32> {
    raw.chunks(34).map(|b| f16_value(u16::from_le_bytes([b[0], b[1]])) as f32).collect()
}

/// Weights `[n * k]`, scaled.
pub fn decode(ty: WeightType, raw: &[u8]) -> Vec<f32> {
    let mut weights = decode_elements(ty, raw);
    if ty == WeightType::Q8_0 {
        weights.chunks_mut(32).zip(decode_scales(raw)).for_each(|(w, d)| w.iter_mut().for_each(|w| *w *= d));
    }
    weights
}

/// Uniform in `0 .. end`.
pub fn below(random: &mut TestRng, end: u64) -> u64 {
    random.next() % end
}
