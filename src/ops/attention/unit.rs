//! One unit of attention: a few rows of one sequence with the query heads of one KV head.

use half::f16;

use super::element::Element;
use super::kernel::{Ahead, CHUNK_TILES, KvTile, STRIP, TILE};
use super::strips::{AttendTile, MergeChunk, Prepare, Strips, Write};
use super::widened::{Fill, Widened};
use crate::kernels::Isa;
use crate::kernels::lanes::{self, LANES};
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

impl<'a> Unit<'a> {
    /// Computes over the `elements` of a layer and writes the unit's part of the output.
    pub(super) fn attend<E: Element>(self, isa: Isa, elements: &'a [E], scratch: &mut Scratch, out: Tile<'_>) {
        let source = Source { unit: self, elements };
        let KvShape { head_dim, block_size, .. } = *self.kv.shape();
        let Scratch { strips, widened } = scratch;
        lanes::run(isa, Prepare { strips, unit: &self });
        let tokens = self.positions.iter().max().map_or(0, |&p| p as usize + 1);
        let whole = block_size.is_multiple_of(TILE) && head_dim.is_multiple_of(LANES);
        // Worth it where several strips share what was widened.
        let widen = !E::WIDE && self.positions.len() * self.group > STRIP;
        for first in (0..tokens).step_by(TILE) {
            let scale = self.scale;
            let ahead = Ahead::new(source.ahead(first, tokens), head_dim);
            if whole && !widen {
                let tile = source.tile_in_place(first);
                lanes::run(isa, AttendTile { strips, scale, first, tile, ahead });
            } else {
                widened.resize(head_dim);
                if whole {
                    lanes::run(isa, Fill { from: source.tile_in_place(first), to: widened });
                } else {
                    source.gather(first, (tokens - first).min(TILE), widened);
                }
                lanes::run(isa, AttendTile { strips, scale, first, tile: widened.tile(), ahead });
            }
            let next = first + TILE;
            if next.is_multiple_of(CHUNK_TILES * TILE) || next >= tokens {
                let first = first / (CHUNK_TILES * TILE) * (CHUNK_TILES * TILE);
                lanes::run(isa, MergeChunk { strips, first });
            }
        }
        lanes::run(isa, Write { strips, out });
    }
}

/// A unit with the elements of the layer.
#[derive(Clone, Copy)]
struct Source<'a, E> {
    unit: Unit<'a>,
    elements: &'a [E],
}

impl<'a, E: Element> Source<'a, E> {
    /// The part of the unit's KV head in the block of `position`.
    fn head(&self, position: usize) -> Head<'a, E> {
        Head::of(self.unit.kv.shape(), self.head_elements(position))
    }

    fn head_elements(&self, position: usize) -> &'a [E] {
        let unit = &self.unit;
        let KvShape { kv_heads, block_size, .. } = *unit.kv.shape();
        let block = unit.blocks[position / block_size].0 as usize;
        let block = &self.elements[block * unit.kv.block_len()..][..unit.kv.block_len()];
        let head_len = block.len() / kv_heads;
        &block[unit.kv_head * head_len..][..head_len]
    }

    /// What is worth fetching while the tile from `first` is computed with: the next tile, where it is a block.
    fn ahead(&self, first: usize, tokens: usize) -> &'a [E] {
        let is_block = self.unit.kv.block_size() == TILE;
        if is_block && first + TILE < tokens { self.head_elements(first + TILE) } else { &[] }
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
            for d in 0..head_dim {
                let k = head.k[d * block_size + place].widen() * scale(head.k_scales, d);
                let v = head.v[place * head_dim + d].widen() * scale(head.v_scales, d);
                to.set(lane, d, k, v);
            }
        }
    }
}
