//! How a thread of the pool waits.

/// Waiting without a system call at first: pauses, then yields; when both are used up it is time to park.
pub(super) struct Backoff {
    spins: u32,
    pub(super) yields: u32,
    used: u32,
}

impl Backoff {
    pub(super) fn new(spins: u32, yields: u32) -> Self {
        Self { spins, yields, used: 0 }
    }

    /// Waits a moment. False, without waiting, when the caller should park instead.
    pub(super) fn pause(&mut self) -> bool {
        if self.used < self.spins {
            std::hint::spin_loop();
        } else if self.used < self.spins + self.yields {
            std::thread::yield_now();
        } else {
            return false;
        }
        self.used += 1;
        true
    }
}
