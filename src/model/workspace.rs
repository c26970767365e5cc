//! Every buffer of a forward pass, allocated once for the largest step.

use crate::model::config::ModelConfig;
use crate::ops::activations::Activations;

/// The buffers. `T` is the step's rows, at most `max_rows`; `R` its sampling rows, at most `max_logits_rows`.
pub struct Workspace {
    pub max_rows: usize,
    pub max_logits_rows: usize,
    /// `[T, hidden]` the residual stream.
    pub x: Vec<f32>,
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
    /// `[R, hidden]` the rows that sample.
    pub last: Vec<f32>,
    /// `[R, vocab]`
    pub logits: Vec<f32>,
    /// The input of the current projection as integer weights want it.
    pub activations: Activations,
}

impl Workspace {
    pub fn new(c: &ModelConfig, vocab_size: usize, max_rows: usize, max_logits_rows: usize) -> Self {
        let rows = |width: usize| vec![0.0; max_rows * width];
        let widest = c.hidden_size.max(c.intermediate_size).max(c.q_dim());
        Self {
            max_rows,
            max_logits_rows,
            x: rows(c.hidden_size),
            q: rows(c.q_dim()),
            k: rows(c.kv_dim()),
            v: rows(c.kv_dim()),
            attended: rows(c.q_dim()),
            gated: rows(c.intermediate_size),
            up: rows(c.intermediate_size),
            cos_sin: rows(c.rope_dim),
            last: vec![0.0; max_logits_rows * c.hidden_size],
            logits: vec![0.0; max_logits_rows * vocab_size],
            activations: Activations::new(max_rows.max(max_logits_rows), widest),
        }
    }

    /// Bytes a workspace of these sizes takes, for the memory plan.
    pub fn bytes(c: &ModelConfig, vocab_size: usize, max_rows: usize, max_logits_rows: usize) -> u64 {
        let row = c.hidden_size + 2 * c.q_dim() + 2 * c.kv_dim() + 2 * c.intermediate_size + c.rope_dim;
        let widest = c.hidden_size.max(c.intermediate_size).max(c.q_dim());
        let activations = Activations::planned_bytes(max_rows.max(max_logits_rows), widest);
        4 * (max_rows as u64 * row as u64 + max_logits_rows as u64 * (c.hidden_size + vocab_size) as u64) + activations
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::rope::RopeScaling;

    #[test]
    fn the_planned_bytes_are_those_allocated() {
        let c = ModelConfig {
            architecture: "llama".into(),
            name: "test".into(),
            context_length: 64,
            num_layers: 1,
            hidden_size: 70,
            intermediate_size: 171,
            num_heads: 5,
            num_kv_heads: 1,
            head_dim: 20,
            rope_dim: 18,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::None,
            rms_norm_eps: 1e-5,
        };
        for (max_rows, max_logits_rows) in [(1, 1), (13, 4), (48, 48), (5, 9)] {
            let ws = Workspace::new(&c, 301, max_rows, max_logits_rows);
            let buffers =
                [&ws.x, &ws.q, &ws.k, &ws.v, &ws.attended, &ws.gated, &ws.up, &ws.cos_sin, &ws.last, &ws.logits];
            let floats: usize = buffers.iter().map(|buffer| buffer.len()).sum();
            let allocated = (4 * floats) as u64 + ws.activations.bytes();
            assert_eq!(Workspace::bytes(&c, 301, max_rows, max_logits_rows), allocated, "{max_rows} {max_logits_rows}");
        }
    }
}
