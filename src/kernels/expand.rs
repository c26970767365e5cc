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

/// Expands `lines`, which cover `k` elements of a panel, to `out`.
///
/// # Panics
/// If panels of `ty` are not packed, `k` exceeds [`EXPANDED_K`] or the lengths do not fit.
pub fn expand(isa: Isa, ty: WeightType, k: usize, lines: &[Line], out: &mut [Line]) {
    assert!(is_packed(ty) && k <= EXPANDED_K, "{k} elements of {ty}");
    assert_eq!(lines.len(), panel_lines(ty, k), "lines of {k} elements of {ty}");
    assert_eq!(out.len(), expanded_lines(ty, k), "expanded lines of {k} elements of {ty}");
    match isa.path() {
        Path::Scalar => expand_blocks(ty, lines, out),
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
    expand_blocks(ty, lines, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn expand_avx512(ty: WeightType, lines: &[Line], out: &mut [Line]) {
    expand_blocks(ty, lines, out);
}

#[inline(always)]
fn expand_blocks(ty: WeightType, lines: &[Line], out: &mut [Line]) {
    match ty {
        WeightType::Q4_0 => each(lines, out, q4_0),
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
        bits(&mut out[i], &block[i], 0, 15);
        bits(&mut out[i + 8], &block[i], 4, 15);
    }
    out[16] = block[8];
}

/// Sets each byte of `out` to `byte >> shift & mask`; the mask leaves nothing of the neighbouring byte.
#[inline(always)]
fn bits(out: &mut Line, line: &Line, shift: u32, mask: u8) {
    let mask = u32::from_ne_bytes([mask; 4]);
    let words: &[u32; 16] = bytemuck::cast_ref(line);
    let out: &mut [u32; 16] = bytemuck::cast_mut(out);
    for (out, word) in out.iter_mut().zip(words) {
        *out = word >> shift & mask;
    }
}
