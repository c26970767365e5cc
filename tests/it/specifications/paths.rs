//! DET-3 of `specs/07_DETERMINISM.md`, for whole models.

use crate::support::random::Random;
use crate::support::run_model::{Circumstances, TinyModel, build};
use llorch_cpud::kernels::Isa;
use llorch_cpud::kv_cache::KvType;
use llorch_cpud::model::Model;
use llorch_cpud::quant::WeightType;
use llorch_cpud::types::{BlockId, ForwardBatch, Slot};

/// Bits of the logits of every row of a prompt of 20 tokens.
fn logits(tiny: &TinyModel, isa: Isa) -> Vec<u32> {
    let rows = 20;
    let circumstances =
        Circumstances { isa, threads: 1, max_rows: rows, max_logits_rows: rows, num_blocks: 1, block_size: 32 };
    let mut built = build(tiny, circumstances);
    let mut random = Random::new(5);
    let batch = ForwardBatch {
        block_copies: vec![],
        token_ids: (0..rows).map(|_| random.range(3, 290)).collect(),
        positions: (0..rows as u32).collect(),
        slot_mapping: (0..rows as u32).map(Slot).collect(),
        query_start_loc: vec![0, rows as u32],
        seq_lens: vec![rows as u32],
        block_tables: vec![BlockId(0)],
        block_table_start: vec![0, 1],
        logits_rows: (0..rows as u32).collect(),
    };
    built.model.forward(&batch, &mut built.kv_cache).iter().map(|x| x.to_bits()).collect()
}

#[test]
fn det_3_every_path_gives_the_same_logits() {
    covers!("DET-3");
    for weight_type in WeightType::ALL.into_iter().filter(|ty| *ty != WeightType::BF16) {
        let tiny = TinyModel { weight_type, kv_type: KvType::F16, ..TinyModel::default() };
        let paths = Isa::available();
        let expected = logits(&tiny, paths[0]);
        for isa in &paths[1..] {
            assert_eq!(logits(&tiny, *isa), expected, "{weight_type} on {isa:?} and {:?}", paths[0]);
        }
    }
}
