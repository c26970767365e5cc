//! The actor's book of open requests: turns what a step reports into events and measurements.

use super::handle::{EventSender, Submission};
use super::request::{Event, Finish, RequestError, Stage, Timings};
use super::shared::Shared;
use super::ticket::{Cause, Ticket};
use crate::types::{FinishReason, Sampled, SeqId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The part of the shortest time that the rest of a prompt could take, by all that was measured, that must be left to
/// the deadline of a request: with less it ends at once. Below 1, since the next step may be the fastest of all.
const LEAST_PART: f64 = 0.5;

/// One sequence of an open request.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    ended: bool,
    first_step: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    generated: u32,
    cached_tokens: u32,
}

impl Line {
    fn stage(&self) -> Stage {
        match (self.first_step, self.first_token) {
            (_, Some(_)) => Stage::Decode,
            (Some(_), None) => Stage::Prefill,
            (None, None) => Stage::Queue,
        }
    }

    fn timings(&self, submitted: Instant) -> Timings {
        let ms = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from).as_secs_f64() * 1e3,
            _ => 0.0,
        };
        Timings {
            queue_ms: ms(Some(submitted), self.first_step),
            prefill_ms: ms(self.first_step, self.first_token),
            decode_ms: ms(self.first_token, self.last_token),
        }
    }
}

/// A request with sequences that have not ended.
struct Open {
    ticket: Arc<Ticket>,
    events: EventSender,
    lines: Vec<Line>,
    /// Prompt tokens that are still to be computed for sure; 0 once there is a token.
    pending: u32,
    /// When its deadline is to be looked at.
    due: Option<Instant>,
}

impl Open {
    fn send(&self, event: Event) {
        if !self.events.send(event) {
            self.ticket.cancel(Cause::SlowConsumer);
        }
    }

    fn is_done(&self) -> bool {
        self.lines.iter().all(|line| line.ended)
    }
}

/// Open requests, keyed by the id of their first sequence: the ids of a request follow each other.
pub(super) struct Delivery {
    requests: BTreeMap<u64, Open>,
    /// Requests with a deadline, the next to be looked at first: [`Open::due`] and the key.
    due: BTreeSet<(Instant, u64)>,
    num_not_started: u32,
    /// Who rang. Its memory is used again.
    rung: Vec<u64>,
    shared: Arc<Shared>,
}

impl Delivery {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { requests: BTreeMap::new(), due: BTreeSet::new(), num_not_started: 0, rung: Vec::new(), shared }
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Sequences that have not run yet.
    pub fn num_not_started(&self) -> u32 {
        self.num_not_started
    }

    /// Opens a request.
    pub fn open(&mut self, submission: Submission) {
        let Submission { ticket, events, request } = submission;
        let lines = vec![Line::default(); ticket.claim.n as usize];
        self.num_not_started += ticket.claim.n;
        // What the prefix cache has of a prompt is known when it begins.
        let pending = if request.domain.is_none() { ticket.claim.prompt_tokens } else { 1 };
        let key = ticket.first;
        // Whoever went before this rang for a request that was not known.
        if ticket.cause().is_some() {
            ticket.ring();
        }
        let open = Open { ticket, events, lines, pending, due: None };
        self.requests.insert(key, open);
        self.set_due(key);
    }

    /// Notes when the deadline of a request is to be looked at: when the rest of its prompt cannot be computed before
    /// it, and if that is in the past when it passes.
    fn set_due(&mut self, key: u64) {
        let is_alone = self.requests.len() == 1;
        let Some(open) = self.requests.get_mut(&key) else { return };
        let Some(deadline) = open.ticket.deadline else { return };
        // A request alone takes nothing from others, and shows how fast the engine is now.
        let least = if open.pending == 0 || is_alone { 0.0 } else { self.shared.load().estimator.least(open.pending) };
        let least = Duration::try_from_secs_f64(least * LEAST_PART).unwrap_or_default();
        let due = deadline.checked_sub(least).unwrap_or(open.ticket.submitted);
        if let Some(before) = open.due.replace(due) {
            self.due.remove(&(before, key));
        }
        self.due.insert((due, key));
    }

    /// `num_tokens` more of a prompt are computed, and it is not the end of it.
    pub fn progressed(&mut self, id: SeqId, num_tokens: u32) {
        if let Some((key, open, _)) = self.find(id) {
            // With a token there is no prompt left: it is what a preemption took that is computed again.
            if open.pending > 0 {
                open.pending = open.pending.saturating_sub(num_tokens).max(1);
                self.set_due(key);
            }
        }
    }

