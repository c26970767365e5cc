//! `serve`: the gRPC server, its metrics port and the signals.

use super::byte_size::ByteSize;
use super::duration;
use super::error::CliError;
use super::model_args::{self, EngineLimits, LoadedEngine, ModelArgs};
use super::tenant_weight::{self, TenantWeight};
use crate::engine::Engine;
use crate::engine::actor;
use crate::engine::handle::QueueLimits;
use crate::kernels::Isa;
use crate::metrics::Metrics;
use crate::model::decoder::Decoder;
use crate::server::info::ServerInfo;
use crate::server::limits::ServerLimits;
use crate::server::state::ServerState;
use crate::server::{self, Shutdown};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Threads for connections and text. The model's threads are the worker pool's.
const IO_THREADS: usize = 2;

#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Address of the gRPC port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// Address of the HTTP port with /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    metrics_listen: SocketAddr,
    /// Most sequences that run at once.
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_num_seqs: u32,
    /// Most tokens computed in one step.
    #[arg(long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_num_batched_tokens: u32,
    /// Most sequences that wait; more are refused.
    #[arg(long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    max_queued: u32,
    /// Most prompt tokens that wait.
    #[arg(long, value_name = "N", default_value_t = 262_144)]
    max_queued_tokens: u64,
    /// Most sequences of one tenant that wait [default: half of --max-queued]. Requests without a tenant are bounded by
    /// --max-queued alone.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_queued_per_tenant: Option<u32>,
    /// Most prompt tokens of one tenant that wait [default: half of --max-queued-tokens].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_queued_tokens_per_tenant: Option<u64>,
    /// Most KV memory that the requests in flight may come to need at their limits, in multiples of the KV cache. A
    /// tenant may have half of it.
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_claimed_kv: u32,
    /// Largest request message, such as 4MiB.
    #[arg(long, value_name = "SIZE", default_value = "4MiB")]
    max_message_size: ByteSize,
    /// Most connections.
    #[arg(long, value_name = "N", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
    /// Most streams of one connection.
    #[arg(long, value_name = "N", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_concurrent_streams: u32,
    /// How long running requests may take to finish after SIGTERM or Ctrl-C, such as 30s or 500ms.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse)]
    drain_timeout: Duration,
    /// An engine that completes no step for so long, though there is work, makes health NOT_SERVING.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    stall_timeout: Duration,
    /// Milliseconds from token to token to aim at while long prompts come in: they are computed in pieces that leave
    /// so much time [default: twice a step without prompts, at least 50; while many wait up to six times that, 2000 at
    /// most].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    target_itl: Option<u64>,
    /// The share of a tenant among those that wait, 0.01 to 100; all others have 1. May be given again, or with commas.
    #[arg(long, value_name = "NAME=W", value_delimiter = ',')]
    tenant_weight: Vec<TenantWeight>,
}

