//! The integers of quantised weights out of the packed lines, one source for every path.
//!
//! Origin: the block formats of GGUF (`quant`), over the panel layout of [`super::panel`].
//!
//! ```text
//! group g: 4 k of the 32 rows                     [32 rows][4 bytes] are two lines
//!   low   = (code lines of g  >> shift of g) & mask
//!   high  = (high lines of g  >> shift of g) & mask        types that keep some bits apart
//!   codes = low | high << bits of low                      or an entry of a table
//! ```
//!
//! 1. Panels keep the file's bytes by fours, so a code moves to its byte by a shift and a mask of whole lines.
//! 2. A kernel with few columns takes groups straight into registers: nothing is written and read again, and what the
//!    shifts cost hides behind the memory. With many columns the codes are expanded once for all of them: a stretch
//!    fits L1 beside what the kernel needs.
//! 3. Nothing here takes a function as an argument: the compiler would not inline it, and compile it without the path's
//!    instructions.
#![allow(unsafe_code)]

use half::f16;

use super::lanes::{self, LANES, LaneOp, Lanes};
use super::line_ops::{LineOps, Scalar};
use super::panel::{Line, expanded_lines, is_packed, offset, panel_lines};
use super::{Isa, Path};
use crate::quant::{self, WeightType};

/// How the blocks of one weight type keep their codes. Types are chosen at compile time, by the macro
/// `with_block_type`.
pub trait BlockType: Copy {
    const TYPE: WeightType;

    /// The unsigned integers (offset included) of group `g` of 4 k, from the lines of a block: `[32 rows][4 bytes]`.
    fn group<L: LineOps>(l: L, block: &[Line], g: usize) -> [L::V; 2];
}

