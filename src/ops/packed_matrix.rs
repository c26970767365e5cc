//! A weight matrix in the layout the kernels read: panels of 32 output rows.
//!
//! Packing happens once, at load. [`crate::kernels::panel`] draws the layout.

mod pack;
#[cfg(test)]
mod tests;

use half::{bf16, f16};
use rayon::prelude::*;

use crate::huge_pages::HugeBuffer;
use crate::kernels::Isa;
use crate::kernels::codes::expand;
use crate::kernels::panel::{
    EXPANDED_LINES, Line, PANEL_ROWS, code_lines, expanded_lines, is_packed, offset, panel_lines, sub_len,
};
use crate::kernels::scalar::{SuperBlock, scale_of};
use crate::quant::WeightType;
use pack::pack_panel;

/// A weight matrix `[N, K]`, packed. The last panel is padded with rows of zero.
pub struct PackedMatrix {
    n: usize,
    k: usize,
    ty: WeightType,
    lines_per_panel: usize,
    /// Lines.
    panels: HugeBuffer,
}

/// The bytes given cannot be packed as the matrix they are said to be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PackError {
    #[error("{ty} matrix [{n}, {k}]: no rows or no columns, or too large for this machine")]
    Shape { ty: WeightType, n: usize, k: usize },
    #[error("{ty} matrix [{n}, {k}]: rows must be a multiple of {} elements", ty.block_len())]
    PartialBlock { ty: WeightType, n: usize, k: usize },
    #[error("{ty} matrix [{n}, {k}]: {expected} bytes expected, {found} found")]
    Size { ty: WeightType, n: usize, k: usize, expected: usize, found: usize },
    #[error("{ty} matrix [{n}, {k}]: no memory for {bytes} bytes")]
    OutOfMemory { ty: WeightType, n: usize, k: usize, bytes: usize },
}

impl PackedMatrix {
    /// Packs `raw`, the rows of an `[n, k]` tensor one after the other as GGUF stores them, on all cores (rayon: for
    /// load time only).
    pub fn pack(ty: WeightType, n: usize, k: usize, raw: &[u8]) -> Result<Self, PackError> {
        if !k.is_multiple_of(ty.block_len()) {
            return Err(PackError::PartialBlock { ty, n, k });
        }
        let shape = || PackError::Shape { ty, n, k };
        let row_bytes = ty.row_bytes(k).filter(|&bytes| bytes > 0 && n > 0).ok_or_else(shape)?;
        let expected = row_bytes.checked_mul(n).ok_or_else(shape)?;
        if raw.len() != expected {
            return Err(PackError::Size { ty, n, k, expected, found: raw.len() });
        }
        // `raw` exists and has n * k elements, so these products are far from overflowing.
        let lines_per_panel = panel_lines(ty, k);
        let bytes = Self::planned_bytes(ty, n, k).ok_or_else(shape)?;
        let mut panels = HugeBuffer::zeroed(bytes).map_err(|_| PackError::OutOfMemory { ty, n, k, bytes })?;
        bytemuck::cast_slice_mut::<u8, Line>(panels.bytes_mut())
            .par_chunks_mut(lines_per_panel)
            .zip(raw.par_chunks(row_bytes * PANEL_ROWS))
            .for_each(|(panel, rows)| pack_panel(ty, k, rows, panel));
        Ok(Self { n, k, ty, lines_per_panel, panels })
    }

    /// Bytes the panels of an `[n, k]` matrix take, for the memory plan; `None` where they overflow. `k` is that of a
    /// tensor that exists.
    pub fn planned_bytes(ty: WeightType, n: usize, k: usize) -> Option<usize> {
        panel_lines(ty, k).checked_mul(n.div_ceil(PANEL_ROWS))?.checked_mul(size_of::<Line>())
    }

    /// Output rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Elements of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The type of the weights, as in the file.
    pub fn ty(&self) -> WeightType {
        self.ty
    }

    /// Memory the panels take.
    pub fn bytes(&self) -> usize {
        self.panels.bytes().len()
    }

    /// The lines of panel `panel` (rows `32 * panel ..`) and of all panels after it.
    pub(super) fn panels_from(&self, panel: usize) -> &[Line] {
        let lines: &[Line] = bytemuck::cast_slice(self.panels.bytes());
        &lines[panel * self.lines_per_panel..]
    }

