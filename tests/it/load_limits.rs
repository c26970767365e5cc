//! The load tester against targets that fall silent, send without end, or say what a terminal should not be told
//! (`specs/load-tester.md`).

use crate::support;
use crate::support::client::{Options, TestServer, eventually};
use crate::support::http::{Answer, End, HttpServer, models};
use llorch_cpud::load::arrivals::Arrivals;
use llorch_cpud::load::error::LoadError;
use llorch_cpud::load::limits::Patience;
use llorch_cpud::load::record::{Outcome, Record};
use llorch_cpud::load::report_text;
use llorch_cpud::load::run::{Load, Progress, run};
use llorch_cpud::load::summary::{Setup, Slo, Summary};
use llorch_cpud::load::target::Target;
use llorch_cpud::load::workload::{Length, Workload};
use llorch_cpud::server::proto::generate_response::Event;
use llorch_cpud::server::proto::inference_server::{Inference, InferenceServer};
use llorch_cpud::server::proto::{CompleteResponse, Delta, GenerateRequest, GenerateResponse, Token};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const SHORT: Duration = Duration::from_millis(50);
/// Never reached where the client does as it should.
const LONG: Duration = Duration::from_secs(3600);
/// Where it does not, a test fails and does not hang.
const GUARD: Duration = Duration::from_secs(60);

fn workload(requests: usize) -> Workload {
    support::load::workload(requests, Length { min: 5, max: 5 })
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Takes connections, reads all that comes and says nothing.
async fn silent() -> (SocketAddr, JoinHandle<()>) {
    let (listener, address) = listen().await;
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move { while stream.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {} });
        }
    });
    (address, task)
}

/// Runs `workload` in a closed loop of three, over 1000 token ids.
async fn drive(url: &str, patience: Patience, workload: &Workload) -> Vec<Record> {
    let target = Target::connect_with(url, 1, false, "", patience).await.expect("it listens");
    let (target, plan) = (Arc::new(target), Arc::new(workload.plan(1000)));
    let progress: Progress = Arc::new(|_| {});
    let run = run(&target, &plan, Load::Closed { concurrency: 3 }, 1, &progress);
    tokio::time::timeout(GUARD, run).await.expect("the run ends")
}

fn label(record: &Record) -> &str {
    match &record.outcome {
        Outcome::Failed(label) => label,
        Outcome::Completed => "completed",
        Outcome::Cancelled => "cancelled",
    }
}

fn labels(records: &[Record]) -> Vec<&str> {
    records.iter().map(label).collect()
}

/// LOAD-9: a target that takes connections and says nothing ends the command, in every interface.
#[tokio::test]
async fn a_silent_target_cannot_be_reached() {
    covers!("LOAD-9");
    let (address, _task) = silent().await;
    let patience = Patience { answer: SHORT, keep_alive: LONG, idle: LONG };
    for scheme in ["http", "http+openai", "http+llama"] {
        let url = format!("{scheme}://{address}");
        let open = async { Target::connect_with(&url, 2, false, "", patience).await?.info().await };
        let error = tokio::time::timeout(GUARD, open).await.expect("it gives up").expect_err("nothing is known");
        let line = error.to_string();
        assert!(matches!(error, LoadError::Unreachable { .. }), "{line}");
        assert!(line.contains(&url) && line.ends_with("no answer within 0.05 s"), "{line}");
    }
    assert_eq!(Patience::default().answer, Duration::from_secs(5));
}

/// A gRPC connection that was lost without a word: nobody answers the pings.
#[tokio::test]
async fn a_connection_without_a_sign_of_life_is_lost() {
    let (address, _task) = silent().await;
    let patience = Patience { answer: LONG, keep_alive: SHORT, idle: LONG };
    let records = drive(&format!("http://{address}"), patience, &workload(4)).await;
    assert_eq!(labels(&records), ["UNAVAILABLE"; 4], "{records:?}");
}

