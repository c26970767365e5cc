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
//! 2. Rounding is the conversion of floats to integers: to nearest, ties to even, is the rounding mode of the process.
//!    No product exceeds 127 (1 + 2^-23), so nothing needs clamping; packing with saturation is the only kind there is.
//! 3. The sums are taken from the integers while they are in lanes.
#![allow(unsafe_code)]

use super::panel::{Form, PAIRS_OF_16, PAIRS_OF_32, SCALE_256, STARTS_256, WORDS_32, WORDS_256};
use super::{Isa, Path};

/// Bit pattern of infinity: magnitudes from here on are not finite.
const INFINITE: u32 = 0x7f80_0000;

/// A block of `16 * N` activations.
struct Block<const N: usize> {
    /// Four signed bytes each.
    words: [[u32; 4]; N],
    /// Of 16 activations each.
    sums: [i32; N],
    scale: f32,
}

/// Quantises a tile for `form`: `x` is `[C, k]`, `words` is `[k / 32][10 * C]` or `[k / 256][93 * C]`.
///
/// # Panics
/// If `form` is not one of blocks, `k` is not a positive multiple of its block or the lengths do not fit.
pub fn quantize_tile(isa: Isa, form: Form, x: &[f32], k: usize, words: &mut [u32]) {
    let block = if form == Form::Blocks32 { 32 } else { 256 };
    assert!(matches!(form, Form::Blocks32 | Form::Blocks256), "{form:?} has no integers");
    assert!(k > 0 && k.is_multiple_of(block), "activations in rows of {k} for {form:?}");
    assert!(x.len().is_multiple_of(k), "{} activations in rows of {k}", x.len());
    assert_eq!(words.len(), x.len() / k * form.column_words(k), "words of {} activations", x.len());
    match isa.path() {
        Path::Scalar => quantize_rows(Scalar, form, x, k, words),
        // SAFETY: holding an Isa of this path proves the features it is compiled with.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 | Path::AvxVnni => unsafe { quantize_rows_avx2(form, x, k, words) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { quantize_rows_avx512(form, x, k, words) },
        #[cfg(not(target_arch = "x86_64"))]
        Path::Avx2 | Path::AvxVnni | Path::Avx512 => unreachable!("an Isa is only made for a path this CPU has"),
    }
}

/// Rounds a tile to bf16, to nearest, ties to even: `x` is `[C, k]`, `words` is `[k / 2][C]`, two k in a word. For
/// paths with BF16 instructions, whose conversion is used: subnormal numbers become 0.
///
/// # Panics
/// If `isa` has no BF16 instructions or the lengths do not fit.
pub fn round_pairs(isa: Isa, x: &[f32], k: usize, words: &mut [u32]) {
    assert!(isa.has_bf16() && k > 0 && x.len().is_multiple_of(k), "{} activations in rows of {k}", x.len());
    assert_eq!(words.len(), x.len() / k * k.div_ceil(2), "words of {} activations", x.len());
    // SAFETY: such an Isa exists only where the CPU has AVX512_BF16.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        x86::round_pairs(x, k, words);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_rows_avx2(form: Form, x: &[f32], k: usize, words: &mut [u32]) {
    quantize_rows(x86::Avx2::new(), form, x, k, words);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn quantize_rows_avx512(form: Form, x: &[f32], k: usize, words: &mut [u32]) {
    quantize_rows(x86::Avx512::new(), form, x, k, words);
}

#[inline(always)]
fn quantize_rows<R: Rounding>(r: R, form: Form, x: &[f32], k: usize, words: &mut [u32]) {
    let columns = x.len() / k;
    for (c, row) in x.chunks_exact(k).enumerate() {
        let (row, _) = row.as_chunks::<16>();
        if form == Form::Blocks32 {
            for (block, words) in row.as_chunks::<2>().0.iter().zip(words.chunks_exact_mut(WORDS_32 * columns)) {
                write_32(&quantize_block::<R, 2>(r, block), &mut Column { words: &mut words[c..], columns });
            }
        } else {
            for (block, words) in row.as_chunks::<16>().0.iter().zip(words.chunks_exact_mut(WORDS_256 * columns)) {
                write_256(&quantize_block::<R, 16>(r, block), &mut Column { words: &mut words[c..], columns });
            }
        }
    }
}

/// One column of the words of a block, from its first word on.
struct Column<'a> {
    words: &'a mut [u32],
    columns: usize,
}

