//! The matmul kernels for AVX2, FMA and F16C, with AVX-VNNI where the path has it.
//!
//! Origin: those of [`super::avx512`] with half the vector and half the registers.
//!
//! ```text
//! strip = 16 rows of the panel: every second line             running sums of up to 6 columns
//!   blocks_32:  for block: dot[c] = -offset * sum of x
//!                          dot[c] += groups of 4 k . x[c]         `dots`: add_dots
//!                          acc[c] += float(dot[c]) * (dw * broadcast(dx[c]))
//! strip of 8·V rows
//!   float:      for k:     acc[c][v] += w[v] * broadcast(x[k][c])
//!
//! panel rows   0      8      16     24     32
//!              |  v0  |  v1  |  v0  |  v1  |      two strips; float with up to 2 columns: one of 4 vectors
//! ```
//!
//! 1. Two vectors a column: a broadcast of activations feeds two products. Twelve running sums beside two vectors of
//!    weights are what 16 registers hold, so tiles of 7 to 12 float columns go in two halves; a segment is in L1
//!    when its second strip or half starts.
//! 2. Codes come straight from the stored lines when a single tile reads them, as in AVX-512: nothing is written and
//!    read again, and each strip takes apart its own lines.
//! 3. The strip of a block kernel is a number of lines to skip, not a constant: the code is the same for both. With one
//!    or two columns both strips of a block are taken in one pass, so that memory is read line by line.
//! 4. Prefetch and interleaved columns as in AVX-512, but in a burst for each strip of a block: line by line costs the
//!    packed types more than it brings.
#![allow(unsafe_code)]

mod dots;
#[cfg(test)]
mod tests;

use core::arch::x86_64::*;

use self::dots::{AvxVnni, Codes, Maddubs, Pair, Product, add_dots, is_signed};
use super::codes::{BlockType, with_block_type};
use super::line_ops::x86::Avx2;
use super::panel::{
    Column, Line, PAIRS_OF_16, PAIRS_OF_32, SCALE_256, STARTS_256, ScaleByte, Segment, WORDS_32, WORDS_256, code_lines,
    d_line, minimum_line, offset, panel_lines, scale_byte, scale_lines, sub_len,
};
use super::prefetch::{Prefetch, fetch};
use super::{Isa, Path};
use crate::quant::WeightType;

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Evaluates `$call` with the constants `$C`, the number of columns, and `$S`, the strips of a pass, for the listed
/// pairs.
macro_rules! with_columns {
    ($columns:expr, ($C:ident, $S:ident) in [$($c:literal $s:literal),*], $call:expr) => {
        match $columns {
            $($c => {
                const $C: usize = $c;
                const $S: usize = $s;
                $call
            })*
            columns => unreachable!("{columns} columns in a tile"),
        }
    };
}

/// See [`super::panel::accumulate`], which checked the lengths.
pub fn accumulate(isa: Isa, ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    match isa.path() {
        // SAFETY: holding an Isa of this path proves that the CPU has the instructions.
        Path::Avx2 => unsafe { accumulate_with(Maddubs, ty, segment, acc) },
        // SAFETY: as above.
        Path::AvxVnni => unsafe { accumulate_with(AvxVnni::new(), ty, segment, acc) },
        path => unreachable!("{path:?} has its own kernels"),
    }
}

/// # Safety
/// The CPU must have AVX2, FMA and F16C. So for the functions that this one calls.
unsafe fn accumulate_with<P: Product>(product: P, ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    // SAFETY: the caller promises it.
    unsafe {
        match ty {
            WeightType::F32 => accumulate_float::<F32>(segment, acc),
            WeightType::F16 => accumulate_float::<F16>(segment, acc),
            WeightType::BF16 => accumulate_float::<BF16>(segment, acc),
            ty if ty.block_len() == 32 => with_block_type!(ty, T of 32, accumulate_32::<P, T>(product, segment, acc)),
            ty => with_block_type!(ty, T of 256, accumulate_256::<P, T>(product, segment, acc)),
        }
    }
}

unsafe fn accumulate_256<P: Product, T: BlockType>(product: P, segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(acc.len(), (C, S) in [1 2, 2 2, 3 1, 4 1, 5 1, 6 1], {
        for (segment, strip) in passes(2 / S, segment) {
            // SAFETY: the caller promises what `accumulate_with` asks for.
            unsafe {
                if segment.expanded.is_empty() {
                    blocks_256::<P, T, C, S, true>(product, segment, strip, acc)
                } else {
                    blocks_256::<P, T, C, S, false>(product, segment, strip, acc)
                }
            }
        }
    })
}

