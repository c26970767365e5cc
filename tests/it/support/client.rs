//! A server over real gRPC on a free port, with the fake model and a real tokenizer, and what tests need to talk to it.

use super::fake_model::{FakeModel, fake_engine_with};
use llorch_cpud::engine::actor;
use llorch_cpud::engine::handle::{EngineHandle, LoadSnapshot, QueueLimits};
use llorch_cpud::gguf::ModelFile;
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::metrics::Metrics;
use llorch_cpud::scheduler::SchedulerConfig;
use llorch_cpud::server::info::{ModelInfo, ServerInfo};
use llorch_cpud::server::limits::ServerLimits;
use llorch_cpud::server::proto::control_client::ControlClient;
use llorch_cpud::server::proto::generate_request::Prompt;
use llorch_cpud::server::proto::generate_response::Event;
use llorch_cpud::server::proto::inference_client::InferenceClient;
use llorch_cpud::server::proto::{
    Accepted, Finished, GenerateRequest, GenerateResponse, SamplingParams, StoppingOptions, Token, TokenIds,
};
use llorch_cpud::server::state::ServerState;
use llorch_cpud::server::{Shutdown, run};
use llorch_cpud::text::Tokenizer;
use llorch_cpud::types::TokenId;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

/// How long a condition may take that is sure to come. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets the model take one step for each permit, so that a test decides what happens between two steps.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    permits: u64,
    open: bool,
    entered: u64,
}

impl Gate {
    /// For the model's thread: waits for a permit.
    fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().expect("no panic while the gate is held");
        state.entered += 1;
        while state.permits == 0 && !state.open {
            state = changed.wait(state).expect("no panic while the gate is held");
        }
        state.permits = state.permits.saturating_sub(1);
    }

    /// Lets `steps` more steps through.
    pub fn allow(&self, steps: u64) {
        self.0.0.lock().expect("no panic while the gate is held").permits += steps;
        self.0.1.notify_all();
    }

    /// Lets every step through from now on.
    pub fn open(&self) {
        self.0.0.lock().expect("no panic while the gate is held").open = true;
        self.0.1.notify_all();
    }

    /// Waits until the model has begun its `count`-th step, counted from 1.
    pub async fn entered(&self, count: u64) {
        eventually("the step begins", || self.0.0.lock().expect("not poisoned").entered >= count).await;
    }
}

/// What a test server is made of.
pub struct Options {
    pub scheduler: SchedulerConfig,
    pub queue: QueueLimits,
    pub limits: ServerLimits,
    pub gate: Option<Gate>,
    /// As for `--target-itl`.
    pub target_itl: Option<Duration>,
    pub tenant_weights: Vec<(Arc<str>, f64)>,
    pub nan_token: Option<TokenId>,
    pub panic_token: Option<TokenId>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scheduler: SchedulerConfig {
                max_num_seqs: 64,
                max_num_batched_tokens: 256,
                num_blocks: 2048,
                block_size: 4,
                max_model_len: 512,
            },
            queue: QueueLimits::new(512, 1 << 20),
            limits: ServerLimits::default(),
            gate: None,
            target_itl: None,
            tenant_weights: Vec::new(),
            nan_token: None,
            panic_token: None,
        }
    }
}

pub const MODEL_NAME: &str = "fake";

/// A running server. Dropping it ends everything.
pub struct TestServer {
    pub address: SocketAddr,
    pub state: Arc<ServerState>,
    pub engine: EngineHandle,
    pub metrics: Arc<Metrics>,
    pub shutdown: watch::Sender<Shutdown>,
    pub task: JoinHandle<std::io::Result<()>>,
    pub channel: Channel,
    gate: Option<Gate>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(gate) = &self.gate {
            gate.open();
        }
    }
}

/// The tokenizer of the built test models: SentencePiece, with a token for every byte.
pub fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let build = || {
        let file = ModelFile::from_bytes(TestModel::default().build()).expect("a valid model");
        Arc::new(Tokenizer::from_metadata(file.metadata()).expect("a valid vocabulary"))
    };
    Arc::clone(TOKENIZER.get_or_init(build))
}

