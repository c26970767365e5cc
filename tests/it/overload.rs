//! More than the server can take: full queues, slow readers, many streams, the end of the process
//! (`specs/06_GRPC_API.md`).

mod transfer;

use crate::support::client::{
    Completion, Gate, Options, Stream, TestServer, assert_status, endpoint, eventually, greedy_ids, request,
    retry_delay, text_of, tokenizer,
};
use llorch_cpud::engine::handle::QueueLimits;
use llorch_cpud::engine::request::{Event as EngineEvent, NewRequest, RequestError};
use llorch_cpud::sampling::params::SequenceParams;
use llorch_cpud::server::Shutdown;
use llorch_cpud::server::proto::generate_response::Event;
use llorch_cpud::server::proto::inference_client::InferenceClient;
use llorch_cpud::server::proto::tokenizer_client::TokenizerClient;
use llorch_cpud::server::proto::{
    DetokenizeRequest, GenerateRequest, ResponseOptions, SamplingParams, TokenizeRequest, WatchLoadRequest,
};
use llorch_cpud::server::state::Phase;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const PROMPT: [u32; 5] = [1, 70, 71, 72, 73];

fn one_at_a_time(gate: &Gate) -> Options {
    let mut options = Options { gate: Some(gate.clone()), ..Default::default() };
    options.scheduler.max_num_seqs = 1;
    options
}

/// API-40: refused at once, with the advice when to try again; what is in the queue is served.
#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    covers!("API-40", "LAW-5");
    let gate = Gate::default();
    let mut options = one_at_a_time(&gate);
    options.queue.max_queued = 2;
    let server = TestServer::start(options).await;
    let mut streams = vec![server.generate(request(&PROMPT, 5)).await.expect("runs")];
    gate.entered(1).await;
    for _ in 0..2 {
        streams.push(server.generate(request(&PROMPT, 5)).await.expect("waits"));
    }
    let status = server.refusal(request(&PROMPT, 5)).await;
    assert_status(&status, Code::ResourceExhausted, "QUEUE_FULL");
    let delay = retry_delay(&status);
    assert!(delay >= Duration::from_millis(100), "{delay:?}");
    assert_eq!(server.metric("llorch_admission_rejections_total{reason=\"queue_full\"}"), 1.0);
    gate.open();
    for stream in streams {
        assert_eq!(stream.collect().await.expect("a good end").text(), text_of(&greedy_ids(&PROMPT, 5)));
    }
    server.collect(request(&PROMPT, 5)).await;
    server.at_rest().await;
}

/// API-40: by prompt tokens; those of a request with n count once.
#[tokio::test]
async fn a_queue_is_full_by_tokens_too() {
    covers!("API-40");
    let gate = Gate::default();
    let mut options = one_at_a_time(&gate);
    options.queue.max_queued_tokens = 14;
    let server = TestServer::start(options).await;
    let _running = server.generate(request(&PROMPT, 5)).await.expect("runs");
    gate.entered(1).await;
    let _waiting = server.generate(request(&PROMPT, 5)).await.expect("waits");
    let _two = server.generate(GenerateRequest { n: Some(2), ..request(&PROMPT, 5) }).await.expect("waits");
    assert_status(&server.refusal(request(&PROMPT, 5)).await, Code::ResourceExhausted, "QUEUE_FULL");
    let _short = server.generate(request(&PROMPT[..4], 5)).await.expect("waits");
    assert_eq!((server.engine.load().waiting_tokens, server.engine.load().waiting), (14, 4));
    assert_eq!(server.metric("llorch_admission_rejections_total{reason=\"queue_full\"}"), 1.0);
    gate.open();
}

