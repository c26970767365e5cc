//! Values of the forward pass shown to a trace.
//!
//! The forward pass is written once, over a [`Tap`]. With [`NoTap`] the calls are not there, and fused operations stay
//! fused; with an [`Observer`] the values that a fusion hides are computed apart, with the same bits.

use crate::kv_cache::KvCache;
use crate::ops::attention::AttentionSpec;
use crate::types::ForwardBatch;
use std::any::Any;
use std::ops::Range;

/// A named value of the forward pass. Shapes are those of the whole step; `T` are its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// `[T, hidden]` the output of the norm before attention.
    AttnNorm,
    /// `[T, heads * head_dim]` the query projection, bias included.
    Q,
    /// `[T, kv_heads * head_dim]` the key projection, bias included.
    K,
    /// `[T, kv_heads * head_dim]` the value projection, bias included.
    V,
    /// `Q` after its norm, where the model has one.
    QNorm,
    /// `K` after its norm, where the model has one.
    KNorm,
    /// `Q` after rotation, where the model rotates.
    QRope,
    /// `K` after rotation, where the model rotates.
    KRope,
    /// `[T, hidden]` attention after the output projection, before a norm behind it and the residual sum.
    AttnOut,
    /// `[T, hidden]` the feed-forward layer after the down projection, before a norm behind it and the residual sum.
    FfnOut,
    /// `[T, hidden]` the residual stream after the block.
    BlockOut,
    /// `[rows, vocab]` of the next rows of the observed sequence, whether they sample or not; layer 0. Called until all
    /// rows of the step were shown.
    Logits,
}

/// What attention reads in a layer, K and V of the step included.
pub struct AttentionView<'a> {
    pub layer: usize,
    /// `[T, heads * head_dim]` as attention takes it.
    pub q: &'a [f32],
    pub kv_cache: &'a KvCache,
    pub batch: &'a ForwardBatch,
    /// Scale, window and soft cap of the layer.
    pub spec: AttentionSpec,
}

/// Takes the values of one sequence out of the steps it is in.
///
/// `Any`: whoever gave it to the engine turns it back into what it was.
pub trait Observer: Any + Send {
    /// A step begins; `rows` of its rows belong to the observed sequence, whose place among the sequences of `batch` is
    /// `sequence`.
    fn begin_step(&mut self, sequence: usize, rows: Range<usize>, batch: &ForwardBatch);

    /// `values` is `[T, width]` of the whole step, but for [`Point::Logits`].
    fn rows(&mut self, point: Point, layer: usize, values: &[f32]);

    /// Called for each layer after K and V were written.
    fn attention(&mut self, view: &AttentionView<'_>);

    /// The token chosen from the step's last row of the sequence; not called in a step that samples nothing for it.
    fn sampled(&mut self, token: crate::types::TokenId);
}

/// What the forward pass calls. `ON` is known to the compiler, so that code for a tap that is off is not built.
pub trait Tap {
    const ON: bool;

    fn rows(&mut self, point: Point, layer: usize, values: &[f32]);

    fn attention(&mut self, view: &AttentionView<'_>);
}

/// Nobody looks.
pub struct NoTap;

impl Tap for NoTap {
    const ON: bool = false;

    #[inline(always)]
    fn rows(&mut self, _: Point, _: usize, _: &[f32]) {}

    #[inline(always)]
    fn attention(&mut self, _: &AttentionView<'_>) {}
}

impl Tap for &mut dyn Observer {
    const ON: bool = true;

    fn rows(&mut self, point: Point, layer: usize, values: &[f32]) {
        (**self).rows(point, layer, values);
    }

    fn attention(&mut self, view: &AttentionView<'_>) {
        (**self).attention(view);
    }
}
