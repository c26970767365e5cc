//! How busy the engine is: what the actor measures each step and what others read.

use super::wait_estimate::WaitEstimator;
use std::collections::VecDeque;
use std::time::Duration;

/// Steps that the rates and percentiles look back on.
const WINDOW: usize = 128;

/// A reading of the engine's load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadSnapshot {
    /// Sequences that run.
    pub running: u32,
    /// Sequences that wait: for their first step, or for a place after it.
    pub waiting: u32,
    /// Prompt tokens of those that never ran.
    pub waiting_tokens: u64,
    pub kv_blocks_used: u32,
    pub kv_blocks_cached: u32,
    pub kv_blocks_free: u32,
    pub kv_blocks_total: u32,
    /// Sequences in the last step.
    pub batch_sequences: u32,
    /// Tokens per second spent in recent steps.
    pub prefill_per_second: f64,
    pub decode_per_second: f64,
    /// Duration of recent steps, milliseconds.
    pub step_ms_p50: f64,
    pub step_ms_p99: f64,
    /// Until the first step of a request that came now behind all others; 0 while it would not wait, or nothing was
    /// measured.
    pub estimated_wait_ms: f64,
    /// How near the engine is to letting a new request wait, `0 ..= 1`: the greatest of running sequences over places,
    /// KV blocks used or left to grow into over all, and the estimated wait in seconds.
    pub saturation: f64,
    pub draining: bool,
    /// Tenants of which sequences wait for their first step, one for all who have no name.
    pub tenants_waiting: u32,
    /// KV blocks that the requests in flight may come to hold, if they shared none.
    pub kv_blocks_claimed: u64,
}

/// The counts that only the actor knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineCounts {
    pub running: u32,
    /// Sequences that ran and wait again.
    pub preempted: u32,
    pub batch_sequences: u32,
    pub kv_used: u32,
    pub kv_cached: u32,
    pub kv_free: u32,
    pub kv_total: u32,
    pub max_num_seqs: u32,
}

/// One step as the load remembers it.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepSample {
    pub duration: Duration,
    /// Prompt tokens computed for the first time.
    pub prompt_tokens: u32,
    /// Prompt tokens that the prefix cache supplied.
    pub cached_tokens: u32,
    /// All tokens but those of decoding sequences: prompts, and what is computed again after a preemption.
    pub prefill_tokens: u32,
    /// Sequences that decoded.
    pub decoding: u32,
    pub generated_tokens: u32,
}

/// Counts and recent steps. Lives behind a mutex that the actor takes for every token: who reads copies it, a few KB,
/// and computes on the copy.
#[derive(Clone, Debug, Default)]
pub struct LoadWindow {
    pub counts: EngineCounts,
    pub estimator: WaitEstimator,
    steps: VecDeque<StepSample>,
}

impl LoadWindow {
    /// Remembers a step and forgets the oldest.
    pub fn push(&mut self, sample: StepSample) {
        if self.steps.len() == WINDOW {
            self.steps.pop_front();
        }
        self.estimator.observe_step(&sample);
        self.steps.push_back(sample);
    }

    /// `(prefill, decode)` tokens per second spent in those of the remembered steps that did such work.
    pub fn rates(&self) -> (f64, f64) {
        (self.rate(|s| s.prompt_tokens), self.rate(|s| s.generated_tokens))
    }

    fn rate(&self, tokens: impl Fn(&StepSample) -> u32) -> f64 {
        let (mut sum, mut seconds) = (0.0, 0.0);
        for step in self.steps.iter().filter(|s| tokens(s) > 0) {
            sum += f64::from(tokens(step));
            seconds += step.duration.as_secs_f64();
        }
        if seconds > 0.0 { sum / seconds } else { 0.0 }
    }

    /// `(p50, p99)` of the remembered steps, nearest rank, milliseconds.
    pub fn step_ms(&self) -> (f64, f64) {
        let mut millis: Vec<f64> = self.steps.iter().map(|s| s.duration.as_secs_f64() * 1e3).collect();
        millis.sort_by(f64::total_cmp);
        let rank = |share: f64| {
            let index = (share * millis.len() as f64).ceil() as usize;
            millis.get(index.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        (rank(0.5), rank(0.99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ms: u64, prompt_tokens: u32, generated_tokens: u32) -> StepSample {
        StepSample { duration: Duration::from_millis(ms), prompt_tokens, generated_tokens, ..StepSample::default() }
    }

    #[test]
    fn rates_and_percentiles_of_known_steps() {
        let mut window = LoadWindow::default();
        assert_eq!((window.rates(), window.step_ms()), ((0.0, 0.0), (0.0, 0.0)));
        for ms in 1..=100 {
            window.push(sample(ms, 101, 202));
        }
        // 100 steps in 5.05 seconds.
        let (prefill, decode) = window.rates();
        assert!((prefill - 2000.0).abs() < 1e-6 && (decode - 4000.0).abs() < 1e-6, "{prefill} {decode}");
        assert_eq!(window.step_ms(), (50.0, 99.0));
    }

    #[test]
    fn a_decode_step_says_nothing_about_prefill() {
        let mut window = LoadWindow::default();
        window.push(sample(500, 100, 0));
        window.push(sample(9500, 0, 19));
        assert_eq!(window.rates(), (200.0, 2.0));
    }

    #[test]
    fn old_steps_are_forgotten() {
        let mut window = LoadWindow::default();
        window.push(sample(60_000, 0, 0));
        for _ in 0..WINDOW {
            window.push(sample(2, 0, 1));
        }
        assert_eq!(window.step_ms(), (2.0, 2.0));
    }
}