/// API-49: who fills the share of its tenant is told so; others find room.
#[tokio::test]
async fn a_tenant_over_its_share_is_refused() {
    covers!("API-49");
    let gate = Gate::default();
    let mut options = one_at_a_time(&gate);
    options.queue = QueueLimits::new(8, 1000);
    let server = TestServer::start(options).await;
    let submit = |tenant: &str, id: &str| {
        let mut params = SequenceParams::default();
        params.stopping.max_tokens = 5;
        let (request_id, params, prompt) = (format!("{tenant} {id}"), Arc::new(params), PROMPT.to_vec().into());
        let tenant = tenant.into();
        server.engine.submit(NewRequest { request_id, prompt, params, n: 1, tenant, ..NewRequest::default() })
    };
    let mut streams = vec![submit("flood", "runs").expect("an empty queue")];
    gate.entered(1).await;
    streams.extend(["a", "b", "c", "d"].map(|id| submit("flood", id).expect("half of the queue")));
    let Err(RequestError::Quota { retry_after_ms }) = submit("flood", "e") else { panic!("over its share") };
    assert!((100..=60_000).contains(&retry_after_ms), "{retry_after_ms}");
    streams.extend(["a", "b"].map(|id| submit("other", id).expect("there is room")));
    streams.extend(["a", "b"].map(|id| submit("", id).expect("there is room")));
    assert!(matches!(submit("third", "a"), Err(RequestError::QueueFull { .. })));
    let load = server.engine.load();
    assert_eq!((load.waiting, load.tenants_waiting, load.kv_blocks_claimed), (8, 3, 9 * 3));
    gate.open();
    for mut stream in streams {
        while let Some(event) = stream.recv().await {
            assert!(matches!(event, EngineEvent::Token { .. }), "{event:?}");
        }
    }
    server.at_rest().await;
    assert_eq!((server.engine.load().tenants_waiting, server.engine.load().kv_blocks_claimed), (0, 0));
}

/// API-41: the stream of a client that does not read is cut, its blocks come back, and others do not notice.
#[tokio::test]
async fn a_slow_reader_is_cut() {
    covers!("API-41", "LAW-5");
    let mut options = Options::default();
    options.limits.max_unread_bytes = 500;
    let server = TestServer::start(options).await;
    let narrow = endpoint(server.address).initial_stream_window_size(500).connect().await.expect("connected");
    let response = ResponseOptions { token_ids: true, ..Default::default() };
    let wanted = GenerateRequest { response: Some(response), ..request(&PROMPT, 400) };
    let unread = InferenceClient::new(narrow).generate(wanted.clone()).await.expect("accepted").into_inner();
    let control = server.collect(request(&PROMPT, 100)).await;
    assert_eq!(control.text(), text_of(&greedy_ids(&PROMPT, 100)));
    eventually("the stream is cut", || server.metric("llorch_slow_consumers_total") == 1.0).await;
    server.at_rest().await;
    let (mut stream, mut ids) = (Stream(unread), Vec::new());
    let status = loop {
        match stream.next().await {
            Ok(Some(Event::Delta(delta))) => ids.extend(delta.tokens.iter().map(|token| token.id)),
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without an error"),
            Err(status) => break status,
        }
    };
    assert_status(&status, Code::ResourceExhausted, "SLOW_CONSUMER");
    // What was sent before is a beginning of the right tokens.
    assert!(ids.len() > 5 && greedy_ids(&PROMPT, 400).starts_with(&ids), "{ids:?}");
}

/// API-41: log-probabilities have a bound of their own, and who reads late misses nothing below it.
#[tokio::test]
async fn a_late_reader_of_log_probabilities_has_more_room() {
    covers!("API-41");
    let mut options = Options::default();
    options.limits.max_unread_bytes = 500;
    options.limits.max_unread_bytes_logprobs = 1 << 20;
    let server = TestServer::start(options).await;
    let narrow = endpoint(server.address).initial_stream_window_size(500).connect().await.expect("connected");
    let response = ResponseOptions { top_logprobs: Some(2), ..Default::default() };
    let wanted = GenerateRequest { response: Some(response), ..request(&PROMPT, 400) };
    let unread = InferenceClient::new(narrow).generate(wanted).await.expect("accepted").into_inner();
    eventually("all is computed", || server.metric("llorch_requests_finished_total{reason=\"length\"}") == 1.0).await;
    let completion = Stream(unread).collect().await.expect("a good end");
    let ids: Vec<u32> = completion.sequences[0].tokens.iter().map(|token| token.id).collect();
    assert_eq!(ids, greedy_ids(&PROMPT, 400));
    assert_eq!(server.metric("llorch_slow_consumers_total"), 0.0);
}

/// A deterministic mix of lengths, temperatures and options.
fn mixed(index: u32) -> GenerateRequest {
    let prompt: Vec<u32> = (0..1 + index * 7 % 40).map(|i| 60 + (index * 13 + i * 5) % 200).collect();
    let mut wanted = request(&prompt, 5 + index * 11 % 60);
    wanted.sampling = Some(SamplingParams {
        temperature: Some([0.0, 0.7, 1.0, 1.5][index as usize % 4]),
        top_k: Some([0, 40][index as usize % 2]),
        top_p: Some([1.0, 0.9][index as usize / 2 % 2]),
        repetition_penalty: Some([1.0, 1.3][index as usize / 4 % 2]),
        seed: Some(u64::from(index) * 977),
        ..Default::default()
    });
    wanted.n = Some(if index % 16 == 3 { 2 } else { 1 });
    if index.is_multiple_of(5) {
        wanted.response = Some(ResponseOptions { top_logprobs: Some(2), ..Default::default() });
    }
    wanted
}

