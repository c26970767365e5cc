//! Sees that the engine goes on: when no step completes in time although there is work, the server says it is not
//! serving, and takes that back with the next step.

use super::state::ServerState;
use crate::engine::handle::Progress;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Looks in the time after which an engine without a step has stalled.
const LOOKS: u32 = 10;

/// Counts looks at an engine, not time: a process that was stopped for an hour and goes on has missed no more than the
/// one look during which it was stopped, as the engine has.
#[derive(Debug, Default)]
struct Watchdog {
    last: Progress,
    /// Looks in a row that found work and no new step.
    idle_looks: u32,
}

impl Watchdog {
    /// Takes a reading. True while the engine has stalled.
    fn look(&mut self, now: Progress) -> bool {
        let waits = now.has_work && self.last.has_work && now.steps == self.last.steps;
        self.idle_looks = if waits { (self.idle_looks + 1).min(LOOKS) } else { 0 };
        self.last = now;
        self.idle_looks == LOOKS
    }
}

/// Watches the engine for ever.
pub(super) async fn watch(state: Arc<ServerState>) {
    let mut watchdog = Watchdog::default();
    loop {
        // The flag may say 0.
        sleep((state.limits.stall_timeout / LOOKS).max(Duration::from_millis(1))).await;
        let Some(engine) = state.engine() else { continue };
        let stalled = watchdog.look(engine.progress());
        if state.set_stalled(stalled) {
            if stalled {
                tracing::error!(timeout = ?state.limits.stall_timeout, "no step completes though there is work");
            } else {
                tracing::info!("the engine goes on");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(steps: u64, has_work: bool) -> Progress {
        Progress { steps, has_work }
    }

    /// Readings of one kind, and whether the last said that the engine has stalled.
    fn looks(watchdog: &mut Watchdog, count: u32, reading: Progress) -> bool {
        (0..count).map(|_| watchdog.look(reading)).last().unwrap()
    }

    #[test]
    fn work_without_a_step_is_a_stall_after_all_looks_and_not_before() {
        covers!("API-36");
        let mut watchdog = Watchdog::default();
        // The first look is where the time begins.
        assert!(!looks(&mut watchdog, LOOKS, at(7, true)));
        assert!(watchdog.look(at(7, true)));
        assert!(looks(&mut watchdog, 100, at(7, true)));
        assert!(!watchdog.look(at(8, true)));
        assert!(!looks(&mut watchdog, LOOKS - 1, at(8, true)));
        assert!(watchdog.look(at(8, true)));
        assert!(!watchdog.look(at(8, false)));
    }

    #[test]
    fn an_idle_engine_and_a_slow_one_have_not_stalled() {
        let mut watchdog = Watchdog::default();
        assert!(!looks(&mut watchdog, 1000, at(0, false)));
        // The time of the first request does not begin before it came.
        assert!(!looks(&mut watchdog, LOOKS, at(0, true)));
        for steps in 1..20 {
            assert!(!looks(&mut watchdog, LOOKS, at(steps, true)), "step {steps}");
        }
    }
}
