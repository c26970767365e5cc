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
//! 3. The paths differ only in the instructions the compiler may use for the same source, as in [`super::quantize`].
#![allow(unsafe_code)]

use super::panel::{EXPANDED_K, Line, expanded_lines, is_packed, panel_lines};
use super::{Isa, Path};
use crate::quant::WeightType;
use crate::quant::iq4_nl;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

/// Expands `lines`, which cover `k` elements of a panel, to `out`.
///
/// # Panics
/// If panels of `ty` are not packed, `k` exceeds [`EXPANDED_K`] or the lengths do not fit.
pub fn expand(isa: Isa, ty: WeightType, k: usize, lines: &[Line], out: &mut [Line]) {
    assert!(is_packed(ty) && k <= EXPANDED_K, "{k} elements of {ty}");
    assert_eq!(lines.len(), panel_lines(ty, k), "lines of {k} elements of {ty}");
    assert_eq!(out.len(), expanded_lines(ty, k), "expanded lines of {k} elements of {ty}");
    match isa.path() {
        Path::Scalar => expand_blocks(Path::Scalar, ty, lines, out),
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
    expand_blocks(Path::Avx2, ty, lines, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn expand_avx512(ty: WeightType, lines: &[Line], out: &mut [Line]) {
    expand_blocks(Path::Avx512, ty, lines, out);
}

/// Compiled for `path`, a constant where this is inlined.
#[inline(always)]
fn expand_blocks(path: Path, ty: WeightType, lines: &[Line], out: &mut [Line]) {
    match ty {
        WeightType::Q4_0 => each(lines, out, q4_0),
        WeightType::Q2K => each(lines, out, q2_k),
        WeightType::Q3K => each(lines, out, q3_k),
        WeightType::Q4K => each(lines, out, q4_k),
        WeightType::Q5K => each(lines, out, q5_k),
        WeightType::Q6K => each(lines, out, q6_k),
        WeightType::IQ4XS => each(lines, out, |block, out| iq4_xs(path, block, out)),
        ty => unreachable!("{ty} is multiplied as stored"),
    }
}

/// Calls `expand` with each block's lines, packed and expanded.
#[inline(always)]
fn each<const P: usize, const E: usize>(lines: &[Line], out: &mut [Line], expand: impl Fn(&[Line; P], &mut [Line; E])) {
    for (block, out) in lines.as_chunks::<P>().0.iter().zip(out.as_chunks_mut::<E>().0) {
        expand(block, out);
    }
}

#[inline(always)]
fn q4_0(block: &[Line; 9], out: &mut [Line; 17]) {
    for i in 0..8 {
        set(&mut out[i], |w| bits(&block[i], w, 0, 15));
        set(&mut out[i + 8], |w| bits(&block[i], w, 4, 15));
    }
    out[16] = block[8];
}

/// 128 elements are 16 words; the element 32 further on is 2 bits further up.
#[inline(always)]
fn q2_k(block: &[Line; 42], out: &mut [Line; 178]) {
    for stretch in 0..8 {
        for i in 0..16 {
            let low = &block[stretch / 4 * 16 + i];
            set(&mut out[16 * stretch + i], |w| bits(low, w, stretch as u32 % 4 * 2, 3));
        }
    }
    widen(&block[32..40], &mut out[128..160], |byte| i32::from(byte & 15));
    out[160] = block[40];
    pair(&block[32..40], &mut out[161..177], |byte| byte >> 4);
    out[177] = block[41];
}

/// Low bits as in Q2_K; bit `n` of the high bits belongs to stretch `n` of 32. The offset is made 32, that of Q6_K.
#[inline(always)]
fn q3_k(block: &[Line; 57], out: &mut [Line; 161]) {
    for stretch in 0..8 {
        for i in 0..16 {
            let (low, high) = (&block[stretch / 4 * 16 + i], &block[32 + i]);
            set(&mut out[16 * stretch + i], |w| {
                let code = bits(low, w, stretch as u32 % 4 * 2, 3) | bits(high, w, stretch as u32, 1) << 2;
                code + each_byte(32 - 4)
            });
        }
    }
    widen(&block[48..56], &mut out[128..160], |byte| i32::from(byte.cast_signed()));
    out[160] = block[56];
}

/// 64 elements are 8 words; the second 32 are the high halves.
#[inline(always)]
fn q4_k(block: &[Line; 74], out: &mut [Line; 154]) {
    for stretch in 0..8 {
        for i in 0..16 {
            let low = &block[stretch / 2 * 16 + i];
            set(&mut out[16 * stretch + i], |w| bits(low, w, stretch as u32 % 2 * 4, 15));
        }
    }
    scales_and_minimums(&block[64..], &mut out[128..]);
}

/// Low bits as in Q4_K, high bits as in Q3_K.
#[inline(always)]
fn q5_k(block: &[Line; 90], out: &mut [Line; 154]) {
    for stretch in 0..8 {
        for i in 0..16 {
            let (low, high) = (&block[stretch / 2 * 16 + i], &block[64 + i]);
            set(&mut out[16 * stretch + i], |w| {
                bits(low, w, stretch as u32 % 2 * 4, 15) | bits(high, w, stretch as u32, 1) << 4
            });
        }
    }
    scales_and_minimums(&block[80..], &mut out[128..]);
}

/// Of Q4_K and Q5_K: bytes of scales and minimums, d, dmin.
#[inline(always)]
fn scales_and_minimums(lines: &[Line], out: &mut [Line]) {
    widen(&lines[..4], &mut out[..16], i32::from);
    out[16] = lines[8];
    pair(&lines[4..8], &mut out[17..25], |byte| byte);
    out[25] = lines[9];
}

/// 128 elements are 16 words of low bits, the second 64 in the high halves, and 8 words of high bits, the element 32
/// further on 2 bits further up.
#[inline(always)]
fn q6_k(block: &[Line; 105], out: &mut [Line; 161]) {
    for half in 0..2 {
        for stretch in 0..4 {
            for i in 0..16 {
                let low = &block[32 * half + stretch % 2 * 16 + i];
                let high = &block[64 + 16 * half + i];
                set(&mut out[64 * half + 16 * stretch + i], |w| {
                    bits(low, w, stretch as u32 / 2 * 4, 15) | bits(high, w, stretch as u32 * 2, 3) << 4
                });
            }
        }
    }
    widen(&block[96..104], &mut out[128..160], |byte| i32::from(byte.cast_signed()));
    out[160] = block[104];
}

/// 32 elements are 4 words; the second 16 are the high halves.
#[inline(always)]
fn iq4_xs(path: Path, block: &[Line; 69], out: &mut [Line; 145]) {
    for j in 0..8 {
        for i in 0..8 {
            look_up(path, &block[8 * j + i], 0, &mut out[16 * j + i]);
            look_up(path, &block[8 * j + i], 4, &mut out[16 * j + 8 + i]);
        }
    }
    widen(&block[64..68], &mut out[128..144], |byte| i32::from(byte.cast_signed()));
    out[144] = block[68];
}

/// Sets the 16 words of four codes.
#[inline(always)]
fn set(out: &mut Line, word: impl Fn(usize) -> u32) {
    let out: &mut [u32; 16] = bytemuck::cast_mut(out);
    for (w, out) in out.iter_mut().enumerate() {
        *out = word(w);
    }
}

/// Each byte of word `w`, shifted right and masked: what comes from the neighbouring byte is masked out.
#[inline(always)]
fn bits(line: &Line, w: usize, shift: u32, mask: u8) -> u32 {
    let words: &[u32; 16] = bytemuck::cast_ref(line);
    words[w] >> shift & each_byte(mask)
}

const fn each_byte(byte: u8) -> u32 {
    u32::from_ne_bytes([byte; 4])
}

/// Bytes `[S][32 rows]` to f32.
#[inline(always)]
fn widen(lines: &[Line], out: &mut [Line], value: impl Fn(u8) -> i32) {
    let (bytes, out): (&[u8], &mut [f32]) = (bytemuck::cast_slice(lines), bytemuck::cast_slice_mut(out));
    for (out, byte) in out.iter_mut().zip(bytes) {
        *out = value(*byte) as f32;
    }
}

/// Bytes `[S][32 rows]` to words of two sub-blocks each: `[S / 2][32 rows][2]` i16.
#[inline(always)]
fn pair(lines: &[Line], out: &mut [Line], value: impl Fn(u8) -> u8) {
    let out: &mut [[u32; 32]] = bytemuck::cast_slice_mut(out);
    for (line, out) in lines.iter().zip(out) {
        for (r, out) in out.iter_mut().enumerate() {
            *out = u32::from(value(line.0[r])) | u32::from(value(line.0[32 + r])) << 16;
        }
    }
}

/// What the 4-bit codes of IQ4_NL and IQ4_XS stand for, plus 128.
const IQ4_TABLE: [u8; 16] = {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = iq4_nl::VALUES[code].cast_unsigned() ^ 0x80;
        code += 1;
    }
    table
};

/// Sets each byte of `out` to the table's entry for the 4 bits from `shift` on.
#[inline(always)]
fn look_up(path: Path, line: &Line, shift: u32, out: &mut Line) {
    let mut codes = Line([0; 64]);
    set(&mut codes, |w| bits(line, w, shift, 15));
    match path {
        Path::Scalar => out.0 = codes.0.map(|code| IQ4_TABLE[usize::from(code)]),
        // SAFETY: `path` is the one the caller was compiled for, which an Isa was shown for.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { look_up_avx2(&codes, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { look_up_avx512(&codes, out) },
        #[cfg(not(target_arch = "x86_64"))]
        Path::Avx2 | Path::Avx512 => unreachable!("an Isa is only made for a path this CPU has"),
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn look_up_avx2(codes: &Line, out: &mut Line) {
    // SAFETY: the table is 16 bytes, a half line 32; the loads and stores need no alignment.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(IQ4_TABLE.as_ptr().cast()));
        for half in [0, 32] {
            let codes = _mm256_loadu_si256(codes.0.as_ptr().add(half).cast());
            _mm256_storeu_si256(out.0.as_mut_ptr().add(half).cast(), _mm256_shuffle_epi8(table, codes));
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn look_up_avx512(codes: &Line, out: &mut Line) {
    // SAFETY: the table is 16 bytes; a Line is 64 bytes, aligned to 64.
    unsafe {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(IQ4_TABLE.as_ptr().cast()));
        let codes = _mm512_load_si512(codes.0.as_ptr().cast());
        _mm512_store_si512(out.0.as_mut_ptr().cast(), _mm512_shuffle_epi8(table, codes));
    }
}
