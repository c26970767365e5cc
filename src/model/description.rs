//! What tells one decoder architecture from another, as a value.
//!
//! Every architecture is the same sequence of shared blocks; a [`Description`] says which variant of each block it
//! takes. [`crate::model::architecture`] has one small file for each.
//!
//! ```text
//! x = embedding[token] * embedding_scale  (+ position embedding)
//! for each layer:
//!     h = attn_norm(x) ;  q, k, v = W h + b ;  qk_norm ;  rotate ;  write k, v
//!     x += residual_scale * attn_post_norm(Wo attention(q, cache) + bo)
//!     h = ffn_norm(x)
//!     x += residual_scale * ffn_post_norm(Wdown (act(Wgate h) * (Wup h)) + b)     gated
//!                                         Wdown act(Wup h + b) + b                plain
//!                                         sum of the best experts' gated layers   experts
//! logits = soft_cap(logit_scale * Whead output_norm(x))
//! ```

use crate::ops::activation::Activation;
use crate::ops::norm::NormKind;
use crate::ops::rope::Pairing;

/// How a layer knows where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Q and K are rotated.
    Rotary(Pairing),
    /// A table `position_embd.weight` `[context, hidden]` is added to the embedding.
    Learned,
    /// It does not (Granite files that switch the rotation off).
    None,
}

/// The norm of Q and K between projection and rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// Of each head by itself; the weights are `[head_dim]`.
    Head,
    /// Of each head by itself with weights of its own, `[heads, head_dim]`, where the file has them.
    EachHead,
    /// Of the whole projection; the weights are `[heads * head_dim]`.
    Projection,
}

/// Where the norms of a sublayer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// In front of it.
    Before,
    /// Behind it, before the residual sum.
    After,
    /// On both sides.
    Around,
}

impl NormPlacement {
    pub fn has_before(self) -> bool {
        self != Self::After
    }

    pub fn has_after(self) -> bool {
        self != Self::Before
    }
}

/// Layers that see only the last positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Positions seen, the row's own included.
    pub size: u32,
    /// `[layers]` which layers.
    pub layers: Vec<bool>,
    /// Base of the rotation in these layers, which no scaling changes; as in the others where `None`.
    pub rope_theta: Option<f32>,
}

/// The expert layers of a mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    pub count: usize,
    /// Experts that a token goes through.
    pub used: usize,
    /// Inner width of an expert.
    pub intermediate_size: usize,
}

/// The variants of an architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    pub norm: NormKind,
    pub placement: NormPlacement,
    pub positions: Positions,
    pub qk_norm: QkNorm,
    pub activation: Activation,
    /// Whether the feed-forward layer multiplies the activated gate with the up projection.
    pub gated: bool,
    /// Whether Q, K and V must be one matrix; otherwise they are what the file has.
    pub needs_fused_qkv: bool,
    /// Whether every projection of a layer must have its bias. Biases that a file has are used in any case.
    pub needs_biases: bool,
    /// Whether a layer without `ffn_norm` is one whose feed-forward layer reads what attention reads.
    pub may_share_norm: bool,
    pub experts: Option<Experts>,
    pub embedding_scale: f32,
    /// Factor of a sublayer's output.
    pub residual_scale: f32,
    pub logit_scale: f32,
    /// Factor of the scores; `1 / sqrt(head_dim)` where `None`.
    pub attention_scale: Option<f32>,
    /// Cap of the scores.
    pub attention_soft_cap: Option<f32>,
    /// Cap of the logits.
    pub logit_soft_cap: Option<f32>,
    pub window: Option<Window>,
}

impl Default for Description {
    /// Llama: RMSNorm in front, adjacent rotary pairs, SwiGLU, no scales.
    fn default() -> Self {
        Self {
            norm: NormKind::Rms,
            placement: NormPlacement::Before,
            positions: Positions::Rotary(Pairing::Adjacent),
            qk_norm: QkNorm::None,
            activation: Activation::Silu,
            gated: true,
            needs_fused_qkv: false,
            needs_biases: false,
            may_share_norm: false,
            experts: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            attention_scale: None,
            attention_soft_cap: None,
            logit_soft_cap: None,
            window: None,
        }
    }
}

impl Description {
    /// The window of a layer, `None` where it sees everything.
    pub fn window_of(&self, layer: usize) -> Option<u32> {
        let window = self.window.as_ref()?;
        window.layers.get(layer).copied().unwrap_or(false).then_some(window.size)
    }
}
