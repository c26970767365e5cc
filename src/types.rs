//! Values that cross module borders. Plain data: no IO, no threads, no clock.

/// Index into the model's vocabulary, `0 .. vocab_size`.
pub type TokenId = u32;

/// One sequence the engine advances. A request with `n = 3` is three sequences. Unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

/// A block of the KV-cache pool: `block_size` token places in every layer. `0 .. num_blocks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// One token's place in the pool: `block_id * block_size + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// Why a sequence ended well. Errors and cancellations are not finish reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-generation token, a stop token or a stop string.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The sequence filled the model's context.
    ContextLimit,
}

impl FinishReason {
    /// The label used in metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContextLimit => "context_limit",
        }
    }
}

/// A token with the model's own log-probability (natural log, before any logits processor).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    pub token: TokenId,
    pub logprob: f32,
}

/// What sampling chose for one row of logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    pub token: TokenId,
    /// Log-probability of `token`; present when the sequence asked for log-probabilities.
    pub logprob: Option<f32>,
    /// The most likely tokens, best first; empty unless asked for.
    pub top: Vec<TokenLogprob>,
}
