//! The Inference service.

use super::convert::{self, CheckedPrompt};
use super::deadline::{self, Arrival};
use super::open_rpc::OpenRpc;
use super::outbox::{self, ResponseStream};
use super::proto::generate_response::Event;
use super::proto::inference_server::Inference;
use super::proto::{Accepted, CompleteResponse, FinishReason, Finished, GenerateRequest, Output, Timings, Usage};
use super::state::{Loaded, ServerState};
use super::status;
use super::writer::{RequestFacts, Writer};
use crate::engine::request::{NewRequest, Stage};
use crate::text::Tokenizer;
use crate::types::{CacheDomain, TokenId};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status};

pub(super) struct InferenceService(pub Arc<ServerState>);

#[tonic::async_trait]
impl Inference for InferenceService {
    type GenerateStream = ResponseStream;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<ResponseStream>, Status> {
        Ok(Response::new(self.start(request, true).await?))
    }

    async fn complete(&self, request: Request<GenerateRequest>) -> Result<Response<CompleteResponse>, Status> {
        let mut stream = self.start(request, false).await?;
        let mut response = CompleteResponse { timings: Some(Timings::default()), ..Default::default() };
        let (mut usage, mut bytes, max_bytes) = (Usage::default(), 0, self.0.limits.max_response_bytes);
        while let Some(message) = stream.next().await {
            match message?.event {
                Some(Event::Accepted(accepted)) => {
                    response.request_id = accepted.request_id;
                    response.seed = accepted.seed;
                    usage.prompt_tokens = accepted.prompt_tokens;
                }
                Some(Event::Delta(delta)) => {
                    bytes += outbox::weight(&delta.text, &delta.tokens);
                    if bytes > max_bytes {
                        return Err(status::response_too_large(max_bytes));
                    }
                    let output = output(&mut response.outputs, delta.index);
                    output.text.push_str(&delta.text);
                    output.tokens.extend(delta.tokens);
                }
                Some(Event::Finished(finished)) => take_finished(&mut response, &mut usage, finished),
                None => {}
            }
        }
        response.usage = Some(usage);
        Ok(Response::new(response))
    }
}

/// The output of sequence `index`; those before it come into being as well.
fn output(outputs: &mut Vec<Output>, index: u32) -> &mut Output {
    let place = index as usize;
    for index in outputs.len()..=place {
        outputs.push(Output { index: index as u32, reason: FinishReason::Unspecified.into(), ..Default::default() });
    }
    &mut outputs[place]
}

fn take_finished(response: &mut CompleteResponse, usage: &mut Usage, finished: Finished) {
    let output = output(&mut response.outputs, finished.index);
    output.reason = finished.reason;
    output.stop_match = finished.stop_match;
    output.stop_token_id = finished.stop_token_id;
    let of_sequence = finished.usage.unwrap_or_default();
    usage.completion_tokens += of_sequence.completion_tokens;
    usage.cached_tokens = usage.cached_tokens.max(of_sequence.cached_tokens);
    let (all, one) = (response.timings.get_or_insert_default(), finished.timings.unwrap_or_default());
    all.queue_ms = all.queue_ms.max(one.queue_ms);
    all.prefill_ms = all.prefill_ms.max(one.prefill_ms);
    all.decode_ms = all.decode_ms.max(one.decode_ms);
    response.system_fingerprint = finished.system_fingerprint;
}

