//! Traces of engines that are wrong: the first check that fails is that of the fault.

use super::comparing::{compare_folders, compared, folder, without};
use super::{Run, at, f32s, f32s_mut, i32s_mut, model, run, trace};
use llorch_cpud::gguf::ModelFile;
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::trace::comparison::{Row, Verdict};
use llorch_cpud::trace::index::Pairing;
use llorch_cpud::trace::names::{Name, Shape};
use llorch_cpud::trace::npy::{Array, Values, encode};
use llorch_cpud::trace::{INDEX_FILE, Trace, TraceError};

const HEAD_DIM: usize = 16;

fn first_failure(ours: &Trace, reference: &Trace) -> Row {
    compared(ours, reference).first_failure().expect("the fault is found").clone()
}

fn assert_first(ours: &Trace, reference: &Trace, place: &str, check: &str) {
    let first = first_failure(ours, reference);
    assert_eq!((first.place().as_str(), first.check), (place, check), "{first:?}");
}

/// TRACE-013: an engine that reads another epsilon (1e-6 is that of many files) fails at checkpoint 1.
#[test]
fn a_wrong_epsilon_fails_at_the_first_norm() {
    covers!("TRACE-013");
    let wrong = TestModel { rms_eps: 1e-6, ..model() };
    assert_first(&trace(&wrong), &trace(&model()), "checkpoint 1 (attn_norm, layer 0)", "values");
}

/// The order of a head's dimensions in which rotating adjacent pairs turns `(i, i + d / 2)` of the old order.
fn halves_to_adjacent(i: usize) -> usize {
    if i.is_multiple_of(2) { i / 2 } else { HEAD_DIM / 2 + i / 2 }
}

/// The trace of an engine that rotates halves where the model's pairs are adjacent. The engine runs on weights whose
/// Q and K rows are reordered, and what it shows is put back in order: scores do not depend on the order.
fn trace_with_wrong_pairing() -> Trace {
    let bytes = model().build();
    let file = ModelFile::from_bytes(bytes).expect("the built file parses");
    let mut reordered = model();
    for layer in 0..2 {
        for part in ["attn_q", "attn_k"] {
            let name = format!("blk.{layer}.{part}.weight");
            let tensor = file.tensor(&name).expect("the model has it");
            let row_bytes = 4 * tensor.dims[0] as usize;
            let rows: Vec<&[u8]> = tensor.data.chunks_exact(row_bytes).collect();
            let place = |n: usize| n / HEAD_DIM * HEAD_DIM + halves_to_adjacent(n % HEAD_DIM);
            let data: Vec<u8> = (0..rows.len()).flat_map(|n| rows[place(n)].to_vec()).collect();
            reordered = reordered.with_tensor_data(&name, &data);
        }
    }
    let mut wrong = trace(&reordered);
    for layer in 0..2 {
        for name in [Name::Q, Name::K, Name::QRope, Name::KRope, Name::KCache] {
            for head in f32s_mut(&mut wrong, name, Some(layer)).chunks_exact_mut(HEAD_DIM) {
                let shown = head.to_vec();
                (0..HEAD_DIM).for_each(|i| head[halves_to_adjacent(i)] = shown[i]);
            }
        }
    }
    wrong
}

/// TRACE-013: an engine that rotates other pairs fails at checkpoint 3, whether it says so or not.
#[test]
fn a_wrong_rope_pairing_fails_at_the_rotation() {
    covers!("TRACE-013");
    let reference = trace(&model());
    let mut wrong = trace_with_wrong_pairing();
    assert_first(&wrong, &reference, "checkpoint 3 (q_rope, layer 0)", "our own, rotated");
    wrong.index.rope.as_mut().expect("it rotates").pairing = Pairing::Halves;
    assert_first(&wrong, &reference, "checkpoint 3 (q_rope, layer 0)", "the reference's own, rotated");
    // And it is a consistent trace: nothing but the pairing is wrong with it.
    let comparison = compared(&wrong, &wrong);
    assert_eq!(comparison.first_failure(), None);
}

