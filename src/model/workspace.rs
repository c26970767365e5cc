//! Every buffer of a forward pass, allocated once for the largest step.

use crate::model::config::ModelConfig;
use crate::ops::activations::Activations;

/// The buffers. `T` is the step's rows, at most `max_rows`; `R` its sampling rows, at most `max_logits_rows`.
pub struct Workspace {
    pub max_rows: usize,
    pub max_logits_rows: usize,
    /// `[T, hidden]` the residual stream.
    pub x: Vec<f32>,
    /// `[T, hidden]` what a sublayer adds to it, where that is not added by the product itself.
    pub sublayer: Vec<f32>,
    /// `[T, hidden]` the stream before attention, in models whose sublayers may read one norm.
    pub before_attention: Vec<f32>,
    /// `[T, num_heads * head_dim]`
    pub q: Vec<f32>,
    /// `[T, num_kv_heads * head_dim]`
    pub k: Vec<f32>,
    /// `[T, num_kv_heads * head_dim]`
    pub v: Vec<f32>,
    /// `[T, num_heads * head_dim]`
    pub attended: Vec<f32>,
    /// `[T, intermediate]` the input of the down projection.
    pub gated: Vec<f32>,
    /// `[T, intermediate]` where gate and up projection cannot share a run.
    pub up: Vec<f32>,
    /// `[T, rope_dim / 2, 2]` cosine and sine of each row's angles.
    pub cos_sin: Vec<f32>,
    /// The same for layers with a window, where they rotate otherwise.
    pub local_cos_sin: Vec<f32>,
    /// `[R, hidden]` the rows that sample.
    pub last: Vec<f32>,
    /// `[R, vocab]`
    pub logits: Vec<f32>,
    /// The input of the current projection as integer weights want it.
    pub activations: Activations,
    pub experts: ExpertWorkspace,
}

/// Buffers of a mixture of `E` experts; empty in other models.
pub struct ExpertWorkspace {
    /// `[T, hidden]` the normalised input.
    pub normed: Vec<f32>,
    /// `[T, E]` probabilities, of experts that a row does not use 0.
    pub shares: Vec<f32>,
    /// `[M, hidden]` the input and the output of the rows of one expert.
    pub rows: Vec<f32>,
    /// `[M]` which rows.
    pub members: Vec<u32>,
}

/// Elements a row of each buffer has.
struct Widths {
    hidden: usize,
    before_attention: usize,
    q: usize,
    kv: usize,
    intermediate: usize,
    cos_sin: usize,
    local_cos_sin: usize,
    expert_hidden: usize,
    experts: usize,
    /// Of the activations.
    widest: usize,
}

impl Widths {
    fn of(c: &ModelConfig) -> Self {
        let description = &c.description;
        let only_if = |condition: bool, width: usize| if condition { width } else { 0 };
        let has_local_rope = description.window.as_ref().is_some_and(|window| window.rope_theta.is_some());
        Self {
            hidden: c.hidden_size,
            before_attention: only_if(description.may_share_norm, c.hidden_size),
            q: c.q_dim(),
            kv: c.kv_dim(),
            intermediate: c.intermediate_size,
            cos_sin: c.rope_dim,
            local_cos_sin: only_if(has_local_rope, c.rope_dim),
            expert_hidden: only_if(description.experts.is_some(), c.hidden_size),
            experts: description.experts.map_or(0, |experts| experts.count),
            widest: c.hidden_size.max(c.intermediate_size).max(c.q_dim()),
        }
    }

    /// Elements of all buffers of `T` rows; `members` counts as one.
    fn row(&self) -> usize {
        let attention = 2 * self.q + 2 * self.kv + self.cos_sin + self.local_cos_sin;
        let experts = if self.experts > 0 { 2 * self.expert_hidden + self.experts + 1 } else { 0 };
        2 * self.hidden + self.before_attention + attention + 2 * self.intermediate + experts
    }
}

impl Workspace {
    pub fn new(c: &ModelConfig, vocab_size: usize, max_rows: usize, max_logits_rows: usize) -> Self {
        let widths = Widths::of(c);
        let rows = |width: usize| vec![0.0; max_rows * width];
        Self {
            max_rows,
            max_logits_rows,
            x: rows(widths.hidden),
            sublayer: rows(widths.hidden),
            before_attention: rows(widths.before_attention),
            q: rows(widths.q),
            k: rows(widths.kv),
            v: rows(widths.kv),
            attended: rows(widths.q),
            gated: rows(widths.intermediate),
            up: rows(widths.intermediate),
            cos_sin: rows(widths.cos_sin),
            local_cos_sin: rows(widths.local_cos_sin),
            last: vec![0.0; max_logits_rows * widths.hidden],
            logits: vec![0.0; max_logits_rows * vocab_size],
            activations: Activations::new(max_rows.max(max_logits_rows), widths.widest),
            experts: ExpertWorkspace {
                normed: rows(widths.expert_hidden),
                shares: rows(widths.experts),
                rows: rows(widths.expert_hidden),
                members: vec![0; if widths.experts > 0 { max_rows } else { 0 }],
            },
        }
    }

    /// Bytes a workspace of these sizes takes, for the memory plan.
    pub fn bytes(c: &ModelConfig, vocab_size: usize, max_rows: usize, max_logits_rows: usize) -> u64 {
        let widths = Widths::of(c);
        let activations = Activations::planned_bytes(max_rows.max(max_logits_rows), widths.widest);
        let floats =
            max_rows as u64 * widths.row() as u64 + max_logits_rows as u64 * (widths.hidden as u64 + vocab_size as u64);
        4 * floats + activations
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::ModelFile;
    use crate::gguf::test_model::TestModel;

    /// What the buffers of a workspace take.
    fn allocated(ws: &Workspace) -> u64 {
        let experts = &ws.experts;
        let buffers = [
            &ws.x,
            &ws.sublayer,
            &ws.before_attention,
            &ws.q,
            &ws.k,
            &ws.v,
            &ws.attended,
            &ws.gated,
            &ws.up,
            &ws.cos_sin,
            &ws.local_cos_sin,
            &ws.last,
            &ws.logits,
            &experts.normed,
            &experts.shares,
            &experts.rows,
        ];
        let floats: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        4 * (floats + experts.members.len()) as u64 + ws.activations.bytes()
    }

    #[test]
    fn the_planned_bytes_are_those_allocated() {
        let plain = TestModel::default();
        let mixture = plain.clone().with_key("llama.expert_count", 4u32).with_key("llama.expert_used_count", 2u32);
        for model in [plain, mixture] {
            let file = ModelFile::from_bytes(model.build()).unwrap();
            let mut c = ModelConfig::from_metadata(file.metadata()).unwrap();
            (c.hidden_size, c.intermediate_size, c.rope_dim) = (70, 171, 18);
            for may_share_norm in [false, true] {
                c.description.may_share_norm = may_share_norm;
                for (max_rows, max_logits_rows) in [(1, 1), (13, 4), (48, 48), (5, 9)] {
                    let ws = Workspace::new(&c, 301, max_rows, max_logits_rows);
                    let planned = Workspace::bytes(&c, 301, max_rows, max_logits_rows);
                    assert_eq!(planned, allocated(&ws), "{max_rows} {max_logits_rows}");
                }
            }
        }
    }
}
