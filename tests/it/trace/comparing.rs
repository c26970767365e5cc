//! Comparisons that pass: a trace with itself, with a forward pass in f64, with references that have less, and with the
//! tolerances of other types.

use super::float64::Float64;
use super::{Run, at, f32s_mut, i32s_mut, model, run, trace};
use crate::support::isas;
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::kv_cache::KvType;
use llorch_cpud::quant::WeightType;
use llorch_cpud::trace::comparison::{Comparison, Row, Verdict, compare};
use llorch_cpud::trace::index::Index;
use llorch_cpud::trace::names::Name;
use llorch_cpud::trace::{INDEX_FILE, Source, Trace, TraceError};
use std::collections::BTreeMap;

/// A trace as its folder holds it.
pub fn folder(trace: &Trace) -> BTreeMap<String, Vec<u8>> {
    trace.files().collect()
}

/// Compares two folders, as the command does.
pub fn compare_folders(
    ours: &BTreeMap<String, Vec<u8>>,
    reference: &BTreeMap<String, Vec<u8>>,
    scale: f64,
) -> Result<Comparison, TraceError> {
    let index = |folder: &BTreeMap<String, Vec<u8>>| {
        Index::parse(std::str::from_utf8(&folder[INDEX_FILE]).expect("UTF-8")).map_err(TraceError::from)
    };
    let (our_index, reference_index) = (index(ours)?, index(reference)?);
    let missing = |file: &str| TraceError::CannotOpen { file: file.into(), problem: "not found".into() };
    let ours = Source { index: &our_index, read: &|file, _| ours.get(file).cloned().ok_or_else(|| missing(file)) };
    let reference =
        Source { index: &reference_index, read: &|file, _| reference.get(file).cloned().ok_or_else(|| missing(file)) };
    compare(&ours, &reference, scale)
}

pub fn compared(ours: &Trace, reference: &Trace) -> Comparison {
    compare_folders(&folder(ours), &folder(reference), 1.0).expect("both can be read")
}

pub fn assert_passes(ours: &Trace, reference: &Trace, what: &str) {
    let comparison = compared(ours, reference);
    if let Some(row) = comparison.first_failure() {
        panic!("{what}: {row:?}");
    }
}

/// Takes every tensor out for which `gone`.
pub fn without(trace: &Trace, gone: impl Fn(Name, Option<usize>) -> bool) -> Trace {
    let mut trace = trace.clone();
    let keep: Vec<bool> = trace.index.tensors.iter().map(|entry| !gone(entry.name, entry.layer)).collect();
    let (mut entries, mut arrays) = (keep.iter(), keep.iter());
    trace.index.tensors.retain(|_| *entries.next().expect("as many"));
    trace.arrays.retain(|_| *arrays.next().expect("as many"));
    trace
}

fn rows(comparison: &Comparison, name: Name) -> Vec<&Row> {
    comparison.rows.iter().filter(|row| row.name == name).collect()
}

/// TRACE-010: a trace passes beside itself, and every checkpoint was looked at.
#[test]
fn a_trace_is_equal_to_itself() {
    covers!("TRACE-010");
    for kv_type in KvType::ALL {
        for weight_type in [WeightType::F32, WeightType::BF16, WeightType::Q8_0] {
            let bytes = TestModel { weight_type, ..model() }.build();
            let traced = run(bytes, &weight_type.to_string(), Run { kv_type, ..Run::alone() }).trace;
            let comparison = compared(&traced, &traced);
            assert_eq!(comparison.first_failure(), None, "{weight_type} {kv_type}");
            assert_eq!(comparison.positions, traced.index.positions());
            for checkpoint in 1..=12 {
                assert!(comparison.rows.iter().any(|r| r.compared && r.name.checkpoint() == checkpoint));
            }
        }
    }
}

