//! An HTTP/1.1 server of completions that does as it is told, on a free port.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How an answer to a completion ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As HTTP wants it; the connection stays.
    Whole,
    /// The connection is closed in the middle.
    Cut,
    /// Nothing more comes until the client closes the connection.
    Hold,
}

/// An answer: each piece is an HTTP chunk of its own.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub pieces: Vec<Vec<u8>>,
    pub end: End,
}

impl Answer {
    /// `events` as server-sent events, in one piece.
    pub fn events(events: &[String]) -> Self {
        let text: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        Self { status: 200, pieces: vec![text.into_bytes()], end: End::Whole }
    }

    pub fn status(status: u16) -> Self {
        Self { status, pieces: vec![b"{\"error\":{\"message\":\"no\"}}".to_vec()], end: End::Whole }
    }

    /// The same bytes in pieces of `size`.
    pub fn cut_into(self, size: usize) -> Self {
        let bytes = self.pieces.concat();
        Self { pieces: bytes.chunks(size).map(<[u8]>::to_vec).collect(), ..self }
    }

    pub fn ending(self, end: End) -> Self {
        Self { end, ..self }
    }
}

type Handler = Arc<dyn Fn(usize, &Value) -> Answer + Send + Sync>;

struct Shared {
    /// The answer of `GET /v1/models`; null is 503.
    models: Value,
    handler: Handler,
    requests: Mutex<Vec<(String, Value)>>,
    /// Connections that clients closed while an answer was held.
    abandoned: AtomicUsize,
}

/// A running server; it ends with the test.
pub struct HttpServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What llama-server says of a model with `n_vocab` token ids.
pub fn models(n_vocab: u32) -> Value {
    json!({"data": [{"id": "m", "meta": {"n_vocab": n_vocab}}]})
}

impl HttpServer {
    /// `handler` gets the number of the completion, from 0, and its body.
    pub async fn start(models: Value, handler: impl Fn(usize, &Value) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (requests, abandoned) = (Mutex::default(), AtomicUsize::default());
        let shared = Arc::new(Shared { models, handler: Arc::new(handler), requests, abandoned });
        let accepting = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&accepting)));
            }
        });
        Self { address, shared, task }
    }

    /// Paths and bodies of the completions asked for, in the order they came.
    pub fn requests(&self) -> Vec<(String, Value)> {
        self.shared.requests.lock().expect("not poisoned").clone()
    }

    pub fn abandoned(&self) -> usize {
        self.shared.abandoned.load(Ordering::SeqCst)
    }
}

/// Answers the requests of a connection until it ends.
async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let mut stream = BufReader::new(stream);
    while let Some((line, body)) = read_request(&mut stream).await {
        let (method, rest) = line.split_once(' ').expect("a request line");
        let path = rest.split(' ').next().expect("a path").to_owned();
        let answer = if method == "POST" {
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            let mut requests = shared.requests.lock().expect("not poisoned");
            let answer = (shared.handler)(requests.len(), &body);
            requests.push((path, body));
            answer
        } else if path == "/v1/models" && !shared.models.is_null() {
            Answer { status: 200, pieces: vec![shared.models.to_string().into_bytes()], end: End::Whole }
        } else {
            Answer::status(if path == "/v1/models" { 503 } else { 404 })
        };
        if write_answer(&mut stream, &answer).await.is_none() || answer.end == End::Cut {
            return;
        }
        if answer.end == End::Hold {
            // The client sends nothing more: this ends when it closes.
            let _ = stream.read(&mut [0]).await;
            shared.abandoned.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
}

/// The first line and the body. None at the end of the connection.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let (mut first, mut length) = (String::new(), 0);
    if stream.read_line(&mut first).await.ok()? == 0 {
        return None;
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, body))
}

async fn write_answer(stream: &mut BufReader<TcpStream>, answer: &Answer) -> Option<()> {
    let head = format!("HTTP/1.1 {} X\r\ntransfer-encoding: chunked\r\n\r\n", answer.status);
    stream.write_all(head.as_bytes()).await.ok()?;
    for piece in &answer.pieces {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        stream.write_all(&chunk).await.ok()?;
    }
    if answer.end == End::Whole {
        stream.write_all(b"0\r\n\r\n").await.ok()?;
    }
    stream.flush().await.ok()
}
