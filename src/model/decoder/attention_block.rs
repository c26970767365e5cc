//! The attention sublayer.

use super::Step;
use super::sublayer::{Ending, add_bias, project};
use crate::kv_cache::KvCache;
use crate::model::description::Positions;
use crate::model::observer::{AttentionView, Point, Tap};
use crate::model::weights::{LayerWeights, NormWeights};
use crate::model::workspace::Workspace;
use crate::ops::attention::{self, AttentionSpec};
use crate::ops::{Ctx, norm, rope};

impl Step<'_> {
    /// `x += Wo attention(attn_norm(x))` with the extras of the description, and the step's K and V into the cache.
    pub(super) fn attention_block<T: Tap>(
        &self,
        layer: &LayerWeights,
        index: usize,
        ws: &mut Workspace,
        kv_cache: &mut KvCache,
        tap: &mut T,
    ) {
        let (ctx, c, t) = (&self.ctx, self.config, self.batch.num_rows());
        if layer.ffn_norm.is_none() && c.description.may_share_norm {
            ws.before_attention[..t * c.hidden_size].copy_from_slice(&ws.x[..t * c.hidden_size]);
        }
        self.project_qkv(layer, index, ws, tap);
        self.place(layer, index, ws, tap);

        let (q, attended) = (&ws.q[..t * c.q_dim()], &mut ws.attended[..t * c.q_dim()]);
        let (k, v) = (&ws.k[..t * c.kv_dim()], &ws.v[..t * c.kv_dim()]);
        attention::write_kv(ctx, kv_cache, index, k, v, self.batch);
        let spec = self.attention_spec(index);
        tap.attention(&AttentionView { layer: index, q, kv_cache: &*kv_cache, batch: self.batch, spec });
        attention::paged_attention(ctx, q, kv_cache, index, self.batch, spec, attended);

        let ending = Ending {
            linear: &layer.attn_output,
            post_norm: layer.attn_post_norm.as_ref(),
            point: Point::AttnOut,
            layer: index,
        };
        let x = &mut ws.x[..t * c.hidden_size];
        self.end_sublayer(attended, &ending, &mut ws.activations, (x, &mut ws.sublayer), tap);
    }

    /// Scale, window and soft cap of a layer.
    fn attention_spec(&self, index: usize) -> AttentionSpec {
        let (c, description) = (self.config, &self.config.description);
        AttentionSpec {
            scale: description.attention_scale.unwrap_or_else(|| 1.0 / (c.head_dim as f32).sqrt()),
            window: description.window_of(index),
            soft_cap: description.attention_soft_cap,
        }
    }

    /// Q, K and V of the normalised stream.
    fn project_qkv<T: Tap>(&self, layer: &LayerWeights, index: usize, ws: &mut Workspace, tap: &mut T) {
        let (ctx, c, t) = (&self.ctx, self.config, self.batch.num_rows());
        let x = &ws.x[..t * c.hidden_size];
        if let Some(attn_norm) = layer.attn_norm.as_ref().filter(|_| T::ON) {
            let normed = &mut ws.sublayer[..t * c.hidden_size];
            norm::normalize(ctx, x, &attn_norm.norm(), normed);
            tap.rows(Point::AttnNorm, index, normed);
        }
        let q = &mut ws.q[..t * c.q_dim()];
        let (k, v) = (&mut ws.k[..t * c.kv_dim()], &mut ws.v[..t * c.kv_dim()]);
        let (wq, wk, wv) = (&layer.attn_q, &layer.attn_k, &layer.attn_v);
        let mut outputs = [(&wq.weight, &mut *q), (&wk.weight, &mut *k), (&wv.weight, &mut *v)];
        project(ctx, x, layer.attn_norm.as_ref(), &mut ws.activations, &mut outputs);
        for (out, linear) in [(&mut *q, wq), (&mut *k, wk), (&mut *v, wv)] {
            add_bias(ctx, out, linear.bias.as_deref());
        }
        tap.rows(Point::Q, index, q);
        tap.rows(Point::K, index, k);
        tap.rows(Point::V, index, v);
    }

    /// The norms of Q and K, and their rotation.
    fn place<T: Tap>(&self, layer: &LayerWeights, index: usize, ws: &mut Workspace, tap: &mut T) {
        let (ctx, c, t) = (&self.ctx, self.config, self.batch.num_rows());
        let (q, k) = (&mut ws.q[..t * c.q_dim()], &mut ws.k[..t * c.kv_dim()]);
        // Nothing of attention is there yet.
        let scratch = &mut ws.attended;
        for (x, norms, point) in
            [(&mut *q, &layer.attn_q_norm, Point::QNorm), (&mut *k, &layer.attn_k_norm, Point::KNorm)]
        {
            match norms.as_slice() {
                [] => continue,
                [norm] => norm::normalize_in_place(ctx, x, &norm.norm()),
                norms => normalize_heads(ctx, x, norms, scratch),
            }
            tap.rows(point, index, x);
        }
        let Positions::Rotary(pairing) = c.description.positions else { return };
        let is_local = !ws.local_cos_sin.is_empty() && c.description.window_of(index).is_some();
        let cos_sin = if is_local { &ws.local_cos_sin } else { &ws.cos_sin };
        let cos_sin = &cos_sin[..t * c.rope_dim];
        rope::rotate(ctx, q, c.num_heads, c.head_dim, c.rope_dim, pairing, cos_sin);
        rope::rotate(ctx, k, c.num_kv_heads, c.head_dim, c.rope_dim, pairing, cos_sin);
        tap.rows(Point::QRope, index, q);
        tap.rows(Point::KRope, index, k);
    }
}

/// A norm of its own for each head of `x` `[T, heads * head_dim]`. `scratch` has room for a head of every row.
fn normalize_heads(ctx: &Ctx<'_>, x: &mut [f32], norms: &[NormWeights], scratch: &mut [f32]) {
    let head_dim = norms.first().map_or(1, |norm| norm.weight.len());
    let width = norms.len() * head_dim;
    let scratch = &mut scratch[..x.len() / norms.len()];
    for (head, norm) in norms.iter().enumerate() {
        for (row, to) in x.chunks_exact(width).zip(scratch.chunks_exact_mut(head_dim)) {
            to.copy_from_slice(&row[head * head_dim..][..head_dim]);
        }
        norm::normalize_in_place(ctx, scratch, &norm.norm());
        for (row, from) in x.chunks_exact_mut(width).zip(scratch.chunks_exact(head_dim)) {
            row[head * head_dim..][..head_dim].copy_from_slice(from);
        }
    }
}
