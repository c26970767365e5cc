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
//!    the segment is in L1 for all but the first, and each prefetches its share. A single tile has all of K as its
//!    segment, and prefetches a line for each that it reads.
//! 5. A BF16 pair is one 32-bit lane: even k is a shift left, odd k a mask.
//! 6. Codes of less than a byte are taken apart in registers, group by group, when few tiles of columns read them; for
//!    more tiles they were expanded once ([`super::panel::wants_expansion`]).
//! 7. Codes that share bytes are used one after the other: the halves of a byte of Q4_0, two sub-blocks side by side
//!    ([`add_pair`]). So a line is loaded once. A single column gains more from all loads of a sub-block at once.
//! 8. Super-blocks (`blocks_256`) add `float(dot) * scale` of each sub-block to sums of their own, and these to the
//!    running sums once in 256 k. All minimums of a super-block are one integer dot product of pairs (`vpdpwssd`).
#![allow(unsafe_code)]

use core::arch::x86_64::*;

use super::codes::{BlockType, with_block_type};
use super::line_ops::x86::Avx512;
use super::panel::{
    Column, Form, Line, PAIRS_OF_16, PAIRS_OF_32, SCALE_256, STARTS_256, ScaleByte, Segment, WORDS_32, WORDS_256,
    code_lines, d_line, is_packed, minimum_line, offset, panel_lines, scale_byte, scale_lines, sub_len,
};
use super::prefetch::{Prefetch, fetch_beyond};
use super::{Isa, Path};
use crate::quant::WeightType;

/// The running sums of a column: rows 0..16 and 16..32.
type Sums = [__m512; 2];

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Where a block kernel finds its codes: in the expanded lines, in the stored lines, or there and as a stream
/// ([`Segment::streams`]).
const EXPANDED: u8 = 0;
const STORED: u8 = 1;
const STREAMED: u8 = 2;

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
    match Form::of(isa, ty) {
        Form::Float => match ty {
            WeightType::F32 => accumulate_float::<F32>(segment, acc),
            WeightType::F16 if !segment.expanded.is_empty() => {
                accumulate_float::<F32>(Segment { weights: segment.expanded, ..segment }, acc);
            }
            WeightType::F16 => accumulate_float::<F16>(segment, acc),
            _ => accumulate_float::<BF16>(segment, acc),
        },
        Form::Pairs => {
            with_columns!(acc.len(), C in [1 2 3 4 5 6 7 8 9 10 11 12], {
                // SAFETY: an Isa with this form was shown, which exists only where the CPU has AVX512_BF16.
                unsafe { pairs::<C>(segment, acc) }
            })
        }
        Form::Blocks32 => with_block_type!(ty, T of 32, accumulate_32::<T>(segment, acc)),
        Form::Blocks256 => with_block_type!(ty, T of 256, accumulate_256::<T>(segment, acc)),
    }
}

fn accumulate_256<T: BlockType>(segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(acc.len(), C in [1 2 3 4 5 6], {
        // SAFETY: only called by `accumulate`, which was shown an Isa of this path.
        unsafe {
            if segment.streams {
                blocks_256::<C, T, STREAMED>(segment, acc)
            } else if segment.expanded.is_empty() {
                blocks_256::<C, T, STORED>(segment, acc)
            } else {
                blocks_256::<C, T, EXPANDED>(segment, acc)
            }
        }
    })
}

fn accumulate_32<T: BlockType>(segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(acc.len(), C in [1 2 3 4 5 6], {
        // SAFETY: only called by `accumulate`, which was shown an Isa of this path.
        unsafe {
            if segment.streams {
                blocks_32::<C, T, STREAMED>(segment, acc)
            } else if segment.expanded.is_empty() {
                blocks_32::<C, T, STORED>(segment, acc)
            } else {
                blocks_32::<C, T, EXPANDED>(segment, acc)
            }
        }
    })
}

fn accumulate_float<const TYPE: u8>(segment: Segment<'_>, acc: &mut [Column]) {
    with_columns!(acc.len(), C in [1 2 3 4 5 6 7 8 9 10 11 12], {
        // SAFETY: only called by `accumulate`, which was shown an Isa of this path.
        unsafe { float::<C, TYPE>(segment, acc) }
    })
}

