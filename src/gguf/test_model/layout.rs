//! Which tensors the blocks of an architecture have, in llama.cpp's names.

/// The tensors of a block beside the weights of attention and feed-forward network. [`Layout::LLAMA`] is the plainest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// LayerNorm, with biases, in place of RMSNorm.
    pub layer_norm: bool,
    /// `attn_norm`: a norm before attention.
    pub attn_norm: bool,
    /// `ffn_norm`: a norm before the feed-forward network.
    pub ffn_norm: bool,
    /// `post_attention_norm` and `post_ffw_norm`: norms of what is added to the residual stream.
    pub post_norms: bool,
    pub qk_norm: QkNorm,
    /// `attn_qkv`, rows of queries, then keys, then values, in place of three matrices.
    pub fused_qkv: bool,
    /// Biases of the projections to queries, keys and values.
    pub qkv_bias: bool,
    /// Bias of the attention's output projection.
    pub output_bias: bool,
    pub feed_forward: FeedForward,
    /// Biases of the feed-forward network.
    pub ffn_bias: bool,
    /// `position_embd`, a row for each position of the context, in place of rotation.
    pub position_table: bool,
}

/// The shape of `attn_q_norm` and `attn_k_norm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// `[head_dim]`: one for all heads.
    Shared,
    /// `[heads, head_dim]`: each head has its own.
    PerHead,
    /// `[heads * head_dim]`: over the whole row.
    Row,
}

/// The matrices of the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// `ffn_gate`, `ffn_up`, `ffn_down`.
    Gated,
    /// `ffn_up` of twice the rows, those of the gate first, and `ffn_down`.
    FusedGate,
    /// `ffn_up` and `ffn_down`.
    Plain,
}

impl Layout {
    pub const LLAMA: Self = Self {
        layer_norm: false,
        attn_norm: true,
        ffn_norm: true,
        post_norms: false,
        qk_norm: QkNorm::None,
        fused_qkv: false,
        qkv_bias: false,
        output_bias: false,
        feed_forward: FeedForward::Gated,
        ffn_bias: false,
        position_table: false,
    };

    /// GPT-2: LayerNorm, biases everywhere, no gate, learned positions.
    pub const GPT2: Self = Self { fused_qkv: true, position_table: true, ..Self::STARCODER2 };

    /// StarCoder 2: LayerNorm, biases everywhere, no gate.
    pub const STARCODER2: Self = Self {
        layer_norm: true,
        qkv_bias: true,
        output_bias: true,
        feed_forward: FeedForward::Plain,
        ffn_bias: true,
        ..Self::LLAMA
    };

    /// Phi-3: fused projections.
    pub const PHI3: Self = Self { fused_qkv: true, feed_forward: FeedForward::FusedGate, ..Self::LLAMA };

    /// OLMo 2: norms only behind attention and feed-forward network.
    pub const OLMO2: Self =
        Self { attn_norm: false, ffn_norm: false, post_norms: true, qk_norm: QkNorm::Row, ..Self::LLAMA };
}
