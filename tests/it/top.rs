//! `top` as a command, against a server process.

use crate::support::client::request;
use crate::support::process::{Process, collect, command, model_file};
use std::process::Output;

const PROMPT: [u32; 5] = [1, 70, 71, 72, 73];

fn top(arguments: &[&str]) -> Output {
    command().arg("top").args(arguments).output().expect("the binary runs")
}

/// The line of the snapshot that begins with `name`, its blanks squeezed.
fn line(text: &str, name: &str) -> String {
    let found = text.lines().find(|line| line.trim_start().starts_with(name));
    let found = found.unwrap_or_else(|| panic!("no line {name:?} in\n{text}"));
    found.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_snapshot_has_the_figures_of_the_server() {
    let (_directory, path) = model_file();
    let mut process = Process::start(&path, &["--isa", "scalar"]);
    process.ready();
    let channel = process.connect().await;
    for max_tokens in [7, 9, 4] {
        collect(&channel, request(&PROMPT, max_tokens)).await;
    }
    process.idle_metrics().await;
    let target = format!("http://{}/metrics", process.metrics);
    // Where stdout is no terminal, --once is what it does anyway.
    for flags in [&["--once"][..], &[]] {
        let output = top(&[&["--target", &target, "--interval", "100ms"], flags].concat());
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(line(&text, "version"), format!("version {}", env!("CARGO_PKG_VERSION")));
        assert_eq!(line(&text, "isa"), "isa scalar, 2 threads");
        assert!(line(&text, "model").contains("(llama, F32)"), "{text}");
        assert_eq!(line(&text, "state"), "state serving");
        assert_eq!((line(&text, "running"), line(&text, "waiting")), ("running 0".into(), "waiting 0".into()));
        assert_eq!(line(&text, "batch"), "batch 0, mean 1.00 since the start");
        assert_eq!(line(&text, "generated tokens"), "generated tokens 20");
        assert_eq!(line(&text, "prompt tokens"), "prompt tokens 15");
        assert_eq!(line(&text, "sequences finished"), "sequences finished 3");
        assert_eq!(line(&text, "OK"), "OK 0.00 3");
        assert_eq!(line(&text, "generated"), "generated 0.00 tokens/s");
        for (name, samples) in [("first token", "3"), ("inter-token", "17"), ("end to end", "3"), ("queue time", "3")] {
            let line = line(&text, name);
            assert!(line.ends_with(&format!("s {samples}")) && !line.contains('–'), "{line}");
        }
    }
    drop(process);
    let output = top(&["--target", &target]);
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!((output.status.code(), error.lines().count()), (Some(69), 1), "{error}");
    assert!(error.contains(&format!("--target {target}: cannot connect: ")), "{error}");
}

#[test]
fn what_is_wrong_has_its_exit_code() {
    for flags in [
        &["--target", "127.0.0.1:9464"][..],
        &["--target", "https://127.0.0.1:9464/metrics"],
        &["--interval", "0s"],
        &["--interval", "1"],
        &["--twice"],
    ] {
        let output = top(flags);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Something answers, and it is not our server.
#[test]
fn another_server_is_told_apart() {
    let (_directory, path) = model_file();
    let process = Process::start(&path, &[]);
    let answers = [("nothing", "answers HTTP 404"), ("healthz", "shows no metric that begins with llorch_")];
    for (path, expected) in answers {
        let output = top(&["--once", "--target", &format!("http://{}/{path}", process.metrics)]);
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(output.status.code() == Some(69) && error.contains(expected), "{error}");
    }
}
