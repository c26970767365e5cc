//! The matmul kernels for AVX-512 (F, BW, DQ, VL, VNNI).
//!
//! Origin: the rows-in-lanes layout that oneDNN and others pack weights into, with the running sums of up to 12 (float)
//! or 6 (integer) activation columns in registers, each column one f32 chain per output as MM-3 demands.
//!
//! ```text
//! float:  for k ascending                               blocks_32:  for block of 32 k ascending
//!           w = 2 vectors of 16 rows, widened                    dot[c] = start[c]               -offset * sum of x
//!           for c: acc[c] += w * broadcast(x[k][c])              for group of 4 k: w = 2 vectors of 16 rows x 4 bytes
//!                                                                  for c: dot[c] += w . broadcast(4 bytes of x[c])
//!                                              for c: acc[c] += float(dot[c]) * (dw * broadcast(dx[c]))
//!
//!           row 0      row 1          row 15   | row 16          row 31
//! Q8_0    [k0 k1 k2 k3|k0 k1 k2 k3|...|k0..k3] | [k0..k3|  ... |k0..k3]   2 lines a group, 8 groups, 32 f16 scales
//! BF16    [k0 k1      |k0 k1      |...|k0  k1] | [k0  k1|  ... |k0  k1]     2 lines for 2 k
//! ```
//!
//! 1. 32 rows a column: each broadcast feeds two instructions, which keeps the load ports below the arithmetic.
//! 2. `vpdpbusd` multiplies unsigned by signed bytes. The weights are stored plus an offset; starting from -offset · Σx
//!    takes that out again at no cost. The sums are exact integers, so the order inside a block is free.
//! 3. The columns of a tile are interleaved word by word: one activation stream, constant offsets, no two columns that
//!    fall into the same cache set.
//! 4. While a segment computes from L1, the next one is prefetched into L2, a few lines every step. With several tiles
//!    the segment is in L1 for all but the first, and each prefetches its share.
//! 5. A BF16 pair is one 32-bit lane: even k is a shift left, odd k a mask.
//! 6. Super-blocks (`blocks_256`) add `float(dot) * scale` of each sub-block to sums of their own, and these to the
//!    running sums once in 256 k. All minimums of a super-block are one integer dot product of pairs (`vpdpwssd`).
#![allow(unsafe_code)]

use core::arch::x86_64::*;

use super::panel::{
    Column, Line, PAIRS_OF_16, PAIRS_OF_32, SCALE_256, STARTS_256, Segment, WORDS_32, WORDS_256, lines_32, lines_256,
    offset, sub_len,
};
use super::prefetch::Prefetch;
use super::{Isa, Path};
use crate::quant::WeightType;

/// The running sums of a column: rows 0..16 and 16..32.
type Sums = [__m512; 2];

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Evaluates `$call` with the constant `$C` equal to `$columns`, for the listed values.
macro_rules! with_columns {
    ($columns:expr, $C:ident in [$($c:literal)*], $call:expr) => {
        match $columns {
            $($c => {
                const $C: usize = $c;
                $call
            })*
            columns => unreachable!("{columns} columns in a tile"),
        }
    };
}

/// See [`super::panel::accumulate`], which checked the lengths.
pub fn accumulate(isa: Isa, ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    assert_eq!(isa.path(), Path::Avx512);
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
    with_columns!(acc.len(), C in [1 2 3 4 5 6], {
        // SAFETY: only called by `accumulate`, which was shown an Isa of this path.
        unsafe { blocks_256::<C, SUB, OFFSET>(segment, acc) }
    })
}

fn accumulate_32<const OFFSET: i32, const SCALE: u8>(segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(acc.len(), C in [1 2 3 4 5 6], {
        // SAFETY: only called by `accumulate`, which was shown an Isa of this path.
        unsafe { blocks_32::<C, OFFSET, SCALE>(segment, acc) }
    })
}

fn accumulate_float<const TYPE: u8>(segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(acc.len(), C in [1 2 3 4 5 6 7 8 9 10 11 12], {
        // SAFETY: only called by `accumulate`, which was shown an Isa of this path.
        unsafe { float::<C, TYPE>(segment, acc) }
    })
}

/// F32, F16 and BF16. Two k a step, as BF16 stores them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn float<const C: usize, const TYPE: u8>(segment: Segment<'_>, acc: &mut [Column]) {
    let lines_per_pair = if TYPE == F32 { 4 } else { 2 };
    let mut sums = load_sums::<C>(acc);
    let pairs = segment.columns.len() / (2 * C);
    let mut prefetch = Prefetch::new(segment.ahead, pairs);
    let mut x = segment.columns.chunks_exact(2 * C);
    for (x, lines) in (&mut x).zip(segment.weights.chunks_exact(lines_per_pair)) {
        prefetch.step();
        float_step::<C, TYPE>(&mut sums, widen::<TYPE>(lines, 0), &x[..C]);
        float_step::<C, TYPE>(&mut sums, widen::<TYPE>(lines, 1), &x[C..]);
    }
    if !x.remainder().is_empty() {
        let lines = &segment.weights[pairs * lines_per_pair..];
        float_step::<C, TYPE>(&mut sums, widen::<TYPE>(lines, 0), x.remainder());
    }
    store_sums(&sums, acc);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn float_step<const C: usize, const TYPE: u8>(sums: &mut [Sums; C], w: Sums, x: &[u32]) {
    for c in 0..C {
        let x = _mm512_set1_ps(f32::from_bits(x[c]));
        sums[c][0] = _mm512_fmadd_ps(w[0], x, sums[c][0]);
        sums[c][1] = _mm512_fmadd_ps(w[1], x, sums[c][1]);
    }
}

