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

use super::panel::{
    Column, Line, PAIRS_OF_16, PAIRS_OF_32, SCALE_256, STARTS_256, Segment, WORDS_32, WORDS_256, lines_32, lines_256,
    offset, sub_len,
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
    match ty {
        WeightType::F32 => accumulate_float::<F32>(segment, acc),
        WeightType::F16 => accumulate_float::<F16>(segment, acc),
        WeightType::BF16 => accumulate_float::<BF16>(segment, acc),
        WeightType::Q8_0 | WeightType::IQ4NL => accumulate_32::<{ offset(WeightType::Q8_0) }, F16>(segment, acc),
        WeightType::Q4_0 => accumulate_32::<{ offset(WeightType::Q4_0) }, F16>(segment, acc),
        WeightType::Q4_1 | WeightType::Q5_1 => accumulate_32::<{ offset(WeightType::Q4_1) }, F16>(segment, acc),
        WeightType::Q5_0 => accumulate_32::<{ offset(WeightType::Q5_0) }, F16>(segment, acc),
        WeightType::MXFP4 => accumulate_32::<{ offset(WeightType::MXFP4) }, BF16>(segment, acc),
        WeightType::Q2K => accumulate_256::<{ sub_len(WeightType::Q2K) }, { offset(WeightType::Q2K) }>(segment, acc),
        WeightType::Q3K | WeightType::Q6K => {
            accumulate_256::<{ sub_len(WeightType::Q6K) }, { offset(WeightType::Q6K) }>(segment, acc);
        }
        WeightType::Q4K | WeightType::Q5K => {
            accumulate_256::<{ sub_len(WeightType::Q4K) }, { offset(WeightType::Q4K) }>(segment, acc);
        }
        WeightType::IQ4XS => {
            accumulate_256::<{ sub_len(WeightType::IQ4XS) }, { offset(WeightType::IQ4XS) }>(segment, acc);
        }
    }
}

fn accumulate_256<const SUB: usize, const OFFSET: i32>(segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(
        acc.len(),
        (C, V) in [1 4, 2 2, 3 1, 4 1, 5 1, 6 1],
        for (segment, first) in strips(V, segment) {
            // SAFETY: only called by `accumulate`, which was shown an Isa of this path.
            unsafe { blocks_256::<C, V, SUB, OFFSET>(segment, first, acc) }
        }
    )
}

