//! A sign of life of the actor: how many steps it has completed, and whether it has any to make.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Written by the actor, read by whoever watches it.
#[derive(Debug, Default)]
pub struct Heartbeat {
    steps: AtomicU64,
    busy: AtomicBool,
}

/// A reading of the [`Heartbeat`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Steps completed so far.
    pub steps: u64,
    /// Requests are open or on their way in: a step should complete.
    pub has_work: bool,
}

impl Heartbeat {
    /// A step completed.
    pub fn beat(&self) {
        self.steps.fetch_add(1, Ordering::Release);
    }

    /// Whether the actor holds open requests.
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Release);
    }

    /// The reading now, where `submitted` tells of requests that the actor has not taken in.
    pub fn progress(&self, submitted: bool) -> Progress {
        let has_work = submitted || self.busy.load(Ordering::Acquire);
        Progress { steps: self.steps.load(Ordering::Acquire), has_work }
    }
}
