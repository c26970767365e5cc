//! One unit of attention: a few rows of one sequence with the query heads of one KV head.

use half::f16;

use super::element::Element;
use super::kernel::{self, CHUNK_TILES, KvTile, QueryState, TILE, strip_len};
use crate::kernels::lanes::{LANES, LaneOp, Lanes};
use crate::kv_cache::{Head, KvCache, KvShape, SCALE_BLOCK};
use crate::ops::disjoint::Tile;
use crate::types::BlockId;

/// What a unit reads.
#[derive(Clone, Copy)]
pub(super) struct Unit<'a> {
    /// The unit's rows, whole: `[rows, width]`.
    pub(super) q: &'a [f32],
    pub(super) width: usize,
    /// Where the unit's heads start in a row.
    pub(super) first_column: usize,
    /// Query heads of the KV head.
    pub(super) group: usize,
    /// `[rows]`.
    pub(super) positions: &'a [u32],
    /// The sequence's blocks.
    pub(super) blocks: &'a [BlockId],
    pub(super) kv: &'a KvCache,
    pub(super) kv_head: usize,
    pub(super) scale: f32,
}

/// Work memory of a unit.
#[derive(Default)]
pub(super) struct Scratch {
    strips: Strips,
    widened: Widened,
}

/// The queries of a unit. A query is a head of a row; queries are numbered row by row.
#[derive(Default)]
struct Strips {
    /// Strip after strip: `[head_dim][queries of the strip]`.
    q: Vec<f32>,
    /// `[queries, padded head_dim]`: of the chunk, and of the chunks before.
    chunk_out: Vec<f32>,
    total_out: Vec<f32>,
    states: Vec<QueryState>,
}

/// A tile copied from blocks that tiles do not fit.
#[derive(Default)]
struct Widened {
    /// `[head_dim][TILE]`.
    k: Vec<f32>,
    /// `[TILE][padded head_dim]`; what pads is 0.
    v: Vec<f32>,
}

impl<'a> Unit<'a> {
    /// The computation over the elements of a layer, writing to `out`.
    pub(super) fn over<'t, E: Element>(
        self,
        elements: &'a [E],
        scratch: &'t mut Scratch,
        out: Tile<'t>,
    ) -> Attend<'a, 't, E> {
        Attend { source: Source { unit: self, elements }, scratch, out }
    }
}

/// A unit with the elements of the layer.
#[derive(Clone, Copy)]
struct Source<'a, E> {
    unit: Unit<'a>,
    elements: &'a [E],
}

/// The computation of a unit.
pub(super) struct Attend<'a, 't, E> {
    source: Source<'a, E>,
    scratch: &'t mut Scratch,
    out: Tile<'t>,
}

impl<E: Element> LaneOp for Attend<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { source, scratch, mut out } = self;
        let unit = source.unit;
        let KvShape { head_dim, block_size, .. } = *unit.kv.shape();
        scratch.strips.prepare::<L>(&unit);
        scratch.widened.resize(head_dim);
        let tokens = unit.positions.iter().max().map_or(0, |&p| p as usize + 1);
        let tiles = tokens.div_ceil(TILE);
        for tile in 0..tiles {
            let first = tile * TILE;
            if block_size.is_multiple_of(TILE) && head_dim.is_multiple_of(LANES) {
                attend_strips(l, &mut scratch.strips, unit.scale, first, &source.tile_in_place(first));
            } else {
                source.gather(first, (tokens - first).min(TILE), &mut scratch.widened);
                attend_strips(l, &mut scratch.strips, unit.scale, first, &scratch.widened.tile(head_dim));
            }
            if tile % CHUNK_TILES == CHUNK_TILES - 1 || tile == tiles - 1 {
                scratch.strips.merge_chunk(l, head_dim, tile / CHUNK_TILES * CHUNK_TILES * TILE);
            }
        }
        scratch.strips.write(l, head_dim, &mut out);
    }
}

/// Elements of a head in `chunk_out` and `total_out`: whole vectors.
fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Lets every query of the unit attend to one tile, a strip of queries at a time.
#[inline(always)]
fn attend_strips<L: Lanes, E: Element>(l: L, strips: &mut Strips, scale: f32, first: usize, tile: &KvTile<'_, E>) {
    let head_dim = strips.q.len() / strips.states.len();
    let (mut q, mut out) = (&strips.q[..], &mut strips.chunk_out[..]);
    let mut states = &mut strips.states[..];
    while !states.is_empty() {
        let len = strip_len::<L>(states.len());
        let (strip_q, rest_q) = q.split_at(len * head_dim);
        let (strip_out, rest_out) = out.split_at_mut(len * padded(head_dim));
        let (strip_states, rest_states) = states.split_at_mut(len);
        if strip_states.iter().any(|s| s.position as usize >= first) {
            kernel::attend(l, strip_q, tile, scale, first, strip_states, strip_out);
        }
        (q, out, states) = (rest_q, rest_out, rest_states);
    }
}

