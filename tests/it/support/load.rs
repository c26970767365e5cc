//! What a load test of the tests sends.

use llorch_cpud::load::workload::{Length, SamplingMix, Workload};

/// Short greedy requests, none cancelled, none with a deadline.
pub fn workload(requests: usize, gen_tokens: Length) -> Workload {
    Workload {
        requests,
        prompt_tokens: Length { min: 4, max: 20 },
        gen_tokens,
        shared_prefix_tokens: 0,
        sampling: SamplingMix::Greedy,
        cancel_percent: 0.0,
        deadline_percent: 100.0,
        deadline_ms: None,
        seed: 42,
    }
}