/// Runs the command.
pub fn run(args: ServeArgs) -> Result<(), CliError> {
    let weights = tenant_weight::distinct(args.tenant_weight.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .max_blocking_threads(16)
        .thread_name("llorch-io")
        .enable_all()
        .build()
        .map_err(|e| CliError::Internal(format!("no runtime: {e}")))?;
    let result = runtime.block_on(serve(args, weights));
    // A model that is still being loaded must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn serve(args: ServeArgs, weights: Vec<(Arc<str>, f64)>) -> Result<(), CliError> {
    let isa: Isa = args.model.isa.parse().map_err(|e: crate::kernels::IsaError| CliError::Config(e.to_string()))?;
    let info = ServerInfo { isa: isa.name().into(), threads: args.model.num_threads() };
    let limits = server_limits(&args)?;
    let metrics = Arc::new(Metrics::new().map_err(|e| CliError::Internal(e.to_string()))?);
    let state = ServerState::new(info, limits, metrics);
    let listener = bind("--listen", args.listen).await?;
    let metrics_listener = bind("--metrics-listen", args.metrics_listen).await?;
    let (shutdown, receiver) = watch::channel(Shutdown::No);
    tokio::spawn(forward_signals(shutdown.clone())?);
    tokio::spawn(server::serve_metrics(metrics_listener, Arc::clone(&state)));
    let mut server = tokio::spawn(server::run(listener, Arc::clone(&state), receiver));
    let loading = tokio::spawn(load(args, weights, Arc::clone(&state)));
    tokio::select! {
        // Only a signal ends the server while the model is loaded or runs.
        ended = &mut server => server_result(ended),
        failed = loading => {
            let _ = shutdown.send(Shutdown::Now);
            let _ = server.await;
            failed.unwrap_or_else(|e| Err(CliError::Internal(e.to_string())))
        }
    }
}

fn server_result(ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> Result<(), CliError> {
    match ended {
        Ok(Ok(())) => {
            tracing::info!("stopped");
            Ok(())
        }
        Ok(Err(error)) => Err(CliError::Io(error.to_string())),
        Err(error) => Err(CliError::Internal(error.to_string())),
    }
}

fn server_limits(args: &ServeArgs) -> Result<ServerLimits, CliError> {
    let max_message_bytes = usize::try_from(args.max_message_size.0).ok().filter(|bytes| (1..=1 << 30).contains(bytes));
    let max_message_bytes = max_message_bytes
        .ok_or_else(|| CliError::Config(format!("--max-message-size {}: must be 1B to 1GiB", args.max_message_size)))?;
    Ok(ServerLimits {
        max_message_bytes,
        max_connections: args.max_connections,
        max_concurrent_streams: args.max_concurrent_streams,
        drain_timeout: args.drain_timeout,
        stall_timeout: args.stall_timeout,
        ..ServerLimits::default()
    })
}

fn queue_limits(args: &ServeArgs) -> QueueLimits {
    let limits = QueueLimits::new(args.max_queued, args.max_queued_tokens);
    QueueLimits {
        max_queued_per_tenant: args.max_queued_per_tenant.unwrap_or(limits.max_queued_per_tenant),
        max_queued_tokens_per_tenant: args.max_queued_tokens_per_tenant.unwrap_or(limits.max_queued_tokens_per_tenant),
        max_claimed_pools: args.max_claimed_kv,
        ..limits
    }
}

async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, CliError> {
    let listener = TcpListener::bind(address).await.map_err(|e| CliError::Io(format!("{flag} {address}: {e}")))?;
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!("{flag} {address}");
    if !address.ip().is_loopback() {
        tracing::warn!("{flag} {address}: reachable from other machines, without authentication or encryption");
    }
    Ok(listener)
}

/// Loads the model, serves it, and returns when that has failed for good.
async fn load(args: ServeArgs, weights: Vec<(Arc<str>, f64)>, state: Arc<ServerState>) -> Result<(), CliError> {
    let engine_limits = EngineLimits {
        max_num_seqs: args.max_num_seqs,
        max_num_batched_tokens: args.max_num_batched_tokens,
        default_max_model_len: None,
    };
    let queue = queue_limits(&args);
    let target_itl = args.target_itl.map(Duration::from_millis);
    let internal = |e: &dyn std::fmt::Display| CliError::Internal(e.to_string());
    let loaded = tokio::task::spawn_blocking(move || model_args::load(&args.model, engine_limits));
    let LoadedEngine { mut engine, tokenizer, info: model, .. } = loaded.await.map_err(|e| internal(&e))??;
    engine.set_tenant_weights(&weights);
    let (engine, metrics) = (with_test_fault(engine), Arc::clone(&state.metrics));
    let (handle, thread) = actor::spawn(engine, queue, target_itl, metrics).map_err(|e| internal(&e))?;
    let facts = handle.facts();
    tracing::info!(name = model.name, architecture = model.architecture, file_type = model.file_type, "model");
    tracing::info!(engine = ?facts, queue = ?queue, tenant_weights = ?weights, server = ?state.limits, "limits");
    state.set_model(handle, tokenizer, model);
    tracing::info!("serving");
    let ended = tokio::task::spawn_blocking(move || thread.join()).await.map_err(|e| internal(&e))?;
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(gone)) => Err(internal(&gone)),
        Err(_) => Err(CliError::Internal("the engine's thread panicked".into())),
    }
}

/// In debug builds `LLORCH_TEST_FAULT_TOKEN` names a token that makes a step panic: tests see what follows.
#[cfg(debug_assertions)]
fn with_test_fault(mut engine: Engine<Decoder>) -> Engine<Decoder> {
    if let Some(token) = std::env::var("LLORCH_TEST_FAULT_TOKEN").ok().and_then(|token| token.parse().ok()) {
        engine.panic_on(token);
    }
    engine
}

#[cfg(not(debug_assertions))]
fn with_test_fault(engine: Engine<Decoder>) -> Engine<Decoder> {
    engine
}

/// The first SIGINT or SIGTERM drains, the second ends.
fn forward_signals(shutdown: watch::Sender<Shutdown>) -> Result<impl Future<Output = ()>, CliError> {
    let no_signals = |e| CliError::Internal(format!("cannot watch for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    Ok(async move {
        for order in [Shutdown::Drain, Shutdown::Now] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            tracing::info!(?order, "signal");
            let _ = shutdown.send(order);
        }
    })
}
