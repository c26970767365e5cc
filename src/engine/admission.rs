//! Who may enter: the registry of requests in flight and what they take up. Refusals are immediate.

use super::backlog::{Backlog, Claim, Taken};
use super::request::{NewRequest, RequestError};
use super::ticket::{Alarms, Cause, Ticket};
use super::wait_estimate::Ahead;
use crate::scheduler::Begun;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A refused request is told to come back when this part of the bound that refused it will be free again: who came at
/// the first free place would find that another had taken it.
const FREE_AGAIN: f64 = 1.0 / 8.0;

/// Bounds of what waits for its first step and of what is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Sequences that wait. A request with n counts n.
    pub max_queued: u32,
    /// Their prompt tokens. Those of a request count once: its sequences share them.
    pub max_queued_tokens: u64,
    /// The same of a tenant that has a name.
    pub max_queued_per_tenant: u32,
    pub max_queued_tokens_per_tenant: u64,
    /// KV blocks that the requests in flight may come to hold together, in multiples of the pool. A tenant that has a
    /// name may have half of it.
    pub max_claimed_pools: u32,
}

impl QueueLimits {
    /// The bounds that go with these two: a tenant may fill half of the queue.
    ///
    /// What is in flight may claim 64 pools. Few answers are as long as their limit, and what waits is bounded by its
    /// own bounds; this one is for requests whose limits are far above what they need, or who truly need it: 64 pools
    /// that are filled one after the other are hours.
    pub fn new(max_queued: u32, max_queued_tokens: u64) -> Self {
        Self {
            max_queued,
            max_queued_tokens,
            max_queued_per_tenant: (max_queued / 2).max(1),
            max_queued_tokens_per_tenant: (max_queued_tokens / 2).max(1),
            max_claimed_pools: 64,
        }
    }
}

/// Why a request does not enter.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// It would not enter an empty queue either.
    Error(RequestError),
    /// There is no room, or with `quota` none for its tenant, before `ahead` have had their turn.
    NoRoom { quota: bool, ahead: Ahead },
}

/// What is behind the lock.
#[derive(Debug, Default)]
struct Book {
    requests: HashMap<String, Arc<Ticket>>,
    backlog: Backlog,
    next_id: u64,
}

/// The door of the engine.
#[derive(Debug)]
pub struct Admission {
    limits: QueueLimits,
    /// Blocks that may be claimed by all.
    max_claimed: u64,
    draining: AtomicBool,
    closed: AtomicBool,
    alarms: Arc<Alarms>,
    book: Mutex<Book>,
}

/// The bounds that hold for all, or for one tenant.
struct Bounds {
    queued: u64,
    tokens: u64,
    blocks: u64,
}

impl Bounds {
    /// The part of what waits, and of what is in flight, that must go before `claim` fits; `None` when it fits. What is
    /// empty takes any request, so that no bound shuts one out for ever.
    fn must_go(&self, taken: &Taken, claim: &Claim) -> Option<(f64, f64)> {
        let part = |taken: u64, more: u64, bound: u64| {
            let excess = (taken + more).saturating_sub(bound);
            let least = bound as f64 * FREE_AGAIN;
            if excess == 0 || taken == 0 { 0.0 } else { ((excess as f64).max(least) / taken as f64).min(1.0) }
        };
        let sequences = part(taken.queued, u64::from(claim.n), self.queued);
        let tokens = part(taken.queued_tokens, u64::from(claim.prompt_tokens), self.tokens);
        let queue = if taken.queued > 0 { sequences.max(tokens) } else { 0.0 };
        let blocks = if taken.requests > 0 { part(taken.kv_blocks, claim.kv_blocks, self.blocks) } else { 0.0 };
        (queue > 0.0 || blocks > 0.0).then_some((queue, blocks))
    }
}

impl Admission {
    /// `num_blocks`: of the pool.
    pub fn new(limits: QueueLimits, num_blocks: u32) -> Self {
        Self {
            limits,
            max_claimed: u64::from(num_blocks) * u64::from(limits.max_claimed_pools),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            alarms: Arc::default(),
            book: Mutex::default(),
        }
    }

    /// Takes `request` in, or says why not. `kv_blocks`: what one of its sequences may come to hold.
    pub fn enter(&self, request: &NewRequest, kv_blocks: u64, now: Instant) -> Result<Arc<Ticket>, Refusal> {
        if self.is_closed() {
            return Err(Refusal::Error(RequestError::EngineRestart));
        }
        if self.is_draining() {
            return Err(Refusal::Error(RequestError::Draining));
        }
        let mut book = self.lock();
        if book.requests.contains_key(&request.request_id) {
            return Err(Refusal::Error(RequestError::DuplicateId));
        }
        let claim = claim(request, kv_blocks);
        self.has_room(&book.backlog, &claim)?;
        book.backlog.enter(&claim);
        let first = book.next_id;
        book.next_id += u64::from(claim.n);
        let ticket = Arc::new(Ticket::new(request, claim, first, Arc::clone(&self.alarms), now));
        book.requests.insert(request.request_id.clone(), Arc::clone(&ticket));
        Ok(ticket)
    }