unsafe fn accumulate_32<P: Product, T: BlockType>(product: P, segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(acc.len(), (C, S) in [1 2, 2 2, 3 1, 4 1, 5 1, 6 1], {
        for (segment, strip) in passes(2 / S, segment) {
            // SAFETY: the caller promises what `accumulate_with` asks for.
            unsafe {
                if segment.expanded.is_empty() {
                    blocks_32::<P, T, C, S, true>(product, segment, strip, acc)
                } else {
                    blocks_32::<P, T, C, S, false>(product, segment, strip, acc)
                }
            }
        }
    })
}

/// Tiles of up to 6 columns at once, larger ones in halves: `float` takes some of the columns of a tile.
unsafe fn accumulate_float<const TYPE: u8>(segment: Segment<'_>, acc: &mut [Column]) {
    let columns = acc.len();
    let parts = if columns <= 6 { 1 } else { 2 };
    for (segment, part) in passes(parts, segment) {
        let (start, end) = (part * columns / parts, (part + 1) * columns / parts);
        let acc = &mut acc[start..end];
        with_columns!(acc.len(), (C, V) in [1 4, 2 4, 3 2, 4 2, 5 2, 6 2], {
            for (segment, strip) in passes(4 / V, segment) {
                // SAFETY: the caller promises what `accumulate_with` asks for.
                unsafe {
                    if strip == 0 {
                        float::<C, V, TYPE, 0>(segment, columns, start, acc);
                    } else {
                        float::<C, V, TYPE, 2>(segment, columns, start, acc);
                    }
                }
            }
        })
    }
}

/// The numbers of `count` passes over a segment, each with its share of what is to be prefetched.
fn passes(count: usize, segment: Segment<'_>) -> impl Iterator<Item = (Segment<'_>, usize)> {
    let share = segment.ahead.len().div_ceil(count).max(1);
    let mut ahead = segment.ahead.chunks(share);
    (0..count).map(move |pass| (Segment { ahead: ahead.next().unwrap_or_default(), ..segment }, pass))
}

/// F32, F16 and BF16 for vectors `FIRST .. FIRST + V` of 8 rows, and C of the `columns` columns of the tile, from
/// `start`. Two k a step, as BF16 stores them.
#[target_feature(enable = "avx2,fma,f16c")]
fn float<const C: usize, const V: usize, const TYPE: u8, const FIRST: usize>(
    segment: Segment<'_>,
    columns: usize,
    start: usize,
    acc: &mut [Column],
) {
    let lines_per_pair = if TYPE == F32 { 4 } else { 2 };
    let mut sums = load_sums::<C, V>(FIRST, acc);
    let pairs = segment.columns.len() / (2 * columns);
    let mut ahead = segment.ahead.iter();
    let mut x = segment.columns.chunks_exact(2 * columns);
    for (x, lines) in (&mut x).zip(segment.weights.chunks_exact(lines_per_pair)) {
        // As many as a pass of a single tile needs.
        for _ in 0..lines_per_pair * V / 4 {
            ahead.next().inspect(|line| fetch(line));
        }
        float_step::<C, V>(&mut sums, widen::<V, TYPE, FIRST>(lines, 0), &x[start..]);
        let lines = finish(lines, &mut sums);
        float_step::<C, V>(&mut sums, widen::<V, TYPE, FIRST>(lines, 1), &x[columns + start..]);
    }
    if !x.remainder().is_empty() {
        let lines = &segment.weights[pairs * lines_per_pair..];
        float_step::<C, V>(&mut sums, widen::<V, TYPE, FIRST>(lines, 0), &x.remainder()[start..]);
    }
    store_sums(&sums, FIRST, acc);
}

