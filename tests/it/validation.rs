//! What the interface refuses, and how it says so (`specs/06_GRPC_API.md`).

use crate::support::client::{
    MODEL_NAME, Options, TestServer, assert_status, named, reason, request, tokenizer, violations,
};
use llorch_cpud::server::proto::generate_request::Prompt;
use llorch_cpud::server::proto::{
    AbortRequest, CompleteResponse, GenerateRequest, KvOptions, ResponseOptions, SamplingParams, StoppingOptions,
    TokenIds, TokenizeRequest,
};
use tonic::codec::{Codec, DecodeBuf, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

const PROMPT: [u32; 3] = [1, 70, 71];

/// A float field of SamplingParams: its name and how to set it.
type FloatField = (&'static str, fn(&mut SamplingParams, f32));

const FLOAT_FIELDS: [FloatField; 10] = [
    ("sampling.temperature", |s, x| s.temperature = Some(x)),
    ("sampling.top_p", |s, x| s.top_p = Some(x)),
    ("sampling.min_p", |s, x| s.min_p = Some(x)),
    ("sampling.typical_p", |s, x| s.typical_p = Some(x)),
    ("sampling.top_n_sigma", |s, x| s.top_n_sigma = Some(x)),
    ("sampling.repetition_penalty", |s, x| s.repetition_penalty = Some(x)),
    ("sampling.presence_penalty", |s, x| s.presence_penalty = Some(x)),
    ("sampling.frequency_penalty", |s, x| s.frequency_penalty = Some(x)),
    ("sampling.dry_multiplier", |s, x| s.dry_multiplier = Some(x)),
    ("sampling.dry_base", |s, x| s.dry_base = Some(x)),
];

fn sampled(change: impl FnOnce(&mut SamplingParams)) -> GenerateRequest {
    let mut wanted = request(&PROMPT, 4);
    change(wanted.sampling.get_or_insert_default());
    wanted
}

fn stopped(change: impl FnOnce(&mut StoppingOptions)) -> GenerateRequest {
    let mut wanted = request(&PROMPT, 4);
    change(wanted.stopping.get_or_insert_default());
    wanted
}

fn of_tenant(tenant: &str) -> GenerateRequest {
    GenerateRequest { tenant: tenant.into(), ..request(&PROMPT, 4) }
}

async fn assert_invalid(server: &TestServer, wanted: GenerateRequest, fields: &[&str]) {
    let status = server.refusal(wanted).await;
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(violations(&status), fields, "{status:?}");
}

/// API-20: a NaN or an infinity in any float field.
#[tokio::test]
async fn no_float_field_takes_nan_or_infinity() {
    covers!("API-20");
    let server = TestServer::start(Options::default()).await;
    for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (name, set) in FLOAT_FIELDS {
            assert_invalid(&server, sampled(|s| set(s, value)), &[name]).await;
        }
    }
    for value in [f32::NAN, f32::INFINITY] {
        let biased = sampled(|s| s.logit_bias = [(5, value)].into());
        assert_invalid(&server, biased, &["sampling.logit_bias[5]"]).await;
    }
    server.collect(sampled(|s| s.logit_bias = [(5, f32::NEG_INFINITY)].into())).await;
}

/// API-21: the ends of the ranges are inside, the next number is not.
#[tokio::test]
async fn ranges_end_where_they_say() {
    covers!("API-21");
    let server = TestServer::start(Options::default()).await;
    for row in crate::spec::table("API-21").rows() {
        if row.text("field") == "priority" {
            let with = |priority| GenerateRequest { priority: Some(priority), ..request(&PROMPT, 4) };
            for priority in row.list::<i32>("inside") {
                server.collect(with(priority)).await;
            }
            for priority in row.list::<i32>("outside") {
                assert_invalid(&server, with(priority), &["priority"]).await;
            }
            continue;
        }
        let field = FLOAT_FIELDS.into_iter().find(|(name, _)| *name == row.text("field"));
        let (name, set) = field.expect("a field");
        for value in row.list::<f32>("inside") {
            let result = server.generate(sampled(|s| set(s, value))).await.expect("accepted").collect().await;
            assert!(result.is_ok(), "{name} {value}: {result:?}");
        }
        for value in row.list::<f32>("outside") {
            assert_invalid(&server, sampled(|s| set(s, value)), &[name]).await;
        }
    }
}

/// API-22: every violation at once.
#[tokio::test]
async fn all_violations_are_told_together() {
    covers!("API-22");
    let server = TestServer::start(Options::default()).await;
    let vocab = tokenizer().vocab_size() as u32;
    let wanted = GenerateRequest {
        request_id: "two words".into(),
        prompt: Some(Prompt::TokenIds(TokenIds { ids: vec![1, vocab, u32::MAX] })),
        sampling: Some(SamplingParams {
            temperature: Some(f32::NAN),
            top_p: Some(0.0),
            logit_bias: [(vocab, 1.0)].into(),
            ..Default::default()
        }),
        stopping: Some(StoppingOptions {
            max_tokens: Some(0),
            min_tokens: Some(1),
            stop: vec!["ok".into(), String::new()],
            stop_token_ids: vec![vocab],
            ..Default::default()
        }),
        response: Some(ResponseOptions { top_logprobs: Some(21), ..Default::default() }),
        n: Some(129),
        tenant: "two words".into(),
        priority: Some(-11),
        ..Default::default()
    };
    let expected = [
        "request_id",
        "n",
        "token_ids.ids[1]",
        "token_ids.ids[2]",
        "sampling.temperature",
        "sampling.top_p",
        &format!("sampling.logit_bias[{vocab}]"),
        "stopping.max_tokens",
        "stopping.min_tokens",
        "stopping.stop_token_ids[0]",
        "stopping.stop",
        "response.top_logprobs",
        "tenant",
        "priority",
    ];
    assert_invalid(&server, wanted, &expected).await;
}

#[tokio::test]
async fn counts_and_lengths_are_bounded() {
    covers!("API-21");
    let server = TestServer::start(Options::default()).await;
    let long_salt = KvOptions { cache_salt: "x".repeat(257), ..Default::default() };
    let refused = [
        (GenerateRequest { n: Some(0), ..request(&PROMPT, 4) }, "n"),
        (GenerateRequest { n: Some(2), best_of: Some(1), ..request(&PROMPT, 4) }, "best_of"),
        (GenerateRequest { best_of: Some(129), ..request(&PROMPT, 4) }, "best_of"),
        (GenerateRequest { kv: Some(long_salt), ..request(&PROMPT, 4) }, "kv.cache_salt"),
        (GenerateRequest { prompt: None, ..request(&PROMPT, 4) }, "prompt"),
        (request(&[], 4), "token_ids"),
        (named(&"x".repeat(129), &PROMPT, 4), "request_id"),
        (named("esc\u{1b}[31m", &PROMPT, 4), "request_id"),
        (named("ümlaut", &PROMPT, 4), "request_id"),
        (of_tenant(&"x".repeat(65)), "tenant"),
        (of_tenant("esc\u{1b}[31m"), "tenant"),
        (of_tenant("ümlaut"), "tenant"),
        (of_tenant(&"\u{1}".repeat(100_000)), "tenant"),
        (stopped(|s| s.stop = vec!["x".into(); 129]), "stopping.stop"),
        (stopped(|s| s.stop = vec!["x".repeat(1 << 20)]), "stopping.stop"),
        (stopped(|s| s.stop_token_ids = vec![1; 129]), "stopping.stop_token_ids"),
        (stopped(|s| s.min_tokens = Some(5)), "stopping.min_tokens"),
        (
            sampled(|s| {
                s.logit_bias = (0..1025).map(|id| (id % 300, 0.0)).chain((300..2000).map(|id| (id, 0.0))).collect()
            }),
            "sampling.logit_bias",
        ),
    ];
    for (wanted, field) in refused {
        let status = server.refusal(wanted).await;
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(violations(&status)[0], field);
        assert!(violations(&status).len() <= 64);
    }
    server.collect(named(&"x".repeat(128), &PROMPT, 4)).await;
    server.collect(of_tenant(&"~".repeat(64))).await;
    let status = server.refusal(of_tenant("a b")).await;
    assert!(status.message().contains("a b"), "{status:?}");
    server.collect(sampled(|s| s.top_k = Some(u32::MAX))).await;
    server.collect(sampled(|s| s.repetition_window = Some(u32::MAX))).await;
}

/// API-23: what is not built is named; what asks for nothing passes.
#[tokio::test]
async fn unbuilt_fields_are_named() {
    covers!("API-23");
    let server = TestServer::start(Options::default()).await;
    let with_response = |response| GenerateRequest { response: Some(response), ..request(&PROMPT, 4) };
    let refused = [
        (sampled(|s| s.typical_p = Some(0.5)), "sampling.typical_p"),
        (sampled(|s| s.top_n_sigma = Some(1.0)), "sampling.top_n_sigma"),
        (sampled(|s| s.dry_multiplier = Some(0.8)), "sampling.dry_multiplier"),
        (sampled(|s| s.dry_base = Some(1.75)), "sampling.dry_base"),
        (sampled(|s| s.dry_allowed_length = Some(2)), "sampling.dry_allowed_length"),
        (sampled(|s| s.dry_penalty_last_n = Some(-1)), "sampling.dry_penalty_last_n"),
        (sampled(|s| s.dry_sequence_breakers = vec!["\n".into()]), "sampling.dry_sequence_breakers"),
        (with_response(ResponseOptions { prompt_logprobs: Some(0), ..Default::default() }), "response.prompt_logprobs"),
    ];
    for (wanted, field) in refused {
        let status = server.refusal(wanted).await;
        assert_status(&status, Code::Unimplemented, "FIELD_UNIMPLEMENTED");
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("details").metadata["fields"], field);
        assert!(status.message().contains(field), "{status:?}");
    }
    let mut no_op = sampled(|s| {
        (s.typical_p, s.top_n_sigma, s.dry_multiplier) = (Some(1.0), Some(0.0), Some(0.0));
    });
    no_op.best_of = Some(1);
    no_op.kv = Some(KvOptions { bypass_prefix_cache: true, ..Default::default() });
    server.collect(no_op).await;
}

