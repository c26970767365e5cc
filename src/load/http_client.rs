//! Sends one request over HTTP/1.1 and records the events that come back.

use super::error::{LoadError, chain, unreachable};
use super::http_api::{BadEvent, Dialect, Event};
use super::limits::{Allowance, Patience, within};
use super::record::{Chunk, DEADLINE_EXCEEDED, Outcome, Record, TOO_LONG};
use super::sse::SseParser;
use super::target::TargetInfo;
use super::workload::PlannedRequest;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Before servers close an idle connection (5 s is common): a request must not run into that.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// A target that fell silent.
const IDLE: &str = "HTTP IDLE";
/// For what the target says of itself.
const MAX_INFO_BYTES: usize = 16 << 20;
/// For the body of a refusal.
const MAX_REFUSAL_BYTES: usize = 64 << 10;
/// Of what is kept of a server's message.
const MAX_MESSAGE_CHARS: usize = 160;

type Connections = legacy::Client<HttpConnector, Full<Bytes>>;

/// Connections to a target, one for each request in flight.
pub struct HttpClient {
    http: Connections,
    dialect: Dialect,
    completions: Uri,
    prefix_cache: bool,
    info: TargetInfo,
    /// For the head of an answer, and for each piece of it.
    idle: Duration,
}

impl HttpClient {
    /// Asks the server at `address`, `HOST:PORT`, for its model. `url` is the whole target, for messages.
    pub async fn connect(
        url: &str,
        address: &str,
        dialect: Dialect,
        prefix_cache: bool,
        patience: Patience,
    ) -> Result<Self, LoadError> {
        let limit = patience.answer;
        let bad = || LoadError::bad_target(url);
        let base = address.strip_suffix('/').unwrap_or(address);
        if base.contains(['/', '?', '#', '@']) {
            return Err(bad());
        }
        let uri = |path: &str| format!("http://{base}{path}").parse::<Uri>().map_err(|_| bad());
        let once = connections(false, limit);
        let models = get(&once, uri("/v1/models")?, limit).await.map_err(|reason| unreachable(url, &reason))?;
        // Only llama-server has the first, only vLLM the second.
        let props = get(&once, uri("/props")?, limit).await.unwrap_or_default();
        let version = get(&once, uri("/version")?, limit).await.unwrap_or_default();
        let info = target_info(dialect, &models, &props, &version);
        // llama-server offers to keep a connection and then closes it on a later request, without an answer.
        let http = connections(props["build_info"].is_null(), limit);
        let (completions, idle) = (uri(dialect.path())?, patience.idle);
        Ok(Self { http, dialect, completions, prefix_cache, info, idle })
    }

    pub fn info(&self) -> &TargetInfo {
        &self.info
    }

    /// Sends `planned` and reads to the end. `start` is time 0, `intended` the seconds after it at which this was due.
    pub async fn send(&self, start: Instant, intended: f64, index: usize, planned: &PlannedRequest) -> Record {
        let mut record = Record::new(index, intended, planned);
        let request = self.request(planned);
        record.sent = start.elapsed().as_secs_f64();
        let exchange = self.exchange(start, request, planned.cancel_after, &mut record);
        let outcome = match planned.deadline_ms {
            Some(deadline_ms) => {
                let due = start + Duration::from_secs_f64(intended) + Duration::from_millis(deadline_ms);
                // Dropping the exchange closes the connection, which is how a server learns of it.
                let ended = tokio::time::timeout_at(due.into(), exchange).await;
                ended.unwrap_or_else(|_| Outcome::Failed(DEADLINE_EXCEEDED.into()))
            }
            None => exchange.await,
        };
        record.outcome = outcome;
        record.ended = start.elapsed().as_secs_f64();
        record
    }

    fn request(&self, planned: &PlannedRequest) -> Request<Full<Bytes>> {
        let body = self.dialect.body(&self.info.model, planned, self.prefix_cache).to_string();
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = self.completions.clone();
        let json = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        request
    }