/// Evaluates `$call` with the type `$T` that stands for the weight type `$ty`: those with blocks of 32, or of 256.
macro_rules! with_block_type {
    ($ty:expr, $T:ident of 32, $call:expr) => {
        with_block_type!(@ $ty, $T, $call,
            [Q8_0 Q8_0] [Q4_0 Q4_0] [Q4_1 Q4_1] [Q5_0 Q5_0] [Q5_1 Q5_1] [IQ4NL Iq4Nl] [MXFP4 Mxfp4])
    };
    ($ty:expr, $T:ident of 256, $call:expr) => {
        with_block_type!(@ $ty, $T, $call, [Q2K Q2K] [Q3K Q3K] [Q4K Q4K] [Q5K Q5K] [Q6K Q6K] [IQ4XS Iq4Xs])
    };
    (@ $ty:expr, $T:ident, $call:expr, $([$variant:ident $name:ident])*) => {
        match $ty {
            $($crate::quant::WeightType::$variant => {
                type $T = $crate::kernels::codes::$name;
                $call
            })*
            ty => unreachable!("{ty} has blocks of another size"),
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use with_block_type;

/// Expands `lines`, which cover `k` elements of a panel: codes to bytes, `out` `[k / 4][32 rows][4]` u8, or F16 to
/// f32, `out` `[k][32 rows]`.
///
/// # Panics
/// If panels of `ty` are neither packed nor F16 or the lengths do not fit.
pub fn expand(isa: Isa, ty: WeightType, k: usize, lines: &[Line], out: &mut [Line]) {
    assert!(is_packed(ty) || ty == WeightType::F16, "{ty} is multiplied as stored");
    assert_eq!(lines.len(), panel_lines(ty, k), "lines of {k} elements of {ty}");
    assert_eq!(out.len(), expanded_lines(ty, k), "expanded lines of {k} elements of {ty}");
    if ty == WeightType::F16 {
        return lanes::run(isa, Widen { lines, out });
    }
    match isa.path() {
        Path::Scalar => expand_blocks(Scalar, ty, lines, out),
        // SAFETY: holding an Isa of this path proves the features it is compiled with.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 | Path::AvxVnni => unsafe { expand_avx2(ty, lines, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { expand_avx512(ty, lines, out) },
        #[cfg(not(target_arch = "x86_64"))]
        Path::Avx2 | Path::AvxVnni | Path::Avx512 => unreachable!("an Isa is only made for a path this CPU has"),
    }
}

/// F16 to f32.
struct Widen<'a> {
    lines: &'a [Line],
    out: &'a mut [Line],
}

impl LaneOp for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let values: &[[f16; LANES]] = bytemuck::cast_slice(self.lines);
        let out: &mut [[f32; LANES]] = bytemuck::cast_slice_mut(self.out);
        for (values, out) in values.iter().zip(out) {
            l.store(l.load_f16(values), out);
        }
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
    if ty.block_len() == 32 {
        with_block_type!(ty, T of 32, expand_type::<L, T, 16>(l, lines, out));
    } else {
        with_block_type!(ty, T of 256, expand_type::<L, T, 128>(l, lines, out));
    }
}

/// `LINES` are those of an expanded block.
#[inline(always)]
fn expand_type<L: LineOps, T: BlockType, const LINES: usize>(l: L, lines: &[Line], out: &mut [Line]) {
    let blocks = lines.chunks_exact(panel_lines(T::TYPE, T::TYPE.block_len()));
    for (block, out) in blocks.zip(out.as_chunks_mut::<LINES>().0) {
        for (g, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let codes = T::group(l, block, g);
            l.store(codes[0], &mut out[0]);
            l.store(codes[1], &mut out[1]);
        }
    }
}

/// Bits of the two lines from `first`, at `shift`.
#[inline(always)]
fn bits<L: LineOps>(l: L, block: &[Line], first: usize, shift: usize, mask: u8) -> [L::V; 2] {
    let lines = &block[first..first + 2];
    [l.bits(l.load(&lines[0]), shift as u32, mask), l.bits(l.load(&lines[1]), shift as u32, mask)]
}

/// `low | high << shift`.
#[inline(always)]
fn join<L: LineOps>(l: L, low: [L::V; 2], high: [L::V; 2], shift: u32) -> [L::V; 2] {
    [l.or_shifted(low[0], high[0], shift), l.or_shifted(low[1], high[1], shift)]
}

/// As in Q4_0: 32 elements are 4 words, the second 16 are the high halves.
#[inline(always)]
fn halves<L: LineOps>(l: L, block: &[Line], g: usize) -> [L::V; 2] {
    bits(l, block, 2 * (g % 4), 4 * (g / 4 % 2), 15)
}

/// As in Q4_K: 64 elements are 8 words, the second 32 are the high halves.
#[inline(always)]
fn halves_of_64<L: LineOps>(l: L, block: &[Line], g: usize) -> [L::V; 2] {
    bits(l, block, 16 * (g / 16 % 4) + 2 * (g % 8), 4 * (g / 8 % 2), 15)
}

/// As in Q2_K: 128 elements are 8 words, the element 32 further on is 2 bits further up.
#[inline(always)]
fn quarters<L: LineOps>(l: L, block: &[Line], g: usize) -> [L::V; 2] {
    bits(l, block, 16 * (g / 32 % 2) + 2 * (g % 8), 2 * (g / 8 % 4), 3)
}

#[inline(always)]
fn look_up<L: LineOps>(l: L, table: &[u8; 16], codes: [L::V; 2]) -> [L::V; 2] {
    [l.look_up(table, codes[0]), l.look_up(table, codes[1])]
}

/// Declares the types, each with what its `group` is.
macro_rules! block_types {
    ($($(#[$doc:meta])* $name:ident: $variant:ident, |$l:ident, $block:ident, $g:ident| $group:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy)]
            pub struct $name;

            impl BlockType for $name {
                const TYPE: WeightType = WeightType::$variant;

                #[inline(always)]
                fn group<L: LineOps>($l: L, $block: &[Line], $g: usize) -> [L::V; 2] {
                    $group
                }
            }
        )*
    };
}

block_types! {
    /// Bytes as they are.
    Q8_0: Q8_0, |l, block, g| [l.load(&block[2 * (g % 8)]), l.load(&block[2 * (g % 8) + 1])];
    Q4_0: Q4_0, |l, block, g| halves(l, block, g);
    Q4_1: Q4_1, |l, block, g| halves(l, block, g);
    /// Two lines of high bits, bit `g` that of group `g`.
    Q5_0: Q5_0, |l, block, g| join(l, halves(l, block, g), bits(l, block, 8, g % 8, 1), 4);
    Q5_1: Q5_1, |l, block, g| join(l, halves(l, block, g), bits(l, block, 8, g % 8, 1), 4);
    Iq4Nl: IQ4NL, |l, block, g| look_up(l, &IQ4_TABLE, halves(l, block, g));
    Mxfp4: MXFP4, |l, block, g| look_up(l, &MXFP4_TABLE, halves(l, block, g));
    Q2K: Q2K, |l, block, g| quarters(l, block, g);
    /// Low bits as in Q2_K; bit `n` of the high bits belongs to stretch `n` of 32. The offset is made 32, that of Q6_K.
    Q3K: Q3K, |l, block, g| {
        let high = bits(l, block, 32 + 2 * (g % 8), g / 8 % 8, 1);
        let codes = join(l, quarters(l, block, g), high, 2);
        [l.add(codes[0], 32 - 4), l.add(codes[1], 32 - 4)]
    };
    Q4K: Q4K, |l, block, g| halves_of_64(l, block, g);
    /// Low bits as in Q4_K, high bits as in Q3_K.
    Q5K: Q5K, |l, block, g| join(l, halves_of_64(l, block, g), bits(l, block, 64 + 2 * (g % 8), g / 8 % 8, 1), 4);
    /// 128 elements are 16 words of low bits, the second 64 in the high halves, and 8 words of high bits, the element
    /// 32 further on 2 bits further up.
    Q6K: Q6K, |l, block, g| {
        let low = bits(l, block, 32 * (g / 32 % 2) + 2 * (g % 16), 4 * (g / 16 % 2), 15);
        join(l, low, bits(l, block, 64 + 16 * (g / 32 % 2) + 2 * (g % 8), 2 * (g / 8 % 4), 3), 4)
    };
    /// Eight blocks of IQ4_NL.
    Iq4Xs: IQ4XS, |l, block, g| {
        look_up(l, &IQ4_TABLE, bits(l, block, 8 * (g / 8 % 8) + 2 * (g % 4), 4 * (g / 4 % 2), 15))
    };
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