    /// A sequence is computed for the first time, but for `cached_tokens` of its prompt.
    pub fn started(&mut self, id: SeqId, cached_tokens: u32, now: Instant) {
        let shared = Arc::clone(&self.shared);
        let Some((key, open, index)) = self.find(id) else { return };
        let Some(line) = open.lines.get_mut(index) else { return };
        if line.first_step.replace(now).is_none() {
            line.cached_tokens = cached_tokens;
            open.pending = open.ticket.claim.prompt_tokens.saturating_sub(cached_tokens).max(1);
            shared.admission.leave_queue(&open.ticket, index as u32);
            open.ticket.reached(Stage::Prefill);
            shared.metrics.engine.queue_time.record(now.saturating_duration_since(open.ticket.submitted).as_secs_f64());
            open.ticket.trace.first_scheduled(index, cached_tokens, &line.timings(open.ticket.submitted));
            self.num_not_started = self.num_not_started.saturating_sub(1);
            if index == 0 {
                self.set_due(key);
            }
        }
    }

    /// A sequence lost its blocks to others.
    pub fn preempted(&mut self, id: SeqId) {
        if let Some((_, open, index)) = self.find(id) {
            open.ticket.trace.preempted(index);
        }
    }

    /// A sequence got a token, its last one if `finish` is given.
    pub fn token(&mut self, id: SeqId, sampled: &Sampled, finish: Option<Finish>, now: Instant) {
        let shared = Arc::clone(&self.shared);
        let metrics = &shared.metrics.engine;
        let Some((key, open, index)) = self.find(id) else { return };
        let submitted = open.ticket.submitted;
        let mut is_first = false;
        let Some(line) = open.lines.get_mut(index) else { return };
        match line.last_token {
            Some(last) => metrics.inter_token.record(now.saturating_duration_since(last).as_secs_f64()),
            None => {
                line.first_token = Some(now);
                is_first = open.pending > 0;
                open.pending = 0;
                open.ticket.reached(Stage::Decode);
                metrics.ttft.record(now.saturating_duration_since(submitted).as_secs_f64());
                open.ticket.trace.first_token(index, &line.timings(submitted));
            }
        }
        line.last_token = Some(now);
        let stopped = finish.is_some_and(|finish| finish.reason == FinishReason::Stop);
        shared.load().estimator.observe_token(line.generated, stopped);
        line.generated += 1;
        metrics.generation.increment(1);
        let timings = line.timings(submitted);
        line.ended = finish.is_some();
        let line = *line;
        let done = open.is_done();
        if let Some(finish) = finish {
            record_finish(&shared, &open.ticket, index, &line, finish.reason, now);
        }
        if done {
            // The id is free before the client can know that the request ended.
            shared.admission.end(&open.ticket);
        }
        let cached_tokens = line.cached_tokens;
        open.send(Event::Token { index: index as u32, sampled: sampled.clone(), finish, timings, cached_tokens });
        if done {
            self.remove(key);
        } else if is_first {
            self.set_due(key);
        }
    }

    /// Ends what the edge wants ended, and what cannot meet its deadline any more: stopped sequences, cancelled and
    /// expired requests. `abort` takes a sequence out of the engine. Takes time with what there is to end.
    pub fn reap(&mut self, now: Instant, abort: &mut dyn FnMut(SeqId)) {
        let mut rung = std::mem::take(&mut self.rung);
        self.shared.admission.alarms().take(&mut rung);
        for &key in &rung {
            self.answer(key, now, abort);
        }
        self.rung = rung;
        while let Some(&(due, key)) = self.due.first()
            && due <= now
        {
            self.set_due(key);
            // What was measured since, or a prompt that is computed by now, may have moved it.
            let Some(open) = self.requests.get(&key).filter(|open| open.due.is_some_and(|due| due <= now)) else {
                continue;
            };
            let deadline = open.ticket.deadline.unwrap_or(now);
            open.ticket.cancel_since(Cause::Deadline, deadline.min(now));
            self.answer(key, now, abort);
        }
    }