/// LOAD-4: a deadline that passes before the server says anything is a deadline, not a cancellation.
#[tokio::test]
async fn a_deadline_passes_in_front_of_a_silent_server() {
    covers!("LOAD-4");
    let (address, _task) = silent().await;
    let patience = Patience { answer: LONG, keep_alive: LONG, idle: LONG };
    let workload = Workload { deadline_ms: Some(30), ..workload(4) };
    let records = drive(&format!("http://{address}"), patience, &workload).await;
    assert_eq!(labels(&records), ["DEADLINE_EXCEEDED/CLIENT"; 4], "{records:?}");
}

/// The events of `count` tokens, in either interface. The server's own count stands still where `counted` is false.
fn tokens(body: &Value, count: u32, counted: bool) -> Vec<String> {
    let llama = body["n_predict"].is_u64();
    let token = |i| match llama {
        true => {
            json!({"content": "a", "tokens": [7], "stop": false, "tokens_predicted": if counted { i + 1 } else { 1 }})
        }
        false => json!({"choices": [{"index": 0, "text": "a", "finish_reason": null}]}),
    };
    (0..count).map(|i| token(i).to_string()).collect()
}

/// LOAD-12: an HTTP server that falls silent in the middle of an answer.
#[tokio::test]
async fn an_idle_answer_fails() {
    covers!("LOAD-12");
    let answer = |_, body: &Value| Answer::events(&tokens(body, 2, true)).ending(End::Hold);
    let server = HttpServer::start(models(1000), answer).await;
    let patience = Patience { answer: GUARD, keep_alive: LONG, idle: 4 * SHORT };
    for scheme in ["http+openai", "http+llama"] {
        let records = drive(&format!("{scheme}://{}", server.address), patience, &workload(4)).await;
        assert_eq!(labels(&records), ["HTTP IDLE"; 4], "{records:?}");
        assert!(records.iter().all(|record| record.message == "no answer within 0.2 s"), "{records:?}");
        // On a busy machine one may have been given up before its first piece came.
        assert!(records.iter().any(|record| record.shown_tokens() == 2), "{records:?}");
    }
    eventually("connections are closed", || server.abandoned() > 0).await;
}

/// LOAD-12: an HTTP server that does not end: by tokens, by a count that is none, and by bytes alone.
#[tokio::test]
async fn an_answer_without_end_is_ended() {
    covers!("LOAD-12");
    let answer = |number: usize, body: &Value| match number % 3 {
        0 => Answer::events(&tokens(body, 300, true)).ending(End::Hold),
        1 => Answer::events(&tokens(body, 300, true)[299..]).ending(End::Hold),
        // Comments, which no event comes of.
        _ => {
            let pieces = vec![[b":".repeat(1 << 20), b"\n".to_vec()].concat(); 66];
            Answer { status: 200, pieces, end: End::Hold }
        }
    };
    let server = HttpServer::start(models(1000), answer).await;
    let patience = Patience { answer: GUARD, keep_alive: LONG, idle: LONG };
    let url = format!("http+llama://{}", server.address);
    let records = drive(&url, patience, &workload(3)).await;
    assert_eq!(labels(&records), ["TOO_LONG"; 3], "{records:?}");
    let mut shown: Vec<u64> = records.iter().map(Record::shown_tokens).collect();
    shown.sort_unstable();
    assert_eq!(shown, [0, 0, 2 * 5 + 256]);
    let bytes = |record: &&Record| record.message.contains("bytes");
    assert_eq!(records.iter().filter(bytes).count(), 1, "{records:?}");
}

/// A gRPC server that sends one delta for ever.
struct Endless(Delta);