/// BF16 weights and activations, both in pairs of k.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
fn pairs<const C: usize>(segment: Segment<'_>, acc: &mut [Column]) {
    let mut sums = load_sums::<C>(acc);
    let pairs = segment.weights.as_chunks::<2>().0.iter().zip(segment.columns.as_chunks::<C>().0);
    let mut prefetch = Prefetch::new(segment.ahead, pairs.len());
    for (lines, x) in pairs {
        prefetch.step();
        let w = [as_bf16(load(&lines[0])), as_bf16(load(&lines[1]))];
        for c in 0..C {
            let x = as_bf16(_mm512_set1_epi32(x[c] as i32));
            sums[c][0] = _mm512_dpbf16_ps(sums[c][0], w[0], x);
            sums[c][1] = _mm512_dpbf16_ps(sums[c][1], w[1], x);
        }
    }
    store_sums(&sums, acc);
}

/// The same register, as the type that the bf16 instructions take.
#[inline]
#[target_feature(enable = "avx512f")]
fn as_bf16(v: __m512i) -> __m512bh {
    // SAFETY: both are 64 plain bytes.
    unsafe { core::mem::transmute(v) }
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

/// Types with blocks of 32. `CODES`: [`EXPANDED`], [`STORED`] or [`STREAMED`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn blocks_32<const C: usize, T: BlockType, const CODES: u8>(segment: Segment<'_>, acc: &mut [Column]) {
    let (ops, offset, lines) = (Avx512::new(), const { offset(T::TYPE) }, const { panel_lines(T::TYPE, 32) });
    let mut sums = load_sums::<C>(acc);
    let blocks = segment.weights.chunks_exact(lines);
    let mut prefetch = Prefetch::new(if CODES == STREAMED { &[] } else { segment.ahead }, blocks.len());
    for (b, (block, x)) in blocks.zip(segment.columns.chunks_exact(WORDS_32 * C)).enumerate() {
        prefetch.step();
        let mut dots = [[_mm512_setzero_si512(); 2]; C];
        for c in 0..C {
            dots[c] = [start_32::<T>(x[8 * C + c]); 2];
        }
        let codes: &[Line] = if CODES != EXPANDED { &[] } else { &segment.expanded[16 * b..][..16] };
        for i in 0..8 {
            // Packed codes: the halves of a byte one after the other, as long as it is in a register.
            let g = if CODES != EXPANDED && const { is_packed(T::TYPE) } { i / 2 + i % 2 * 4 } else { i };
            if CODES == STREAMED {
                fetch_beyond(block, i * (lines / 8), lines / 8);
            }
            let w = if CODES != EXPANDED {
                T::group(ops, block, g)
            } else {
                [load(&codes[2 * g]), load(&codes[2 * g + 1])]
            };
            add_dots::<C>(&mut dots, w, &x[g * C..]);
        }
        if CODES == STREAMED {
            fetch_beyond(block, lines / 8 * 8, lines % 8);
        }
        let scales = const { code_lines(T::TYPE) };
        let w_scale = widen_scales::<T>(&block[scales]);
        for c in 0..C {
            let x_scale = _mm512_set1_ps(f32::from_bits(x[9 * C + c]));
            for half in 0..2 {
                let scale = _mm512_mul_ps(w_scale[half], x_scale);
                sums[c][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[c][half]), scale, sums[c][half]);
            }
        }
        if offset == 0 {
            let minimums = widen_scales::<T>(&block[scales + 1]);
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

/// Adds the products of the codes of a group with its activations `x`: `[C][4]`.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_dots<const C: usize>(dots: &mut [[__m512i; 2]; C], w: [__m512i; 2], x: &[u32]) {
    for c in 0..C {
        let x = _mm512_set1_epi32(x[c] as i32);
        dots[c][0] = _mm512_dpbusd_epi32(dots[c][0], w[0], x);
        dots[c][1] = _mm512_dpbusd_epi32(dots[c][1], w[1], x);
    }
}

/// Minus the offset times the sum of a block's activations, of which `word` is -128 times.
#[inline]
#[target_feature(enable = "avx512f")]
fn start_32<T: BlockType>(word: u32) -> __m512i {
    let start = _mm512_set1_epi32(word as i32);
    match const { offset(T::TYPE) } {
        0 => _mm512_setzero_si512(),
        8 => _mm512_srai_epi32::<4>(start),
        16 => _mm512_srai_epi32::<3>(start),
        _ => start,
    }
}

/// The 32 scales of a line, f16 or bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn widen_scales<T: BlockType>(line: &Line) -> Sums {
    if const { !matches!(T::TYPE, WeightType::MXFP4) } {
        return widen_f16(line);
    }
    let values = load(line);
    let halves = [_mm512_castsi512_si256(values), _mm512_extracti64x4_epi64::<1>(values)];
    halves.map(|half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))))
}

