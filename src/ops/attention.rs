//! Attention over the paged KV cache: writing the rows of a step, and attending to everything written so far.
//!
//! The order of every operation is a function of the row's own position (`specs/numerics.md`, "Attention"): rows may be
//! computed together or one by one, in any blocks and on any number of threads, with the same bits.

mod element;
mod kernel;
mod scores;
mod source;
mod strips;
mod tile;
mod unit;
mod widened;
mod write;

pub use scores::{cached_rows, scores};
pub use write::write_kv;

use std::cell::RefCell;

use super::Ctx;
use crate::kv_cache::{KvCache, KvShape, LayerKv};
use crate::types::ForwardBatch;
use unit::{Scratch, Unit};

#[cfg(test)]
mod tests;

/// How a layer attends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Scores are `scale * q k`.
    pub scale: f32,
    /// The last positions that a row sees, its own included, at least 1; all of them where `None`.
    pub window: Option<u32>,
    /// Scaled scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

impl AttentionSpec {
    /// The first position that a row at `position` sees.
    fn first_visible(&self, position: u32) -> u32 {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Query rows times heads of one unit of work: enough to use each tile that was widened many times.
const QUERIES_PER_UNIT: usize = 64;

thread_local! {
    /// Work memory of a worker. It grows to its final size in the first steps.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// Where the row tiles of a call start: kept by the calling thread.
    static ROW_STARTS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// For each row, attends with each head of `q` `[T, heads * head_dim]` to the positions up to the row's own in its
/// sequence, or to the last of them where `spec` has a window, K and V of this step included (call [`write_kv`] first),
/// and writes `out` `[T, heads * head_dim]`.
/// `heads` must be a multiple of the cache's `kv_heads`; consecutive heads share a KV head.
///
/// # Panics
/// If the arrays do not fit together, a position lies outside its sequence's blocks, or the window is 0.
pub fn paged_attention(
    ctx: &Ctx<'_>,
    q: &[f32],
    kv: &KvCache,
    layer: usize,
    batch: &ForwardBatch,
    spec: AttentionSpec,
    out: &mut [f32],
) {
    let rows = batch.positions.len();
    if rows == 0 {
        return;
    }
    let KvShape { kv_heads, head_dim, .. } = *kv.shape();
    let width = q.len() / rows;
    let group = width / (kv_heads * head_dim);
    assert!(
        group > 0 && rows * group * kv_heads * head_dim == q.len(),
        "q of {} elements: {rows} rows of a multiple of {kv_heads} heads of {head_dim} expected",
        q.len()
    );
    assert_eq!(q.len(), out.len(), "q and out differ in length");
    assert_ne!(spec.window, Some(0), "a window of no positions");
    assert_eq!(batch.query_start_loc.last().copied(), Some(rows as u32), "query_start_loc does not end at T");

    ROW_STARTS.with_borrow_mut(|row_starts| {
        tile_rows(&batch.query_start_loc, (QUERIES_PER_UNIT / group).max(1), row_starts);
        ctx.pool.run_grid(out, width, row_starts, group * head_dim, |tile| {
            let sequence = batch.query_start_loc.partition_point(|&start| start as usize <= tile.rows.start) - 1;
            let blocks = batch.block_table_start[sequence] as usize..batch.block_table_start[sequence + 1] as usize;
            SCRATCH.with_borrow_mut(|scratch| {
                let unit = Unit {
                    q: &q[tile.rows.start * width..tile.rows.end * width],
                    width,
                    first_column: tile.cols.start,
                    group,
                    positions: &batch.positions[tile.rows.clone()],
                    blocks: &batch.block_tables[blocks],
                    kv,
                    kv_head: tile.cols.start / (group * head_dim),
                    spec,
                };
                match kv.layer(layer) {
                    LayerKv::F16(elements) => unit.attend(ctx.isa, elements, scratch, tile),
                    LayerKv::BF16(elements) => unit.attend(ctx.isa, elements, scratch, tile),
                    LayerKv::F32(elements) => unit.attend(ctx.isa, elements, scratch, tile),
                    LayerKv::Q8_0(elements) => unit.attend(ctx.isa, elements, scratch, tile),
                }
            });
        });
    });
}

/// Cuts the rows of each sequence into tiles of at most `rows` rows; `starts` becomes their bounds.
fn tile_rows(query_start_loc: &[u32], rows: usize, starts: &mut Vec<usize>) {
    starts.clear();
    for bounds in query_start_loc.windows(2) {
        starts.extend((bounds[0] as usize..bounds[1] as usize).step_by(rows));
    }
    starts.extend(query_start_loc.last().map(|&end| end as usize));
}
