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

use super::Isa;
use super::panel::{
    Column, Form, Line, PAIRS_OF_16, PAIRS_OF_32, PANEL_ROWS, SCALE_256, ScaleByte, Segment, WORDS_32, WORDS_256,
    code_lines, d_line, expanded_lines, is_packed, minimum_line, offset, panel_lines, scale_byte, sub_len,
};
use crate::quant::WeightType;

/// See [`super::panel::accumulate`], which checked the lengths.
pub fn accumulate(isa: Isa, ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    match Form::of(isa, ty) {
        Form::Float => accumulate_float(ty, segment, acc),
        Form::Pairs => unreachable!("this path has no BF16 instructions"),
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
    let blocks = segment.weights.chunks_exact(panel_lines(ty, 32));
    for (b, (block, words)) in blocks.zip(segment.columns.chunks_exact(WORDS_32 * columns)).enumerate() {
        let quads = quads(ty, block, segment.expanded, b);
        let scales = &block[code_lines(ty)..];
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

/// The codes of block `b` of a segment, `[groups][32 rows]`: expanded, or as stored where the type keeps bytes.
fn quads<'a>(ty: WeightType, block: &'a [Line], expanded: &'a [Line], b: usize) -> &'a [[u8; 4]] {
    let lines = expanded_lines(ty, ty.block_len());
    bytemuck::cast_slice(if is_packed(ty) { &expanded[b * lines..][..lines] } else { &block[..lines] })
}

fn accumulate_256(ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    let columns = acc.len();
    let blocks = segment.weights.chunks_exact(panel_lines(ty, 256));
    for (b, (block, words)) in blocks.zip(segment.columns.chunks_exact(WORDS_256 * columns)).enumerate() {
        let quads = quads(ty, block, segment.expanded, b);
        let block = SuperBlock { ty, lines: block };
        for (c, sums) in acc.iter_mut().enumerate() {
            let x = |at: usize| words[at * columns + c];
            let x_scale = f32::from_bits(x(SCALE_256));
            for (r, sum) in sums.iter_mut().enumerate() {
                let mut t = 0f32;
                for j in 0..256 / sub_len(ty) {
                    let groups = j * sub_len(ty) / 4..(j + 1) * sub_len(ty) / 4;
                    let dot: i32 = groups.map(|g| dot_of_4(quads[g * PANEL_ROWS + r], offset(ty), x(g))).sum();
                    t = (dot as f32).mul_add(block.scale(r, j), t);
                }
                *sum = t.mul_add(block.d(r) * x_scale, *sum);
                if let Some(dmin) = block.dmin(r) {
                    let first = if sub_len(ty) == 16 { PAIRS_OF_16 } else { PAIRS_OF_32 };
                    let half = |j: usize| i32::from((x(first + j / 2) >> (j % 2 * 16)) as u16 as i16);
                    let u: i32 = (0..256 / sub_len(ty)).map(|j| block.minimum(r, j) * half(j)).sum();
                    *sum = (u as f32).mul_add(-(dmin * x_scale), *sum);
                }
            }
        }
    }
}

/// The scales of a super-block as stored.
pub struct SuperBlock<'a> {
    pub ty: WeightType,
    pub lines: &'a [Line],
}

impl SuperBlock<'_> {
    /// The scale of row `r`.
    pub fn d(&self, r: usize) -> f32 {
        scale_of(WeightType::F16, &self.lines[d_line(self.ty)], r)
    }

    /// The scale of the minimums of row `r`; `None` where the type has none.
    pub fn dmin(&self, r: usize) -> Option<f32> {
        (offset(self.ty) == 0).then(|| scale_of(WeightType::F16, &self.lines[d_line(self.ty) + 1], r))
    }

    /// The scale of row `r` in sub-block `j`.
    pub fn scale(&self, r: usize, j: usize) -> f32 {
        let byte = self.byte(code_lines(self.ty), r, j);
        match scale_byte(self.ty) {
            ScaleByte::Unsigned => f32::from(byte),
            ScaleByte::Signed => f32::from(byte.cast_signed()),
            ScaleByte::LowHalf => f32::from(byte & 15),
        }
    }

    /// The minimum of row `r` in sub-block `j`, of a type that has them.
    pub fn minimum(&self, r: usize, j: usize) -> i32 {
        let byte = self.byte(minimum_line(self.ty), r, j);
        i32::from(if scale_byte(self.ty) == ScaleByte::LowHalf { byte >> 4 } else { byte })
    }

    fn byte(&self, line: usize, r: usize, j: usize) -> u8 {
        self.lines[line + j / 2].0[2 * r + j % 2]
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
