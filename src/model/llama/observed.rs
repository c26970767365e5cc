//! The forward pass with its values shown: the operations of the pass that is not observed, but for fusions that hide a
//! value, which are done in steps with the same bits.

use super::{LlamaModel, project};
use crate::kv_cache::KvCache;
use crate::model::ForwardBatch;
use crate::model::observer::{AttentionView, Observer, Point};
use crate::ops::attention::{self, AttentionSpec};
use crate::ops::matmul::matmul;
use crate::ops::packed_matrix::PackedMatrix;
use crate::ops::{Ctx, activation, embedding, norm, rope};
use std::ops::Range;
use std::sync::Arc;

impl LlamaModel {
    /// As [`crate::model::Model::forward_observed`].
    pub(super) fn observe<'m>(
        &'m mut self,
        batch: &ForwardBatch,
        kv_cache: &mut KvCache,
        rows: Range<usize>,
        observer: &mut dyn Observer,
    ) -> &'m mut [f32] {
        let pool = Arc::clone(&self.pool);
        let ctx = Ctx { pool: &pool, isa: self.isa };
        let t = batch.num_rows();
        let x = &mut self.workspace.x[..t * self.config.hidden_size];
        embedding::gather(&ctx, &self.weights.token_embd, &batch.token_ids, x);
        self.weights.rope.fill(&batch.positions, &mut self.workspace.cos_sin);
        for index in 0..self.weights.layers.len() {
            self.observe_attention(&ctx, index, batch, kv_cache, observer);
            self.observe_feed_forward(&ctx, index, t, observer);
            observer.rows(Point::BlockOut, index, &self.workspace.x[..t * self.config.hidden_size]);
        }
        let shown: Vec<u32> = (rows.start as u32..rows.end as u32).collect();
        for rows in shown.chunks(self.workspace.max_logits_rows) {
            let logits = super::logits(&ctx, &self.config, &self.weights, rows, &mut self.workspace);
            observer.rows(Point::Logits, 0, logits);
        }
        super::logits(&ctx, &self.config, &self.weights, &batch.logits_rows, &mut self.workspace)
    }

    fn observe_attention(
        &mut self,
        ctx: &Ctx<'_>,
        index: usize,
        batch: &ForwardBatch,
        kv_cache: &mut KvCache,
        observer: &mut dyn Observer,
    ) {
        let (c, ws, t) = (&self.config, &mut self.workspace, batch.num_rows());
        let layer = &self.weights.layers[index];
        let x = &mut ws.x[..t * c.hidden_size];
        let (q, attended) = (&mut ws.q[..t * c.q_dim()], &mut ws.attended[..t * c.q_dim()]);
        let (k, v) = (&mut ws.k[..t * c.kv_dim()], &mut ws.v[..t * c.kv_dim()]);
        let cos_sin = &ws.cos_sin[..t * c.rope_dim];

        let mut normed = vec![0.0; x.len()];
        norm::rms_norm(ctx, x, &layer.attn_norm, c.rms_norm_eps, &mut normed);
        observer.rows(Point::AttnNorm, index, &normed);
        let products = &mut [(&layer.attn_q, &mut *q), (&layer.attn_k, &mut *k), (&layer.attn_v, &mut *v)];
        project(ctx, x, (&*layer.attn_norm, c.rms_norm_eps), &mut ws.activations, products);
        observer.rows(Point::Q, index, q);
        observer.rows(Point::K, index, k);
        observer.rows(Point::V, index, v);
        rope::rope_adjacent(ctx, q, c.num_heads, c.head_dim, c.rope_dim, cos_sin);
        rope::rope_adjacent(ctx, k, c.num_kv_heads, c.head_dim, c.rope_dim, cos_sin);
        observer.rows(Point::QRope, index, q);
        observer.rows(Point::KRope, index, k);

        attention::write_kv(ctx, kv_cache, index, k, v, batch);
        let spec = AttentionSpec { scale: 1.0 / (c.head_dim as f32).sqrt(), window: None, soft_cap: None };
        observer.attention(&AttentionView { layer: index, q, kv_cache, batch, spec });
        attention::paged_attention(ctx, q, kv_cache, index, batch, spec, attended);
        ws.activations.prepare(ctx, attended, t, c.q_dim(), layer.attn_output.ty());
        add_shown(ctx, &layer.attn_output, &ws.activations, x, |out| observer.rows(Point::AttnOut, index, out));
    }

    fn observe_feed_forward(&mut self, ctx: &Ctx<'_>, index: usize, t: usize, observer: &mut dyn Observer) {
        let (c, ws) = (&self.config, &mut self.workspace);
        let layer = &self.weights.layers[index];
        let x = &mut ws.x[..t * c.hidden_size];
        let gated = &mut ws.gated[..t * c.intermediate_size];
        let up = &mut ws.up[..t * c.intermediate_size];
        let products = &mut [(&layer.ffn_gate, &mut *gated), (&layer.ffn_up, &mut *up)];
        project(ctx, x, (&*layer.ffn_norm, c.rms_norm_eps), &mut ws.activations, products);
        activation::silu_mul(ctx, gated, up);
        ws.activations.prepare(ctx, gated, t, c.intermediate_size, layer.ffn_down.ty());
        add_shown(ctx, &layer.ffn_down, &ws.activations, x, |out| observer.rows(Point::FfnOut, index, out));
    }
}

/// `x += weight input`, the product shown before it is added.
fn add_shown(
    ctx: &Ctx<'_>,
    weight: &PackedMatrix,
    input: &crate::ops::activations::Activations,
    x: &mut [f32],
    show: impl FnOnce(&[f32]),
) {
    let mut out = vec![0.0; x.len()];
    matmul(ctx, weight, input, &mut out);
    show(&out);
    x.iter_mut().zip(&out).for_each(|(x, out)| *x += out);
}
