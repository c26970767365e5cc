//! How often something happened: a simulation in which nothing happens proves nothing.

use llorch_cpud::engine::request::Stage;

/// Counts over all seeds.
#[derive(Default, Debug)]
pub struct Coverage {
    pub seeds: u64,
    pub steps: u64,
    pub preemptions: u64,
    pub recomputed: u64,
    pub partial_prefills: u64,
    pub refused: u64,
    pub stops: u64,
    pub lengths: u64,
    pub contexts: u64,
    pub nans: u64,
    pub hits: u64,
    pub hits_after_preemption: u64,
    pub evictions: u64,
    pub copies: u64,
    pub forks: u64,
    /// Those of them that found no place.
    pub queued_forks: u64,
    /// Prompts that were not computed for want of the cache though another domain had them.
    pub misses_by_salt: u64,
    pub bypasses: u64,
    /// Sequences that were preempted as often as may be.
    pub reserved: u64,
    /// Ends from outside: in the queue, in prefill, while decoding.
    pub cancelled: [u64; 3],
    pub expired: [u64; 3],
    pub slow_readers: u64,
    /// Steps that panicked, and the requests they took along.
    pub panics: u64,
    pub faulted: u64,
    pub restarted: u64,
    /// First services out of the order of submission.
    pub overtaken: u64,
    /// Steps in which the bound for prompts was reached, and decode-only ones.
    pub held_back: u64,
    pub decode_only: u64,
}

/// The place of a stage in the counts.
pub fn index(stage: Stage) -> usize {
    match stage {
        Stage::Queue => 0,
        Stage::Prefill => 1,
        Stage::Decode => 2,
    }
}

impl Coverage {
    pub fn add(&mut self, other: &Self) {
        let sums = [
            (&mut self.seeds, &other.seeds),
            (&mut self.steps, &other.steps),
            (&mut self.preemptions, &other.preemptions),
            (&mut self.recomputed, &other.recomputed),
            (&mut self.partial_prefills, &other.partial_prefills),
            (&mut self.refused, &other.refused),
            (&mut self.stops, &other.stops),
            (&mut self.lengths, &other.lengths),
            (&mut self.contexts, &other.contexts),
            (&mut self.nans, &other.nans),
            (&mut self.hits, &other.hits),
            (&mut self.hits_after_preemption, &other.hits_after_preemption),
            (&mut self.evictions, &other.evictions),
            (&mut self.copies, &other.copies),
            (&mut self.forks, &other.forks),
            (&mut self.queued_forks, &other.queued_forks),
            (&mut self.misses_by_salt, &other.misses_by_salt),
            (&mut self.bypasses, &other.bypasses),
            (&mut self.reserved, &other.reserved),
            (&mut self.slow_readers, &other.slow_readers),
            (&mut self.panics, &other.panics),
            (&mut self.faulted, &other.faulted),
            (&mut self.restarted, &other.restarted),
            (&mut self.overtaken, &other.overtaken),
            (&mut self.held_back, &other.held_back),
            (&mut self.decode_only, &other.decode_only),
        ];
        for (sum, count) in sums {
            *sum += count;
        }
        for stage in 0..3 {
            self.cancelled[stage] += other.cancelled[stage];
            self.expired[stage] += other.expired[stage];
        }
    }

    /// Panics where something happened too rarely for the number of seeds.
    pub fn check(&self) {
        let frequent = [
            self.preemptions,
            self.recomputed,
            self.partial_prefills,
            self.refused,
            self.stops,
            self.lengths,
            self.contexts,
            self.hits,
            self.hits_after_preemption,
            self.evictions,
            self.copies,
            self.forks,
            self.queued_forks,
            self.bypasses,
            self.overtaken,
            self.held_back,
            self.decode_only,
        ];
        assert!(frequent.into_iter().all(|count| count > self.seeds / 20), "too little happened: {self:?}");
        let rare = [self.nans, self.misses_by_salt, self.reserved, self.slow_readers, self.panics, self.faulted];
        let rare = rare.into_iter().chain([self.restarted]).chain(self.cancelled).chain(self.expired);
        assert!(rare.into_iter().all(|count| count > self.seeds / 1000), "too little happened: {self:?}");
    }
}
