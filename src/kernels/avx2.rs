//! The matmul kernels for AVX2, FMA and F16C.
//!
//! Origin: those of [`super::avx512`] with half the vector and half the registers, and the abs/sign form of the signed
//! byte product that ggml made common on AVX2.
//!
//! ```text
//! for strip of 8·V rows of the panel                  V·C running sums fit the 16 registers
//!   float:  for k:      acc[c][v] += w[v] * broadcast(x[k][c])
//!   blocks_32: for block:  for group: dot[c][v] += pairs(w[v] * x[c])
//!                          acc[c][v] += float(dot[c][v]) * (dw[v] * broadcast(dx[c]))
//!
//! panel rows   0      8      16     24     32
//!              |  v0  |  v1  |  v0  |  v1  |      V = 2: two strips of 16 rows
//! ```
//!
//! 1. Few columns take wide strips (V = 4: the whole panel, read once), many columns narrow ones; a segment is in L1
//!    when its second strip starts.
//! 2. `vpmaddubsw` saturates at 16 bits. Codes of up to 6 bits are safe (63 · 127 · 2 = 16002) and start as in AVX-512
//!    from -offset · Σx. With offset 128 they are not: w + 128 is made signed again (xor 128) and multiplied as |w| (at
//!    most 128) times x with w's sign: 128 · 127 · 2 = 32512 fits, and no start value is needed. x is never -128, so
//!    its negation is exact.
//! 3. Prefetch and interleaved columns as in AVX-512.
#![allow(unsafe_code)]

use core::arch::x86_64::*;

use super::codes::{BlockType, with_block_type};
use super::panel::{
    Column, Form, Line, PAIRS_OF_16, PAIRS_OF_32, SCALE_256, STARTS_256, ScaleByte, Segment, WORDS_32, WORDS_256,
    code_lines, d_line, is_packed, minimum_line, offset, panel_lines, scale_byte, scale_lines, sub_len,
};
use super::prefetch::Prefetch;
use super::{Isa, Path};
use crate::quant::WeightType;

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Evaluates `$call` with the constants `$C`, the number of columns, and `$V`, the vectors of a strip, for the listed
/// pairs.
macro_rules! with_columns {
    ($columns:expr, ($C:ident, $V:ident) in [$($c:literal $v:literal),*], $call:expr) => {
        match $columns {
            $($c => {
                const $C: usize = $c;
                const $V: usize = $v;
                $call
            })*
            columns => unreachable!("{columns} columns in a tile"),
        }
    };
}

/// See [`super::panel::accumulate`], which checked the lengths.
pub fn accumulate(isa: Isa, ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    assert_eq!(isa.path(), Path::Avx2);
    match Form::of(isa, ty) {
        Form::Float => match ty {
            WeightType::F32 => accumulate_float::<F32>(segment, acc),
            WeightType::F16 => accumulate_float::<F16>(segment, acc),
            _ => accumulate_float::<BF16>(segment, acc),
        },
        Form::Pairs => unreachable!("this path has no BF16 instructions"),
        Form::Blocks32 => with_block_type!(ty, T of 32, accumulate_32::<T>(segment, acc)),
        Form::Blocks256 => with_block_type!(ty, T of 256, accumulate_256::<T>(segment, acc)),
    }
}

fn accumulate_256<T: BlockType>(segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(
        acc.len(),
        (C, V) in [1 4, 2 2, 3 1, 4 1, 5 1, 6 1],
        for (segment, first) in strips(V, segment) {
            // SAFETY: only called by `accumulate`, which was shown an Isa of this path.
            unsafe { blocks_256::<C, V, T>(segment, first, acc) }
        }
    )
}

fn accumulate_32<T: BlockType>(segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(
        acc.len(),
        (C, V) in [1 4, 2 2, 3 1, 4 1, 5 1, 6 1],
        for (segment, first) in strips(V, segment) {
            // SAFETY: only called by `accumulate`, which was shown an Isa of this path.
            unsafe { blocks_32::<C, V, T>(segment, first, acc) }
        }
    )
}

fn accumulate_float<const TYPE: u8>(segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(
        acc.len(),
        (C, V) in [1 4, 2 4, 3 4, 4 2, 5 2, 6 2, 7 1, 8 1, 9 1, 10 1, 11 1, 12 1],
        for (segment, first) in strips(V, segment) {
            // SAFETY: only called by `accumulate`, which was shown an Isa of this path.
            unsafe { float::<C, V, TYPE>(segment, first, acc) }
        }
    )
}

