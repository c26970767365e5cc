//! Faults of the engine: values that are not finite, panics in a step, steps that do not end. What they touch ends with
//! the right status, and everything else goes on with the same bits (`specs/06_GRPC_API.md`).

use crate::support::client::{
    Gate, Options, Output, Stream, TestServer, assert_status, greedy_ids, metric, request, text_of,
};
use crate::support::process::{POISON, Process, collect, poisoned_model_file};
use llorch_cpud::server::proto::inference_client::InferenceClient;
use llorch_cpud::server::proto::{GenerateRequest, KvOptions, SamplingParams};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

const PROMPT: [u32; 5] = [1, 70, 71, 72, 73];
/// A step that computes this token panics, where a test says so.
const FAULT: u32 = 300;

/// The next state that a watch of health tells. Only a failing test waits long.
async fn next_state(states: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    let message = tokio::time::timeout(Duration::from_secs(30), states.message()).await.expect("a change");
    message.expect("open").expect("a state").status()
}

/// API-36: both names of health, the readiness and the metric follow the steps; an idle engine is healthy.
#[tokio::test]
async fn a_step_that_does_not_end_is_told_and_taken_back() {
    covers!("API-36");
    let gate = Gate::default();
    let mut options = Options { gate: Some(gate.clone()), ..Default::default() };
    options.limits.stall_timeout = Duration::from_millis(100);
    let server = TestServer::start(options).await;
    let mut states = Vec::new();
    for service in ["", "llorch.v1.Inference"] {
        let mut health = HealthClient::new(server.channel.clone());
        let wanted = HealthCheckRequest { service: service.into() };
        states.push(health.watch(wanted).await.expect("a stream").into_inner());
    }
    for states in &mut states {
        while next_state(states).await != ServingStatus::Serving {}
    }
    for stall in 1..=2 {
        assert!(server.state.is_ready());
        let held = server.generate(request(&PROMPT, 5)).await.expect("accepted");
        gate.entered(5 * stall - 4).await;
        for states in &mut states {
            assert_eq!(next_state(states).await, ServingStatus::NotServing, "stall {stall}");
        }
        assert!(!server.state.is_ready());
        assert_eq!(server.metric("llorch_engine_stalled"), 1.0);
        gate.allow(5);
        for states in &mut states {
            assert_eq!(next_state(states).await, ServingStatus::Serving, "stall {stall}");
        }
        assert_eq!(held.collect().await.expect("a good end").text(), text_of(&greedy_ids(&PROMPT, 5)));
        assert_eq!(server.metric("llorch_engine_stalled"), 0.0);
        server.at_rest().await;
    }
}

fn random(prompt: &[u32], max_tokens: u32) -> GenerateRequest {
    let logit_bias = [(POISON, f32::NEG_INFINITY), (FAULT, f32::NEG_INFINITY)].into();
    let sampling = SamplingParams { temperature: Some(0.9), seed: Some(5), logit_bias, ..Default::default() };
    GenerateRequest { sampling: Some(sampling), ..request(prompt, max_tokens) }
}

async fn start(channel: &Channel, wanted: GenerateRequest) -> Stream {
    Stream(InferenceClient::new(channel.clone()).generate(wanted).await.expect("accepted").into_inner())
}

async fn error(channel: &Channel, wanted: GenerateRequest) -> Status {
    start(channel, wanted).await.error().await
}

async fn outputs(channel: &Channel, wanted: GenerateRequest) -> Vec<Output> {
    collect(channel, wanted).await.outputs()
}

/// API-34 with a real model: NaN fills the blocks of a sequence, those of its prefix among them, and whoever gets these
/// blocks next, or the prefix, sees nothing of it. The pool is so small that all of its blocks are used again.
#[tokio::test]
async fn blocks_that_held_nan_change_nothing_for_those_who_get_them() {
    covers!("API-34", "LAW-4");
    let (_directory, path) = poisoned_model_file();
    for kv_type in ["f16", "f32", "q8_0"] {
        let flags = ["--max-num-seqs", "4", "--block-size", "4", "--kv-cache", "64KiB", "--kv-type", kv_type];
        let mut process = Process::start(&path, &[&flags[..], &["--max-model-len", "40"]].concat());
        process.ready();
        let channel = process.connect().await;
        let healthy: Vec<u32> = (60..72).collect();
        let alone = outputs(&channel, random(&healthy, 20)).await;
        for round in 0..20 {
            // Its first blocks are those of the healthy prompt; the rest, a page of NaN.
            let prompt = [&healthy[..8], &[POISON], &[80 + round; 20]].concat();
            let ill = error(&channel, random(&prompt, 5));
            let mut other = random(&healthy, 20);
            // One that has computed all by itself, in blocks that held NaN, and one that may have found its prefix.
            let bypass_prefix_cache = round % 2 == 0;
            other.kv = Some(KvOptions { bypass_prefix_cache, ..Default::default() });
            let (ill, beside) = tokio::join!(ill, outputs(&channel, other.clone()));
            assert_status(&ill, Code::Internal, "NON_FINITE_LOGITS");
            assert_eq!(beside, alone, "{kv_type}, round {round}, beside");
            assert_eq!(outputs(&channel, other).await, alone, "{kv_type}, round {round}, after");
        }
        let metrics = process.idle_metrics().await;
        assert_eq!(metric(&metrics, "llorch_engine_restarts_total"), 0.0);
    }
}

/// API-35 in a process: workers of the pool panic, and the engine begins anew, three times. The fourth ends the process
/// with exit code 70, and its clients are told.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_process_survives_three_panics_and_exits_at_the_fourth() {
    covers!("API-35", "LAW-4");
    let (_directory, path) = poisoned_model_file();
    let fault = FAULT.to_string();
    let fault = [("LLORCH_TEST_FAULT_TOKEN", fault.as_str())];
    // One at a time: whoever is behind the fault is in the queue when it happens, or comes after it.
    let mut process = Process::start_with_env(&path, &["--max-num-seqs", "1", "--block-size", "4"], &fault);
    process.ready();
    let channel = process.connect().await;
    let alone = outputs(&channel, random(&PROMPT, 60)).await;
    let broken = random(&[1, FAULT], 5);
    for faults in 1..=3 {
        let running = start(&channel, broken.clone()).await;
        let behind = async {
            let mut client = InferenceClient::new(channel.clone());
            Stream(client.generate(random(&PROMPT, 60)).await?.into_inner()).collect().await
        };
        let (running, behind) = tokio::join!(running.error(), behind);
        assert_status(&running, Code::Internal, "ENGINE_FAULT");
        match behind {
            Ok(completion) => assert_eq!(completion.outputs(), alone, "fault {faults}"),
            Err(status) => assert_status(&status, Code::Unavailable, "ENGINE_RESTART"),
        }
        assert_eq!(outputs(&channel, random(&PROMPT, 60)).await, alone, "after fault {faults}");
        let metrics = process.idle_metrics().await;
        assert_eq!(metric(&metrics, "llorch_engine_restarts_total"), f64::from(faults));
        assert_eq!(metric(&metrics, "llorch_requests_waiting"), 0.0);
    }
    assert_status(&error(&channel, broken).await, Code::Internal, "ENGINE_FAULT");
    let (status, log) = process.exit();
    assert_eq!(status.code(), Some(70), "{log}");
    assert!(log.lines().last().is_some_and(|line| line.contains("4 times within a minute")), "{log}");
}
