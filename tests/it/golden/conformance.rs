//! A real trained model, where `LLORCH_CONFORMANCE_DIR` has it: its text and its logits.

use super::{Bounds, Golden, assert_within, forward, greedy, load_case, median, row_errors};
use crate::support::isas;
use llorch_cpud::gguf::ModelFile;
use llorch_cpud::kv_cache::KvType;
use llorch_cpud::text::Tokenizer;
use std::path::PathBuf;

fn models() -> Option<PathBuf> {
    let folder = std::env::var_os("LLORCH_CONFORMANCE_DIR").filter(|value| !value.is_empty());
    if folder.is_none() {
        eprintln!("NOT TESTED: the stories260K model needs LLORCH_CONFORMANCE_DIR");
    }
    Some(PathBuf::from(folder?).join("models"))
}

fn stories(models: &std::path::Path) -> Vec<u8> {
    let path = models.join("stories260K.gguf");
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn stories_tell_the_published_text() {
    let Some(models) = models() else { return };
    let bytes = stories(&models);
    let expected = std::fs::read_to_string(models.join("stories260K.expected.txt")).expect("the expected text");
    let file = ModelFile::from_bytes(bytes.clone()).expect("the model parses");
    let tokenizer = Tokenizer::from_metadata(file.metadata()).expect("its vocabulary is good");
    let bos = tokenizer.bos().expect("it has a BOS");
    for isa in isas() {
        let mut built = load_case(bytes.clone(), KvType::F32, isa, 256);
        let text = tokenizer.decode(&greedy(&mut built, &[bos], 200));
        let text = String::from_utf8(text).expect("UTF-8");
        assert_eq!(text.trim_start(), expected.trim_start(), "on {}", isa.name());
    }
}

/// 300 positions: more than a chunk of attention. The reference is computed just before the tests:
/// `tests/reference/live_golden.py MODEL OUT`, with `LLORCH_LIVE_REFERENCE=OUT`.
#[test]
fn stories_logits_follow_numpy() {
    let Some(models) = models() else { return };
    let Some(reference) = std::env::var_os("LLORCH_LIVE_REFERENCE") else {
        eprintln!("NOT TESTED: the logits of stories260K need LLORCH_LIVE_REFERENCE");
        return;
    };
    let golden = Golden::read(&reference.to_string_lossy());
    let prompt = golden.prompt();
    // FFN 172, five layers.
    let bounds = Bounds::of(172, 5);
    for isa in isas() {
        let mut built = load_case(stories(&models), KvType::F32, isa, prompt.len());
        let errors = row_errors(&forward(&mut built, 0, &prompt), &golden.logits("logits"));
        assert_within(&errors, bounds.sums, isa.name());

        let mut built = load_case(stories(&models), KvType::F16, isa, prompt.len());
        let ours = forward(&mut built, 0, &prompt);
        assert_within(&row_errors(&ours, &golden.logits("logits")), bounds.sums + bounds.f16_kv, isa.name());
        // Hundreds of cached rows: some value falls on the other side of a rounding step nearly everywhere, so the
        // measure is the distance between the reference that rounds and the one that does not.
        let (exact, rounded) = (golden.logits("logits"), golden.logits("logits_f16_kv"));
        let apart = median(&row_errors(&narrowed(&rounded), &exact));
        let ours = median(&row_errors(&ours, &rounded));
        assert!(ours <= apart / 2.0, "{}: {ours:.3e} from the rounding reference, {apart:.3e} apart", isa.name());
    }
}

fn narrowed(rows: &[Vec<f64>]) -> Vec<Vec<f32>> {
    rows.iter().map(|row| row.iter().map(|x| *x as f32).collect()).collect()
}
