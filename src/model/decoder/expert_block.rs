//! The feed-forward sublayer of a mixture: each row goes through the experts that its router prefers. MOE-1 and MOE-2
//! of `specs/numerics.md`.
//!
//! ```text
//! shares = softmax(Wrouter h)                   over all experts, of which the best `used` stay,
//! shares = shares / sum of those that stay      made to sum up to 1
//! out = sum over the experts, in order of their numbers, of share * expert(h)
//! ```
//! Rows of one expert are computed together. A row's sum runs over its own experts in the order of their numbers, so
//! its bits do not depend on the other rows (LAW-1).

use super::Step;
use super::feed_forward_block::ffn_input;
use super::sublayer::project;
use crate::model::observer::{Point, Tap};
use crate::model::weights::{Expert, LayerWeights};
use crate::model::workspace::Workspace;
use crate::ops::matmul::matmul;
use crate::ops::norm;
use crate::ops::packed_matrix::PackedMatrix;
use crate::sampling::math::exp;

#[cfg(test)]
mod tests;

/// The least sum that shares are divided by, as llama.cpp has it: the smallest normal f16.
const LEAST_SUM: f32 = 6.103_515_6e-5;

impl Step<'_> {
    pub(super) fn expert_block<T: Tap>(
        &self,
        layer: &LayerWeights,
        router: &PackedMatrix,
        experts: &[Expert],
        index: usize,
        ws: &mut Workspace,
        tap: &mut T,
    ) {
        let len = self.batch.num_rows() * self.config.hidden_size;
        self.route(layer, router, ws);
        ws.sublayer[..len].fill(0.0);
        for (number, expert) in experts.iter().enumerate() {
            self.add_expert(expert, number, experts.len(), ws);
        }
        let (x, sublayer) = (&mut ws.x[..len], &mut ws.sublayer[..len]);
        tap.rows(Point::FfnOut, index, sublayer);
        self.add_sublayer(x, sublayer, layer.ffn_post_norm.as_ref());
    }

    /// Fills `normed` and `shares`.
    fn route(&self, layer: &LayerWeights, router: &PackedMatrix, ws: &mut Workspace) {
        let (ctx, c, t) = (&self.ctx, self.config, self.batch.num_rows());
        let Workspace { x, before_attention, activations, experts, .. } = ws;
        let (source, norm) = ffn_input(layer, x, before_attention, c.description.may_share_norm);
        let (source, normed) = (&source[..t * c.hidden_size], &mut experts.normed[..t * c.hidden_size]);
        match norm {
            Some(norm) => norm::normalize(ctx, source, &norm.norm(), normed),
            None => normed.copy_from_slice(source),
        }
        let shares = &mut experts.shares[..t * router.n()];
        project(ctx, normed, None, activations, &mut [(router, &mut *shares)]);
        let used = c.description.experts.map_or(0, |experts| experts.used);
        for row in shares.chunks_exact_mut(router.n()) {
            keep_best(row, used);
        }
    }

    /// Adds `share * expert(h)` to the rows that use expert `number` of `count`.
    fn add_expert(&self, expert: &Expert, number: usize, count: usize, ws: &mut Workspace) {
        let (ctx, c, t) = (&self.ctx, self.config, self.batch.num_rows());
        let Workspace { sublayer, gated, up: up_out, activations, experts, .. } = ws;
        let hidden = c.hidden_size;
        let mut members = 0;
        for row in 0..t {
            if experts.shares[row * count + number] != 0.0 {
                experts.rows[members * hidden..][..hidden].copy_from_slice(&experts.normed[row * hidden..][..hidden]);
                experts.members[members] = row as u32;
                members += 1;
            }
        }
        if members == 0 {
            return;
        }
        let rows = &mut experts.rows[..members * hidden];
        let gated = &mut gated[..members * c.intermediate_size];
        let (gate, up) = ((&expert.gate, None), (&expert.up, None));
        self.gated_product((rows, None), gate, up, activations, (gated, up_out));
        activations.prepare(ctx, gated, members, c.intermediate_size, expert.down.ty());
        matmul(ctx, &expert.down, activations, rows);
        for (row, out) in experts.members[..members].iter().zip(rows.chunks_exact(hidden)) {
            let share = experts.shares[*row as usize * count + number];
            let sums = &mut sublayer[*row as usize * hidden..][..hidden];
            sums.iter_mut().zip(out).for_each(|(sum, out)| *sum += share * out);
        }
    }
}

/// Turns a row of router logits into shares: the softmax, of which the `used` largest stay, scaled to a sum of 1. Of
/// equal ones the first stay. A share that underflows to 0 is that of an expert the row does not use.
fn keep_best(row: &mut [f32], used: usize) {
    let max = row.iter().fold(f32::NEG_INFINITY, |max, logit| max.max(*logit));
    let mut sum = 0.0f64;
    for logit in row.iter_mut() {
        let weight = exp(f64::from(*logit) - f64::from(max));
        sum += weight;
        *logit = weight as f32;
    }
    // Also where no logit was finite: what follows compares shares.
    if !sum.is_finite() {
        return row.fill(f32::NAN);
    }
    row.iter_mut().for_each(|weight| *weight = (f64::from(*weight) / sum) as f32);
    let mut kept = 0.0f32;
    for _ in 0..used.min(row.len()) {
        // Those chosen are marked by their sign.
        let open = row.iter().enumerate().filter(|(_, share)| share.is_sign_positive());
        let best = open.fold(None, |best: Option<(usize, f32)>, (number, share)| match best {
            Some((_, most)) if most >= *share => best,
            _ => Some((number, *share)),
        });
        if let Some((number, share)) = best {
            kept += share;
            row[number] = -share;
        }
    }
    let divisor = kept.max(LEAST_SUM);
    row.iter_mut().for_each(|share| *share = if share.is_sign_negative() { -*share / divisor } else { 0.0 });
}
