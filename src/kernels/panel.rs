//! The packed form of a weight matrix as the kernels read it, and the one entry to the matmul kernels.
//!
//! A *panel* holds 32 output rows with the rows in SIMD lanes: one vector load brings the same `k` of neighbouring
//! rows, so an output never needs a horizontal sum and K is walked in order, for one column of activations as for many.
//! All paths read the same bytes. A [`Line`] is 64 bytes; along K a panel is a sequence of:
//!
//! ```text
//! F32   for each k        2 lines   [32 rows] f32
//! F16   for each k        1 line    [32 rows] f16
//! BF16  for each 2 k      2 lines   [32 rows][2 k] bf16         an odd K ends with a zero
//! Q8_0  for each 32 k    16 lines   [8 groups][32 rows][4 k] u8, the signed weight + 128
//!                         1 line    [32 rows] f16 scales
//! ```
//!
//! The types with less than 8 bits stay packed in memory. Their blocks hold, for each block of the file, its code bytes
//! by fours as `[words][32 rows][4 bytes]`, then scales ([`super::codes`] has what the codes mean):
//!
//! ```text
//! Q4_0           8 lines   [4 words][32 rows][4 bytes], two codes a byte
//! (Q5_0, Q5_1)   2 lines   [32 rows][4 bytes]: bit g of byte i: high bit of k = 4·g + i
//!                1 line    [32 rows] f16 scales (MXFP4: bf16), then a line of minimums where there are any
//!
//! Q4_K          64 lines   [32 words][32 rows][4 bytes]
//!              4 + 4 lines [4][32 rows][2] u8: scales of two sub-blocks, then minimums
//!              1 + 1 lines [32 rows] f16 d, then dmin
//! (Q2_K)         8 lines   [8][32 rows][2] of two sub-blocks: scale in the low half of a byte, minimum in the high
//!
//! expanded      16 lines   for each 32 k: [8 groups][32 rows][4 k] u8, the integer q + offset
//! (F16)          2 lines   for each k: [32 rows] f32
//! ```
//!
//! Activations come in *tiles* of up to [`Form::tile_columns`] rows of `x`, which are columns here, interleaved so
//! that a kernel reads one stream. `C` is the number of columns of the tile:
//!
//! ```text
//! Float     for each k        C words   [C] f32
//! Pairs     for each 2 k      C words   [C][2 k] bf16                  an odd K ends with a zero
//! Blocks32  for each 32 k  10·C words   [8 groups][C][4 k] i8 | [C] i32 = -128 · sum of the block | [C] f32 scale
//! Blocks256 for each 256 k 93·C words   [64 groups][C][4 k] i8 | [16][C] i32 = -32 · sum of 16 k |
//!                                       [4][C][2] i16 sums of 32 k | [8][C][2] i16 sums of 16 k | [C] f32 scale
//! ```

use bytemuck::{Pod, Zeroable};

use super::{Isa, Path, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::quant::WeightType;

/// Output rows of a panel.
pub const PANEL_ROWS: usize = 32;
/// Activation words of a block of 32 and a column: 8 groups of 4 bytes, the start value, the scale.
pub const WORDS_32: usize = 10;
/// Activation words of a block of 256 and a column; [`STARTS_256`] and the following are where its parts begin.
pub const WORDS_256: usize = 93;
/// -32 · the sum of each 16 activations.
pub const STARTS_256: usize = 64;
/// Sums of 32 activations, two in a word.
pub const PAIRS_OF_32: usize = 80;
/// Sums of 16 activations, two in a word.
pub const PAIRS_OF_16: usize = 84;
/// The scale.
pub const SCALE_256: usize = 92;
/// The longest stretch of K whose codes are expanded at a time.
pub const EXPANDED_K: usize = 512;
/// Lines that a stretch expands to at most.
pub const EXPANDED_LINES: usize = 256;

/// A cache line of packed weights.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

/// Running sums of one column: one f32 for each row of the panel.
pub type Column = [f32; PANEL_ROWS];

/// A stretch of one panel's K and the same stretch of one tile of activations.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    /// The panel's lines as stored.
    pub weights: &'a [Line],
    /// The same, expanded, where [`wants_expansion`] says so; otherwise empty.
    pub expanded: &'a [Line],
    /// The tile's words.
    pub columns: &'a [u32],
    /// Lines as stored that are needed soon: to be prefetched while this segment computes.
    pub ahead: &'a [Line],
    /// With each line of `weights` the one [`STREAM_DISTANCE`] behind it is to be prefetched. Only the block kernels of
    /// AVX-512 do that, in place of `ahead`; the others fetch `ahead`, which is as far away.
    pub streams: bool,
}

