//! Requests that end before their time, at every stage: the right status, and every block back
//! (`specs/06_GRPC_API.md`).

use crate::support::client::{
    Gate, Options, Stream, TestServer, assert_status, eventually, greedy_ids, named, request, text_of,
};
use crate::support::raw_http2::RawClient;
use llorch_cpud::server::proto::generate_response::Event;
use llorch_cpud::server::proto::{AbortRequest, GenerateRequest};
use std::time::Duration;
use tonic::{Code, Request};

const PROMPT: [u32; 12] = [1, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80];

/// One sequence at a time, four tokens a step: the prompt takes three steps.
fn narrow(gate: &Gate) -> Options {
    let mut options = Options { gate: Some(gate.clone()), ..Default::default() };
    (options.scheduler.max_num_seqs, options.scheduler.max_num_batched_tokens) = (1, 4);
    options
}

const CANCELLED: &str = "llorch_requests_total{rpc=\"Generate\",code=\"CANCELLED\"}";

/// The client's end of a stream is gone, and the server knows.
async fn vanish(server: &TestServer, stream: Stream) {
    let before = server.metric(CANCELLED);
    drop(stream);
    eventually("the server sees that the client is gone", || server.metric(CANCELLED) > before).await;
}

fn cancelled(server: &TestServer, stage: &str) -> f64 {
    server.metric(&format!("llorch_requests_cancelled_total{{stage=\"{stage}\"}}"))
}

/// API-30: whoever leaves the queue is never computed.
#[tokio::test]
async fn a_client_that_leaves_the_queue() {
    covers!("API-30", "LAW-3");
    let gate = Gate::default();
    let server = TestServer::start(narrow(&gate)).await;
    let running = server.generate(request(&PROMPT, 5)).await.expect("accepted");
    gate.entered(1).await;
    let queued = server.generate(request(&PROMPT, 5)).await.expect("accepted");
    server.load_where("one waits", |load| load.waiting == 1 && load.waiting_tokens == 12).await;
    vanish(&server, queued).await;
    gate.allow(1);
    gate.entered(2).await;
    assert_eq!((cancelled(&server, "queue"), server.engine.load().waiting), (1.0, 0));
    gate.open();
    assert_eq!(running.collect().await.expect("a good end").text(), text_of(&greedy_ids(&PROMPT, 5)));
    server.at_rest().await;
    assert_eq!(server.metric("llorch_prompt_tokens_total{source=\"computed\"}"), 12.0);
}

/// API-30: it is no fault of the server and no bad request, whether the stream ends or the connection.
#[tokio::test]
async fn a_client_that_leaves_while_it_sends() {
    covers!("API-30");
    let server = TestServer::start(Options::default()).await;
    for is_stream_alone in [true, false] {
        let before = server.metric(CANCELLED);
        let mut client = RawClient::connect(server.address).await;
        client.call("/llorch.v1.Inference/Generate").await;
        client.begin_message(100, &[7; 10]).await;
        eventually("the server reads", || server.state.num_open_rpcs() == 1).await;
        if is_stream_alone {
            client.reset().await;
            eventually("the stream is gone", || server.state.num_open_rpcs() == 0).await;
        }
        drop(client);
        eventually("the client is gone", || server.state.num_open_rpcs() == 0).await;
        let metrics = server.engine.metrics().render();
        let counts: Vec<&str> = metrics.lines().filter(|line| line.starts_with("llorch_requests_total")).collect();
        assert_eq!(server.metric(CANCELLED), before + 1.0, "{counts:?}");
    }
}

/// API-30: within one step.
#[tokio::test]
async fn a_client_that_leaves_during_the_prefill() {
    covers!("API-30");
    let gate = Gate::default();
    let server = TestServer::start(narrow(&gate)).await;
    let stream = server.generate(request(&PROMPT, 5)).await.expect("accepted");
    gate.allow(1);
    gate.entered(2).await;
    vanish(&server, stream).await;
    gate.allow(1);
    server.at_rest().await;
    assert_eq!((cancelled(&server, "prefill"), cancelled(&server, "decode")), (1.0, 0.0));
    assert_eq!(server.metric("llorch_generation_tokens_total"), 0.0);
    assert_eq!(server.metric("llorch_cancel_latency_seconds_count"), 1.0);
}

