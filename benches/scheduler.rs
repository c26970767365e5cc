//! Nanoseconds of one plan and commit with 256 decoding sequences.

use criterion::{Criterion, criterion_group, criterion_main};
use llorch_cpud::scheduler::{Outcome, Scheduler, SchedulerConfig, StepPlan};
use llorch_cpud::types::SeqId;

const NUM_SEQS: u32 = 256;
const CONTEXT: u32 = 2048;
const BLOCK_SIZE: u32 = 32;

/// A scheduler in which all sequences decode, each with a prompt of 64 tokens.
fn decoding() -> Scheduler {
    let config = SchedulerConfig {
        max_num_seqs: NUM_SEQS,
        max_num_batched_tokens: 64 * NUM_SEQS,
        num_blocks: NUM_SEQS * CONTEXT / BLOCK_SIZE,
        block_size: BLOCK_SIZE,
        max_model_len: CONTEXT,
    };
    let mut scheduler = Scheduler::new(config).expect("valid limits");
    for id in 0..u64::from(NUM_SEQS) {
        scheduler.submit(SeqId(id), &[1; 64], CONTEXT).expect("the pool is large");
    }
    step(&mut scheduler, &mut StepPlan::default(), &[Outcome::Append(1); NUM_SEQS as usize]);
    scheduler
}

fn step(scheduler: &mut Scheduler, plan: &mut StepPlan, outcomes: &[Outcome]) {
    scheduler.plan(plan);
    scheduler.commit(plan, outcomes);
}

fn plan_and_commit(c: &mut Criterion) {
    let outcomes = [Outcome::Append(1); NUM_SEQS as usize];
    let (mut scheduler, mut plan) = (decoding(), StepPlan::default());
    c.bench_function("plan and commit, 256 sequences", |b| {
        b.iter(|| {
            // Start again before the context is full.
            if scheduler.running()[0].num_tokens() + 1 >= CONTEXT {
                scheduler = decoding();
            }
            step(&mut scheduler, &mut plan, &outcomes);
        });
    });
}

criterion_group!(benches, plan_and_commit);
criterion_main!(benches);