type Deltas = Pin<Box<dyn Stream<Item = Result<GenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Inference for Endless {
    type GenerateStream = Deltas;

    async fn generate(&self, _: Request<GenerateRequest>) -> Result<Response<Deltas>, Status> {
        let message = GenerateResponse { event: Some(Event::Delta(self.0.clone())) };
        Ok(Response::new(Box::pin(tokio_stream::iter(std::iter::repeat_with(move || Ok(message.clone()))))))
    }

    async fn complete(&self, _: Request<GenerateRequest>) -> Result<Response<CompleteResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

/// The same over gRPC: tokens without end, and text without end that no token is named for.
#[tokio::test]
async fn a_stream_without_end_is_ended() {
    let token = Token { id: 7, ..Token::default() };
    let tokens = Delta { text: "a".into(), tokens: vec![token], ..Delta::default() };
    let text = Delta { text: "a".repeat(1 << 20), ..Delta::default() };
    let patience = Patience { answer: GUARD, keep_alive: LONG, idle: LONG };
    for (delta, shown, excess) in [(tokens, 2 * 5 + 256, "tokens asked"), (text, 0, "bytes")] {
        let (listener, address) = listen().await;
        let server = tonic::transport::Server::builder().add_service(InferenceServer::new(Endless(delta)));
        let task = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let records = drive(&format!("http://{address}"), patience, &workload(2)).await;
        assert_eq!(labels(&records), ["TOO_LONG"; 2]);
        let good = |record: &Record| record.shown_tokens() == shown && record.message.contains(excess);
        assert!(records.iter().all(good), "{:?}", records[0].message);
        task.abort();
    }
}

/// What a target says reaches a terminal without escape sequences, and comes back to the target as it was.
#[tokio::test]
async fn words_of_a_target_are_harmless() {
    let evil = "\u{1b}]0;x\u{7}\u{202e}";
    let listed = json!({"data": [{"id": evil, "meta": {"n_vocab": 1000}, "owned_by": evil}]});
    let answer = |number: usize, _: &Value| {
        let evil = "\u{1b}]0;x\u{7}\u{202e}";
        match number {
            0 => Answer::events(&[json!({"error": {"code": evil, "message": evil}}).to_string()]),
            _ => Answer { status: 500, pieces: vec![evil.as_bytes().to_vec()], end: End::Whole },
        }
    };
    let server = HttpServer::start(listed, answer).await;
    let url = format!("http+openai://{}", server.address);
    let target = Arc::new(Target::connect(&url, 1, false, "").await.expect("it listens"));
    let info = target.info().await.expect("a model");
    let (load, workload) = (Load::Closed { concurrency: 1 }, workload(2));
    let told = Arc::new(std::sync::Mutex::new(String::new()));
    let heard = Arc::clone(&told);
    let progress: Progress = Arc::new(move |record| {
        heard.lock().expect("not poisoned").push_str(&format!("{:?} {}", record.outcome, record.message));
    });
    let plan = Arc::new(workload.plan(1000));
    let records = run(&target, &plan, load, 1, &progress).await;
    let setup = Setup { target: url, info, load, workload, slo: Slo::default() };
    let summary = Summary::of(&setup, &records, None);
    let text = report_text::report(&setup, &summary);
    let hidden = |c: char| c == '\u{202e}' || (c.is_control() && c != '\n');
    assert!(!text.contains(hidden) && text.matches("]0;x").count() == 5, "{text:?}");
    let told = told.lock().expect("not poisoned").clone();
    assert!(!told.contains(hidden) && told.contains("ERROR_EVENT/\u{fffd}]0;x"), "{told:?}");
    assert!(server.requests().iter().all(|(_, body)| body["model"] == evil));
}

/// A rate so low that the second request is due beyond all time: the first is sent, and the run goes on waiting.
#[tokio::test]
async fn a_rate_of_next_to_nothing_waits() {
    let server = TestServer::start(Options::default()).await;
    let url = format!("http://{}", server.address);
    let target = Arc::new(Target::connect(&url, 1, false, "").await.expect("it listens"));
    let vocab_size = target.info().await.expect("a model").vocab_size.expect("told");
    let plan = Arc::new(workload(2).plan(vocab_size));
    for arrivals in [Arrivals::Constant, Arrivals::Gamma { burstiness: 1.0 }] {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let progress: Progress = Arc::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        tokio::select! {
            records = run(&target, &plan, Load::Open { rate: 1e-300, arrivals }, 1, &progress) => {
                panic!("the second was sent: {records:?}");
            }
            () = eventually("the first is sent", || count.load(Ordering::Relaxed) == 1) => {}
        }
    }
}
