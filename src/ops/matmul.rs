//! Matrix multiplication: packed weights times prepared activations.
//!
//! ```text
//! for each unit: a group of panels, claimed by a worker            out [M, N]
//!   for each panel: 32 columns of out                              +-----+-----+-- - -
//!     for each batch of tiles (48 rows)                            |panel|panel|
//!       for each segment of K, ascending      8 KB of weights,     |     |     |
//!         for each tile of rows               expanded, from L1    |  M  |  M  |
//!           accumulate                                             +-----+-----+-- - -
//! ```
//! Weights come from memory once, whatever M; from L2 once for every 48 rows; from L1 once for every tile.
//! The rows are innermost and K is never split, so an output's arithmetic does not depend on M or on the workers.

#[cfg(test)]
mod tests;

use super::Ctx;
use super::activations::Activations;
use super::disjoint::Tile;
use super::packed_matrix::PackedMatrix;
use crate::kernels::Isa;
use crate::kernels::expand::expand;
use crate::kernels::panel::{
    Column, EXPANDED_K, EXPANDED_LINES, Line, PANEL_ROWS, Segment, accumulate, column_words, expanded_lines, is_packed,
    panel_lines,
};
use crate::quant::WeightType;

/// Rows of activations whose running sums are kept at a time: 6 KB, beside a segment of weights in L1.
const BATCH_ROWS: usize = 48;

/// Units a worker should find at least, so that one that is descheduled holds up little.
const UNITS_PER_WORKER: usize = 8;

/// `out[m][n] = sum over k of weights[n][k] * x[m][k]`: `x` is `[M, K]`, `out` is `[M, N]`. `specs/numerics.md` MM-1 to
/// MM-10.
///
/// # Panics
/// If `x` was prepared for another K or another kind of type than `weights` has, or `out` is not `M * N` long.
pub fn matmul(ctx: &Ctx<'_>, weights: &PackedMatrix, x: &Activations, out: &mut [f32]) {
    let (m, n) = (x.rows(), weights.n());
    assert_eq!(x.k(), weights.k(), "K of the activations and of the weights");
    assert!(x.fits(weights.ty()), "activations were not prepared for {} weights", weights.ty());
    assert_eq!(out.len(), m * n, "outputs of [{m}, {n}]");
    if m == 0 {
        return;
    }
    let panels_per_unit = (n.div_ceil(PANEL_ROWS) / (ctx.pool.threads() * UNITS_PER_WORKER)).max(1);
    ctx.pool.run_grid(out, n, &[0, m], panels_per_unit * PANEL_ROWS, |mut tile| {
        // Zeroing the scratch takes time in every unit: only the types that need it pay for it.
        if is_packed(weights.ty()) {
            unit(ctx.isa, weights, x, &mut [Line([0; 64]); EXPANDED_LINES], &mut tile);
        } else {
            unit(ctx.isa, weights, x, &mut [], &mut tile);
        }
    });
}

/// The panels of one unit. `expanded` is scratch, [`EXPANDED_LINES`] long where the weights are packed.
fn unit(isa: Isa, weights: &PackedMatrix, x: &Activations, expanded: &mut [Line], out: &mut Tile<'_>) {
    let mut sums = [[0.0; PANEL_ROWS]; BATCH_ROWS];
    let columns = out.cols.clone();
    for start in columns.clone().step_by(PANEL_ROWS) {
        let panel = Panel { isa, ty: weights.ty(), k: weights.k(), lines: weights.panel(start / PANEL_ROWS) };
        let width = PANEL_ROWS.min(columns.end - start);
        let offset = start - columns.start;
        let mut first_tile = 0;
        while first_tile < x.tiles() {
            let first_row = x.tile_rows(first_tile).start;
            let end_tile = batch_end(x, first_tile);
            let rows = first_row..x.tile_rows(end_tile - 1).end;
            let sums = &mut sums[..rows.len()];
            sums.fill([0.0; PANEL_ROWS]);
            panel.multiply(x, first_tile..end_tile, expanded, sums);
            for (row, sums) in rows.zip(sums) {
                out.row_mut(row)[offset..offset + width].copy_from_slice(&sums[..width]);
            }
            first_tile = end_tile;
        }
    }
}

/// The tile after the last one that still fits a batch beginning with tile `first`.
fn batch_end(x: &Activations, first: usize) -> usize {
    let start = x.tile_rows(first).start;
    let mut end = first + 1;
    while end < x.tiles() && x.tile_rows(end).end - start <= BATCH_ROWS {
        end += 1;
    }
    end
}

/// One panel of a matrix, and how to compute with it.
struct Panel<'a> {
    isa: Isa,
    ty: WeightType,
    k: usize,
    /// The panel's lines, and those that follow it in memory.
    lines: (&'a [Line], &'a [Line]),
}

impl Panel<'_> {
    /// Adds the products with the rows of `tiles` to `sums`: `[rows][32]`. `expanded` is scratch.
    fn multiply(&self, x: &Activations, tiles: std::ops::Range<usize>, expanded: &mut [Line], sums: &mut [Column]) {
        let (lines, following) = self.lines;
        let segment_k = segment_elements(self.ty);
        for start in (0..self.k).step_by(segment_k) {
            let end = (start + segment_k).min(self.k);
            let (begin, stop) = (panel_lines(self.ty, start), panel_lines(self.ty, end));
            let next = if stop < lines.len() { &lines[stop..] } else { following };
            let mut ahead = next[..next.len().min(stop - begin)].chunks((stop - begin).div_ceil(tiles.len()));
            let mut weights = &lines[begin..stop];
            if is_packed(self.ty) {
                let expanded = &mut expanded[..expanded_lines(self.ty, end - start)];
                expand(self.isa, self.ty, end - start, weights, expanded);
                weights = expanded;
            }
            let mut rest = &mut *sums;
            for tile in tiles.clone() {
                let columns = x.tile_rows(tile).len();
                let (tile_sums, others) = rest.split_at_mut(columns);
                rest = others;
                let words = column_words(self.ty, start) * columns..column_words(self.ty, end) * columns;
                let segment =
                    Segment { weights, columns: &x.tile_words(tile)[words], ahead: ahead.next().unwrap_or_default() };
                accumulate(self.isa, self.ty, end - start, segment, tile_sums);
            }
        }
    }
}

/// Elements of K computed at a time: about 8 KB of weights, so that the segment, the running sums and a stretch of
/// activations fit L1 together. A multiple of every block.
const fn segment_elements(ty: WeightType) -> usize {
    match ty {
        WeightType::F32 => 64,
        WeightType::F16 | WeightType::BF16 => 128,
        _ => EXPANDED_K,
    }
}