impl InferenceService {
    /// Checks and submits a request: everything before the response headers. `bounded`: a client reads the stream.
    async fn start(&self, request: Request<GenerateRequest>, bounded: bool) -> Result<ResponseStream, Status> {
        let state = &self.0;
        let arrival = request.extensions().get::<Arrival>().map_or_else(Instant::now, |arrival| arrival.0);
        let deadline = deadline::of(request.metadata(), arrival)?;
        let open = request.extensions().get::<Arc<OpenRpc>>().cloned();
        let loaded = state.loaded()?;
        let request = request.into_inner();
        if loaded.engine.is_draining() {
            state.metrics.count_rejection("draining");
            return Err(status::draining());
        }
        check_model(loaded, &request.model)?;
        let checked = convert::check(request, vocab_size(loaded))?;
        let echo_text = match &checked.prompt {
            CheckedPrompt::Text { text, .. } if checked.echo => Some(text.clone()),
            _ => None,
        };
        check_echo(echo_text.as_deref(), checked.n, state.limits.max_response_bytes)?;
        let prompt: Arc<[TokenId]> = encode_by(state, &loaded.tokenizer, checked.prompt, deadline).await?.into();
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let (n, best_of, seed) = (checked.n, checked.best_of, checked.params.sampling.seed);
        let max_bytes = match (bounded, checked.plan.logprobs) {
            (false, _) => usize::MAX / 2,
            (true, false) => state.limits.max_unread_bytes,
            (true, true) => state.limits.max_unread_bytes_logprobs,
        };
        let shared = || CacheDomain::new(&loaded.info.name, &checked.tenant, &checked.kv.cache_salt);
        let domain = (!checked.kv.bypass_prefix_cache).then(shared);
        let events = loaded
            .engine
            .submit(NewRequest {
                request_id: checked.request_id.clone(),
                prompt: Arc::clone(&prompt),
                params: Arc::new(checked.params),
                n: best_of,
                domain,
                tenant: checked.tenant.into(),
                priority: checked.priority,
                deadline,
            })
            .map_err(|error| {
                if let Some(reason) = status::rejection(&error) {
                    state.metrics.count_rejection(reason);
                }
                status::of(&error)
            })?;
        // Not before the prompt is known to fit the context.
        let echo_text = match (checked.echo, echo_text) {
            (true, None) => Some(String::from_utf8_lossy(&loaded.tokenizer.decode(&prompt)).into_owned()),
            (_, text) => text,
        };
        check_echo(echo_text.as_deref(), n, state.limits.max_response_bytes)?;
        let (outbox, stream) = outbox::channel(max_bytes, events.canceller());
        outbox.push(Event::Accepted(Accepted { request_id: checked.request_id, seed, prompt_tokens }));
        for index in 0..n {
            if let Some(text) = &echo_text {
                outbox.push_echo(index, text);
            }
        }
        let facts =
            RequestFacts { n, best_of, prompt_tokens, fingerprint: &loaded.fingerprint, limits: &state.limits, open };
        let (tokenizer, metrics) = (Arc::clone(&loaded.tokenizer), Arc::clone(&state.metrics));
        tokio::spawn(Writer::new(tokenizer, metrics, checked.plan, &facts, outbox).run(events));
        Ok(stream)
    }
}

/// Every sequence repeats the prompt's text, and a client may read late: all `n` copies are held.
fn check_echo(text: Option<&str>, n: u32, max_bytes: usize) -> Result<(), Status> {
    let held = text.map_or(0, |text| text.len().saturating_mul(n as usize));
    if held > max_bytes { Err(status::response_too_large(max_bytes)) } else { Ok(()) }
}

/// NOT_FOUND unless `name` is empty or that of the loaded model.
pub(super) fn check_model(loaded: &Loaded, name: &str) -> Result<(), Status> {
    if name.is_empty() || name == loaded.info.name { Ok(()) } else { Err(status::model_not_found(name)) }
}

/// Ids that have both logits and a text.
pub(super) fn vocab_size(loaded: &Loaded) -> usize {
    loaded.engine.facts().vocab_size.min(loaded.tokenizer.vocab_size())
}

/// [`encode`], given up at the deadline.
async fn encode_by(
    state: &ServerState,
    tokenizer: &Arc<Tokenizer>,
    prompt: CheckedPrompt,
    deadline: Option<Instant>,
) -> Result<Vec<TokenId>, Status> {
    let (text, add_special, parse_special) = match prompt {
        CheckedPrompt::Ids(ids) => return Ok(ids),
        CheckedPrompt::Text { text, add_special, parse_special } => (text, add_special, parse_special),
    };
    let encoded = encode(state, tokenizer, text, add_special, parse_special);
    let ids = match deadline {
        None => encoded.await,
        Some(at) => tokio::time::timeout_at(at.into(), encoded).await.map_err(|_| status::deadline(Stage::Queue))?,
    }?;
    if ids.is_empty() {
        return Err(status::invalid_field("text", "the prompt has no tokens"));
    }
    Ok(ids)
}

/// Encodes a text.
async fn encode(
    state: &ServerState,
    tokenizer: &Arc<Tokenizer>,
    text: String,
    add_special: bool,
    parse_special: bool,
) -> Result<Vec<TokenId>, Status> {
    let tokenizer = Arc::clone(tokenizer);
    let bytes = text.len();
    let result = text_work(state, bytes, move || tokenizer.encode(&text, add_special, parse_special)).await?;
    result.map_err(|error| status::encode_failed(&error))
}

/// Does `work` on `size` bytes: here if they are few, else on a thread beside the asynchronous ones. Until it is done
/// they take room as messages on their way in do: many may wait.
pub(super) async fn text_work<T: Send + 'static>(
    state: &ServerState,
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    if size <= state.limits.inline_encode_bytes {
        return Ok(work());
    }
    let permits = u32::try_from(size).unwrap_or(u32::MAX);
    let room = Semaphore::try_acquire_many_owned(Arc::clone(&state.receiving), permits);
    let (Ok(_place), Ok(room)) = (state.encodes.try_acquire(), room) else {
        state.metrics.count_rejection("encoders_busy");
        return Err(status::queue_full(1000));
    };
    // They go with the work: a client that leaves does not make room for another before it is done.
    let permit = Arc::clone(&state.encoders).acquire_owned().await.map_err(|_| status::draining())?;
    let job = move || {
        let _held = (permit, room);
        work()
    };
    tokio::task::spawn_blocking(job).await.map_err(|_| status::sequence_panic())
}