/// The engine's checkpoints are those of the definition, within the tolerances of the mission, on every path.
#[test]
fn the_engine_follows_a_forward_pass_in_f64() {
    let untied = TestModel { tied: false, heads: 3, kv_heads: 1, hidden: 48, layers: 3, seed: 7, ..model() };
    for model in [model(), untied] {
        let reference = Float64::new(model.build()).trace(6);
        for isa in isas() {
            let ours = run(model.build(), "f32", Run { isa, ..Run::alone() }).trace;
            assert_passes(&ours, &reference, isa.name());
        }
    }
}

/// Types that round stay within their bounds of exact arithmetic over the same weights.
#[test]
fn other_types_follow_within_their_bounds() {
    let model = model();
    let reference = Float64::new(model.build()).trace(6);
    for isa in isas() {
        for kv_type in [KvType::F16, KvType::BF16, KvType::Q8_0] {
            let ours = run(model.build(), "f32", Run { isa, kv_type, ..Run::alone() }).trace;
            assert_passes(&ours, &reference, &format!("{} {kv_type}", isa.name()));
        }
    }
}

/// TRACE-012: what the reference lacks is told and is no failure while the checkpoint has another tensor.
#[test]
fn a_reference_may_have_less() {
    covers!("TRACE-012");
    let ours = trace(&model());
    let less = |name: Name, layer: Option<usize>| matches!(name, Name::V | Name::KCache) || layer == Some(1);
    let comparison = compared(&ours, &without(&ours, less));
    assert_eq!(comparison.first_failure(), None);
    let absent = comparison.rows.iter().filter(|row| row.verdict == Verdict::Absent).count();
    assert_eq!(absent, 12 + 2, "a layer, and two of the other");
    let no_rotation = |name: Name, _| matches!(name, Name::QRope | Name::KRope);
    let place = |row: Option<&Row>| row.map(Row::place);
    let expected = Some("checkpoint 3 (q_rope, layer 0)".to_owned());
    assert_eq!(place(compared(&ours, &without(&ours, no_rotation)).first_failure()), expected);
    for checkpoint in 1..=12 {
        let comparison = compared(&ours, &without(&ours, |name, _| name.checkpoint() == checkpoint));
        let first = comparison.first_failure().expect("a checkpoint is not covered");
        assert_eq!(first.name.checkpoint(), checkpoint);
    }
}

/// TRACE-012: an architecture without a norm before attention, and one that does not rotate.
#[test]
fn what_an_architecture_has_not_is_not_missed() {
    covers!("TRACE-012");
    let ours = trace(&model());
    let mut post_norm = without(&ours, |name, _| name == Name::AttnNorm);
    let first = compared(&post_norm, &post_norm).first_failure().map(Row::place);
    assert_eq!(first.as_deref(), Some("checkpoint 1 (attn_norm, layer 0)"));
    post_norm.index.architecture = "olmo2".into();
    assert_passes(&post_norm, &post_norm, "olmo2");
    assert!(compared(&post_norm, &ours).first_failure().is_some(), "the reference has it");

    let mut learned = without(&ours, |name, _| matches!(name, Name::QRope | Name::KRope));
    assert!(compared(&learned, &learned).first_failure().is_some(), "it says that it rotates");
    learned.index.rope = None;
    for layer in 0..2 {
        let k = super::f32s(&learned, Name::K, Some(layer)).to_vec();
        *f32s_mut(&mut learned, Name::KCache, Some(layer)) = k;
    }
    assert_passes(&learned, &learned, "no rotation");
}

