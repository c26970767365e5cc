//! What lies in the server on its way in and out: bounded, and what was answered arrives.

use super::{PROMPT, without_message};
use crate::support::client::{
    Options, Stream, TestServer, assert_status, endpoint, eventually, request, retry_delay, tokenizer,
};
use crate::support::raw_http2::RawClient;
use futures_util::FutureExt;
use llorch_cpud::server::Shutdown;
use llorch_cpud::server::proto::control_client::ControlClient;
use llorch_cpud::server::proto::inference_client::InferenceClient;
use llorch_cpud::server::proto::tokenizer_client::TokenizerClient;
use llorch_cpud::server::proto::{
    DetokenizeRequest, DetokenizeResponse, GenerateRequest, GetLoadRequest, KvOptions, ResponseOptions, TokenizeRequest,
};
use llorch_cpud::server::state::Phase;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_types::StatusExt;

/// API-29: a message that does not come, and more of them than there is room for.
#[tokio::test]
async fn messages_on_their_way_in_are_bounded() {
    covers!("API-29");
    let mut options = Options::default();
    options.limits.message_timeout = Duration::from_millis(200);
    let server = TestServer::start(options).await;
    let late = tokio::time::timeout(Duration::from_secs(30), without_message(server.address)).await;
    assert_status(&late.expect("given up"), Code::DeadlineExceeded, "IN_TRANSFER");

    let mut options = Options::default();
    options.limits.max_receiving_bytes = 200;
    let server = TestServer::start(options).await;
    let salted = |bytes: usize| {
        let kv = Some(KvOptions { cache_salt: "s".repeat(bytes), ..Default::default() });
        GenerateRequest { kv, ..request(&PROMPT, 5) }
    };
    let status = server.refusal(salted(1000)).await;
    assert_status(&status, Code::ResourceExhausted, "QUEUE_FULL");
    assert!(status.get_error_details().retry_info().is_some());
    assert_eq!(server.metric("llorch_admission_rejections_total{reason=\"receiving_full\"}"), 1.0);
    // What was received gives its room back.
    for _ in 0..30 {
        server.collect(salted(256)).await;
    }
}

/// API-29: with no room left the server answers small messages, health checks among them.
#[tokio::test]
async fn small_messages_need_no_room() {
    covers!("API-29");
    let mut options = Options::default();
    options.limits.max_receiving_bytes = 0;
    let server = TestServer::start(options).await;
    let wanted = HealthCheckRequest { service: "llorch.v1.Inference".into() };
    let health = HealthClient::new(server.channel.clone()).check(wanted).await.expect("an answer").into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    server.control().get_load(GetLoadRequest::default()).await.expect("an answer");
    server.collect(request(&PROMPT, 5)).await;
    let large = GenerateRequest { tenant: "t".repeat(300), ..request(&PROMPT, 5) };
    assert_status(&server.refusal(large).await, Code::ResourceExhausted, "QUEUE_FULL");
}

/// API-29: texts that wait for an encoder take room as well.
#[tokio::test]
async fn texts_that_wait_are_bounded() {
    covers!("API-29");
    let mut options = Options::default();
    // No text gets an encoder. Both messages fit beside each other, but for the 256 bytes of each that need no room.
    options.limits.max_encoders = 0;
    options.limits.inline_encode_bytes = 100;
    options.limits.max_receiving_bytes = 1900;
    let server = TestServer::start(options).await;
    let tokenize = || {
        let mut client = TokenizerClient::new(server.channel.clone());
        async move { client.tokenize(TokenizeRequest { text: "t".repeat(1000), ..Default::default() }).await }.boxed()
    };
    let first = futures_util::future::select_all([tokenize(), tokenize()]);
    let (refused, _, waiting) = tokio::time::timeout(Duration::from_secs(30), first).await.expect("one is refused");
    assert_status(&refused.expect_err("no room"), Code::ResourceExhausted, "QUEUE_FULL");
    assert_eq!(server.metric("llorch_admission_rejections_total{reason=\"encoders_busy\"}"), 1.0);
    let small = TokenizeRequest { text: "t".repeat(100), ..Default::default() };
    TokenizerClient::new(server.channel.clone()).tokenize(small).await.expect("needs no room");
    drop(waiting);
}

