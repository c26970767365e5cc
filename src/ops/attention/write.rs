//! Storing the K and V of a step's rows in their slots.

use std::cell::RefCell;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::kv_cache::{KvCache, KvShape, LayerKvMut, MAX_HEAD_DIM};
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
            LayerKvMut::F16(blocks) => plan.run(ctx, blocks, block_len, &rows, round),
            LayerKvMut::F32(blocks) => plan.run(ctx, blocks, block_len, &rows, |x, out| out.copy_from_slice(x)),
        }
    });
}

/// Nearest f16, ties to even.
fn round(x: &[f32], out: &mut [u16]) {
    out.reinterpret_cast_mut::<f16>().convert_from_f32_slice(x);
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
    fn run<E: Copy + Default + Send>(
        &self,
        ctx: &Ctx<'_>,
        layer: &mut [E],
        block_len: usize,
        rows: &Rows<'_>,
        round: impl Fn(&[f32], &mut [E]) + Sync,
    ) {
        let write_block = |i: usize, block: &mut [E]| {
            for span in &self.spans[self.span_start[i]..self.span_start[i + 1]] {
                rows.write_span(*span, block, &round);
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
    fn write_span<E: Copy + Default>(&self, span: Span, block: &mut [E], round: &impl Fn(&[f32], &mut [E])) {
        let KvShape { kv_heads, head_dim, block_size, .. } = self.shape;
        let mut k_stored = [E::default(); MAX_HEAD_DIM];
        let k_stored = &mut k_stored[..head_dim];
        for row in 0..span.rows {
            let place = (span.place + row) as usize;
            let from = (span.first_row + row) as usize * kv_heads * head_dim;
            for (head, stored) in block.chunks_exact_mut(2 * head_dim * block_size).enumerate() {
                let from = from + head * head_dim;
                let (k_block, v_block) = stored.split_at_mut(head_dim * block_size);
                round(&self.k[from..from + head_dim], k_stored);
                for (k_dim, k) in k_block.chunks_exact_mut(block_size).zip(k_stored.iter()) {
                    k_dim[place] = *k;
                }
                round(&self.v[from..from + head_dim], &mut v_block[place * head_dim..][..head_dim]);
            }
        }
    }
}