impl Column<'_> {
    /// Sets the words from `first` on.
    #[inline(always)]
    fn set(&mut self, first: usize, values: &[u32]) {
        let places = self.words[first * self.columns..].iter_mut().step_by(self.columns);
        places.zip(values).for_each(|(place, value)| *place = *value);
    }
}

#[inline(always)]
fn write_32(block: &Block<2>, out: &mut Column<'_>) {
    out.set(0, block.words.as_flattened());
    let start = -128 * (block.sums[0] + block.sums[1]);
    out.set(8, &[start.cast_unsigned(), block.scale.to_bits()]);
}

#[inline(always)]
fn write_256(block: &Block<16>, out: &mut Column<'_>) {
    out.set(0, block.words.as_flattened());
    let pair = |low: i32, high: i32| low.cast_unsigned() & 0xffff | high.cast_unsigned() << 16;
    let s = &block.sums;
    let starts: [u32; 16] = std::array::from_fn(|j| (-32 * s[j]).cast_unsigned());
    let of_32: [u32; 4] = std::array::from_fn(|j| pair(s[4 * j] + s[4 * j + 1], s[4 * j + 2] + s[4 * j + 3]));
    let of_16: [u32; 8] = std::array::from_fn(|j| pair(s[2 * j], s[2 * j + 1]));
    out.set(STARTS_256, &starts);
    out.set(PAIRS_OF_32, &of_32);
    out.set(PAIRS_OF_16, &of_16);
    out.set(SCALE_256, &[block.scale.to_bits()]);
}

#[inline(always)]
fn quantize_block<R: Rounding, const N: usize>(r: R, x: &[[f32; 16]; N]) -> Block<N> {
    let largest = r.largest(x);
    let amax = f32::from_bits(largest);
    let inverse = 127.0 / amax;
    let mut block = Block { words: [[0; 4]; N], sums: [0; N], scale: amax / 127.0 };
    if largest >= INFINITE || inverse == f32::INFINITY {
        block.scale = if largest >= INFINITE { f32::NAN } else { 0.0 };
        return block;
    }
    for i in 0..N {
        block.sums[i] = r.round(&x[i], inverse, &mut block.words[i]);
    }
    block
}

/// What differs between the paths. No method belongs into a closure: it would be compiled without the instructions.
trait Rounding: Copy {
    /// The greatest bit pattern without its sign.
    fn largest<const N: usize>(self, x: &[[f32; 16]; N]) -> u32;

    /// `x * factor`, whose magnitudes are at most 127.5, rounded to the nearest integers, ties to even: four signed
    /// bytes to a word. Returns their sum.
    fn round(self, x: &[f32; 16], factor: f32, words: &mut [u32; 4]) -> i32;
}

/// Plain Rust.
#[derive(Clone, Copy)]
struct Scalar;

impl Rounding for Scalar {
    #[inline(always)]
    fn largest<const N: usize>(self, x: &[[f32; 16]; N]) -> u32 {
        x.as_flattened().iter().fold(0, |largest, v| largest.max(v.to_bits() & !(1 << 31)))
    }

    #[inline(always)]
    fn round(self, x: &[f32; 16], factor: f32, words: &mut [u32; 4]) -> i32 {
        let bytes = x.map(|v| (v * factor).round_ties_even() as i8);
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(bytes.map(i8::cast_unsigned));
        }
        bytes.iter().map(|byte| i32::from(*byte)).sum()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Rounding;
    use core::arch::x86_64::*;

