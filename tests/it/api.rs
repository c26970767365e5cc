//! The gRPC interface, over a real connection (`specs/06_GRPC_API.md`).

use crate::support::client::{
    MODEL_NAME, Options, TestServer, assert_status, greedy_ids, named, reason, request, text_of, tokenizer,
};
use llorch_cpud::server::proto::generate_request::Prompt;
use llorch_cpud::server::proto::generate_response::Event;
use llorch_cpud::server::proto::tokenizer_client::TokenizerClient;
use llorch_cpud::server::proto::{
    DetokenizeRequest, FinishReason, GenerateRequest, GetLoadRequest, GetModelInfoRequest, GetServerInfoRequest,
    ResponseOptions, SamplingParams, StoppingOptions, TokenizeRequest, WatchLoadRequest,
};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const PROMPT: [u32; 5] = [1, 70, 71, 72, 73];

fn stopping(request: &mut GenerateRequest) -> &mut StoppingOptions {
    request.stopping.get_or_insert_default()
}

fn response(request: &mut GenerateRequest) -> &mut ResponseOptions {
    request.response.get_or_insert_default()
}

/// API-1, API-2, API-3: order of events, the text, the counts.
#[tokio::test]
async fn a_stream_brings_what_the_model_says() {
    covers!("API-1", "API-2", "API-3", "LAW-2");
    let server = TestServer::start(Options::default()).await;
    let ids = greedy_ids(&PROMPT, 20);
    let mut wanted = named("mine", &PROMPT, 20);
    response(&mut wanted).token_ids = true;
    let completion = server.collect(wanted).await;
    assert_eq!(completion.accepted.request_id, "mine");
    assert_eq!((completion.accepted.seed, completion.accepted.prompt_tokens), (1, 5));
    assert_eq!(completion.text(), text_of(&ids));
    let tokens = &completion.sequences[0].tokens;
    assert_eq!(tokens.iter().map(|t| t.id).collect::<Vec<_>>(), ids);
    assert!(tokens.iter().all(|t| t.bytes == tokenizer().token_bytes(t.id) && t.logprob.is_none() && t.top.is_empty()));
    let finished = completion.finished();
    assert_eq!(finished.reason(), FinishReason::Length);
    assert_eq!((finished.stop_match.as_deref(), finished.stop_token_id), (None, None));
    let usage = finished.usage.expect("usage");
    assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens), (5, 0, 20));
    let timings = finished.timings.expect("timings");
    assert!(timings.queue_ms >= 0.0 && timings.prefill_ms > 0.0 && timings.decode_ms > 0.0, "{timings:?}");
    assert!(finished.system_fingerprint.ends_with("-scalar-0123456789ab"), "{}", finished.system_fingerprint);
    server.at_rest().await;
}

#[tokio::test]
async fn complete_gives_what_generate_gives() {
    covers!("API-4");
    let server = TestServer::start(Options::default()).await;
    let mut wanted = request(&PROMPT, 17);
    wanted.n = Some(3);
    wanted.sampling = Some(SamplingParams { seed: Some(99), ..Default::default() });
    response(&mut wanted).top_logprobs = Some(2);
    let streamed = server.collect(wanted.clone()).await;
    let whole = server.inference().complete(wanted).await.expect("a completion").into_inner();
    assert_eq!(whole.outputs.len(), 3);
    assert_eq!((whole.seed, whole.request_id.is_empty()), (99, false));
    for (sequence, output) in streamed.sequences.iter().zip(&whole.outputs) {
        assert_eq!((&sequence.text, &sequence.tokens), (&output.text, &output.tokens));
        assert_eq!(sequence.finished.reason, output.reason);
    }
    assert_eq!(whole.usage.map(|u| (u.prompt_tokens, u.completion_tokens)), Some((5, 51)));
}

