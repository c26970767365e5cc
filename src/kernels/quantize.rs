//! Rounding activations to int8 blocks, one source for every path.
//!
//! Origin: MM-5 of `specs/numerics.md`, written to the tile layout of [`super::panel`].
//!
//! ```text
//! for each column, block of 32:
//!   a  = max |x|                      as the largest bit pattern without sign
//!   dx = a / 127,  p = round(x * (127 / a))
//!   words: 8 x [4 bytes of p], -128 * sum of p, dx
//! ```
//!
//! 1. The magnitudes are compared as integers: exact, free of order, and NaN and infinity end up on top, so that one
//!    maximum also tells whether all are finite.
//! 2. The paths differ only in the instructions the compiler may use for the same source: it vectorises the loops and
//!    never changes a rounding.
#![allow(unsafe_code)]

use super::panel::WORDS_32;
use super::{Isa, Path};

/// Bit pattern of infinity: magnitudes from here on are not finite.
const INFINITE: u32 = 0x7f80_0000;

/// A block of activations: bytes, their sum, and the scale.
struct Block {
    bytes: [i8; 32],
    sum: i32,
    scale: f32,
}

/// Quantises a tile: `x` is `[C, k]`, `words` is `[k / 32][10 * C]`.
///
/// # Panics
/// If `k` is not a positive multiple of 32 or the lengths do not fit.
pub fn quantize_tile(isa: Isa, x: &[f32], k: usize, words: &mut [u32]) {
    assert!(k > 0 && k.is_multiple_of(32) && x.len().is_multiple_of(k), "{} activations in rows of {k}", x.len());
    assert_eq!(words.len(), x.len() / 32 * WORDS_32, "words of {} activations", x.len());
    match isa.path() {
        Path::Scalar => quantize_rows(x, k, words),
        // SAFETY: holding an Isa of this path proves the features it is compiled with.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { quantize_rows_avx2(x, k, words) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { quantize_rows_avx512(x, k, words) },
        #[cfg(not(target_arch = "x86_64"))]
        Path::Avx2 | Path::Avx512 => unreachable!("an Isa is only made for a path this CPU has"),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_rows_avx2(x: &[f32], k: usize, words: &mut [u32]) {
    quantize_rows(x, k, words);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn quantize_rows_avx512(x: &[f32], k: usize, words: &mut [u32]) {
    quantize_rows(x, k, words);
}

#[inline(always)]
fn quantize_rows(x: &[f32], k: usize, words: &mut [u32]) {
    let columns = x.len() / k;
    for (c, row) in x.chunks_exact(k).enumerate() {
        let (blocks, _) = row.as_chunks::<32>();
        for (block, words) in blocks.iter().zip(words.chunks_exact_mut(WORDS_32 * columns)) {
            let block = quantize_block(block);
            let (quads, _) = block.bytes.as_chunks::<4>();
            for (group, quad) in quads.iter().enumerate() {
                words[group * columns + c] = u32::from_le_bytes(quad.map(|q| q as u8));
            }
            words[8 * columns + c] = (-128 * block.sum) as u32;
            words[9 * columns + c] = block.scale.to_bits();
        }
    }
}

#[inline(always)]
fn quantize_block(x: &[f32; 32]) -> Block {
    let mut largest = 0;
    for v in x {
        largest = largest.max(v.to_bits() & !(1 << 31));
    }
    let amax = f32::from_bits(largest);
    let inverse = 127.0 / amax;
    if largest >= INFINITE || inverse == f32::INFINITY {
        let scale = if largest >= INFINITE { f32::NAN } else { 0.0 };
        return Block { bytes: [0; 32], sum: 0, scale };
    }
    let mut bytes = [0; 32];
    let mut sum = 0;
    for (byte, v) in bytes.iter_mut().zip(x) {
        let q = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i32;
        *byte = q as i8;
        sum += q;
    }
    Block { bytes, sum, scale: amax / 127.0 }
}
