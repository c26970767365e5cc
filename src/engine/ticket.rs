//! The few words that a request's two ends share: the edge writes how it wants the request to end, the actor reads it
//! each step. Atomics, so that a cancellation never waits in a queue.

use super::request::{NewRequest, RequestError, Stage};
use super::request_trace::RequestTrace;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Why a request is to end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The stream was dropped.
    Client,
    /// Abort was called.
    Admin,
    /// The deadline passed.
    Deadline,
    /// The server stops and waits no longer.
    Drain,
    /// The edge did not take the events.
    SlowConsumer,
}

/// Shared by the stream, the registry and the actor.
#[derive(Debug)]
pub struct Ticket {
    pub request_id: String,
    pub submitted: Instant,
    pub deadline: Option<Instant>,
    /// Sequences of the request.
    pub n: u32,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Where its life is told.
    pub(super) trace: RequestTrace,
    cause: AtomicU8,
    cancelled_at_us: AtomicU64,
    stage: AtomicU8,
    /// One bit a sequence: its stream has seen a stop string.
    stopped: [AtomicU64; 2],
}

impl Ticket {
    /// A ticket for `request`, submitted now.
    pub fn new(request: &NewRequest, submitted: Instant) -> Self {
        Self {
            request_id: request.request_id.clone(),
            submitted,
            deadline: request.deadline,
            n: request.n,
            prompt_tokens: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
            trace: RequestTrace::open(request),
            cause: AtomicU8::new(0),
            cancelled_at_us: AtomicU64::new(0),
            stage: AtomicU8::new(0),
            stopped: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    /// Asks for the end of the request. The first cause stands.
    pub fn cancel(&self, cause: Cause) {
        let micros = u64::try_from(self.submitted.elapsed().as_micros()).unwrap_or(u64::MAX);
        let code = match cause {
            Cause::Client => 1,
            Cause::Admin => 2,
            Cause::Deadline => 3,
            Cause::Drain => 4,
            Cause::SlowConsumer => 5,
        };
        self.cancelled_at_us.fetch_max(micros, Ordering::Relaxed);
        let _ = self.cause.compare_exchange(0, code, Ordering::Release, Ordering::Relaxed);
    }

    /// Why the request is to end, if it is.
    pub fn cause(&self) -> Option<Cause> {
        match self.cause.load(Ordering::Acquire) {
            1 => Some(Cause::Client),
            2 => Some(Cause::Admin),
            3 => Some(Cause::Deadline),
            4 => Some(Cause::Drain),
            5 => Some(Cause::SlowConsumer),
            _ => None,
        }
    }

    /// Time since [`Ticket::cancel`].
    pub fn since_cancel(&self, now: Instant) -> Duration {
        let at = Duration::from_micros(self.cancelled_at_us.load(Ordering::Relaxed));
        now.saturating_duration_since(self.submitted).saturating_sub(at)
    }

    /// The furthest stage a sequence of the request has reached.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Queue,
            1 => Stage::Prefill,
            _ => Stage::Decode,
        }
    }

    /// A sequence has reached `stage`.
    pub fn reached(&self, stage: Stage) {
        let code = match stage {
            Stage::Queue => 0,
            Stage::Prefill => 1,
            Stage::Decode => 2,
        };
        self.stage.fetch_max(code, Ordering::Relaxed);
    }

    /// A stop string ended sequence `index`: nothing more is wanted of it.
    pub fn stop(&self, index: u32) {
        if let Some(word) = self.stopped.get(index as usize / 64) {
            word.fetch_or(1 << (index % 64), Ordering::Release);
        }
    }

    /// Whether [`Ticket::stop`] was called for `index`.
    pub fn is_stopped(&self, index: u32) -> bool {
        let word = self.stopped.get(index as usize / 64).map_or(0, |w| w.load(Ordering::Acquire));
        word >> (index % 64) & 1 == 1
    }

    /// What the stream of a request that ended by `cause` tells.
    pub fn error(&self, cause: Cause) -> RequestError {
        match cause {
            Cause::Client | Cause::Admin => RequestError::Aborted,
            Cause::Deadline => RequestError::DeadlineExceeded(self.stage()),
            Cause::Drain => RequestError::Draining,
            Cause::SlowConsumer => RequestError::SlowConsumer,
        }
    }
}
