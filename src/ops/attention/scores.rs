//! What attention reads and computes on the way, for traces: its scores, and K and V as they are in the cache.

use std::ops::Range;

use super::AttentionSpec;
use super::element::Element;
use super::kernel::{STRIP, lanes_between, masked_scores};
use super::source::Source;
use super::tile::{Ahead, KvTile, TILE};
use super::widened::Widened;
use crate::kernels::Isa;
use crate::kernels::lanes::{self, LaneOp, Lanes};
use crate::kv_cache::{KvCache, KvShape, LayerKv};
use crate::types::{BlockId, ForwardBatch};

/// The scores that [`super::paged_attention`] turns into weights: for each row of `sequence` in the step,
/// `[heads][position + 1]` one after the other, scaled and capped, -inf outside the window. They are the bits of the
/// kernel, on every path. `q` is `[T, heads * head_dim]` of the whole step.
///
/// # Panics
/// As [`super::paged_attention`], and if there is no such sequence.
pub fn scores(
    kv: &KvCache,
    layer: usize,
    batch: &ForwardBatch,
    sequence: usize,
    q: &[f32],
    spec: &AttentionSpec,
) -> Vec<Vec<f32>> {
    assert_ne!(spec.window, Some(0), "a window of no positions");
    let (rows, blocks) = part(batch, sequence);
    let width = q.len() / batch.positions.len();
    let queries =
        Queries { q: &q[rows.start * width..rows.end * width], width, positions: &batch.positions[rows], spec };
    match kv.layer(layer) {
        LayerKv::F16(elements) => queries.scores(kv, blocks, elements),
        LayerKv::BF16(elements) => queries.scores(kv, blocks, elements),
        LayerKv::F32(elements) => queries.scores(kv, blocks, elements),
        LayerKv::Q8_0(elements) => queries.scores(kv, blocks, elements),
    }
}

/// K and V `[rows, kv_heads * head_dim]` of the step's `rows`, which belong to `sequence`, as they are in the cache
/// (KV-1, KV-2), widened to f32.
///
/// # Panics
/// If there is no such sequence, or a row is not one of its rows.
pub fn cached_rows(
    kv: &KvCache,
    layer: usize,
    batch: &ForwardBatch,
    sequence: usize,
    rows: Range<usize>,
) -> (Vec<f32>, Vec<f32>) {
    let (own, blocks) = part(batch, sequence);
    assert!(own.start <= rows.start && rows.end <= own.end, "rows {rows:?} of a sequence with rows {own:?}");
    let positions = &batch.positions[rows];
    match kv.layer(layer) {
        LayerKv::F16(elements) => read_rows(kv, blocks, elements, positions),
        LayerKv::BF16(elements) => read_rows(kv, blocks, elements, positions),
        LayerKv::F32(elements) => read_rows(kv, blocks, elements, positions),
        LayerKv::Q8_0(elements) => read_rows(kv, blocks, elements, positions),
    }
}

/// The rows and the blocks of a sequence.
fn part(batch: &ForwardBatch, sequence: usize) -> (Range<usize>, &[BlockId]) {
    let range = |bounds: &[u32]| bounds[sequence] as usize..bounds[sequence + 1] as usize;
    (range(&batch.query_start_loc), &batch.block_tables[range(&batch.block_table_start)])
}

fn read_rows<E: Element>(kv: &KvCache, blocks: &[BlockId], elements: &[E], positions: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let (mut all_k, mut all_v) = (Vec::new(), Vec::new());
    for &position in positions {
        for kv_head in 0..kv.shape().kv_heads {
            Source { kv, blocks, kv_head, elements }.read(position as usize, |_, k, v| {
                all_k.push(k);
                all_v.push(v);
            });
        }
    }
    (all_k, all_v)
}

/// The rows of a sequence.
struct Queries<'a> {
    /// `[rows, width]`.
    q: &'a [f32],
    width: usize,
    /// `[rows]`.
    positions: &'a [u32],
    spec: &'a AttentionSpec,
}

impl Queries<'_> {
    fn scores<E: Element>(&self, kv: &KvCache, blocks: &[BlockId], elements: &[E]) -> Vec<Vec<f32>> {
        let KvShape { kv_heads, head_dim, .. } = *kv.shape();
        let (heads, group) = (self.width / head_dim, self.width / head_dim / kv_heads);
        let unseen = |position: &u32| vec![f32::NEG_INFINITY; heads * (*position as usize + 1)];
        let mut all: Vec<Vec<f32>> = self.positions.iter().map(unseen).collect();
        let tokens = self.positions.iter().max().map_or(0, |&p| p as usize + 1);
        let seen_from = self.positions.iter().min().map_or(0, |&p| self.spec.first_visible(p) as usize);
        let mut widened = Widened::default();
        widened.resize(head_dim);
        for kv_head in 0..kv_heads {
            let source = Source { kv, blocks, kv_head, elements };
            for first in (seen_from / TILE * TILE..tokens).step_by(TILE) {
                source.gather(first, (tokens - first).min(TILE), &mut widened);
                for (row, (all, position)) in all.iter_mut().zip(self.positions).enumerate() {
                    let visible = lanes_between(self.spec.first_visible(*position), *position, first);
                    if visible.is_empty() {
                        continue;
                    }
                    for head in kv_head * group..(kv_head + 1) * group {
                        let q = &self.q[row * self.width + head * head_dim..][..head_dim];
                        let op = TileScores { q, tile: widened.tile(), spec: self.spec, visible: visible.clone() };
                        let from = head * (*position as usize + 1) + first;
                        let scores = &lanes::run(Isa::detect(), op)[visible.clone()];
                        all[from..][visible.clone()].copy_from_slice(scores);
                    }
                }
            }
        }
        all
    }
}

/// The scores of one query for one tile.
struct TileScores<'a> {
    q: &'a [f32],
    tile: KvTile<'a, f32>,
    spec: &'a AttentionSpec,
    visible: Range<usize>,
}

impl LaneOp for TileScores<'_> {
    type Output = [f32; TILE];

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> [f32; TILE] {
        let mut p = [[0.0; TILE]; STRIP];
        let mut visible = [const { 0..TILE }; STRIP];
        visible[0] = self.visible;
        let mut ahead = Ahead::new::<f32>(&[], self.q.len());
        masked_scores::<L, f32, 1>(l, self.q, &self.tile, self.spec, &visible, &mut p, &mut ahead);
        p[0]
    }
}
