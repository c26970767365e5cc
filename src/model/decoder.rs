//! The decoder: one forward pass for every architecture, over the blocks that its [`Description`] chooses.
//!
//! [`Description`] draws the pass. Each step of it is one or two calls into `ops`; a call shares its work among the
//! pool's threads and returns when all is done. No call's result for a row depends on the other rows (LAW-1):
//! `specs/numerics.md`.
//!
//! [`Description`]: crate::model::description::Description

mod attention_block;
mod expert_block;
mod feed_forward_block;
mod sublayer;

use crate::kernels::Isa;
use crate::kv_cache::KvCache;
use crate::model::config::ModelConfig;
use crate::model::description::Positions;
use crate::model::observer::{NoTap, Observer, Point, Tap};
use crate::model::weights::Weights;
use crate::model::workspace::Workspace;
use crate::model::{ForwardBatch, Model};
use crate::ops::pool::Pool;
use crate::ops::rope::{Pairing, RopeTable};
use crate::ops::{Ctx, activation, embedding};
use std::ops::Range;
use std::sync::Arc;
use sublayer::{add_bias, project};

/// A loaded model and its workspace.
pub struct Decoder {
    config: ModelConfig,
    weights: Weights,
    workspace: Workspace,
    pool: Arc<Pool>,
    isa: Isa,
}

/// How a model rotates Q and K.
pub struct Rotation<'a> {
    pub pairing: Pairing,
    pub table: &'a RopeTable,
    /// In the layers with a window, where it is another one.
    pub local_table: Option<&'a RopeTable>,
}

/// What the blocks of a step share.
struct Step<'a> {
    ctx: Ctx<'a>,
    config: &'a ModelConfig,
    batch: &'a ForwardBatch,
}

impl Decoder {
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

    /// How Q and K are rotated; `None` where they are not.
    pub fn rotation(&self) -> Option<Rotation<'_>> {
        let Positions::Rotary(pairing) = self.config.description.positions else { return None };
        let table = self.weights.rope.as_ref()?;
        Some(Rotation { pairing, table, local_table: self.weights.local_rope.as_ref() })
    }

    /// Everything but the logits.
    fn layers<T: Tap>(&mut self, batch: &ForwardBatch, kv_cache: &mut KvCache, tap: &mut T) {
        let step = Step { ctx: Ctx { pool: &self.pool, isa: self.isa }, config: &self.config, batch };
        let (weights, ws) = (&self.weights, &mut self.workspace);
        let rows = batch.num_rows();
        assert!(
            rows <= ws.max_rows && batch.logits_rows.len() <= ws.max_logits_rows,
            "batch larger than the workspace"
        );
        step.embed(weights, ws);
        for (table, cos_sin) in [(&weights.rope, &mut ws.cos_sin), (&weights.local_rope, &mut ws.local_cos_sin)] {
            if let Some(table) = table {
                table.fill(&batch.positions, cos_sin);
            }
        }
        for (index, layer) in weights.layers.iter().enumerate() {
            step.attention_block(layer, index, ws, kv_cache, tap);
            step.feed_forward_block(layer, index, ws, tap);
            tap.rows(Point::BlockOut, index, &ws.x[..rows * self.config.hidden_size]);
        }
    }

    /// Final norm and LM head for some rows of the step; returns `[R, vocab]`.
    fn logits(&mut self, rows: &[u32]) -> &mut [f32] {
        let ctx = Ctx { pool: &self.pool, isa: self.isa };
        let (c, weights) = (&self.config, &self.weights);
        let Workspace { x, last, logits, activations, .. } = &mut self.workspace;
        for (out, row) in last.chunks_exact_mut(c.hidden_size).zip(rows) {
            out.copy_from_slice(&x[*row as usize * c.hidden_size..][..c.hidden_size]);
        }
        let out = &mut logits[..rows.len() * weights.token_embd.n()];
        if rows.is_empty() {
            return out;
        }
        let last = &last[..rows.len() * c.hidden_size];
        project(&ctx, last, Some(&weights.output_norm), activations, &mut [(weights.head(), &mut *out)]);
        add_bias(&ctx, out, weights.output_bias.as_deref());
        if c.description.logit_scale != 1.0 {
            activation::scale(&ctx, out, c.description.logit_scale);
        }
        if let Some(cap) = c.description.logit_soft_cap {
            activation::soft_cap(&ctx, out, cap);
        }
        out
    }
}

impl Model for Decoder {
    fn vocab_size(&self) -> usize {
        self.weights.token_embd.n()
    }

    fn forward(&mut self, batch: &ForwardBatch, kv_cache: &mut KvCache) -> &mut [f32] {
        self.layers(batch, kv_cache, &mut NoTap);
        self.logits(&batch.logits_rows)
    }

    fn forward_observed(
        &mut self,
        batch: &ForwardBatch,
        kv_cache: &mut KvCache,
        rows: Range<usize>,
        mut observer: &mut dyn Observer,
    ) -> &mut [f32] {
        self.layers(batch, kv_cache, &mut observer);
        let rows: Vec<u32> = rows.map(|row| row as u32).collect();
        for some in rows.chunks(self.workspace.max_logits_rows) {
            observer.rows(Point::Logits, 0, self.logits(some));
        }
        self.logits(&batch.logits_rows)
    }
}

impl Step<'_> {
    fn embed(&self, weights: &Weights, ws: &mut Workspace) {
        let (c, ctx) = (self.config, &self.ctx);
        let len = self.batch.num_rows() * c.hidden_size;
        let x = &mut ws.x[..len];
        embedding::gather(ctx, &weights.token_embd, &self.batch.token_ids, x);
        if c.description.embedding_scale != 1.0 {
            activation::scale(ctx, x, c.description.embedding_scale);
        }
        if let Some(table) = &weights.position_embd {
            let positions = &mut ws.sublayer[..len];
            embedding::gather(ctx, table, &self.batch.positions, positions);
            activation::add(ctx, x, positions);
        }
    }
}
