//! The properties of the scheduler's state that hold between steps. Ids as in `specs/03_BATCHED_SCHEDULER.md`.

use super::{BlockPool, SchedulerConfig, Sequence};
use crate::types::BlockId;
use std::collections::VecDeque;

/// Panics with the id of a property that does not hold.
pub fn check(config: &SchedulerConfig, running: &[Sequence], waiting: &VecDeque<Sequence>, pool: &BlockPool) {
    check_blocks(running, waiting, pool);
    check_sequences(config, running, waiting);
    check_order(config, running, waiting);
}

/// SCH-1: every block is free or referenced, once for each time it occurs in a table.
fn check_blocks(running: &[Sequence], waiting: &VecDeque<Sequence>, pool: &BlockPool) {
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
    }
    for (block, count) in references.into_iter().enumerate() {
        let id = BlockId(block as u32);
        assert_eq!(pool.ref_count(id), count, "SCH-1: references to {id:?}");
        assert_eq!(is_free[block], count == 0, "SCH-1: {id:?} is lost or both free and referenced");
        // Nothing is shared yet, so that every write goes to a block of its own (SCH-2).
        assert!(count <= 1, "SCH-2: {id:?} is shared");
    }
}

/// SCH-4: computed tokens are known, and the table holds exactly them.
fn check_sequences(config: &SchedulerConfig, running: &[Sequence], waiting: &VecDeque<Sequence>) {
    for sequence in running.iter().chain(waiting) {
        let (id, known, computed) = (sequence.id(), sequence.num_tokens(), sequence.num_computed_tokens());
        assert!(computed < known, "SCH-4: {id:?} has {computed} of {known} tokens computed");
        assert!(known <= sequence.max_len(), "SCH-4: {id:?} knows {known} tokens");
        // Between plan and commit the table runs ahead by the tokens of the step; this is called after commit.
        let (held, needed) = (sequence.block_table().blocks().len(), computed.div_ceil(config.block_size));
        assert_eq!(held, needed as usize, "SCH-4: {id:?} holds blocks for other than its {computed} tokens");
    }
    for sequence in waiting {
        assert_eq!(sequence.num_computed_tokens(), 0, "SCH-4: {:?} waits with computed tokens", sequence.id());
    }
}

/// SCH-3 and SCH-6: limits, order of arrival, and that only the youngest is behind by more than a token.
fn check_order(config: &SchedulerConfig, running: &[Sequence], waiting: &VecDeque<Sequence>) {
    let limit = config.max_num_seqs.min(config.max_num_batched_tokens) as usize;
    assert!(running.len() <= limit, "SCH-3: {} sequences run", running.len());
    let mut arrivals = running.iter().chain(waiting).map(Sequence::arrival);
    assert!(arrivals.by_ref().is_sorted_by(|a, b| a < b), "SCH-6: running and waiting are not in order of arrival");
    if let Some((_youngest, older)) = running.split_last() {
        for sequence in older {
            let pending = sequence.num_pending_tokens();
            assert!(pending <= 1, "SCH-6: {:?} is behind by {pending} tokens and a younger one runs", sequence.id());
        }
    }
}
