//! Every state that the scheduler can reach on tiny pools: three requests, blocks of two tokens, all orders of submit,
//! abort and step, every step ending any subset of the sequences that sample, or poisoning one.

use llorch_cpud::scheduler::{Outcome, Scheduler, SchedulerConfig, Sequence, Sharing, StepPlan};
use llorch_cpud::types::{BlockId, CacheDomain, SeqId, TokenId, Turn};
use std::collections::{HashMap, HashSet, VecDeque};

/// A request, at most 7 tokens in blocks of 2. The token at a position is the position, so that all requests that use
/// the cache share what they can.
#[derive(Clone, Copy, Debug)]
struct Kind {
    prompt: u32,
    max_tokens: u32,
    n: u32,
    cached: bool,
    tenant: &'static str,
}

const fn kind(prompt: u32, max_tokens: u32, n: u32, cached: bool, tenant: &'static str) -> Kind {
    Kind { prompt, max_tokens, n, cached, tenant }
}

const KINDS: [Kind; 7] = [
    kind(1, 2, 1, true, "a"),
    kind(1, 6, 1, true, "a"),
    kind(5, 2, 1, true, "b"),
    kind(3, 4, 1, false, "a"),
    kind(3, 2, 3, true, "a"),
    kind(4, 2, 2, true, "b"),
    kind(2, 3, 2, false, "a"),
];

/// The scheduler and how many of the requests were submitted.
#[derive(Clone)]
struct State {
    scheduler: Scheduler,
    num_submitted: usize,
}

/// What happened on the way, over all states.
#[derive(Default, Debug)]
struct Coverage {
    states: usize,
    preempted: usize,
    cached: usize,
    shared: usize,
    hits: usize,
    copies: usize,
    evictions: usize,
}

fn first_id(requests: &[Kind], request: usize) -> u64 {
    requests[..request].iter().map(|kind| u64::from(kind.n)).sum()
}

/// What decides the future: lengths, order, who shares what, and what is cached. Which block has which number does not:
/// known blocks are named by their depth, the others in the order in which they are met.
fn key(state: &State) -> Vec<u32> {
    let cache = state.scheduler.pool().cache();
    let depth = |block: BlockId| {
        let mut at = cache.contents(block)?;
        let mut depth = 0;
        while let Some(parent) = at.parent {
            (at, depth) = (cache.contents(parent)?, depth + 1);
        }
        Some(depth)
    };
    let mut names = HashMap::new();
    let mut name = |block: BlockId| {
        let next = 1000 + names.len() as u32;
        depth(block).unwrap_or_else(|| *names.entry(block).or_insert(next))
    };
    let mut key = vec![state.num_submitted as u32, state.scheduler.running().len() as u32];
    for s in state.scheduler.running().iter().chain(state.scheduler.waiting()) {
        key.extend([s.id().0 as u32, s.num_tokens(), s.num_computed_tokens(), s.max_computed_tokens()]);
        key.extend([s.num_forks(), s.num_preemptions(), u32::from(s.was_scheduled())]);
        key.extend(s.block_table().blocks().iter().map(|block| name(*block)));
    }
    key.push(u32::MAX);
    key.extend(cache.unused().map(name));
    // Whose turn it is depends on how much more one tenant was served than another.
    let tenants = state.scheduler.queue().tenants();
    let served: Vec<u64> = tenants.num_sequences().map(|(tenant, _)| tenants.served(tenant)).collect();
    let lowest = served.iter().min().copied().unwrap_or(0);
    key.push(u32::MAX);
    key.extend(served.iter().map(|served| ((served - lowest) >> 20) as u32));
    key
}

/// How a step's samples end.
#[derive(Clone, Copy)]
enum Ends {
    /// Sample number `i` ends its sequence early if bit `i` is set.
    Early(u32),
    /// The row of logits of this number is not finite.
    Poisoned(u32),
}

