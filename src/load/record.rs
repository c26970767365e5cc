//! What happened to one request. Times are seconds since the start of the run.

use super::workload::PlannedRequest;
use crate::types::TokenId;

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Completed,
    /// Cancelled by us, as planned.
    Cancelled,
    /// The status and, where there is one, its reason: `RESOURCE_EXHAUSTED/QUEUE_FULL`, `HTTP 503`.
    Failed(String),
}

/// Failures that are the client's own: it closed the stream.
pub(super) const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED/CLIENT";
pub(super) const TOO_LONG: &str = "TOO_LONG";

/// A message that brought tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chunk {
    pub at: f64,
    pub tokens: u32,
}

/// One request, from intention to end.
#[derive(Clone, Debug)]
pub struct Record {
    /// Position in the plan.
    pub index: usize,
    /// When it was to be sent: by the schedule of an open loop, when its turn came in a closed one.
    pub intended: f64,
    pub sent: f64,
    pub chunks: Vec<Chunk>,
    pub ended: f64,
    pub prompt_tokens: u32,
    /// Tokens asked for.
    pub gen_tokens: u32,
    /// Tokens generated, as the server says at the end.
    pub usage_tokens: Option<u32>,
    pub outcome: Outcome,
    /// What was said of a failure; may be empty.
    pub message: String,
    pub token_ids: Vec<TokenId>,
    pub text: String,
}

/// Places for chunks made beforehand, so that receiving seldom allocates: what is asked for may be any number.
const MAX_RESERVED: u32 = 4096;

impl Record {
    /// Request number `index` of a plan, due at `intended`, of which nothing is known yet.
    pub fn new(index: usize, intended: f64, planned: &PlannedRequest) -> Self {
        Self {
            index,
            intended,
            sent: intended,
            chunks: Vec::with_capacity(planned.gen_tokens.min(MAX_RESERVED) as usize),
            ended: intended,
            prompt_tokens: planned.prompt.len() as u32,
            gen_tokens: planned.gen_tokens,
            usage_tokens: None,
            outcome: Outcome::Completed,
            message: String::new(),
            token_ids: Vec::new(),
            text: String::new(),
        }
    }

    pub fn completed(&self) -> bool {
        self.outcome == Outcome::Completed
    }

    /// The server had no room for it.
    pub fn refused(&self) -> bool {
        let is_exhausted = |error: &str| error.starts_with("RESOURCE_EXHAUSTED") || error == "HTTP 429";
        self.chunks.is_empty() && matches!(&self.outcome, Outcome::Failed(error) if is_exhausted(error))
    }

    /// Tokens generated: as the server counted them, or else as they came.
    pub fn output_tokens(&self) -> u64 {
        self.usage_tokens.map_or_else(|| self.shown_tokens(), u64::from)
    }

    /// Tokens in the messages.
    pub fn shown_tokens(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.tokens)).sum()
    }

    /// From the intended sending to the first token.
    pub fn ttft(&self) -> Option<f64> {
        self.chunks.first().map(|chunk| chunk.at - self.intended)
    }

    /// Time per token after those of the first message; None where no second message tells it.
    pub fn tpot(&self) -> Option<f64> {
        let [first, .., last] = &self.chunks[..] else { return None };
        let later = self.output_tokens().saturating_sub(u64::from(first.tokens));
        (later > 0).then(|| (last.at - first.at) / later as f64)
    }

    /// Between two messages with tokens: what a reader waits.
    pub fn gaps(&self) -> impl Iterator<Item = f64> + '_ {
        self.chunks.windows(2).map(|pair| pair[1].at - pair[0].at)
    }

    /// The longest wait after the first token.
    pub fn worst_gap(&self) -> Option<f64> {
        self.gaps().reduce(f64::max)
    }

    /// From the intended sending to the end.
    pub fn e2e(&self) -> f64 {
        self.ended - self.intended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_counts_from_the_intended_time() {
        let chunk = |at, tokens| Chunk { at, tokens };
        let record = Record {
            index: 0,
            intended: 1.0,
            sent: 3.0,
            chunks: vec![chunk(4.0, 2), chunk(4.5, 1), chunk(6.0, 3)],
            ended: 7.0,
            prompt_tokens: 5,
            gen_tokens: 6,
            usage_tokens: None,
            outcome: Outcome::Completed,
            message: String::new(),
            token_ids: Vec::new(),
            text: String::new(),
        };
        assert_eq!((record.ttft(), record.e2e()), (Some(3.0), 6.0));
        assert_eq!((record.tpot(), record.worst_gap(), record.output_tokens()), (Some(0.5), Some(1.5), 6));
        assert_eq!(record.gaps().collect::<Vec<_>>(), [0.5, 1.5]);
        let counted = Record { usage_tokens: Some(8), ..record.clone() };
        assert_eq!((counted.output_tokens(), counted.shown_tokens()), (8, 6));
        assert_eq!(counted.tpot(), Some(2.0 / 6.0));
        let one = Record { chunks: vec![chunk(4.0, 1)], ..record.clone() };
        assert_eq!((one.ttft(), one.tpot(), one.worst_gap()), (Some(3.0), None, None));
        // All text in one message, whose tokens the server alone has counted.
        let whole = Record { usage_tokens: Some(6), ..one };
        assert_eq!((whole.output_tokens(), whole.tpot()), (6, None));
        let full = Outcome::Failed("RESOURCE_EXHAUSTED/QUEUE_FULL".into());
        let refused = Record { chunks: Vec::new(), outcome: full, ..record.clone() };
        assert!(refused.refused() && !Record { chunks: record.chunks.clone(), ..refused }.refused());
        assert_eq!(Record { chunks: Vec::new(), ..record }.ttft(), None);
    }
}
