//! The matmul kernels in plain Rust: the oracle of the other paths.
//!
//! Origin: the definition (`specs/numerics.md`, MM-4, MM-6, MM-8, MM-10), written over the panel layout of
//! [`super::panel`].
//!
//! ```text
//! for k (or block of 32 k) ascending
//!   for column c, row r of the panel
//!     acc[c][r] = fma(w[r], x[c], acc[c][r])
//! ```
//!
//! There are no tricks: `f32::mul_add` rounds once on every target, with or without an instruction for it.

use half::{bf16, f16};

use super::panel::{
    Column, Form, Line, PAIRS_OF_16, PAIRS_OF_32, PANEL_ROWS, SCALE_256, Segment, WORDS_32, WORDS_256, lines_32,
    lines_256, offset, sub_len,
};
use crate::quant::WeightType;

/// See [`super::panel::accumulate`], which checked the lengths.
pub fn accumulate(ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    match Form::of(ty) {
        Form::Float => accumulate_float(ty, segment, acc),
        Form::Blocks32 => accumulate_32(ty, segment, acc),
        Form::Blocks256 => accumulate_256(ty, segment, acc),
    }
}

fn accumulate_float(ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    let columns = acc.len();
    for (k, x) in segment.columns.chunks_exact(columns).enumerate() {
        let w = float_weights(ty, segment.weights, k);
        for (sums, x) in acc.iter_mut().zip(x) {
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = w.mul_add(f32::from_bits(*x), *sum);
            }
        }
    }
}

/// The weights of the panel's rows at `k`, widened.
pub fn float_weights(ty: WeightType, lines: &[Line], k: usize) -> Column {
    match ty {
        WeightType::F32 => {
            let w = &bytemuck::cast_slice::<Line, f32>(lines)[k * PANEL_ROWS..];
            std::array::from_fn(|r| w[r])
        }
        WeightType::F16 => {
            let w = &bytemuck::cast_slice::<Line, u16>(lines)[k * PANEL_ROWS..];
            std::array::from_fn(|r| f16::from_bits(w[r]).to_f32())
        }
        WeightType::BF16 => {
            let w = &bytemuck::cast_slice::<Line, u16>(lines)[k / 2 * 2 * PANEL_ROWS..];
            std::array::from_fn(|r| bf16::from_bits(w[2 * r + k % 2]).to_f32())
        }
        ty => unreachable!("{ty} has no weight without its block"),
    }
}

fn accumulate_32(ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    let (columns, offset) = (acc.len(), offset(ty));
    let blocks = segment.weights.chunks_exact(lines_32(offset)).zip(segment.columns.chunks_exact(WORDS_32 * columns));
    for (lines, words) in blocks {
        let (quads, scales) = lines.split_at(16);
        let quads: &[[u8; 4]] = bytemuck::cast_slice(quads);
        for (c, sums) in acc.iter_mut().enumerate() {
            let x_scale = f32::from_bits(words[9 * columns + c]);
            for (r, sum) in sums.iter_mut().enumerate() {
                let mut dot = 0i32;
                for group in 0..8 {
                    dot += dot_of_4(quads[group * PANEL_ROWS + r], offset, words[group * columns + c]);
                }
                *sum = (dot as f32).mul_add(scale_of(ty, &scales[0], r) * x_scale, *sum);
                if let Some(minimums) = scales.get(1) {
                    let x_sum = (words[8 * columns + c] as i32 / -128) as f32;
                    *sum = x_sum.mul_add(scale_of(ty, minimums, r) * x_scale, *sum);
                }
            }
        }
    }
}

fn accumulate_256(ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    let columns = acc.len();
    let lines = lines_256(sub_len(ty), offset(ty));
    for (block, words) in segment.weights.chunks_exact(lines).zip(segment.columns.chunks_exact(WORDS_256 * columns)) {
        let block = SuperBlock::new(ty, block);
        for (c, sums) in acc.iter_mut().enumerate() {
            let x = |at: usize| words[at * columns + c];
            let x_scale = f32::from_bits(x(SCALE_256));
            for (r, sum) in sums.iter_mut().enumerate() {
                let mut t = 0f32;
                for (j, scales) in block.scales.iter().enumerate() {
                    let groups = j * sub_len(ty) / 4..(j + 1) * sub_len(ty) / 4;
                    let dot: i32 = groups.map(|g| dot_of_4(block.quads[g * PANEL_ROWS + r], offset(ty), x(g))).sum();
                    t = (dot as f32).mul_add(scales[r], t);
                }
                *sum = t.mul_add(block.d(r) * x_scale, *sum);
                if let [.., dmin] = block.rest {
                    let u = block.minimums(r, sub_len(ty), x) as f32;
                    *sum = u.mul_add(-(scale_of(ty, dmin, r) * x_scale), *sum);
                }
            }
        }
    }
}

/// The parts of an expanded super-block.
pub struct SuperBlock<'a> {
    /// `[64 groups][32 rows]`
    pub quads: &'a [[u8; 4]],
    /// `[S][32 rows]`
    pub scales: &'a [Column],
    d: &'a Line,
    /// Minimums and dmin; empty where the type has none.
    rest: &'a [Line],
}

impl<'a> SuperBlock<'a> {
    pub fn new(ty: WeightType, lines: &'a [Line]) -> Self {
        let (quads, lines) = lines.split_at(128);
        let (scales, lines) = lines.split_at(2 * 256 / sub_len(ty));
        let (quads, scales) = (bytemuck::cast_slice(quads), bytemuck::cast_slice(scales));
        Self { quads, scales, d: &lines[0], rest: &lines[1..] }
    }

    /// The scale of row `r`.
    pub fn d(&self, r: usize) -> f32 {
        scale_of(WeightType::F16, self.d, r)
    }

    /// The minimum of row `r` in sub-block `j`, scaled; 0 where the type has none.
    pub fn minimum(&self, r: usize, j: usize) -> f32 {
        let Some((dmin, pairs)) = self.rest.split_last() else { return 0.0 };
        let word = bytemuck::cast_slice::<Line, u32>(pairs)[j / 2 * PANEL_ROWS + r];
        scale_of(WeightType::F16, dmin, r) * (word >> (j % 2 * 16) & 0xffff) as f32
    }

    /// The minimums of row `r`, each times the sum of the activations of its sub-block.
    fn minimums(&self, r: usize, sub_len: usize, x: impl Fn(usize) -> u32) -> i32 {
        let first = if sub_len == 16 { PAIRS_OF_16 } else { PAIRS_OF_32 };
        let pairs: &[u32] = bytemuck::cast_slice(&self.rest[..self.rest.len() - 1]);
        let low = |word: u32| i32::from((word as u16).cast_signed());
        let product = |w: u32, x: u32| low(w) * low(x) + low(w >> 16) * low(x >> 16);
        pairs.chunks_exact(PANEL_ROWS).enumerate().map(|(i, rows)| product(rows[r], x(first + i))).sum()
    }
}

/// Four integers, `offset` taken out, times four bytes of activations.
fn dot_of_4(codes: [u8; 4], offset: i32, x: u32) -> i32 {
    codes.iter().zip(x.to_le_bytes()).map(|(code, x)| (i32::from(*code) - offset) * i32::from(x as i8)).sum()
}

/// Number `row` of a line of scales or minimums.
pub fn scale_of(ty: WeightType, line: &Line, row: usize) -> f32 {
    let bits = bytemuck::cast_slice::<Line, u16>(std::slice::from_ref(line))[row];
    if ty == WeightType::MXFP4 { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() }
}
