//! `bench engine` measures the engine that serves: what its sequences produce are the tokens of `generate`.

use crate::support::process::{command, model_file, without_reader};
use std::path::Path;
use std::process::Output;

const PROMPT: usize = 21;
const STEPS: usize = 12;

fn run(model: &Path, flags: &[&str]) -> Output {
    let mut command = command();
    command.args(flags).arg("--model").arg(model).args(["--threads", "2", "--kv-cache", "4MiB"]);
    command.output().expect("the binary runs")
}

fn good(output: &Output) -> &str {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn ids(value: &serde_json::Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id")).collect()
}

fn generated(model: &Path, prompt: &[u64], max_tokens: usize) -> Vec<u64> {
    let prompt: Vec<String> = prompt.iter().map(u64::to_string).collect();
    let (prompt, max_tokens) = (prompt.join(","), max_tokens.to_string());
    let flags = ["--prompt-tokens", &prompt, "--max-tokens", &max_tokens, "--temperature", "0", "--ignore-eos"];
    let output = run(model, &[&["generate", "--json"], &flags[..]].concat());
    let object: serde_json::Value = serde_json::from_str(good(&output)).expect("JSON");
    ids(&object["token_ids"])
}

#[test]
fn its_tokens_are_those_of_generate() {
    let (_directory, model) = model_file();
    let (pp, tg) = (PROMPT.to_string(), STEPS.to_string());
    // Steps of 32 rows: prompts are cut, and the first sequences decode while the last ones are computed.
    let rows = ["--max-num-batched-tokens", "32"];
    let flags = ["--pp", &pp, "--tg", &tg, "--batch", "1,5", "--json", "--tokens"];
    let output = run(&model, &[&["bench", "engine"], &flags[..], &rows].concat());
    let lines: Vec<serde_json::Value> =
        good(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let sizes: Vec<usize> = lines.iter().map(|row| row["sequences"].as_array().expect("a list").len()).collect();
    assert_eq!(sizes, [1, 5]);

    let (mut prompts, mut answers) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for sequence in lines.iter().flat_map(|row| row["sequences"].as_array().expect("a list")) {
        let (prompt, tokens) = (ids(&sequence["prompt"]), ids(&sequence["token_ids"]));
        assert_eq!(prompt.len(), PROMPT);
        assert!(tokens.len() > STEPS, "the first token comes before the timed steps: {tokens:?}");
        let expected = generated(&model, &prompt, tokens.len());
        assert_eq!(tokens, expected, "after {prompt:?}");
        assert_eq!(ids(&sequence["prefill_token_ids"]), expected[..1], "after {prompt:?}");
        prompts.insert(prompt);
        answers.insert(tokens[..STEPS].to_vec());
    }
    // Or a mix-up of sequences could not be seen. The batch of one has the prompt of the first of five.
    assert_eq!((prompts.len(), answers.len()), (5, 5));
}

#[test]
fn tokens_are_told_only_where_asked_for() {
    let (_directory, model) = model_file();
    let bench =
        |flags: &[&str]| run(&model, &[&["bench", "engine", "--pp", "4", "--tg", "2", "--batch", "2"], flags].concat());
    assert!(!good(&bench(&["--json"])).contains("sequences"));
    assert!(good(&bench(&[])).starts_with("|    PP |"));
    assert_eq!(bench(&["--tokens"]).status.code(), Some(2), "the table has no place for them");
}

/// One line on stderr that has all `parts`, and this exit code.
fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    let line = errors.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(parts.iter().all(|part| line.contains(part)) && !errors.contains("panicked"), "{errors}");
}

#[test]
fn sequences_longer_than_the_context_are_refused() {
    let (_directory, model) = model_file();
    // The prompt's first token comes before the timed steps: 10 + 5 + 1.
    let bench = |context: &str, pp: &str, tg: &str| {
        let lengths = ["--pp", pp, "--tg", tg, "--max-model-len", context, "--batch", "1"];
        run(&model, &[&["bench", "engine"], &lengths[..]].concat())
    };
    good(&bench("16", "10", "5"));
    good(&bench("3", "1", "1"));
    for (context, pp, tg) in [("15", "10", "5"), ("10", "10", "1"), ("4", "10", "5"), ("2", "1", "1")] {
        let lengths = [&format!("--pp {pp}")[..], &format!("--tg {tg}"), &format!("context of {context}")];
        assert_refused(&bench(context, pp, tg), 2, &lengths);
    }
    // Three prompts of 10 take four steps of 8 tokens and more: the first sequence has four tokens by then.
    let bench = |context: &str| {
        let lengths = ["--pp", "10", "--tg", "5", "--batch", "3", "--max-num-batched-tokens", "8"];
        run(&model, &[&["bench", "engine", "--max-model-len", context], &lengths[..]].concat())
    };
    assert_refused(&bench("18"), 2, &["--batch 3", "19 tokens", "context of 18"]);
}

/// The first sequences come to their end before the last have begun.
#[test]
fn batches_that_never_decode_together_end_with_an_error() {
    let (_directory, model) = model_file();
    let bench = |flags: &[&str]| run(&model, &[&["bench", "engine", "--pp", "40", "--tg", "2"], flags].concat());
    let flags = ["--kv-cache", "--max-num-batched-tokens"];
    assert_refused(&bench(&["--batch", "8", "--max-num-batched-tokens", "8"]), 78, &flags);
    // A block is 64 KiB: two layers of two heads of 16 f32, K and V, 128 places. A sequence needs one.
    let small = ["--batch", "3", "--block-size", "128", "--kv-type", "f32"];
    let mut command = command();
    command.args(["bench", "engine", "--pp", "40", "--tg", "2", "--kv-cache", "128KiB", "--threads", "2", "--model"]);
    assert_refused(&command.arg(&model).args(small).output().expect("the binary runs"), 78, &flags);
}

/// What comes after the row that nobody reads would be an error.
#[test]
fn it_ends_when_nobody_reads_the_rows() {
    let (_directory, model) = model_file();
    let flags = ["--json", "--pp", "40", "--tg", "2", "--batch", "1,8", "--max-num-batched-tokens", "8"];
    let mut bench = command();
    bench.args(["bench", "engine", "--threads", "2", "--kv-cache", "4MiB", "--model"]).arg(&model).args(flags);
    good(&without_reader(&mut bench));
}
