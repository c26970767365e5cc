//! What attention sees of the cache, shown to a trace: the scores of a step's rows, and K and V as they are read back.

use std::ops::Range;

use super::AttentionSpec;
use super::element::Element;
use crate::kv_cache::{Head, KvCache, LayerKv, SCALE_BLOCK};
use crate::types::ForwardBatch;

/// For each row of the step's `sequence`, `[heads, position + 1]`: `scale * q k` of every position up to its own.
pub fn scores(
    kv: &KvCache,
    layer: usize,
    batch: &ForwardBatch,
    sequence: usize,
    q: &[f32],
    spec: &AttentionSpec,
) -> Vec<Vec<f32>> {
    let rows = batch.query_start_loc[sequence] as usize..batch.query_start_loc[sequence + 1] as usize;
    let (head_dim, kv_heads) = (kv.shape().head_dim, kv.shape().kv_heads);
    let width = q.len() / batch.num_rows();
    let group = width / (head_dim * kv_heads);
    let (k, _) = read_positions(kv, layer, batch, sequence, 0..batch.seq_lens[sequence] as usize);
    let mut scores = Vec::new();
    for row in rows {
        let positions = batch.positions[row] as usize + 1;
        let mut of_row = Vec::with_capacity(width / head_dim * positions);
        for (head, q) in q[row * width..(row + 1) * width].chunks_exact(head_dim).enumerate() {
            for position in 0..positions {
                let k = &k[(position * kv_heads + head / group) * head_dim..][..head_dim];
                let sum = q.iter().zip(k).fold(0.0f32, |sum, (q, k)| q.mul_add(*k, sum));
                of_row.push(sum * spec.scale);
            }
        }
        scores.push(of_row);
    }
    scores
}

/// K and V `[rows, kv_heads * head_dim]` of the step's `rows`, which belong to `sequence`, as attention reads them.
pub fn cached_rows(
    kv: &KvCache,
    layer: usize,
    batch: &ForwardBatch,
    sequence: usize,
    rows: Range<usize>,
) -> (Vec<f32>, Vec<f32>) {
    let (first, last) = (batch.positions[rows.start] as usize, batch.positions[rows.end - 1] as usize);
    read_positions(kv, layer, batch, sequence, first..last + 1)
}

fn read_positions(
    kv: &KvCache,
    layer: usize,
    batch: &ForwardBatch,
    sequence: usize,
    positions: Range<usize>,
) -> (Vec<f32>, Vec<f32>) {
    let blocks = &batch.block_tables[batch.block_table_start[sequence] as usize..];
    let (mut k, mut v) = (Vec::new(), Vec::new());
    for position in positions {
        let block = blocks[position / kv.block_size()].0 as usize * kv.block_len();
        let (block, place) = (block..block + kv.block_len(), position % kv.block_size());
        match kv.layer(layer) {
            LayerKv::F16(elements) => read(kv, &elements[block], place, &mut k, &mut v),
            LayerKv::BF16(elements) => read(kv, &elements[block], place, &mut k, &mut v),
            LayerKv::F32(elements) => read(kv, &elements[block], place, &mut k, &mut v),
            LayerKv::Q8_0(elements) => read(kv, &elements[block], place, &mut k, &mut v),
        }
    }
    (k, v)
}

/// Appends the K and V of all heads at one place of a block.
fn read<E: Element>(kv: &KvCache, block: &[E], place: usize, k: &mut Vec<f32>, v: &mut Vec<f32>) {
    let (shape, block_size) = (kv.shape(), kv.block_size());
    for head in block.chunks_exact(block.len() / shape.kv_heads) {
        let head = Head::of(shape, head);
        for d in 0..shape.head_dim {
            let scale = |scales: &[half::f16]| {
                if E::SCALED { scales[d / SCALE_BLOCK * block_size + place].to_f32() } else { 1.0 }
            };
            k.push(head.k[d * block_size + place].widen() * scale(head.k_scales));
            v.push(head.v[place * shape.head_dim + d].widen() * scale(head.v_scales));
        }
    }
}