/// Types with super-blocks of 256; `CODES` as in [`blocks_32`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn blocks_256<const C: usize, T: BlockType, const CODES: u8>(segment: Segment<'_>, acc: &mut [Column]) {
    let subs = const { 256 / sub_len(T::TYPE) };
    let blocks = segment.weights.chunks_exact(const { panel_lines(T::TYPE, 256) });
    let mut prefetch = Prefetch::new(if CODES == STREAMED { &[] } else { segment.ahead }, blocks.len() * subs / 2);
    for (b, (block, x)) in blocks.zip(segment.columns.chunks_exact(WORDS_256 * C)).enumerate() {
        let codes: &[Line] = if CODES != EXPANDED { &[] } else { &segment.expanded[128 * b..][..128] };
        let mut totals = [[_mm512_setzero_ps(); 2]; C];
        for pair in 0..subs / 2 {
            prefetch.step();
            if CODES != EXPANDED && C > 1 {
                add_pair::<C, T, CODES>(&mut totals, block, x, pair);
            } else {
                add_sub_block::<C, T, CODES, 0>(&mut totals, block, codes, x, pair);
                add_sub_block::<C, T, CODES, 1>(&mut totals, block, codes, x, pair);
            }
        }
        let (d, x_scales) = (widen_f16(&block[const { d_line(T::TYPE) }]), &x[SCALE_256 * C..]);
        let mut sums = load_sums::<C>(acc);
        for c in 0..C {
            let x_scale = _mm512_set1_ps(f32::from_bits(x_scales[c]));
            for half in 0..2 {
                let scale = _mm512_mul_ps(d[half], x_scale);
                sums[c][half] = _mm512_fmadd_ps(totals[c][half], scale, sums[c][half]);
            }
        }
        if const { offset(T::TYPE) == 0 } {
            add_minimums::<C, T>(&mut sums, block, x);
        }
        store_sums(&sums, acc);
    }
}

/// Adds both sub-blocks of a pair, side by side: in most types they share lines, and their sums do not wait for each
/// other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add_pair<const C: usize, T: BlockType, const CODES: u8>(
    totals: &mut [Sums; C],
    block: &[Line],
    x: &[u32],
    pair: usize,
) {
    let (ops, groups) = (Avx512::new(), const { sub_len(T::TYPE) / 4 });
    let mut dots = [[[_mm512_setzero_si512(); 2]; C]; 2];
    for odd in 0..2 {
        for c in 0..C {
            dots[odd][c] = [start_256::<C, T>(&x[STARTS_256 * C + c..], 2 * pair + odd); 2];
        }
    }
    for i in 0..groups {
        fetch_for_groups::<T, CODES>(block, pair, 2 * i, 2);
        for odd in 0..2 {
            let g = (2 * pair + odd) * groups + i;
            add_dots::<C>(&mut dots[odd], T::group(ops, block, g), &x[g * C..]);
        }
    }
    fetch_rest::<T, CODES>(block, pair);
    let line = &block[const { code_lines(T::TYPE) } + pair];
    for odd in 0..2 {
        add_scaled::<C>(totals, &dots[odd], sub_scales::<T>(line, odd));
    }
}

/// Adds the even (0) or odd (1) sub-block of a pair. Known at compile time, `ODD` makes shifts constant or none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add_sub_block<const C: usize, T: BlockType, const CODES: u8, const ODD: usize>(
    totals: &mut [Sums; C],
    block: &[Line],
    codes: &[Line],
    x: &[u32],
    pair: usize,
) {
    let (ops, groups, j) = (Avx512::new(), const { sub_len(T::TYPE) / 4 }, 2 * pair + ODD);
    let mut dots = [[_mm512_setzero_si512(); 2]; C];
    for c in 0..C {
        dots[c] = [start_256::<C, T>(&x[STARTS_256 * C + c..], j); 2];
    }
    for i in 0..groups {
        fetch_for_groups::<T, CODES>(block, pair, ODD * groups + i, 1);
        let g = j * groups + i;
        let w =
            if CODES != EXPANDED { T::group(ops, block, g) } else { [load(&codes[2 * g]), load(&codes[2 * g + 1])] };
        add_dots::<C>(&mut dots, w, &x[g * C..]);
    }
    if ODD == 1 {
        fetch_rest::<T, CODES>(block, pair);
    }
    add_scaled::<C>(totals, &dots, sub_scales::<T>(&block[const { code_lines(T::TYPE) } + pair], ODD));
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_scaled<const C: usize>(totals: &mut [Sums; C], dots: &[[__m512i; 2]; C], scales: Sums) {
    for c in 0..C {
        for half in 0..2 {
            totals[c][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[c][half]), scales[half], totals[c][half]);
        }
    }
}

