//! The task of a request: events of the engine in, messages out. It finds stop strings whether or not the client reads.

use super::outbox::{Outbox, Overflow};
use super::proto::{self, FinishReason, Finished, Token, TopToken, Usage};
use super::status;
use crate::engine::handle::Cause;
use crate::engine::handle::EventStream;
use crate::engine::request::{Event, Finish, Timings};
use crate::metrics::Metrics;
use crate::text::Detokenizer;
use crate::text::StopStrings;
use crate::text::Tokenizer;
use crate::types::{self, Sampled};
use std::sync::Arc;

/// How the client wants to see the completion.
pub(super) struct ResponsePlan {
    /// Send token entries.
    pub tokens: bool,
    pub include_stop: bool,
    /// Stop strings are not looked for before so many tokens.
    pub min_tokens: u32,
    pub stops: StopStrings,
}

/// One sequence's text.
struct Line {
    detokenizer: Detokenizer,
    stops: StopStrings,
    completion_tokens: u32,
}

/// Turns the events of one request into messages.
pub(super) struct Writer {
    tokenizer: Arc<Tokenizer>,
    metrics: Arc<Metrics>,
    plan: ResponsePlan,
    prompt_tokens: u32,
    fingerprint: String,
    lines: Vec<Line>,
    outbox: Outbox,
}

/// How a sequence ended, for its last message.
struct Ending {
    reason: types::FinishReason,
    stop_match: Option<String>,
    stop_token_id: Option<u32>,
}

impl Writer {
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        metrics: Arc<Metrics>,
        plan: ResponsePlan,
        request: &RequestFacts<'_>,
        outbox: Outbox,
    ) -> Self {
        let line = || Line { detokenizer: Detokenizer::new(), stops: plan.stops.clone(), completion_tokens: 0 };
        let lines = (0..request.n).map(|_| line()).collect();
        let fingerprint = request.fingerprint.to_owned();
        Self { tokenizer, metrics, plan, prompt_tokens: request.prompt_tokens, fingerprint, lines, outbox }
    }

    /// Runs to the end of the request.
    pub async fn run(mut self, mut events: EventStream) {
        while let Some(event) = events.recv().await {
            let written = match event {
                Event::Token { index, sampled, finish, timings } => {
                    self.token(&mut events, index, &sampled, finish, timings)
                }
                Event::Failed(error) => {
                    self.outbox.end(Some(status::of(&error)));
                    return;
                }
            };
            if written.is_err() {
                self.metrics.slow_consumers.increment(1);
                events.canceller().cancel(Cause::SlowConsumer);
                self.outbox.end(Some(status::slow_consumer()));
                return;
            }
        }
        self.outbox.end(None);
    }

    fn token(
        &mut self,
        events: &mut EventStream,
        index: u32,
        sampled: &Sampled,
        finish: Option<Finish>,
        timings: Timings,
    ) -> Result<(), Overflow> {
        let tokens = if self.plan.tokens { vec![self.entry(sampled)] } else { Vec::new() };
        let Some(line) = self.lines.get_mut(index as usize) else { return Ok(()) };
        line.completion_tokens += 1;
        let silent = finish.is_some_and(|f| f.by_stop_token) && !self.plan.include_stop;
        let bytes = if silent { &[] } else { self.tokenizer.token_bytes(sampled.token) };
        let look = line.completion_tokens >= self.plan.min_tokens;
        let (text, stop_match) = line.advance(bytes, look, finish.is_some());
        if !text.is_empty() || !tokens.is_empty() {
            self.outbox.push_delta(index, &text, tokens)?;
        }
        let ending = match (stop_match, finish) {
            (Some(stop), _) => {
                if finish.is_none() {
                    events.finish(index);
                }
                Ending { reason: types::FinishReason::Stop, stop_match: Some(stop), stop_token_id: None }
            }
            (None, Some(finish)) => {
                let stop_token_id = finish.by_stop_token.then_some(sampled.token);
                Ending { reason: finish.reason, stop_match: None, stop_token_id }
            }
            (None, None) => return Ok(()),
        };
        self.finished(index, ending, timings);
        Ok(())
    }

    fn finished(&self, index: u32, ending: Ending, timings: Timings) {
        let completion_tokens = self.lines.get(index as usize).map_or(0, |line| line.completion_tokens);
        self.outbox.finish(Finished {
            index,
            reason: reason(ending.reason).into(),
            stop_match: ending.stop_match,
            usage: Some(Usage { prompt_tokens: self.prompt_tokens, cached_tokens: 0, completion_tokens }),
            timings: Some(proto::Timings {
                queue_ms: timings.queue_ms,
                prefill_ms: timings.prefill_ms,
                decode_ms: timings.decode_ms,
            }),
            system_fingerprint: self.fingerprint.clone(),
            stop_token_id: ending.stop_token_id,
        });
    }

    fn entry(&self, sampled: &Sampled) -> Token {
        let bytes = |id| self.tokenizer.token_bytes(id).to_vec();
        let top = sampled.top.iter().map(|t| TopToken { id: t.token, bytes: bytes(t.token), logprob: t.logprob });
        Token { id: sampled.token, bytes: bytes(sampled.token), logprob: sampled.logprob, top: top.collect() }
    }
}

/// What the writer must know of a request.
pub(super) struct RequestFacts<'a> {
    pub n: u32,
    pub prompt_tokens: u32,
    pub fingerprint: &'a str,
}

impl Line {
    /// Adds a token's bytes; returns the text that may be sent and the stop string that was found in it. `look`: stop
    /// strings count. `last`: no token follows, so nothing is held back.
    fn advance(&mut self, bytes: &[u8], look: bool, last: bool) -> (String, Option<String>) {
        let mut delta = self.detokenizer.push(bytes);
        if last {
            delta.push_str(&self.detokenizer.finish());
        }
        if !look {
            return (delta, None);
        }
        let output = self.stops.push(&delta);
        let mut text = output.emit;
        if last && output.matched.is_none() {
            text.push_str(&self.stops.finish());
        }
        (text, output.matched)
    }
}

fn reason(reason: types::FinishReason) -> FinishReason {
    match reason {
        types::FinishReason::Stop => FinishReason::Stop,
        types::FinishReason::Length => FinishReason::Length,
        types::FinishReason::ContextLimit => FinishReason::ContextLimit,
    }
}
