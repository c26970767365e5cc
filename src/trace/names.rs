//! The tensors of a trace: their names, checkpoints and shapes, in the order in which a forward pass makes them.

/// A named tensor. The order is that of the pipeline within a layer; what has no layer comes after all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    AttnNorm,
    Q,
    K,
    V,
    QNorm,
    KNorm,
    QRope,
    KRope,
    KCache,
    VCache,
    Scores,
    AttnOut,
    FfnOut,
    BlockOut,
    Logits,
    SelectedLogits,
    Argmax,
    Probabilities,
    Tokens,
}

/// What a shape is made of. `T` are the positions computed, `n` the generated tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `[T, hidden]`
    Hidden,
    /// `[T, heads * head_dim]`
    Heads,
    /// `[T, kv_heads * head_dim]`
    KvHeads,
    /// `[T, heads, T]`
    Scores,
    /// `[T, vocab]`
    Logits,
    /// `[n, vocab]`
    Selected,
    /// `[n]` of i32
    Ids,
}

impl Name {
    /// Every name, in order.
    pub const ALL: [Self; 19] = [
        Self::AttnNorm,
        Self::Q,
        Self::K,
        Self::V,
        Self::QNorm,
        Self::KNorm,
        Self::QRope,
        Self::KRope,
        Self::KCache,
        Self::VCache,
        Self::Scores,
        Self::AttnOut,
        Self::FfnOut,
        Self::BlockOut,
        Self::Logits,
        Self::SelectedLogits,
        Self::Argmax,
        Self::Probabilities,
        Self::Tokens,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttnNorm => "attn_norm",
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::QNorm => "q_norm",
            Self::KNorm => "k_norm",
            Self::QRope => "q_rope",
            Self::KRope => "k_rope",
            Self::KCache => "k_cache",
            Self::VCache => "v_cache",
            Self::Scores => "scores",
            Self::AttnOut => "attn_out",
            Self::FfnOut => "ffn_out",
            Self::BlockOut => "block_out",
            Self::Logits => "logits",
            Self::SelectedLogits => "selected_logits",
            Self::Argmax => "argmax",
            Self::Probabilities => "probabilities",
            Self::Tokens => "tokens",
        }
    }

    /// The name spelt `text`.
    pub fn find(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }

    /// 1 to 12.
    pub fn checkpoint(self) -> u8 {
        match self {
            Self::AttnNorm => 1,
            Self::Q | Self::K | Self::V => 2,
            Self::QNorm | Self::KNorm | Self::QRope | Self::KRope | Self::KCache | Self::VCache => 3,
            Self::Scores => 4,
            Self::AttnOut => 5,
            Self::FfnOut => 6,
            Self::BlockOut => 7,
            Self::Logits => 8,
            Self::SelectedLogits => 9,
            Self::Argmax => 10,
            Self::Probabilities => 11,
            Self::Tokens => 12,
        }
    }

    /// Whether there is one in every layer.
    pub fn is_of_a_layer(self) -> bool {
        self < Self::Logits
    }

    pub fn shape(self) -> Shape {
        match self {
            Self::AttnNorm | Self::AttnOut | Self::FfnOut | Self::BlockOut => Shape::Hidden,
            Self::Q | Self::QNorm | Self::QRope => Shape::Heads,
            Self::K | Self::V | Self::KNorm | Self::KRope | Self::KCache | Self::VCache => Shape::KvHeads,
            Self::Scores => Shape::Scores,
            Self::Logits => Shape::Logits,
            Self::SelectedLogits | Self::Probabilities => Shape::Selected,
            Self::Argmax | Self::Tokens => Shape::Ids,
        }
    }

    /// `q.3.npy` for layer 3, `logits.npy` for what has no layer.
    pub fn file(self, layer: Option<usize>) -> String {
        match layer {
            Some(layer) => format!("{}.{layer}.npy", self.as_str()),
            None => format!("{}.npy", self.as_str()),
        }
    }
}
