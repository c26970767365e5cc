//! What the handles and the actor of an engine share, and the load as both see it.

use super::admission::Admission;
use super::heartbeat::Heartbeat;
use super::load::{EngineCounts, LoadSnapshot, LoadWindow};
use super::wait_estimate::{Ahead, Candidate, WaitEstimator};
use crate::metrics::Metrics;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A new request that has to wait so long finds the engine saturated, whatever is free.
const SATURATED_WAIT_MS: f64 = 1000.0;

/// What the edge must know of the engine to judge a request without asking it.
#[derive(Clone, Copy, Debug)]
pub struct EngineFacts {
    pub vocab_size: usize,
    /// Tokens of prompt and completion together.
    pub max_model_len: u32,
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    pub block_size: u32,
    pub num_blocks: u32,
    /// The time from token to token aimed at while prompts come in; `None`: twice a step that only decodes, and at
    /// least [`super::pacing::LEAST_TARGET`].
    pub target_itl: Option<Duration>,
}

impl EngineFacts {
    /// Blocks that a sequence of `prompt` and `max_tokens` tokens may come to hold: the scheduler's own rule.
    pub fn blocks_needed(&self, prompt: usize, max_tokens: u32) -> u64 {
        let tokens = (prompt as u64).saturating_add(u64::from(max_tokens)).min(u64::from(self.max_model_len));
        tokens.div_ceil(u64::from(self.block_size.max(1)))
    }
}

/// What the handles and the actor share.
pub(super) struct Shared {
    pub facts: EngineFacts,
    pub admission: Admission,
    pub load: Mutex<LoadWindow>,
    pub heartbeat: Heartbeat,
    pub metrics: Arc<Metrics>,
}

impl Shared {
    pub fn load(&self) -> MutexGuard<'_, LoadWindow> {
        // A window of measurements is valid whatever happened to its last holder.
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of waiting, to compute with.
    pub fn estimator(&self) -> WaitEstimator {
        self.load().estimator.clone()
    }

    /// The load now.
    pub fn snapshot(&self) -> LoadSnapshot {
        let (taken, ahead) = (self.admission.taken(), self.admission.ahead_of_all());
        let window = self.load().clone();
        let (counts, estimated_wait_ms) = (window.counts, estimated_wait_ms(&window, &ahead));
        let ((prefill, decode), (p50, p99)) = (window.rates(), window.step_ms());
        LoadSnapshot {
            running: counts.running,
            waiting: waiting(taken.queued, &counts),
            waiting_tokens: taken.queued_tokens,
            kv_blocks_used: counts.kv_used,
            kv_blocks_cached: counts.kv_cached,
            kv_blocks_free: counts.kv_free,
            kv_blocks_total: counts.kv_total,
            batch_sequences: counts.batch_sequences,
            prefill_per_second: prefill,
            decode_per_second: decode,
            step_ms_p50: p50,
            step_ms_p99: p99,
            estimated_wait_ms,
            saturation: saturation(&counts, estimated_wait_ms),
            draining: self.admission.is_draining(),
            tenants_waiting: u32::try_from(self.admission.num_tenants_waiting()).unwrap_or(u32::MAX),
            kv_blocks_claimed: taken.kv_blocks,
        }
    }

    /// Brings the gauges up to now that cost next to nothing.
    pub fn set_gauges(&self) {
        let counts = self.load().counts;
        let gauges = &self.metrics.engine;
        gauges.running.set(f64::from(counts.running));
        gauges.waiting.set(f64::from(waiting(self.admission.taken().queued, &counts)));
        gauges.kv_used.set(f64::from(counts.kv_used));
        gauges.kv_cached.set(f64::from(counts.kv_cached));
        gauges.kv_free.set(f64::from(counts.kv_free));
        gauges.kv_total.set(f64::from(counts.kv_total));
        gauges.kv_usage.set(share(counts.kv_used, counts.kv_total));
        gauges.batch_sequences.set(f64::from(counts.batch_sequences));
    }

    /// Brings all gauges up to now.
    pub fn refresh_gauges(&self) {
        self.set_gauges();
        let load = self.snapshot();
        let gauges = &self.metrics.engine;
        gauges.waiting_tokens.set(load.waiting_tokens as f64);
        gauges.tenants_waiting.set(f64::from(load.tenants_waiting));
        gauges.kv_claimed.set(load.kv_blocks_claimed as f64);
        gauges.estimated_wait.set(load.estimated_wait_ms / 1e3);
        gauges.saturation.set(load.saturation);
        gauges.draining.set(if load.draining { 1.0 } else { 0.0 });
    }
}

/// Until the first step of a request that came now behind all others, of the mean size of those that wait.
fn estimated_wait_ms(window: &LoadWindow, ahead: &Ahead) -> f64 {
    let mean = |sum: f64| (sum / ahead.sequences.max(1.0)).max(1.0) as u32;
    let (prompt_tokens, max_tokens) = (mean(ahead.prompt_tokens), mean(ahead.output_tokens));
    window.estimator.wait(ahead, &Candidate { prompt_tokens, max_tokens }).first_step * 1e3
}

fn waiting(queued: u64, counts: &EngineCounts) -> u32 {
    u32::try_from(queued).unwrap_or(u32::MAX).saturating_add(counts.preempted)
}

/// How near the engine is to letting a new request wait: the greatest of the places that are taken, of the blocks that
/// are used or left for running sequences to grow into, and of the estimated wait as a part of a second.
fn saturation(counts: &EngineCounts, estimated_wait_ms: f64) -> f64 {
    let places = share(counts.running, counts.max_num_seqs);
    let blocks = share(counts.kv_used.saturating_add(counts.running), counts.kv_total);
    places.max(blocks).max(estimated_wait_ms / SATURATED_WAIT_MS).min(1.0)
}

fn share(part: u32, whole: u32) -> f64 {
    if whole == 0 { 0.0 } else { f64::from(part) / f64::from(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saturation_is_that_of_what_is_shortest() {
        covers!("API-50");
        let counts = EngineCounts { running: 8, max_num_seqs: 16, kv_used: 10, kv_total: 100, ..Default::default() };
        assert_eq!(saturation(&counts, 0.0), 0.5);
        assert_eq!(saturation(&EngineCounts { kv_used: 52, ..counts }, 0.0), 0.6);
        assert_eq!(saturation(&counts, 700.0), 0.7);
        assert_eq!(saturation(&EngineCounts { running: 16, ..counts }, 0.0), 1.0);
        assert_eq!(saturation(&EngineCounts { kv_used: 92, ..counts }, 0.0), 1.0);
        assert_eq!(saturation(&counts, 9000.0), 1.0);
        assert_eq!(saturation(&EngineCounts::default(), 0.0), 0.0);
    }
}