/// TRACE-013: an engine that counts positions from one fails at checkpoint 3. Scores depend on differences of positions
/// alone, so nothing else of its trace would show it.
#[test]
fn shifted_positions_fail_at_the_rotation() {
    covers!("TRACE-013");
    let reference = trace(&model());
    let mut shifted = reference.clone();
    let frequencies = reference.index.rope.as_ref().expect("it rotates").frequencies.clone();
    for layer in 0..2 {
        for name in [Name::QRope, Name::KRope, Name::KCache] {
            for head in f32s_mut(&mut shifted, name, Some(layer)).chunks_exact_mut(HEAD_DIM) {
                for (pair, frequency) in head.chunks_exact_mut(2).zip(&frequencies) {
                    let (a, b, (sin, cos)) = (f64::from(pair[0]), f64::from(pair[1]), frequency.sin_cos());
                    (pair[0], pair[1]) = ((a * cos - b * sin) as f32, (a * sin + b * cos) as f32);
                }
            }
        }
    }
    assert_first(&shifted, &reference, "checkpoint 3 (q_rope, layer 0)", "our own, rotated");
    // The other way round: a reference that is shifted, by the rotation of its own projections.
    assert_first(&reference, &shifted, "checkpoint 3 (q_rope, layer 0)", "the reference's own, rotated");
}

/// Another base, and a missing frequency scaling, are wrong rotations too.
#[test]
fn a_wrong_rope_base_fails_at_the_rotation() {
    let wrong = TestModel { rope_base: 500_000.0, ..model() };
    assert_first(&trace(&wrong), &trace(&model()), "checkpoint 3 (q_rope, layer 0)", "the reference's own, rotated");
}

/// Adds `factor` times the tensor's largest finite value to an element.
fn disturb(trace: &Trace, name: Name, layer: Option<usize>, element: usize, factor: f32) -> Trace {
    let mut trace = trace.clone();
    let values = f32s_mut(&mut trace, name, layer);
    let largest = values.iter().filter(|x| x.is_finite()).fold(0.0f32, |m, x| m.max(x.abs()));
    values[element] += factor * largest;
    trace
}

/// Element 1 of row 12, which is the third selected row, whatever the tensor's shape.
fn element_of(trace: &Trace, name: Name, layer: Option<usize>) -> usize {
    let row: usize = trace.index.tensors[at(trace, name, layer)].shape[1..].iter().product();
    let t = if name.shape() == Shape::Selected { 2 } else { 12 };
    t * row + 1
}

/// A value that is off by a tenth more than its tolerance fails at its checkpoint; one off by a tenth less passes.
#[test]
fn each_checkpoint_sees_an_error_above_its_tolerance() {
    let good = trace(&model());
    for layer in [0, 1] {
        for (name, tolerance) in [
            (Name::AttnNorm, 1e-5),
            (Name::Q, 1e-4),
            (Name::K, 1e-4),
            (Name::V, 1e-4),
            (Name::KCache, 1e-4),
            (Name::VCache, 1e-4),
            (Name::Scores, 1e-4),
            (Name::AttnOut, 1e-4),
            (Name::FfnOut, 1e-4),
            (Name::BlockOut, 1e-4),
        ] {
            let tolerance = tolerance * ((layer + 1) as f32).sqrt();
            let element = element_of(&good, name, Some(layer));
            let disturbed = |factor: f32| disturb(&good, name, Some(layer), element, factor * tolerance);
            let first = first_failure(&disturbed(1.1), &good);
            assert_eq!((first.name, first.layer, first.check), (name, Some(layer), "values"));
            let place = if name == Name::Scores { vec![12, 0, 1] } else { vec![12, 1] };
            assert_eq!(first.first, Some(place));
            // These have checks within our trace that are closer.
            if !matches!(name, Name::Q | Name::K | Name::V | Name::KCache | Name::VCache) {
                assert_eq!(compared(&disturbed(0.9), &good).first_failure(), None, "{name:?}");
            }
        }
    }
    let element = element_of(&good, Name::Logits, None);
    let first = first_failure(&disturb(&good, Name::Logits, None, element, 1.5e-3), &good);
    assert_eq!((first.name, first.first), (Name::Logits, Some(vec![12, 1])));
}