/// API-5: siblings differ, and do not change each other.
#[tokio::test]
async fn sequences_of_a_request_are_independent() {
    covers!("API-5");
    let server = TestServer::start(Options::default()).await;
    let mut wanted = request(&PROMPT, 12);
    wanted.sampling = Some(SamplingParams { seed: Some(5), ..Default::default() });
    let alone = server.collect(wanted.clone()).await;
    wanted.n = Some(4);
    let four = server.collect(wanted).await;
    assert_eq!(four.outputs()[0], alone.outputs()[0]);
    assert_eq!(four.sequences.iter().map(|s| s.finished.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_ne!(four.sequences[1].text, four.sequences[2].text);
}

/// API-6: a missing seed is drawn and told; the same seed gives the same text.
#[tokio::test]
async fn a_drawn_seed_can_be_used_again() {
    covers!("API-6", "DET-2");
    let server = TestServer::start(Options::default()).await;
    let mut wanted = request(&PROMPT, 12);
    wanted.sampling = None;
    let first = server.collect(wanted.clone()).await;
    let second = server.collect(wanted.clone()).await;
    assert_ne!(first.accepted.seed, second.accepted.seed);
    assert_ne!(first.accepted.request_id, second.accepted.request_id);
    wanted.sampling = Some(SamplingParams { seed: Some(first.accepted.seed), ..Default::default() });
    assert_eq!(server.collect(wanted).await.outputs(), first.outputs());
}

/// API-7: a stop string that begins in one token and ends in another.
#[tokio::test]
async fn stop_strings_are_found_across_tokens() {
    covers!("API-7");
    let server = TestServer::start(Options::default()).await;
    let ids = greedy_ids(&PROMPT, 40);
    let text = text_of(&ids);
    // From the middle of a token's text to the middle of a later one, whole characters, nowhere earlier in the text.
    let starts: Vec<usize> = (0..=ids.len()).map(|count| text_of(&ids[..count]).len()).collect();
    let (from, to) = (1..starts.len() - 3)
        .filter(|&i| starts[i + 3] > starts[i] + 3 && text.is_char_boundary(starts[i] + 1))
        .map(|i| (starts[i] + 1, starts[i + 3] - 1))
        .find(|&(from, to)| text.is_char_boundary(to) && from < to && text.find(&text[from..to]) == Some(from))
        .expect("a place to stop at");
    let stop = text[from..to].to_owned();
    let mut wanted = request(&PROMPT, 40);
    stopping(&mut wanted).stop = vec!["never there".into(), stop.clone()];
    let completion = server.collect(wanted.clone()).await;
    assert_eq!(completion.text(), &text[..from]);
    assert_eq!(completion.finished().reason(), FinishReason::Stop);
    assert_eq!(completion.finished().stop_match.as_deref(), Some(stop.as_str()));
    let tokens_to_stop = starts.iter().position(|&start| start >= to).expect("inside the text") as u32;
    assert_eq!(completion.finished().usage.map(|u| u.completion_tokens), Some(tokens_to_stop));
    stopping(&mut wanted).include_stop = true;
    assert_eq!(server.collect(wanted.clone()).await.text(), &text[..to]);
    // Not before min_tokens: the text is past the place by then.
    stopping(&mut wanted).min_tokens = Some(tokens_to_stop + 3);
    let completion = server.collect(wanted).await;
    assert_eq!((completion.text(), completion.finished().reason()), (text.as_str(), FinishReason::Length));
    server.at_rest().await;
}

/// API-7: the engine computes no further than the step after the stop string.
#[tokio::test]
async fn a_stop_string_ends_the_computation() {
    covers!("API-7");
    let gate = crate::support::client::Gate::default();
    let server = TestServer::start(Options { gate: Some(gate.clone()), ..Default::default() }).await;
    let ids = greedy_ids(&PROMPT, 40);
    // A token of whole characters that were not in the text before.
    let is_new = |place: &usize| {
        let (before, token) = (text_of(&ids[..*place]), text_of(&ids[*place..=*place]));
        !token.is_empty() && token.is_ascii() && text_of(&ids[..=*place]).find(&token) == Some(before.len())
    };
    let place = (0..40).find(is_new).expect("a token to stop at");
    let steps = place as u64 + 1;
    let mut wanted = named("mine", &PROMPT, 400);
    stopping(&mut wanted).stop = vec![text_of(&ids[place..=place])];
    let stream = server.generate(wanted.clone()).await.expect("accepted");
    gate.allow(steps);
    let completion = stream.collect().await.expect("a good end");
    assert_eq!(completion.text(), text_of(&ids[..place]));
    assert_eq!(completion.finished().reason(), FinishReason::Stop);
    // The id is free although the engine is still in the next step.
    let again = server.generate(wanted).await.expect("accepted");
    gate.allow(1);
    gate.entered(steps + 2).await;
    assert_eq!(server.engine.load().running, 1);
    assert_eq!(server.metric("llorch_requests_finished_total{reason=\"stop\"}"), 1.0);
    assert_eq!(server.metric("llorch_generation_tokens_total"), steps as f64 + 1.0);
    gate.open();
    again.collect().await.expect("a good end");
    server.at_rest().await;
}

/// API-8: stop tokens end a sequence and are not part of the text, unless asked for.
#[tokio::test]
async fn stop_tokens_end_a_sequence() {
    covers!("API-8");
    let server = TestServer::start(Options::default()).await;
    let ids = greedy_ids(&PROMPT, 30);
    let (place, &stop) = ids.iter().enumerate().skip(5).find(|(i, id)| !ids[..*i].contains(id)).expect("a new token");
    let mut wanted = request(&PROMPT, 30);
    stopping(&mut wanted).stop_token_ids = vec![stop];
    response(&mut wanted).token_ids = true;
    let completion = server.collect(wanted.clone()).await;
    assert_eq!(completion.text(), text_of(&ids[..place]));
    assert_eq!((completion.finished().reason(), completion.finished().stop_token_id), (FinishReason::Stop, Some(stop)));
    assert_eq!(completion.finished().usage.map(|u| u.completion_tokens), Some(place as u32 + 1));
    assert_eq!(completion.sequences[0].tokens.len(), place + 1);
    stopping(&mut wanted).include_stop = true;
    assert_eq!(server.collect(wanted).await.text(), text_of(&ids[..=place]));
}

#[tokio::test]
async fn a_full_context_ends_a_sequence() {
    let mut options = Options::default();
    options.scheduler.max_model_len = 20;
    let server = TestServer::start(options).await;
    let completion = server.collect(request(&PROMPT, u32::MAX)).await;
    assert_eq!(completion.finished().reason(), FinishReason::ContextLimit);
    assert_eq!(completion.text(), text_of(&greedy_ids(&PROMPT, 15)));
}

#[tokio::test]
async fn echo_begins_the_text_with_the_prompt() {
    covers!("API-9");
    let server = TestServer::start(Options::default()).await;
    let mut wanted = request(&PROMPT, 5);
    wanted.n = Some(2);
    response(&mut wanted).echo = true;
    let expected =
        String::from_utf8_lossy(&tokenizer().decode(&PROMPT)).into_owned() + &text_of(&greedy_ids(&PROMPT, 5));
    let completion = server.collect(wanted.clone()).await;
    assert_eq!([&completion.sequences[0].text, &completion.sequences[1].text], [&expected, &expected]);
    wanted.prompt = Some(Prompt::Text("say  it".into()));
    let completion = server.collect(wanted).await;
    assert!(completion.text().starts_with("say  it"), "{:?}", completion.text());
}

/// API-10: a text is encoded as the model's file says, `<s>` in it is text, and an empty one is BOS alone.
#[tokio::test]
async fn texts_are_encoded_as_asked() {
    covers!("API-10");
    let server = TestServer::start(Options::default()).await;
    for (text, add_special, parse_special) in
        [("hello there", None, None), ("", None, None), ("<s>x", None, Some(true)), ("<s>x", Some(false), None)]
    {
        let ids =
            tokenizer().encode(text, add_special.unwrap_or(true), parse_special.unwrap_or(false)).expect("encodes");
        let mut wanted = request(&PROMPT, 8);
        wanted.prompt = Some(Prompt::Text(text.into()));
        (wanted.add_special, wanted.parse_special) = (add_special, parse_special);
        let completion = server.collect(wanted).await;
        assert_eq!(completion.accepted.prompt_tokens as usize, ids.len(), "{text:?}");
        assert_eq!(completion.text(), text_of(&greedy_ids(&ids, 8)), "{text:?}");
    }
    let mut wanted = request(&PROMPT, 8);
    wanted.prompt = Some(Prompt::Text(String::new()));
    wanted.add_special = Some(false);
    assert_status(&server.refusal(wanted).await, Code::InvalidArgument, "FIELD_INVALID");
}

/// A prompt long enough to be encoded beside the asynchronous threads.
#[tokio::test]
async fn a_long_text_is_encoded_like_a_short_one() {
    let mut options = Options::default();
    options.scheduler.max_model_len = 8000;
    options.limits.inline_encode_bytes = 100;
    let server = TestServer::start(options).await;
    let text = "some words and ".repeat(100);
    let ids = tokenizer().encode(&text, true, false).expect("encodes");
    let mut wanted = request(&PROMPT, 8);
    wanted.prompt = Some(Prompt::Text(text));
    assert_eq!(server.collect(wanted).await.text(), text_of(&greedy_ids(&ids, 8)));
}

/// API-11: log-probabilities come with the tokens, best first, and only when asked for.
#[tokio::test]
async fn log_probabilities_are_the_models_own() {
    covers!("API-11");
    let server = TestServer::start(Options::default()).await;
    let mut wanted = request(&PROMPT, 3);
    response(&mut wanted).top_logprobs = Some(3);
    let mut prompt = PROMPT.to_vec();
    for token in &server.collect(wanted).await.sequences[0].tokens {
        let logits =
            crate::support::fake_model::FakeModel::logits_after(prompt.iter().copied(), tokenizer().vocab_size());
        let log_sum = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
        let expected = |id: u32| f64::from(logits[id as usize]) - log_sum;
        assert!((f64::from(token.logprob.expect("asked for")) - expected(token.id)).abs() < 1e-4);
        assert_eq!((token.top.len(), token.top[0].id), (3, token.id));
        assert!(token.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
        assert!(token.top.iter().all(|t| (f64::from(t.logprob) - expected(t.id)).abs() < 1e-4));
        prompt.push(token.id);
    }
}

/// API-12: each delta is what is new, on whole characters, and comes while the next token is still to be computed.
#[tokio::test]
async fn deltas_come_as_the_tokens_do() {
    covers!("API-2", "API-12");
    let gate = crate::support::client::Gate::default();
    let server = TestServer::start(Options { gate: Some(gate.clone()), ..Default::default() }).await;
    let mut wanted = request(&PROMPT, 3);
    response(&mut wanted).token_ids = true;
    let mut stream = server.generate(wanted).await.expect("accepted");
    assert!(matches!(stream.next().await.expect("open"), Some(Event::Accepted(_))));
    for id in greedy_ids(&PROMPT, 3) {
        gate.allow(1);
        let Some(Event::Delta(delta)) = stream.next().await.expect("open") else { panic!("a delta") };
        assert_eq!(delta.tokens.iter().map(|t| t.id).collect::<Vec<_>>(), [id]);
    }
    assert!(matches!(stream.next().await.expect("open"), Some(Event::Finished(_))));
    assert_eq!(stream.next().await.expect("a good end"), None);
}

#[tokio::test]
async fn tokenize_and_detokenize_undo_each_other() {
    let server = TestServer::start(Options::default()).await;
    let mut client = TokenizerClient::new(server.channel.clone());
    let text = "naïve café, 猫";
    let wanted = TokenizeRequest { text: text.into(), ..Default::default() };
    let answer = client.tokenize(wanted).await.expect("an answer").into_inner();
    assert_eq!(answer.ids, tokenizer().encode(text, true, false).expect("encodes"));
    assert_eq!(answer.pieces.len(), answer.ids.len());
    assert_eq!(answer.pieces[0], tokenizer().piece(answer.ids[0]));
    let back = client.detokenize(DetokenizeRequest { ids: answer.ids }).await.expect("an answer").into_inner();
    assert_eq!(back.text, text);
    let status = client.detokenize(DetokenizeRequest { ids: vec![1, 9999] }).await.expect_err("no such token");
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
}

#[tokio::test]
async fn control_tells_what_the_server_is() {
    let server = TestServer::start(Options::default()).await;
    let mut client = server.control();
    let info = client.get_server_info(GetServerInfoRequest {}).await.expect("an answer").into_inner();
    assert_eq!((info.version.as_str(), info.isa.as_str(), info.threads), (env!("CARGO_PKG_VERSION"), "scalar", 1));
    let limits = info.limits.expect("limits");
    assert_eq!((limits.max_model_len, limits.max_num_seqs, limits.max_queued), (512, 64, 512));
    assert_eq!((limits.max_message_bytes, limits.max_n), (4 << 20, 128));
    let wanted = GetModelInfoRequest { model: MODEL_NAME.into() };
    let model = client.get_model_info(wanted).await.expect("an answer").into_inner();
    assert_eq!((model.name.as_str(), model.vocab_size as usize), (MODEL_NAME, tokenizer().vocab_size()));
    let status = client.get_model_info(GetModelInfoRequest { model: "other".into() }).await.expect_err("unknown");
    assert_status(&status, Code::NotFound, "MODEL_NOT_FOUND");
    let load = client.get_load(GetLoadRequest {}).await.expect("an answer").into_inner();
    assert_eq!((load.kv_blocks_total, load.kv_blocks_free, load.kv_blocks_cached, load.running), (2048, 2048, 0, 0));
    let mut watch = client.watch_load(WatchLoadRequest { interval_ms: Some(10) }).await.expect("a stream").into_inner();
    for _ in 0..3 {
        assert_eq!(watch.message().await.expect("open").map(|load| load.kv_blocks_total), Some(2048));
    }
    let status = client.watch_load(WatchLoadRequest { interval_ms: Some(1) }).await.expect_err("too fast");
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
}

/// API-13: health follows the model's life.
#[tokio::test]
async fn nothing_is_served_before_the_model_is_there() {
    covers!("API-13");
    let server = TestServer::start_loading(Options::default()).await;
    let mut health = HealthClient::new(server.channel.clone());
    for service in ["", "llorch.v1.Inference"] {
        let wanted = HealthCheckRequest { service: service.into() };
        let mut watch = health.watch(wanted).await.expect("a stream").into_inner();
        // The state before the first report is not serving either.
        let status = watch.message().await.expect("open").expect("a state").status();
        assert_eq!(status, ServingStatus::NotServing, "{service:?}");
    }
    assert_status(&server.refusal(request(&PROMPT, 1)).await, Code::Unavailable, "LOADING");
    let status = server.control().get_load(GetLoadRequest {}).await.expect_err("no model");
    assert_eq!(reason(&status), "LOADING");
    let wanted = HealthCheckRequest { service: "llorch.v1.Inference".into() };
    let mut watch = health.watch(wanted).await.expect("a stream").into_inner();
    server.state.set_model(server.engine.clone(), tokenizer(), Default::default());
    while watch.message().await.expect("open").expect("a state").status() != ServingStatus::Serving {}
    server.collect(request(&PROMPT, 1)).await;
}

/// Reflection lists every service and knows the messages.
#[tokio::test]
async fn reflection_describes_the_services() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
    let server = TestServer::start(Options::default()).await;
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("llorch.v1.GenerateRequest".into())),
    ]);
    let mut answers = client.server_reflection_info(requests).await.expect("a stream").into_inner();
    let mut next = async || -> ServerReflectionResponse { answers.message().await.expect("open").expect("an answer") };
    let Some(MessageResponse::ListServicesResponse(list)) = next().await.message_response else { panic!("a list") };
    let mut names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
    names.sort();
    let expected = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "llorch.v1.Control",
        "llorch.v1.Inference",
        "llorch.v1.Tokenizer",
    ];
    assert_eq!(names, expected);
    let found = next().await.message_response;
    assert!(matches!(found, Some(MessageResponse::FileDescriptorResponse(_))), "{found:?}");
}

/// Clients that know only the protocol's first draft, grpcio's library among them, find the services too.
#[tokio::test]
async fn reflection_answers_the_older_protocol() {
    use tonic_reflection::pb::v1alpha::ServerReflectionRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;
    let server = TestServer::start(Options::default()).await;
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let wanted = MessageRequest::FileContainingSymbol("llorch.v1.Inference".into());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(wanted) };
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await;
    let answer = answers.expect("a stream").into_inner().message().await.expect("open").expect("an answer");
    let found = answer.message_response;
    assert!(matches!(found, Some(MessageResponse::FileDescriptorResponse(_))), "{found:?}");
}
