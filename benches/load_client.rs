//! The load tester's own cost: messages with tokens that its client reads a second on one core, as it does in
//! `bench serve` (one thread), from servers on another thread that send canned streams as fast as they can.
//!
//! `cargo bench --bench load_client`. In a second run each server waits a moment after each event, so that the client
//! wakes for few events at a time, as it does behind a real server; the figure of the clock then means nothing. The
//! first figure is per second of the client thread's CPU time (Linux), which does not count waiting for the server;
//! the second is per second of the clock.

use llorch_cpud::load::run::{Load, Progress, run};
use llorch_cpud::load::target::Target;
use llorch_cpud::load::workload::{Length, SamplingMix, Workload};
use llorch_cpud::server::proto::generate_response::Event;
use llorch_cpud::server::proto::inference_server::{Inference, InferenceServer};
use llorch_cpud::server::proto::{CompleteResponse, Delta, Finished, GenerateRequest, GenerateResponse, Token, Usage};
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

const TOKENS: u32 = 256;
const REQUESTS: usize = 512;
const CONCURRENCY: usize = 64;

/// Between two events of a stream. The timer's grain is a millisecond, so this is one to two.
const PAUSE: Duration = Duration::from_millis(1);

/// Answers every request with the same deltas, one token each.
struct NullInference {
    paced: bool,
}

type Deltas = Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Inference for NullInference {
    type GenerateStream = Deltas;

    async fn generate(&self, _: Request<GenerateRequest>) -> Result<Response<Deltas>, Status> {
        let token = |id| Token { id, bytes: b" word".to_vec(), ..Default::default() };
        let delta = |id| Event::Delta(Delta { text: " word".into(), tokens: vec![token(id)], ..Default::default() });
        let usage = Usage { completion_tokens: TOKENS, ..Default::default() };
        let end = Event::Finished(Finished { usage: Some(usage), ..Default::default() });
        let events = (0..TOKENS).map(delta).chain([end]);
        let messages: Vec<_> = events.map(|event| Ok(GenerateResponse { event: Some(event) })).collect();
        let stream = tokio_stream::iter(messages);
        if !self.paced {
            return Ok(Response::new(Box::pin(stream)));
        }
        Ok(Response::new(Box::pin(stream.then(async |message| {
            tokio::time::sleep(PAUSE).await;
            message
        }))))
    }

    async fn complete(&self, _: Request<GenerateRequest>) -> Result<Response<CompleteResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

async fn grpc_server(started: Sender<SocketAddr>, paced: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    started.send(listener.local_addr().expect("bound")).expect("awaited");
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(InferenceServer::new(NullInference { paced }));
    server.serve_with_incoming(incoming).await.expect("served");
}

/// Answers over HTTP as llama-server (`llama`) or as an OpenAI-compatible server; each event is a chunk.
async fn http_server(started: Sender<SocketAddr>, paced: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    started.send(listener.local_addr().expect("bound")).expect("awaited");
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("a TCP stream");
        tokio::spawn(converse(stream, paced));
    }
}

async fn converse(stream: TcpStream, paced: bool) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
        if stream.read_line(&mut first).await? == 0 {
            return Ok(());
        }
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await?;
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        stream.read_exact(&mut vec![0; length]).await?;
        let events = if first.starts_with("POST /completion ") {
            llama_events()
        } else if first.starts_with("POST ") {
            openai_events()
        } else {
            vec!["{\"data\":[{\"id\":\"m\",\"meta\":{\"n_vocab\":1000}}]}".to_owned()]
        };
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        for event in events {
            stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
            stream.flush().await?;
            if paced {
                tokio::time::sleep(PAUSE).await;
            }
        }
        stream.write_all(b"0\r\n\r\n").await?;
        stream.flush().await?;
    }
}

fn llama_events() -> Vec<String> {
    let event = |n: u32, content: &str, ids: &str, stop| {
        format!(
            "data: {{\"index\":0,\"content\":\"{content}\",\"tokens\":[{ids}],\"stop\":{stop},\"id_slot\":-1,\
             \"tokens_predicted\":{n},\"tokens_evaluated\":32}}\n\n"
        )
    };
    (1..=TOKENS).map(|n| event(n, " word", "417", false)).chain([event(TOKENS, "", "", true)]).collect()
}

fn openai_events() -> Vec<String> {
    let event = |text: &str, reason: &str| {
        format!(
            "data: {{\"choices\":[{{\"text\":\"{text}\",\"index\":0,\"logprobs\":null,\"finish_reason\":{reason}}}],\
             \"created\":1795523697,\"model\":\"m\",\"object\":\"text_completion\",\"id\":\"cmpl-0123456789\"}}\n\n"
        )
    };
    let ends = [event("", "\"length\""), "data: [DONE]\n\n".to_owned()];
    (0..TOKENS).map(|_| event(" word", "null")).chain(ends).collect()
}

/// Runs a server on a thread of its own.
fn spawn<F: Future<Output = ()> + 'static>(server: fn(Sender<SocketAddr>, bool) -> F, paced: bool) -> SocketAddr {
    let (started, address) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(server(started, paced));
    });
    address.recv().expect("the server starts")
}

/// Seconds that this thread has run, where the system tells.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

async fn measure(url: &str) -> String {
    let target = Arc::new(Target::connect(url, 1, false, "").await.expect("the server listens"));
    let workload = Workload {
        requests: REQUESTS,
        prompt_tokens: Length { min: 32, max: 32 },
        gen_tokens: Length { min: TOKENS, max: TOKENS },
        shared_prefix_tokens: 0,
        sampling: SamplingMix::Greedy,
        cancel_percent: 0.0,
        deadline_percent: 0.0,
        deadline_ms: None,
        seed: 1,
    };
    let plan = Arc::new(workload.plan(1000));
    let silent: Progress = Arc::new(|_| {});
    let (cpu, clock) = (cpu_seconds(), Instant::now());
    let records = run(&target, &plan, Load::Closed { concurrency: CONCURRENCY }, 1, &silent).await;
    let clock = clock.elapsed().as_secs_f64();
    let cpu = cpu_seconds().zip(cpu).map(|(end, start)| end - start);
    assert!(records.iter().all(|record| record.completed()), "{:?}", records.iter().find(|r| !r.completed()));
    let events: usize = records.iter().map(|record| record.chunks.len()).sum();
    assert_eq!(events, REQUESTS * TOKENS as usize);
    let of_core = cpu.map_or("?".to_owned(), |cpu| format!("{:.0}", events as f64 / cpu));
    format!("{of_core:>14}{:>14.0}", events as f64 / clock)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut out = std::io::stdout().lock();
    let mut print = |line: String| writeln!(out, "{line}").expect("stdout");
    print(format!("{:<22}{:>14}{:>14}", "events a second", "of one core", "of the clock"));
    for paced in [false, true] {
        let (grpc, http) = (spawn(grpc_server, paced), spawn(http_server, paced));
        for (scheme, address) in [("http", grpc), ("http+openai", http), ("http+llama", http)] {
            let line = runtime.block_on(measure(&format!("{scheme}://{address}")));
            let name = if paced { format!("{scheme}, paced") } else { scheme.to_owned() };
            print(format!("{name:<22}{line}"));
        }
    }
}