/// API-30.
#[tokio::test]
async fn a_client_that_leaves_during_the_decode() {
    covers!("API-30");
    let gate = Gate::default();
    let server = TestServer::start(narrow(&gate)).await;
    let mut wanted = request(&PROMPT, 100);
    wanted.n = Some(3);
    let mut stream = server.generate(wanted).await.expect("accepted");
    gate.allow(4);
    assert!(matches!(stream.next().await.expect("open"), Some(Event::Accepted(_))));
    assert!(matches!(stream.next().await.expect("open"), Some(Event::Delta(_))));
    gate.entered(5).await;
    vanish(&server, stream).await;
    gate.allow(1);
    server.at_rest().await;
    assert_eq!((cancelled(&server, "decode"), cancelled(&server, "queue")), (3.0, 0.0));
    // The prompt, a token for each sequence in the third step, in which it was complete, and the two tokens of the one
    // that had the place in the others.
    assert_eq!(server.metric("llorch_wasted_tokens_total{cause=\"cancel\"}"), 12.0 + 3.0 + 2.0);
}

/// API-30: a unary call, too.
#[tokio::test]
async fn a_client_that_leaves_a_complete() {
    covers!("API-30");
    let gate = Gate::default();
    let server = TestServer::start(narrow(&gate)).await;
    let mut client = server.inference();
    let call = tokio::spawn(async move { client.complete(request(&PROMPT, 100)).await });
    gate.entered(1).await;
    call.abort();
    let name = "llorch_requests_total{rpc=\"Complete\",code=\"CANCELLED\"}";
    eventually("the server sees that the client is gone", || server.metric(name) == 1.0).await;
    gate.allow(1);
    server.at_rest().await;
}

/// API-31.
#[tokio::test]
async fn abort_ends_a_request_by_its_id() {
    covers!("API-31");
    let gate = Gate::default();
    let server = TestServer::start(narrow(&gate)).await;
    let running = server.generate(named("running", &PROMPT, 50)).await.expect("accepted");
    gate.entered(1).await;
    let queued = server.generate(named("queued", &PROMPT, 50)).await.expect("accepted");
    let mut control = server.control();
    for id in ["queued", "running"] {
        let answer = control.abort(AbortRequest { request_id: id.into() }).await.expect("in flight").into_inner();
        assert!(answer.aborted);
    }
    gate.allow(1);
    assert_status(&queued.error().await, Code::Cancelled, "ADMIN");
    assert_status(&running.error().await, Code::Cancelled, "ADMIN");
    server.at_rest().await;
    let status = control.abort(AbortRequest { request_id: "running".into() }).await.expect_err("gone");
    assert_status(&status, Code::NotFound, "REQUEST_NOT_FOUND");
}

/// API-32: an id is taken as long as its request is in flight, and no longer.
#[tokio::test]
async fn an_id_in_flight_is_taken() {
    covers!("API-32");
    let gate = Gate::default();
    let server = TestServer::start(narrow(&gate)).await;
    let first = server.generate(named("mine", &PROMPT, 2)).await.expect("accepted");
    assert_status(&server.refusal(named("mine", &PROMPT, 2)).await, Code::AlreadyExists, "REQUEST_ID_IN_FLIGHT");
    gate.open();
    first.collect().await.expect("a good end");
    for _ in 0..20 {
        server.collect(named("mine", &PROMPT, 2)).await;
    }
}

async fn with_timeout(server: &TestServer, wanted: GenerateRequest, timeout: Duration) -> Stream {
    let mut wanted = Request::new(wanted);
    wanted.set_timeout(timeout);
    Stream(server.inference().generate(wanted).await.expect("accepted").into_inner())
}

/// API-33: the deadline is kept although the engine is busy with a step.
#[tokio::test]
async fn a_deadline_that_passes_in_the_queue() {
    covers!("API-33");
    let gate = Gate::default();
    let server = TestServer::start(narrow(&gate)).await;
    let running = server.generate(request(&PROMPT, 5)).await.expect("accepted");
    gate.entered(1).await;
    let queued = with_timeout(&server, request(&PROMPT, 5), Duration::from_millis(300)).await;
    assert_status(&queued.error().await, Code::DeadlineExceeded, "IN_QUEUE");
    gate.open();
    running.collect().await.expect("a good end");
    server.at_rest().await;
    assert_eq!(cancelled(&server, "queue"), 1.0);
}