/// The kinds of arithmetic: each has its form of activations and its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// f32 activations, for F32, F16 and, without BF16 instructions, BF16 weights.
    Float,
    /// bf16 activations in pairs of k, for BF16 weights and BF16 instructions.
    Pairs,
    /// Activations as blocks of 32 int8, for weights with blocks of 32.
    Blocks32,
    /// Activations as blocks of 256 int8, for weights with super-blocks.
    Blocks256,
}

impl Form {
    pub const ALL: [Self; 4] = [Self::Float, Self::Pairs, Self::Blocks32, Self::Blocks256];

    /// The form that weights of type `ty` need on the path `isa`.
    pub fn of(isa: Isa, ty: WeightType) -> Self {
        match ty {
            WeightType::BF16 if isa.has_bf16() => Self::Pairs,
            WeightType::F32 | WeightType::F16 | WeightType::BF16 => Self::Float,
            WeightType::Q8_0
            | WeightType::Q4_0
            | WeightType::Q4_1
            | WeightType::Q5_0
            | WeightType::Q5_1
            | WeightType::IQ4NL
            | WeightType::MXFP4 => Self::Blocks32,
            WeightType::Q2K
            | WeightType::Q3K
            | WeightType::Q4K
            | WeightType::Q5K
            | WeightType::Q6K
            | WeightType::IQ4XS => Self::Blocks256,
        }
    }

    /// Activation columns a kernel takes at once at most: as many as its running sums fit the AVX-512 registers.
    pub const fn tile_columns(self) -> usize {
        match self {
            Self::Float | Self::Pairs => 12,
            Self::Blocks32 | Self::Blocks256 => 6,
        }
    }

    /// Activation words of a column with `k` elements, a multiple of the form's block (an odd last pair is a word).
    pub const fn column_words(self, k: usize) -> usize {
        match self {
            Self::Float => k,
            Self::Pairs => k.div_ceil(2),
            Self::Blocks32 => k / 32 * WORDS_32,
            Self::Blocks256 => k / 256 * WORDS_256,
        }
    }
}

/// Lines of a panel over `k` elements, a multiple of the type's block.
pub const fn panel_lines(ty: WeightType, k: usize) -> usize {
    match ty {
        WeightType::F32 => 2 * k,
        WeightType::F16 => k,
        WeightType::BF16 => 2 * k.div_ceil(2),
        WeightType::Q8_0 => k / 32 * 17,
        WeightType::Q4_0 | WeightType::IQ4NL | WeightType::MXFP4 => k / 32 * 9,
        WeightType::Q4_1 => k / 32 * 10,
        WeightType::Q5_0 => k / 32 * 11,
        WeightType::Q5_1 => k / 32 * 12,
        WeightType::Q2K => k / 256 * 42,
        WeightType::Q3K => k / 256 * 57,
        WeightType::Q4K => k / 256 * 74,
        WeightType::Q5K => k / 256 * 90,
        WeightType::Q6K => k / 256 * 105,
        WeightType::IQ4XS => k / 256 * 69,
    }
}

/// Whether panels of `ty` are packed more densely than a byte a code, so that they can go through
/// [`super::codes::expand`].
pub const fn is_packed(ty: WeightType) -> bool {
    !matches!(ty, WeightType::F32 | WeightType::F16 | WeightType::BF16 | WeightType::Q8_0)
}

/// Lines of `k` elements expanded: codes to a byte each, F16 to f32.
pub const fn expanded_lines(ty: WeightType, k: usize) -> usize {
    if matches!(ty, WeightType::F16) { 2 * k } else { k / 2 }
}

/// Whether the path multiplies expanded weights when `tiles` tiles of activations share them. The vector paths take
/// codes for a single tile from the stored lines, AVX-512 for up to four where taking them apart is little work: with
/// so few, writing and reading the wider numbers costs more than doing it again for each. So with F16, which AVX-512
/// widens once for four tiles and more.
pub fn wants_expansion(isa: Isa, ty: WeightType, tiles: usize) -> bool {
    let direct = match (isa.path(), ty) {
        (_, WeightType::F32 | WeightType::BF16 | WeightType::Q8_0) => return false,
        (Path::Avx512, WeightType::F16) => 3,
        (_, WeightType::F16) => return false,
        (Path::Scalar, _) => 0,
        (Path::Avx512, WeightType::Q2K | WeightType::Q3K | WeightType::Q5K | WeightType::Q6K) => 1,
        (Path::Avx512, _) => 4,
        (Path::Avx2 | Path::AvxVnni, _) => 1,
    };
    tiles > direct
}

/// Lines between one that is read and the one prefetched then, in a stream ([`streams`]): 16 KB.
pub const STREAM_DISTANCE: usize = 256;

/// Whether a panel's whole K is one segment: a single tile reads each line once, so nothing has to stay in L1. The
/// AVX2 kernels read a segment several times for one tile.
pub fn streams(isa: Isa, tiles: usize) -> bool {
    isa.path() == Path::Avx512 && tiles == 1
}