/// TRACE-009: positions behind a different token are not compared; with types that round, a lead that is not clear
/// decides nothing.
#[test]
fn tokens_may_part_where_the_lead_is_not_clear() {
    covers!("TRACE-009");
    let ours = trace(&model());
    let mut reference = ours.clone();
    // The reference takes the second best token at the fourth step, and sees something else from there on.
    let other = (ours.index.tokens[3] + 1) % 300;
    reference.index.tokens[3] = other;
    i32s_mut(&mut reference, Name::Argmax)[3] = other as i32;
    i32s_mut(&mut reference, Name::Tokens)[3] = other as i32;
    let taken = ours.index.tokens[3] as usize;
    let best = super::f32s(&ours, Name::SelectedLogits, None)[3 * 300 + taken];
    let logits = super::PROMPT.len() - 1 + 3;
    for (name, row) in [(Name::Logits, logits), (Name::SelectedLogits, 3)] {
        f32s_mut(&mut reference, name, None)[row * 300 + other as usize] = best * 1.0001;
        for later in &mut f32s_mut(&mut reference, name, None)[(row + 1) * 300..] {
            *later += 1.0;
        }
    }
    let comparison = compared(&ours, &reference);
    assert_eq!(comparison.positions, logits + 1);
    let first = comparison.first_failure().expect("f32 weights: tokens are exact");
    assert_eq!(first.name, Name::Logits, "{first:?}");
    assert_eq!(rows(&comparison, Name::Tokens).iter().filter(|r| r.verdict == Verdict::Fail).count(), 1);

    // With int8 activations the bound is far above such a lead.
    let rounded = |trace: &Trace| {
        let mut trace = trace.clone();
        trace.index.weights = "q8_0".into();
        trace
    };
    let comparison = compared(&rounded(&ours), &rounded(&reference));
    for name in [Name::Argmax, Name::Tokens] {
        let both = rows(&comparison, name).into_iter().find(|row| row.compared).expect("compared");
        assert_eq!((both.verdict, both.note.as_str()), (Verdict::Pass, "1 of 4 differ"));
    }
    // A lead that is clear beyond the bound: half of the row's largest.
    let mut clear = rounded(&reference);
    f32s_mut(&mut clear, Name::SelectedLogits, None)[3 * 300 + other as usize] = 40.0 * best.abs();
    let comparison = compared(&rounded(&ours), &clear);
    for name in [Name::Argmax, Name::Tokens] {
        let both = rows(&comparison, name).into_iter().find(|row| row.compared).expect("compared");
        assert_eq!((both.verdict, both.first.as_deref()), (Verdict::Fail, Some(&[3][..])));
    }
}

/// A reference that generated fewer tokens is compared as far as it goes.
#[test]
fn a_shorter_reference_is_compared_as_far_as_it_goes() {
    let ours = trace(&model());
    let shorter = run(model().build(), "f32", Run { max_tokens: 2, ..Run::alone() }).trace;
    for (a, b) in [(&ours, &shorter), (&shorter, &ours)] {
        let comparison = compared(a, b);
        assert_eq!(comparison.first_failure(), None);
        assert_eq!(comparison.positions, super::PROMPT.len() + 1);
    }
}

/// TRACE-011: a reference's wider tolerance counts with its reason, and `--tolerance-scale` for all.
#[test]
fn tolerances_can_be_widened_with_a_reason() {
    covers!("TRACE-011");
    let ours = trace(&model());
    let mut reference = ours.clone();
    let values = f32s_mut(&mut reference, Name::FfnOut, Some(0));
    let largest = values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    values[70] += 5e-4 * largest;
    let fails = |reference: &Trace, scale: f64| {
        let comparison = compare_folders(&folder(&ours), &folder(reference), scale).expect("readable");
        comparison.first_failure().map(|row| (row.name, row.first.clone()))
    };
    assert_eq!(fails(&reference, 1.0), Some((Name::FfnOut, Some(vec![1, 6]))));
    assert_eq!(fails(&reference, 10.0), None);
    let entry = at(&reference, Name::FfnOut, Some(0));
    reference.index.tensors[entry].tolerance = Some(1e-3);
    assert!(fails(&reference, 1.0).is_some(), "a tolerance without a reason is a note");
    reference.index.tensors[entry].tolerance_reason = Some("GELU through a table of f16".into());
    assert_eq!(fails(&reference, 1.0), None);
    let noted = compared(&ours, &reference);
    let row = rows(&noted, Name::FfnOut)[0];
    assert_eq!(row.note, "GELU through a table of f16");
}
