//! Integer dot products of groups of 4 k, on AVX2 with and without AVX-VNNI.
//!
//! Origin: `vpmaddubsw` and `vpmaddwd` as every AVX2 engine multiplies bytes; the sums kept in 16 bits over several
//! groups are what codes of few bits allow.
//!
//! ```text
//! group g, 8 rows:  w [row 0: k0 k1 k2 k3 | row 1: k0 k1 k2 k3 | ...]      x [k0 k1 k2 k3 | k0 k1 k2 k3 | ...]
//! vpmaddubsw          [k0·x0 + k1·x1, k2·x2 + k3·x3 | ...]                 16 bits, saturating
//! vpaddw              over the RUN groups that cannot overflow
//! vpmaddwd with 1     [both halves added | ...]                            32 bits
//! vpdpbusd            all of this for one group, added to 32 bits          AVX-VNNI
//! ```
//!
//! 1. The multiplier's two units are the limit: two instructions for each group. Sums of RUN groups in 16 bits need
//!    1 + 1 / RUN. RUN is what the largest code allows: 15 · 127 · 2 = 3810 fits eight times, 31 four times, 63 twice.
//! 2. With runs of 8 the sums in 16 bits are what stays in registers (2 vectors times 6 columns), group by group. With
//!    shorter runs four groups of weights stay there instead, column by column, or two kinds of sums would compete.
//! 3. Bytes of 8 bits do not fit even once (255 · 127 · 2): w + 128 is made signed again (xor 128) and multiplied as
//!    |w| (at most 128) times x with w's sign: 128 · 127 · 2 = 32512 fits. x is never -128, so its negation is exact.
//!    Four columns at most: more sums would not fit the registers beside |w| and w.
//! 4. `vpdpbusd` takes any unsigned byte, as on AVX-512. It is written in assembly: with the compiler's function for
//!    it, all between here and the entry would have to be compiled a second time with another set of features.
#![allow(unsafe_code)]

use core::arch::x86_64::*;

use super::super::codes::BlockType;
use super::super::line_ops::LineOps;
use super::super::line_ops::x86::Avx2;
use super::super::panel::{Line, offset};
use crate::quant::WeightType;

/// Two vectors of 8 rows, those of one line.
pub(super) type Pair = [__m256i; 2];

/// How a path multiplies bytes. A value is the proof that the CPU has the instructions.
pub(super) trait Product: Copy {
    /// Whether there is one instruction for it, [`Product::add`].
    const VNNI: bool;

    /// `acc` with the products of four unsigned bytes of `w` and four signed ones of `x` in each lane.
    ///
    /// # Safety
    /// The CPU must have AVX2.
    unsafe fn add(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
}

/// AVX2 alone.
#[derive(Clone, Copy)]
pub(super) struct Maddubs;

impl Product for Maddubs {
    const VNNI: bool = false;

