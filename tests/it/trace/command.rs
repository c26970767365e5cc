//! The commands `trace` and `compare`: files, tables and exit codes.

use super::model;
use crate::support::process::command;
use llorch_cpud::gguf::test_model::TestModel;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn run(args: &[&str]) -> Output {
    command().args(args).env("LLORCH_THREADS", "2").env("LLORCH_KV_CACHE", "8MiB").output().expect("the binary runs")
}

/// Runs a command that must succeed; its standard output.
fn done(args: &[&str]) -> String {
    let output = run(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The exit code of a command that fails with one line on standard error, and that line.
fn fails(args: &[&str]) -> (Option<i32>, String) {
    let output = run(args);
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    let lines: Vec<&str> = error.lines().filter(|line| line.starts_with("llorch-cpud: ")).collect();
    assert_eq!(lines.len(), 1, "{args:?}: {error}");
    (output.status.code(), lines[0].to_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn index(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("index.json")).expect("there is an index");
    serde_json::from_str(&text).expect("JSON")
}

/// A folder with a model file, and its traces `a` and `b`, the second of another epsilon.
fn traces() -> (tempfile::TempDir, [std::path::PathBuf; 2]) {
    let directory = tempfile::tempdir().expect("a directory");
    let folders = [("a", 1e-5f32), ("b", 1e-6)].map(|(name, rms_eps)| {
        let file = directory.path().join(format!("{name}.gguf"));
        std::fs::write(&file, TestModel { rms_eps, ..model() }.build()).expect("written");
        let folder = directory.path().join(name).join("trace");
        done(&["trace", "--model", text(&file), "--prompt-tokens", "1,50,7", "--out", text(&folder)]);
        folder
    });
    (directory, folders)
}

/// TRACE-003, TRACE-007: the folder, its defaults, and the tokens that `generate` gives.
#[test]
fn the_command_writes_what_generate_makes() {
    covers!("TRACE-003", "TRACE-007");
    let (directory, [folder, _]) = traces();
    let written = index(&folder);
    assert_eq!((&written["kv_type"], &written["weights"]), (&"f32".into(), &"f32".into()));
    assert_eq!(written["tokens"].as_array().map(Vec::len), Some(8));
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    let tensors = written["tensors"].as_array().expect("an array").iter();
    let mut named: Vec<String> = tensors.map(|t| t["file"].as_str().expect("a name").to_owned()).collect();
    named.push("index.json".into());
    files.sort();
    named.sort();
    assert_eq!(files, named);
    for entry in written["tensors"].as_array().expect("an array") {
        let file = folder.join(entry["file"].as_str().expect("a name"));
        let array = llorch_cpud::trace::npy::decode(&std::fs::read(file).expect("there")).expect("an array");
        assert_eq!(serde_json::json!(array.shape), entry["shape"]);
    }

    let model = directory.path().join("a.gguf");
    let greedy = ["--temperature", "0", "--ignore-eos", "--json", "--max-tokens", "8"];
    for kv_type in ["f32", "f16"] {
        let common = ["--model", text(&model), "--prompt", "A fox.", "--kv-type", kv_type];
        let completion: Value =
            serde_json::from_str(&done(&[&["generate"], &common[..], &greedy].concat())).expect("JSON");
        let folder = directory.path().join(kv_type);
        done(&[&["trace"], &common[..], &["--out", text(&folder)]].concat());
        assert_eq!(index(&folder)["tokens"], completion["token_ids"], "{kv_type}");
        assert_eq!(index(&folder)["kv_type"], kv_type);
    }
}

/// TRACE-014: a table, a last line, and the exit code.
#[test]
fn comparing_tells_by_table_and_exit_code() {
    covers!("TRACE-014");
    let (_directory, [a, b]) = traces();
    let table = done(&["compare", text(&a), text(&a)]);
    assert!(table.starts_with("ours:      llorch-cpud 0.") && table.ends_with("\nevery check passes\n"), "{table}");
    for name in ["attn_norm", "k_cache", "scores", "probabilities", "tokens"] {
        assert!(table.contains(name), "{table}");
    }
    let output = run(&["compare", text(&b), text(&a)]);
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1));
    let last = table.lines().last().expect("a last line");
    assert!(last.ends_with("checks fail; the first: checkpoint 1 (attn_norm, layer 0)"), "{last}");
    let (_, error) = fails(&["compare", text(&b), text(&a)]);
    assert_eq!(error, "llorch-cpud: checkpoint 1 (attn_norm, layer 0) differs from the reference");
    // So wide a tolerance lets everything pass but what is exact.
    let output = run(&["compare", text(&b), text(&a), "--tolerance-scale", "1e6"]);
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    let failing: Vec<&str> = table.lines().filter(|line| line.contains("FAIL")).collect();
    assert!(failing.iter().all(|line| line.contains(" equal ")), "{failing:?}");
}

/// A foreign trace cannot write to the terminal what it likes.
#[test]
fn what_a_trace_says_of_itself_is_shown_without_control_characters() {
    covers!("TRACE-014");
    let (_directory, [a, b]) = traces();
    let path = b.join("index.json");
    let index = std::fs::read_to_string(&path).expect("written");
    let model = serde_json::from_str::<serde_json::Value>(&index).expect("JSON")["model"].to_string();
    std::fs::write(&path, index.replace(&model, "\"x\\u001b]0;y\\u0007\"")).expect("written");
    let output = run(&["compare", text(&b), text(&a)]);
    let shown = [output.stdout, output.stderr].concat();
    let shown = String::from_utf8(shown).expect("UTF-8");
    assert!(shown.contains("x\u{fffd}]0;y\u{fffd}"), "{shown}");
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
}

/// TRACE-014: 2 for flags, 65 for data, 66 for what cannot be opened.
#[test]
fn errors_have_their_exit_codes() {
    covers!("TRACE-014");
    let (directory, [a, b]) = traces();
    let none = directory.path().join("none");
    for (ours, reference) in [(&a, &none), (&none, &a)] {
        let (code, error) = fails(&["compare", text(ours), text(reference)]);
        assert_eq!(code, Some(66), "{error}");
        assert!(error.contains("none") && error.contains("index.json"), "{error}");
    }
    for scale in ["0", "-1", "nan", "inf"] {
        let (code, _) = fails(&["compare", text(&a), text(&a), &format!("--tolerance-scale={scale}")]);
        assert_eq!(code, Some(2), "{scale}");
    }
    std::fs::write(b.join("scores.1.npy"), b"\x93NUMPY\x01\x00\x05\x00{}").expect("written");
    let (code, error) = fails(&["compare", text(&a), text(&b)]);
    assert_eq!((code, error.contains("scores.1.npy")), (Some(65), true), "{error}");
    std::fs::write(b.join("scores.1.npy"), vec![0; 1 << 20]).expect("written");
    let (code, error) = fails(&["compare", text(&a), text(&b)]);
    assert_eq!((code, error.contains("at most")), (Some(65), true), "{error}");
    std::fs::remove_file(b.join("scores.1.npy")).expect("it was there");
    let (code, error) = fails(&["compare", text(&a), text(&b)]);
    assert_eq!((code, error.contains("scores.1.npy")), (Some(66), true), "{error}");
    std::fs::create_dir(b.join("scores.1.npy")).expect("made");
    assert_eq!(fails(&["compare", text(&a), text(&b)]).0, Some(66));
    std::fs::write(b.join("index.json"), b"\xff\xfe").expect("written");
    assert_eq!(fails(&["compare", text(&a), text(&b)]).0, Some(65));
    std::fs::write(b.join("index.json"), b"{\"format\": 2}").expect("written");
    let (code, error) = fails(&["compare", text(&a), text(&b)]);
    assert_eq!((code, error.contains("format")), (Some(65), true), "{error}");
}

#[test]
fn a_trace_that_cannot_be_made_is_refused() {
    let (directory, [a, _]) = traces();
    let model = directory.path().join("a.gguf");
    let out = directory.path().join("out");
    let long = vec!["5"; 300].join(",");
    let (code, error) = fails(&["trace", "--model", text(&model), "--prompt-tokens", &long, "--out", text(&out)]);
    assert_eq!((code, error.contains("context")), (Some(65), true), "{error}");
    let (code, error) = fails(&["trace", "--model", text(&model), "--prompt-tokens", "9999", "--out", text(&out)]);
    assert_eq!((code, error.contains("9999")), (Some(2), true), "{error}");
    assert!(!out.exists());
    // A file in the way of the folder.
    let file = a.join("tokens.npy");
    let (code, error) = fails(&["trace", "--model", text(&model), "--prompt-tokens", "1", "--out", text(&file)]);
    assert_eq!((code, error.contains("tokens.npy")), (Some(74), true), "{error}");
}