    /// The tenant's bounds first: who floods is to know that it is the one.
    fn has_room(&self, backlog: &Backlog, claim: &Claim) -> Result<(), Refusal> {
        let limits = &self.limits;
        let of_tenant = Bounds {
            queued: u64::from(limits.max_queued_per_tenant),
            tokens: limits.max_queued_tokens_per_tenant,
            blocks: self.max_claimed / 2,
        };
        let own = backlog.of(&claim.tenant);
        if !claim.tenant.is_empty()
            && let Some((queue, flight)) = of_tenant.must_go(&own, claim)
        {
            let ahead = backlog.part_of(&claim.tenant, queue).max(in_flight(&own, flight, claim));
            return Err(Refusal::NoRoom { quota: true, ahead });
        }
        let of_all =
            Bounds { queued: u64::from(limits.max_queued), tokens: limits.max_queued_tokens, blocks: self.max_claimed };
        let all = backlog.all();
        match of_all.must_go(&all, claim) {
            None => Ok(()),
            Some((queue, flight)) => {
                let ahead = backlog.part_of_all(queue).max(in_flight(&all, flight, claim));
                Err(Refusal::NoRoom { quota: false, ahead })
            }
        }
    }

    /// What goes before a request of `tenant` that came now; `None` when nothing is in flight.
    pub fn ahead_of(&self, tenant: &str) -> Option<Ahead> {
        let book = self.lock();
        (book.backlog.all().requests > 0).then(|| book.backlog.ahead_of(tenant))
    }

    /// All that waits.
    pub fn ahead_of_all(&self) -> Ahead {
        self.lock().backlog.part_of_all(1.0)
    }

    /// Notes which sequences have begun and wait for a place of their own.
    pub fn set_begun<'a>(&self, begun: impl Iterator<Item = (&'a Arc<str>, Begun)>) {
        self.lock().backlog.set_begun(begun);
    }

    /// Sequence `index` of a request left the queue: it was scheduled, or it ended. The first takes the prompt along.
    pub fn leave_queue(&self, ticket: &Ticket, index: u32) {
        self.lock().backlog.leave_queue(&ticket.claim, index == 0);
    }

    /// The id of the request is free again: its stream has ended. A second call does nothing, even if the id is in use
    /// once more.
    pub fn leave(&self, ticket: &Arc<Ticket>) {
        self.lock().forget(ticket);
    }

    /// The engine has nothing more of the request. To be called once, when none of its sequences waits.
    pub fn end(&self, ticket: &Arc<Ticket>) {
        let mut book = self.lock();
        book.forget(ticket);
        book.backlog.end(&ticket.claim);
    }

    /// What requests in flight take up.
    pub fn taken(&self) -> Taken {
        self.lock().backlog.all()
    }

    /// Tenants of which sequences wait, one for all who have no name.
    pub fn num_tenants_waiting(&self) -> usize {
        self.lock().backlog.num_tenants().1
    }

    /// Requests in flight.
    pub fn num_requests(&self) -> usize {
        self.lock().requests.len()
    }

    /// Ends one request. False when it is not in flight.
    pub fn cancel(&self, request_id: &str, cause: Cause) -> bool {
        match self.lock().requests.get(request_id) {
            Some(ticket) => {
                ticket.cancel(cause);
                true
            }
            None => false,
        }
    }

    /// Ends every request.
    pub fn cancel_all(&self, cause: Cause) {
        self.lock().requests.values().for_each(|ticket| ticket.cancel(cause));
    }

    /// Whose tickets have something to say.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
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

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Nothing in the critical sections can panic halfway through a change.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn forget(&mut self, ticket: &Arc<Ticket>) {
        if self.requests.get(&ticket.request_id).is_some_and(|known| Arc::ptr_eq(known, ticket)) {
            self.requests.remove(&ticket.request_id);
        }
    }
}

fn claim(request: &NewRequest, kv_blocks: u64) -> Claim {
    Claim {
        tenant: Arc::clone(&request.tenant),
        n: request.n,
        prompt_tokens: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
        max_tokens: request.params.stopping.max_tokens,
        kv_blocks: kv_blocks.saturating_mul(u64::from(request.n)),
    }
}

/// As many sequences as must end for the part `share` of the claimed blocks: each lets one more begin.
fn in_flight(taken: &Taken, share: f64, claim: &Claim) -> Ahead {
    let sequences = taken.requests as f64 * share;
    Ahead {
        sequences,
        prompt_tokens: taken.queued_tokens as f64 * share,
        output_tokens: sequences * f64::from(claim.max_tokens),
    }
}

#[cfg(test)]
mod tests;
