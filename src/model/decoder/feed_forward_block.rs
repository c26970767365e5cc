//! The feed-forward sublayer, but for mixtures.

use super::Step;
use super::sublayer::{Ending, add_bias, project};
use crate::model::observer::{Point, Tap};
use crate::model::weights::{FeedForward, LayerWeights, Linear, NormWeights};
use crate::model::workspace::Workspace;
use crate::ops::activation;

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

    /// `gated = act(Wgate h + b) * (Wup h + b)`.
    fn gated(&self, layer: &LayerWeights, gate: &Linear, up: &Linear, ws: &mut Workspace) {
        let (c, t) = (self.config, self.batch.num_rows());
        let Workspace { x, before_attention, gated, up: up_out, activations, .. } = ws;
        let (source, norm) = ffn_input(layer, x, before_attention, c.description.may_share_norm);
        self.gated_product(
            (&source[..t * c.hidden_size], norm),
            (&gate.weight, gate.bias.as_deref()),
            (&up.weight, up.bias.as_deref()),
            activations,
            (&mut gated[..t * c.intermediate_size], up_out),
        );
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
