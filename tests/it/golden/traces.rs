//! The models behind `tests/golden/traces`: a small one of every architecture and of the variants, whose checkpoints
//! and greedy tokens were computed elsewhere. `tests/reference/README.md` says how they are made.

use llorch_cpud::gguf::test_model::TestModel;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/traces")
}

fn names() -> impl Iterator<Item = &'static str> {
    TestModel::ARCHITECTURES.into_iter().chain(TestModel::VARIANTS)
}

fn build(name: &str) -> Vec<u8> {
    TestModel::of(name).expect("known").build()
}

/// `greedy.json`: for each name the model's SHA-256, a prompt and the tokens that follow it.
fn greedy() -> Value {
    let text = std::fs::read_to_string(folder().join("greedy.json")).expect("readable");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn the_committed_traces_are_of_the_models_built_here() {
    let greedy = greedy();
    assert_eq!(greedy.as_object().expect("an object").len(), names().count());
    for name in names() {
        let digest: String = Sha256::digest(build(name)).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(greedy[name]["sha256"].as_str(), Some(&digest[..]), "{name}: see tests/reference/README.md");
    }
}

/// Independent implementations of each architecture choose the same tokens.
#[test]
fn the_references_chose_the_same_tokens() {
    let greedy = greedy();
    for (name, of) in greedy.as_object().expect("an object") {
        assert_eq!(of["numpy"].as_array().expect("tokens").len(), 64, "{name}");
        assert_eq!(of["numpy"], of["llama_cpp"]["greedy"], "{name}");
    }
    assert_eq!(greedy["gpt2"]["numpy"], greedy["gpt2"]["tinygrad"]["greedy"]);
}

/// Writes the models for `tests/reference/make_traces.py` to the folder that LLORCH_TRACE_MODELS names.
#[test]
#[ignore = "writes files; run by name when making or checking references"]
fn write_trace_models() {
    let folder = PathBuf::from(std::env::var_os("LLORCH_TRACE_MODELS").expect("LLORCH_TRACE_MODELS is set"));
    std::fs::create_dir_all(&folder).expect("created");
    for name in names() {
        std::fs::write(folder.join(format!("{name}.gguf")), build(name)).expect("written");
    }
}
