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

use super::panel::{Column, Line, PANEL_ROWS, Q8_0_LINES, Q8_0_WORDS, Segment};
use crate::quant::WeightType;

/// See [`super::panel::accumulate`], which checked the lengths.
pub fn accumulate(ty: WeightType, segment: Segment<'_>, acc: &mut [Column]) {
    if ty == WeightType::Q8_0 {
        return accumulate_q8_0(segment, acc);
    }
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
        WeightType::Q8_0 => unreachable!("Q8_0 has no weight without its block"),
    }
}

fn accumulate_q8_0(segment: Segment<'_>, acc: &mut [Column]) {
    let columns = acc.len();
    let blocks = segment.weights.chunks_exact(Q8_0_LINES).zip(segment.columns.chunks_exact(Q8_0_WORDS * columns));
    for (lines, words) in blocks {
        let (quads, scales) = lines.split_at(Q8_0_LINES - 1);
        let quads: &[[u8; 4]] = bytemuck::cast_slice(quads);
        let scales: &[u16] = bytemuck::cast_slice(scales);
        for (c, sums) in acc.iter_mut().enumerate() {
            let x_scale = f32::from_bits(words[9 * columns + c]);
            for (r, sum) in sums.iter_mut().enumerate() {
                let mut dot = 0i32;
                for group in 0..8 {
                    let x = words[group * columns + c].to_le_bytes();
                    for (w, x) in quads[group * PANEL_ROWS + r].iter().zip(x) {
                        dot += (i32::from(*w) - 128) * i32::from(x as i8);
                    }
                }
                let scale = f16::from_bits(scales[r]).to_f32() * x_scale;
                *sum = (dot as f32).mul_add(scale, *sum);
            }
        }
    }
}
