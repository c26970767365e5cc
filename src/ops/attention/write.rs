//! Storing the K and V of a step's rows in their slots.

use std::cell::RefCell;

use half::f16;

use super::element::Element;
use crate::kv_cache::{HeadMut, KvCache, KvShape, LayerKvMut, MAX_HEAD_DIM, SCALE_BLOCK};
use crate::ops::Ctx;
use crate::types::{ForwardBatch, Slot};

/// Elements of K below which the rows are written by the calling thread alone.
const SMALL: usize = 8 * 1024;

/// Rows of a step whose slots follow each other inside one block.
#[derive(Clone, Copy)]
struct Span {
    block: u32,
    /// First place in the block.
    place: u32,
    first_row: u32,
    rows: u32,
}

/// The spans of a call, sorted by block.
#[derive(Default)]
struct Plan {
    spans: Vec<Span>,
    /// The blocks touched, ascending.
    blocks: Vec<u32>,
    /// `[blocks + 1]` prefix sums of the spans of each block.
    span_start: Vec<usize>,
}

thread_local! {
    /// Kept by the calling thread, so that a warm step does not allocate.
    static PLAN: RefCell<Plan> = RefCell::default();
}

/// Stores `k` and `v` `[T, kv_heads * head_dim]`, rounded to the cache's type, at `batch.slot_mapping` in `layer`.
///
/// # Panics
/// If the lengths do not fit, or a slot lies outside the cache.
pub fn write_kv(ctx: &Ctx<'_>, kv: &mut KvCache, layer: usize, k: &[f32], v: &[f32], batch: &ForwardBatch) {
    let shape = *kv.shape();
    let slots = &batch.slot_mapping;
    let expected = slots.len() * shape.kv_heads * shape.head_dim;
    assert!(k.len() == expected && v.len() == expected, "k {} and v {} of {expected} elements", k.len(), v.len());
    let block_len = kv.block_len();
    PLAN.with_borrow_mut(|plan| {
        plan.fill(slots, shape.block_size);
        let rows = Rows { shape, k, v };
        match kv.layer_mut(layer) {
            LayerKvMut::F16(blocks) => plan.run(ctx, blocks, block_len, &rows),
            LayerKvMut::BF16(blocks) => plan.run(ctx, blocks, block_len, &rows),
            LayerKvMut::F32(blocks) => plan.run(ctx, blocks, block_len, &rows),
            LayerKvMut::Q8_0(blocks) => plan.run(ctx, blocks, block_len, &rows),
        }
    });
}

impl Plan {
    fn fill(&mut self, slots: &[Slot], block_size: usize) {
        self.spans.clear();
        for (row, slot) in slots.iter().enumerate() {
            // Slots and rows are 32-bit numbers, so a block size that matters is one too.
            let block = (slot.0 as usize / block_size) as u32;
            let place = (slot.0 as usize % block_size) as u32;
            match self.spans.last_mut() {
                Some(span) if span.block == block && span.place + span.rows == place => span.rows += 1,
                _ => self.spans.push(Span { block, place, first_row: row as u32, rows: 1 }),
            }
        }
        self.spans.sort_unstable_by_key(|span| (span.block, span.first_row));
        self.blocks.clear();
        self.span_start.clear();
        for (i, span) in self.spans.iter().enumerate() {
            if self.blocks.last() != Some(&span.block) {
                self.blocks.push(span.block);
                self.span_start.push(i);
            }
        }
        self.span_start.push(self.spans.len());
    }

    /// Writes all spans into `layer`, each block by one unit.
    fn run<E: Element>(&self, ctx: &Ctx<'_>, layer: &mut [E], block_len: usize, rows: &Rows<'_>) {
        let write_block = |i: usize, block: &mut [E]| {
            for span in &self.spans[self.span_start[i]..self.span_start[i + 1]] {
                rows.write_span(*span, block);
            }
        };
        if rows.k.len() <= SMALL {
            for (i, &block) in self.blocks.iter().enumerate() {
                write_block(i, &mut layer[block as usize * block_len..][..block_len]);
            }
        } else {
            ctx.pool.run_scattered(layer, block_len, &self.blocks, write_block);
        }
    }
}

/// The K and V of a step.
struct Rows<'a> {
    shape: KvShape,
    k: &'a [f32],
    v: &'a [f32],
}

impl Rows<'_> {
    fn write_span<E: Element>(&self, span: Span, block: &mut [E]) {
        let KvShape { kv_heads, head_dim, block_size, .. } = self.shape;
        let head_len = block.len() / kv_heads;
        let mut k_row = [E::default(); MAX_HEAD_DIM];
        let k_row = &mut k_row[..head_dim];
        let mut scales = [f16::ZERO; MAX_HEAD_DIM.div_ceil(SCALE_BLOCK)];
        let store_scales = |scales: &[f16], stored: &mut [f16], place: usize| {
            for (stored, scale) in stored.chunks_exact_mut(block_size).zip(scales) {
                stored[place] = *scale;
            }
        };
        for row in 0..span.rows {
            let place = (span.place + row) as usize;
            let from = (span.first_row + row) as usize * kv_heads * head_dim;
            for (head, stored) in block.chunks_exact_mut(head_len).enumerate() {
                let from = from + head * head_dim;
                let stored = HeadMut::of(&self.shape, stored);
                E::round(&self.k[from..from + head_dim], k_row, &mut scales);
                for (k_dim, k) in stored.k.chunks_exact_mut(block_size).zip(k_row.iter()) {
                    k_dim[place] = *k;
                }
                store_scales(&scales, stored.k_scales, place);
                let v_row = &mut stored.v[place * head_dim..][..head_dim];
                E::round(&self.v[from..from + head_dim], v_row, &mut scales);
                store_scales(&scales, stored.v_scales, place);
            }
        }
    }
}
