//! The engine as the rest of the process sees it: submit a request, get its stream of events.

pub use super::admission::QueueLimits;
use super::admission::Refusal;
pub use super::heartbeat::Progress;
pub use super::load::LoadSnapshot;
use super::request::{Event, NewRequest, RequestError, Stage};
pub use super::shared::EngineFacts;
use super::shared::Shared;
pub use super::ticket::Cause;
use super::ticket::Ticket;
use super::wait_estimate::Candidate;
use crate::metrics::Metrics;
use crossbeam_channel::{Sender, TrySendError};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, watch};

/// Events that may lie between the actor and the stream's task. Far more than a task that runs at all leaves unread.
const MAX_EVENTS: usize = 1 << 16;
/// Bounds of the advice when to try again.
const RETRY_MS: (f64, f64) = (100.0, 60_000.0);

fn retry_ms(seconds: f64) -> u64 {
    (seconds * 1e3).clamp(RETRY_MS.0, RETRY_MS.1) as u64
}

/// A request on its way to the actor.
pub(super) struct Submission {
    pub request: NewRequest,
    pub ticket: Arc<Ticket>,
    pub events: EventSender,
}

/// The actor's end of a stream of events.
pub(super) struct EventSender(mpsc::Sender<Event>);

impl EventSender {
    /// Delivers without waiting. False when the stream's task left too many events lying; a dropped stream has told so
    /// through its ticket.
    pub fn send(&self, event: Event) -> bool {
        !matches!(self.0.try_send(event), Err(mpsc::error::TrySendError::Full(_)))
    }
}

/// A way to the engine. Cheap to clone; the actor ends when the last one is gone.
#[derive(Clone)]
pub struct EngineHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Sender<Submission>,
    /// [`EngineHandle::end_all`] was called.
    pub(super) over: watch::Sender<bool>,
}

impl EngineHandle {
    /// Puts a request into the queue, or refuses it at once: never waits for a step. Dropping the stream ends it.
    pub fn submit(&self, request: NewRequest) -> Result<EventStream, RequestError> {
        let kv_blocks = self.fits(&request)?;
        let now = Instant::now();
        self.meets_its_deadline(&request, now)?;
        let admission = &self.shared.admission;
        let ticket = admission.enter(&request, kv_blocks, now).map_err(|refusal| self.refused(refusal))?;
        ticket.trace.queued();
        let (events, receiver) = mpsc::channel(self.event_bound(&request));
        let submission = Submission { request, ticket: Arc::clone(&ticket), events: EventSender(events) };
        match self.inbox.try_send(submission) {
            Ok(()) => Ok(EventStream::new(receiver, ticket, Arc::clone(&self.shared), self.over.subscribe())),
            Err(error) => {
                for index in 0..ticket.claim.n {
                    admission.leave_queue(&ticket, index);
                }
                admission.end(&ticket);
                let error = match error {
                    TrySendError::Full(_) => RequestError::QueueFull { retry_after_ms: RETRY_MS.0 as u64 },
                    TrySendError::Disconnected(_) => RequestError::EngineRestart,
                };
                ticket.trace.failed(&error);
                Err(error)
            }
        }
    }

    /// Checks what no wait can change. Returns the blocks that one sequence may come to hold.
    fn fits(&self, request: &NewRequest) -> Result<u64, RequestError> {
        let (prompt_tokens, limit) = (request.prompt.len(), self.shared.facts.max_model_len);
        if prompt_tokens as u64 >= u64::from(limit) {
            return Err(RequestError::ContextExceeded { prompt_tokens: prompt_tokens as u64, limit });
        }
        let needed = self.shared.facts.blocks_needed(request.prompt.len(), request.params.stopping.max_tokens);
        let available = u64::from(self.shared.facts.num_blocks);
        if needed > available {
            return Err(RequestError::KvCapacity { needed, available });
        }
        Ok(needed)
    }