/// The first vector of each strip of `vectors`, with what the strip is to prefetch.
fn strips(vectors: usize, segment: Segment<'_>) -> impl Iterator<Item = (Segment<'_>, usize)> {
    let share = segment.ahead.len().div_ceil(4 / vectors).max(1);
    let mut ahead = segment.ahead.chunks(share);
    (0..4).step_by(vectors).map(move |first| (Segment { ahead: ahead.next().unwrap_or_default(), ..segment }, first))
}

/// F32, F16 and BF16 for vectors `first .. first + V` of 8 rows. Two k a step, as BF16 stores them.
#[target_feature(enable = "avx2,fma,f16c")]
fn float<const C: usize, const V: usize, const TYPE: u8>(segment: Segment<'_>, first: usize, acc: &mut [Column]) {
    let lines_per_pair = if TYPE == F32 { 4 } else { 2 };
    let mut sums = load_sums::<C, V>(first, acc);
    let pairs = segment.columns.len() / (2 * C);
    let mut prefetch = Prefetch::new(segment.ahead, pairs);
    let mut x = segment.columns.chunks_exact(2 * C);
    for (x, lines) in (&mut x).zip(segment.weights.chunks_exact(lines_per_pair)) {
        prefetch.step();
        float_step::<C, V>(&mut sums, widen::<V, TYPE>(lines, 0, first), &x[..C]);
        float_step::<C, V>(&mut sums, widen::<V, TYPE>(lines, 1, first), &x[C..]);
    }
    if !x.remainder().is_empty() {
        let lines = &segment.weights[pairs * lines_per_pair..];
        float_step::<C, V>(&mut sums, widen::<V, TYPE>(lines, 0, first), x.remainder());
    }
    store_sums(&sums, first, acc);
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn float_step<const C: usize, const V: usize>(sums: &mut [[__m256; V]; C], w: [__m256; V], x: &[u32]) {
    for c in 0..C {
        let x = _mm256_set1_ps(f32::from_bits(x[c]));
        for v in 0..V {
            sums[c][v] = _mm256_fmadd_ps(w[v], x, sums[c][v]);
        }
    }
}

/// The weights of V vectors of rows at the even (0) or odd (1) k of a pair, widened.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen<const V: usize, const TYPE: u8>(lines: &[Line], odd: usize, first: usize) -> [__m256; V] {
    let mut w = [_mm256_setzero_ps(); V];
    for v in 0..V {
        let vector = first + v;
        w[v] = match TYPE {
            F32 => _mm256_castsi256_ps(load(&lines[2 * odd + vector / 2 % 2], vector % 2)),
            F16 => widen_f16(&lines[odd], vector),
            _ if odd == 0 => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(load(&lines[vector / 2 % 2], vector % 2))),
            _ => {
                let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                _mm256_castsi256_ps(_mm256_and_si256(upper, load(&lines[vector / 2 % 2], vector % 2)))
            }
        };
    }
    w
}

/// The codes of block `b` of a segment, a byte each: expanded, or as stored.
#[inline(always)]
fn codes<'a, T: BlockType>(block: &'a [Line], expanded: &'a [Line], b: usize) -> &'a [Line] {
    let lines = const { T::TYPE.block_len() / 2 };
    if const { is_packed(T::TYPE) } { &expanded[b * lines..][..lines] } else { &block[..lines] }
}

/// Types with blocks of 32, for vectors `first .. first + V` of 8 rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn blocks_32<const C: usize, const V: usize, T: BlockType>(segment: Segment<'_>, first: usize, acc: &mut [Column]) {
    let scales = const { code_lines(T::TYPE) };
    let mut sums = load_sums::<C, V>(first, acc);
    let blocks = segment.weights.chunks_exact(const { panel_lines(T::TYPE, 32) });
    let mut prefetch = Prefetch::new(segment.ahead, blocks.len());
    for (b, (block, x)) in blocks.zip(segment.columns.chunks_exact(WORDS_32 * C)).enumerate() {
        prefetch.step();
        let mut dots = [[_mm256_setzero_si256(); V]; C];
        for c in 0..C {
            dots[c] = [start_32::<T>(x[8 * C + c]); V];
        }
        add_dots::<C, V, T>(&mut dots, codes::<T>(block, segment.expanded, b), &x[..8 * C], first);
        for v in 0..V {
            let w_scale = widen_scales::<T>(&block[scales], first + v);
            for c in 0..C {
                let scale = _mm256_mul_ps(w_scale, _mm256_set1_ps(f32::from_bits(x[9 * C + c])));
                sums[c][v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[c][v]), scale, sums[c][v]);
            }
        }
        if const { offset(T::TYPE) == 0 } {
            for v in 0..V {
                let minimum = widen_scales::<T>(&block[scales + 1], first + v);
                for c in 0..C {
                    let scale = _mm256_mul_ps(minimum, _mm256_set1_ps(f32::from_bits(x[9 * C + c])));
                    // The start value is -128 times the sum of the activations.
                    let x_sum = _mm256_cvtepi32_ps(_mm256_set1_epi32(-(x[8 * C + c] as i32) >> 7));
                    sums[c][v] = _mm256_fmadd_ps(x_sum, scale, sums[c][v]);
                }
            }
        }
    }
    store_sums(&sums, first, acc);
}

