//! The matmul kernels in plain Rust: the oracle of the other paths.
//!
//! Origin: the definition (`specs/numerics.md`, MM-4 and MM-6), written over the panel layout of [`super::panel`].
//!
//! ```text
//! for k (or block of 32 k) ascending
//!   for column c, row r of the panel
//!     acc[c][r] = fma(w[r], x[c], acc[c][r])
//! ```
//!
//! There are no tricks: `f32::mul_add` rounds once on every target, with or without an instruction for it.

use half::{bf16, f16};

use super::panel::{Column, Form, Line, PANEL_ROWS, Segment, WORDS_32, lines_32, offset};
use crate::quant::WeightType;

/// See [`super::panel::accumulate`], which checked the lengths.
pub fn accumulate(ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    match Form::of(ty) {
        Form::Float => accumulate_float(ty, segment, acc),
        Form::Blocks32 => accumulate_32(ty, segment, acc),
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

/// Four integers, `offset` taken out, times four bytes of activations.
fn dot_of_4(codes: [u8; 4], offset: i32, x: u32) -> i32 {
    codes.iter().zip(x.to_le_bytes()).map(|(code, x)| (i32::from(*code) - offset) * i32::from(x as i8)).sum()
}

/// Number `row` of a line of scales or minimums.
pub fn scale_of(_ty: WeightType, line: &Line, row: usize) -> f32 {
    let bits = bytemuck::cast_slice::<Line, u16>(std::slice::from_ref(line))[row];
    f16::from_bits(bits).to_f32()
}
