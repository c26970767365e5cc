//! LAW-6: a decode step allocates nothing once warm.
#![allow(unsafe_code)]

use crate::support::isas;
use crate::support::run_model::{Circumstances, TinyModel, build};
use llorch_cpud::engine::request::NewSequence;
use llorch_cpud::engine::{Engine, EngineConfig};
use llorch_cpud::kv_cache::KvType;
use llorch_cpud::quant::WeightType;
use llorch_cpud::sampling::params::{SamplingParams, SequenceParams, StopParams};
use llorch_cpud::scheduler::SchedulerConfig;
use llorch_cpud::types::{CacheDomain, SeqId};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// Of this thread alone: other tests run beside.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The check of the scheduler's state after each step in a debug build.
const OF_THE_CHECK: usize = if cfg!(debug_assertions) { 5 } else { 0 };

/// The system's allocator, with a count.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on as it is; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `realloc`, and `memory` came from the system's allocator.
        unsafe { System.realloc(memory, layout, size) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `memory` came from the system's allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[test]
fn law_6_a_warm_decode_step_allocates_nothing() {
    covers!("LAW-6", "ARCH-9");
    for isa in isas() {
        for (weight_type, second_type, kv_type, block_size) in [
            (WeightType::F32, None, KvType::F16, 32),
            (WeightType::Q8_0, None, KvType::F32, 32),
            (WeightType::BF16, None, KvType::BF16, 5),
            (WeightType::F16, None, KvType::Q8_0, 32),
            (WeightType::Q4K, Some(WeightType::Q5_0), KvType::F16, 32),
        ] {
            let tiny = TinyModel { weight_type, second_type, kv_type, ..TinyModel::default() };
            // One thread, so that all work is on the one that is counted.
            let circumstances =
                Circumstances { isa, threads: 1, max_rows: 64, max_logits_rows: 8, num_blocks: 256, block_size };
            let built = build(&tiny, circumstances);
            let scheduler = SchedulerConfig {
                max_num_seqs: 8,
                max_num_batched_tokens: 64,
                num_blocks: 256,
                block_size: block_size as u32,
                max_model_len: 128,
            };
            let config = EngineConfig { scheduler, eog_ids: vec![] };
            let mut engine = Engine::new(config, built.model, built.kv_cache, built.pool).expect("the limits are good");
            for index in 0..8 {
                let sampling = SamplingParams {
                    temperature: index as f32 / 4.0,
                    top_p: 0.9,
                    frequency_penalty: 0.1,
                    ..SamplingParams::default()
                };
                let stopping = StopParams { max_tokens: 110, ..StopParams::default() };
                let params = Arc::new(SequenceParams { sampling, stopping, logprobs: None });
                let prompt: Vec<u32> = (0..5 + index as u32).collect();
                // With the prefix cache: full blocks become known as they go.
                let domain = Some(CacheDomain::new("model", "tenant", "salt"));
                let sequence = NewSequence { domain, ..NewSequence::new(prompt.into(), params) };
                engine.submit(SeqId(index), sequence).expect("every sequence fits the pool");
            }
            for _ in 0..20 {
                engine.step();
            }
            let mut more = 0;
            for _ in 0..80 {
                let start = ALLOCATIONS.get();
                assert_eq!(engine.step().outputs.len(), 8);
                more += ALLOCATIONS.get() - start - OF_THE_CHECK;
            }
            assert!(more == 0, "{more} allocations, {} {weight_type} {kv_type} blocks of {block_size}", isa.name());
        }
    }
}