/// What is exact, or checked within our trace, is held to that.
#[test]
fn each_check_within_our_trace_sees_a_small_error() {
    let good = trace(&model());
    for (name, layer, factor, check) in [
        (Name::Q, Some(0), 5e-5, "our own, rotated"),
        (Name::QRope, Some(0), 2e-5, "our own, rotated"),
        (Name::KRope, Some(1), 2e-5, "our own, rotated"),
        (Name::KCache, Some(1), 1e-6, "ours, as stored"),
        (Name::VCache, Some(0), 1e-6, "ours, as stored"),
        (Name::SelectedLogits, None, 1e-6, "our rows of logits"),
        (Name::Probabilities, None, 2e-6, "softmax of ours"),
    ] {
        let element = element_of(&good, name, layer);
        let first = first_failure(&disturb(&good, name, layer, element, factor), &good);
        let rotated = if name == Name::Q { Name::QRope } else { name };
        assert_eq!((first.name, first.layer, first.check), (rotated, layer, check));
    }
    // The reference's own rotation and softmax.
    for (name, layer, factor, check) in [
        (Name::QRope, Some(0), 2e-5, "the reference's own, rotated"),
        (Name::KRope, Some(0), 2e-5, "the reference's own, rotated"),
        (Name::Probabilities, None, 2e-6, "softmax of the reference's"),
    ] {
        let element = element_of(&good, name, layer);
        let first = first_failure(&good, &disturb(&good, name, layer, element, factor));
        assert_eq!((first.name, first.check), (name, check));
    }
    for (name, check) in [(Name::Argmax, "equal"), (Name::Tokens, "equal")] {
        let mut wrong = good.clone();
        i32s_mut(&mut wrong, name)[2] += 1;
        let first = first_failure(&wrong, &good);
        assert_eq!((first.name, first.check, first.first), (name, check, Some(vec![2])));
    }
    // Both sides alike, so that only the check within ours is left.
    for (name, check) in [(Name::Argmax, "largest of our logits"), (Name::Tokens, "our argmax")] {
        let mut wrong = good.clone();
        i32s_mut(&mut wrong, name)[2] += 1;
        let first = first_failure(&wrong, &wrong);
        assert_eq!((first.name, first.check, first.first), (name, check, Some(vec![2])));
    }
}

/// TRACE-008: NaN or infinity anywhere is a failure of that tensor, whatever the tolerance; so is another mask.
#[test]
fn values_that_are_not_finite_fail() {
    covers!("TRACE-008");
    let good = trace(&model());
    for entry in good.index.tensors.iter().filter(|entry| entry.dtype() == "f32") {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut broken = good.clone();
            f32s_mut(&mut broken, entry.name, entry.layer)[0] = bad;
            for (ours, reference) in [(&broken, &good), (&good, &broken), (&broken, &broken)] {
                let both_masked = bad == f32::NEG_INFINITY && entry.name == Name::Scores && ours == reference;
                let comparison = compare_folders(&folder(ours), &folder(reference), 1e30).expect("readable");
                let failed = comparison.rows.iter().any(|r| r.verdict == Verdict::Fail && r.name == entry.name);
                assert_eq!(failed, !both_masked, "{:?} {bad}", entry.name);
            }
        }
    }
    // Position 2 sees position 3.
    let t = good.index.positions();
    let mut sees = good.clone();
    f32s_mut(&mut sees, Name::Scores, Some(1))[(2 * 4 + 1) * t + 3] = -3.0;
    let first = first_failure(&sees, &good);
    assert_eq!((first.name, first.layer, first.first), (Name::Scores, Some(1), Some(vec![2, 1, 3])));
}