fn accumulate_32<const OFFSET: i32, const SCALE: u8>(segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(
        acc.len(),
        (C, V) in [1 4, 2 2, 3 1, 4 1, 5 1, 6 1],
        for (segment, first) in strips(V, segment) {
            // SAFETY: only called by `accumulate`, which was shown an Isa of this path.
            unsafe { blocks_32::<C, V, OFFSET, SCALE>(segment, first, acc) }
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

/// Types with blocks of 32, expanded, for vectors `first .. first + V` of 8 rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn blocks_32<const C: usize, const V: usize, const OFFSET: i32, const SCALE: u8>(
    segment: Segment<'_>,
    first: usize,
    acc: &mut [Column],
) {
    let lines = const { lines_32(OFFSET) };
    let mut sums = load_sums::<C, V>(first, acc);
    let blocks = segment.weights.chunks_exact(lines);
    let mut prefetch = Prefetch::new(segment.ahead, blocks.len());
    for (block, x) in blocks.zip(segment.columns.chunks_exact(WORDS_32 * C)) {
        prefetch.step();
        let mut dots = [[_mm256_setzero_si256(); V]; C];
        for c in 0..C {
            dots[c] = [start_32::<OFFSET>(x[8 * C + c]); V];
        }
        add_dots::<C, V, OFFSET>(&mut dots, &block[..16], &x[..8 * C], first);
        for v in 0..V {
            let w_scale = widen_scales::<SCALE>(&block[16], first + v);
            for c in 0..C {
                let scale = _mm256_mul_ps(w_scale, _mm256_set1_ps(f32::from_bits(x[9 * C + c])));
                sums[c][v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[c][v]), scale, sums[c][v]);
            }
        }
        if OFFSET == 0 {
            for v in 0..V {
                let minimum = widen_scales::<SCALE>(&block[lines - 1], first + v);
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

/// `-OFFSET` times the sum of a block's activations, of which `word` is -128 times; 0 where [`add_dots`] takes signed
/// weights.
#[inline]
#[target_feature(enable = "avx2")]
fn start_32<const OFFSET: i32>(word: u32) -> __m256i {
    match OFFSET {
        8 => _mm256_set1_epi32(word as i32 >> 4),
        16 => _mm256_set1_epi32(word as i32 >> 3),
        _ => _mm256_setzero_si256(),
    }
}

/// Types with super-blocks of 256, expanded, for vectors `first .. first + V` of 8 rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn blocks_256<const C: usize, const V: usize, const SUB: usize, const OFFSET: i32>(
    segment: Segment<'_>,
    first: usize,
    acc: &mut [Column],
) {
    let (lines, subs) = const { (lines_256(SUB, OFFSET), 256 / SUB) };
    let blocks = segment.weights.chunks_exact(lines);
    let mut prefetch = Prefetch::new(segment.ahead, blocks.len() * subs);
    for (block, x) in blocks.zip(segment.columns.chunks_exact(WORDS_256 * C)) {
        let mut totals = [[_mm256_setzero_ps(); V]; C];
        for j in 0..subs {
            prefetch.step();
            let mut dots = [[_mm256_setzero_si256(); V]; C];
            if OFFSET == 32 {
                for c in 0..C {
                    dots[c] = [_mm256_set1_epi32(x[(STARTS_256 + j) * C + c] as i32); V];
                }
            }
            let (quads, x) = (&block[j * SUB / 2..][..SUB / 2], &x[j * SUB / 4 * C..][..SUB / 4 * C]);
            add_dots::<C, V, OFFSET>(&mut dots, quads, x, first);
            for v in 0..V {
                let vector = first + v;
                let scale = _mm256_castsi256_ps(load(&block[128 + 2 * j + vector / 2 % 2], vector % 2));
                for c in 0..C {
                    totals[c][v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[c][v]), scale, totals[c][v]);
                }
            }
        }
        let mut sums = load_sums::<C, V>(first, acc);
        for v in 0..V {
            let d = widen_f16(&block[128 + 2 * subs], first + v);
            for c in 0..C {
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(f32::from_bits(x[SCALE_256 * C + c])));
                sums[c][v] = _mm256_fmadd_ps(totals[c][v], scale, sums[c][v]);
            }
        }
        if OFFSET == 0 {
            add_minimums::<C, V>(&mut sums, &block[129 + 2 * subs..], x, first);
        }
        store_sums(&sums, first, acc);
    }
}

/// Subtracts the minimums of a super-block: `lines` are pairs of minimums, then dmin.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_minimums<const C: usize, const V: usize>(sums: &mut [[__m256; V]; C], lines: &[Line], x: &[u32], first: usize) {
    let (pairs, dmin) = lines.split_at(lines.len() - 1);
    let first_pair = if pairs.len() == 8 { PAIRS_OF_32 } else { PAIRS_OF_16 };
    for v in 0..V {
        let vector = first + v;
        let mut totals = [_mm256_setzero_si256(); C];
        for (pairs, x) in pairs.chunks_exact(2).zip(x[first_pair * C..].chunks_exact(C)) {
            let minimums = load(&pairs[vector / 2 % 2], vector % 2);
            for c in 0..C {
                let products = _mm256_madd_epi16(minimums, _mm256_set1_epi32(x[c] as i32));
                totals[c] = _mm256_add_epi32(totals[c], products);
            }
        }
        let dmin = widen_f16(&dmin[0], vector);
        for c in 0..C {
            let scale = _mm256_mul_ps(dmin, _mm256_set1_ps(f32::from_bits(x[SCALE_256 * C + c])));
            sums[c][v] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(totals[c]), scale, sums[c][v]);
        }
    }
}

/// Adds the integer dot products of groups of 4 k: 2 lines and C words each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_dots<const C: usize, const V: usize, const OFFSET: i32>(
    dots: &mut [[__m256i; V]; C],
    lines: &[Line],
    x: &[u32],
    first: usize,
) {
    let ones = _mm256_set1_epi16(1);
    let sign_bit = _mm256_set1_epi8(i8::MIN);
    for (lines, x) in lines.chunks_exact(2).zip(x.chunks_exact(C)) {
        for v in 0..V {
            let vector = first + v;
            let codes = load(&lines[vector / 2 % 2], vector % 2);
            let signed = _mm256_xor_si256(sign_bit, codes);
            let magnitude = if OFFSET == 128 { _mm256_abs_epi8(signed) } else { codes };
            for c in 0..C {
                let x = _mm256_set1_epi32(x[c] as i32);
                let x = if OFFSET == 128 { _mm256_sign_epi8(x, signed) } else { x };
                let pairs = _mm256_maddubs_epi16(magnitude, x);
                dots[c][v] = _mm256_add_epi32(dots[c][v], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
}

/// Eight of the 32 scales of a line, f16 or bf16: quarter 0 to 3.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_scales<const SCALE: u8>(line: &Line, quarter: usize) -> __m256 {
    if SCALE == F16 {
        return widen_f16(line, quarter);
    }
    let half = load(line, quarter / 2 % 2);
    let values =
        if quarter.is_multiple_of(2) { _mm256_castsi256_si128(half) } else { _mm256_extracti128_si256::<1>(half) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(values)))
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
    let bytes = &line.0[16 * (quarter % 4)..][..16];
    // SAFETY: `bytes` are 16 bytes, and the load needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
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
