//! The ids that the reference gives for the texts of the conformance data. Skipped, loudly, without that data.

use llorch_cpud::gguf::ModelFile;
use llorch_cpud::text::Tokenizer;
use std::path::PathBuf;

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

/// The folder of the data, or `None` with a line on stderr.
fn data_dir() -> Option<PathBuf> {
    let dir = std::env::var_os("LLORCH_CONFORMANCE_DIR").map(PathBuf::from);
    if dir.is_none() {
        eprintln!("NOT TESTED: tokenizer conformance needs LLORCH_CONFORMANCE_DIR");
    }
    dir
}

fn check(name: &str) {
    let Some(dir) = data_dir() else { return };
    let path = |suffix: &str| dir.join("vocab").join(format!("ggml-vocab-{name}.gguf{suffix}"));
    let file = ModelFile::open(&path("")).unwrap();
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    let inputs = std::fs::read_to_string(path(".inp")).unwrap();
    let outputs = std::fs::read_to_string(path(".out")).unwrap();
    let texts: Vec<&str> = inputs.strip_suffix(SEPARATOR).unwrap_or(&inputs).split(SEPARATOR).collect();
    let expected: Vec<&str> = outputs.lines().collect();
    assert_eq!(texts.len(), expected.len());
    assert!(texts.len() > 40);
    for (text, line) in texts.iter().zip(expected) {
        let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let ids = tokenizer.encode(text, false, false).unwrap();
        assert_eq!(ids, expected, "{name}: {text:?}");
        assert_eq!(String::from_utf8(tokenizer.decode(&ids)).unwrap(), *text, "{name}");
    }
}

#[test]
fn llama_spm_gives_the_reference_ids() {
    check("llama-spm");
}

#[test]
fn gpt_2_gives_the_reference_ids() {
    check("gpt-2");
}

#[test]
fn llama_bpe_gives_the_reference_ids() {
    check("llama-bpe");
}
