//! The ids that the reference gives for the texts of the conformance data. Skipped, loudly, without that data.

use llorch_cpud::gguf::ModelFile;
use llorch_cpud::text::Tokenizer;
use std::path::{Path, PathBuf};

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

/// The folder of the data, or `None` with a line on stderr.
fn data_dir() -> Option<PathBuf> {
    let dir = std::env::var_os("LLORCH_CONFORMANCE_DIR").map(PathBuf::from);
    if dir.is_none() {
        eprintln!("NOT TESTED: tokenizer conformance needs LLORCH_CONFORMANCE_DIR");
    }
    dir
}

fn open(path: &Path) -> Tokenizer {
    let file = ModelFile::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Tokenizer::from_metadata(file.metadata()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn check(name: &str) {
    let Some(dir) = data_dir() else { return };
    let path = |suffix: &str| dir.join("vocab").join(format!("ggml-vocab-{name}.gguf{suffix}"));
    let tokenizer = open(&path(""));
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

/// Vocabularies beyond those three, where the folder has any: `ggml-vocab-NAME.gguf` with `.inp` and `.out`.
#[test]
fn other_vocabularies_give_their_reference_ids() {
    let Some(dir) = data_dir() else { return };
    let names: Vec<String> = std::fs::read_dir(dir.join("vocab"))
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().ok()?;
            Some(name.strip_prefix("ggml-vocab-")?.strip_suffix(".gguf.out")?.to_owned())
        })
        .filter(|name| !["llama-spm", "gpt-2", "llama-bpe"].contains(&name.as_str()))
        .collect();
    for name in names {
        check(&name);
    }
}

/// Ids that everybody knows.
#[test]
fn known_texts_give_known_ids() {
    let Some(dir) = data_dir() else { return };
    let encode = |name: &str, text, add_special| {
        let path = dir.join("vocab").join(format!("ggml-vocab-{name}.gguf"));
        open(&path).encode(text, add_special, false).unwrap()
    };
    assert_eq!(encode("gpt-2", "Hello.", false), [15496, 13]);
    assert_eq!(encode("llama-spm", "Hello", true), [1, 15043]);
}