/// TRACE-012: what ours lacks and the reference has is a failure.
#[test]
fn what_is_missing_in_ours_fails() {
    covers!("TRACE-012");
    let good = trace(&model());
    for entry in &good.index.tensors {
        let ours = without(&good, |name, layer| (name, layer) == (entry.name, entry.layer));
        let comparison = compared(&ours, &good);
        let failed = comparison.rows.iter().find(|r| (r.name, r.layer) == (entry.name, entry.layer));
        assert_eq!(failed.map(|row| row.verdict), Some(Verdict::Fail), "{:?}", entry.name);
        assert_eq!(failed.map(|row| row.note.as_str()), Some("missing in ours"), "{:?}", entry.name);
    }
}

/// TRACE-012: tensors of another width are told apart from values that differ.
#[test]
fn other_shapes_fail() {
    covers!("TRACE-012");
    let good = trace(&model());
    let wide = run(TestModel { hidden: 48, heads: 3, kv_heads: 1, ..model() }.build(), "f32", Run::alone()).trace;
    let comparison = compared(&wide, &good);
    let first = comparison.first_failure().expect("widths differ");
    assert_eq!((first.name, first.check), (Name::AttnNorm, "shape"));
    let shapes: Vec<Name> = comparison.rows.iter().filter(|r| r.check == "shape").map(|r| r.name).collect();
    assert!(shapes.contains(&Name::Scores) && shapes.contains(&Name::KCache) && shapes.contains(&Name::BlockOut));
}

/// TRACE-002: a folder whose files are missing or not what its index says cannot be compared.
#[test]
fn folders_that_are_not_what_they_say_are_refused() {
    covers!("TRACE-002");
    let good = folder(&trace(&model()));
    let error = |broken: &std::collections::BTreeMap<String, Vec<u8>>| {
        let ours = compare_folders(broken, &good, 1.0).expect_err("ours is broken");
        assert_eq!(compare_folders(&good, broken, 1.0).expect_err("the reference is broken"), ours);
        ours
    };
    let mut broken = good.clone();
    broken.remove("k.1.npy");
    assert!(matches!(error(&broken), TraceError::CannotOpen { file, .. } if file == "k.1.npy"));
    for (bytes, named) in [
        (b"text".to_vec(), "not a .npy file"),
        (good["k.1.npy"][..500].to_vec(), "shape [16, 32] takes"),
        (good["q.1.npy"].clone(), "it holds f32 [16, 64]"),
        (encode(&Array { shape: vec![16, 32], values: Values::I32(vec![0; 512]) }), "it holds i32"),
    ] {
        let mut broken = good.clone();
        broken.insert("k.1.npy".into(), bytes);
        let message = error(&broken).to_string();
        assert!(message.starts_with("k.1.npy: ") && message.contains(named), "{message}");
    }
    let mut other_prompt = trace(&model());
    other_prompt.index.prompt_tokens[0] += 1;
    let other_prompt = compare_folders(&folder(&other_prompt), &good, 1.0);
    assert!(matches!(other_prompt, Err(TraceError::Prompts { .. })));
    let mut broken = good.clone();
    broken.insert(INDEX_FILE.into(), b"{}".to_vec());
    assert!(matches!(error(&broken), TraceError::Index(_)));
}

/// Small errors that an average would hide are still found, and large tensors are looked at to their end.
#[test]
fn the_last_element_counts() {
    let good = trace(&model());
    for name in [Name::AttnNorm, Name::Scores, Name::BlockOut, Name::Logits] {
        let layer = name.is_of_a_layer().then_some(1);
        let last = f32s(&good, name, layer).len() - 1;
        assert_eq!(first_failure(&disturb(&good, name, layer, last, 0.1), &good).name, name);
    }
}