    async fn exchange(
        &self,
        start: Instant,
        request: Request<Full<Bytes>>,
        cancel_after: Option<u32>,
        record: &mut Record,
    ) -> Outcome {
        let response = match within(self.idle, self.http.request(request)).await {
            Ok(Ok(response)) => response,
            Err(silence) => return failed_saying(IDLE, silence, record),
            Ok(Err(error)) => {
                let label = if error.is_connect() { "HTTP CONNECT" } else { "HTTP CUT" };
                return failed_saying(label, chain(&error), record);
            }
        };
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            record.message = within(self.idle, refusal(response.into_body())).await.unwrap_or_default();
            return Outcome::Failed(format!("HTTP {status}"));
        }
        self.read(start, response.into_body(), cancel_after, record).await
    }

    /// Reads a stream to its end, or until `cancel_after` tokens came.
    async fn read(
        &self,
        start: Instant,
        mut body: Incoming,
        cancel_after: Option<u32>,
        record: &mut Record,
    ) -> Outcome {
        let mut parser = SseParser::default();
        let mut progress = Progress::default();
        let mut allowance = Allowance::new(record.gen_tokens);
        loop {
            if !progress.finished && cancel_after.is_some_and(|limit| progress.tokens >= limit) {
                return Outcome::Cancelled;
            }
            let frame = match within(self.idle, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return failed_saying("HTTP CUT", chain(&error), record),
                Ok(None) if progress.finished => break,
                Ok(None) => return failed("INCOMPLETE"),
                Err(silence) => return failed_saying(IDLE, silence, record),
            };
            let Some(piece) = frame.data_ref() else { continue };
            if let Err(excess) = allowance.take(0, piece.len() as u64) {
                return failed_saying(TOO_LONG, excess.into(), record);
            }
            let at = start.elapsed().as_secs_f64();
            let Ok(events) = parser.feed(piece) else { return failed("BAD_EVENT") };
            for event in events {
                match self.dialect.event(&event) {
                    Ok(event) => {
                        let tokens = progress.tokens_of(&event);
                        if let Err(excess) = allowance.take(u64::from(tokens), 0) {
                            return failed_saying(TOO_LONG, excess.into(), record);
                        }
                        progress.take(at, event, tokens, record);
                    }
                    Err(BadEvent::Malformed) => return failed_saying("BAD_EVENT", message_of(&event), record),
                    Err(BadEvent::Error(code)) => {
                        return failed_saying(&format!("ERROR_EVENT/{code}"), message_of(&event), record);
                    }
                }
            }
        }
        record.usage_tokens = progress.said;
        Outcome::Completed
    }
}

/// How far a stream is.
#[derive(Default)]
struct Progress {
    tokens: u32,
    /// Tokens so far, as the server says.
    said: Option<u32>,
    finished: bool,
}

impl Progress {
    /// Tokens that `event`, the next, brings.
    fn tokens_of(&self, event: &Event) -> u32 {
        let shown = (event.token_ids.len() as u32).max(1);
        let tokens = event.so_far.map_or(shown, |so_far| so_far.saturating_sub(self.tokens));
        if event.has_tokens { tokens } else { 0 }
    }

    /// Takes in `event`, which came `at` and brings `tokens`.
    fn take(&mut self, at: f64, event: Event, tokens: u32, record: &mut Record) {
        self.finished |= event.finished;
        self.said = event.so_far.or(self.said);
        if !event.has_tokens {
            return;
        }
        if tokens > 0 {
            record.chunks.push(Chunk { at, tokens });
            self.tokens = self.tokens.saturating_add(tokens);
        }
        record.token_ids.extend(event.token_ids);
        record.text.push_str(&event.text);
    }
}

fn failed(label: &str) -> Outcome {
    Outcome::Failed(label.to_owned())
}

fn failed_saying(label: &str, message: String, record: &mut Record) -> Outcome {
    record.message = message;
    failed(label)
}

/// Connections, each to be had within `limit`, that are kept for further requests where `kept`.
fn connections(kept: bool, limit: Duration) -> Connections {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(limit));
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(if kept { usize::MAX } else { 0 });
    builder.build(connector)
}

/// What a server says with a status other than 200.
async fn refusal(body: Incoming) -> String {
    match Limited::new(body, MAX_REFUSAL_BYTES).collect().await {
        Ok(body) => message_of(&body.to_bytes()),
        Err(_) => String::new(),
    }
}

/// The message in the JSON of an error, or else its text; cut to a line.
fn message_of(bytes: &[u8]) -> String {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let said = [&value["error"]["message"], &value["message"], &value["error"]];
    let text = said.into_iter().find_map(|text| text.as_str().map(str::to_owned));
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned());
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE_CHARS).collect()
}

/// A JSON document, or why there is none within `limit`.
async fn get(http: &Connections, uri: Uri, limit: Duration) -> Result<Value, String> {
    let path = uri.path().to_owned();
    let answer = async {
        let response = http.get(uri).await.map_err(|error| chain(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("{path}: HTTP {}", response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), MAX_INFO_BYTES).collect().await;
        let bytes = body.map_err(|error| format!("{path}: {error}"))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| format!("{path}: {error}"))
    };
    within(limit, answer).await.unwrap_or_else(|silence| Err(format!("{path}: {silence}")))
}

/// The first model of `/v1/models`, with what llama-server says in `/props` and vLLM in `/version`. What is not a model
/// description is taken as one that says nothing.
fn target_info(dialect: Dialect, models: &Value, props: &Value, version: &Value) -> TargetInfo {
    let model = &models["data"][0];
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|n| *n > 0);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let slot = number(&props["default_generation_settings"]["n_ctx"]);
    let software = match (props["build_info"].as_str(), version["version"].as_str()) {
        (Some(build), _) => format!("llama.cpp {build}, {} slots", props["total_slots"]),
        (None, Some(version)) => format!("version {version}"),
        (None, None) => text(&model["owned_by"]),
    };
    TargetInfo {
        backend: dialect.backend(),
        model: text(&model["id"]),
        vocab_size: number(&model["meta"]["n_vocab"]),
        max_model_len: number(&model["max_model_len"]).or(slot),
        software,
    }
}
