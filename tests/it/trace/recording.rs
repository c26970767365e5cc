//! What the recorder takes out of a running engine: the same bits whatever runs beside the observed sequence, and
//! without changing them.

use super::{PROMPT, Run, Traced, at, f32s, model, run, trace};
use crate::support::isas;
use crate::support::run_model::{Built, Circumstances, load};
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::kernels::{Isa, Path};
use llorch_cpud::kv_cache::{KvCache, KvType};
use llorch_cpud::model::observer::{AttentionView, Observer, Point};
use llorch_cpud::model::{ForwardBatch, Model};
use llorch_cpud::quant::WeightType;
use llorch_cpud::trace::index::Index;
use llorch_cpud::trace::names::Name;
use llorch_cpud::trace::npy::Values;
use llorch_cpud::trace::recorder::{RecordError, Recorder};
use llorch_cpud::types::{BlockId, Slot, TokenId};
use std::collections::BTreeMap;
use std::ops::Range;

fn files(traced: &Traced) -> BTreeMap<String, Vec<u8>> {
    traced.trace.files().collect()
}

fn assert_same(solo: &Traced, other: &Traced, what: &str) {
    let (solo, other) = (files(solo), files(other));
    assert_eq!(solo.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in &solo {
        assert!(other[name] == *bytes, "{what}: {name} differs");
    }
}

/// TRACE-005: the folder of a sequence does not depend on its neighbours, on steps, threads, blocks or preemption.
#[test]
fn a_trace_is_that_of_the_sequence_alone() {
    covers!("TRACE-005");
    let kinds = [
        (WeightType::F32, KvType::F32),
        (WeightType::F16, KvType::F16),
        (WeightType::BF16, KvType::BF16),
        (WeightType::Q8_0, KvType::Q8_0),
    ];
    for isa in isas() {
        for (weight_type, kv_type) in kinds {
            let bytes = TestModel { weight_type, ..model() }.build();
            let weights = weight_type.to_string();
            let alone = Run { isa, kv_type, ..Run::alone() };
            let solo = run(bytes.clone(), &weights, alone);
            let runs = [
                Run { threads: 2, step_rows: 3, ..alone },
                Run { threads: 3, neighbours: 5, step_rows: 128, num_blocks: 16, ..alone },
                Run { threads: 2, neighbours: 3, step_rows: 7, block_size: 5, num_blocks: 64, ..alone },
                Run { threads: 1, neighbours: 8, step_rows: 13, block_size: 1, num_blocks: 300, ..alone },
            ];
            let few = if isa.path() == Path::Scalar { 3 } else { runs.len() };
            for other in &runs[..few] {
                assert_same(&solo, &run(bytes.clone(), &weights, *other), &format!("{weight_type} {other:?}"));
            }
            for num_blocks in [17, 35] {
                let tight = Run { neighbours: 4, threads: 2, step_rows: 24, block_size: 2, num_blocks, ..alone };
                let tight = run(bytes.clone(), &weights, tight);
                assert!(tight.beginnings > 1, "the observed sequence was meant to be preempted");
                assert_same(&solo, &tight, &format!("{weight_type}, {num_blocks} blocks"));
            }
        }
    }
}

/// TRACE-003, TRACE-004: names, shapes and types.
#[test]
fn a_trace_has_every_checkpoint_in_its_shape() {
    covers!("TRACE-003", "TRACE-004");
    let trace = trace(&model());
    let (t, n, vocab) = (PROMPT.len() + 6 - 1, 6, 300);
    let mut expected = Vec::new();
    for layer in 0..2 {
        for (name, checkpoint, shape) in [
            ("attn_norm", 1, vec![t, 64]),
            ("q", 2, vec![t, 64]),
            ("k", 2, vec![t, 32]),
            ("v", 2, vec![t, 32]),
            ("q_rope", 3, vec![t, 64]),
            ("k_rope", 3, vec![t, 32]),
            ("k_cache", 3, vec![t, 32]),
            ("v_cache", 3, vec![t, 32]),
            ("scores", 4, vec![t, 4, t]),
            ("attn_out", 5, vec![t, 64]),
            ("ffn_out", 6, vec![t, 64]),
            ("block_out", 7, vec![t, 64]),
        ] {
            expected.push((format!("{name}.{layer}.npy"), checkpoint, Some(layer), shape, "f32"));
        }
    }
    for (name, checkpoint, shape, dtype) in [
        ("logits", 8, vec![t, vocab], "f32"),
        ("selected_logits", 9, vec![n, vocab], "f32"),
        ("argmax", 10, vec![n], "i32"),
        ("probabilities", 11, vec![n, vocab], "f32"),
        ("tokens", 12, vec![n], "i32"),
    ] {
        expected.push((format!("{name}.npy"), checkpoint, None, shape, dtype));
    }
    let entries = trace.index.tensors.iter().zip(&trace.arrays);
    let found: Vec<_> = entries
        .map(|(entry, array)| {
            assert_eq!(entry.shape, array.shape);
            let (file, checkpoint) = (entry.file.clone(), entry.name.checkpoint());
            (file, checkpoint, entry.layer, entry.shape.clone(), array.values.dtype())
        })
        .collect();
    assert_eq!(found, expected);
    let mut read = Index::parse(&trace.index.to_json()).expect("what was written");
    // Numbers in JSON may lose their last bit.
    let (Some(rope), Some(written)) = (&mut read.rope, &trace.index.rope) else { panic!("it rotates") };
    for (frequency, written) in rope.frequencies.iter_mut().zip(&written.frequencies) {
        assert!((*frequency - written).abs() <= f64::EPSILON * written);
        *frequency = *written;
    }
    for (entry, written) in read.tensors.iter_mut().zip(&trace.index.tensors) {
        let (Some(tolerance), Some(written)) = (&mut entry.tolerance, written.tolerance) else { continue };
        assert!((*tolerance - written).abs() <= f64::EPSILON * written);
        *tolerance = written;
    }
    assert_eq!(read, trace.index);
}

/// TRACE-004: what is masked, selected and chosen.
#[test]
fn scores_are_masked_and_rows_selected() {
    covers!("TRACE-004");
    let trace = trace(&model());
    let t = trace.index.positions();
    for (i, score) in f32s(&trace, Name::Scores, Some(1)).iter().enumerate() {
        let (row, column) = (i / t / 4, i % t);
        assert_eq!(*score == f32::NEG_INFINITY, column > row, "row {row}, column {column}");
        assert!(score.is_finite() || column > row);
    }
    let first = (PROMPT.len() - 1) * 300;
    assert_eq!(f32s(&trace, Name::Logits, None)[first..], *f32s(&trace, Name::SelectedLogits, None));
    let tokens: Vec<i32> = trace.index.tokens.iter().map(|id| *id as i32).collect();
    for name in [Name::Argmax, Name::Tokens] {
        assert_eq!(trace.arrays[at(&trace, name, None)].values, Values::I32(tokens.clone()));
    }
    for row in f32s(&trace, Name::Probabilities, None).chunks_exact(300) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }
}

