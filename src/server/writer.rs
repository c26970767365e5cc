//! The task of a request: events of the engine in, messages out. It finds stop strings whether or not the client reads.

use super::best_of::{BestOf, TooLarge};
use super::limits::ServerLimits;
use super::open_rpc::OpenRpc;
use super::outbox::{Outbox, Overflow};
use super::proto::{self, FinishReason, Finished, Token, TopToken, Usage};
use super::status;
use crate::engine::handle::Cause;
use crate::engine::handle::EventStream;
use crate::engine::request::{Event, Finish, RequestError, Timings};
use crate::metrics::Metrics;
use crate::text::Detokenizer;
use crate::text::StopStrings;
use crate::text::Tokenizer;
use crate::types::{self, Sampled};
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// How the client wants to see the completion.
pub(super) struct ResponsePlan {
    /// Send token entries.
    pub tokens: bool,
    /// Token entries have log-probabilities.
    pub logprobs: bool,
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
    /// Holds everything back when fewer sequences are returned than are computed.
    best_of: Option<BestOf>,
    outbox: Outbox,
    /// A client that reads nothing for so long is not waited for.
    answer_timeout: Duration,
    open: Option<Arc<OpenRpc>>,
}

/// Why a request cannot be answered further.
enum Stopped {
    Overflow,
    TooLarge(usize),
    Failed(RequestError),
}

impl Stopped {
    fn status(self) -> Status {
        match self {
            Self::Overflow => status::slow_consumer(),
            Self::TooLarge(limit) => status::response_too_large(limit),
            Self::Failed(error) => status::of(&error),
        }
    }
}

impl From<Overflow> for Stopped {
    fn from(_: Overflow) -> Self {
        Self::Overflow
    }
}

impl From<TooLarge> for Stopped {
    fn from(TooLarge(limit): TooLarge) -> Self {
        Self::TooLarge(limit)
    }
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
        let lines = (0..request.best_of).map(|_| line()).collect();
        let choose = || BestOf::new(request.n, request.best_of, request.limits.max_response_bytes);
        let best_of = (request.best_of > request.n).then(choose);
        let fingerprint = request.fingerprint.to_owned();
        let (prompt_tokens, answer_timeout, open) =
            (request.prompt_tokens, request.limits.answer_timeout, request.open.clone());
        Self { tokenizer, metrics, plan, prompt_tokens, fingerprint, lines, best_of, outbox, answer_timeout, open }
    }

    /// Runs until the client has read the end of the request, or does not read it.
    pub async fn run(mut self, mut events: EventStream) {
        let written = self.write(&mut events).await;
        let is_cut = matches!(written, Err(Stopped::Overflow));
        if is_cut {
            self.metrics.slow_consumers.increment(1);
            events.canceller().cancel(Cause::SlowConsumer);
        }
        self.outbox.end(written.err().map(Stopped::status));
        drop(events);
        let Some(open) = &self.open else { return };
        if open.is_closed(self.answer_timeout).await {
            return;
        }
        if !is_cut {
            self.metrics.slow_consumers.increment(1);
        }
        self.outbox.give_up(status::slow_consumer());
        // The transport asks for no end while the stream's window is used up.
        open.close();
    }

    async fn write(&mut self, events: &mut EventStream) -> Result<(), Stopped> {
        while let Some(event) = events.recv().await {
            match event {
                Event::Token { index, sampled, finish, timings, cached_tokens } => {
                    self.token(events, index, &sampled, finish, (timings, cached_tokens))?;
                }
                Event::Failed(error) => return Err(Stopped::Failed(error)),
            }
        }
        if let Some(best_of) = self.best_of.take() {
            best_of.send(&self.outbox);
        }
        Ok(())
    }

    fn token(
        &mut self,
        events: &mut EventStream,
        index: u32,
        sampled: &Sampled,
        finish: Option<Finish>,
        facts: (Timings, u32),
    ) -> Result<(), Stopped> {
        let tokens = if self.plan.tokens { vec![self.entry(sampled)] } else { Vec::new() };
        let Some(line) = self.lines.get_mut(index as usize) else { return Ok(()) };
        line.completion_tokens += 1;
        let silent = finish.is_some_and(|f| f.by_stop_token) && !self.plan.include_stop;
        let bytes = if silent { &[] } else { self.tokenizer.token_bytes(sampled.token) };
        let look = line.completion_tokens >= self.plan.min_tokens;
        let (text, stop_match) = line.advance(bytes, look, finish.is_some());
        if let Some(best_of) = &mut self.best_of {
            best_of.push(index, &text, tokens, sampled.logprob.unwrap_or(f32::NEG_INFINITY))?;
        } else if !text.is_empty() || !tokens.is_empty() {
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
        self.finished(index, ending, facts);
        Ok(())
    }

    fn finished(&mut self, index: u32, ending: Ending, (timings, cached_tokens): (Timings, u32)) {
        let completion_tokens = self.lines.get(index as usize).map_or(0, |line| line.completion_tokens);
        let finished = Finished {
            index,
            reason: reason(ending.reason).into(),
            stop_match: ending.stop_match,
            usage: Some(Usage { prompt_tokens: self.prompt_tokens, cached_tokens, completion_tokens }),
            timings: Some(proto::Timings {
                queue_ms: timings.queue_ms,
                prefill_ms: timings.prefill_ms,
                decode_ms: timings.decode_ms,
            }),
            system_fingerprint: self.fingerprint.clone(),
            stop_token_id: ending.stop_token_id,
        };
        match &mut self.best_of {
            Some(best_of) => best_of.finish(finished),
            None => self.outbox.finish(finished),
        }
    }

    fn entry(&self, sampled: &Sampled) -> Token {
        let bytes = |id| self.tokenizer.token_bytes(id).to_vec();
        let top = sampled.top.iter().map(|t| TopToken { id: t.token, bytes: bytes(t.token), logprob: t.logprob });
        let logprob = sampled.logprob.filter(|_| self.plan.logprobs);
        Token { id: sampled.token, bytes: bytes(sampled.token), logprob, top: top.collect() }
    }
}

/// What the writer must know of a request.
pub(super) struct RequestFacts<'a> {
    /// Sequences that are returned, of those that are computed.
    pub n: u32,
    pub best_of: u32,
    pub prompt_tokens: u32,
    pub fingerprint: &'a str,
    pub limits: &'a ServerLimits,
    pub open: Option<Arc<OpenRpc>>,
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