/// Whether prefetching brings weights earlier than the hardware does of itself, for `rows` rows of activations.
///
/// Where one or two rows read unpacked lines there is little arithmetic between two of them. Then one core of a Zen 4
/// reads 31 GB/s without and 22 with it, two of an Emerald Rapids 25 GB/s without and 28 with it, and with its AVX2
/// kernels 16 and 22.
pub fn prefetch_helps(ty: WeightType, rows: usize) -> bool {
    is_packed(ty) || rows > 2 || super::is_intel()
}

/// Lines of codes in a block; its scales follow.
pub const fn code_lines(ty: WeightType) -> usize {
    match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => 0,
        WeightType::Q4_0 | WeightType::Q4_1 | WeightType::IQ4NL | WeightType::MXFP4 => 8,
        WeightType::Q5_0 | WeightType::Q5_1 => 10,
        WeightType::Q8_0 => 16,
        WeightType::Q2K => 32,
        WeightType::Q3K => 48,
        WeightType::Q4K | WeightType::IQ4XS => 64,
        WeightType::Q5K => 80,
        WeightType::Q6K => 96,
    }
}

/// What the kernels find added to the integers `q` of an integer type, to make them unsigned. The types with 0 have
/// minimums instead.
pub const fn offset(ty: WeightType) -> i32 {
    match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => 0,
        WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q2K | WeightType::Q4K | WeightType::Q5K => 0,
        WeightType::Q4_0 => 8,
        WeightType::Q5_0 | WeightType::MXFP4 => 16,
        WeightType::Q3K | WeightType::Q6K => 32,
        WeightType::Q8_0 | WeightType::IQ4NL | WeightType::IQ4XS => 128,
    }
}

/// Elements of a sub-block of a type with super-blocks.
pub const fn sub_len(ty: WeightType) -> usize {
    match ty {
        WeightType::Q2K | WeightType::Q3K | WeightType::Q6K => 16,
        _ => 32,
    }
}

/// How the scale of a sub-block is kept in its byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ScaleByte {
    Unsigned,
    Signed,
    /// The low half; the high half is the minimum.
    LowHalf,
}

/// [`ScaleByte`] of a type with super-blocks.
pub const fn scale_byte(ty: WeightType) -> ScaleByte {
    match ty {
        WeightType::Q2K => ScaleByte::LowHalf,
        WeightType::Q4K | WeightType::Q5K => ScaleByte::Unsigned,
        _ => ScaleByte::Signed,
    }
}

/// Lines of scales in a super-block, each of two sub-blocks.
pub const fn scale_lines(ty: WeightType) -> usize {
    256 / sub_len(ty) / 2
}

/// Where the minimums of a super-block begin, counted in lines like its scales: the same bytes in Q2_K.
pub const fn minimum_line(ty: WeightType) -> usize {
    match scale_byte(ty) {
        ScaleByte::LowHalf => code_lines(ty),
        _ => code_lines(ty) + scale_lines(ty),
    }
}

/// The line of d in a super-block; that of dmin follows in types that have it.
pub const fn d_line(ty: WeightType) -> usize {
    match scale_byte(ty) {
        ScaleByte::Unsigned => code_lines(ty) + 2 * scale_lines(ty),
        _ => code_lines(ty) + scale_lines(ty),
    }
}

/// Adds the products of `segment`, which covers `k` elements, to the running sums `acc`: `[C][32]`, C the tile's
/// columns.
///
/// The sums of a whole K are those of its segments in ascending order, the first on zeroed `acc`. Every segment but the
/// last covers a multiple of the block.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn accumulate(isa: Isa, ty: WeightType, k: usize, segment: Segment<'_>, acc: &mut [Column]) {
    let form = Form::of(isa, ty);
    assert!((1..=form.tile_columns()).contains(&acc.len()), "{} columns in a {ty} tile", acc.len());
    assert_eq!(segment.weights.len(), panel_lines(ty, k), "lines of {k} elements of {ty}");
    let expanded = if segment.expanded.is_empty() { 0 } else { expanded_lines(ty, k) };
    assert_eq!(segment.expanded.len(), expanded, "expanded lines of {k} elements");
    let direct = expanded == 0 && k > 0;
    assert!(!(direct && wants_expansion(isa, ty, 1)), "{ty} is not multiplied as stored on {isa:?}");
    assert_eq!(segment.columns.len(), form.column_words(k) * acc.len(), "words of {} columns", acc.len());
    match isa.path() {
        Path::Scalar => scalar::accumulate(isa, ty, segment, acc),
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 | Path::AvxVnni => avx2::accumulate(isa, ty, segment, acc),
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => avx512::accumulate(isa, ty, segment, acc),
        #[cfg(not(target_arch = "x86_64"))]
        Path::Avx2 | Path::AvxVnni | Path::Avx512 => unreachable!("an Isa is only made for a path this CPU has"),
    }
}
