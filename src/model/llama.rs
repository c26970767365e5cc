//! The Llama decoder: RMSNorm, rotary positions, grouped-query attention over the paged cache, SwiGLU.
//!
//! ```text
//! x = embedding[token]
//! for each layer:
//!     h = rms_norm(x) ;  q, k, v = Wq h, Wk h, Wv h ;  rotate q, k ;  write k, v to their slots
//!     x += Wo attention(q, cache)
//!     h = rms_norm(x) ;  x += Wdown (silu(Wgate h) * (Wup h))
//! logits = Whead rms_norm(x)          only for the rows that sample
//! ```
//! Each line is one or two calls into `ops`; a call shares its work among the pool's threads and returns when all is
//! done. No call's result for a row depends on the other rows (LAW-1): `specs/numerics.md`.

use crate::kernels::Isa;
use crate::kv_cache::KvCache;
use crate::model::config::ModelConfig;
use crate::model::observer::Observer;
use crate::model::weights::{LayerWeights, Weights};
use crate::model::workspace::Workspace;
use crate::model::{ForwardBatch, Model};
use crate::ops::activations::Activations;
use crate::ops::attention;
use crate::ops::matmul::{matmul_add, matmul_each, matmul_gated};
use crate::ops::packed_matrix::PackedMatrix;
use crate::ops::pool::Pool;
use crate::ops::rope;
use crate::ops::{Ctx, activation, embedding};
use std::ops::Range;
use std::sync::Arc;

mod observed;

/// A loaded model and its workspace.
pub struct LlamaModel {
    config: ModelConfig,
    weights: Weights,
    workspace: Workspace,
    pool: Arc<Pool>,
    isa: Isa,
}

impl LlamaModel {
    /// `max_rows` bounds the rows of a step, `max_logits_rows` those that sample.
    pub fn new(
        config: ModelConfig,
        weights: Weights,
        pool: Arc<Pool>,
        isa: Isa,
        max_rows: usize,
        max_logits_rows: usize,
    ) -> Self {
        let workspace = Workspace::new(&config, weights.token_embd.n(), max_rows, max_logits_rows);
        Self { config, weights, workspace, pool, isa }
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn weights(&self) -> &Weights {
        &self.weights
    }
}

impl Model for LlamaModel {
    fn vocab_size(&self) -> usize {
        self.weights.token_embd.n()
    }

    fn forward(&mut self, batch: &ForwardBatch, kv_cache: &mut KvCache) -> &mut [f32] {
        let ctx = Ctx { pool: &self.pool, isa: self.isa };
        let (c, ws, t) = (&self.config, &mut self.workspace, batch.num_rows());
        assert!(t <= ws.max_rows && batch.logits_rows.len() <= ws.max_logits_rows, "batch larger than the workspace");
        let x = &mut ws.x[..t * c.hidden_size];
        embedding::gather(&ctx, &self.weights.token_embd, &batch.token_ids, x);
        self.weights.rope.fill(&batch.positions, &mut ws.cos_sin);
        for (index, layer) in self.weights.layers.iter().enumerate() {
            attention_block(&ctx, c, layer, index, batch, ws, kv_cache);
            feed_forward_block(&ctx, c, layer, t, ws);
        }
        logits(&ctx, c, &self.weights, &batch.logits_rows, ws)
    }

