//! From a plan to the arrays of the forward pass. Arithmetic only.

use crate::scheduler::{Scheduler, StepPlan};
use crate::types::ForwardBatch;

/// Overwrites `batch` with what `plan` says about the sequences of `scheduler`; memory is used again.
pub fn fill(plan: &StepPlan, scheduler: &Scheduler, batch: &mut ForwardBatch) {
    batch.clear();
    batch.block_copies.extend_from_slice(&plan.copies);
    batch.query_start_loc.push(0);
    batch.block_table_start.push(0);
    for scheduled in &plan.sequences {
        let sequence = &scheduler.running()[scheduled.index as usize];
        assert_eq!(sequence.id(), scheduled.id, "the plan is the last one made");
        let end = scheduled.start + scheduled.num_tokens;
        let table = sequence.block_table();
        batch.token_ids.extend_from_slice(&sequence.tokens()[scheduled.start as usize..end as usize]);
        batch.positions.extend(scheduled.start..end);
        batch.slot_mapping.extend((scheduled.start..end).map(|position| table.slot(position)));
        batch.query_start_loc.push(batch.token_ids.len() as u32);
        batch.seq_lens.push(end);
        batch.block_tables.extend_from_slice(table.blocks());
        batch.block_table_start.push(batch.block_tables.len() as u32);
        if scheduled.samples {
            batch.logits_rows.push(batch.token_ids.len() as u32 - 1);
        }
    }
}