/// One step. Returns the numbers of samples and of rows.
fn step(
    scheduler: &mut Scheduler,
    requests: &[Kind],
    (ends, max_prefill_tokens): (Ends, u32),
    coverage: &mut Coverage,
) -> (u32, u32) {
    let mut plan = StepPlan::default();
    let had_work = scheduler.has_work();
    let oldest =
        scheduler.running().first().or(scheduler.preempted().next()).or(scheduler.queue().first()).map(Sequence::id);
    let num_evicted = scheduler.pool().num_evicted();
    let decodes: Vec<SeqId> =
        scheduler.running().iter().filter(|s| s.num_pending_tokens() == 1).map(Sequence::id).collect();
    scheduler.plan(&mut plan, max_prefill_tokens);
    coverage.evictions += (scheduler.pool().num_evicted() - num_evicted) as usize;
    coverage.hits += usize::from(plan.num_hit_tokens > 0);
    coverage.copies += plan.copies.len();
    assert_eq!(plan.is_empty(), !had_work, "SCH-5: work and no plan");
    assert_eq!(plan.sequences.first().map(|s| s.id), oldest, "SCH-5: the oldest computes");
    assert!(plan.num_tokens <= scheduler.config().max_num_batched_tokens, "SCH-3: {plan:?}");
    assert!(plan.sequences.len() <= scheduler.config().max_num_seqs as usize, "SCH-3: {plan:?}");
    let prefill: u32 = plan.sequences.iter().filter(|s| !decodes.contains(&s.id)).map(|s| s.num_tokens).sum();
    let most = if decodes.is_empty() { max_prefill_tokens.max(1) } else { max_prefill_tokens };
    assert!(prefill <= most, "SCH-19: {plan:?}");
    let mut slots = HashSet::new();
    for s in &plan.sequences {
        let table = scheduler.running()[s.index as usize].block_table();
        for position in s.start..s.start + s.num_tokens {
            assert!(slots.insert(table.slot(position)), "SCH-2: a slot is written twice: {plan:?}");
            assert!(!table.is_shared(position, scheduler.pool()), "SCH-2: a shared block is written: {plan:?}");
        }
    }
    let max_tokens = |id: SeqId| {
        let request = (0..requests.len()).rfind(|&request| first_id(requests, request) <= id.0).expect("an id");
        requests[request].max_tokens
    };
    let outcomes: Vec<Outcome> = (plan.samples().enumerate())
        .map(|(i, sample)| {
            let sequence = &scheduler.running()[sample.index as usize];
            let is_last = sequence.num_generated_tokens() + 1 == max_tokens(sample.id);
            match ends {
                Ends::Poisoned(row) if row == sample.row => Outcome::Poisoned,
                Ends::Early(early) if early >> i & 1 == 1 => Outcome::Finish,
                _ if is_last => Outcome::Finish,
                _ => Outcome::Append(sequence.num_tokens()),
            }
        })
        .collect();
    scheduler.commit(&plan, &outcomes);
    (outcomes.len() as u32, plan.num_rows())
}

/// SCH-5: without further events everything ends, at worst one token a step.
fn check_progress(state: &State, requests: &[Kind]) {
    let mut scheduler = state.scheduler.clone();
    for _ in 0..requests.iter().map(|kind| (kind.prompt + kind.max_tokens) * kind.n).sum() {
        step(&mut scheduler, requests, (Ends::Early(0), u32::MAX), &mut Coverage::default());
    }
    assert!(!scheduler.has_work(), "SCH-5: no end of {requests:?} from {:?}", state.scheduler);
    assert_eq!(scheduler.pool().num_used(), 0, "SCH-1: blocks are lost");
}

