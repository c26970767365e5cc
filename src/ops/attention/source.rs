//! Where K and V of a sequence are: the way from a position to its block.

use half::f16;

use super::element::Element;
use super::tile::{KvTile, TILE};
use super::widened::Widened;
use crate::kv_cache::{Head, KvCache, KvShape, SCALE_BLOCK};
use crate::types::BlockId;

/// K and V of one KV head of one sequence in one layer.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, E> {
    pub(super) kv: &'a KvCache,
    /// The sequence's blocks.
    pub(super) blocks: &'a [BlockId],
    pub(super) kv_head: usize,
    /// Those of the layer.
    pub(super) elements: &'a [E],
}

impl<'a, E: Element> Source<'a, E> {
    /// The part of the unit's KV head in the block of `position`.
    fn head(&self, position: usize) -> Head<'a, E> {
        Head::of(self.kv.shape(), self.head_elements(position))
    }

    fn head_elements(&self, position: usize) -> &'a [E] {
        let KvShape { kv_heads, block_size, .. } = *self.kv.shape();
        let block = self.blocks[position / block_size].0 as usize;
        let block = &self.elements[block * self.kv.block_len()..][..self.kv.block_len()];
        let head_len = block.len() / kv_heads;
        &block[self.kv_head * head_len..][..head_len]
    }

    /// What is worth fetching while the tile from `first` is computed with: the next tile, where it is a block.
    pub(super) fn ahead(&self, first: usize, tokens: usize) -> &'a [E] {
        let is_block = self.kv.block_size() == TILE;
        if is_block && first + TILE < tokens { self.head_elements(first + TILE) } else { &[] }
    }

    /// The tile from position `first`, which lies whole in one block.
    pub(super) fn tile_in_place(&self, first: usize) -> KvTile<'a, E> {
        let KvShape { head_dim, block_size, .. } = *self.kv.shape();
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
    pub(super) fn gather(&self, first: usize, count: usize, to: &mut Widened) {
        for lane in 0..count {
            self.read(first + lane, |d, k, v| to.set(lane, d, k, v));
        }
    }

    /// Calls `take(d, k, v)` with the K and V of every dimension of a position, as f32.
    pub(super) fn read(&self, position: usize, mut take: impl FnMut(usize, f32, f32)) {
        let KvShape { head_dim, block_size, .. } = *self.kv.shape();
        let place = position % block_size;
        let head = self.head(position);
        let scale = |scales: &[f16], d: usize| {
            if E::SCALED { scales[d / SCALE_BLOCK * block_size + place].to_f32() } else { 1.0 }
        };
        for d in 0..head_dim {
            let k = head.k[d * block_size + place].widen() * scale(head.k_scales, d);
            let v = head.v[place * head_dim + d].widen() * scale(head.v_scales, d);
            take(d, k, v);
        }
    }
}
