//! The transport: accepts connections, serves HTTP/2 with every limit set, and drains.
//!
//! tonic's own transport is not used: it answers a passed deadline with CANCELLED, sets no limit on streams unless told
//! otherwise, and cannot bound the time that a shutdown takes.

use super::answer::Outgoing;
use super::control::ControlService;
use super::inference::InferenceService;
use super::limits::ServerLimits;
use super::observe::Observe;
use super::proto;
use super::proto::control_server::ControlServer;
use super::proto::inference_server::InferenceServer;
use super::proto::tokenizer_server::TokenizerServer;
use super::state::{Phase, ServerState};
use super::tokenizer::TokenizerService;
use super::watchdog;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io::{self, Cursor};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::io::InspectWriter;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// What is asked of a running server. Only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    No,
    /// Finish what is running, take nothing new.
    Drain,
    /// End everything.
    Now,
}

/// How long requests may take to notice that they are ended, and connections to close, before they are dropped.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes for each connection that clients read within that time at least, if they read at all. What the protocol itself
/// sends is less.
const LEAST_SENT: u64 = 256;
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Length of what every HTTP/2 client sends first.
const PREFACE_BYTES: usize = 24;
const INFERENCE: &str = "llorch.v1.Inference";

/// Serves `state` on `listener` until `shutdown` says otherwise; then drains for up to the limit's `drain_timeout`. A
/// sender that is dropped means [`Shutdown::Now`].
pub async fn run(
    listener: TcpListener,
    state: Arc<ServerState>,
    mut shutdown: watch::Receiver<Shutdown>,
) -> io::Result<()> {
    let health = HealthReporter::new();
    let routes = routes(&state, health.clone())?;
    let (closing, closed) = watch::channel(false);
    let mut side = JoinSet::new();
    side.spawn(report_health(Arc::clone(&state), health));
    side.spawn(upkeep(Arc::clone(&state)));
    side.spawn(watchdog::watch(Arc::clone(&state)));
    let service = Observe::new(routes, Arc::clone(&state));
    let sent = Arc::new(AtomicU64::new(0));
    let acceptor = Acceptor { service, state: Arc::clone(&state), sent: Arc::clone(&sent), closed };
    let mut connections = JoinSet::new();
    let give_up = tokio::select! {
        () = acceptor.accept(&listener, &mut connections) => Instant::now(),
        give_up = drain(&state, &mut shutdown) => give_up,
    };
    drop(listener);
    state.advance(Phase::Stopped);
    let _ = closing.send(true);
    if !close(&mut connections, &sent, give_up, &mut shutdown).await {
        tracing::warn!("clients did not close their connections in time; they are dropped");
    }
    Ok(())
}

/// Waits for the connections to close: a moment, and as long as clients read what is theirs until `give_up` or the
/// second order. False where some did not close.
async fn close(
    connections: &mut JoinSet<()>,
    sent: &AtomicU64,
    give_up: Instant,
    shutdown: &mut watch::Receiver<Shutdown>,
) -> bool {
    loop {
        let (before, open) = (sent.load(Ordering::Relaxed), connections.len() as u64);
        let all_closed = async { while connections.join_next().await.is_some() {} };
        if timeout(GRACE, all_closed).await.is_ok() {
            return true;
        }
        let is_read = sent.load(Ordering::Relaxed) - before >= LEAST_SENT * open;
        if !is_read || Instant::now() >= give_up || *shutdown.borrow() >= Shutdown::Now {
            return false;
        }
    }
}

fn routes(state: &Arc<ServerState>, health: HealthReporter) -> io::Result<Routes> {
    let max = state.limits.max_message_bytes;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health),
    );
    Ok(Routes::new(InferenceServer::new(InferenceService(Arc::clone(state))).max_decoding_message_size(max))
        .add_service(TokenizerServer::new(TokenizerService(Arc::clone(state))).max_decoding_message_size(max))
        .add_service(ControlServer::new(ControlService(Arc::clone(state))).max_decoding_message_size(max))
        .add_service(health)
        .add_service(reflection().build_v1().map_err(io::Error::other)?)
        // What clients older than the first version of the protocol ask, grpcio's among them.
        .add_service(reflection().build_v1alpha().map_err(io::Error::other)?)
        .prepare())
}

