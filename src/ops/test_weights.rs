//! For the tests of the matrix ops: random tensors as a GGUF file stores them, and their decoding by definition.
//! Shares no code with the packing and the kernels.

use super::tests::TestRng;
use crate::quant::WeightType;

/// The types of blocks.
pub fn integer_types() -> impl Iterator<Item = WeightType> {
    WeightType::ALL.into_iter().filter(|ty| ty.block_len() > 1)
}

/// How wild the values of a test are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Near 1, as in a model.
    Plain,
    /// All magnitudes, zeros, subnormals, for integer types every byte and scale; finite.
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
            _ => raw.extend(random_block(random, range, ty)),
        }
    }
    raw
}

/// A block of an integer type: any bytes, at times only the extreme ones.
fn random_block(random: &mut TestRng, range: Range, ty: WeightType) -> Vec<u8> {
    let extreme = below(random, 4) == 0;
    let mut byte = || if extreme { [0x00, 0xff, 0x80, 0x7f][below(random, 4) as usize] } else { random.next() as u8 };
    let mut block: Vec<u8> = (0..ty.block_bytes()).map(|_| byte()).collect();
    if ty == WeightType::MXFP4 && range == Range::Plain {
        block[0] = 120 + below(random, 8) as u8;
    }
    for at in f16_places(ty) {
        block[*at..][..2].copy_from_slice(&random_f16_bits(random, range).to_le_bytes());
    }
    block
}

/// Where the f16 numbers of a block stand: d, then m or dmin.
pub fn f16_places(ty: WeightType) -> &'static [usize] {
    match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => &[],
        WeightType::MXFP4 => &[],
        WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q5_0 | WeightType::IQ4NL | WeightType::IQ4XS => &[0],
        WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4K | WeightType::Q5K => &[0, 2],
        WeightType::Q2K => &[80, 82],
        WeightType::Q3K => &[108],
        WeightType::Q6K => &[208],
    }
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

/// A block of an integer type by its definition: element `i` is `d * scales[j] * q[i] + m * minimums[j]`, `j` its
/// sub-block.
pub struct Block {
    pub d: f32,
    /// m of blocks of 32; -dmin of super-blocks; 0 where there is none.
    pub m: f32,
    pub q: Vec<i32>,
    /// Of each sub-block; 1 in blocks of 32.
    pub scales: Vec<i32>,
    /// Of each sub-block; 1 in blocks of 32. Empty where the type has none.
    pub minimums: Vec<i32>,
}

impl Block {
    /// Elements of a sub-block.
    pub fn sub_len(&self) -> usize {
        self.q.len() / self.scales.len()
    }

    /// The weights, exact: every f16 is a multiple of 2^-24 below 2^16, so that nothing rounds in f64.
    pub fn weights(&self) -> impl Iterator<Item = f64> {
        self.q.iter().enumerate().map(|(i, q)| {
            let j = i / self.sub_len();
            let minimum = self.minimums.get(j).map_or(0.0, |minimum| f64::from(self.m) * f64::from(*minimum));
            f64::from(self.d) * f64::from(self.scales[j]) * f64::from(*q) + minimum
        })
    }

    /// The magnitudes of the two parts of each weight together.
    pub fn magnitudes(&self) -> impl Iterator<Item = f64> {
        self.q.iter().enumerate().map(|(i, q)| {
            let j = i / self.sub_len();
            let minimum = self.minimums.get(j).map_or(0.0, |minimum| f64::from(self.m) * f64::from(*minimum));
            (f64::from(self.d) * f64::from(self.scales[j]) * f64::from(*q)).abs() + minimum.abs()
        })
    }
}

/// The blocks of rows of an integer type.
pub fn decode_blocks(ty: WeightType, raw: &[u8]) -> Vec<Block> {
    raw.chunks(ty.block_bytes()).map(|bytes| decode_block(ty, bytes)).collect()
}

fn decode_block(ty: WeightType, bytes: &[u8]) -> Block {
    let f16s: Vec<f32> =
        f16_places(ty).iter().map(|&at| f16_value(u16::from_le_bytes([bytes[at], bytes[at + 1]])) as f32).collect();
    let q = (0..ty.block_len()).map(|i| integer(ty, bytes, i)).collect();
    let subs = match ty {
        WeightType::Q4K | WeightType::Q5K | WeightType::IQ4XS => 8,
        WeightType::Q2K | WeightType::Q3K | WeightType::Q6K => 16,
        _ => 1,
    };
    let (scales, minimums): (Vec<i32>, Vec<Option<i32>>) = (0..subs).map(|j| scale(ty, bytes, j)).unzip();
    let m = f16s.get(1).map_or(0.0, |m| if subs == 1 { *m } else { -m });
    let d = if ty == WeightType::MXFP4 { 2f64.powi(i32::from(bytes[0]) - 128) as f32 } else { f16s[0] };
    Block { d, m, q, scales, minimums: minimums.into_iter().flatten().collect() }
}

/// The scale and the minimum of sub-block `j`.
fn scale(ty: WeightType, b: &[u8], j: usize) -> (i32, Option<i32>) {
    let byte = |at: usize| i32::from(b[at]);
    match ty {
        WeightType::Q4_1 | WeightType::Q5_1 => (1, Some(1)),
        WeightType::Q2K => (byte(j) & 15, Some(byte(j) >> 4)),
        WeightType::Q3K => {
            let low = if j < 8 { byte(96 + j) & 15 } else { byte(96 + j - 8) >> 4 };
            ((low | (byte(104 + j % 4) >> (j / 4 * 2) & 3) << 4) - 32, None)
        }
        WeightType::Q4K | WeightType::Q5K if j < 4 => (byte(4 + j) & 63, Some(byte(8 + j) & 63)),
        WeightType::Q4K | WeightType::Q5K => {
            let upper = |at: usize| (byte(at) & 0xc0) >> 2;
            (byte(8 + j) & 15 | upper(j), Some(byte(8 + j) >> 4 | upper(4 + j)))
        }
        WeightType::Q6K => (i32::from(b[192 + j] as i8), None),
        WeightType::IQ4XS => {
            let low = byte(4 + j / 2) >> (j % 2 * 4) & 15;
            ((low | (byte(2 + j / 4) >> (j % 4 * 2) & 3) << 4) - 32, None)
        }
        _ => (1, None),
    }
}