/// API-24: too long for the context or the pool, whatever the load.
#[tokio::test]
async fn what_can_never_fit_is_out_of_range() {
    covers!("API-24");
    let mut options = Options::default();
    (options.scheduler.max_model_len, options.scheduler.num_blocks) = (100, 10);
    let server = TestServer::start(options).await;
    let long = |length: usize| vec![70; length];
    assert_status(&server.refusal(request(&long(101), 1)).await, Code::OutOfRange, "CONTEXT_EXCEEDED");
    assert_status(&server.refusal(request(&long(100), 1)).await, Code::OutOfRange, "CONTEXT_EXCEEDED");
    assert_status(&server.refusal(request(&long(99), 1)).await, Code::OutOfRange, "KV_CAPACITY");
    assert_status(&server.refusal(request(&PROMPT, 38)).await, Code::OutOfRange, "KV_CAPACITY");
    assert_eq!(server.collect(request(&PROMPT, 37)).await.finished().usage.map(|u| u.completion_tokens), Some(37));
    assert_eq!(server.metric("llorch_admission_rejections_total{reason=\"kv_capacity\"}"), 2.0);
    assert_eq!(server.metric("llorch_admission_rejections_total{reason=\"context_exceeded\"}"), 2.0);
    server.at_rest().await;
}

