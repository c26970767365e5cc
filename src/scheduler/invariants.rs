//! The properties of the scheduler's state that hold between steps. Ids as in `specs/03_BATCHED_SCHEDULER.md`.

use super::prefix_cache::BlockKey;
use super::{BlockPool, FairQueue, MAX_PREEMPTIONS, SchedulerConfig, Sequence, TenantIndex};
use crate::types::BlockId;
use std::collections::{BTreeMap, VecDeque};

/// Panics with the id of a property that does not hold.
pub fn check(
    config: &SchedulerConfig,
    running: &[Sequence],
    preempted: &VecDeque<Sequence>,
    queue: &FairQueue,
    pool: &BlockPool,
) {
    let waiting: Vec<&Sequence> = preempted.iter().chain(queue.iter()).collect();
    check_blocks(running, &waiting, pool);
    check_cache(pool);
    for sequence in running {
        check_contents(config, sequence, pool);
    }
    check_sharing(config, running, pool);
    check_sequences(config, running, &waiting);
    check_order(config, running, preempted, queue);
    check_tenants(running, &waiting, queue);
}

/// SCH-1: every block is free, cached or referenced, the last once for each time it occurs in a table.
fn check_blocks(running: &[Sequence], waiting: &[&Sequence], pool: &BlockPool) {
    let mut references = vec![0u32; pool.num_blocks() as usize];
    for sequence in running {
        for block in sequence.block_table().blocks() {
            references[block.0 as usize] += 1;
        }
    }
    for sequence in waiting {
        assert!(sequence.block_table().blocks().is_empty(), "SCH-1: {:?} waits and holds blocks", sequence.id());
    }
    let mut is_free = vec![false; references.len()];
    for block in pool.free_blocks() {
        let seen = std::mem::replace(&mut is_free[block.0 as usize], true);
        assert!(!seen, "SCH-1: {block:?} is twice in the free list");
        assert!(!pool.cache().knows(*block), "SCH-1: {block:?} is free and has known contents");
    }
    for block in pool.cache().unused() {
        let seen = std::mem::replace(&mut is_free[block.0 as usize], true);
        assert!(!seen, "SCH-1: {block:?} is both free and cached, or twice cached");
        assert!(pool.cache().knows(block), "SCH-1: {block:?} is cached and its contents are not known");
    }
    for (block, count) in references.into_iter().enumerate() {
        let id = BlockId(block as u32);
        assert_eq!(pool.ref_count(id), count, "SCH-1: references to {id:?}");
        assert_eq!(is_free[block], count == 0, "SCH-1: {id:?} is lost or both free and referenced");
    }
    let sum = pool.num_free() + pool.num_cached() + pool.num_used();
    assert_eq!(sum, pool.num_blocks(), "SCH-1: free, cached and referenced blocks");
}

/// SCH-11 and SCH-12: the known blocks are chains from the roots of their domains, and the order of eviction takes
/// none before those below it.
fn check_cache(pool: &BlockPool) {
    let cache = pool.cache();
    let mut place = vec![None; pool.num_blocks() as usize];
    for (at, block) in cache.unused().enumerate() {
        place[block.0 as usize] = Some(at);
    }
    let mut num_known = 0;
    for block in (0..pool.num_blocks()).map(BlockId) {
        let Some(contents) = cache.contents(block) else { continue };
        num_known += 1;
        assert_eq!(cache.find(&contents), Some(block), "SCH-11: {block:?} is not found by its contents");
        let Some(parent) = contents.parent else { continue };
        let above = cache.contents(parent).map(|parent| parent.key);
        assert_eq!(above, Some(contents.above), "SCH-11: {parent:?} above {block:?}");
        let counts = (pool.ref_count(parent), pool.ref_count(block));
        assert!(counts.0 >= counts.1, "SCH-12: references to {parent:?} and to {block:?} below it: {counts:?}");
        if let Some(at) = place[parent.0 as usize] {
            assert!(
                place[block.0 as usize].is_some_and(|below| below < at),
                "SCH-12: {parent:?} goes before {block:?}"
            );
        }
    }
    assert_eq!(cache.len(), num_known, "SCH-11: the index holds other blocks than the known ones");
}

/// SCH-11: the keys are the hashes they should be. Apart from [`check`], as hashing takes time.
pub fn check_keys(pool: &BlockPool) {
    for block in (0..pool.num_blocks()).map(BlockId) {
        if let Some(contents) = pool.cache().contents(block) {
            let key = pool.cache().key(&contents.above, contents.tokens);
            assert_eq!(contents.key, key, "SCH-11: the key of {block:?}");
        }
    }
}

/// SCH-11: what is known of the blocks of a sequence is true, and only of blocks that it has computed to the end.
fn check_contents(config: &SchedulerConfig, sequence: &Sequence, pool: &BlockPool) {
    let (id, size) = (sequence.id(), config.block_size as usize);
    let mut above = sequence.domain().map(BlockKey::from);
    let mut parent = None;
    for (index, block) in sequence.block_table().blocks().iter().enumerate() {
        let Some(contents) = pool.cache().contents(*block) else {
            // What lies below an unknown block is not known either.
            above = None;
            continue;
        };
        let end = (index + 1) * size;
        assert!(end <= sequence.num_computed_tokens() as usize, "SCH-11: {block:?} of {id:?} is known and not full");
        assert_eq!(Some(contents.above), above, "SCH-13: {block:?} of {id:?} is of another domain or prefix");
        assert_eq!(contents.parent, parent, "SCH-11: the block above {block:?} of {id:?}");
        assert_eq!(contents.tokens, &sequence.tokens()[end - size..end], "SCH-11: the tokens of {block:?} of {id:?}");
        (above, parent) = (Some(contents.key), Some(*block));
    }
}