/// The weights of 32 rows at the even (0) or odd (1) k of a pair, widened.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn widen<const TYPE: u8>(lines: &[Line], odd: usize) -> Sums {
    match TYPE {
        F32 => [_mm512_castsi512_ps(load(&lines[2 * odd])), _mm512_castsi512_ps(load(&lines[2 * odd + 1]))],
        F16 => widen_f16(&lines[odd]),
        _ if odd == 0 => [0, 1].map(|i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(load(&lines[i])))),
        _ => {
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            [0, 1].map(|i| _mm512_castsi512_ps(_mm512_and_si512(upper, load(&lines[i]))))
        }
    }
}

/// Types with blocks of 32, expanded: codes with `OFFSET` added, or plain codes (0) and minimums.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn blocks_32<const C: usize, const OFFSET: i32, const SCALE: u8>(segment: Segment<'_>, acc: &mut [Column]) {
    let lines = const { lines_32(OFFSET) };
    let mut sums = load_sums::<C>(acc);
    let blocks = segment.weights.chunks_exact(lines);
    let mut prefetch = Prefetch::new(segment.ahead, blocks.len());
    for (block, x) in blocks.zip(segment.columns.chunks_exact(WORDS_32 * C)) {
        prefetch.step();
        let mut dots = [[_mm512_setzero_si512(); 2]; C];
        for c in 0..C {
            dots[c] = [start_32::<OFFSET>(x[8 * C + c]); 2];
        }
        for group in 0..8 {
            let w = [load(&block[2 * group]), load(&block[2 * group + 1])];
            for c in 0..C {
                let x = _mm512_set1_epi32(x[group * C + c] as i32);
                dots[c][0] = _mm512_dpbusd_epi32(dots[c][0], w[0], x);
                dots[c][1] = _mm512_dpbusd_epi32(dots[c][1], w[1], x);
            }
        }
        let w_scale = widen_scales::<SCALE>(&block[16]);
        for c in 0..C {
            let x_scale = _mm512_set1_ps(f32::from_bits(x[9 * C + c]));
            for half in 0..2 {
                let scale = _mm512_mul_ps(w_scale[half], x_scale);
                sums[c][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[c][half]), scale, sums[c][half]);
            }
        }
        if OFFSET == 0 {
            let minimums = widen_scales::<SCALE>(&block[lines - 1]);
            for c in 0..C {
                let x_scale = _mm512_set1_ps(f32::from_bits(x[9 * C + c]));
                // The start value is -128 times the sum of the activations. Negated as an integer: -0 is no sum.
                let x_sum = _mm512_cvtepi32_ps(_mm512_set1_epi32(-(x[8 * C + c] as i32) >> 7));
                for half in 0..2 {
                    let scale = _mm512_mul_ps(minimums[half], x_scale);
                    sums[c][half] = _mm512_fmadd_ps(x_sum, scale, sums[c][half]);
                }
            }
        }
    }
    store_sums(&sums, acc);
}

/// `-OFFSET` times the sum of a block's activations, of which `word` is -128 times.
#[inline]
#[target_feature(enable = "avx512f")]
fn start_32<const OFFSET: i32>(word: u32) -> __m512i {
    let start = _mm512_set1_epi32(word as i32);
    match OFFSET {
        0 => _mm512_setzero_si512(),
        8 => _mm512_srai_epi32::<4>(start),
        16 => _mm512_srai_epi32::<3>(start),
        _ => start,
    }
}

/// The 32 scales of a line, f16 or bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn widen_scales<const SCALE: u8>(line: &Line) -> Sums {
    if SCALE == F16 {
        return widen_f16(line);
    }
    let values = load(line);
    let halves = [_mm512_castsi512_si256(values), _mm512_extracti64x4_epi64::<1>(values)];
    halves.map(|half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))))
}