    /// Refuses what is expected to miss its deadline beyond doubt. With nothing in flight nothing is refused: a request
    /// alone takes nothing from others, and shows how fast the engine is now.
    fn meets_its_deadline(&self, request: &NewRequest, now: Instant) -> Result<(), RequestError> {
        let Some(deadline) = request.deadline else { return Ok(()) };
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(RequestError::DeadlineExceeded(Stage::Queue));
        }
        let Some(ahead) = self.shared.admission.ahead_of(&request.tenant) else { return Ok(()) };
        let candidate = Candidate {
            prompt_tokens: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
            max_tokens: request.params.stopping.max_tokens,
        };
        let wait = self.shared.estimator().wait(&ahead, &candidate);
        if wait.misses(left.as_secs_f64()) {
            // By then the wait is short enough, if nobody else comes.
            let retry_after_ms = retry_ms(wait.first_token - left.as_secs_f64());
            return Err(RequestError::DeadlineUnmeetable { retry_after_ms });
        }
        Ok(())
    }

    fn refused(&self, refusal: Refusal) -> RequestError {
        match refusal {
            Refusal::Error(error) => error,
            Refusal::NoRoom { quota, ahead } => {
                let retry_after_ms = retry_ms(self.shared.estimator().until_started(&ahead));
                if quota { RequestError::Quota { retry_after_ms } } else { RequestError::QueueFull { retry_after_ms } }
            }
        }
    }

    /// One event a token and one for the end: the channel cannot fill up unless the bound was cut.
    fn event_bound(&self, request: &NewRequest) -> usize {
        let tokens = u64::from(request.params.stopping.max_tokens.min(self.shared.facts.max_model_len));
        let events = (tokens + 1).saturating_mul(u64::from(request.n));
        usize::try_from(events).unwrap_or(MAX_EVENTS).clamp(1, MAX_EVENTS)
    }

    /// Ends a request with [`RequestError::Aborted`]. False when no such request is in flight.
    pub fn abort(&self, request_id: &str) -> bool {
        self.shared.admission.cancel(request_id, Cause::Admin)
    }

    /// The load now.
    pub fn load(&self) -> LoadSnapshot {
        self.shared.snapshot()
    }

    /// What the actor has done and whether it has work.
    pub fn progress(&self) -> Progress {
        self.shared.heartbeat.progress(!self.inbox.is_empty())
    }

    /// Brings the gauges up to date: the queue changes between steps, too.
    pub fn refresh_gauges(&self) {
        self.shared.refresh_gauges();
    }

    pub fn facts(&self) -> EngineFacts {
        self.shared.facts
    }

    pub fn queue_limits(&self) -> QueueLimits {
        self.shared.admission.limits()
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Requests in flight.
    pub fn num_requests(&self) -> usize {
        self.shared.admission.num_requests()
    }

    /// Refuses new requests from now on; those in flight go on.
    pub fn drain(&self) {
        self.shared.admission.drain();
        self.shared.refresh_gauges();
    }

    pub fn is_draining(&self) -> bool {
        self.shared.admission.is_draining()
    }

    /// Ends all requests in flight with [`RequestError::Draining`]. Their streams end at once: a step can last longer
    /// than the process.
    pub fn end_all(&self) {
        self.shared.admission.cancel_all(Cause::Drain);
        self.over.send_replace(true);
    }

    /// Whether the actor has given up.
    pub fn is_closed(&self) -> bool {
        self.shared.admission.is_closed()
    }
}

/// The events of one request: tokens, and `Failed` at most once, as the last. Dropping it ends the request.
pub struct EventStream {
    events: mpsc::Receiver<Event>,
    ticket: Arc<Ticket>,
    shared: Arc<Shared>,
    /// All requests are to end.
    over: watch::Receiver<bool>,
    /// Which sequences are still to finish.
    open: Vec<bool>,
    failed: bool,
}

/// Ends a request from another task than the one that owns its stream.
#[derive(Clone, Debug)]
pub struct Canceller(Arc<Ticket>);

impl Canceller {
    pub fn new(ticket: Arc<Ticket>) -> Self {
        Self(ticket)
    }

    pub fn cancel(&self, cause: Cause) {
        self.0.cancel(cause);
    }
}

impl EventStream {
    fn new(
        events: mpsc::Receiver<Event>,
        ticket: Arc<Ticket>,
        shared: Arc<Shared>,
        over: watch::Receiver<bool>,
    ) -> Self {
        let open = vec![true; ticket.claim.n as usize];
        Self { events, ticket, shared, over, open, failed: false }
    }

    /// The next event; `None` after the last. Never later than the deadline by more than a timer tick.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            if self.is_done() {
                return None;
            }
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                () = pass(&self.ticket) => None,
                Ok(_) = self.over.wait_for(|over| *over) => {
                    self.ticket.cancel(Cause::Drain);
                    None
                }
            };
            match event.unwrap_or_else(|| Event::Failed(self.ending())) {
                // What the actor sent before it saw that the sequence was stopped.
                Event::Token { index, .. } if !self.is_open(index) => {}
                event => {
                    self.note(&event);
                    return Some(event);
                }
            }
        }
    }

    /// Sequence `index` needs no more tokens: a stop string was found. Not an abort: it finished.
    pub fn finish(&mut self, index: u32) {
        self.close(index);
        self.ticket.stop(index);
    }

    /// For a task that sees the client go before this stream's owner does.
    pub fn canceller(&self) -> Canceller {
        Canceller::new(Arc::clone(&self.ticket))
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Token { index, finish: Some(_), .. } => self.close(*index),
            Event::Token { .. } => {}
            Event::Failed(_) => {
                self.failed = true;
                self.shared.admission.leave(&self.ticket);
            }
        }
    }

    /// Why a stream without a last event ended.
    fn ending(&self) -> RequestError {
        match self.ticket.cause() {
            Some(cause) => self.ticket.error(cause),
            None if self.ticket.stage() == Stage::Queue => RequestError::EngineRestart,
            None => RequestError::EngineFault,
        }
    }

    fn is_open(&self, index: u32) -> bool {
        self.open.get(index as usize).copied().unwrap_or(false)
    }

    fn close(&mut self, index: u32) {
        if let Some(open) = self.open.get_mut(index as usize) {
            *open = false;
        }
        if self.is_done() {
            // Before the client can know of the end: it may use the id again at once.
            self.shared.admission.leave(&self.ticket);
        }
    }

    fn is_done(&self) -> bool {
        self.failed || !self.open.contains(&true)
    }
}

/// Waits for the deadline of a request, and cancels it then.
async fn pass(ticket: &Ticket) {
    let Some(deadline) = ticket.deadline else { return std::future::pending().await };
    tokio::time::sleep_until(deadline.into()).await;
    ticket.cancel_since(Cause::Deadline, deadline);
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if !self.is_done() {
            self.ticket.cancel(Cause::Client);
            self.shared.admission.leave(&self.ticket);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