/// SCH-2: sequences share a block only where all their tokens up to its end, or as far as it is written, are equal;
/// so nobody is ahead of another within it.
fn check_sharing(config: &SchedulerConfig, running: &[Sequence], pool: &BlockPool) {
    let mut holders: Vec<Option<(&Sequence, usize)>> = vec![None; pool.num_blocks() as usize];
    for sequence in running {
        for (index, block) in sequence.block_table().blocks().iter().enumerate() {
            let Some((first, at)) = holders[block.0 as usize].replace((sequence, index)) else { continue };
            let written =
                |s: &Sequence| ((index + 1) * config.block_size as usize).min(s.num_computed_tokens() as usize);
            let end = written(first);
            assert_eq!((at, end), (index, written(sequence)), "SCH-2: {block:?} is shared and was written by one");
            let (one, other) = (&first.tokens()[..end], &sequence.tokens()[..end]);
            assert_eq!(one, other, "SCH-2: {block:?} is shared by {:?} and {:?}", first.id(), sequence.id());
        }
    }
}

/// SCH-4: computed tokens are known, and the table holds exactly them. SCH-14: nobody is preempted for ever.
fn check_sequences(config: &SchedulerConfig, running: &[Sequence], waiting: &[&Sequence]) {
    for sequence in running.iter().chain(waiting.iter().copied()) {
        let (id, known, computed) = (sequence.id(), sequence.num_tokens(), sequence.num_computed_tokens());
        assert!(computed < known, "SCH-4: {id:?} has {computed} of {known} tokens computed");
        assert!(known <= sequence.max_len(), "SCH-4: {id:?} knows {known} tokens");
        // Between plan and commit the table runs ahead by the tokens of the step; this is called after commit.
        let (held, needed) = (sequence.block_table().blocks().len(), computed.div_ceil(config.block_size));
        assert_eq!(held, needed as usize, "SCH-4: {id:?} holds blocks for other than its {computed} tokens");
        let preempted = sequence.num_preemptions();
        assert!(preempted <= MAX_PREEMPTIONS, "SCH-14: {id:?} was preempted {preempted} times");
        let forks = sequence.num_forks();
        assert!(forks == 0 || sequence.num_generated_tokens() == 0, "SCH-15: {id:?} has generated and not forked");
    }
    for sequence in waiting {
        assert_eq!(sequence.num_computed_tokens(), 0, "SCH-4: {:?} waits with computed tokens", sequence.id());
    }
}

/// SCH-3 and SCH-6: limits, order of first service, and that only the youngest is behind by more than a token.
fn check_order(config: &SchedulerConfig, running: &[Sequence], preempted: &VecDeque<Sequence>, queue: &FairQueue) {
    let limit = config.max_num_seqs.min(config.max_num_batched_tokens) as usize;
    assert!(running.len() <= limit, "SCH-3: {} sequences run", running.len());
    let mut seniorities = running.iter().chain(preempted).map(Sequence::seniority);
    assert!(
        seniorities.by_ref().is_sorted_by(|a, b| a < b),
        "SCH-6: running and preempted are not in order of service"
    );
    if let Some((_youngest, older)) = running.split_last() {
        for sequence in older {
            let pending = sequence.num_pending_tokens();
            assert!(pending <= 1, "SCH-6: {:?} is behind by {pending} tokens and a younger one runs", sequence.id());
        }
    }
    for sequence in queue.iter() {
        let is_new_fork = sequence.num_generated_tokens() == 1 && sequence.num_preemptions() == 0;
        assert!(!sequence.was_scheduled() || is_new_fork, "SCH-6: {:?} ran and is in the queue", sequence.id());
        assert_eq!(queue.get(sequence.id()).map(Sequence::id), Some(sequence.id()), "SCH-6: its place in the queue");
    }
    let counts = queue.iter().map(|s| (1 + u64::from(s.num_forks()), u64::from(s.num_tokens())));
    let sums = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!((queue.num_sequences(), queue.num_tokens()), sums, "SCH-6: counts of the queue");
}

/// SCH-18: each sequence counts once for its tenant, and no tenant is there without one.
fn check_tenants(running: &[Sequence], waiting: &[&Sequence], queue: &FairQueue) {
    let mut counts: BTreeMap<TenantIndex, u32> = BTreeMap::new();
    for sequence in running.iter().chain(waiting.iter().copied()) {
        *counts.entry(sequence.tenant()).or_default() += 1;
    }
    for (tenant, count) in queue.tenants().num_sequences() {
        assert_eq!(counts.remove(&tenant), Some(count), "SCH-18: sequences of {tenant:?}");
    }
    assert!(counts.is_empty(), "SCH-18: tenants that are not there have sequences: {counts:?}");
}
