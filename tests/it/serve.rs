//! The `serve` command as a process: a real model, signals, exit codes (`specs/06_GRPC_API.md`).

use crate::support::client::{Completion, eventually, metric, request};
use crate::support::process::{Process, collect, command, model_file};
use llorch_cpud::server::proto::control_client::ControlClient;
use llorch_cpud::server::proto::{
    GenerateRequest, GetLoadRequest, GetModelInfoRequest, GetServerInfoRequest, SamplingParams,
};

fn mixed(index: u32) -> GenerateRequest {
    let prompt: Vec<u32> = (0..1 + index % 9).map(|i| 50 + (index * 17 + i * 3) % 200).collect();
    let sampling = SamplingParams { temperature: Some(0.9), seed: Some(u64::from(index)), ..Default::default() };
    GenerateRequest { sampling: Some(sampling), ..request(&prompt, 10 + index % 20) }
}

/// API-42 with a real model: what is batched equals what is alone; then SIGTERM ends the process well.
#[tokio::test]
async fn a_real_model_is_served_until_sigterm() {
    covers!("API-43");
    let (_directory, path) = model_file();
    let mut process = Process::start(&path, &["--max-num-seqs", "8"]);
    process.ready();
    let channel = process.connect().await;
    let mut control = ControlClient::new(channel.clone());
    let model = control.get_model_info(GetModelInfoRequest::default()).await.expect("an answer").into_inner();
    assert_eq!((model.architecture.as_str(), model.vocab_size, model.sha256.len()), ("llama", 320, 64));
    let mut alone = Vec::new();
    for index in 0..12 {
        alone.push(collect(&channel, mixed(index)).await.outputs());
    }
    let together = futures_util::future::join_all((0..12).map(|index| collect(&channel, mixed(index)))).await;
    assert_eq!(together.iter().map(Completion::outputs).collect::<Vec<_>>(), alone);
    assert!(alone.iter().any(|outputs| !outputs[0].0.is_empty()));
    let load = control.get_load(GetLoadRequest {}).await.expect("an answer").into_inner();
    assert!(load.step_ms.is_some_and(|ms| ms.p50 > 0.0), "{load:?}");
    let metrics = process.metrics();
    assert_eq!(metric(&metrics, "llorch_requests_finished_total{reason=\"length\"}"), 24.0);
    assert_eq!(metric(&metrics, "llorch_kv_blocks{state=\"used\"}"), 0.0);
    drop((channel, control));
    process.signal("TERM");
    let (status, log) = process.exit();
    assert_eq!(status.code(), Some(0), "{log}");
}

/// API-43: a log that cannot be written, such as a pipe whose reader has gone, costs log lines and nothing else.
#[tokio::test]
async fn a_log_without_a_reader_does_not_keep_the_server_from_draining() {
    covers!("API-43");
    let (_directory, path) = model_file();
    let mut process = Process::start(&path, &[]);
    process.ready();
    process.close_log();
    process.signal("TERM");
    let address = process.grpc;
    eventually("the port closes", || std::net::TcpStream::connect(address).is_err()).await;
    assert_eq!(process.exit().0.code(), Some(0));
}

/// What is given is in force, and told.
#[tokio::test]
async fn flags_of_the_scheduler_are_taken_up() {
    let (_directory, path) = model_file();
    let weights = ["--tenant-weight", "a=2,b=0.5", "--tenant-weight", "c=100"];
    let mut process = Process::start(&path, &[&["--target-itl", "75"][..], &weights].concat());
    process.ready();
    let mut control = ControlClient::new(process.connect().await);
    let info = control.get_server_info(GetServerInfoRequest {}).await.expect("an answer").into_inner();
    assert_eq!(info.limits.and_then(|limits| limits.target_itl_ms), Some(75.0));
    process.signal("TERM");
    let (status, log) = process.exit();
    assert_eq!(status.code(), Some(0), "{log}");
}

/// The process answers while it loads nothing it can use, then says what is wrong and ends with the code of the kind.
#[test]
fn what_cannot_be_served_ends_with_its_exit_code() {
    let (directory, path) = model_file();
    let serve = |arguments: &[&str]| {
        let fixed = ["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
        let output = command().args(fixed).args(arguments).output().expect("the binary runs");
        let log = String::from_utf8(output.stderr).expect("UTF-8");
        (output.status.code(), log.lines().last().unwrap_or_default().to_owned())
    };
    let text = directory.path().join("text.gguf");
    std::fs::write(&text, "no model").expect("written");
    let (text, model) = (text.to_str().expect("UTF-8"), path.to_str().expect("UTF-8"));
    let (code, line) = serve(&["--model", text]);
    assert_eq!(code, Some(65), "{line}");
    let (code, line) = serve(&["--model", "no/such/file.gguf"]);
    assert_eq!(code, Some(66), "{line}");
    let (code, line) = serve(&["--model", model, "--tenant-weight", "a=2", "--tenant-weight", "a=3"]);
    assert_eq!((code, line.contains("--tenant-weight a=3")), (Some(2), true), "{line}");
    for flags in [["--target-itl", "0"], ["--target-itl", "1.5"], ["--tenant-weight", "a"], ["--tenant-weight", "a=0"]]
    {
        assert_eq!(serve(&[&["--model", model][..], &flags].concat()).0, Some(2), "{flags:?}");
    }
    let (code, line) = serve(&["--model", model, "--max-message-size", "0"]);
    assert_eq!((code, line.contains("--max-message-size")), (Some(78), true), "{line}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let output = command().args(["serve", "--model", model, "--listen", &address]).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(74));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&address));
}
