//! Who may enter: the registry of requests in flight and the counters of what waits. Refusals are immediate.

use super::request::{NewRequest, RequestError};
use super::ticket::{Cause, Ticket};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Bounds of the queue before the first step of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Sequences that wait. A request with n counts n.
    pub max_queued: u32,
    /// Their prompt tokens. Those of a request count once: its sequences share them.
    pub max_queued_tokens: u64,
}

/// The door of the engine.
#[derive(Debug)]
pub struct Admission {
    limits: QueueLimits,
    queued: AtomicU64,
    queued_tokens: AtomicU64,
    draining: AtomicBool,
    closed: AtomicBool,
    in_flight: Mutex<HashMap<String, Arc<Ticket>>>,
}

impl Admission {
    pub fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            queued: AtomicU64::new(0),
            queued_tokens: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            in_flight: Mutex::new(HashMap::new()),
        }
    }

    /// Takes `request` in, or says why not. An empty queue takes any request, so that no limit shuts one out for ever.
    pub fn enter(&self, request: &NewRequest, now: Instant) -> Result<Arc<Ticket>, RequestError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(RequestError::EngineRestart);
        }
        if self.draining.load(Ordering::Acquire) {
            return Err(RequestError::Draining);
        }
        let mut in_flight = self.lock();
        if in_flight.contains_key(&request.request_id) {
            return Err(RequestError::DuplicateId);
        }
        // Only this lock's holder adds; others only subtract. So the check cannot be overtaken.
        let ticket = Arc::new(Ticket::new(request, now));
        let sequences = u64::from(ticket.n);
        let tokens = u64::from(ticket.prompt_tokens);
        let queued = self.queued.load(Ordering::Acquire);
        let queued_tokens = self.queued_tokens.load(Ordering::Acquire);
        let fits = queued + sequences <= u64::from(self.limits.max_queued)
            && queued_tokens + tokens <= self.limits.max_queued_tokens;
        if queued > 0 && !fits {
            return Err(RequestError::QueueFull { retry_after_ms: 0 });
        }
        self.queued.fetch_add(sequences, Ordering::AcqRel);
        self.queued_tokens.fetch_add(tokens, Ordering::AcqRel);
        in_flight.insert(request.request_id.clone(), Arc::clone(&ticket));
        Ok(ticket)
    }

    /// Sequence `index` of a request left the queue: it was scheduled, or it ended. The first takes the prompt along.
    pub fn leave_queue(&self, ticket: &Ticket, index: u32) {
        self.queued.fetch_sub(1, Ordering::AcqRel);
        if index == 0 {
            self.queued_tokens.fetch_sub(u64::from(ticket.prompt_tokens), Ordering::AcqRel);
        }
    }

    /// The request ended: its id is free again. A second call does nothing, even if the id is in use once more.
    pub fn leave(&self, ticket: &Arc<Ticket>) {
        let mut in_flight = self.lock();
        if in_flight.get(&ticket.request_id).is_some_and(|known| Arc::ptr_eq(known, ticket)) {
            in_flight.remove(&ticket.request_id);
        }
    }

    /// Sequences that wait.
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Acquire)
    }

    /// Their prompt tokens.
    pub fn queued_tokens(&self) -> u64 {
        self.queued_tokens.load(Ordering::Acquire)
    }

    /// How full the queue is, 0 to 1.
    pub fn fullness(&self) -> f64 {
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let sequences = share(self.queued(), u64::from(self.limits.max_queued));
        sequences.max(share(self.queued_tokens(), self.limits.max_queued_tokens)).min(1.0)
    }

    /// Requests in flight.
    pub fn num_requests(&self) -> usize {
        self.lock().len()
    }

    /// Ends one request. False when it is not in flight.
    pub fn cancel(&self, request_id: &str, cause: Cause) -> bool {
        match self.lock().get(request_id) {
            Some(ticket) => {
                ticket.cancel(cause);
                true
            }
            None => false,
        }
    }

    /// Ends every request.
    pub fn cancel_all(&self, cause: Cause) {
        self.lock().values().for_each(|ticket| ticket.cancel(cause));
    }

    /// Nothing enters from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The engine is gone.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub fn limits(&self) -> QueueLimits {
        self.limits
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Ticket>>> {
        // Nothing in the critical sections can panic halfway through a change.
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str, tokens: usize, n: u32) -> NewRequest {
        let prompt = vec![1; tokens].into();
        NewRequest { request_id: id.into(), prompt, n, ..NewRequest::default() }
    }

    fn admission(max_queued: u32, max_queued_tokens: u64) -> Admission {
        Admission::new(QueueLimits { max_queued, max_queued_tokens })
    }

    #[test]
    fn counts_sequences_and_tokens_until_they_leave() {
        let door = admission(4, 100);
        let first = door.enter(&request("a", 10, 3), Instant::now()).unwrap();
        assert_eq!((door.queued(), door.queued_tokens()), (3, 10));
        let full = door.enter(&request("b", 10, 2), Instant::now());
        assert_eq!(full.unwrap_err(), RequestError::QueueFull { retry_after_ms: 0 });
        door.leave_queue(&first, 1);
        assert_eq!((door.queued(), door.queued_tokens()), (2, 10));
        door.leave_queue(&first, 0);
        assert_eq!((door.queued(), door.queued_tokens()), (1, 0));
        door.enter(&request("b", 10, 2), Instant::now()).unwrap();
        assert_eq!(door.num_requests(), 2);
    }

    #[test]
    fn refuses_by_tokens_but_never_a_lone_request() {
        covers!("API-40");
        let door = admission(10, 100);
        let large = door.enter(&request("large", 500, 1), Instant::now()).unwrap();
        assert!(door.enter(&request("small", 1, 1), Instant::now()).is_err());
        door.leave_queue(&large, 0);
        door.enter(&request("small", 1, 1), Instant::now()).unwrap();
    }

    #[test]
    fn an_id_is_unique_while_in_flight() {
        covers!("API-32");
        let door = admission(10, 100);
        let ticket = door.enter(&request("a", 1, 1), Instant::now()).unwrap();
        assert_eq!(door.enter(&request("a", 1, 1), Instant::now()).unwrap_err(), RequestError::DuplicateId);
        door.leave(&ticket);
        door.enter(&request("a", 1, 1), Instant::now()).unwrap();
    }

    #[test]
    fn a_refused_request_leaves_no_trace() {
        let door = admission(1, 100);
        door.enter(&request("a", 1, 1), Instant::now()).unwrap();
        assert!(door.enter(&request("b", 1, 1), Instant::now()).is_err());
        assert_eq!((door.queued(), door.num_requests()), (1, 1));
        assert!(!door.cancel("b", Cause::Admin));
        assert!(door.cancel("a", Cause::Admin));
    }
}