/// Tells health whether the server serves: its phase says so, and its engine has not stalled.
async fn report_health(state: Arc<ServerState>, health: HealthReporter) {
    let (mut phase, mut stalled) = (state.phase.subscribe(), state.stalled.subscribe());
    loop {
        let serving = *phase.borrow_and_update() == Phase::Serving && !*stalled.borrow_and_update();
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status("", status).await;
        health.set_service_status(INFERENCE, status).await;
        let changed = tokio::select! {
            changed = phase.changed() => changed,
            changed = stalled.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn upkeep(state: Arc<ServerState>) {
    loop {
        sleep(UPKEEP_INTERVAL).await;
        state.metrics.upkeep();
    }
}

/// Waits for the order to stop, then for the requests to end: by themselves, or by force after the timeout or the
/// second order. New connections and requests are still answered meanwhile: with UNAVAILABLE. Returns until when
/// clients may read what was answered.
async fn drain(state: &ServerState, shutdown: &mut watch::Receiver<Shutdown>) -> Instant {
    let _ = shutdown.wait_for(|s| *s >= Shutdown::Drain).await;
    state.advance(Phase::Draining);
    if let Some(engine) = state.engine() {
        engine.drain();
    }
    let give_up = Instant::now() + state.limits.drain_timeout;
    let mut open = state.open_rpcs.subscribe();
    tracing::info!(open = *open.borrow(), timeout = ?state.limits.drain_timeout, "draining");
    let all_done = open.wait_for(|open| *open == 0);
    let drained = tokio::select! {
        done = timeout_at(give_up, all_done) => done.is_ok(),
        _ = shutdown.wait_for(|s| *s >= Shutdown::Now) => false,
    };
    if drained {
        return give_up;
    }
    tracing::warn!(open = *open.borrow(), "ending the requests that are still open");
    if let Some(engine) = state.engine() {
        engine.end_all();
    }
    let _ = timeout(GRACE, open.wait_for(|open| *open == 0)).await;
    Instant::now()
}

struct Acceptor {
    service: Observe,
    state: Arc<ServerState>,
    /// Bytes written to all connections.
    sent: Arc<AtomicU64>,
    closed: watch::Receiver<bool>,
}

impl Acceptor {
    /// Accepts for ever.
    async fn accept(&self, listener: &TcpListener, connections: &mut JoinSet<()>) {
        let places = Arc::new(Semaphore::new(self.state.limits.max_connections as usize));
        let mut pause = Duration::from_millis(50);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) if is_about_one_connection(&error) => continue,
                Err(error) => {
                    // No descriptors or no memory: trying at once again would burn a core.
                    tracing::warn!(%error, "cannot accept connections");
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                    continue;
                }
            };
            pause = Duration::from_millis(50);
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::debug!("too many connections; one is turned away");
                continue;
            };
            let connection = Connection {
                service: self.service.clone(),
                state: Arc::clone(&self.state),
                sent: Arc::clone(&self.sent),
                closed: self.closed.clone(),
            };
            let gauge = self.state.metrics.connections.clone();
            connections.spawn(async move {
                let _place = place;
                gauge.increment(1.0);
                if let Err(error) = connection.serve(stream).await {
                    tracing::debug!(%error, "connection ended");
                }
                gauge.decrement(1.0);
            });
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What a connection needs of the server.
struct Connection {
    service: Observe,
    state: Arc<ServerState>,
    /// Bytes written to all connections.
    sent: Arc<AtomicU64>,
    closed: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(mut self, mut stream: TcpStream) -> Ended {
        let limits = self.state.limits;
        stream.set_nodelay(true)?;
        // Read here because hyper waits for it without end.
        let mut preface = [0; PREFACE_BYTES];
        tokio::select! {
            read = timeout(limits.preface_timeout, stream.read_exact(&mut preface)) => read??,
            _ = self.closed.wait_for(|closed| *closed) => return Ok(()),
        };
        let (reader, writer) = stream.into_split();
        let (outgoing, sent) = (Arc::new(Outgoing::default()), self.sent);
        let count = move |bytes: &[u8]| {
            sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        };
        let writer = InspectWriter::new(writer, count);
        let stream = TokioIo::new(tokio::io::join(Cursor::new(preface).chain(reader), writer));
        let service = TowerToHyperService::new(self.service.on(Arc::clone(&outgoing)));
        let mut connection = std::pin::pin!(http2_builder(&limits).serve_connection(stream, service));
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = outgoing.stalls(limits.answer_timeout) => {
                self.state.metrics.slow_consumers.increment(1);
                return Err("its client does not read what was answered".into());
            }
            _ = self.closed.wait_for(|closed| *closed) => {}
        }
        connection.as_mut().graceful_shutdown();
        Ok(connection.await?)
    }
}

/// HTTP/2 with every limit set.
fn http2_builder(limits: &ServerLimits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_list_bytes)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_local_error_reset_streams(256)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_send_buf_size(limits.max_send_buffer_bytes)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}
