//! Rounding activations to int8 blocks, one source for every path.
//!
//! Origin: MM-5 and MM-9 of `specs/numerics.md`, written to the tile layout of [`super::panel`].
//!
//! ```text
//! for each column, block of 32 or 256:
//!   a  = max |x|                      as the largest bit pattern without sign
//!   dx = a / 127,  p = round(x * (127 / a))
//!   words: 8 x [4 bytes of p], -128 * sum of p, dx                    blocks of 256: see `panel`
//! ```
//!
//! 1. The magnitudes are compared as integers: exact, free of order, and NaN and infinity end up on top, so that one
//!    maximum also tells whether all are finite.
//! 2. The paths differ only in the instructions the compiler may use for the same source: it vectorises the loops and
//!    never changes a rounding.
#![allow(unsafe_code)]

use super::panel::{Form, PAIRS_OF_16, PAIRS_OF_32, SCALE_256, STARTS_256, WORDS_32, WORDS_256};
use super::{Isa, Path};

/// Bit pattern of infinity: magnitudes from here on are not finite.
const INFINITE: u32 = 0x7f80_0000;

/// A block of activations.
struct Block<const N: usize> {
    bytes: [i8; N],
    scale: f32,
}

/// Quantises a tile for `form`: `x` is `[C, k]`, `words` is `[k / 32][10 * C]` or `[k / 256][93 * C]`.
///
/// # Panics
/// If `form` is one of floats, `k` is not a positive multiple of its block or the lengths do not fit.
pub fn quantize_tile(isa: Isa, form: Form, x: &[f32], k: usize, words: &mut [u32]) {
    let block = if form == Form::Blocks32 { 32 } else { 256 };
    assert!(form != Form::Float && k > 0 && k.is_multiple_of(block), "activations in rows of {k} for {form:?}");
    assert!(x.len().is_multiple_of(k), "{} activations in rows of {k}", x.len());
    assert_eq!(words.len(), x.len() / k * form.column_words(k), "words of {} activations", x.len());
    match isa.path() {
        Path::Scalar => quantize_rows(form, x, k, words),
        // SAFETY: holding an Isa of this path proves the features it is compiled with.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { quantize_rows_avx2(form, x, k, words) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { quantize_rows_avx512(form, x, k, words) },
        #[cfg(not(target_arch = "x86_64"))]
        Path::Avx2 | Path::Avx512 => unreachable!("an Isa is only made for a path this CPU has"),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_rows_avx2(form: Form, x: &[f32], k: usize, words: &mut [u32]) {
    quantize_rows(form, x, k, words);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn quantize_rows_avx512(form: Form, x: &[f32], k: usize, words: &mut [u32]) {
    quantize_rows(form, x, k, words);
}

#[inline(always)]
fn quantize_rows(form: Form, x: &[f32], k: usize, words: &mut [u32]) {
    let columns = x.len() / k;
    for (c, row) in x.chunks_exact(k).enumerate() {
        if form == Form::Blocks32 {
            for (block, words) in row.as_chunks().0.iter().zip(words.chunks_exact_mut(WORDS_32 * columns)) {
                write_32(&quantize_block(block), &mut Column { words, columns, c });
            }
        } else {
            for (block, words) in row.as_chunks().0.iter().zip(words.chunks_exact_mut(WORDS_256 * columns)) {
                write_256(&quantize_block(block), &mut Column { words, columns, c });
            }
        }
    }
}

/// One column of the words of a block.
struct Column<'a> {
    words: &'a mut [u32],
    columns: usize,
    c: usize,
}

impl Column<'_> {
    #[inline(always)]
    fn set(&mut self, at: usize, word: u32) {
        self.words[at * self.columns + self.c] = word;
    }

    #[inline(always)]
    fn set_quads(&mut self, bytes: &[i8]) {
        for (group, quad) in bytes.as_chunks::<4>().0.iter().enumerate() {
            self.set(group, u32::from_le_bytes(quad.map(i8::cast_unsigned)));
        }
    }
}

#[inline(always)]
fn write_32(block: &Block<32>, out: &mut Column<'_>) {
    out.set_quads(&block.bytes);
    out.set(8, (-128 * sum(&block.bytes)).cast_unsigned());
    out.set(9, block.scale.to_bits());
}

#[inline(always)]
fn write_256(block: &Block<256>, out: &mut Column<'_>) {
    out.set_quads(&block.bytes);
    let mut sums = [0; 16];
    for (total, bytes) in sums.iter_mut().zip(block.bytes.as_chunks::<16>().0) {
        *total = sum(bytes);
    }
    let pair = |low: i32, high: i32| low.cast_unsigned() & 0xffff | high.cast_unsigned() << 16;
    for (j, sum) in sums.iter().enumerate() {
        out.set(STARTS_256 + j, (-32 * sum).cast_unsigned());
    }
    for (j, s) in sums.as_chunks::<4>().0.iter().enumerate() {
        out.set(PAIRS_OF_32 + j, pair(s[0] + s[1], s[2] + s[3]));
    }
    for (j, s) in sums.as_chunks::<2>().0.iter().enumerate() {
        out.set(PAIRS_OF_16 + j, pair(s[0], s[1]));
    }
    out.set(SCALE_256, block.scale.to_bits());
}

#[inline(always)]
fn sum(bytes: &[i8]) -> i32 {
    bytes.iter().map(|byte| i32::from(*byte)).sum()
}

#[inline(always)]
fn quantize_block<const N: usize>(x: &[f32; N]) -> Block<N> {
    let mut largest = 0;
    for v in x {
        largest = largest.max(v.to_bits() & !(1 << 31));
    }
    let amax = f32::from_bits(largest);
    let inverse = 127.0 / amax;
    if largest >= INFINITE || inverse == f32::INFINITY {
        let scale = if largest >= INFINITE { f32::NAN } else { 0.0 };
        return Block { bytes: [0; N], scale };
    }
    let mut bytes = [0; N];
    for (byte, v) in bytes.iter_mut().zip(x) {
        *byte = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i32 as i8;
    }
    Block { bytes, scale: amax / 127.0 }
}
