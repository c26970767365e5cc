//! Matrix multiplication: packed weights times prepared activations.
//!
//! ```text
//! for each part: neighbouring panels, claimed by a worker          out [M, N]
//!   for each panel: 32 columns of out                              +-----+-----+-- - -
//!     for each batch of tiles (144 rows)                           |panel|panel|
//!       for each segment of K, ascending      16 KB of weights,    |     |     |
//!         for each tile of rows               expanded, from L1    |  M  |  M  |
//!           accumulate                                             +-----+-----+-- - -
//!       store, add to the residual, or gate                        several matrices with one input: one run
//! ```
//! Weights come from memory once, whatever M; from L2 once for every 144 rows; from L1 once for every tile. A single
//! tile of AVX-512 has all of K as one segment, since it reads each line once ([`streams`]).
//! The rows are innermost and K is never split, so an output's arithmetic does not depend on M or on the workers.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;

use super::Ctx;
use super::activation::{Activation, gate_mul_panel};
use super::activations::Activations;
use super::disjoint::{Columns, Tile};
use super::packed_matrix::PackedMatrix;
use crate::kernels::Isa;
use crate::kernels::codes::expand;
use crate::kernels::panel::{
    Column, EXPANDED_K, EXPANDED_LINES, Line, PANEL_ROWS, STREAM_DISTANCE, Segment, accumulate, expanded_lines,
    panel_lines, prefetch_helps, streams, wants_expansion,
};
use crate::quant::WeightType;

/// Rows of activations whose running sums are kept at a time: 18 KB.
const BATCH_ROWS: usize = 144;

/// Work memory of a worker. It grows to its final size in the first steps.
#[derive(Default)]
struct Scratch {
    /// `[rows of a batch][32]`; of the up projection behind those of the gate.
    sums: Vec<Column>,
    /// A segment's codes.
    expanded: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `out[m][n] = sum over k of weights[n][k] * x[m][k]`: `x` is `[M, K]`, `out` is `[M, N]`. `specs/numerics.md` MM-1 to
/// MM-6 and MM-8 to MM-11.
///
/// # Panics
/// If `x` was prepared for another K or another kind of type than `weights` has, or `out` is not `M * N` long.
pub fn matmul(ctx: &Ctx<'_>, weights: &PackedMatrix, x: &Activations, out: &mut [f32]) {
    matmul_each(ctx, x, &mut [(weights, out)]);
}

/// [`matmul`] of one input with up to 4 matrices, shared out in one run.
pub fn matmul_each(ctx: &Ctx<'_>, x: &Activations, products: &mut [(&PackedMatrix, &mut [f32])]) {
    products.iter().for_each(|(weights, out)| check(ctx, weights, x, out));
    let weights: [_; 4] = std::array::from_fn(|i| products.get(i).map(|(weights, _)| *weights));
    let columns = products.iter_mut().map(|(weights, out)| Columns { out, stride: weights.n() });
    run(ctx, x, columns, |matrix, tile| {
        let Some(weights) = weights[matrix] else { unreachable!("a tile of matrix {matrix}, which there is not") };
        unit(ctx.isa, x, weights, Epilogue::Store, tile);
    });
}

/// `out += weights x`, shapes as in [`matmul`]: each product is added when its sum is complete (ACT-1).
///
/// # Panics
/// As [`matmul`].
pub fn matmul_add(ctx: &Ctx<'_>, weights: &PackedMatrix, x: &Activations, out: &mut [f32]) {
    check(ctx, weights, x, out);
    run(ctx, x, [Columns { out, stride: weights.n() }], |_, tile| unit(ctx.isa, x, weights, Epilogue::Add, tile));
}

/// `out = act(gate x) * (up x)` (ACT-1, ACT-2), element by element: the matrices have the same shape and one form of
/// activations.
///
/// # Panics
/// As [`matmul`], and if the shapes differ.
pub fn matmul_gated(
    ctx: &Ctx<'_>,
    act: Activation,
    gate: &PackedMatrix,
    up: &PackedMatrix,
    x: &Activations,
    out: &mut [f32],
) {
    check(ctx, gate, x, out);
    check(ctx, up, x, out);
    run(ctx, x, [Columns { out, stride: gate.n() }], |_, tile| unit(ctx.isa, x, gate, Epilogue::Gate(act, up), tile));
}

fn check(ctx: &Ctx<'_>, weights: &PackedMatrix, x: &Activations, out: &[f32]) {
    assert_eq!(x.k(), weights.k(), "K of the activations and of the weights");
    assert!(x.fits(ctx.isa, weights.ty()), "activations were not prepared for {} weights", weights.ty());
    assert_eq!(out.len(), x.rows() * weights.n(), "outputs of [{}, {}]", x.rows(), weights.n());
}

fn run<'a>(
    ctx: &Ctx<'_>,
    x: &Activations,
    columns: impl IntoIterator<Item = Columns<'a>>,
    unit: impl Fn(usize, Tile<'_>) + Sync,
) {
    if x.rows() > 0 {
        ctx.pool.run_columns(columns, x.rows(), PANEL_ROWS, unit);
    }
}

/// What becomes of finished sums.
#[derive(Clone, Copy)]
enum Epilogue<'a> {
    Store,
    Add,
    /// They are those of the gate; this is its function and the up projection.
    Gate(Activation, &'a PackedMatrix),
}

/// The panels of one part.
fn unit(isa: Isa, x: &Activations, weights: &PackedMatrix, epilogue: Epilogue<'_>, mut out: Tile<'_>) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.sums.resize(2 * BATCH_ROWS, [0.0; PANEL_ROWS]);
        scratch.expanded.resize(EXPANDED_LINES, Line([0; 64]));
        let columns = out.cols.clone();
        for start in columns.clone().step_by(PANEL_ROWS) {
            let place = start - columns.start..PANEL_ROWS.min(columns.end - start) + start - columns.start;
            let mut first_tile = 0;
            while first_tile < x.tiles() {
                let end_tile = batch_end(x, first_tile);
                let tiles = first_tile..end_tile;
                let rows = x.tile_rows(first_tile).start..x.tile_rows(end_tile - 1).end;
                let (sums, others) = scratch.sums.split_at_mut(BATCH_ROWS);
                let (sums, others) = (&mut sums[..rows.len()], &mut others[..rows.len()]);
                multiply(isa, weights, start / PANEL_ROWS, x, tiles.clone(), &mut scratch.expanded, sums);
                if let Epilogue::Gate(act, up) = epilogue {
                    multiply(isa, up, start / PANEL_ROWS, x, tiles, &mut scratch.expanded, others);
                    gate_mul_panel(isa, act, sums, others);
                }
                for (row, sums) in rows.zip(sums) {
                    let out = &mut out.row_mut(row)[place.clone()];
                    match epilogue {
                        Epilogue::Add => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += *sum),
                        _ => out.copy_from_slice(&sums[..place.len()]),
                    }
                }
                first_tile = end_tile;
            }
        }
    });
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