    /// Row `row` as f32 (`specs/numerics.md` MM-7): `out` is `[K]`.
    ///
    /// # Panics
    /// If `row >= N` or `out` is not K long.
    pub fn dequantize_row(&self, isa: Isa, row: usize, out: &mut [f32]) {
        assert!(row < self.n, "row {row} of {}", self.n);
        assert_eq!(out.len(), self.k, "elements of a row");
        let lines = &self.panels_from(row / PANEL_ROWS)[..self.lines_per_panel];
        let lane = row % PANEL_ROWS;
        match self.ty {
            WeightType::F32 => {
                let values: &[[f32; PANEL_ROWS]] = bytemuck::cast_slice(lines);
                out.iter_mut().zip(values).for_each(|(out, values)| *out = values[lane]);
            }
            WeightType::F16 => {
                let values: &[[u16; PANEL_ROWS]] = bytemuck::cast_slice(lines);
                out.iter_mut().zip(values).for_each(|(out, values)| *out = f16::from_bits(values[lane]).to_f32());
            }
            WeightType::BF16 => {
                let pairs: &[[[u16; 2]; PANEL_ROWS]] = bytemuck::cast_slice(lines);
                for (out, pair) in out.chunks_mut(2).zip(pairs) {
                    out.iter_mut().zip(pair[lane]).for_each(|(out, bits)| *out = bf16::from_bits(bits).to_f32());
                }
            }
            _ => self.dequantize_blocks(isa, lines, lane, out),
        }
    }

    /// Of an integer type, by way of the expanded form: all 32 rows of the panel are expanded for one of them, which
    /// reads no more lines of memory than that one would.
    fn dequantize_blocks(&self, isa: Isa, lines: &[Line], lane: usize, out: &mut [f32]) {
        let mut scratch = [Line([0; 64]); EXPANDED_LINES];
        let len = self.ty.block_len();
        for (out, block) in out.chunks_exact_mut(len).zip(lines.chunks_exact(panel_lines(self.ty, len))) {
            let mut codes = block;
            if is_packed(self.ty) {
                let scratch = &mut scratch[..expanded_lines(self.ty, len)];
                expand(isa, self.ty, len, block, scratch);
                codes = scratch;
            }
            let quads: &[[[u8; 4]; PANEL_ROWS]] = bytemuck::cast_slice(&codes[..expanded_lines(self.ty, len)]);
            if len == 32 {
                dequantize_32(self.ty, block, quads, lane, out);
            } else {
                dequantize_256(self.ty, block, quads, lane, out);
            }
        }
    }
}

fn dequantize_32(ty: WeightType, block: &[Line], quads: &[[[u8; 4]; PANEL_ROWS]], lane: usize, out: &mut [f32]) {
    let scales = &block[code_lines(ty)..];
    let scale = scale_of(ty, &scales[0], lane);
    let minimum = scales.get(1).map_or(0.0, |minimums| scale_of(ty, minimums, lane));
    for (out, rows) in out.as_chunks_mut::<4>().0.iter_mut().zip(quads) {
        // The product is exact, so that a fused sum would be the same.
        *out = rows[lane].map(|code| scale * integer(ty, code) + minimum);
    }
}

fn dequantize_256(ty: WeightType, block: &[Line], quads: &[[[u8; 4]; PANEL_ROWS]], lane: usize, out: &mut [f32]) {
    let block = SuperBlock { ty, lines: block };
    let (d, dmin) = (block.d(lane), block.dmin(lane));
    let groups = sub_len(ty) / 4;
    for (j, (out, quads)) in out.chunks_exact_mut(sub_len(ty)).zip(quads.chunks_exact(groups)).enumerate() {
        let scale = d * block.scale(lane, j);
        let minimum = dmin.map_or(0.0, |dmin| dmin * block.minimum(lane, j) as f32);
        for (out, rows) in out.as_chunks_mut::<4>().0.iter_mut().zip(quads) {
            *out = rows[lane].map(|code| scale * integer(ty, code) - minimum);
        }
    }
}

/// The integer that a code stands for.
fn integer(ty: WeightType, code: u8) -> f32 {
    (i32::from(code) - offset(ty)) as f32
}
