//! Sends one request over gRPC and records what comes back.

use super::error::{LoadError, chain, unreachable};
use super::limits::{Allowance, Patience, within};
use super::record::{Chunk, DEADLINE_EXCEEDED, Outcome, Record, TOO_LONG};
use super::target::TargetInfo;
use super::workload::{PlannedRequest, Sampling};
use crate::server::proto::control_client::ControlClient;
use crate::server::proto::generate_request::Prompt;
use crate::server::proto::generate_response::Event;
use crate::server::proto::inference_client::InferenceClient;
use crate::server::proto::{
    GenerateRequest, GenerateResponse, GetModelInfoRequest, GetServerInfoRequest, KvOptions, ResponseOptions,
    SamplingParams, StoppingOptions, TokenIds,
};
use crate::server::status::code_name;
use prost::Message;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming, TimeoutExpired};
use tonic_types::StatusExt;

const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Before each message of a stream: compressed or not, and its length.
const MESSAGE_HEAD_BYTES: usize = 5;

/// Connections to a target. Requests go to them in turn.
pub struct Client {
    target: String,
    channels: Vec<Channel>,
    bypass_prefix_cache: bool,
    tenant: String,
    patience: Patience,
}

impl Client {
    /// Opens `connections` (at least 1) to `target`, `http://host:port`. All requests are `tenant`'s.
    pub async fn connect(
        target: &str,
        connections: usize,
        bypass_prefix_cache: bool,
        tenant: &str,
        patience: Patience,
    ) -> Result<Self, LoadError> {
        let endpoint = Endpoint::from_shared(target.to_owned())
            .map_err(|_| LoadError::bad_target(target))?
            .connect_timeout(patience.answer)
            .http2_keep_alive_interval(patience.keep_alive)
            .keep_alive_timeout(patience.keep_alive)
            .tcp_nodelay(true);
        let mut channels = Vec::new();
        for _ in 0..connections.max(1) {
            let channel = endpoint.connect().await;
            channels.push(channel.map_err(|error| unreachable(target, &chain(&error)))?);
        }
        let (target, tenant) = (target.to_owned(), tenant.to_owned());
        Ok(Self { target, channels, bypass_prefix_cache, tenant, patience })
    }

    fn channel(&self, index: usize) -> Channel {
        self.channels[index % self.channels.len()].clone()
    }

    /// Asks for the model; fails where it is not there (yet), and where nothing answers.
    pub async fn info(&self) -> Result<TargetInfo, LoadError> {
        let answer = within(self.patience.answer, self.ask()).await;
        answer.unwrap_or_else(|silence| Err(unreachable(&self.target, &silence)))
    }

    async fn ask(&self) -> Result<TargetInfo, LoadError> {
        let failed =
            |status: Status| unreachable(&self.target, &format!("{}: {}", code_name(status.code()), status.message()));
        let mut control = ControlClient::new(self.channel(0));
        let model = control.get_model_info(GetModelInfoRequest::default()).await.map_err(failed)?.into_inner();
        let server = control.get_server_info(GetServerInfoRequest {}).await.map_err(failed)?.into_inner();
        if model.vocab_size == 0 {
            return Err(unreachable(&self.target, "the model has no vocabulary"));
        }
        Ok(TargetInfo {
            backend: "llorch-grpc",
            model: model.name,
            vocab_size: Some(model.vocab_size),
            max_model_len: Some(server.limits.map_or(model.context_length, |limits| limits.max_model_len)),
            software: format!("llorch-cpud {}, {}, {} threads", server.version, server.isa, server.threads),
        })
    }