/// Minus the offset times the sum of a block's activations, of which `word` is -128 times; 0 where [`add_dots`] takes
/// signed weights.
#[inline]
#[target_feature(enable = "avx2")]
fn start_32<T: BlockType>(word: u32) -> __m256i {
    match const { offset(T::TYPE) } {
        8 => _mm256_set1_epi32(word as i32 >> 4),
        16 => _mm256_set1_epi32(word as i32 >> 3),
        _ => _mm256_setzero_si256(),
    }
}

/// Types with super-blocks of 256, for vectors `first .. first + V` of 8 rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn blocks_256<const C: usize, const V: usize, T: BlockType>(segment: Segment<'_>, first: usize, acc: &mut [Column]) {
    let (sub, subs) = const { (sub_len(T::TYPE), 256 / sub_len(T::TYPE)) };
    let blocks = segment.weights.chunks_exact(const { panel_lines(T::TYPE, 256) });
    let mut prefetch = Prefetch::new(segment.ahead, blocks.len() * subs);
    for (b, (block, x)) in blocks.zip(segment.columns.chunks_exact(WORDS_256 * C)).enumerate() {
        let codes = codes::<T>(block, segment.expanded, b);
        let mut totals = [[_mm256_setzero_ps(); V]; C];
        for j in 0..subs {
            prefetch.step();
            let mut dots = [[_mm256_setzero_si256(); V]; C];
            if const { offset(T::TYPE) == 32 } {
                for c in 0..C {
                    dots[c] = [_mm256_set1_epi32(x[(STARTS_256 + j) * C + c] as i32); V];
                }
            }
            let (quads, x) = (&codes[j * sub / 2..][..sub / 2], &x[j * sub / 4 * C..][..sub / 4 * C]);
            add_dots::<C, V, T>(&mut dots, quads, x, first);
            for v in 0..V {
                let scale = sub_scale::<T>(&block[const { code_lines(T::TYPE) } + j / 2], j % 2, first + v);
                for c in 0..C {
                    totals[c][v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[c][v]), scale, totals[c][v]);
                }
            }
        }
        let mut sums = load_sums::<C, V>(first, acc);
        for v in 0..V {
            let d = widen_f16(&block[const { d_line(T::TYPE) }], first + v);
            for c in 0..C {
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(f32::from_bits(x[SCALE_256 * C + c])));
                sums[c][v] = _mm256_fmadd_ps(totals[c][v], scale, sums[c][v]);
            }
        }
        if const { offset(T::TYPE) == 0 } {
            add_minimums::<C, V, T>(&mut sums, block, x, first);
        }
        store_sums(&sums, first, acc);
    }
}

/// The scales of the even (0) or odd (1) sub-block of a line `[32 rows][2]`, of eight rows: quarter 0 to 3.
#[inline]
#[target_feature(enable = "avx2")]
fn sub_scale<T: BlockType>(line: &Line, odd: usize, quarter: usize) -> __m256 {
    // The byte wanted goes to the top of its word of 32 bits, and from there to the bottom.
    let pairs = _mm256_cvtepu16_epi32(load_quarter(line, quarter));
    let top = _mm256_sll_epi32(pairs, _mm_cvtsi32_si128(24 - 8 * odd as i32));
    _mm256_cvtepi32_ps(match const { scale_byte(T::TYPE) } {
        ScaleByte::Unsigned => _mm256_srli_epi32::<24>(top),
        ScaleByte::Signed => _mm256_srai_epi32::<24>(top),
        ScaleByte::LowHalf => _mm256_and_si256(_mm256_srli_epi32::<24>(top), _mm256_set1_epi32(15)),
    })
}

