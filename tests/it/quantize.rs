//! `quantize`, `inspect` and `perplexity` as commands: files, exit codes, and what is told.

use crate::support::client::eventually;
use crate::support::process::command;
use llorch_cpud::gguf::ModelFile;
use llorch_cpud::gguf::test_model::TestModel;
use std::path::Path;
use std::process::{Command, Output};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-llama-q8_0.gguf");

fn run(command_name: &str, args: &[&Path]) -> Output {
    command().arg(command_name).args(args).output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit code, and the last line of stderr.
fn refused(args: &[&Path]) -> (i32, String) {
    let output = run("quantize", args);
    assert!(output.stdout.is_empty());
    (output.status.code().expect("an exit"), stderr(&output).lines().last().unwrap_or_default().to_owned())
}

/// The demo model, from 8 bits to 4 and back up, still tells a story, and its file says what it is.
#[test]
fn the_demo_model_in_every_type_tells_a_story() {
    let dir = tempfile::tempdir().expect("a folder");
    for (ty, file_type) in [("F16", 1), ("bf16", 32), ("q8_0", 7), ("Q4_0", 2), ("q4_k_m", 15), ("Q6_K", 18)] {
        let out = dir.path().join(format!("{ty}.gguf"));
        let made = run("quantize", &[Path::new(DEMO), &out, Path::new(ty)]);
        assert!(made.status.success(), "{ty}: {}", stderr(&made));
        assert_eq!(stderr(&made).contains("requantizing"), ty != "q8_0", "{}", stderr(&made));
        let file = ModelFile::open(&out).expect("valid");
        assert_eq!(file.metadata().require_u32("general.file_type").expect("there"), file_type);
        let flags = ["--prompt", "Once upon a time", "--temperature", "0", "--kv-cache", "4MiB", "--model"];
        let told = command().arg("generate").args(flags).arg(&out).output().expect("the binary runs");
        assert!(told.status.success(), "{ty}: {}", stderr(&told));
        let text = String::from_utf8(told.stdout).expect("UTF-8");
        assert!(text.len() > 100 && text.contains(". "), "{ty}: {text}");
    }
}

#[test]
fn exit_codes_tell_what_was_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let (model, bad, out) = (path("m.gguf"), path("bad.gguf"), path("out.gguf"));
    std::fs::write(&model, TestModel::default().build()).expect("written");
    std::fs::write(&bad, "no model").expect("written");
    let q8 = Path::new("Q8_0");
    assert_eq!(refused(&[&model, &out, Path::new("Q5_9")]).0, 2);
    assert_eq!(refused(&[&model, &model, q8]).0, 2);
    assert_eq!(refused(&[&bad, &out, q8]).0, 65);
    let (code, line) = refused(&[&path("none.gguf"), &out, q8]);
    assert!(code == 66 && line.contains("none.gguf"), "{line}");
    assert_eq!(refused(&[&model, &path("none/out.gguf"), q8]).0, 66);
    let mut data = vec![0; 64 * 64 * 4];
    data[7 * 256 + 12..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let nan = TestModel::default().with_tensor_data("blk.0.attn_q.weight", &data);
    std::fs::write(&model, nan.build()).expect("written");
    let (code, line) = refused(&[&model, &out, q8]);
    assert!(code == 65 && line.contains("tensor blk.0.attn_q.weight, row 7: element 3 is NaN"), "{line}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("listed").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// A model of 26 GB, of which not much is written when the signal comes.
#[tokio::test]
async fn a_signal_leaves_no_partial_file() {
    covers!("QNT-11");
    let dir = tempfile::tempdir().expect("a folder");
    let num_files = || std::fs::read_dir(dir.path()).expect("listed").count();
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let out = dir.path().join("m.gguf");
        let flags = ["synth", "--shape", "7b", "--type", "f32"];
        let mut child = command().args(flags).arg(&out).spawn().expect("the binary runs");
        eventually("it is being written", || num_files() == 1).await;
        let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        assert_eq!(child.wait().expect("it ends").code(), Some(code), "{name}");
        assert_eq!(num_files(), 0, "{name}");
    }
}

/// A split model becomes one file with the tensors of all parts, and no part of it is written over.
#[test]
fn the_parts_of_a_split_model_become_one_file() {
    covers!("QNT-3");
    let dir = tempfile::tempdir().expect("a folder");
    let part = |n: u16| dir.path().join(format!("m-{n:05}-of-00002.gguf"));
    let whole = TestModel::default();
    let names: Vec<String> = {
        let file = ModelFile::from_bytes(whole.build()).expect("valid");
        file.tensors().map(|tensor| tensor.name.clone()).collect()
    };
    let (first, second) = names.split_at(names.len() / 2);
    for (number, missing) in [(0u16, second), (1, first)] {
        let with_keys = whole.clone().with_key("split.count", 2u32).with_key("split.no", u32::from(number));
        let model = missing.iter().fold(with_keys, |model, name| model.with_tensor_removed(name));
        std::fs::write(part(number + 1), model.build()).expect("written");
    }
    let q8 = Path::new("q8_0");
    assert_eq!(refused(&[&part(1), &part(2), q8]).0, 2, "the second part");
    let out = dir.path().join("out.gguf");
    let made = run("quantize", &[&part(1), &out, q8]);
    assert!(made.status.success(), "{}", stderr(&made));
    let file = ModelFile::open(&out).expect("valid");
    assert_eq!(file.num_parts(), 1);
    assert_eq!(file.tensors().map(|tensor| tensor.name.clone()).collect::<Vec<_>>(), names);
}

/// What `inspect` says is what `serve` logs of the weights it packs, but for the vectors.
#[test]
fn inspect_tells_the_memory_of_the_demo_model() {
    covers!("QNT-30");
    let output = command().args(["inspect", "--json", "--max-model-len", "100", "--max-num-seqs", "2", DEMO]).output();
    let object: serde_json::Value = serde_json::from_slice(&output.expect("it runs").stdout).expect("JSON");
    let memory = &object["memory"];
    // 4 layers, 4 KV heads of 32, K and V, 2 bytes; 4 blocks of 32 hold 100 tokens.
    assert_eq!(memory["kv_bytes_per_token"], 4 * 4 * 32 * 2 * 2);
    assert_eq!(memory["kv_cache_bytes"], 2 * 4 * 32 * 2048);
    // 3 538 944 weights in blocks of 32 with 34 bytes, and 9 norms of 256 f32.
    assert_eq!(memory["loaded_weight_bytes"], 3_538_944 / 32 * 34 + 9 * 256 * 4);
}