impl TestServer {
    pub async fn start(options: Options) -> Self {
        let server = Self::start_loading(options).await;
        let info = ModelInfo {
            name: MODEL_NAME.into(),
            architecture: "fake".into(),
            file_type: "F32".into(),
            context_length: 512,
            vocab_size: tokenizer().vocab_size() as u32,
            parameters: 0,
            header_sha256: "0123456789abcdef".repeat(4),
        };
        server.state.set_model(server.engine.clone(), tokenizer(), info);
        server
    }

    /// A server whose model is not there yet.
    pub async fn start_loading(options: Options) -> Self {
        let metrics = Arc::new(Metrics::new().expect("valid buckets"));
        let vocab_size = tokenizer().vocab_size();
        let mut model = FakeModel::new(vocab_size, options.scheduler.block_size);
        model.nan_token = options.nan_token;
        model.panic_token = options.panic_token;
        if let Some(gate) = options.gate.clone() {
            model.hook = Some(Box::new(move |_| gate.pass()));
        }
        let mut engine = fake_engine_with(options.scheduler, tokenizer().eog_ids().to_vec(), model);
        engine.set_tenant_weights(&options.tenant_weights);
        let spawned = actor::spawn(engine, options.queue, options.target_itl, Arc::clone(&metrics));
        let (engine, _) = spawned.expect("a thread");
        let info = ServerInfo { isa: "scalar".into(), threads: 1 };
        let state = ServerState::new(info, options.limits, Arc::clone(&metrics));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (shutdown, receiver) = watch::channel(Shutdown::No);
        let task = tokio::spawn(run(listener, Arc::clone(&state), receiver));
        let channel = endpoint(address).connect().await.expect("the server listens");
        Self { address, state, engine, metrics, shutdown, task, channel, gate: options.gate }
    }

    pub fn inference(&self) -> InferenceClient<Channel> {
        InferenceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
    }

    pub async fn generate(&self, request: GenerateRequest) -> Result<Stream, Status> {
        Ok(Stream(self.inference().generate(request).await?.into_inner()))
    }

    /// The whole of a stream that is to end well.
    pub async fn collect(&self, request: GenerateRequest) -> Completion {
        let stream = self.generate(request).await.expect("accepted");
        stream.collect().await.expect("a good end")
    }

    /// The error of a request that is to be refused before its stream begins.
    pub async fn refusal(&self, request: GenerateRequest) -> Status {
        self.generate(request).await.err().expect("refused")
    }

    /// Waits until nothing runs, nothing waits and every block is back.
    pub async fn at_rest(&self) {
        eventually("the engine is at rest", || {
            let load = self.engine.load();
            load.running == 0 && load.waiting == 0 && load.kv_blocks_used == 0 && self.engine.num_requests() == 0
        })
        .await;
    }

    /// Waits for a load that the test knows is coming.
    pub async fn load_where(&self, what: &str, condition: impl Fn(&LoadSnapshot) -> bool) {
        eventually(what, || condition(&self.engine.load())).await;
    }

    /// The value of a metric, `0` where it has none. `name` with its labels, as the text shows it.
    pub fn metric(&self, name: &str) -> f64 {
        metric(&self.metrics.render(), name)
    }
}

/// The value of `name` in a Prometheus text.
pub fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}

pub fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).expect("a valid address")
}

/// Looks again and again until `condition` holds; panics when it never does.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begin = std::time::Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A stream of a Generate.
pub struct Stream(pub Streaming<GenerateResponse>);

/// All that a stream brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    pub accepted: Accepted,
    /// By index.
    pub sequences: Vec<Sequence>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    pub text: String,
    pub tokens: Vec<Token>,
    pub finished: Finished,
}

/// What a sequence came to: text, tokens, reason, stop string, number of tokens.
pub type Output = (String, Vec<Token>, i32, Option<String>, u32);

impl Completion {
    /// The parts that do not depend on time or ids.
    pub fn outputs(&self) -> Vec<Output> {
        let output = |s: &Sequence| {
            let completion_tokens = s.finished.usage.map_or(0, |usage| usage.completion_tokens);
            (s.text.clone(), s.tokens.clone(), s.finished.reason, s.finished.stop_match.clone(), completion_tokens)
        };
        self.sequences.iter().map(output).collect()
    }

