//! What requests in flight have taken up, of all and of each tenant. Pure counts: the owner holds the lock.

use super::wait_estimate::Ahead;
use crate::scheduler::Begun;
use std::collections::HashMap;
use std::sync::Arc;

/// What one request takes up.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// Empty for who does not say.
    pub tenant: Arc<str>,
    /// Its sequences.
    pub n: u32,
    /// Of its prompt: its sequences share it.
    pub prompt_tokens: u32,
    /// What each sequence may generate at the most.
    pub max_tokens: u32,
    /// KV blocks that all its sequences may come to hold, if they shared none.
    pub kv_blocks: u64,
}

/// What several requests have taken up together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// In flight: queued and running.
    pub requests: u64,
    /// What those in flight may come to hold.
    pub kv_blocks: u64,
    /// Sequences that wait for their first step.
    pub queued: u64,
    /// Tokens of their prompts.
    pub queued_tokens: u64,
    /// Tokens that they may generate at the most.
    pub queued_output: u64,
}

impl Taken {
    fn enter(&mut self, claim: &Claim) {
        self.requests += 1;
        self.kv_blocks += claim.kv_blocks;
        self.queued += u64::from(claim.n);
        self.queued_tokens += u64::from(claim.prompt_tokens);
        self.queued_output += u64::from(claim.n) * u64::from(claim.max_tokens);
    }

    fn leave_queue(&mut self, claim: &Claim, with_prompt: bool) {
        self.queued = self.queued.saturating_sub(1);
        self.queued_output = self.queued_output.saturating_sub(u64::from(claim.max_tokens));
        if with_prompt {
            self.queued_tokens = self.queued_tokens.saturating_sub(u64::from(claim.prompt_tokens));
        }
    }

    fn end(&mut self, claim: &Claim) {
        self.requests = self.requests.saturating_sub(1);
        self.kv_blocks = self.kv_blocks.saturating_sub(claim.kv_blocks);
    }

    /// What waits for its first step.
    fn waits(&self) -> Ahead {
        Ahead {
            sequences: self.queued as f64,
            prompt_tokens: self.queued_tokens as f64,
            output_tokens: self.queued_output as f64,
        }
    }
}

/// What is taken up, of all and of each tenant that has a request in flight.
#[derive(Clone, Debug, Default)]
pub struct Backlog {
    all: Taken,
    tenants: HashMap<Arc<str>, Taken>,
    /// What has begun and waits for a place of its own, by tenant.
    begun: HashMap<Arc<str>, Ahead>,
}

impl Backlog {
    /// A request comes: all its sequences wait.
    pub fn enter(&mut self, claim: &Claim) {
        self.all.enter(claim);
        self.tenants.entry(Arc::clone(&claim.tenant)).or_default().enter(claim);
    }

    /// One of its sequences waits no more; once for each request with its prompt.
    pub fn leave_queue(&mut self, claim: &Claim, with_prompt: bool) {
        self.all.leave_queue(claim, with_prompt);
        if let Some(tenant) = self.tenants.get_mut(&claim.tenant) {
            tenant.leave_queue(claim, with_prompt);
        }
    }

    /// A request ended; none of its sequences waits. A tenant without requests is forgotten.
    pub fn end(&mut self, claim: &Claim) {
        self.all.end(claim);
        if let Some(tenant) = self.tenants.get_mut(&claim.tenant) {
            tenant.end(claim);
            if tenant.requests == 0 {
                self.tenants.remove(&claim.tenant);
            }
        }
    }