    /// Sends `planned` and reads to the end. `start` is time 0, `intended` the seconds after it at which this was due.
    pub async fn send(&self, start: Instant, intended: f64, index: usize, planned: &PlannedRequest) -> Record {
        let mut record = Record::new(index, intended, planned);
        let mut request = Request::new(self.message(planned));
        if let Some(deadline_ms) = planned.deadline_ms {
            // What is left of it: a deadline counts from the intended time, like a latency.
            let passed_ms = (start.elapsed().as_secs_f64() - intended) * 1e3;
            request.set_timeout(Duration::from_millis(deadline_ms.saturating_sub(passed_ms.max(0.0) as u64)));
        }
        let mut client = InferenceClient::new(self.channel(index)).max_decoding_message_size(MAX_MESSAGE_BYTES);
        record.sent = start.elapsed().as_secs_f64();
        record.outcome = match client.generate(request).await {
            Ok(response) => read(start, response.into_inner(), planned.cancel_after, &mut record).await,
            Err(status) if planned.deadline_ms.is_some() && is_timeout(&status) => {
                Outcome::Failed(DEADLINE_EXCEEDED.into())
            }
            Err(status) => failed(&status, &mut record),
        };
        record.ended = start.elapsed().as_secs_f64();
        record
    }

    fn message(&self, planned: &PlannedRequest) -> GenerateRequest {
        GenerateRequest {
            prompt: Some(Prompt::TokenIds(TokenIds { ids: planned.prompt.clone() })),
            sampling: Some(sampling(&planned.sampling, planned.seed)),
            stopping: Some(StoppingOptions {
                max_tokens: Some(planned.gen_tokens),
                ignore_eos: true,
                ..Default::default()
            }),
            response: Some(ResponseOptions { token_ids: true, ..Default::default() }),
            kv: Some(KvOptions { bypass_prefix_cache: self.bypass_prefix_cache, ..Default::default() }),
            tenant: self.tenant.clone(),
            ..Default::default()
        }
    }
}

fn sampling(sampling: &Sampling, seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: Some(sampling.temperature),
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        seed: Some(seed),
        ..Default::default()
    }
}

/// Reads a stream to its end, or until `cancel_after` tokens came.
async fn read(
    start: Instant,
    mut stream: Streaming<GenerateResponse>,
    cancel_after: Option<u32>,
    record: &mut Record,
) -> Outcome {
    let mut finished = false;
    let mut tokens = 0u32;
    let mut allowance = Allowance::new(record.gen_tokens);
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) if finished => return Outcome::Completed,
            Ok(None) => return Outcome::Failed("INCOMPLETE".into()),
            Err(status) => return failed(&status, record),
        };
        let bytes = message.encoded_len() + MESSAGE_HEAD_BYTES;
        let count = match &message.event {
            Some(Event::Delta(delta)) => delta.tokens.len() as u32,
            _ => 0,
        };
        if let Err(excess) = allowance.take(u64::from(count), bytes as u64) {
            record.message = excess.into();
            return Outcome::Failed(TOO_LONG.into());
        }
        match message.event {
            Some(Event::Delta(delta)) => {
                if count > 0 {
                    record.chunks.push(Chunk { at: start.elapsed().as_secs_f64(), tokens: count });
                    tokens = tokens.saturating_add(count);
                }
                record.token_ids.extend(delta.tokens.iter().map(|token| token.id));
                record.text.push_str(&delta.text);
            }
            Some(Event::Finished(end)) => {
                record.usage_tokens = end.usage.map(|usage| usage.completion_tokens);
                finished = true;
            }
            Some(Event::Accepted(_)) | None => {}
        }
        if !finished && cancel_after.is_some_and(|limit| tokens >= limit) {
            return Outcome::Cancelled;
        }
    }
}

/// The status is tonic's own: it watches the deadline of a request until the head of the answer comes.
fn is_timeout(status: &Status) -> bool {
    let first = std::error::Error::source(status);
    std::iter::successors(first, |error| error.source()).any(|error| error.is::<TimeoutExpired>())
}

fn failed(status: &Status, record: &mut Record) -> Outcome {
    record.message = status.message().to_owned();
    Outcome::Failed(label(status))
}

/// `CODE`, or `CODE/REASON` where the status has one.
fn label(status: &Status) -> String {
    let code = code_name(status.code());
    match status.get_error_details().error_info() {
        Some(info) if !info.reason.is_empty() => format!("{code}/{}", info.reason),
        _ => code.to_owned(),
    }
}