/// Subtracts the minimums of a super-block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_minimums<const C: usize, const V: usize, T: BlockType>(
    sums: &mut [[__m256; V]; C],
    block: &[Line],
    x: &[u32],
    first: usize,
) {
    let first_pair = if const { sub_len(T::TYPE) } == 32 { PAIRS_OF_32 } else { PAIRS_OF_16 };
    let lines = &block[const { minimum_line(T::TYPE) }..][..const { scale_lines(T::TYPE) }];
    for v in 0..V {
        let mut totals = [_mm256_setzero_si256(); C];
        for (line, x) in lines.iter().zip(x[first_pair * C..].chunks_exact(C)) {
            let mut minimums = _mm256_cvtepu8_epi16(load_quarter(line, first + v));
            if const { matches!(scale_byte(T::TYPE), ScaleByte::LowHalf) } {
                minimums = _mm256_srli_epi16::<4>(minimums);
            }
            for c in 0..C {
                let products = _mm256_madd_epi16(minimums, _mm256_set1_epi32(x[c] as i32));
                totals[c] = _mm256_add_epi32(totals[c], products);
            }
        }
        let dmin = widen_f16(&block[const { d_line(T::TYPE) } + 1], first + v);
        for c in 0..C {
            let scale = _mm256_mul_ps(dmin, _mm256_set1_ps(f32::from_bits(x[SCALE_256 * C + c])));
            sums[c][v] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(totals[c]), scale, sums[c][v]);
        }
    }
}

/// Adds the integer dot products of groups of 4 k: 2 lines and C words each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_dots<const C: usize, const V: usize, T: BlockType>(
    dots: &mut [[__m256i; V]; C],
    lines: &[Line],
    x: &[u32],
    first: usize,
) {
    let signed_weights = const { offset(T::TYPE) == 128 };
    let ones = _mm256_set1_epi16(1);
    let sign_bit = _mm256_set1_epi8(i8::MIN);
    for (lines, x) in lines.chunks_exact(2).zip(x.chunks_exact(C)) {
        for v in 0..V {
            let vector = first + v;
            let codes = load(&lines[vector / 2 % 2], vector % 2);
            let signed = _mm256_xor_si256(sign_bit, codes);
            let magnitude = if signed_weights { _mm256_abs_epi8(signed) } else { codes };
            for c in 0..C {
                let x = _mm256_set1_epi32(x[c] as i32);
                let x = if signed_weights { _mm256_sign_epi8(x, signed) } else { x };
                let pairs = _mm256_maddubs_epi16(magnitude, x);
                dots[c][v] = _mm256_add_epi32(dots[c][v], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
}

/// Eight of the 32 scales of a line, f16 or bf16: quarter 0 to 3.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_scales<T: BlockType>(line: &Line, quarter: usize) -> __m256 {
    if const { !matches!(T::TYPE, WeightType::MXFP4) } {
        return widen_f16(line, quarter);
    }
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load_quarter(line, quarter))))
}

/// Half 0 or 1 of a line.
#[inline]
#[target_feature(enable = "avx2")]
fn load(line: &Line, half: usize) -> __m256i {
    let bytes = &line.0[32 * (half % 2)..][..32];
    // SAFETY: `bytes` are 32 bytes; 32-byte alignment follows from the line's but is not needed.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Eight of the 32 f16 values of a line: quarter 0 to 3.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_f16(line: &Line, quarter: usize) -> __m256 {
    _mm256_cvtph_ps(load_quarter(line, quarter))
}

/// Quarter 0 to 3 of a line.
#[inline]
#[target_feature(enable = "avx2")]
fn load_quarter(line: &Line, quarter: usize) -> __m128i {
    let bytes = &line.0[16 * (quarter % 4)..][..16];
    // SAFETY: `bytes` are 16 bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_sums<const C: usize, const V: usize>(first: usize, acc: &[Column]) -> [[__m256; V]; C] {
    let mut sums = [[_mm256_setzero_ps(); V]; C];
    for (sums, column) in sums.iter_mut().zip(acc) {
        let (rows, _) = column[8 * first..].as_chunks::<8>();
        for v in 0..V {
            // SAFETY: a chunk is 8 f32, and the load needs no alignment.
            sums[v] = unsafe { _mm256_loadu_ps(rows[v].as_ptr()) };
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_sums<const C: usize, const V: usize>(sums: &[[__m256; V]; C], first: usize, acc: &mut [Column]) {
    for (sums, column) in sums.iter().zip(acc) {
        let (rows, _) = column[8 * first..].as_chunks_mut::<8>();
        for v in 0..V {
            // SAFETY: a chunk is 8 f32, and the store needs no alignment.
            unsafe { _mm256_storeu_ps(rows[v].as_mut_ptr(), sums[v]) };
        }
    }
}