#[tokio::test]
async fn names_must_be_known() {
    let server = TestServer::start(Options::default()).await;
    let with_model = |model: &str| GenerateRequest { model: model.into(), ..request(&PROMPT, 2) };
    server.collect(with_model(MODEL_NAME)).await;
    for model in ["other", "../fake", "FAKE", &"x".repeat(1 << 20)] {
        let status = server.refusal(with_model(model)).await;
        assert_status(&status, Code::NotFound, "MODEL_NOT_FOUND");
        assert!(status.message().len() < 200);
    }
    let status = server.control().abort(AbortRequest { request_id: "nobody".into() }).await.expect_err("not in flight");
    assert_status(&status, Code::NotFound, "REQUEST_NOT_FOUND");
}

/// API-25: the size of a message, up to the limit and above it.
#[tokio::test]
async fn an_oversize_message_is_resource_exhausted() {
    covers!("API-25");
    let mut options = Options::default();
    options.limits.max_message_bytes = 1000;
    let server = TestServer::start(options).await;
    let mut client = llorch_cpud::server::proto::tokenizer_client::TokenizerClient::new(server.channel.clone());
    // Three bytes of key and length come before a text of this size.
    let text = |length| TokenizeRequest { text: "x".repeat(length), ..Default::default() };
    client.tokenize(text(997)).await.expect("just fits");
    assert_status(
        &client.tokenize(text(998)).await.expect_err("too large"),
        Code::ResourceExhausted,
        "MESSAGE_TOO_LARGE",
    );
    let wanted = GenerateRequest { prompt: Some(Prompt::Text("x".repeat(2000))), ..Default::default() };
    assert_status(&server.refusal(wanted.clone()).await, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    let status = server.inference().complete(wanted).await.expect_err("too large");
    assert_status(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    assert!(status.get_error_details().retry_info().is_none());
}

/// Sends bytes as they are, so that a message can be none.
#[derive(Default)]
struct RawCodec;

struct RawEncoder;

impl Encoder for RawEncoder {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

struct RawDecoder;

impl tonic::codec::Decoder for RawDecoder {
    type Item = CompleteResponse;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<CompleteResponse>, Status> {
        Ok(prost::Message::decode(buffer).ok())
    }
}

impl Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = CompleteResponse;
    type Encoder = RawEncoder;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> RawEncoder {
        RawEncoder
    }

    fn decoder(&mut self) -> RawDecoder {
        RawDecoder
    }
}

/// API-26: bytes that are no message of the RPC are the client's fault, not ours.
#[tokio::test]
async fn broken_messages_are_invalid() {
    covers!("API-26");
    let server = TestServer::start(Options::default()).await;
    let broken: [&[u8]; 5] = [
        &[0x0a, 0x02, 0xff, 0xfe], // request_id that is no UTF-8
        &[0x0a, 0x7f, b'x'],       // a length beyond the end
        &[0xff; 11],               // a varint that is too long
        &[0x0b],                   // a group that never ends
        &[0x00, 0x00],             // field number 0
    ];
    for bytes in broken {
        let mut client = tonic::client::Grpc::new(server.channel.clone());
        client.ready().await.expect("connected");
        let path = PathAndQuery::from_static("/llorch.v1.Inference/Complete");
        let result = client.unary(Request::new(bytes.to_vec()), path, RawCodec).await;
        assert_status(&result.expect_err("refused"), Code::InvalidArgument, "FIELD_INVALID");
    }
    // Unknown fields are passed over.
    let mut client = tonic::client::Grpc::new(server.channel.clone());
    client.ready().await.expect("connected");
    let mut bytes = prost::Message::encode_to_vec(&request(&PROMPT, 1));
    bytes.extend([0xf8, 0x7f, 0x01]);
    let path = PathAndQuery::from_static("/llorch.v1.Inference/Complete");
    client.unary(Request::new(bytes), path, RawCodec).await.expect("a completion");
}

/// API-27: a timeout that the protocol does not know.
#[tokio::test]
async fn a_bad_timeout_is_invalid() {
    covers!("API-27");
    let server = TestServer::start(Options::default()).await;
    for timeout in ["5", "100000000S", "-1S", "abc", "1s", ""] {
        let mut wanted = Request::new(request(&PROMPT, 1));
        wanted.metadata_mut().insert("grpc-timeout", timeout.parse().expect("ASCII"));
        let status = server.inference().generate(wanted).await.expect_err("refused");
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(violations(&status), ["grpc-timeout"], "{timeout:?}");
    }
    for timeout in ["99999999H", "10S"] {
        let mut wanted = Request::new(request(&PROMPT, 1));
        wanted.metadata_mut().insert("grpc-timeout", timeout.parse().expect("ASCII"));
        server.inference().complete(wanted).await.expect(timeout);
    }
}

/// API-28: a request that bans every token.
#[tokio::test]
async fn a_request_that_leaves_no_token_is_told_so() {
    covers!("API-28");
    let server = TestServer::start(Options::default()).await;
    let vocab = tokenizer().vocab_size() as u32;
    let banned = sampled(|s| s.logit_bias = (0..vocab).map(|id| (id, f32::NEG_INFINITY)).collect());
    let status = server.generate(banned).await.expect("accepted").error().await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "FIELD_INVALID"));
    server.at_rest().await;
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let server = TestServer::start(Options::default()).await;
    let mut client = tonic::client::Grpc::new(server.channel.clone());
    client.ready().await.expect("connected");
    let path = PathAndQuery::from_static("/llorch.v1.Inference/Nothing");
    let codec = tonic_prost::ProstCodec::<AbortRequest, AbortRequest>::default();
    let status = client.unary(Request::new(AbortRequest::default()), path, codec).await.expect_err("no such method");
    assert_eq!(status.code(), Code::Unimplemented);
}
