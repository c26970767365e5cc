//! Every state that the scheduler can reach on tiny pools: three requests, blocks of two tokens, all orders of submit,
//! abort and step, every step ending any subset of the sequences that sample.

use llorch_cpud::scheduler::{Outcome, Scheduler, SchedulerConfig, Sequence, StepPlan};
use llorch_cpud::types::SeqId;
use std::collections::{HashSet, VecDeque};

/// A request: prompt length and max_tokens. Together at most 7 tokens, in blocks of 2.
type Kind = (u32, u32);

const KINDS: [Kind; 5] = [(1, 2), (1, 6), (2, 3), (3, 4), (5, 2)];

/// The scheduler and how many of the requests were submitted.
#[derive(Clone)]
struct State {
    scheduler: Scheduler,
    num_submitted: usize,
}

/// What decides the future: lengths and order. Which block has which number does not.
fn key(state: &State) -> Vec<u32> {
    let of = |s: &Sequence| {
        [
            s.id().0 as u32,
            s.num_tokens(),
            s.num_computed_tokens(),
            s.max_computed_tokens(),
            u32::from(s.was_scheduled()),
        ]
    };
    let running = state.scheduler.running().iter().flat_map(of);
    let waiting = state.scheduler.waiting().flat_map(of);
    [state.num_submitted as u32, state.scheduler.running().len() as u32]
        .into_iter()
        .chain(running)
        .chain(waiting)
        .collect()
}

/// One step in which the sampling sequence number `i` ends early if bit `i` of `early` is set.
/// Returns the number of sequences that sampled.
fn step(scheduler: &mut Scheduler, requests: &[Kind], early: u32) -> u32 {
    let mut plan = StepPlan::default();
    let had_work = scheduler.has_work();
    let oldest = scheduler.running().first().or(scheduler.waiting().next()).map(Sequence::id);
    scheduler.plan(&mut plan);
    assert_eq!(plan.is_empty(), !had_work, "SCH-5: work and no plan");
    assert_eq!(plan.sequences.first().map(|s| s.id), oldest, "SCH-5: the oldest computes");
    assert!(plan.num_tokens <= scheduler.config().max_num_batched_tokens, "SCH-3: {plan:?}");
    assert!(plan.sequences.len() <= scheduler.config().max_num_seqs as usize, "SCH-3: {plan:?}");
    let mut slots = HashSet::new();
    for s in &plan.sequences {
        let sequence = &scheduler.running()[s.index as usize];
        for position in s.start..s.start + s.num_tokens {
            assert!(slots.insert(sequence.block_table().slot(position)), "SCH-2: a slot is written twice: {plan:?}");
        }
    }
    let outcome = |(i, s): (usize, &llorch_cpud::scheduler::ScheduledSequence)| {
        let generated = scheduler.running()[s.index as usize].num_generated_tokens() + 1;
        let is_last = generated == requests[s.id.0 as usize].1;
        if is_last || early >> i & 1 == 1 { Outcome::Finish } else { Outcome::Append(0) }
    };
    let outcomes: Vec<Outcome> = plan.samples().enumerate().map(outcome).collect();
    scheduler.commit(&plan, &outcomes);
    outcomes.len() as u32
}

/// SCH-5: without further events everything ends, at worst one token a step.
fn check_progress(state: &State, requests: &[Kind]) {
    let mut scheduler = state.scheduler.clone();
    for _ in 0..requests.iter().map(|(prompt, max_tokens)| prompt + max_tokens).sum() {
        step(&mut scheduler, requests, 0);
    }
    assert!(!scheduler.has_work(), "SCH-5: no end of {requests:?} from {:?}", state.scheduler);
    assert_eq!(scheduler.pool().num_used(), 0, "SCH-1: blocks are lost");
}

fn successors(state: &State, requests: &[Kind]) -> Vec<State> {
    let mut next = Vec::new();
    if let Some((prompt, max_tokens)) = requests.get(state.num_submitted) {
        let mut after = state.clone();
        let tokens = vec![0; *prompt as usize];
        let fits = (prompt + max_tokens).div_ceil(2) <= state.scheduler.config().num_blocks;
        let result = after.scheduler.submit(SeqId(state.num_submitted as u64), &tokens, *max_tokens);
        assert_eq!(result.is_ok(), fits, "SCH-8");
        after.num_submitted += 1;
        next.push(after);
    }
    for id in 0..state.num_submitted as u64 {
        let mut after = state.clone();
        if after.scheduler.abort(SeqId(id)) {
            assert!(after.scheduler.get(SeqId(id)).is_none(), "SCH-7");
            next.push(after);
        }
    }
    let mut early = 0;
    loop {
        let mut after = state.clone();
        let num_samples = step(&mut after.scheduler, requests, early);
        next.push(after);
        early += 1;
        if early >> num_samples != 0 {
            return next;
        }
    }
}

/// Visits every state. Returns how many there are, and in how many a preempted sequence waits.
fn explore(config: SchedulerConfig, requests: &[Kind]) -> (usize, usize) {
    let start = State { scheduler: Scheduler::new(config).expect("valid limits"), num_submitted: 0 };
    let mut seen = HashSet::from([key(&start)]);
    let mut queue = VecDeque::from([start]);
    let mut num_preempted = 0;
    while let Some(state) = queue.pop_front() {
        num_preempted += usize::from(state.scheduler.waiting().any(Sequence::was_scheduled));
        state.scheduler.check_invariants();
        check_progress(&state, requests);
        for after in successors(&state, requests) {
            if seen.insert(key(&after)) {
                queue.push_back(after);
            }
        }
    }
    (seen.len(), num_preempted)
}

#[test]
fn sch_1_to_8_hold_in_every_state_of_tiny_pools() {
    covers!("SCH-1", "SCH-2", "SCH-3", "SCH-4", "SCH-5", "SCH-6", "SCH-7", "SCH-8");
    let (mut num_states, mut num_preempted) = (0, 0);
    for i in 0..KINDS.len().pow(3) {
        let requests = [KINDS[i % 5], KINDS[i / 5 % 5], KINDS[i / 25]];
        for num_blocks in 2..=5 {
            for max_num_batched_tokens in [1, 2, 3, 8] {
                let config = SchedulerConfig {
                    max_num_seqs: 3,
                    max_num_batched_tokens,
                    num_blocks,
                    block_size: 2,
                    max_model_len: 16,
                };
                let (states, preempted) = explore(config, &requests);
                (num_states, num_preempted) = (num_states + states, num_preempted + preempted);
            }
        }
    }
    // Fewer would mean that events are lost.
    assert!(num_states > 50_000 && num_preempted > 500, "{num_states} states, {num_preempted} with a preemption");
}