/// API-25, API-29: the messages of a reflection stream are short, and come to their ends.
#[tokio::test]
async fn reflection_has_bounds_too() {
    covers!("API-25", "API-29");
    let mut options = Options::default();
    options.limits.message_timeout = Duration::from_millis(200);
    let server = TestServer::start(options).await;
    let ask = |len| {
        let question = Some(MessageRequest::ListServices(String::new()));
        let asked = ServerReflectionRequest { host: "h".repeat(len), message_request: question };
        let mut client = ServerReflectionClient::new(server.channel.clone());
        async move {
            let open = tokio_stream::iter([asked]).chain(tokio_stream::pending());
            let mut answers = client.server_reflection_info(open).await.expect("a stream").into_inner();
            let first = answers.message().await;
            (first, answers)
        }
    };
    let (answer, mut idle) = ask(10_000).await;
    answer.expect("an answer");
    assert_status(&ask(1 << 20).await.0.expect_err("too long"), Code::ResourceExhausted, "MESSAGE_TOO_LARGE");

    let ended =
        |code: &str| server.metric(&format!("llorch_requests_total{{rpc=\"ServerReflectionInfo\",code=\"{code}\"}}"));
    for (len, code, before) in [(1 << 20, "RESOURCE_EXHAUSTED", 1.0), (100, "DEADLINE_EXCEEDED", 0.0)] {
        assert_eq!(ended(code), before);
        let mut client = RawClient::connect(server.address).await;
        client.call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo").await;
        client.begin_message(len, &[7; 10]).await;
        eventually("the stream is ended", || ended(code) == before + 1.0).await;
    }
    // By then a stream without a message was idle for longer.
    assert!(idle.message().now_or_never().is_none(), "still open");
}

/// A connection whose streams take 500 bytes before they are read.
async fn narrow(address: SocketAddr) -> Channel {
    endpoint(address).initial_stream_window_size(500).connect().await.expect("connected")
}

/// API-41: nobody waits for who asks for much and reads nothing.
#[tokio::test]
async fn a_finished_stream_that_is_not_read_is_given_up() {
    covers!("API-41");
    let mut options = Options::default();
    options.limits.answer_timeout = Duration::from_millis(100);
    let server = TestServer::start(options).await;
    let response = Some(ResponseOptions { echo: true, ..Default::default() });
    // More than the transport takes at once.
    let wanted = GenerateRequest { n: Some(128), response, ..request(&[70; 400], 1) };
    let unread =
        InferenceClient::new(narrow(server.address).await).generate(wanted).await.expect("accepted").into_inner();
    eventually("nobody waits for it", || server.state.num_open_rpcs() == 0).await;
    assert_eq!(server.metric("llorch_slow_consumers_total"), 1.0);
    assert_status(&Stream(unread).error().await, Code::ResourceExhausted, "SLOW_CONSUMER");
    server.collect(request(&PROMPT, 5)).await;
    eventually("all are answered", || server.state.num_open_rpcs() == 0).await;
    assert_eq!(server.metric("llorch_slow_consumers_total"), 1.0);
}

/// Ids whose text has `bytes` bytes or a few more.
fn ids_of_a_text(bytes: usize) -> DetokenizeRequest {
    let tokenizer = tokenizer();
    let id = (0..tokenizer.vocab_size() as u32).max_by_key(|&id| tokenizer.token_bytes(id).len()).expect("tokens");
    DetokenizeRequest { ids: vec![id; bytes.div_ceil(tokenizer.token_bytes(id).len())] }
}

/// The answer to a Detokenize, of which nothing is read yet.
async fn unread(channel: Channel, wanted: DetokenizeRequest) -> Streaming<DetokenizeResponse> {
    let mut client = Grpc::new(channel).max_decoding_message_size(usize::MAX);
    client.ready().await.expect("connected");
    let path = PathAndQuery::from_static("/llorch.v1.Tokenizer/Detokenize");
    let codec = ProstCodec::<DetokenizeRequest, DetokenizeResponse>::default();
    client.server_streaming(tonic::Request::new(wanted), path, codec).await.expect("an answer").into_inner()
}

