//! Nanoseconds of one plan and commit with 256 decoding sequences, alone and with a long queue behind them.

use criterion::{Criterion, criterion_group, criterion_main};
use llorch_cpud::scheduler::{Outcome, Scheduler, SchedulerConfig, Sharing, StepPlan};
use llorch_cpud::types::{CacheDomain, SeqId, TokenId, Turn};

const NUM_SEQS: u32 = 256;
/// Tokens of a sequence when it is replaced by a new one.
const CONTEXT: u32 = 2048;
const BLOCK_SIZE: u32 = 32;
const QUEUED: u64 = 10_000;
/// Whose they are.
const TENANTS: u64 = 512;

fn config() -> SchedulerConfig {
    SchedulerConfig {
        // A place is free, so that the queue is looked at.
        max_num_seqs: NUM_SEQS + 1,
        max_num_batched_tokens: 64 * NUM_SEQS,
        num_blocks: (NUM_SEQS + 1) * CONTEXT / BLOCK_SIZE,
        block_size: BLOCK_SIZE,
        max_model_len: (NUM_SEQS + 1) * CONTEXT,
    }
}

/// A scheduler in which all sequences decode, each with a prompt of 64 tokens of which 32 are the same for all.
fn decoding() -> Scheduler {
    let mut scheduler = Scheduler::new(config()).expect("valid limits");
    // What is left in the cache for the first of the queue.
    submit(&mut scheduler, u64::MAX - 1, &[9; CONTEXT as usize], 1, "0");
    step(&mut scheduler, &mut StepPlan::default(), &[Outcome::Finish]);
    for id in 0..u64::from(NUM_SEQS) {
        let mut prompt = [1; 64];
        prompt[32] = id as u32;
        submit(&mut scheduler, id, &prompt, CONTEXT - 64, &(id % 2).to_string());
    }
    step(&mut scheduler, &mut StepPlan::default(), &[Outcome::Append(1); NUM_SEQS as usize]);
    scheduler
}

/// [`decoding`] with a long queue. Its first has a prompt that is too long for the blocks that are left, with a prefix
/// of [`CONTEXT`] tokens in the cache, which is looked up in every step.
fn with_queue() -> Scheduler {
    let mut scheduler = decoding();
    let config = config();
    let longest = (config.num_blocks * BLOCK_SIZE - 1) as usize;
    let prompt: Vec<TokenId> = (0..longest).map(|i| if i < CONTEXT as usize { 9 } else { 2 }).collect();
    // Of a tenant that comes first among equals.
    submit(&mut scheduler, 1000, &prompt, 1, "first");
    for id in 1001..1000 + QUEUED {
        submit(&mut scheduler, id, &[3; 64], 64, &(id % TENANTS).to_string());
    }
    scheduler
}

fn submit(scheduler: &mut Scheduler, id: u64, prompt: &[TokenId], max_tokens: u32, tenant: &str) {
    let sharing = Sharing { n: 1, domain: Some(CacheDomain::new("model", "tenant", "salt")) };
    let turn = Turn { tenant: tenant.into(), ..Turn::default() };
    scheduler.submit(SeqId(id), prompt, max_tokens, sharing, &turn).expect("the pool is large");
}

fn step(scheduler: &mut Scheduler, plan: &mut StepPlan, outcomes: &[Outcome]) {
    scheduler.plan(plan, u32::MAX);
    scheduler.commit(plan, outcomes);
}

fn plan_and_commit(c: &mut Criterion) {
    bench(c, "plan and commit, 256 sequences", decoding);
    bench(c, "plan and commit, 256 sequences, 10 000 queued of 512 tenants", with_queue);
}

fn bench(c: &mut Criterion, name: &str, make: fn() -> Scheduler) {
    let outcomes = [Outcome::Append(1); NUM_SEQS as usize];
    let (mut scheduler, mut plan) = (make(), StepPlan::default());
    c.bench_function(name, |b| {
        b.iter(|| {
            // Start again before the sequences end.
            if scheduler.running()[0].num_tokens() + 1 >= CONTEXT {
                scheduler = make();
            }
            step(&mut scheduler, &mut plan, &outcomes);
        });
    });
}

criterion_group!(benches, plan_and_commit);
criterion_main!(benches);
