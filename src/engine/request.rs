//! What goes into the engine and what comes back, as plain values.

use crate::sampling::params::SequenceParams;
pub use crate::types::Finish;
use crate::types::{CacheDomain, Sampled, TokenId, Turn};
use std::sync::Arc;
use std::time::Instant;

/// A validated request: what [`super::handle::EngineHandle::submit`] takes.
#[derive(Clone, Debug, Default)]
pub struct NewRequest {
    /// Unique among the requests in flight.
    pub request_id: String,
    /// At least one token, all within the vocabulary, and shorter than the context.
    pub prompt: Arc<[TokenId]>,
    pub params: Arc<SequenceParams>,
    /// Independent continuations, `1 ..= 128`; sequence index is `0 .. n`. The prompt is computed once for those that
    /// find a place then.
    pub n: u32,
    /// With whom it shares cached prefixes; `None`: the prefix cache is neither read nor written.
    pub domain: Option<CacheDomain>,
    /// Whose it is: tenants share the engine. Empty for who does not say.
    pub tenant: Arc<str>,
    /// Among the tenant's own requests a higher one goes first.
    pub priority: i32,
    /// Of the whole stream.
    pub deadline: Option<Instant>,
}

/// One sequence as the synchronous engine takes it, or `n` of one prompt.
#[derive(Clone, Debug)]
pub struct NewSequence {
    pub prompt: Arc<[TokenId]>,
    pub params: Arc<SequenceParams>,
    /// Which of the request's sequences: part of the key of the random stream. The others have those that follow.
    pub index: u32,
    /// Sequences that begin with the prompt, at least 1.
    pub n: u32,
    /// As in [`NewRequest`].
    pub domain: Option<CacheDomain>,
    pub turn: Turn,
}

impl NewSequence {
    /// One sequence that does without the prefix cache.
    pub fn new(prompt: Arc<[TokenId]>, params: Arc<SequenceParams>) -> Self {
        Self { prompt, params, index: 0, n: 1, domain: None, turn: Turn::default() }
    }
}

/// What a request's stream carries. After `finish` of every sequence, or after `Failed`, nothing follows (LAW-2).
#[derive(Clone, Debug)]
pub enum Event {
    /// `cached_tokens` of the prompt came from the prefix cache.
    Token {
        index: u32,
        sampled: Sampled,
        finish: Option<Finish>,
        timings: Timings,
        cached_tokens: u32,
    },
    Failed(RequestError),
}

/// Milliseconds since the sequence was submitted, split at its first scheduling and its first token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    pub queue_ms: f64,
    pub prefill_ms: f64,
    pub decode_ms: f64,
}

/// Where a request was when it was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Queue,
    Prefill,
    Decode,
}

impl Stage {
    /// The label used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// Why a request ended without a result. The server maps each to a gRPC status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("request queue is full")]
    QueueFull { retry_after_ms: u64 },
    #[error("the tenant has its share of the queue")]
    Quota { retry_after_ms: u64 },
    #[error("the deadline passes before the queue is worked off")]
    DeadlineUnmeetable { retry_after_ms: u64 },
    #[error("request id is already in flight")]
    DuplicateId,
    #[error("server is draining")]
    Draining,
    #[error("the prompt has {prompt_tokens} tokens, the context holds {limit} with at least one generated token")]
    ContextExceeded { prompt_tokens: u64, limit: u32 },
    #[error("prompt and max_tokens need {needed} KV blocks, the pool has {available}")]
    KvCapacity { needed: u64, available: u64 },
    #[error("deadline passed in {0:?}")]
    DeadlineExceeded(Stage),
    #[error("aborted")]
    Aborted,
    #[error("the client reads too slowly")]
    SlowConsumer,
    #[error("logits are not finite")]
    NonFiniteLogits,
    #[error("logit_bias and min_tokens leave no token to choose")]
    AllMasked,
    #[error("a panic ended the sequence")]
    SequencePanic,
    #[error("the engine failed")]
    EngineFault,
    #[error("the engine restarted before the request began")]
    EngineRestart,
}