/// An observer that looks and forgets.
struct Blind;

impl Observer for Blind {
    fn begin_step(&mut self, _: usize, _: Range<usize>, _: &ForwardBatch) {}
    fn rows(&mut self, _: Point, _: usize, _: &[f32]) {}
    fn attention(&mut self, _: &AttentionView<'_>) {}
    fn sampled(&mut self, _: TokenId) {}
}

/// Two sequences: the first in two chunks over two steps, the second joining later.
fn batches() -> [ForwardBatch; 2] {
    let first = ForwardBatch {
        block_copies: vec![],
        token_ids: PROMPT[..5].to_vec(),
        positions: (0..5).collect(),
        slot_mapping: (0..5).map(Slot).collect(),
        query_start_loc: vec![0, 5],
        seq_lens: vec![5],
        block_tables: vec![BlockId(0)],
        block_table_start: vec![0, 1],
        logits_rows: vec![4],
    };
    let second = ForwardBatch {
        block_copies: vec![],
        token_ids: [&PROMPT[5..], &[9, 10, 11]].concat(),
        positions: vec![5, 6, 7, 8, 9, 10, 0, 1, 2],
        slot_mapping: [5, 6, 7, 8, 9, 10, 16, 17, 18].map(Slot).to_vec(),
        query_start_loc: vec![0, 6, 9],
        seq_lens: vec![11, 3],
        block_tables: vec![BlockId(0), BlockId(1)],
        block_table_start: vec![0, 1, 2],
        logits_rows: vec![5, 8],
    };
    [first, second]
}

fn built(bytes: Vec<u8>, kv_type: KvType, isa: Isa) -> Built {
    let room = Circumstances { isa, threads: 2, max_rows: 9, max_logits_rows: 2, num_blocks: 2, block_size: 16 };
    load(bytes, kv_type, room)
}

fn cache_bits(cache: &KvCache) -> Vec<u32> {
    match cache.layer(1) {
        llorch_cpud::kv_cache::LayerKv::F32(elements) => elements.iter().map(|x| x.to_bits()).collect(),
        _ => panic!("the cache is f32"),
    }
}

/// TRACE-006: logits and cache have the same bits with and without an observer.
#[test]
fn observing_changes_no_bit() {
    covers!("TRACE-006");
    for isa in isas() {
        for weight_type in [WeightType::F32, WeightType::F16, WeightType::BF16, WeightType::Q8_0, WeightType::Q4_0] {
            let bytes = TestModel { weight_type, ..model() }.build();
            let (mut plain, mut observed) = (built(bytes.clone(), KvType::F32, isa), built(bytes, KvType::F32, isa));
            for (step, batch) in batches().iter().enumerate() {
                let rows = 0..batch.query_start_loc[1] as usize;
                let expected: Vec<u32> =
                    plain.model.forward(batch, &mut plain.kv_cache).iter().map(|x| x.to_bits()).collect();
                let logits = observed.model.forward_observed(batch, &mut observed.kv_cache, rows, &mut Blind);
                let logits: Vec<u32> = logits.iter().map(|x| x.to_bits()).collect();
                assert_eq!(logits, expected, "{} {weight_type} step {step}", isa.name());
                assert_eq!(cache_bits(&observed.kv_cache), cache_bits(&plain.kv_cache), "{} {weight_type}", isa.name());
            }
        }
    }
}

/// TRACE-006: the logits that are shown are those that the model gives when asked for every row.
#[test]
fn the_logits_shown_are_those_of_the_model() {
    covers!("TRACE-006");
    let trace = trace(&model());
    let room = Circumstances {
        isa: Isa::detect(),
        threads: 1,
        max_rows: 16,
        max_logits_rows: 16,
        num_blocks: 1,
        block_size: 32,
    };
    let mut built = load(model().build(), KvType::F32, room);
    let inputs = [&PROMPT[..], &trace.index.tokens[..5]].concat();
    let batch = ForwardBatch {
        block_copies: vec![],
        positions: (0..16).collect(),
        slot_mapping: (0..16).map(Slot).collect(),
        query_start_loc: vec![0, 16],
        seq_lens: vec![16],
        block_tables: vec![BlockId(0)],
        block_table_start: vec![0, 1],
        logits_rows: (0..16).collect(),
        token_ids: inputs,
    };
    let logits = built.model.forward(&batch, &mut built.kv_cache);
    assert!(logits == f32s(&trace, Name::Logits, None));
}

#[test]
fn a_sequence_that_was_not_observed_to_its_end_is_no_trace() {
    let index = trace(&model()).index;
    assert_eq!(Recorder::new(300).finish(index.clone()).err(), Some(RecordError::NoTokens));
    let mut recorder = Recorder::new(300);
    recorder.begin_step(0, 0..5, &batches()[0]);
    recorder.rows(Point::AttnNorm, 0, &[0.5; 5 * 64]);
    recorder.sampled(3);
    let missing = RecordError::Rows { name: "attn_norm".into(), rows: 5, expected: PROMPT.len() };
    assert_eq!(recorder.finish(index).err(), Some(missing));
}