/// Lines of a super-block for each pair of sub-blocks, and for each group of these, rounded down.
const fn lines_per_pair<T: BlockType>() -> (usize, usize) {
    let pair = panel_lines(T::TYPE, 256) * 2 * sub_len(T::TYPE) / 256;
    (pair, pair / (sub_len(T::TYPE) / 2))
}

/// Of a stream, fetches the lines ahead that belong to `count` groups from `first` of a pair.
#[inline]
fn fetch_for_groups<T: BlockType, const CODES: u8>(block: &[Line], pair: usize, first: usize, count: usize) {
    if CODES == STREAMED {
        let (per_pair, per_group) = const { lines_per_pair::<T>() };
        fetch_beyond(block, pair * per_pair + first * per_group, count * per_group);
    }
}

/// Of a stream, fetches the lines ahead of a pair that belong to no group, and one for what was rounded off.
#[inline]
fn fetch_rest<T: BlockType, const CODES: u8>(block: &[Line], pair: usize) {
    if CODES == STREAMED {
        let (per_pair, per_group) = const { lines_per_pair::<T>() };
        let done = per_group * const { sub_len(T::TYPE) / 2 };
        fetch_beyond(block, pair * per_pair + done, per_pair + 1 - done);
    }
}

/// Minus the offset times the sum of the activations of sub-block `j`; `starts[j * C]` is -32 times that of 16
/// activations.
#[inline]
#[target_feature(enable = "avx512f")]
fn start_256<const C: usize, T: BlockType>(starts: &[u32], j: usize) -> __m512i {
    match const { offset(T::TYPE) } {
        0 => _mm512_setzero_si512(),
        32 => _mm512_set1_epi32(starts[j * C] as i32),
        _ => _mm512_set1_epi32(4 * (starts[2 * j * C] as i32 + starts[(2 * j + 1) * C] as i32)),
    }
}

/// The scales of the even (0) or odd (1) sub-block of a line `[32 rows][2]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn sub_scales<T: BlockType>(line: &Line, odd: usize) -> Sums {
    let pairs = load(line);
    let mut scales = [_mm512_setzero_ps(); 2];
    for half in 0..2 {
        let pairs = if half == 0 { _mm512_castsi512_si256(pairs) } else { _mm512_extracti64x4_epi64::<1>(pairs) };
        // The byte wanted goes to the top of its word of 32 bits, and from there to the bottom.
        let top = _mm512_sll_epi32(_mm512_cvtepu16_epi32(pairs), _mm_cvtsi32_si128(24 - 8 * odd as i32));
        scales[half] = _mm512_cvtepi32_ps(match const { scale_byte(T::TYPE) } {
            ScaleByte::Unsigned => _mm512_srli_epi32::<24>(top),
            ScaleByte::Signed => _mm512_srai_epi32::<24>(top),
            ScaleByte::LowHalf => _mm512_and_si512(_mm512_srli_epi32::<24>(top), _mm512_set1_epi32(15)),
        });
    }
    scales
}

/// Subtracts the minimums of a super-block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add_minimums<const C: usize, T: BlockType>(sums: &mut [Sums; C], block: &[Line], x: &[u32]) {
    let first = if const { sub_len(T::TYPE) } == 32 { PAIRS_OF_32 } else { PAIRS_OF_16 };
    let lines = &block[const { minimum_line(T::TYPE) }..][..const { scale_lines(T::TYPE) }];
    let mut totals = [[_mm512_setzero_si512(); 2]; C];
    for (line, x) in lines.iter().zip(x[first * C..].chunks_exact(C)) {
        let mut bytes = load(line);
        if const { matches!(scale_byte(T::TYPE), ScaleByte::LowHalf) } {
            bytes = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(15));
        }
        let low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(bytes));
        let high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(bytes));
        for c in 0..C {
            let x = _mm512_set1_epi32(x[c] as i32);
            totals[c][0] = _mm512_dpwssd_epi32(totals[c][0], low, x);
            totals[c][1] = _mm512_dpwssd_epi32(totals[c][1], high, x);
        }
    }
    let dmin = widen_f16(&block[const { d_line(T::TYPE) } + 1]);
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
