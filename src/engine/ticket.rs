//! The few words that a request's two ends share: the edge writes how it wants the request to end, the actor reads it
//! each step. Atomics, so that a cancellation never waits in a queue.

use super::backlog::Claim;
use super::request::{NewRequest, RequestError, Stage};
use super::request_trace::RequestTrace;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

/// Requests whose tickets have something new to say, so that the actor need not look at all of them. A ticket rings
/// once or twice for its end and once for each sequence: what lies here is bounded by what is in flight.
#[derive(Debug, Default)]
pub struct Alarms(Mutex<Vec<u64>>);

impl Alarms {
    fn ring(&self, first: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(first);
    }

    /// Moves the first ids of the requests that rang to `to`, which is overwritten.
    pub fn take(&self, to: &mut Vec<u64>) {
        to.clear();
        std::mem::swap(to, &mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Shared by the stream, the registry and the actor.
#[derive(Debug)]
pub struct Ticket {
    pub request_id: String,
    pub submitted: Instant,
    pub deadline: Option<Instant>,
    pub claim: Claim,
    /// The id of its first sequence; the others follow.
    pub first: u64,
    /// Where its life is told.
    pub(super) trace: RequestTrace,
    alarms: Arc<Alarms>,
    cause: AtomicU8,
    cancelled_at_us: AtomicU64,
    stage: AtomicU8,
    /// One bit a sequence: its stream has seen a stop string.
    stopped: [AtomicU64; 2],
}

impl Ticket {
    /// A ticket for `request`, whose sequences are `first` and those that follow, submitted now.
    pub fn new(request: &NewRequest, claim: Claim, first: u64, alarms: Arc<Alarms>, submitted: Instant) -> Self {
        Self {
            request_id: request.request_id.clone(),
            submitted,
            deadline: request.deadline,
            claim,
            first,
            trace: RequestTrace::open(request),
            alarms,
            cause: AtomicU8::new(0),
            cancelled_at_us: AtomicU64::new(0),
            stage: AtomicU8::new(0),
            stopped: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    /// Asks for the end of the request. The first cause stands.
    pub fn cancel(&self, cause: Cause) {
        self.cancel_since(cause, Instant::now());
    }

    /// The same for a cause that came up at `since`.
    pub fn cancel_since(&self, cause: Cause, since: Instant) {
        let micros = since.saturating_duration_since(self.submitted).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX).max(1);
        let code = match cause {
            Cause::Client => 1,
            Cause::Admin => 2,
            Cause::Deadline => 3,
            Cause::Drain => 4,
            Cause::SlowConsumer => 5,
        };
        let _ = self.cancelled_at_us.compare_exchange(0, micros, Ordering::Relaxed, Ordering::Relaxed);
        if self.cause.compare_exchange(0, code, Ordering::Release, Ordering::Relaxed).is_ok() {
            self.ring();
        }
    }

    /// Has the actor look at the request before its next step.
    pub fn ring(&self) {
        self.alarms.ring(self.first);
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

    /// Time since the first [`Ticket::cancel`].
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
            self.ring();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_and_its_time_stand_and_ring_once() {
        covers!("API-39");
        let (alarms, begin) = (Arc::new(Alarms::default()), Instant::now());
        let after = |ms| begin + Duration::from_millis(ms);
        let ticket = Ticket::new(&NewRequest::default(), Claim::default(), 7, Arc::clone(&alarms), begin);
        ticket.cancel_since(Cause::Deadline, after(100));
        ticket.cancel_since(Cause::Client, after(300));
        assert_eq!(ticket.cause(), Some(Cause::Deadline));
        assert_eq!(ticket.since_cancel(after(400)), Duration::from_millis(300));
        let mut rung = vec![1, 2, 3];
        alarms.take(&mut rung);
        assert_eq!(rung, [7]);
        ticket.stop(0);
        alarms.take(&mut rung);
        assert_eq!(rung, [7]);
        alarms.take(&mut rung);
        assert!(rung.is_empty());
    }
}