/// The same lines, but as if their place had come out of `sums`: the compiler has to finish these first and then to
/// read. Left alone it widens both k of a pair at a time: more values than there are registers, so that sums go to
/// memory and back at every step.
#[inline]
#[target_feature(enable = "avx2")]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through the pointer")]
fn finish<'a, const C: usize, const V: usize>(lines: &'a [Line], sums: &mut [[__m256; V]; C]) -> &'a [Line] {
    let mut start = lines.as_ptr();
    for sum in sums.as_flattened_mut() {
        // SAFETY: no instruction at all.
        unsafe {
            core::arch::asm!(
                "/* {0} {1} */", inout(reg) start, inout(ymm_reg) *sum,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    // SAFETY: `start` is what it was.
    unsafe { core::slice::from_raw_parts(start, lines.len()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn float_step<const C: usize, const V: usize>(sums: &mut [[__m256; V]; C], w: [__m256; V], x: &[u32]) {
    let x = &x[..C];
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
fn widen<const V: usize, const TYPE: u8, const FIRST: usize>(lines: &[Line], odd: usize) -> [__m256; V] {
    let mut w = [_mm256_setzero_ps(); V];
    for v in 0..V {
        let vector = FIRST + v;
        w[v] = match TYPE {
            F32 => _mm256_castsi256_ps(load(&lines[2 * odd + vector / 2 % 2], vector % 2)),
            F16 => widen_quarter(&lines[odd], vector),
            _ if odd == 0 => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(load(&lines[vector / 2 % 2], vector % 2))),
            _ => {
                let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                _mm256_castsi256_ps(_mm256_and_si256(upper, load(&lines[vector / 2 % 2], vector % 2)))
            }
        };
    }
    w
}

/// Types with blocks of 32, for one strip. `DIRECT`: the codes come from the stored lines, not from expanded ones.
#[target_feature(enable = "avx2,fma,f16c")]
fn blocks_32<P: Product, T: BlockType, const C: usize, const S: usize, const DIRECT: bool>(
    product: P,
    segment: Segment<'_>,
    strip: usize,
    acc: &mut [Column],
) {
    let (ops, scales) = (Avx2::new(), const { code_lines(T::TYPE) });
    let mut sums = [[[_mm256_setzero_ps(); 2]; C]; S];
    for i in 0..S {
        sums[i] = load_sums(2 * (strip + i), acc);
    }
    let blocks = segment.weights.chunks_exact(const { panel_lines(T::TYPE, 32) });
    let mut prefetch = Prefetch::new(segment.ahead, S * blocks.len());
    for (b, (block, x)) in blocks.zip(segment.columns.chunks_exact(WORDS_32 * C)).enumerate() {
        for i in 0..S {
            prefetch.step();
            let (strip, sums) = (if S == 2 { i } else { strip }, &mut sums[i]);
            let mut dots = [[_mm256_setzero_si256(); 2]; C];
            for c in 0..C {
                dots[c] = [start_32::<P, T>(x[8 * C + c]); 2];
            }
            let codes = Codes::<DIRECT>::new::<T>(ops, block, segment.expanded, b, strip);
            // SAFETY: this function is compiled with AVX2.
            unsafe { add_dots::<P, T, C, 8, DIRECT>(product, codes, 0, &x[..8 * C], &mut dots) };
            let w_scales = widen_scales::<T>(&block[scales], strip);
            for c in 0..C {
                let x_scale = _mm256_set1_ps(f32::from_bits(x[9 * C + c]));
                for v in 0..2 {
                    let scale = _mm256_mul_ps(w_scales[v], x_scale);
                    sums[c][v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[c][v]), scale, sums[c][v]);
                }
            }
            if const { offset(T::TYPE) == 0 } {
                let minimums = widen_scales::<T>(&block[scales + 1], strip);
                for c in 0..C {
                    let x_scale = _mm256_set1_ps(f32::from_bits(x[9 * C + c]));
                    // The start value is -128 times the sum of the activations. Negated as an integer: -0 is no sum.
                    let x_sum = _mm256_cvtepi32_ps(_mm256_set1_epi32(-(x[8 * C + c] as i32) >> 7));
                    for v in 0..2 {
                        sums[c][v] = _mm256_fmadd_ps(x_sum, _mm256_mul_ps(minimums[v], x_scale), sums[c][v]);
                    }
                }
            }
        }
    }
    for i in 0..S {
        store_sums(&sums[i], 2 * (strip + i), acc);
    }
}

/// Minus the offset times the sum of a block's activations, of which `word` is -128 times.
#[inline]
#[target_feature(enable = "avx2")]
fn start_32<P: Product, T: BlockType>(word: u32) -> __m256i {
    match const { offset(T::TYPE) } {
        8 => _mm256_set1_epi32(word as i32 >> 4),
        16 => _mm256_set1_epi32(word as i32 >> 3),
        128 if const { !is_signed::<P, T>() } => _mm256_set1_epi32(word as i32),
        _ => _mm256_setzero_si256(),
    }
}

/// Types with super-blocks of 256, for one strip; `DIRECT` as in [`blocks_32`].
#[target_feature(enable = "avx2,fma,f16c")]
fn blocks_256<P: Product, T: BlockType, const C: usize, const S: usize, const DIRECT: bool>(
    product: P,
    segment: Segment<'_>,
    strip: usize,
    acc: &mut [Column],
) {
    let ops = Avx2::new();
    let blocks = segment.weights.chunks_exact(const { panel_lines(T::TYPE, 256) });
    let mut prefetch = Prefetch::new(segment.ahead, S * blocks.len() * const { scale_lines(T::TYPE) });
    for (b, (block, x)) in blocks.zip(segment.columns.chunks_exact(WORDS_256 * C)).enumerate() {
        for i in 0..S {
            let strip = if S == 2 { i } else { strip };
            let codes = Codes::<DIRECT>::new::<T>(ops, block, segment.expanded, b, strip);
            let mut totals = [[_mm256_setzero_ps(); 2]; C];
            for pair in 0..const { scale_lines(T::TYPE) } {
                prefetch.step();
                let line = &block[const { code_lines(T::TYPE) } + pair];
                // SAFETY: this function is compiled with AVX2, FMA and F16C.
                unsafe {
                    add_sub_block::<P, T, C, 0, DIRECT>(product, codes, line, x, pair, &mut totals);
                    add_sub_block::<P, T, C, 1, DIRECT>(product, codes, line, x, pair, &mut totals);
                }
            }
            let mut sums = load_sums::<C, 2>(2 * strip, acc);
            let d = widen_f16(&block[const { d_line(T::TYPE) }], strip);
            for c in 0..C {
                let x_scale = _mm256_set1_ps(f32::from_bits(x[SCALE_256 * C + c]));
                for v in 0..2 {
                    sums[c][v] = _mm256_fmadd_ps(totals[c][v], _mm256_mul_ps(d[v], x_scale), sums[c][v]);
                }
            }
            if const { offset(T::TYPE) == 0 } {
                add_minimums::<C, T>(&mut sums, block, x, strip);
            }
            store_sums(&sums, 2 * strip, acc);
        }
    }
}

/// Adds the even (0) or odd (1) sub-block of a pair, whose scales are in `line`, to the totals of its super-block,
/// whose activations are `x`. Known at compile time, `ODD` makes shifts constant or none.
///
/// # Safety
/// The caller must be compiled with AVX2, FMA and F16C; this is compiled as part of it.
#[inline(always)]
unsafe fn add_sub_block<P: Product, T: BlockType, const C: usize, const ODD: usize, const DIRECT: bool>(
    product: P,
    codes: Codes<'_, DIRECT>,
    line: &Line,
    x: &[u32],
    pair: usize,
    totals: &mut [[__m256; 2]; C],
) {
    let (sub, j) = (const { sub_len(T::TYPE) }, 2 * pair + ODD);
    // SAFETY: as the caller promises.
    unsafe {
        let mut dots = [[_mm256_setzero_si256(); 2]; C];
        for c in 0..C {
            dots[c] = [start_256::<P, T, C>(&x[STARTS_256 * C + c..], j); 2];
        }
        let x = &x[j * sub / 4 * C..][..sub / 4 * C];
        if sub == 32 {
            add_dots::<P, T, C, 8, DIRECT>(product, codes, 8 * j, x, &mut dots);
        } else {
            add_dots::<P, T, C, 4, DIRECT>(product, codes, 4 * j, x, &mut dots);
        }
        let scales = sub_scales::<T>(line, ODD, codes.strip);
        for c in 0..C {
            for v in 0..2 {
                totals[c][v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[c][v]), scales[v], totals[c][v]);
            }
        }
    }
}

/// Minus the offset times the sum of the activations of sub-block `j`; `starts[j * C]` is -32 times that of 16
/// activations.
#[inline]
#[target_feature(enable = "avx2")]
fn start_256<P: Product, T: BlockType, const C: usize>(starts: &[u32], j: usize) -> __m256i {
    match const { offset(T::TYPE) } {
        32 => _mm256_set1_epi32(starts[j * C] as i32),
        128 if const { !is_signed::<P, T>() } => {
            _mm256_set1_epi32(4 * (starts[2 * j * C] as i32 + starts[(2 * j + 1) * C] as i32))
        }
        _ => _mm256_setzero_si256(),
    }
}

/// The scales of the even (0) or odd (1) sub-block of a line `[32 rows][2]`, of the strip's rows.
#[inline]
#[target_feature(enable = "avx2")]
fn sub_scales<T: BlockType>(line: &Line, odd: usize, strip: usize) -> [__m256; 2] {
    let pairs = load(line, strip);
    let mut scales = [_mm256_setzero_ps(); 2];
    for v in 0..2 {
        let pairs = if v == 0 { _mm256_castsi256_si128(pairs) } else { _mm256_extracti128_si256::<1>(pairs) };
        // The byte wanted goes to the top of its word of 32 bits, and from there to the bottom.
        let top = _mm256_sll_epi32(_mm256_cvtepu16_epi32(pairs), _mm_cvtsi32_si128(24 - 8 * odd as i32));
        scales[v] = _mm256_cvtepi32_ps(match const { scale_byte(T::TYPE) } {
            ScaleByte::Unsigned => _mm256_srli_epi32::<24>(top),
            ScaleByte::Signed => _mm256_srai_epi32::<24>(top),
            ScaleByte::LowHalf => _mm256_and_si256(_mm256_srli_epi32::<24>(top), _mm256_set1_epi32(15)),
        });
    }
    scales
}

/// Subtracts the minimums of a super-block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_minimums<const C: usize, T: BlockType>(sums: &mut [[__m256; 2]; C], block: &[Line], x: &[u32], strip: usize) {
    let first_pair = if const { sub_len(T::TYPE) } == 32 { PAIRS_OF_32 } else { PAIRS_OF_16 };
    let lines = &block[const { minimum_line(T::TYPE) }..][..const { scale_lines(T::TYPE) }];
    let mut totals = [[_mm256_setzero_si256(); 2]; C];
    for (line, x) in lines.iter().zip(x[first_pair * C..].chunks_exact(C)) {
        let bytes = load(line, strip);
        let mut minimums: Pair = [
            _mm256_cvtepu8_epi16(_mm256_castsi256_si128(bytes)),
            _mm256_cvtepu8_epi16(_mm256_extracti128_si256::<1>(bytes)),
        ];
        if const { matches!(scale_byte(T::TYPE), ScaleByte::LowHalf) } {
            minimums = [_mm256_srli_epi16::<4>(minimums[0]), _mm256_srli_epi16::<4>(minimums[1])];
        }
        for c in 0..C {
            let x = _mm256_set1_epi32(x[c] as i32);
            for v in 0..2 {
                totals[c][v] = _mm256_add_epi32(totals[c][v], _mm256_madd_epi16(minimums[v], x));
            }
        }
    }
    let dmin = widen_f16(&block[const { d_line(T::TYPE) } + 1], strip);
    for c in 0..C {
        let x_scale = _mm256_set1_ps(f32::from_bits(x[SCALE_256 * C + c]));
        for v in 0..2 {
            let scale = _mm256_mul_ps(dmin[v], x_scale);
            sums[c][v] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(totals[c][v]), scale, sums[c][v]);
        }
    }
}

/// The 16 scales of the strip in a line, f16 or bf16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_scales<T: BlockType>(line: &Line, strip: usize) -> [__m256; 2] {
    if const { !matches!(T::TYPE, WeightType::MXFP4) } {
        return widen_f16(line, strip);
    }
    let values = load(line, strip);
    let halves = [_mm256_castsi256_si128(values), _mm256_extracti128_si256::<1>(values)];
    halves.map(|half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half))))
}

/// Half 0 or 1 of a line.
#[inline]
#[target_feature(enable = "avx2")]
fn load(line: &Line, half: usize) -> __m256i {
    let bytes = &line.0[32 * (half % 2)..][..32];
    // SAFETY: `bytes` are 32 bytes; 32-byte alignment follows from the line's but is not needed.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The 16 f16 values of the strip in a line.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_f16(line: &Line, strip: usize) -> [__m256; 2] {
    [widen_quarter(line, 2 * strip), widen_quarter(line, 2 * strip + 1)]
}

/// Eight of the 32 f16 values of a line: quarter 0 to 3.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_quarter(line: &Line, quarter: usize) -> __m256 {
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