    /// Forks that found no place wait like what never began, but the bounds of the queue do not count them.
    pub fn set_begun<'a>(&mut self, begun: impl Iterator<Item = (&'a Arc<str>, Begun)>) {
        self.begun.clear();
        self.begun.extend(begun.map(|(tenant, sums)| {
            let ahead = Ahead {
                sequences: sums.num_sequences as f64,
                prompt_tokens: sums.num_tokens as f64,
                output_tokens: sums.num_to_come as f64,
            };
            (Arc::clone(tenant), ahead)
        }));
    }

    pub fn all(&self) -> Taken {
        self.all
    }

    pub fn of(&self, tenant: &str) -> Taken {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    /// Tenants with a request in flight, and those of them that have sequences waiting.
    pub fn num_tenants(&self) -> (usize, usize) {
        (self.tenants.len(), self.tenants.values().filter(|taken| taken.queued > 0).count())
    }

    /// What gets its turn before a request of `tenant` that came now: all that waits of its own tenant, and of each
    /// other tenant as many tokens as those have, since tenants take turns by tokens. Weights are not looked at, and
    /// who will come later is not foreseen.
    pub fn ahead_of(&self, tenant: &str) -> Ahead {
        self.part_of(tenant, 1.0)
    }

    /// What gets its turn until the part `share` of what waits of `tenant` has had it.
    pub fn part_of(&self, tenant: &str, share: f64) -> Ahead {
        // What has begun came before all that has not.
        let mut ahead = self.of(tenant).waits().times(share).plus(&self.begun_of(tenant));
        let work = ahead.work();
        for (name, other) in &self.tenants {
            let waits = other.waits().plus(&self.begun_of(name));
            if **name != *tenant && waits.work() > 0.0 {
                ahead = ahead.plus(&waits.times((work / waits.work()).min(1.0)));
            }
        }
        ahead
    }

    /// What gets its turn until the part `share` of all that waits for its first step has had it.
    pub fn part_of_all(&self, share: f64) -> Ahead {
        self.begun.values().fold(self.all.waits().times(share), |sum, begun| sum.plus(begun))
    }

    fn begun_of(&self, tenant: &str) -> Ahead {
        self.begun.get(tenant).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(tenant: &str, n: u32, prompt_tokens: u32, max_tokens: u32) -> Claim {
        Claim { tenant: tenant.into(), n, prompt_tokens, max_tokens, kv_blocks: u64::from(n) * 3 }
    }

    #[test]
    fn what_came_goes_again() {
        let mut backlog = Backlog::default();
        let (first, second) = (claim("a", 2, 10, 5), claim("b", 1, 7, 3));
        backlog.enter(&first);
        backlog.enter(&second);
        let all = Taken { requests: 2, kv_blocks: 9, queued: 3, queued_tokens: 17, queued_output: 13 };
        assert_eq!((backlog.all(), backlog.num_tenants()), (all, (2, 2)));
        backlog.leave_queue(&first, true);
        backlog.leave_queue(&first, false);
        assert_eq!(backlog.of("a"), Taken { requests: 1, kv_blocks: 6, ..Taken::default() });
        assert_eq!(backlog.num_tenants(), (2, 1));
        backlog.leave_queue(&second, true);
        backlog.end(&first);
        backlog.end(&second);
        assert_eq!((backlog.all(), backlog.num_tenants()), (Taken::default(), (0, 0)));
    }

    #[test]
    fn another_tenants_flood_counts_by_its_fair_share() {
        let mut backlog = Backlog::default();
        (0..100).for_each(|_| backlog.enter(&claim("flood", 1, 60, 40)));
        assert_eq!(backlog.ahead_of("other"), Ahead::default());
        assert_eq!(backlog.ahead_of("flood").sequences, 100.0);
        (0..9).for_each(|_| backlog.enter(&claim("other", 1, 60, 40)));
        assert_eq!(backlog.ahead_of("other").sequences, 9.0 + 9.0);
        assert_eq!(backlog.ahead_of("flood").sequences, 100.0 + 9.0);
        assert_eq!(backlog.part_of("flood", 0.02).sequences, 2.0 + 2.0);
        assert_eq!(backlog.part_of_all(0.5).sequences, 109.0 / 2.0);
    }

    /// Forks that wait for a place go before what their tenant queued, and before that of others by its fair share.
    #[test]
    fn what_has_begun_counts_as_its_tenants() {
        let mut backlog = Backlog::default();
        backlog.enter(&claim("wide", 1, 60, 40));
        backlog.leave_queue(&claim("wide", 1, 60, 40), true);
        let sums = Begun { num_sequences: 64, num_tokens: 64 * 61, num_to_come: 64 * 39 };
        backlog.set_begun([(&Arc::from("wide"), sums)].into_iter());
        assert_eq!(backlog.ahead_of("single"), Ahead::default());
        assert_eq!(backlog.ahead_of("wide").sequences, 64.0);
        backlog.enter(&claim("single", 1, 60, 40));
        assert_eq!(backlog.ahead_of("single").sequences, 2.0);
        assert_eq!(backlog.ahead_of("wide").sequences, 65.0);
        assert_eq!((backlog.part_of_all(1.0).sequences, backlog.all().queued), (65.0, 1));
        backlog.set_begun([].into_iter());
        assert_eq!(backlog.ahead_of("wide").sequences, 0.0);
    }
}