    fn forward_observed(
        &mut self,
        batch: &ForwardBatch,
        kv_cache: &mut KvCache,
        rows: Range<usize>,
        observer: &mut dyn Observer,
    ) -> &mut [f32] {
        self.observe(batch, kv_cache, rows, observer)
    }
}

/// `x += Wo attention(rms_norm(x))`, and the step's K and V into the cache.
fn attention_block(
    ctx: &Ctx<'_>,
    c: &ModelConfig,
    layer: &LayerWeights,
    index: usize,
    batch: &ForwardBatch,
    ws: &mut Workspace,
    kv_cache: &mut KvCache,
) {
    let t = batch.num_rows();
    let x = &mut ws.x[..t * c.hidden_size];
    let (q, attended) = (&mut ws.q[..t * c.q_dim()], &mut ws.attended[..t * c.q_dim()]);
    let (k, v) = (&mut ws.k[..t * c.kv_dim()], &mut ws.v[..t * c.kv_dim()]);
    let cos_sin = &ws.cos_sin[..t * c.rope_dim];

    project(
        ctx,
        x,
        (&*layer.attn_norm, c.rms_norm_eps),
        &mut ws.activations,
        &mut [(&layer.attn_q, &mut *q), (&layer.attn_k, &mut *k), (&layer.attn_v, &mut *v)],
    );
    rope::rope_adjacent(ctx, q, c.num_heads, c.head_dim, c.rope_dim, cos_sin);
    rope::rope_adjacent(ctx, k, c.num_kv_heads, c.head_dim, c.rope_dim, cos_sin);

    attention::write_kv(ctx, kv_cache, index, k, v, batch);
    let scale = 1.0 / (c.head_dim as f32).sqrt();
    let spec = attention::AttentionSpec { scale, window: None, soft_cap: None };
    attention::paged_attention(ctx, q, kv_cache, index, batch, spec, attended);
    project_onto(ctx, attended, &mut ws.activations, &layer.attn_output, x);
}

/// `x += Wdown (silu(Wgate h) * (Wup h))` with `h = rms_norm(x)`.
fn feed_forward_block(ctx: &Ctx<'_>, c: &ModelConfig, layer: &LayerWeights, t: usize, ws: &mut Workspace) {
    let x = &mut ws.x[..t * c.hidden_size];
    let gated = &mut ws.gated[..t * c.intermediate_size];
    let (gate, up) = (&layer.ffn_gate, &layer.ffn_up);
    ws.activations.prepare_normed(ctx, x, &layer.ffn_norm, c.rms_norm_eps, gate.ty());
    if ws.activations.fits(ctx.isa, up.ty()) {
        matmul_gated(ctx, gate, up, &ws.activations, gated);
    } else {
        let up_out = &mut ws.up[..t * c.intermediate_size];
        let norm = (&*layer.ffn_norm, c.rms_norm_eps);
        project(ctx, x, norm, &mut ws.activations, &mut [(gate, &mut *gated), (up, &mut *up_out)]);
        activation::silu_mul(ctx, gated, up_out);
    }
    project_onto(ctx, gated, &mut ws.activations, &layer.ffn_down, x);
}

/// Final norm and LM head for the sampling rows; returns `[R, vocab]`.
fn logits<'a>(ctx: &Ctx<'_>, c: &ModelConfig, weights: &Weights, rows: &[u32], ws: &'a mut Workspace) -> &'a mut [f32] {
    let (hidden, r) = (c.hidden_size, rows.len());
    for (out, row) in ws.last.chunks_exact_mut(hidden).zip(rows) {
        out.copy_from_slice(&ws.x[*row as usize * hidden..][..hidden]);
    }
    let out = &mut ws.logits[..r * weights.token_embd.n()];
    if r == 0 {
        return out;
    }
    let norm = (&*weights.output_norm, c.rms_norm_eps);
    project(ctx, &ws.last[..r * hidden], norm, &mut ws.activations, &mut [(weights.head(), &mut *out)]);
    out
}

/// Normalises `x` `[M, K]` with `(weight, eps)` and multiplies it by several matrices of `K` inputs; neighbours whose
/// types want the input in one form share its preparation and their run.
fn project(
    ctx: &Ctx<'_>,
    x: &[f32],
    (norm, eps): (&[f32], f32),
    activations: &mut Activations,
    outputs: &mut [(&PackedMatrix, &mut [f32])],
) {
    let mut rest = outputs;
    while let Some((weight, _)) = rest.first() {
        activations.prepare_normed(ctx, x, norm, eps, weight.ty());
        let same = rest.iter().take_while(|(weight, _)| activations.fits(ctx.isa, weight.ty())).count();
        let (now, later) = rest.split_at_mut(same);
        matmul_each(ctx, activations, now);
        rest = later;
    }
}

/// `x += weight input`: the residual sum.
fn project_onto(ctx: &Ctx<'_>, input: &[f32], activations: &mut Activations, weight: &PackedMatrix, x: &mut [f32]) {
    activations.prepare(ctx, input, input.len() / weight.k(), weight.k(), weight.ty());
    matmul_add(ctx, weight, activations, x);
}
