//! Every architecture beside references that we did not write: `tests/golden/traces`, made by NumPy in float64 and
//! agreed with by llama.cpp and tinygrad (`tests/reference/README.md`).

use super::comparing::folder;
use super::{Run, run_prompt};
use crate::support::isas;
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::kv_cache::KvType;
use llorch_cpud::trace::comparison::{Comparison, compare};
use llorch_cpud::trace::index::Index;
use llorch_cpud::trace::{INDEX_FILE, Source, TraceError};
use llorch_cpud::types::TokenId;
use serde_json::Value;
use std::path::Path;

fn names() -> impl Iterator<Item = &'static str> {
    TestModel::ARCHITECTURES.into_iter().chain(TestModel::VARIANTS)
}

fn bytes_of(name: &str) -> Vec<u8> {
    TestModel::of(name).expect("a small model").build()
}

fn golden(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/traces").join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn tokens(value: &Value) -> Vec<TokenId> {
    let ids = value.as_array().expect("a list of token ids").iter();
    ids.map(|id| id.as_u64().expect("a token id") as TokenId).collect()
}

/// Our trace of the golden's prompt beside the golden.
fn compare_with_golden(name: &str, run: Run) -> Comparison {
    let text = String::from_utf8(golden(&format!("{name}.json"))).expect("UTF-8");
    let (raw, data) = (serde_json::from_str::<Value>(&text).expect("JSON"), golden(&format!("{name}.bin")));
    let index = Index::parse(&text).unwrap_or_else(|e| panic!("{name}.json: {e}"));
    let read = |file: &str, _: usize| {
        let entry = raw["tensors"].as_array().expect("tensors").iter().find(|entry| entry["file"] == file);
        let at = |i: usize| entry.expect("an entry")["at"][i].as_u64().expect("a number") as usize;
        Ok::<_, TraceError>(data[at(0)..at(0) + at(1)].to_vec())
    };
    let run = Run { max_tokens: index.tokens.len() as u32, ..run };
    let ours = folder(&run_prompt(bytes_of(name), "f32", &index.prompt_tokens, run).trace);
    let our_index = Index::parse(std::str::from_utf8(&ours[INDEX_FILE]).expect("UTF-8")).expect("our own");
    let ours = Source { index: &our_index, read: &|file, _| Ok(ours[file].clone()) };
    compare(&ours, &Source { index: &index, read: &read }, 1.0).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn the_checkpoints_of_every_architecture_are_those_of_numpy() {
    for name in names() {
        for isa in isas() {
            for (threads, step_rows) in [(1, 64), (2, 3)] {
                let comparison = compare_with_golden(name, Run { isa, threads, step_rows, ..Run::alone() });
                if let Some(row) = comparison.first_failure() {
                    panic!("{name} on {}: {}: {row:?}", isa.name(), row.place());
                }
                assert!(comparison.positions >= 10, "{name}: {} positions compared", comparison.positions);
            }
        }
    }
}

#[test]
fn greedy_tokens_of_every_architecture_are_those_of_numpy_and_llama_cpp() {
    let greedy: Value = serde_json::from_slice(&golden("greedy.json")).expect("JSON");
    for name in names() {
        let of = &greedy[name];
        let (prompt, expected) = (tokens(&of["prompt"]), tokens(&of["numpy"]));
        assert_eq!(expected.len(), 64, "{name}");
        assert_eq!(expected, tokens(&of["llama_cpp"]["greedy"]), "{name}: the references differ");
        for isa in isas() {
            let run = Run { isa, threads: 2, num_blocks: 8, max_tokens: 64, max_model_len: 128, ..Run::alone() };
            let traced = run_prompt(bytes_of(name), "f32", &prompt, Run { kv_type: KvType::F32, ..run });
            assert_eq!(traced.trace.index.tokens, expected, "{name} on {}", isa.name());
        }
    }
}
