//! The feed-forward sublayer, but for mixtures.

use super::Step;
use super::sublayer::{Ending, add_bias, prepare, project};
use crate::model::observer::{Point, Tap};
use crate::model::weights::{FeedForward, LayerWeights, Linear, NormWeights};
use crate::model::workspace::Workspace;
use crate::ops::activation;
use crate::ops::matmul::matmul_gated;

impl Step<'_> {
    /// `x += Wdown inner(ffn_norm(x))` with the extras of the description.
    pub(super) fn feed_forward_block<T: Tap>(
        &self,
        layer: &LayerWeights,
        index: usize,
        ws: &mut Workspace,
        tap: &mut T,
    ) {
        let down = match &layer.ffn {
            FeedForward::Experts { router, experts } => {
                return self.expert_block(layer, router, experts, index, ws, tap);
            }
            FeedForward::Gated { gate, up, down } => {
                self.gated(layer, gate, up, ws);
                down
            }
            FeedForward::Plain { up, down } => {
                self.plain(layer, up, ws);
                down
            }
        };
        let (c, t) = (self.config, self.batch.num_rows());
        let ending =
            Ending { linear: down, post_norm: layer.ffn_post_norm.as_ref(), point: Point::FfnOut, layer: index };
        let (x, gated) = (&mut ws.x[..t * c.hidden_size], &ws.gated[..t * c.intermediate_size]);
        self.end_sublayer(gated, &ending, &mut ws.activations, (x, &mut ws.sublayer), tap);
    }

    /// `gated = act(Wgate h) * (Wup h)`.
    fn gated(&self, layer: &LayerWeights, gate: &Linear, up: &Linear, ws: &mut Workspace) {
        let (ctx, c, t) = (&self.ctx, self.config, self.batch.num_rows());
        let len = t * c.intermediate_size;
        let Workspace { x, before_attention, gated, up: up_out, activations, .. } = ws;
        let (source, norm) = ffn_input(layer, x, before_attention, c.description.may_share_norm);
        let (source, gated) = (&source[..t * c.hidden_size], &mut gated[..len]);
        prepare(ctx, source, norm, activations, &gate.weight);
        let has_bias = gate.bias.is_some() || up.bias.is_some();
        if activations.fits(ctx.isa, up.weight.ty()) && !has_bias {
            return matmul_gated(ctx, c.description.activation, &gate.weight, &up.weight, activations, gated);
        }
        let up_out = &mut up_out[..len];
        let mut outputs = [(&gate.weight, &mut *gated), (&up.weight, &mut *up_out)];
        project(ctx, source, norm, activations, &mut outputs);
        add_bias(ctx, gated, gate.bias.as_deref());
        add_bias(ctx, up_out, up.bias.as_deref());
        activation::gate_mul(ctx, c.description.activation, gated, up_out);
    }

    /// `gated = act(Wup h + b)`.
    fn plain(&self, layer: &LayerWeights, up: &Linear, ws: &mut Workspace) {
        let (ctx, c, t) = (&self.ctx, self.config, self.batch.num_rows());
        let Workspace { x, before_attention, gated, activations, .. } = ws;
        let (source, norm) = ffn_input(layer, x, before_attention, c.description.may_share_norm);
        let gated = &mut gated[..t * c.intermediate_size];
        project(ctx, &source[..t * c.hidden_size], norm, activations, &mut [(&up.weight, &mut *gated)]);
        add_bias(ctx, gated, up.bias.as_deref());
        activation::apply(ctx, c.description.activation, gated);
    }
}

/// What the layer reads, and its norm: the stream, or what attention read where the two share a norm.
pub(super) fn ffn_input<'a>(
    layer: &'a LayerWeights,
    x: &'a [f32],
    before_attention: &'a [f32],
    may_share_norm: bool,
) -> (&'a [f32], Option<&'a NormWeights>) {
    match &layer.ffn_norm {
        None if may_share_norm => (before_attention, layer.attn_norm.as_ref()),
        norm => (x, norm.as_ref()),
    }
}
