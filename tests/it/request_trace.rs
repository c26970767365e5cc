//! The trace events of requests on the log of a process (`specs/06_GRPC_API.md`, API-37).

use crate::support::client::{Stream, eventually, metric, named, request};
use crate::support::process::{POISON, Process, collect, poisoned_model_file};
use futures_util::future::join_all;
use llorch_cpud::server::proto::generate_request::Prompt;
use llorch_cpud::server::proto::inference_client::InferenceClient;
use llorch_cpud::server::proto::{GenerateRequest, ResponseOptions, StoppingOptions};
use std::collections::BTreeMap;

const FILTER: (&str, &str) = ("LLORCH_LOG", "info,llorch_cpud::request=debug");

/// The events of each request in their order, with their fields.
fn events(log: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut requests: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for line in log.lines() {
        let Some((_, span)) = line.split_once("request{id=\"") else { continue };
        let (id, rest) = span.split_once('"').expect("an id");
        let (_, event) = rest.split_once("llorch_cpud::request: ").expect("the target");
        let (name, fields) = event.split_once(' ').unwrap_or((event, ""));
        requests.entry(id.into()).or_default().push((name.into(), fields.into()));
    }
    requests
}

fn names(events: &[(String, String)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

fn fields<'a>(events: &'a [(String, String)], name: &str) -> &'a str {
    &events.iter().find(|(event, _)| event == name).unwrap_or_else(|| panic!("no {name} in {events:?}")).1
}

/// Stops the process and reads what it wrote.
fn log_of(mut process: Process) -> String {
    process.signal("TERM");
    let (status, log) = process.exit();
    assert_eq!(status.code(), Some(0), "{log}");
    log
}

/// Each event once and in order, on a pool so small that sequences preempt each other.
#[tokio::test]
async fn every_request_tells_its_life_once_and_in_order() {
    covers!("API-37");
    let (_directory, path) = poisoned_model_file();
    let flags = ["--max-num-seqs", "16", "--block-size", "4", "--kv-cache", "64KiB"];
    let mut process = Process::start_with_env(&path, &flags, &[FILTER]);
    process.ready();
    let channel = process.connect().await;
    let wanted = |i: u32| named(&format!("many-{i}"), &[1, 50 + i, 60, 61], 60);
    join_all((0..24).map(|i| collect(&channel, wanted(i)))).await;
    let preemptions = metric(&process.metrics(), "llorch_preemptions_total");
    assert!(preemptions > 0.0, "the pool was meant to be too small");
    drop(channel);
    let requests = events(&log_of(process));
    assert_eq!(requests.len(), 24);
    let mut preempted = 0;
    for (id, events) in &requests {
        let mut names = names(events);
        preempted += names.iter().filter(|name| **name == "preempted").count();
        // Not before it was scheduled, and not after its end; before or after the first token.
        assert!(names.iter().position(|name| *name == "preempted").is_none_or(|place| place >= 2), "{id}: {names:?}");
        assert_eq!(names.last(), Some(&"finished"), "{id}");
        names.retain(|name| *name != "preempted");
        assert_eq!(names, ["queued", "first_scheduled", "first_token", "finished"], "{id}");
        assert!(fields(events, "first_scheduled").contains("index=0 cached_tokens="), "{events:?}");
        let end = fields(events, "finished");
        assert!(end.starts_with("index=0 reason=\"length\" tokens=60 queue_ms="), "{end}");
        assert!(end.contains(" prefill_ms=") && end.contains(" decode_ms="), "{end}");
    }
    assert_eq!(preempted as f64, preemptions);
}

/// Errors, stop tokens, several sequences; and no text. The client's connection has a thread beside the one that waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_of_all_kinds_are_told_and_no_text_is() {
    covers!("API-37");
    let (_directory, path) = poisoned_model_file();
    let mut process = Process::start_with_env(&path, &["--block-size", "4"], &[FILTER]);
    process.ready();
    let channel = process.connect().await;
    let mut client = InferenceClient::new(channel.clone());
    let ill = Stream(client.generate(named("ill", &[1, POISON], 5)).await.expect("accepted").into_inner());
    ill.error().await;
    collect(&channel, GenerateRequest { n: Some(3), ..named("three", &[1, 50], 5) }).await;
    let secret = Some(Prompt::Text("zebra crossing".into()));
    let response = Some(ResponseOptions { token_ids: true, ..Default::default() });
    let whole = GenerateRequest { prompt: secret.clone(), response, ..named("text", &[], 40) };
    let completion = collect(&channel, whole).await;
    // A stop token and not a string, for which the engine may have gone on to the end before it is found.
    let stop_token_ids = vec![completion.sequences[0].tokens[20].id];
    let stopping = StoppingOptions { stop_token_ids, ..request(&[], 40).stopping.expect("given") };
    collect(&channel, GenerateRequest { prompt: secret, stopping: Some(stopping), ..named("stop", &[], 40) }).await;
    // So much that it cannot be done before the server has seen the client go.
    let long = GenerateRequest { n: Some(128), ..named("gone", &[1, 51], 250) };
    let gone = Stream(client.generate(long).await.expect("accepted").into_inner());
    drop(gone);
    // Not until the engine is idle: it is that also before it has taken up the request.
    let released = || metric(&process.metrics(), "llorch_cancel_latency_seconds_count") == 1.0;
    eventually("the request is released", released).await;
    drop((channel, client));
    let log = log_of(process);
    let requests = events(&log);
    assert_eq!(names(&requests["ill"]), ["queued", "first_scheduled", "failed"]);
    assert_eq!(fields(&requests["ill"], "failed"), "error=logits are not finite");
    assert_eq!(names(&requests["gone"]).last(), Some(&"failed"));
    assert_eq!(fields(&requests["gone"], "failed"), "error=aborted");
    for index in 0..3 {
        let mut own = requests["three"].clone();
        own.retain(|(_, fields)| fields.starts_with(&format!("index={index} ")));
        assert_eq!(names(&own), ["first_scheduled", "first_token", "finished"]);
    }
    assert_eq!(requests["three"].len(), 1 + 3 * 3);
    assert!(fields(&requests["stop"], "finished").contains("reason=\"stop\""));
    assert!(!log.contains("zebra") && !log.contains("crossing"), "{log}");
    assert!(log.contains("id=\"text\" tenant=\"\" prompt_tokens="), "{log}");
}

/// The default log has none of it.
#[tokio::test]
async fn the_default_log_does_not_tell_of_requests() {
    let (_directory, path) = poisoned_model_file();
    let mut process = Process::start(&path, &[]);
    process.ready();
    let channel = process.connect().await;
    collect(&channel, named("quiet", &[1, 50], 5)).await;
    drop(channel);
    let log = log_of(process);
    assert!(!log.contains("quiet"), "{log}");
}
