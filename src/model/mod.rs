//! Models: a forward pass over a batch of rows from many sequences.

pub mod architecture;
pub mod config;
pub mod decoder;
pub mod description;
pub mod footprint;
mod keys;
mod loader;
pub mod observer;
pub mod weights;
pub mod workspace;

use crate::kv_cache::KvCache;
use observer::Observer;
use std::ops::Range;

pub use crate::types::ForwardBatch;

/// A model the engine can step.
pub trait Model: Send {
    /// Entries of one row of logits.
    fn vocab_size(&self) -> usize;

    /// One pass over the weights for every row of `batch`. Writes K and V to their slots and returns the logits of
    /// `batch.logits_rows`, `[R, vocab_size]`. The bits of a row depend on its own sequence alone (LAW-1).
    fn forward(&mut self, batch: &ForwardBatch, kv_cache: &mut KvCache) -> &mut [f32];

    /// [`Model::forward`] with the same bits, showing its values to `observer`; `rows` are those of the observed
    /// sequence. A model that has nothing to show computes and is silent.
    fn forward_observed(
        &mut self,
        batch: &ForwardBatch,
        kv_cache: &mut KvCache,
        _rows: Range<usize>,
        _observer: &mut dyn Observer,
    ) -> &mut [f32] {
        self.forward(batch, kv_cache)
    }
}