    /// AVX2. A value is the proof that the CPU has it.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    /// AVX-512 F, DQ, VL. A value is the proof that the CPU has them.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) fn round_pairs(x: &[f32], k: usize, words: &mut [u32]) {
        let columns = x.len() / k;
        for (c, row) in x.chunks_exact(k).enumerate() {
            for (x, words) in row.chunks(32).zip(words.chunks_mut(16 * columns)) {
                let mut padded = [0.0; 32];
                padded[..x.len()].copy_from_slice(x);
                let mut pairs = [0u32; 16];
                // SAFETY: the loads read the 32 elements of `padded`, the store writes the 64 bytes of `pairs`.
                unsafe {
                    let (low, high) = (_mm512_loadu_ps(padded.as_ptr()), _mm512_loadu_ps(padded.as_ptr().add(16)));
                    let rounded: __m512i = core::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_storeu_si512(pairs.as_mut_ptr().cast(), rounded);
                }
                for (word, pair) in words[c..].iter_mut().step_by(columns).zip(pairs) {
                    *word = pair;
                }
            }
        }
    }

    impl Avx2 {
        #[inline]
        #[target_feature(enable = "avx2")]
        pub(super) fn new() -> Self {
            Self(())
        }
    }

    impl Avx512 {
        #[inline]
        #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
        pub(super) fn new() -> Self {
            Self(())
        }
    }

    impl Rounding for Avx2 {
        #[inline(always)]
        fn largest<const N: usize>(self, x: &[[f32; 16]; N]) -> u32 {
            // SAFETY: a value of type Avx2 exists only where the CPU has AVX2; each load reads half of 16 elements.
            unsafe {
                let magnitude = _mm256_set1_epi32(i32::MAX);
                let mut largest = _mm256_setzero_si256();
                for half in x.as_flattened().as_chunks::<8>().0 {
                    let bits = _mm256_loadu_si256(half.as_ptr().cast());
                    largest = _mm256_max_epu32(largest, _mm256_and_si256(bits, magnitude));
                }
                let four = _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256::<1>(largest));
                let two = _mm_max_epu32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
                let one = _mm_max_epu32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
                _mm_cvtsi128_si32(one).cast_unsigned()
            }
        }

        #[inline(always)]
        fn round(self, x: &[f32; 16], factor: f32, words: &mut [u32; 4]) -> i32 {
            // SAFETY: as above; the store writes the 16 bytes of `words`.
            unsafe {
                let factor = _mm256_set1_ps(factor);
                let low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.as_ptr()), factor));
                let high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.as_ptr().add(8)), factor));
                // Packing works within the halves of a register; the permutation brings the quarters into order.
                let shorts = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
                let halves = (_mm256_castsi256_si128(shorts), _mm256_extracti128_si256::<1>(shorts));
                _mm_storeu_si128(words.as_mut_ptr().cast(), _mm_packs_epi16(halves.0, halves.1));
                let sums = _mm256_add_epi32(low, high);
                let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
                let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
                _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
            }
        }
    }

    impl Rounding for Avx512 {
        #[inline(always)]
        fn largest<const N: usize>(self, x: &[[f32; 16]; N]) -> u32 {
            // SAFETY: a value of type Avx512 exists only where the CPU has AVX-512; each load reads 16 elements.
            unsafe {
                let magnitude = _mm512_set1_epi32(i32::MAX);
                let mut largest = _mm512_setzero_si512();
                for x in x {
                    let bits = _mm512_loadu_si512(x.as_ptr().cast());
                    largest = _mm512_max_epu32(largest, _mm512_and_si512(bits, magnitude));
                }
                _mm512_reduce_max_epu32(largest)
            }
        }

        #[inline(always)]
        fn round(self, x: &[f32; 16], factor: f32, words: &mut [u32; 4]) -> i32 {
            // SAFETY: as above; the store writes the 16 bytes of `words`.
            unsafe {
                let rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x.as_ptr()), _mm512_set1_ps(factor)));
                _mm_storeu_si128(words.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(rounded));
                _mm512_reduce_add_epi32(rounded)
            }
        }
    }
}
