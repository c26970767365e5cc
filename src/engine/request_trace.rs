//! The life of a request as trace events, in a span of its own: `queued`; for each sequence `first_scheduled`,
//! `first_token`, `preempted` (each time) and `finished`; `failed` in place of the ends that are missing.
//!
//! The target is `llorch_cpud::request`, the level `debug`. A filter that leaves them out, as the default does, makes
//! each of them one look at a flag: no argument is evaluated. No text of a prompt or a completion is among the fields.

use super::request::{NewRequest, RequestError, Timings};
use crate::types::FinishReason;
use tracing::{Span, debug, debug_span};

const TARGET: &str = "llorch_cpud::request";

/// The span of a request, open as long as this lives.
#[derive(Debug)]
pub struct RequestTrace(Span);

impl RequestTrace {
    /// Opens the span.
    pub fn open(request: &NewRequest) -> Self {
        Self(debug_span!(
            target: TARGET,
            parent: None,
            "request",
            id = &*request.request_id,
            tenant = &*request.tenant,
            prompt_tokens = request.prompt.len(),
            n = request.n,
        ))
    }

    pub fn queued(&self) {
        debug!(target: TARGET, parent: &self.0, "queued");
    }

    pub fn first_scheduled(&self, index: usize, cached_tokens: u32, timings: &Timings) {
        debug!(target: TARGET, parent: &self.0, index, cached_tokens, queue_ms = timings.queue_ms, "first_scheduled");
    }

    pub fn first_token(&self, index: usize, timings: &Timings) {
        debug!(target: TARGET, parent: &self.0, index, prefill_ms = timings.prefill_ms, "first_token");
    }

    pub fn preempted(&self, index: usize) {
        debug!(target: TARGET, parent: &self.0, index, "preempted");
    }

    /// A sequence ended well, with so many tokens.
    pub fn finished(&self, index: usize, reason: FinishReason, tokens: u32, timings: &Timings) {
        let Timings { queue_ms, prefill_ms, decode_ms } = *timings;
        let reason = reason.as_str();
        debug!(target: TARGET, parent: &self.0, index, reason, tokens, queue_ms, prefill_ms, decode_ms, "finished");
    }

    /// The request ended with an error, and with it the sequences that had not ended.
    pub fn failed(&self, error: &RequestError) {
        debug!(target: TARGET, parent: &self.0, %error, "failed");
    }
}
