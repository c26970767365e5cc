//! Who leaves the queue.

use super::fair_queue::{FairQueue, Place};
use super::{Scheduler, Sequence, StepPlan};
use std::collections::VecDeque;

/// After so many preemptions a sequence runs again only when it cannot be preempted any more.
pub const MAX_PREEMPTIONS: u32 = 3;

/// Which of the waiting sequences is next.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// The oldest preempted one.
    Preempted,
    Queued(Place),
}

/// What running sequences will come to need, in blocks and places.
#[derive(Clone, Copy, Debug, Default)]
struct Claims {
    /// Places in the batch, with the forks to come.
    places: u64,
    /// Blocks for all their pending tokens, and one more for each to grow into.
    soon: u64,
    /// Blocks until all have reached their limits.
    to_limit: u64,
}

impl Scheduler {
    /// Moves the first waiting sequence to the running ones if it may start now, with what the cache has of it. First
    /// is the oldest preempted one; when all of them are back, the one whose turn it is.
    ///
    /// All its known tokens must fit beside those that running sequences have still to compute, and one block must stay
    /// for each of them to grow into: a sequence that is admitted only to be preempted at once has computed in vain.
    /// A group needs one place. Its forks find one each or go into the queue, and nobody is admitted behind a group
    /// that has more of them than there are places.
    /// One that was preempted often waits until it and the older ones fit with all they can come to need.
    /// Alone a sequence always fits, by the check at submit.
    pub(super) fn admit(&mut self, plan: &mut StepPlan) -> bool {
        let next = if self.preempted.is_empty() { self.queue.next().map(Next::Queued) } else { Some(Next::Preempted) };
        let Some(next) = next else { return false };
        let claims = self.claims();
        if claims.places >= u64::from(self.config.max_running()) {
            return false;
        }
        if !self.has_blocks_for(next, &claims) {
            return false;
        }
        let taken = match next {
            Next::Preempted => self.preempted.pop_front(),
            Next::Queued(place) => self.queue.take(place),
        };
        let mut sequence = taken.expect("the candidate is there");
        let computed = sequence.max_computed_tokens();
        if matches!(next, Next::Queued(_)) {
            sequence.set_seniority(self.next_seniority);
            self.next_seniority += 1 + u64::from(sequence.num_forks());
        }
        let is_first = sequence.start(&self.prefix, &mut self.pool);
        plan.note_start(&sequence, sequence.num_computed_tokens(), computed, is_first);
        self.running.push(sequence);
        true
    }

    /// Whether the blocks suffice for the sequence that is next. Leaves its cached prefix in `self.prefix`.
    fn has_blocks_for(&mut self, next: Next, claims: &Claims) -> bool {
        let available = u64::from(self.pool.num_available());
        if claims.soon > available {
            return false;
        }
        let candidate = candidate(&mut self.preempted, &mut self.queue, next);
        candidate.find_prefix(&self.pool, &mut self.prefix);
        // A block that others refer to costs nothing, a cached one ceases to be available.
        let referenced = self.prefix.iter().filter(|block| self.pool.ref_count(**block) > 0).count() as u64;
        let blocks = |tokens: u32| u64::from(tokens.div_ceil(self.config.block_size)) - referenced;
        let free_places = u64::from(self.config.max_running()).saturating_sub(claims.places + 1);
        let forks = if claims.places > 0 { u64::from(candidate.num_forks()).min(free_places) } else { 0 };
        if candidate.num_preemptions() >= MAX_PREEMPTIONS && blocks(candidate.max_len()) + claims.to_limit > available {
            return false;
        }
        blocks(candidate.num_tokens()) + forks + claims.soon <= available
    }

    fn claims(&self) -> Claims {
        let of = |s: &Sequence| {
            let places = 1 + u64::from(s.num_forks());
            let soon = u64::from(s.num_missing_blocks(s.num_pending_tokens(), &self.pool)) + places;
            Claims { places, soon, to_limit: s.num_missing_to_limit(&self.pool) }
        };
        self.running.iter().map(of).fold(Claims::default(), |all, one| Claims {
            places: all.places + one.places,
            soon: all.soon + one.soon,
            to_limit: all.to_limit + one.to_limit,
        })
    }
}

/// The sequence that is next. The caller knows that it is there.
fn candidate<'a>(preempted: &'a mut VecDeque<Sequence>, queue: &'a mut FairQueue, next: Next) -> &'a mut Sequence {
    let found = match next {
        Next::Preempted => preempted.front_mut(),
        Next::Queued(place) => queue.at_mut(place),
    };
    found.expect("the candidate is there")
}