    unsafe fn add(self, _: __m256i, _: __m256i, _: __m256i) -> __m256i {
        unreachable!("several instructions: see `add_dots`")
    }
}

macro_rules! vnni {
    ($(#[$doc:meta])* $name:ident $encoding:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name(());

        impl $name {
            /// # Safety
            /// The CPU must have the instruction.
            pub(super) unsafe fn new() -> Self {
                Self(())
            }
        }

        impl Product for $name {
            const VNNI: bool = true;

            #[inline]
            #[target_feature(enable = "avx2")]
            unsafe fn add(self, mut acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
                // SAFETY: registers alone are touched; `new` had the CPU's having the instruction promised.
                unsafe {
                    core::arch::asm!(
                        concat!($encoding, " vpdpbusd {acc}, {w}, {x}"),
                        acc = inout(ymm_reg) acc, w = in(ymm_reg) w, x = in(ymm_reg) x,
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
                acc
            }
        }
    };
}

vnni! {
    /// AVX-VNNI.
    AvxVnni "{{vex}}"
}

#[cfg(test)]
vnni! {
    /// AVX512_VNNI and VL: another encoding of the same, for tests on CPUs without AVX-VNNI.
    Avx512Vnni "{{evex}}"
}

/// Whether [`add_dots`] takes `w + 128` as signed, so that the sums start from 0.
pub(super) const fn is_signed<P: Product, T: BlockType>() -> bool {
    !P::VNNI && offset(T::TYPE) == 128
}

/// Groups whose sums of pairs fit 16 bits together: at most 2 · 127 times the largest code each.
const fn run<T: BlockType>() -> usize {
    match T::TYPE {
        WeightType::Q2K | WeightType::Q4_0 | WeightType::Q4_1 | WeightType::Q4K => 8,
        WeightType::Q5_0 | WeightType::Q5_1 | WeightType::Q5K | WeightType::MXFP4 => 4,
        WeightType::Q3K | WeightType::Q6K => 2,
        _ => 1,
    }
}

/// Repeats `$body` with the constant `$i` from 0 to 7, as long as it is below `$end`: there is no loop whose unrolling
/// would be left to chance.
macro_rules! unrolled {
    ($i:ident in 0..$end:expr, $body:block) => {
        unrolled!(@ $i, $end, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident, $end:expr, $body:block, $($value:literal)*) => {
        $(if $value < $end {
            let $i: usize = $value;
            $body
        })*
    };
}

/// Does nothing, in a place and to registers that the compiler has to respect. Left alone it adds up in trees and takes
/// one vector of all columns first: more values at a time than there are registers, and one store a cycle is all
/// there is for the others.
#[inline]
#[target_feature(enable = "avx2")]
fn settle(sums: &mut Pair) {
    // SAFETY: no instruction at all.
    unsafe {
        core::arch::asm!(
            "/* {0} {1} */", inout(ymm_reg) sums[0], inout(ymm_reg) sums[1],
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// Where the codes of a block are. `DIRECT`: in the block as stored, otherwise in expanded lines.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a, const DIRECT: bool> {
    pub ops: Avx2,
    pub lines: &'a [Line],
    /// Which line of each pair: rows 0 to 15 or 16 to 31 of the panel.
    pub strip: usize,
}

impl<'a, const DIRECT: bool> Codes<'a, DIRECT> {
    /// Of block `b`, stored as `block` in a segment with `expanded` codes.
    #[inline(always)]
    pub fn new<T: BlockType>(ops: Avx2, block: &'a [Line], expanded: &'a [Line], b: usize, strip: usize) -> Self {
        let lines = const { T::TYPE.block_len() / 2 };
        Self { ops, lines: if DIRECT { block } else { &expanded[b * lines..][..lines] }, strip }
    }

    /// The strip's codes of group `first + i`, `i < N`, `first` a multiple of `N`.
    #[inline(always)]
    fn group<T: BlockType, const N: usize>(&self, first: usize, i: usize) -> Pair {
        let (low, high) = if DIRECT {
            // Lines of scales follow those of codes, so that the last pair is one too when it starts a line later.
            T::group(self.ops, &self.lines[self.strip % 2..], first + i)[0]
        } else {
            self.ops.load(&self.lines[2 * first..][..2 * N][2 * i + self.strip % 2])
        };
        [low, high]
    }
}

/// Adds the dot products of `N` groups (4 or 8) from `first`, whose activations are `x`: `[N][C]`.
///
/// # Safety
/// The caller must be compiled with AVX2; this is compiled as part of it, always: a call would put `dots` into memory.
#[inline(always)]
pub(super) unsafe fn add_dots<P: Product, T: BlockType, const C: usize, const N: usize, const DIRECT: bool>(
    product: P,
    codes: Codes<'_, DIRECT>,
    first: usize,
    x: &[u32],
    dots: &mut [Pair; C],
) {
    // SAFETY: the caller is compiled with AVX2.
    unsafe {
        if P::VNNI {
            add_vnni::<P, T, C, N, DIRECT>(product, codes, first, x, dots);
        } else if const { offset(T::TYPE) == 128 } {
            if C <= 4 {
                add_signed::<T, C, N, DIRECT>(codes, first, x, dots, 0);
            } else {
                add_signed::<T, C, N, DIRECT>(codes, first, x, dots, 0);
                add_signed::<T, C, N, DIRECT>(codes, first, x, dots, 3);
            }
        } else if const { run::<T>() } == 8 && N == 8 {
            add_run::<T, C, DIRECT>(codes, first, x, dots);
        } else {
            add_quad::<T, C, DIRECT>(codes, first, &x[..4 * C], dots);
            if N == 8 {
                add_quad::<T, C, DIRECT>(codes, first + 4, &x[4 * C..], dots);
            }
        }
    }
}

#[inline(always)]
unsafe fn add_vnni<P: Product, T: BlockType, const C: usize, const N: usize, const DIRECT: bool>(
    product: P,
    codes: Codes<'_, DIRECT>,
    first: usize,
    x: &[u32],
    dots: &mut [Pair; C],
) {
    // SAFETY: the caller is compiled with AVX2.
    unsafe {
        unrolled!(i in 0..N, {
            let w = codes.group::<T, N>(first, i);
            for c in 0..C {
                let x = _mm256_set1_epi32(x[i * C + c] as i32);
                    dots[c] = [product.add(dots[c][0], w[0], x), product.add(dots[c][1], w[1], x)];
            }
        });
    }
}

/// Signed bytes: all columns if there are up to 4, else the three from `start` on.
#[inline(always)]
unsafe fn add_signed<T: BlockType, const C: usize, const N: usize, const DIRECT: bool>(
    codes: Codes<'_, DIRECT>,
    first: usize,
    x: &[u32],
    dots: &mut [Pair; C],
    start: usize,
) {
    // SAFETY: the caller is compiled with AVX2.
    unsafe {
        let (ones, sign_bit) = (_mm256_set1_epi16(1), _mm256_set1_epi8(i8::MIN));
        unrolled!(i in 0..N, {
            let codes = codes.group::<T, N>(first, i);
            let signed = [_mm256_xor_si256(sign_bit, codes[0]), _mm256_xor_si256(sign_bit, codes[1])];
            let magnitude = [_mm256_abs_epi8(signed[0]), _mm256_abs_epi8(signed[1])];
            for j in 0..const { if C <= 4 { C } else { 3 } } {
                let c = start + j;
                if c < C {
                    let x = _mm256_set1_epi32(x[i * C + c] as i32);
                    for v in 0..2 {
                        let pairs = _mm256_maddubs_epi16(magnitude[v], _mm256_sign_epi8(x, signed[v]));
                        dots[c][v] = _mm256_add_epi32(dots[c][v], _mm256_madd_epi16(pairs, ones));
                    }
                    settle(&mut dots[c]);
                }
            }
        });
    }
}

/// Eight groups in one run.
#[inline(always)]
unsafe fn add_run<T: BlockType, const C: usize, const DIRECT: bool>(
    codes: Codes<'_, DIRECT>,
    first: usize,
    x: &[u32],
    dots: &mut [Pair; C],
) {
    // SAFETY: the caller is compiled with AVX2.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; C];
        unrolled!(i in 0..8, {
            let w = codes.group::<T, 8>(first, i);
            for c in 0..C {
                let x = _mm256_set1_epi32(x[i * C + c] as i32);
                for v in 0..2 {
                    let pairs = _mm256_maddubs_epi16(w[v], x);
                    sums[c][v] = if i == 0 { pairs } else { _mm256_add_epi16(sums[c][v], pairs) };
                }
                settle(&mut sums[c]);
            }
        });
        let ones = _mm256_set1_epi16(1);
        for c in 0..C {
            for v in 0..2 {
                dots[c][v] = _mm256_add_epi32(dots[c][v], _mm256_madd_epi16(sums[c][v], ones));
            }
        }
    }
}

/// Four groups in runs of 4 or 2.
#[inline(always)]
unsafe fn add_quad<T: BlockType, const C: usize, const DIRECT: bool>(
    codes: Codes<'_, DIRECT>,
    first: usize,
    x: &[u32],
    dots: &mut [Pair; C],
) {
    // SAFETY: the caller is compiled with AVX2.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut w = [[_mm256_setzero_si256(); 2]; 4];
        unrolled!(i in 0..4, { w[i] = codes.group::<T, 4>(first, i); });
        for c in 0..C {
            let mut words = [_mm256_setzero_si256(); 4];
            unrolled!(i in 0..4, { words[i] = _mm256_set1_epi32(x[i * C + c] as i32); });
            for v in 0..2 {
                let mut runs = [_mm256_setzero_si256(); 2];
                for half in 0..2 {
                    let i = 2 * half;
                    let pairs = _mm256_maddubs_epi16(w[i][v], words[i]);
                    runs[half] = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[i + 1][v], words[i + 1]));
                }
                if const { run::<T>() >= 4 } {
                    let sum = _mm256_madd_epi16(_mm256_add_epi16(runs[0], runs[1]), ones);
                    dots[c][v] = _mm256_add_epi32(dots[c][v], sum);
                } else {
                    let sums = [_mm256_madd_epi16(runs[0], ones), _mm256_madd_epi16(runs[1], ones)];
                    dots[c][v] = _mm256_add_epi32(dots[c][v], _mm256_add_epi32(sums[0], sums[1]));
                }
            }
            settle(&mut dots[c]);
        }
    }
}