impl<'a, E: Element> Source<'a, E> {
    /// The part of the unit's KV head in the block of `position`.
    fn head(&self, position: usize) -> Head<'a, E> {
        let unit = &self.unit;
        let shape = unit.kv.shape();
        let block = unit.blocks[position / shape.block_size].0 as usize;
        let block = &self.elements[block * unit.kv.block_len()..][..unit.kv.block_len()];
        let head_len = block.len() / shape.kv_heads;
        Head::of(shape, &block[unit.kv_head * head_len..][..head_len])
    }

    /// The tile from position `first`, which lies whole in one block.
    fn tile_in_place(&self, first: usize) -> KvTile<'a, E> {
        let KvShape { head_dim, block_size, .. } = *self.unit.kv.shape();
        let head = self.head(first);
        let place = first % block_size;
        KvTile {
            k: &head.k[place..],
            k_scales: head.k_scales.get(place..).unwrap_or_default(),
            k_stride: block_size,
            v: &head.v[place * head_dim..][..TILE * head_dim],
            v_scales: head.v_scales.get(place..).unwrap_or_default(),
            v_stride: head_dim,
        }
    }

    /// The `count` positions from `first`, copied from their blocks; the other lanes hold anything.
    fn gather(&self, first: usize, count: usize, to: &mut Widened) {
        let KvShape { head_dim, block_size, .. } = *self.unit.kv.shape();
        for lane in 0..count {
            let place = (first + lane) % block_size;
            let head = self.head(first + lane);
            let scale = |scales: &[f16], d: usize| {
                if E::SCALED { scales[d / SCALE_BLOCK * block_size + place].to_f32() } else { 1.0 }
            };
            let v_row = &mut to.v[lane * padded(head_dim)..];
            for d in 0..head_dim {
                to.k[d * TILE + lane] = head.k[d * block_size + place].widen() * scale(head.k_scales, d);
                v_row[d] = head.v[place * head_dim + d].widen() * scale(head.v_scales, d);
            }
        }
    }
}

impl Widened {
    fn resize(&mut self, head_dim: usize) {
        self.k.clear();
        self.k.resize(head_dim * TILE, 0.0);
        self.v.clear();
        self.v.resize(TILE * padded(head_dim), 0.0);
    }

    fn tile(&self, head_dim: usize) -> KvTile<'_, f32> {
        let v_stride = padded(head_dim);
        KvTile { k: &self.k, k_scales: &[], k_stride: TILE, v: &self.v, v_scales: &[], v_stride }
    }
}

impl Strips {
    /// Packs the queries and empties the sums.
    fn prepare<L: Lanes>(&mut self, unit: &Unit<'_>) {
        let head_dim = unit.kv.shape().head_dim;
        let queries = unit.positions.len() * unit.group;
        for out in [&mut self.chunk_out, &mut self.total_out] {
            out.clear();
            out.resize(queries * padded(head_dim), 0.0);
        }
        self.states.clear();
        for &position in unit.positions {
            self.states.extend(std::iter::repeat_n(QueryState::new(position), unit.group));
        }
        self.q.clear();
        let start = |query| query / unit.group * unit.width + unit.first_column + query % unit.group * head_dim;
        let mut first = 0;
        while first < queries {
            let len = strip_len::<L>(queries - first);
            for d in 0..head_dim {
                self.q.extend((first..first + len).map(|query| unit.q[start(query) + d]));
            }
            first += len;
        }
    }

    /// Adds the chunk that started at position `first` to the total of every query that attended to it.
    #[inline(always)]
    fn merge_chunk<L: Lanes>(&mut self, l: L, head_dim: usize, first: usize) {
        let outs = self.chunk_out.chunks_exact_mut(padded(head_dim));
        let totals = self.total_out.chunks_exact_mut(padded(head_dim));
        for ((state, chunk), total) in self.states.iter_mut().zip(outs).zip(totals) {
            if state.position as usize >= first {
                kernel::merge(l, state, chunk, total);
            }
        }
    }

    /// Divides by the sums and writes the unit's part of the output.
    #[inline(always)]
    fn write<L: Lanes>(&self, l: L, head_dim: usize, out: &mut Tile<'_>) {
        let mut totals = self.total_out.chunks_exact(padded(head_dim)).zip(&self.states);
        for row in out.rows.clone() {
            let heads = out.row_mut(row).chunks_exact_mut(head_dim);
            for (out, (total, state)) in heads.zip(totals.by_ref()) {
                kernel::finish(l, total, state, out);
            }
        }
    }
}
