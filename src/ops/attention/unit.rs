//! One unit of attention: a few rows of one sequence with the query heads of one KV head.

use super::AttentionSpec;
use super::element::Element;
use super::kernel::{CHUNK, STRIP};
use super::source::Source;
use super::strips::{AttendTile, MergeChunk, Prepare, Strips, Write};
use super::tile::{Ahead, TILE};
use super::widened::{Fill, Widened};
use crate::kernels::Isa;
use crate::kernels::lanes::{self, LANES};
use crate::kv_cache::{KvCache, KvShape};
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
    pub(super) spec: AttentionSpec,
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
        let Self { kv, blocks, kv_head, spec, .. } = self;
        let source = Source { kv, blocks, kv_head, elements };
        let KvShape { head_dim, block_size, .. } = *kv.shape();
        let Scratch { strips, widened } = scratch;
        lanes::run(isa, Prepare { strips, unit: &self });
        let tokens = self.positions.iter().max().map_or(0, |&p| p as usize + 1);
        let seen_from = self.positions.iter().min().map_or(0, |&p| spec.first_visible(p) as usize);
        let whole = block_size.is_multiple_of(TILE) && head_dim.is_multiple_of(LANES);
        // Worth it where several strips share what was widened.
        let widen = !E::WIDE && self.positions.len() * self.group > STRIP;
        for first in (seen_from / TILE * TILE..tokens).step_by(TILE) {
            let ahead = Ahead::new(source.ahead(first, tokens), head_dim);
            if whole && !widen {
                let tile = source.tile_in_place(first);
                lanes::run(isa, AttendTile { strips, spec, first, tile, ahead });
            } else {
                widened.resize(head_dim);
                if whole {
                    lanes::run(isa, Fill { from: source.tile_in_place(first), to: widened });
                } else {
                    source.gather(first, (tokens - first).min(TILE), widened);
                }
                lanes::run(isa, AttendTile { strips, spec, first, tile: widened.tile(), ahead });
            }
            let next = first + TILE;
            if next.is_multiple_of(CHUNK) || next >= tokens {
                let first = first / CHUNK * CHUNK;
                lanes::run(isa, MergeChunk { strips, first });
            }
        }
        lanes::run(isa, Write { strips, out });
    }
}