fn successors(state: &State, requests: &[Kind], coverage: &mut Coverage) -> Vec<State> {
    let mut next = Vec::new();
    let first = first_id(requests, state.num_submitted);
    if let Some(kind) = requests.get(state.num_submitted) {
        let mut after = state.clone();
        let tokens: Vec<TokenId> = (0..kind.prompt).collect();
        let fits = (kind.prompt + kind.max_tokens).div_ceil(2) <= state.scheduler.config().num_blocks;
        let sharing = Sharing { n: kind.n, domain: kind.cached.then_some(CacheDomain([7; 32])) };
        let turn = Turn { tenant: kind.tenant.into(), ..Turn::default() };
        let result = after.scheduler.submit(SeqId(first), &tokens, kind.max_tokens, sharing, &turn);
        assert_eq!(result.is_ok(), fits, "SCH-8");
        after.num_submitted += 1;
        next.push(after);
    }
    for id in (0..first).map(SeqId) {
        let mut after = state.clone();
        if after.scheduler.abort(id).is_some() {
            assert!(after.scheduler.get(id).is_none(), "SCH-7");
            next.push(after);
        }
    }
    let mut early = 0;
    let num_rows = loop {
        let mut after = state.clone();
        let (num_samples, num_rows) = step(&mut after.scheduler, requests, (Ends::Early(early), u32::MAX), coverage);
        next.push(after);
        early += 1;
        if early >> num_samples != 0 {
            break num_rows;
        }
    };
    for max_prefill_tokens in 0..=1 {
        let mut after = state.clone();
        step(&mut after.scheduler, requests, (Ends::Early(0), max_prefill_tokens), coverage);
        next.push(after);
    }
    for row in 0..num_rows {
        let mut after = state.clone();
        step(&mut after.scheduler, requests, (Ends::Poisoned(row), u32::MAX), coverage);
        next.push(after);
    }
    next
}

/// Visits every state.
fn explore(config: SchedulerConfig, requests: &[Kind], coverage: &mut Coverage) {
    let start = State { scheduler: Scheduler::new(config).expect("valid limits"), num_submitted: 0 };
    let mut seen = HashSet::from([key(&start)]);
    let mut queue = VecDeque::from([start]);
    while let Some(state) = queue.pop_front() {
        let pool = state.scheduler.pool();
        coverage.preempted += usize::from(state.scheduler.waiting().any(|s| s.num_preemptions() > 0));
        coverage.cached += usize::from(pool.num_cached() > 0);
        coverage.shared += usize::from((0..pool.num_blocks()).any(|block| pool.ref_count(BlockId(block)) > 1));
        state.scheduler.check_invariants();
        check_progress(&state, requests);
        for after in successors(&state, requests, coverage) {
            if seen.insert(key(&after)) {
                queue.push_back(after);
            }
        }
    }
    coverage.states += seen.len();
}

#[test]
fn sch_1_to_19_hold_in_every_state_of_tiny_pools() {
    covers!("SCH-1", "SCH-2", "SCH-3", "SCH-4", "SCH-5", "SCH-6", "SCH-7", "SCH-8");
    covers!("SCH-11", "SCH-12", "SCH-14", "SCH-15", "SCH-17", "SCH-19");
    let mut coverage = Coverage::default();
    let kinds = KINDS.len();
    for i in 0..kinds.pow(3) {
        let requests = [KINDS[i % kinds], KINDS[i / kinds % kinds], KINDS[i / kinds / kinds]];
        for num_blocks in 2..=4 {
            for (max_num_seqs, max_num_batched_tokens) in [(3, 1), (3, 2), (2, 8), (3, 3), (4, 8)] {
                let config = SchedulerConfig {
                    max_num_seqs,
                    max_num_batched_tokens,
                    num_blocks,
                    block_size: 2,
                    max_model_len: 16,
                };
                explore(config, &requests, &mut coverage);
            }
        }
    }
    // Fewer would mean that events are lost.
    #[expect(clippy::print_stdout, reason = "figures for who asks with --nocapture")]
    {
        println!("{coverage:?}");
    }
    let c = &coverage;
    let often = [c.preempted, c.cached, c.shared, c.hits, c.copies, c.evictions];
    assert!(c.states > 200_000 && often.iter().all(|&count| count > 2_000), "{coverage:?}");
}
