//! Files of other writers, where `LLORCH_CONFORMANCE_DIR` has them.

use llorch_cpud::gguf::ModelFile;
use std::path::PathBuf;

/// The file, or `None` with a line on stderr.
#[allow(clippy::print_stderr)] // What is left out must be seen in the test log.
fn open(name: &str) -> Option<ModelFile> {
    let Some(dir) = std::env::var_os("LLORCH_CONFORMANCE_DIR") else {
        eprintln!("NOT TESTED: {name} needs LLORCH_CONFORMANCE_DIR");
        return None;
    };
    Some(ModelFile::open(&PathBuf::from(dir).join(name)).expect("a valid file"))
}

#[test]
fn a_trained_model() {
    let Some(file) = open("models/stories260K.gguf") else { return };
    let m = file.metadata();
    assert_eq!(m.require_str("general.architecture").expect("there"), "llama");
    assert_eq!(m.require_u32("llama.block_count").expect("there"), 5);
    assert_eq!(file.tensors().len(), 48);
    assert_eq!(file.tensor("blk.0.ffn_down.weight").expect("there").dims, [172, 64]);
    let tokens: Vec<&str> = m.strings("tokenizer.ggml.tokens").expect("strings").expect("there").collect();
    assert_eq!((tokens.len(), tokens[1], tokens[3]), (512, "<s>", "<0x00>"));
}

#[test]
fn vocabularies_without_tensors() {
    for (name, tokens) in [("gpt-2", 50_257), ("llama-bpe", 128_256), ("llama-spm", 32_000)] {
        let Some(file) = open(&format!("vocab/ggml-vocab-{name}.gguf")) else { return };
        assert_eq!(file.tensors().len(), 0);
        let found = file.metadata().strings("tokenizer.ggml.tokens").expect("strings").expect("there").len();
        assert_eq!(found, tokens, "{name}");
    }
}