/// Types with super-blocks of 256, expanded, in sub-blocks of `SUB`; `OFFSET` as in [`blocks_32`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn blocks_256<const C: usize, const SUB: usize, const OFFSET: i32>(segment: Segment<'_>, acc: &mut [Column]) {
    let (lines, subs) = const { (lines_256(SUB, OFFSET), 256 / SUB) };
    let blocks = segment.weights.chunks_exact(lines);
    let mut prefetch = Prefetch::new(segment.ahead, blocks.len() * subs);
    for (block, x) in blocks.zip(segment.columns.chunks_exact(WORDS_256 * C)) {
        let mut totals = [[_mm512_setzero_ps(); 2]; C];
        for j in 0..subs {
            prefetch.step();
            let mut dots = [[_mm512_setzero_si512(); 2]; C];
            for c in 0..C {
                dots[c] = [start_256::<C, OFFSET>(&x[STARTS_256 * C + c..], j); 2];
            }
            for group in j * SUB / 4..(j + 1) * SUB / 4 {
                let w = [load(&block[2 * group]), load(&block[2 * group + 1])];
                for c in 0..C {
                    let x = _mm512_set1_epi32(x[group * C + c] as i32);
                    dots[c][0] = _mm512_dpbusd_epi32(dots[c][0], w[0], x);
                    dots[c][1] = _mm512_dpbusd_epi32(dots[c][1], w[1], x);
                }
            }
            let scales = [0, 1].map(|half| _mm512_castsi512_ps(load(&block[128 + 2 * j + half])));
            for c in 0..C {
                for half in 0..2 {
                    totals[c][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[c][half]), scales[half], totals[c][half]);
                }
            }
        }
        let (d, x_scales) = (widen_f16(&block[128 + 2 * subs]), &x[SCALE_256 * C..]);
        let mut sums = load_sums::<C>(acc);
        for c in 0..C {
            let x_scale = _mm512_set1_ps(f32::from_bits(x_scales[c]));
            for half in 0..2 {
                let scale = _mm512_mul_ps(d[half], x_scale);
                sums[c][half] = _mm512_fmadd_ps(totals[c][half], scale, sums[c][half]);
            }
        }
        if OFFSET == 0 {
            add_minimums::<C>(&mut sums, &block[129 + 2 * subs..], x);
        }
        store_sums(&sums, acc);
    }
}

/// `-OFFSET` times the sum of the activations of sub-block `j`; `starts[j * C]` is -32 times that of 16 activations.
#[inline]
#[target_feature(enable = "avx512f")]
fn start_256<const C: usize, const OFFSET: i32>(starts: &[u32], j: usize) -> __m512i {
    match OFFSET {
        0 => _mm512_setzero_si512(),
        32 => _mm512_set1_epi32(starts[j * C] as i32),
        _ => _mm512_set1_epi32(4 * (starts[2 * j * C] as i32 + starts[(2 * j + 1) * C] as i32)),
    }
}

/// Subtracts the minimums of a super-block: `lines` are pairs of minimums, then dmin.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add_minimums<const C: usize>(sums: &mut [Sums; C], lines: &[Line], x: &[u32]) {
    let (pairs, dmin) = lines.split_at(lines.len() - 1);
    let first = if pairs.len() == 8 { PAIRS_OF_32 } else { PAIRS_OF_16 };
    let mut totals = [[_mm512_setzero_si512(); 2]; C];
    for (pairs, x) in pairs.chunks_exact(2).zip(x[first * C..].chunks_exact(C)) {
        let minimums = [load(&pairs[0]), load(&pairs[1])];
        for c in 0..C {
            let x = _mm512_set1_epi32(x[c] as i32);
            totals[c][0] = _mm512_dpwssd_epi32(totals[c][0], minimums[0], x);
            totals[c][1] = _mm512_dpwssd_epi32(totals[c][1], minimums[1], x);
        }
    }
    let dmin = widen_f16(&dmin[0]);
    for c in 0..C {
        let x_scale = _mm512_set1_ps(f32::from_bits(x[SCALE_256 * C + c]));
        for half in 0..2 {
            let scale = _mm512_mul_ps(dmin[half], x_scale);
            sums[c][half] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(totals[c][half]), scale, sums[c][half]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &Line) -> __m512i {
    // SAFETY: a Line is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
}

/// The 32 f16 values of a line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn widen_f16(line: &Line) -> Sums {
    let values = load(line);
    [_mm512_cvtph_ps(_mm512_castsi512_si256(values)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(values))]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_sums<const C: usize>(acc: &[Column]) -> [Sums; C] {
    let mut sums = [[_mm512_setzero_ps(); 2]; C];
    for (sums, column) in sums.iter_mut().zip(acc) {
        // SAFETY: a Column is 32 f32: 16 from its start and 16 from its middle are inside.
        *sums = unsafe { [_mm512_loadu_ps(column.as_ptr()), _mm512_loadu_ps(column.as_ptr().add(16))] };
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_sums<const C: usize>(sums: &[Sums; C], acc: &mut [Column]) {
    for (sums, column) in sums.iter().zip(acc) {
        // SAFETY: a Column is 32 f32: 16 from its start and 16 from its middle are inside.
        unsafe {
            _mm512_storeu_ps(column.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(column.as_mut_ptr().add(16), sums[1]);
        }
    }
}
