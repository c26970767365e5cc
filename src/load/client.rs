//! Sends one request over gRPC and records what comes back.

use super::error::{LoadError, chain, unreachable};
use super::record::{Chunk, Outcome, Record};
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
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Connections to a target. Requests go to them in turn.
pub struct Client {
    target: String,
    channels: Vec<Channel>,
    bypass_prefix_cache: bool,
    tenant: String,
}

impl Client {
    /// Opens `connections` (at least 1) to `target`, `http://host:port`. All requests are `tenant`'s.
    pub async fn connect(
        target: &str,
        connections: usize,
        bypass_prefix_cache: bool,
        tenant: &str,
    ) -> Result<Self, LoadError> {
        let endpoint = Endpoint::from_shared(target.to_owned())
            .map_err(|_| LoadError::bad_target(target))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        let mut channels = Vec::new();
        for _ in 0..connections.max(1) {
            let channel = endpoint.connect().await;
            channels.push(channel.map_err(|error| unreachable(target, &chain(&error)))?);
        }
        Ok(Self { target: target.to_owned(), channels, bypass_prefix_cache, tenant: tenant.to_owned() })
    }

    fn channel(&self, index: usize) -> Channel {
        self.channels[index % self.channels.len()].clone()
    }

    /// Asks for the model; fails where it is not there (yet).
    pub async fn info(&self) -> Result<TargetInfo, LoadError> {
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
    let mut tokens = 0;
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) if finished => return Outcome::Completed,
            Ok(None) => return Outcome::Failed("INCOMPLETE".into()),
            Err(status) => return failed(&status, record),
        };
        match message.event {
            Some(Event::Delta(delta)) => {
                if !delta.tokens.is_empty() {
                    let count = delta.tokens.len() as u32;
                    record.chunks.push(Chunk { at: start.elapsed().as_secs_f64(), tokens: count });
                    tokens += count;
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