    /// Does what the ticket of a request asks for.
    fn answer(&mut self, key: u64, now: Instant, abort: &mut dyn FnMut(SeqId)) {
        let Some(open) = self.requests.get_mut(&key) else { return };
        if let Some(cause) = open.ticket.cause() {
            return self.cancel(key, cause, now, abort);
        }
        for (index, line) in open.lines.iter_mut().enumerate() {
            if !line.ended && open.ticket.is_stopped(index as u32) {
                line.ended = true;
                abort(SeqId(key + index as u64));
                self.shared.load().estimator.observe_stop(line.generated);
                record_finish(&self.shared, &open.ticket, index, line, FinishReason::Stop, now);
            }
        }
        if open.is_done() {
            self.close(key);
        }
    }

    fn cancel(&mut self, key: u64, cause: Cause, now: Instant, abort: &mut dyn FnMut(SeqId)) {
        let Some(open) = self.requests.get(&key) else { return };
        let metrics = &self.shared.metrics;
        for line in open.lines.iter().filter(|line| !line.ended) {
            metrics.count_cancelled(line.stage().as_str());
            metrics.engine.wasted_cancel.increment(u64::from(line.generated));
        }
        // The prompt was computed once, but for what was cached, and for nothing if no sequence came of it.
        if let Some(line) = open.lines.iter().find(|line| line.first_token.is_some())
            && open.lines.iter().all(|line| !line.ended)
        {
            let prompt = open.ticket.claim.prompt_tokens.saturating_sub(line.cached_tokens);
            metrics.engine.wasted_cancel.increment(u64::from(prompt));
        }
        let since = open.ticket.since_cancel(now);
        let error = open.ticket.error(cause);
        self.fail(key, error, abort);
        self.shared.metrics.engine.cancel_latency.record(since.as_secs_f64());
    }

    /// Ends the request of sequence `id` with an error, its other sequences too.
    pub fn fail_sequence(&mut self, id: SeqId, error: RequestError, abort: &mut dyn FnMut(SeqId)) {
        if let Some((key, ..)) = self.find(id) {
            self.fail(key, error, abort);
        }
    }

    /// The engine lost its state: what ran has failed, what waited may be tried again.
    pub fn fail_all(&mut self) {
        let keys: Vec<(u64, Stage)> = self.requests.iter().map(|(&key, open)| (key, open.ticket.stage())).collect();
        for (key, stage) in keys {
            let error = match stage {
                Stage::Queue => RequestError::EngineRestart,
                Stage::Prefill | Stage::Decode => RequestError::EngineFault,
            };
            self.fail(key, error, &mut |_| {});
        }
    }

    fn fail(&mut self, key: u64, error: RequestError, abort: &mut dyn FnMut(SeqId)) {
        let Some(open) = self.requests.get(&key) else { return };
        for (index, line) in open.lines.iter().enumerate().filter(|(_, line)| !line.ended) {
            abort(SeqId(key + index as u64));
            if line.first_step.is_none() {
                self.shared.admission.leave_queue(&open.ticket, index as u32);
                self.num_not_started = self.num_not_started.saturating_sub(1);
            }
        }
        self.shared.admission.end(&open.ticket);
        open.ticket.trace.failed(&error);
        open.send(Event::Failed(error));
        self.remove(key);
    }

    /// Forgets a request that has ended well.
    fn close(&mut self, key: u64) {
        if let Some(open) = self.remove(key) {
            self.shared.admission.end(&open.ticket);
        }
    }

    fn remove(&mut self, key: u64) -> Option<Open> {
        let open = self.requests.remove(&key)?;
        if let Some(due) = open.due {
            self.due.remove(&(due, key));
        }
        Some(open)
    }

    fn find(&mut self, id: SeqId) -> Option<(u64, &mut Open, usize)> {
        let (&key, open) = self.requests.range_mut(..=id.0).next_back()?;
        let index = usize::try_from(id.0 - key).ok()?;
        (index < open.lines.len()).then_some((key, open, index))
    }
}

fn record_finish(shared: &Shared, ticket: &Ticket, index: usize, line: &Line, reason: FinishReason, now: Instant) {
    ticket.trace.finished(index, reason, line.generated, &line.timings(ticket.submitted));
    let metrics = &shared.metrics.engine;
    shared.metrics.count_finished(reason.as_str());
    metrics.e2e.record(now.saturating_duration_since(ticket.submitted).as_secs_f64());
    metrics.prompt_tokens.record(f64::from(ticket.claim.prompt_tokens));
    metrics.generation_tokens.record(f64::from(line.generated));
    if let (Some(first), Some(last), 2..) = (line.first_token, line.last_token, line.generated) {
        let mean = last.saturating_duration_since(first) / (line.generated - 1);
        metrics.per_output_token.record(mean.as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
