//! Making bytes of packed codes, one source for every path.
//!
//! Origin: the block formats of GGUF (`quant`), over the panel layout of [`super::panel`].
//!
//! ```text
//! for each block of a stretch of a panel          [32 rows][4 bytes] are two lines
//!   for each pair of code lines:  low halves  -> 2 lines of one group of 4 k
//!                                 high halves -> 2 lines of a later group
//!   scales: copied, or widened to what the kernel multiplies by
//! ```
//!
//! 1. Panels keep the file's bytes by fours, so a code moves to its byte by a shift and a mask of whole lines.
//! 2. A stretch fits L1 beside what the kernel needs. It is expanded once for all columns of a batch.
//! 3. Nothing here takes a function as an argument: the compiler would not inline it, and compile it without the path's
//!    instructions.
#![allow(unsafe_code)]

use super::line_ops::{LineOps, Scalar};
use super::panel::{EXPANDED_K, Line, expanded_lines, is_packed, offset, panel_lines};
use super::{Isa, Path};
use crate::quant::{self, WeightType};

/// Calls an expansion with each block's lines, packed and expanded.
macro_rules! each_block {
    ($ops:ident, $lines:ident, $out:ident, $expand:ident) => {
        for (block, out) in $lines.as_chunks().0.iter().zip($out.as_chunks_mut().0) {
            $expand($ops, block, out);
        }
    };
}