/// API-33.
#[tokio::test]
async fn a_deadline_that_passes_in_the_prefill() {
    covers!("API-33");
    let gate = Gate::default();
    let server = TestServer::start(narrow(&gate)).await;
    let stream = with_timeout(&server, request(&PROMPT, 5), Duration::from_secs(2)).await;
    gate.allow(1);
    gate.entered(2).await;
    assert_status(&stream.error().await, Code::DeadlineExceeded, "IN_PREFILL");
    gate.allow(1);
    server.at_rest().await;
}

/// API-33: what was sent before stays valid.
#[tokio::test]
async fn a_deadline_that_passes_in_the_decode() {
    covers!("API-33");
    let gate = Gate::default();
    let server = TestServer::start(narrow(&gate)).await;
    let mut stream = with_timeout(&server, request(&PROMPT, 50), Duration::from_secs(2)).await;
    gate.allow(5);
    assert!(matches!(stream.next().await.expect("open"), Some(Event::Accepted(_))));
    let Some(Event::Delta(delta)) = stream.next().await.expect("open") else { panic!("a delta") };
    assert!(text_of(&greedy_ids(&PROMPT, 3)).starts_with(&delta.text));
    assert_status(&stream.error().await, Code::DeadlineExceeded, "IN_DECODE");
    gate.allow(1);
    server.at_rest().await;
    assert_eq!(server.metric("llorch_requests_total{rpc=\"Generate\",code=\"DEADLINE_EXCEEDED\"}"), 1.0);
}

/// API-34: NaN in one sequence ends that one alone.
#[tokio::test]
async fn a_sequence_with_nan_logits_fails_alone() {
    covers!("API-34", "LAW-4");
    let server = TestServer::start(Options { nan_token: Some(200), ..Default::default() }).await;
    let control = server.generate(request(&PROMPT, 60)).await.expect("accepted");
    let poisoned = server.generate(request(&[1, 200, 70], 60)).await.expect("accepted");
    assert_status(&poisoned.error().await, Code::Internal, "NON_FINITE_LOGITS");
    let expected = greedy_ids(&PROMPT, 60);
    assert!(!expected.contains(&200), "choose another token");
    assert_eq!(control.collect().await.expect("a good end").text(), text_of(&expected));
    server.at_rest().await;
}

/// API-35: a panic in the forward pass fails what it had in hand; what waited may be tried again; the server lives.
#[tokio::test]
async fn a_panic_in_a_step_does_not_end_the_server() {
    covers!("API-35", "LAW-4");
    let gate = Gate::default();
    let server = TestServer::start(Options { panic_token: Some(200), ..narrow(&gate) }).await;
    let broken = server.generate(request(&[1, 200, 70], 5)).await.expect("accepted");
    gate.entered(1).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(server.generate(request(&PROMPT, 5)).await.expect("accepted"));
    }
    gate.open();
    assert_status(&broken.error().await, Code::Internal, "ENGINE_FAULT");
    for stream in waiting {
        // Those that the engine had not taken in yet go on as if nothing had happened.
        match stream.collect().await {
            Ok(completion) => assert_eq!(completion.text(), text_of(&greedy_ids(&PROMPT, 5))),
            Err(status) => assert_status(&status, Code::Unavailable, "ENGINE_RESTART"),
        }
    }
    assert_eq!(server.metric("llorch_engine_restarts_total"), 1.0);
    assert_eq!(server.collect(request(&PROMPT, 5)).await.text(), text_of(&greedy_ids(&PROMPT, 5)));
    server.at_rest().await;
}

/// API-35: a server whose engine fails again and again takes nothing any more.
#[tokio::test]
async fn an_engine_that_keeps_failing_is_given_up() {
    covers!("API-35");
    let server = TestServer::start(Options { panic_token: Some(200), ..Default::default() }).await;
    for _ in 0..4 {
        let broken = server.generate(request(&[1, 200, 70], 5)).await.expect("accepted");
        assert_status(&broken.error().await, Code::Internal, "ENGINE_FAULT");
    }
    assert_status(&server.refusal(request(&PROMPT, 5)).await, Code::Unavailable, "ENGINE_RESTART");
    assert!(server.engine.is_closed() && !server.state.is_ready());
}
