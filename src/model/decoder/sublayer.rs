//! What attention and feed-forward layer have in common: normalised input, products, and the way back into the stream.

use super::Step;
use crate::model::observer::{Point, Tap};
use crate::model::weights::{Linear, NormWeights};
use crate::ops::activations::Activations;
use crate::ops::matmul::{matmul, matmul_add, matmul_each, matmul_gated};
use crate::ops::packed_matrix::PackedMatrix;
use crate::ops::{Ctx, activation, norm};

/// Multiplies `x` `[M, K]`, normalised where there is a norm, by several matrices of `K` inputs; neighbours whose types
/// want the input in one form share its preparation and their run.
pub fn project(
    ctx: &Ctx<'_>,
    x: &[f32],
    norm: Option<&NormWeights>,
    activations: &mut Activations,
    outputs: &mut [(&PackedMatrix, &mut [f32])],
) {
    let mut rest = outputs;
    while let Some((weight, _)) = rest.first() {
        prepare(ctx, x, norm, activations, weight);
        let same = rest.iter().take_while(|(weight, _)| activations.fits(ctx.isa, weight.ty())).count();
        let (now, later) = rest.split_at_mut(same);
        matmul_each(ctx, activations, now);
        rest = later;
    }
}

/// Makes `x` `[M, K]`, normalised where there is a norm, the input of `weight`.
pub fn prepare(
    ctx: &Ctx<'_>,
    x: &[f32],
    norm: Option<&NormWeights>,
    activations: &mut Activations,
    weight: &PackedMatrix,
) {
    match norm {
        Some(norm) => activations.prepare_normed(ctx, x, &norm.norm(), weight.ty()),
        None => activations.prepare(ctx, x, x.len() / weight.k(), weight.k(), weight.ty()),
    }
}

/// `x += bias` for each row, where there is a bias.
pub fn add_bias(ctx: &Ctx<'_>, x: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        activation::add_bias(ctx, x, bias);
    }
}

/// A matrix and what is added to its products.
pub type Product<'a> = (&'a PackedMatrix, Option<&'a [f32]>);

/// The last product of a sublayer, and what happens to it on its way into the stream.
pub struct Ending<'a> {
    pub linear: &'a Linear,
    pub post_norm: Option<&'a NormWeights>,
    pub point: Point,
    pub layer: usize,
}

impl Step<'_> {
    /// `gated = act(Wgate h + b) * (Wup h + b)` with `h` the input `[M, K]`, normalised where there is a norm. `up_out`
    /// is scratch of as many elements as `gated`, used where the two cannot share a run.
    pub fn gated_product(
        &self,
        (input, norm): (&[f32], Option<&NormWeights>),
        (gate, gate_bias): Product<'_>,
        (up, up_bias): Product<'_>,
        activations: &mut Activations,
        (gated, up_out): (&mut [f32], &mut [f32]),
    ) {
        let (ctx, activation) = (&self.ctx, self.config.description.activation);
        prepare(ctx, input, norm, activations, gate);
        let one_form = activations.fits(ctx.isa, up.ty());
        if one_form && gate_bias.is_none() && up_bias.is_none() {
            return matmul_gated(ctx, activation, gate, up, activations, gated);
        }
        let up_out = &mut up_out[..gated.len()];
        matmul(ctx, gate, activations, gated);
        if !one_form {
            prepare(ctx, input, norm, activations, up);
        }
        matmul(ctx, up, activations, up_out);
        add_bias(ctx, gated, gate_bias);
        add_bias(ctx, up_out, up_bias);
        activation::gate_mul(ctx, activation, gated, up_out);
    }

    /// `x += residual_scale * post_norm(W input + b)`. Without anything between product and sum the product is added
    /// where it is made: the same additions.
    pub fn end_sublayer<T: Tap>(
        &self,
        input: &[f32],
        ending: &Ending<'_>,
        activations: &mut Activations,
        (x, sublayer): (&mut [f32], &mut [f32]),
        tap: &mut T,
    ) {
        let (ctx, linear) = (&self.ctx, ending.linear);
        let changed =
            linear.bias.is_some() || ending.post_norm.is_some() || self.config.description.residual_scale != 1.0;
        prepare(ctx, input, None, activations, &linear.weight);
        if !changed && !T::ON {
            return matmul_add(ctx, &linear.weight, activations, x);
        }
        let sublayer = &mut sublayer[..x.len()];
        matmul(ctx, &linear.weight, activations, sublayer);
        add_bias(ctx, sublayer, linear.bias.as_deref());
        tap.rows(ending.point, ending.layer, sublayer);
        self.add_sublayer(x, sublayer, ending.post_norm);
    }

    /// `x += residual_scale * post_norm(sublayer)`.
    pub fn add_sublayer(&self, x: &mut [f32], sublayer: &mut [f32], post_norm: Option<&NormWeights>) {
        let (ctx, scale) = (&self.ctx, self.config.description.residual_scale);
        if let Some(post_norm) = post_norm {
            norm::normalize_in_place(ctx, sublayer, &post_norm.norm());
        }
        if scale != 1.0 {
            activation::scale(ctx, sublayer, scale);
        }
        activation::add(ctx, x, sublayer);
    }
}