    pub fn text(&self) -> &str {
        &self.sequences[0].text
    }

    pub fn finished(&self) -> &Finished {
        &self.sequences[0].finished
    }
}

impl Stream {
    pub async fn next(&mut self) -> Result<Option<Event>, Status> {
        Ok(self.0.message().await?.map(|message| message.event.expect("an event")))
    }

    /// Reads to the end and checks the order of events: one Accepted first, deltas of a sequence before its one
    /// Finished, nothing after.
    pub async fn collect(mut self) -> Result<Completion, Status> {
        let Some(Event::Accepted(accepted)) = self.next().await? else { panic!("Accepted comes first") };
        let mut sequences: Vec<Option<Sequence>> = Vec::new();
        let mut ended: Vec<bool> = Vec::new();
        while let Some(event) = self.next().await? {
            let index = match &event {
                Event::Accepted(_) => panic!("a second Accepted"),
                Event::Delta(delta) => delta.index,
                Event::Finished(finished) => finished.index,
            } as usize;
            if sequences.len() <= index {
                sequences.resize(index + 1, None);
                ended.resize(index + 1, false);
            }
            assert!(!ended[index], "an event after Finished of sequence {index}");
            let sequence = sequences[index].get_or_insert_default();
            match event {
                Event::Delta(delta) => {
                    assert!(!delta.text.is_empty() || !delta.tokens.is_empty(), "an empty delta");
                    sequence.text.push_str(&delta.text);
                    sequence.tokens.extend(delta.tokens);
                }
                Event::Finished(finished) => {
                    sequence.finished = finished;
                    ended[index] = true;
                }
                Event::Accepted(_) => unreachable!(),
            }
        }
        assert!(!ended.is_empty() && ended.iter().all(|ended| *ended), "a sequence without Finished");
        Ok(Completion { accepted, sequences: sequences.into_iter().map(|s| s.expect("every index")).collect() })
    }

    /// Reads to the error that the stream is to end with.
    pub async fn error(mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => return status,
            }
        }
    }
}

/// The reason in a status's details.
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "llorch");
    info.reason.clone()
}

/// The fields that a status complains about.
pub fn violations(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    details.bad_request().map_or(Vec::new(), |bad| bad.field_violations.iter().map(|v| v.field.clone()).collect())
}

/// Asserts code and reason together.
#[track_caller]
pub fn assert_status(status: &Status, code: Code, expected: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (code, expected), "{status:?}");
}

/// When to try again, as RetryInfo says. Asserts that `grpc-retry-pushback-ms` says the same.
#[track_caller]
pub fn retry_delay(status: &Status) -> Duration {
    let delay = status.get_error_details().retry_info().and_then(|info| info.retry_delay).expect("RetryInfo");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").expect("pushback").to_str().expect("ASCII");
    assert_eq!(pushback.parse(), Ok(delay.as_millis()));
    delay
}

/// A greedy request of `max_tokens` for a prompt of ids.
pub fn request(ids: &[TokenId], max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: Some(Prompt::TokenIds(TokenIds { ids: ids.to_vec() })),
        sampling: Some(SamplingParams { temperature: Some(0.0), seed: Some(1), ..Default::default() }),
        stopping: Some(StoppingOptions { max_tokens: Some(max_tokens), ignore_eos: true, ..Default::default() }),
        ..Default::default()
    }
}

/// The same with a name.
pub fn named(id: &str, ids: &[TokenId], max_tokens: u32) -> GenerateRequest {
    GenerateRequest { request_id: id.into(), ..request(ids, max_tokens) }
}

/// The ids that greedy decoding must give, by the fake model's rule alone.
pub fn greedy_ids(prompt: &[TokenId], count: usize) -> Vec<TokenId> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let logits = FakeModel::logits_after(tokens.iter().copied(), tokenizer().vocab_size());
        let best = (0..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best });
        tokens.push(best as TokenId);
    }
    tokens.split_off(prompt.len())
}

/// The text of generated ids.
pub fn text_of(ids: &[TokenId]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer().token_bytes(id).to_vec()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
