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
//! Activations come in *tiles* of up to [`tile_columns`] rows of `x`, which are columns here, interleaved so that a
//! kernel reads one stream. `C` is the number of columns of the tile:
//!
//! ```text
//! float for each k        C words   [C] f32
//! Q8_0  for each 32 k  10·C words   [8 groups][C][4 k] i8 | [C] i32 = -128 · sum of the block | [C] f32 scale
//! ```

use bytemuck::{Pod, Zeroable};

use super::{Isa, Path, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::quant::WeightType;

/// Output rows of a panel.
pub const PANEL_ROWS: usize = 32;
/// Activation words of a Q8_0 block and column: 8 groups of 4 bytes, the start value, the scale.
pub const Q8_0_WORDS: usize = 10;
/// Lines of a Q8_0 block.
pub const Q8_0_LINES: usize = 17;

/// A cache line of packed weights.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

/// Running sums of one column: one f32 for each row of the panel.
pub type Column = [f32; PANEL_ROWS];

/// A stretch of one panel's K and the same stretch of one tile of activations.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    /// The panel's lines.
    pub weights: &'a [Line],
    /// The tile's words.
    pub columns: &'a [u32],
    /// Lines that are needed soon: to be prefetched while this segment computes.
    pub ahead: &'a [Line],
}

/// Activation columns a kernel takes at once at most: as many as its running sums fit the AVX-512 registers.
pub const fn tile_columns(ty: WeightType) -> usize {
    match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => 12,
        WeightType::Q8_0 => 6,
    }
}

/// Activation words of a column with `k` elements (for Q8_0 a multiple of 32).
pub const fn column_words(ty: WeightType, k: usize) -> usize {
    match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => k,
        WeightType::Q8_0 => k / 32 * Q8_0_WORDS,
    }
}

/// Lines of a panel over `k` elements (for Q8_0 a multiple of 32).
pub const fn panel_lines(ty: WeightType, k: usize) -> usize {
    match ty {
        WeightType::F32 => 2 * k,
        WeightType::F16 => k,
        WeightType::BF16 => 2 * k.div_ceil(2),
        WeightType::Q8_0 => k / 32 * Q8_0_LINES,
    }
}

/// Adds the products of `segment`, which covers `k` elements, to the running sums `acc`: `[C][32]`, C the tile's
/// columns.
///
/// The sums of a whole K are those of its segments in ascending order, the first on zeroed `acc`. Every segment but the
/// last covers a multiple of 32 elements.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn accumulate(isa: Isa, ty: WeightType, k: usize, segment: Segment<'_>, acc: &mut [Column]) {
    assert!((1..=tile_columns(ty)).contains(&acc.len()), "{} columns in a {ty} tile", acc.len());
    assert_eq!(segment.weights.len(), panel_lines(ty, k), "lines of {k} elements of {ty}");
    assert_eq!(segment.columns.len(), column_words(ty, k) * acc.len(), "words of {} columns", acc.len());
    match isa.path() {
        Path::Scalar => scalar::accumulate(ty, segment, acc),
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => avx2::accumulate(isa, ty, segment, acc),
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => avx512::accumulate(isa, ty, segment, acc),
        #[cfg(not(target_arch = "x86_64"))]
        Path::Avx2 | Path::Avx512 => unreachable!("an Isa is only made for a path this CPU has"),
    }
}