/// Expands `lines`, which cover `k` elements of a panel, to `out`.
///
/// # Panics
/// If panels of `ty` are not packed, `k` exceeds [`EXPANDED_K`] or the lengths do not fit.
pub fn expand(isa: Isa, ty: WeightType, k: usize, lines: &[Line], out: &mut [Line]) {
    assert!(is_packed(ty) && k <= EXPANDED_K, "{k} elements of {ty}");
    assert_eq!(lines.len(), panel_lines(ty, k), "lines of {k} elements of {ty}");
    assert_eq!(out.len(), expanded_lines(ty, k), "expanded lines of {k} elements of {ty}");
    match isa.path() {
        Path::Scalar => expand_blocks(Scalar, ty, lines, out),
        // SAFETY: holding an Isa of this path proves the features it is compiled with.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { expand_avx2(ty, lines, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { expand_avx512(ty, lines, out) },
        #[cfg(not(target_arch = "x86_64"))]
        Path::Avx2 | Path::Avx512 => unreachable!("an Isa is only made for a path this CPU has"),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn expand_avx2(ty: WeightType, lines: &[Line], out: &mut [Line]) {
    expand_blocks(super::line_ops::x86::Avx2::new(), ty, lines, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn expand_avx512(ty: WeightType, lines: &[Line], out: &mut [Line]) {
    expand_blocks(super::line_ops::x86::Avx512::new(), ty, lines, out);
}

#[inline(always)]
fn expand_blocks<L: LineOps>(l: L, ty: WeightType, lines: &[Line], out: &mut [Line]) {
    match ty {
        WeightType::Q4_0 => each_block!(l, lines, out, q4_0),
        WeightType::Q4_1 => each_block!(l, lines, out, q4_1),
        WeightType::Q5_0 => each_block!(l, lines, out, q5_0),
        WeightType::Q5_1 => each_block!(l, lines, out, q5_1),
        WeightType::IQ4NL => each_block!(l, lines, out, iq4_nl),
        WeightType::MXFP4 => each_block!(l, lines, out, mxfp4),
        WeightType::Q2K => each_block!(l, lines, out, q2_k),
        WeightType::Q3K => each_block!(l, lines, out, q3_k),
        WeightType::Q4K => each_block!(l, lines, out, q4_k),
        WeightType::Q5K => each_block!(l, lines, out, q5_k),
        WeightType::Q6K => each_block!(l, lines, out, q6_k),
        WeightType::IQ4XS => each_block!(l, lines, out, iq4_xs),
        ty => unreachable!("{ty} is multiplied as stored"),
    }
}

#[inline(always)]
fn q4_0<L: LineOps>(l: L, block: &[Line; 9], out: &mut [Line; 17]) {
    halves(l, &block[..8], out);
    out[16] = block[8];
}

#[inline(always)]
fn q4_1<L: LineOps>(l: L, block: &[Line; 10], out: &mut [Line; 18]) {
    halves(l, &block[..8], out);
    out[16] = block[8];
    out[17] = block[9];
}

/// 32 elements are 4 words; the second 16 are the high halves.
#[inline(always)]
fn halves<L: LineOps>(l: L, lines: &[Line], out: &mut [Line]) {
    for i in 0..8 {
        let codes = l.load(&lines[i]);
        l.store(l.bits(codes, 0, 15), &mut out[i]);
        l.store(l.bits(codes, 4, 15), &mut out[i + 8]);
    }
}

#[inline(always)]
fn q5_0<L: LineOps>(l: L, block: &[Line; 11], out: &mut [Line; 17]) {
    halves_and_high_bits(l, &block[..10], out);
    out[16] = block[10];
}

#[inline(always)]
fn q5_1<L: LineOps>(l: L, block: &[Line; 12], out: &mut [Line; 18]) {
    halves_and_high_bits(l, &block[..10], out);
    out[16] = block[10];
    out[17] = block[11];
}

/// As [`halves`]; then two lines of high bits, bit `g` that of group `g` of 4 elements.
#[inline(always)]
fn halves_and_high_bits<L: LineOps>(l: L, lines: &[Line], out: &mut [Line]) {
    let highs = [l.load(&lines[8]), l.load(&lines[9])];
    for i in 0..8 {
        let (codes, high) = (l.load(&lines[i]), highs[i % 2]);
        for n in 0..2 {
            let (low, high) = (l.bits(codes, 4 * n as u32, 15), l.bits(high, (i / 2 + 4 * n) as u32, 1));
            l.store(l.or_shifted(low, high, 4), &mut out[8 * n + i]);
        }
    }
}

#[inline(always)]
fn iq4_nl<L: LineOps>(l: L, block: &[Line; 9], out: &mut [Line; 17]) {
    look_up_halves(l, &IQ4_TABLE, &block[..8], out);
    out[16] = block[8];
}

#[inline(always)]
fn mxfp4<L: LineOps>(l: L, block: &[Line; 9], out: &mut [Line; 17]) {
    look_up_halves(l, &MXFP4_TABLE, &block[..8], out);
    out[16] = block[8];
}

/// As [`halves`], through a table.
#[inline(always)]
fn look_up_halves<L: LineOps>(l: L, table: &[u8; 16], lines: &[Line], out: &mut [Line]) {
    for i in 0..8 {
        let codes = l.load(&lines[i]);
        l.store(l.look_up(table, l.bits(codes, 0, 15)), &mut out[i]);
        l.store(l.look_up(table, l.bits(codes, 4, 15)), &mut out[i + 8]);
    }
}

/// 128 elements are 16 words; the element 32 further on is 2 bits further up.
#[inline(always)]
fn q2_k<L: LineOps>(l: L, block: &[Line; 42], out: &mut [Line; 178]) {
    for half in 0..2 {
        for i in 0..16 {
            let low = l.load(&block[16 * half + i]);
            for n in 0..4 {
                l.store(l.bits(low, 2 * n as u32, 3), &mut out[64 * half + 16 * n + i]);
            }
        }
    }
    let packed = &block[32..40];
    let (mut scales, mut minimums) = ([Line([0; 64]); 8], [Line([0; 64]); 8]);
    for i in 0..8 {
        let packed = l.load(&packed[i]);
        l.store(l.bits(packed, 0, 15), &mut scales[i]);
        l.store(l.bits(packed, 4, 15), &mut minimums[i]);
    }
    widen_unsigned(&scales, &mut out[128..160]);
    out[160] = block[40];
    pair(&minimums, &mut out[161..177]);
    out[177] = block[41];
}

/// Low bits as in Q2_K; bit `n` of the high bits belongs to stretch `n` of 32. The offset is made 32, that of Q6_K.
#[inline(always)]
fn q3_k<L: LineOps>(l: L, block: &[Line; 57], out: &mut [Line; 161]) {
    for half in 0..2 {
        for i in 0..16 {
            let (low, high) = (l.load(&block[16 * half + i]), l.load(&block[32 + i]));
            for n in 0..4 {
                let stretch = 4 * half + n;
                let (low, high) = (l.bits(low, 2 * n as u32, 3), l.bits(high, stretch as u32, 1));
                l.store(l.add(l.or_shifted(low, high, 2), 32 - 4), &mut out[16 * stretch + i]);
            }
        }
    }
    widen_signed(&block[48..56], &mut out[128..160]);
    out[160] = block[56];
}

/// 64 elements are 8 words; the second 32 are the high halves.
#[inline(always)]
fn q4_k<L: LineOps>(l: L, block: &[Line; 74], out: &mut [Line; 154]) {
    for quarter in 0..4 {
        for i in 0..16 {
            let codes = l.load(&block[16 * quarter + i]);
            l.store(l.bits(codes, 0, 15), &mut out[32 * quarter + i]);
            l.store(l.bits(codes, 4, 15), &mut out[32 * quarter + 16 + i]);
        }
    }
    scales_and_minimums(&block[64..], &mut out[128..]);
}

/// Low bits as in Q4_K, high bits as in Q3_K.
#[inline(always)]
fn q5_k<L: LineOps>(l: L, block: &[Line; 90], out: &mut [Line; 154]) {
    for quarter in 0..4 {
        for i in 0..16 {
            let (low, high) = (l.load(&block[16 * quarter + i]), l.load(&block[64 + i]));
            for n in 0..2 {
                let stretch = 2 * quarter + n;
                let (low, high) = (l.bits(low, 4 * n as u32, 15), l.bits(high, stretch as u32, 1));
                l.store(l.or_shifted(low, high, 4), &mut out[16 * stretch + i]);
            }
        }
    }
    scales_and_minimums(&block[80..], &mut out[128..]);
}

/// Of Q4_K and Q5_K: bytes of scales and minimums, d, dmin.
#[inline(always)]
fn scales_and_minimums(lines: &[Line], out: &mut [Line]) {
    widen_unsigned(&lines[..4], &mut out[..16]);
    out[16] = lines[8];
    pair(&lines[4..8], &mut out[17..25]);
    out[25] = lines[9];
}

/// 128 elements are 16 words of low bits, the second 64 in the high halves, and 8 words of high bits, the element 32
/// further on 2 bits further up.
#[inline(always)]
fn q6_k<L: LineOps>(l: L, block: &[Line; 105], out: &mut [Line; 161]) {
    for half in 0..2 {
        for i in 0..16 {
            let lows = [l.load(&block[32 * half + i]), l.load(&block[32 * half + 16 + i])];
            let high = l.load(&block[64 + 16 * half + i]);
            for n in 0..4 {
                let low = l.bits(lows[n % 2], n as u32 / 2 * 4, 15);
                let high = l.bits(high, n as u32 * 2, 3);
                l.store(l.or_shifted(low, high, 4), &mut out[64 * half + 16 * n + i]);
            }
        }
    }
    widen_signed(&block[96..104], &mut out[128..160]);
    out[160] = block[104];
}

/// What the 4-bit codes of IQ4_NL and IQ4_XS stand for, plus the offset.
const IQ4_TABLE: [u8; 16] = table(quant::iq4_nl::VALUES, offset(WeightType::IQ4NL));
/// What those of MXFP4 stand for, plus the offset.
const MXFP4_TABLE: [u8; 16] = table(quant::mxfp4::VALUES, offset(WeightType::MXFP4));

const fn table(values: [i8; 16], offset: i32) -> [u8; 16] {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = (values[code] as i32 + offset) as u8;
        code += 1;
    }
    table
}

#[inline(always)]
fn iq4_xs<L: LineOps>(l: L, block: &[Line; 69], out: &mut [Line; 145]) {
    for j in 0..8 {
        look_up_halves(l, &IQ4_TABLE, &block[8 * j..][..8], &mut out[16 * j..][..16]);
    }
    widen_signed(&block[64..68], &mut out[128..144]);
    out[144] = block[68];
}

/// Bytes `[S][32 rows]` to f32.
#[inline(always)]
fn widen_unsigned(lines: &[Line], out: &mut [Line]) {
    let out: &mut [[f32; 64]] = bytemuck::cast_slice_mut(out);
    for (line, out) in lines.iter().zip(out) {
        let bytes: &[u8; 64] = bytemuck::cast_ref(line);
        for i in 0..64 {
            out[i] = f32::from(bytes[i]);
        }
    }
}

/// Signed bytes `[S][32 rows]` to f32.
#[inline(always)]
fn widen_signed(lines: &[Line], out: &mut [Line]) {
    let out: &mut [[f32; 64]] = bytemuck::cast_slice_mut(out);
    for (line, out) in lines.iter().zip(out) {
        let bytes: &[i8; 64] = bytemuck::cast_ref(line);
        for i in 0..64 {
            out[i] = f32::from(bytes[i]);
        }
    }
}

/// Bytes `[S][32 rows]` to words of two sub-blocks each: `[S / 2][32 rows][2]` i16.
#[inline(always)]
fn pair(lines: &[Line], out: &mut [Line]) {
    let out: &mut [[u32; 32]] = bytemuck::cast_slice_mut(out);
    for (line, out) in lines.iter().zip(out) {
        let [even, odd]: &[[u8; 32]; 2] = bytemuck::cast_ref(line);
        for r in 0..32 {
            out[r] = u32::from(odd[r]) << 16;
        }
        for r in 0..32 {
            out[r] |= u32::from(even[r]);
        }
    }
}
