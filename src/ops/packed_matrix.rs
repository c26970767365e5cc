//! A weight matrix in the layout the kernels read: panels of 32 output rows.
//!
//! Packing happens once, at load. [`crate::kernels::panel`] draws the layout.

#[cfg(test)]
mod tests;

use half::{bf16, f16};
use rayon::prelude::*;

use crate::kernels::panel::{Line, PANEL_ROWS, Q8_0_LINES, panel_lines};
use crate::quant::WeightType;

/// A weight matrix `[N, K]`, packed. The last panel is padded with rows of zero.
pub struct PackedMatrix {
    n: usize,
    k: usize,
    ty: WeightType,
    lines_per_panel: usize,
    panels: Vec<Line>,
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
        let lines = lines_per_panel.checked_mul(n.div_ceil(PANEL_ROWS)).ok_or_else(shape)?;
        let mut panels = Vec::new();
        let bytes = lines.saturating_mul(size_of::<Line>());
        panels.try_reserve_exact(lines).map_err(|_| PackError::OutOfMemory { ty, n, k, bytes })?;
        panels.resize(lines, Line([0; 64]));
        panels
            .par_chunks_mut(lines_per_panel)
            .zip(raw.par_chunks(row_bytes * PANEL_ROWS))
            .for_each(|(panel, rows)| pack_panel(ty, k, rows, panel));
        Ok(Self { n, k, ty, lines_per_panel, panels })
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
        size_of_val(&*self.panels)
    }

    /// The lines of panel `panel` (rows `32 * panel ..`), and of all panels after it.
    pub(super) fn panel(&self, panel: usize) -> (&[Line], &[Line]) {
        self.panels[panel * self.lines_per_panel..].split_at(self.lines_per_panel)
    }

    /// Row `row` as f32 (`specs/numerics.md` MM-7): `out` is `[K]`.
    ///
    /// # Panics
    /// If `row >= N` or `out` is not K long.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n, "row {row} of {}", self.n);
        assert_eq!(out.len(), self.k, "elements of a row");
        let (lines, _) = self.panel(row / PANEL_ROWS);
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
            WeightType::Q8_0 => {
                for (out, block) in out.chunks_mut(32).zip(lines.chunks_exact(Q8_0_LINES)) {
                    dequantize_q8_0(block, lane, out);
                }
            }
        }
    }
}

fn dequantize_q8_0(block: &[Line], lane: usize, out: &mut [f32]) {
    let (quads, scales) = block.split_at(Q8_0_LINES - 1);
    let quads: &[[u8; 4]] = bytemuck::cast_slice(quads);
    let scales: &[u16] = bytemuck::cast_slice(scales);
    let scale = f16::from_bits(scales[lane]).to_f32();
    for (out, quads) in out.chunks_mut(4).zip(quads.chunks_exact(PANEL_ROWS)) {
        for (out, byte) in out.iter_mut().zip(quads[lane]) {
            *out = (f32::from(byte) - 128.0) * scale;
        }
    }
}

/// Packs up to 32 rows into the zeroed lines of a panel.
fn pack_panel(ty: WeightType, k: usize, rows: &[u8], panel: &mut [Line]) {
    match ty {
        WeightType::F32 => pack_elements::<4>(k, rows, bytemuck::cast_slice_mut(panel), |k| k * PANEL_ROWS, 1),
        WeightType::F16 => pack_elements::<2>(k, rows, bytemuck::cast_slice_mut(panel), |k| k * PANEL_ROWS, 1),
        WeightType::BF16 => {
            let place = |k: usize| k / 2 * 2 * PANEL_ROWS + k % 2;
            pack_elements::<2>(k, rows, bytemuck::cast_slice_mut(panel), place, 2);
        }
        WeightType::Q8_0 => pack_q8_0(k, rows, panel),
    }
}

/// Packs elements of B bytes: row 0 of `k` goes to `place(k)`, each further row `row_step` elements on.
fn pack_elements<const B: usize>(
    k: usize,
    rows: &[u8],
    panel: &mut [[u8; B]],
    place: impl Fn(usize) -> usize,
    row_step: usize,
) {
    // A cache line of each row at a time: 32 rows a power of two apart would evict each other before the second
    // element.
    let run = 64 / B;
    let (elements, _) = rows.as_chunks::<B>();
    for start in (0..k).step_by(run) {
        for (r, row) in elements.chunks_exact(k).enumerate() {
            for (i, element) in row[start..].iter().take(run).enumerate() {
                panel[place(start + i) + r * row_step] = *element;
            }
        }
    }
}

fn pack_q8_0(k: usize, rows: &[u8], panel: &mut [Line]) {
    let blocks = k / 32;
    let (raw, _) = rows.as_chunks::<34>();
    for (b, lines) in panel.chunks_exact_mut(Q8_0_LINES).enumerate() {
        let (quads, scales) = lines.split_at_mut(Q8_0_LINES - 1);
        // Zero weights for the rows that are missing.
        quads.fill(Line([128; 64]));
        let quads: &mut [[u8; 4]] = bytemuck::cast_slice_mut(quads);
        let scales: &mut [[u8; 2]] = bytemuck::cast_slice_mut(scales);
        for (r, row) in raw.chunks_exact(blocks).enumerate() {
            let (scale, weights) = row[b].split_at(2);
            scales[r].copy_from_slice(scale);
            let (groups, _) = weights.as_chunks::<4>();
            for (group, quad) in groups.iter().enumerate() {
                // The signed byte plus 128.
                quads[group * PANEL_ROWS + r] = quad.map(|byte| byte ^ 0x80);
            }
        }
    }
}