/// `sums` `[rows][32]` of the rows of `tiles` with one panel. `expanded` is scratch.
fn multiply(
    isa: Isa,
    weights: &PackedMatrix,
    panel: usize,
    x: &Activations,
    tiles: Range<usize>,
    expanded: &mut [Line],
    sums: &mut [Column],
) {
    let (ty, k) = (weights.ty(), weights.k());
    let lines = weights.panels_from(panel);
    let wants_expansion = wants_expansion(isa, ty, x.tiles());
    let streams = streams(isa, x.tiles());
    let segment_k = if streams { k } else { segment_elements(ty, wants_expansion) };
    let distance = if streams { STREAM_DISTANCE } else { panel_lines(ty, segment_k) };
    let prefetch_helps = prefetch_helps(ty, x.rows());
    sums.fill([0.0; PANEL_ROWS]);
    for start in (0..k).step_by(segment_k) {
        let end = (start + segment_k).min(k);
        let (begin, stop) = (panel_lines(ty, start), panel_lines(ty, end));
        let ahead = if prefetch_helps { lines.get(begin + distance..).unwrap_or_default() } else { &[] };
        let mut ahead = ahead[..ahead.len().min(stop - begin)].chunks((stop - begin).div_ceil(tiles.len()));
        let weights = &lines[begin..stop];
        let expanded = if wants_expansion { &mut expanded[..expanded_lines(ty, end - start)] } else { &mut [] };
        if wants_expansion {
            expand(isa, ty, end - start, weights, expanded);
        }
        let mut rest = &mut *sums;
        for tile in tiles.clone() {
            let rows = x.tile_rows(tile).len();
            let (tile_sums, others) = rest.split_at_mut(rows);
            rest = others;
            let words = x.form().column_words(start) * rows..x.form().column_words(end) * rows;
            let ahead = ahead.next().unwrap_or_default();
            let columns = &x.tile_words(tile)[words];
            let segment = Segment { weights, expanded, columns, ahead, streams: streams && prefetch_helps };
            accumulate(isa, ty, end - start, segment, tile_sums);
        }
    }
}

/// Elements of K computed at a time where it is no stream: 8 to 16 KB of weights, so that the segment, the running
/// sums of a tile and its activations fit L1 together. A multiple of every block.
const fn segment_elements(ty: WeightType, expanded: bool) -> usize {
    match ty {
        WeightType::F32 => 128,
        WeightType::F16 if expanded => 128,
        WeightType::F16 | WeightType::BF16 | WeightType::Q8_0 => 256,
        _ => EXPANDED_K,
    }
}