async fn all_at_once(server: &TestServer, count: u32) -> Vec<Completion> {
    let run = |index| async move { server.collect(mixed(index)).await };
    futures_util::future::join_all((0..count).map(run)).await
}

/// API-42, LAW-1: 64 streams at once, each equal to the same request alone; with batching, then with preemption.
#[tokio::test]
async fn many_streams_equal_their_solo_outputs() {
    covers!("API-42", "LAW-1");
    let alone = TestServer::start(Options::default()).await;
    let mut solo = Vec::new();
    for index in 0..64 {
        solo.push(alone.collect(mixed(index)).await.outputs());
    }
    let gate = Gate::default();
    let server = TestServer::start(Options { gate: Some(gate.clone()), ..Default::default() }).await;
    let together = async {
        let opener = async {
            server.load_where("most requests wait", |load| load.waiting + load.running >= 60).await;
            gate.open();
        };
        tokio::join!(all_at_once(&server, 64), opener).0
    };
    let together: Vec<_> = together.await.iter().map(Completion::outputs).collect();
    assert_eq!(together, solo);
    let mean = server.metric("llorch_step_sequences_sum") / server.metric("llorch_step_sequences_count");
    assert!(mean >= 16.0, "{mean} sequences a step");
    server.at_rest().await;

    let mut options = Options::default();
    options.scheduler.num_blocks = 60;
    let tight = TestServer::start(options).await;
    let together: Vec<_> = all_at_once(&tight, 64).await.iter().map(Completion::outputs).collect();
    assert_eq!(together, solo);
    assert!(tight.metric("llorch_preemptions_total") > 0.0);
    assert!(tight.metric("llorch_recomputed_tokens_total") > 0.0);
    tight.at_rest().await;
}

/// API-43: health first, nothing new, what runs finishes, then the server ends.
#[tokio::test]
async fn a_drain_lets_requests_finish() {
    covers!("API-43");
    let gate = Gate::default();
    let mut server = TestServer::start(Options { gate: Some(gate.clone()), ..Default::default() }).await;
    let running = server.generate(request(&PROMPT, 5)).await.expect("accepted");
    gate.entered(1).await;
    let mut watch = server.control().watch_load(WatchLoadRequest::default()).await.expect("a stream").into_inner();
    let mut health = HealthClient::new(server.channel.clone());
    let wanted = HealthCheckRequest { service: "llorch.v1.Inference".into() };
    let mut states = health.watch(wanted).await.expect("a stream").into_inner();
    while states.message().await.expect("open").expect("a state").status() != ServingStatus::Serving {}
    server.shutdown.send(Shutdown::Drain).expect("the server runs");
    assert_eq!(states.message().await.expect("open").expect("a state").status(), ServingStatus::NotServing);
    eventually("the server drains", || server.engine.is_draining()).await;
    assert_status(&server.refusal(request(&PROMPT, 5)).await, Code::Unavailable, "DRAINING");
    assert!(!server.state.is_ready());
    assert_eq!(server.metric("llorch_draining"), 1.0);
    // A new connection is answered, not refused.
    let late = endpoint(server.address).connect().await.expect("still listening");
    let status = InferenceClient::new(late).complete(request(&PROMPT, 5)).await.expect_err("drains");
    assert_status(&status, Code::Unavailable, "DRAINING");
    gate.open();
    assert_eq!(running.collect().await.expect("a good end").text(), text_of(&greedy_ids(&PROMPT, 5)));
    while watch.message().await.is_ok_and(|message| message.is_some()) {}
    (&mut server.task).await.expect("no panic").expect("a good end");
    assert!(endpoint(server.address).connect().await.is_err());
}

