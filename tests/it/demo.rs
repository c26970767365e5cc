//! The embedded model, as a new user meets it: no `--model`, no file, nothing but the binary.

use crate::support::process::{Process, command, without_reader};
use std::process::Output;

#[path = "../../examples/complete.rs"]
#[expect(dead_code, reason = "an example has its own main")]
mod complete;

/// What llama.cpp writes with the same files, greedily: `tests/reference/demo_stories.py` wrote it.
const STORIES: &str = include_str!("../demo_stories.json");
const GPT2_STORIES: &str = include_str!("../demo_gpt2_stories.json");

/// The model that is not embedded.
const GPT2: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-gpt2-q8_0.gguf");

struct Story {
    prompt: String,
    /// The text after the prompt up to llama.cpp's first close choice, where another rounding may choose another word.
    sure: String,
}

fn stories(text: &str) -> Vec<Story> {
    let parsed: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let field = |story: &serde_json::Value, name: &str| story[name].as_str().expect("a text").to_owned();
    let list = parsed["stories"].as_array().expect("a list");
    list.iter().map(|story| Story { prompt: field(story, "prompt"), sure: field(story, "sure") }).collect()
}

fn greedy(prompt: &str) -> String {
    greedy_with(&[], prompt)
}

fn greedy_with(flags: &[&str], prompt: &str) -> String {
    let all = [flags, &["--temperature", "0", "--prompt", prompt]].concat();
    String::from_utf8(generate(&all).stdout).expect("UTF-8")
}

fn generate(flags: &[&str]) -> Output {
    let output = command().args(["generate", "--kv-cache", "4MiB"]).args(flags).output().expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Text that nobody reads is not computed; it is no error.
#[test]
fn generate_ends_when_nobody_reads_the_text() {
    let mut generate = command();
    generate.args(["generate", "--kv-cache", "4MiB", "--prompt", "Once upon a time", "--ignore-eos"]);
    let output = without_reader(generate.args(["--temperature", "0", "--max-tokens", "100"]));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    // Each token of a story is text, so the first one finds the pipe closed.
    assert!(log.contains(" tokens=1 ") && log.contains("cancelled"), "{log}");
}

#[test]
fn generate_writes_the_stories_that_llama_cpp_writes() {
    for (flags, text) in [(&[] as &[&str], STORIES), (&["--model", GPT2], GPT2_STORIES)] {
        let stories = stories(text);
        let sure: usize = stories.iter().map(|story| story.sure.len()).sum();
        assert!(sure > 1000, "only {sure} bytes to compare");
        for Story { prompt, sure } in stories {
            let text = greedy_with(flags, &prompt);
            assert!(text.starts_with(&sure), "{flags:?} after {prompt:?}:\n{text}\nllama.cpp:\n{sure}");
        }
    }
}

/// The model ends its stories itself, sampled as well as greedy, and another seed tells another story.
#[test]
fn sampled_stories_end_by_themselves_and_differ() {
    let mut texts = std::collections::BTreeSet::new();
    for seed in 0..8 {
        let output = generate(&["--prompt", "Once upon a time", "--seed", &seed.to_string(), "--json"]);
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(object["finish_reason"], "stop", "{object}");
        assert!((40..256).contains(&object["completion_tokens"].as_u64().expect("a count")), "{object}");
        texts.insert(object["text"].to_string());
    }
    assert_eq!(texts.len(), 8);
}

#[tokio::test]
async fn serve_answers_the_rust_example_without_a_model_file() {
    let mut server = Process::start_demo();
    server.ready();
    for prompt in ["Once upon a time", "A funny girl named Ruby"] {
        let mut out = Vec::new();
        complete::complete(format!("http://{}", server.grpc), prompt.to_owned(), &mut out).await.expect("a story");
        assert_eq!(String::from_utf8(out).expect("UTF-8"), format!("{}\n[STOP]\n", greedy(prompt)));
    }
}

/// GPT-2 is served as the embedded model is: over gRPC, the text that `generate` writes.
#[tokio::test]
async fn serve_answers_with_the_gpt2_model() {
    let mut server = Process::start(std::path::Path::new(GPT2), &[]);
    server.ready();
    let prompt = "Do you know Tilly?";
    let mut out = Vec::new();
    complete::complete(format!("http://{}", server.grpc), prompt.to_owned(), &mut out).await.expect("a story");
    let expected = format!("{}\n[STOP]\n", greedy_with(&["--model", GPT2], prompt));
    assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
}

#[test]
fn tokenize_knows_the_embedded_vocabulary() {
    let mut child = command();
    let output = child.arg("tokenize").stdin(std::process::Stdio::null()).output().expect("the binary runs");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"\n".as_slice()));
}