/// API-52: answers that nobody reads.
#[tokio::test]
async fn answers_that_are_not_read_are_bounded() {
    covers!("API-52");
    let mut options = Options::default();
    options.limits.max_answer_bytes = 400_000;
    let server = TestServer::start(options).await;
    let wanted = ids_of_a_text(300_000);
    let unread = unread(narrow(server.address).await, wanted.clone()).await;
    eventually("the answer lies there", || server.state.num_answer_bytes() >= 300_000).await;
    let mut client = TokenizerClient::new(server.channel.clone());
    let status = client.detokenize(wanted.clone()).await.expect_err("too much");
    assert_status(&status, Code::ResourceExhausted, "QUEUE_FULL");
    assert!(retry_delay(&status) > Duration::ZERO);
    assert_eq!(server.metric("llorch_admission_rejections_total{reason=\"answers_full\"}"), 1.0);
    // Small ones are answered.
    client.detokenize(DetokenizeRequest { ids: wanted.ids[..100].to_vec() }).await.expect("an answer");
    drop(unread);
    eventually("the answer is dropped", || server.state.num_answer_bytes() == 0).await;
    client.detokenize(wanted).await.expect("an answer");
    eventually("the answer was read", || server.state.num_answer_bytes() == 0).await;
}

/// API-52: who asks for an answer and reads nothing of it keeps it from nobody for long.
#[tokio::test]
async fn a_connection_that_reads_no_answer_is_closed() {
    covers!("API-52");
    let mut options = Options::default();
    options.limits.answer_timeout = Duration::from_millis(100);
    let server = TestServer::start(options).await;
    let channel = narrow(server.address).await;
    let mut unread = unread(channel.clone(), ids_of_a_text(300_000)).await;
    // What else the connection reads is of no help.
    let mut others = ControlClient::new(channel);
    let chatter = async {
        loop {
            let _ = others.get_load(GetLoadRequest::default()).await;
        }
    };
    tokio::select! {
        () = eventually("the answer is dropped", || server.state.num_answer_bytes() == 0) => {}
        _ = chatter => {}
    }
    unread.message().await.expect_err("cut off");
    assert_eq!(server.metric("llorch_slow_consumers_total"), 1.0);
    // Who holds nothing is left alone.
    server.collect(request(&PROMPT, 5)).await;
}

/// A way to the server on which answers come slowly: a part of `part` bytes in every `pause`.
async fn slow_way(server: SocketAddr, part: usize, pause: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.expect("a client");
        let server = TcpStream::connect(server).await.expect("connected");
        let ((mut from_client, mut to_client), (from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let mut from_server = from_server.take(part as u64);
        while tokio::io::copy(&mut from_server, &mut to_client).await.is_ok_and(|bytes| bytes > 0) {
            tokio::time::sleep(pause).await;
            from_server.set_limit(part as u64);
        }
    });
    address
}

/// A server and an answer of so many bytes from it, which comes over a slow way: a fifth of a second and more a MiB.
async fn slow_answer(bytes: usize) -> (TestServer, Streaming<DetokenizeResponse>) {
    let mut options = Options::default();
    options.limits.max_message_bytes = 4 * bytes;
    let server = TestServer::start(options).await;
    let way = slow_way(server.address, 1 << 20, Duration::from_millis(200)).await;
    let window = 0x7fff_ffff;
    let client = endpoint(way).initial_stream_window_size(window).initial_connection_window_size(window);
    let answer = unread(client.connect().await.expect("connected"), ids_of_a_text(bytes)).await;
    (server, answer)
}

/// API-43: what was answered is sent to the end, to a client that takes longer than connections may to close.
#[tokio::test]
async fn a_drain_waits_for_who_reads() {
    covers!("API-43");
    const BYTES: usize = 16 << 20;
    let (mut server, mut answer) = slow_answer(BYTES).await;
    server.shutdown.send(Shutdown::Drain).expect("the server runs");
    let text = answer.message().await.expect("all of it").expect("an answer").text;
    // But for a leading space, which belongs to no text.
    assert!(text.len() + 1 >= BYTES, "{} bytes of {BYTES}", text.len());
    drop(answer);
    (&mut server.task).await.expect("no panic").expect("a good end");
}

/// API-43: but not after the second order.
#[tokio::test]
async fn a_second_order_waits_for_nobody() {
    covers!("API-43");
    let (mut server, mut answer) = slow_answer(32 << 20).await;
    server.shutdown.send(Shutdown::Drain).expect("the server runs");
    eventually("it closes", || server.state.phase() == Phase::Stopped).await;
    server.shutdown.send(Shutdown::Now).expect("the server runs");
    answer.message().await.expect_err("cut off");
    (&mut server.task).await.expect("no panic").expect("a good end");
}