/// API-43: the second order, or the end of the timeout, ends what still runs.
#[tokio::test]
async fn a_drain_can_be_cut_short() {
    covers!("API-43");
    for by_order in [true, false] {
        let gate = Gate::default();
        let mut options = Options { gate: Some(gate.clone()), ..Default::default() };
        if !by_order {
            options.limits.drain_timeout = Duration::from_millis(50);
        }
        let mut server = TestServer::start(options).await;
        let running = server.generate(request(&PROMPT, 400)).await.expect("accepted");
        gate.entered(1).await;
        server.shutdown.send(Shutdown::Drain).expect("the server runs");
        if by_order {
            eventually("the server drains", || server.engine.is_draining()).await;
            server.shutdown.send(Shutdown::Now).expect("the server runs");
        }
        // While the step goes on: it may last longer than the process.
        assert_status(&running.error().await, Code::Unavailable, "DRAINING");
        gate.open();
        server.at_rest().await;
        (&mut server.task).await.expect("no panic").expect("a good end");
    }
}

/// API-25: what the server gathers for a client has a bound.
#[tokio::test]
async fn an_answer_in_one_piece_has_a_bound() {
    covers!("API-25");
    let mut options = Options::default();
    options.limits.max_response_bytes = 300;
    options.limits.inline_encode_bytes = 100;
    let server = TestServer::start(options).await;
    let mut wanted = request(&PROMPT, 5);
    wanted.response = Some(ResponseOptions { token_ids: true, ..Default::default() });
    server.inference().complete(wanted.clone()).await.expect("fits");
    wanted.stopping.get_or_insert_default().max_tokens = Some(400);
    let status = server.inference().complete(wanted.clone()).await.expect_err("too large");
    assert_status(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    server.at_rest().await;
    assert_eq!(server.collect(wanted).await.sequences[0].tokens.len(), 400);
    let mut client = TokenizerClient::new(server.channel.clone());
    let tokenize = |text: String| TokenizeRequest { text, add_special: Some(false), ..Default::default() };
    let tokenized = client.tokenize(tokenize("\u{1}".repeat(6))).await.expect("fits").into_inner();
    assert!((6..=7).contains(&tokenized.pieces.len()), "{tokenized:?}");
    // In the message it is within the bound, but not where it is held.
    let status = client.tokenize(tokenize("\u{1}".repeat(12))).await.expect_err("too large");
    assert_status(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    let id = (0..).find(|&id| tokenizer().token_bytes(id).len() == 1).expect("a token of one byte");
    let detokenized = client.detokenize(DetokenizeRequest { ids: vec![id; 300] }).await.expect("fits").into_inner();
    assert_eq!(detokenized.text.as_bytes(), tokenizer().decode(&[id; 300]));
    let status = client.detokenize(DetokenizeRequest { ids: vec![id; 301] }).await.expect_err("too large");
    assert_status(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
}

/// API-44: a connection that begins to speak and stops cannot keep its place.
#[tokio::test]
async fn half_a_preface_is_cut_off() {
    covers!("API-44");
    let mut options = Options::default();
    options.limits.preface_timeout = Duration::from_millis(500);
    let server = TestServer::start(options).await;
    let mut silent = TcpStream::connect(server.address).await.expect("connected");
    silent.write_all(b"PRI * HTTP/2.0").await.expect("sent");
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(30), silent.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "the connection is still open");
    assert_eq!(server.metric("llorch_connections"), 1.0);
    server.collect(request(&PROMPT, 5)).await;
}

/// A Generate whose message never comes.
pub async fn without_message(address: SocketAddr) -> Status {
    let channel = endpoint(address).connect().await.expect("connected");
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("connected");
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/llorch.v1.Inference/Generate");
    let codec = tonic_prost::ProstCodec::<GenerateRequest, GenerateRequest>::default();
    client.streaming(tonic::Request::new(tokio_stream::pending()), path, codec).await.expect_err("no message")
}

/// API-43: an order to stop that comes while the model is loaded holds for the model, too.
#[tokio::test]
async fn a_model_that_comes_after_the_order_to_stop_takes_nothing() {
    covers!("API-43");
    let server = TestServer::start_loading(Options::default()).await;
    // A request whose message never comes keeps the drain waiting.
    let held = tokio::spawn(without_message(server.address));
    eventually("the held request is there", || server.state.num_open_rpcs() == 1).await;
    server.shutdown.send(Shutdown::Drain).expect("the server runs");
    eventually("the server drains", || server.state.phase() == Phase::Draining).await;
    assert_status(&server.refusal(request(&PROMPT, 5)).await, Code::Unavailable, "DRAINING");
    server.state.set_model(server.engine.clone(), tokenizer(), Default::default());
    assert_status(&server.refusal(request(&PROMPT, 5)).await, Code::Unavailable, "DRAINING");
    held.abort();
}
