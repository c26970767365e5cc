//! The input of a matrix multiplication in the form the kernels read.

use std::cell::RefCell;
use std::ops::Range;

use super::Ctx;
use super::norm::{Norm, norm_rows};
use crate::kernels::Isa;
use crate::kernels::panel::Form;
use crate::kernels::quantize::{quantize_tile, round_pairs};
use crate::quant::WeightType;

thread_local! {
    /// The normalised rows of a tile. It grows to its final size in the first steps.
    static NORMED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A workspace for one matmul input: prepared once, read by every matrix that multiplies the same activations.
///
/// Rows of activations are dealt out evenly to tiles of at most [`Form::tile_columns`]; [`crate::kernels::panel`] draws
/// a tile.
pub struct Activations {
    max_rows: usize,
    max_k: usize,
    /// Tiles, `tile_stride` words apart.
    words: Vec<u32>,
    tile_stride: usize,
    rows: usize,
    k: usize,
    form: Form,
}

impl Activations {
    /// Room for `[max_rows, max_k]` activations of any form. The only allocation.
    pub fn new(max_rows: usize, max_k: usize) -> Self {
        let words = vec![0; Self::words(max_rows, max_k)];
        Self { max_rows, max_k, words, tile_stride: 0, rows: 0, k: 0, form: Form::Float }
    }

    /// Bytes that room for `[max_rows, max_k]` activations takes, for the memory plan.
    pub fn planned_bytes(max_rows: usize, max_k: usize) -> u64 {
        Self::words(max_rows, max_k) as u64 * size_of::<u32>() as u64
    }

    fn words(max_rows: usize, max_k: usize) -> usize {
        // Tiles of unequal size are placed as if all had the size of the largest: never more than whole tiles need.
        let words = Form::ALL.map(|form| max_rows.next_multiple_of(form.tile_columns()) * form.column_words(max_k));
        words.into_iter().max().unwrap_or(0)
    }

    /// Takes in `x`: `[m, k]`, for weights of type `ty`. Does not allocate.
    ///
    /// # Panics
    /// If `x` is not `m * k` long, exceeds the room, or `k` is no multiple of `ty`'s block.
    pub fn prepare(&mut self, ctx: &Ctx<'_>, x: &[f32], m: usize, k: usize, ty: WeightType) {
        assert_eq!(x.len(), m * k, "activations of [{m}, {k}]");
        self.fill(ctx, m, k, ty, |form, rows, words| round(ctx.isa, form, &x[rows.start * k..rows.end * k], k, words));
    }

    /// As [`Self::prepare`] with what [`super::norm::normalize`] makes of `x` `[m, K]`, K being the norm's width: rows
    /// are normalised where they are rounded.
    ///
    /// # Panics
    /// As [`Self::prepare`] and [`super::norm::normalize`].
    pub fn prepare_normed(&mut self, ctx: &Ctx<'_>, x: &[f32], norm: &Norm<'_>, ty: WeightType) {
        let k = norm.width_of(x.len());
        self.fill(ctx, x.len() / k, k, ty, |form, rows, words| {
            NORMED.with_borrow_mut(|normed| {
                normed.resize(rows.len() * k, 0.0);
                norm_rows(ctx.isa, &x[rows.start * k..rows.end * k], norm, normed);
                round(ctx.isa, form, normed, k, words);
            });
        });
    }

    /// Has `write(form, rows, words)` write the words of each tile.
    fn fill(
        &mut self,
        ctx: &Ctx<'_>,
        m: usize,
        k: usize,
        ty: WeightType,
        write: impl Fn(Form, Range<usize>, &mut [u32]) + Sync,
    ) {
        assert!(m <= self.max_rows && k <= self.max_k, "[{m}, {k}] in [{}, {}]", self.max_rows, self.max_k);
        assert!(k > 0 && k.is_multiple_of(ty.block_len()), "rows of {k} for {ty}");
        (self.rows, self.k, self.form) = (m, k, Form::of(ctx.isa, ty));
        let tiles = self.tiles();
        self.tile_stride = m.div_ceil(tiles.max(1)) * self.form.column_words(k);
        if tiles == 0 {
            return;
        }
        let (form, words) = (self.form, &mut self.words[..tiles * self.tile_stride]);
        ctx.pool.run_chunks(words, self.tile_stride, |tile, words| {
            let rows = tile_rows(tile, tiles, m);
            let len = rows.len() * form.column_words(k);
            write(form, rows, &mut words[..len]);
        });
    }

    /// Memory this workspace takes.
    pub fn bytes(&self) -> u64 {
        size_of_val(&*self.words) as u64
    }

    /// Rows prepared: M.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Whether the activations are in the form that weights of type `ty` need on the path `isa`.
    pub fn fits(&self, isa: Isa, ty: WeightType) -> bool {
        self.form == Form::of(isa, ty)
    }

    /// The form of the activations.
    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Number of tiles.
    pub(super) fn tiles(&self) -> usize {
        self.rows.div_ceil(self.form.tile_columns())
    }

    /// The rows of `x` that tile `tile` holds.
    pub(super) fn tile_rows(&self, tile: usize) -> Range<usize> {
        tile_rows(tile, self.tiles(), self.rows)
    }

    /// The words of tile `tile`, from the beginning of K.
    pub(super) fn tile_words(&self, tile: usize) -> &[u32] {
        &self.words[tile * self.tile_stride..][..self.tile_stride]
    }
}

/// Rows of tile `tile` when `rows` are dealt out evenly.
fn tile_rows(tile: usize, tiles: usize, rows: usize) -> Range<usize> {
    tile * rows / tiles..(tile + 1) * rows / tiles
}

/// The words of a tile: `x` is `[C, k]`.
fn round(isa: Isa, form: Form, x: &[f32], k: usize, words: &mut [u32]) {
    match form {
        Form::Float => interleave(x, k, words),
        Form::Pairs => round_pairs(isa, x, k, words),
        Form::Blocks32 | Form::Blocks256 => quantize_tile(isa, form, x, k, words),
    }
}

/// `x` `[C, k]` to `words` `[k][C]`.
fn interleave(x: &[f32], k: usize, words: &mut [u32]) {
    let columns = x.len() / k;
    for (c, row) in x.chunks_exact(k).enumerate() {
        for (word, x) in words[c..].iter_mut().step_by(columns).zip(row) {
            *word = x.to_bits();
        }
    }
}