/// ggml's `kvalues_iq4nl`.
const IQ4_VALUES: [i32; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Element `i` of a block without its scales.
fn integer(ty: WeightType, b: &[u8], i: usize) -> i32 {
    // A 4-bit code in blocks of 32: bytes from `at` on, the second 16 in the high halves.
    let nibble = |at: usize| i32::from(b[at + i % 16] >> (4 * (i / 16)) & 15);
    // `count` bits of a byte.
    let bits = |at: usize, shift: usize, count: u32| i32::from(b[at]) >> shift & ((1 << count) - 1);
    match ty {
        WeightType::Q8_0 => i32::from(b[2 + i] as i8),
        WeightType::Q4_0 => nibble(2) - 8,
        WeightType::Q4_1 => nibble(4),
        WeightType::Q5_0 => nibble(6) + 16 * bits(2 + i / 8, i % 8, 1) - 16,
        WeightType::Q5_1 => nibble(8) + 16 * bits(4 + i / 8, i % 8, 1),
        WeightType::IQ4NL => IQ4_VALUES[nibble(2) as usize],
        WeightType::MXFP4 => {
            // Sign, exponent, fraction: half the fraction where the exponent is 0, else
            // 2^(exponent - 1) * (1 + half the fraction).
            let code = nibble(1);
            let (exponent, fraction) = (code >> 1 & 3, code & 1);
            let twice = if exponent == 0 { fraction } else { (2 + fraction) << (exponent - 1) };
            if code & 8 == 0 { twice } else { -twice }
        }
        WeightType::Q2K => bits(16 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2),
        WeightType::Q3K => bits(32 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2) + 4 * bits(i % 32, i / 32, 1) - 4,
        WeightType::Q4K => bits(16 + i / 64 * 32 + i % 32, i / 32 % 2 * 4, 4),
        WeightType::Q5K => bits(48 + i / 64 * 32 + i % 32, i / 32 % 2 * 4, 4) + 16 * bits(16 + i % 32, i / 32, 1),
        WeightType::Q6K => {
            let low = bits(i / 128 * 64 + i % 64, i % 128 / 64 * 4, 4);
            low + 16 * bits(128 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2) - 32
        }
        WeightType::IQ4XS => IQ4_VALUES[bits(8 + i / 32 * 16 + i % 16, i / 16 % 2 * 4, 4) as usize],
        _ => unreachable!("{ty} has no blocks"),
    }
}

/// Weights `[n * k]`, rounded once.
pub fn decode(ty: WeightType, raw: &[u8]) -> Vec<f32> {
    match ty {
        WeightType::F32 => raw.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        WeightType::F16 => raw.chunks(2).map(|b| f16_value(u16::from_le_bytes([b[0], b[1]])) as f32).collect(),
        WeightType::BF16 => raw.chunks(2).map(|b| f32::from_le_bytes([0, 0, b[0], b[1]])).collect(),
        _ => {
            let blocks = decode_blocks(ty, raw);
            blocks.iter().flat_map(|block| block.weights().map(|w| w as f32).collect::<Vec<_>>()).collect()
        }
    }
}

/// The lines of `tests/blocks/TYPE.txt`: blocks, and their weights as llama.cpp's `gguf` package decodes them.
pub fn golden_blocks(ty: WeightType) -> Vec<(Vec<u8>, Vec<f32>)> {
    let text = match ty {
        WeightType::Q8_0 => include_str!("../../tests/blocks/q8_0.txt"),
        WeightType::Q4_0 => include_str!("../../tests/blocks/q4_0.txt"),
        WeightType::Q4_1 => include_str!("../../tests/blocks/q4_1.txt"),
        WeightType::Q5_0 => include_str!("../../tests/blocks/q5_0.txt"),
        WeightType::Q5_1 => include_str!("../../tests/blocks/q5_1.txt"),
        WeightType::IQ4NL => include_str!("../../tests/blocks/iq4_nl.txt"),
        WeightType::MXFP4 => include_str!("../../tests/blocks/mxfp4.txt"),
        WeightType::Q2K => include_str!("../../tests/blocks/q2_k.txt"),
        WeightType::Q3K => include_str!("../../tests/blocks/q3_k.txt"),
        WeightType::Q4K => include_str!("../../tests/blocks/q4_k.txt"),
        WeightType::Q5K => include_str!("../../tests/blocks/q5_k.txt"),
        WeightType::Q6K => include_str!("../../tests/blocks/q6_k.txt"),
        WeightType::IQ4XS => include_str!("../../tests/blocks/iq4_xs.txt"),
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => unreachable!("{ty} has no blocks"),
    };
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
    };
    let lines = text.lines().map(|line| {
        let (block, weights) = line.split_once(' ').expect("two columns");
        let weights = bytes(weights);
        let weights = weights.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (bytes(block), weights)
    });
    lines.collect()
}

/// Uniform in `0 .. end`.
pub fn below(random: &mut TestRng, end: u64) -> u64 {
    random.next() % end
}
