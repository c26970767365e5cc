//! `bench serve`: loads a running server and reports latencies and throughput (`specs/load-tester.md`).

use super::error::CliError;
use super::output;
use crate::load::arrivals::Arrivals;
use crate::load::error::LoadError;
use crate::load::run::{Load, Progress, run as run_load};
use crate::load::summary::{Setup, Slo, Summary};
use crate::load::target::{Target, TargetInfo};
use crate::load::transparency::{Transparency, verify};
use crate::load::workload::{Length, PlannedRequest, SamplingMix, Workload};
use crate::load::{record::Record, report_html, report_json, report_text};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("load").required(true).args(["concurrency", "rate"])))]
pub struct BenchServeArgs {
    /// The server: http://HOST:PORT is gRPC, http+openai://HOST:PORT an OpenAI-compatible server, such as vLLM,
    /// http+llama://HOST:PORT llama-server with its own interface.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    target: String,
    /// Closed loop: this many requests at any time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    concurrency: Option<u32>,
    /// Open loop: requests a second on average, whatever becomes of them.
    #[arg(long, value_name = "R", value_parser = positive)]
    rate: Option<f64>,
    /// Gaps of an open loop.
    #[arg(long, value_enum, default_value_t = ArrivalKind::Poisson)]
    arrivals: ArrivalKind,
    /// Shape of gamma-distributed gaps: 1 is Poisson, below 1 comes in bursts, above 1 is more regular.
    #[arg(long, value_name = "B", value_parser = positive)]
    burstiness: Option<f64>,
    /// Requests to send.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    requests: u32,
    /// Tokens of a prompt: N, or MIN-MAX for a uniform distribution.
    #[arg(long, value_name = "N", default_value = "128")]
    prompt_tokens: Length,
    /// Tokens to generate: N, or MIN-MAX for a uniform distribution.
    #[arg(long, value_name = "N", default_value = "64")]
    gen_tokens: Length,
    /// First tokens that all prompts share.
    #[arg(long, value_name = "N", default_value_t = 0)]
    shared_prefix_tokens: u32,
    /// Let prompts come from the prefix cache.
    #[arg(long)]
    prefix_cache: bool,
    /// Sampling parameters of the requests.
    #[arg(long, value_enum, default_value_t = SamplingKind::Greedy)]
    sampling: SamplingKind,
    /// Cancel this share of the requests after a random number of tokens.
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = percent)]
    cancel_percent: f64,
    /// Deadline of a request.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    deadline_ms: Option<u64>,
    /// Share of the requests that have the deadline.
    #[arg(long, value_name = "P", default_value_t = 100.0, value_parser = percent, requires = "deadline_ms")]
    deadline_percent: f64,
    /// Requests before the run that do not count, in a closed loop of at most 8.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    warm_up: u32,
    /// Draw token ids below this number [default: the vocabulary size that the server tells].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vocab_size: Option<u32>,
    /// Connections to a gRPC server [default: one for each 64 requests at a time, 4 for an open loop].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: Option<u32>,
    /// Draws prompts, lengths, send times and everything else.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Afterwards send this share of the completed requests again, each alone, and compare tokens and text.
    #[arg(long, value_name = "P", value_parser = percent)]
    verify_transparency: Option<f64>,
    /// Objective for goodput: time to the first token.
    #[arg(long, value_name = "MS", value_parser = positive)]
    slo_ttft_ms: Option<f64>,
    /// Objective for goodput: every gap between tokens.
    #[arg(long, value_name = "MS", value_parser = positive)]
    slo_itl_ms: Option<f64>,
    /// Write the figures as JSON.
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
    /// Write a report with charts as one HTML file.
    #[arg(long, value_name = "OUT")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ArrivalKind {
    /// Independent of each other; with --burstiness the gamma distribution.
    Poisson,
    /// All gaps equal.
    Constant,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SamplingKind {
    /// Temperature 0.
    Greedy,
    /// Each request draws one of four sets of parameters, greedy among them.
    Mixed,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("must be a number above 0".into()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("must be a number from 0 to 100".into()),
    }
}

/// What was measured, for the reports.
struct Measured {
    setup: Setup,
    records: Vec<Record>,
    transparency: Option<Transparency>,
}

/// Runs the command.
pub fn run(args: BenchServeArgs) -> Result<(), CliError> {
    let load = load(&args)?;
    let internal = |error: std::io::Error| CliError::Internal(format!("runtime: {error}"));
    // One thread: the client shall take as little as possible from a server on the same machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    let measured = runtime.block_on(measure(&args, load))?;
    let Measured { setup, records, transparency } = measured;
    let summary = Summary::of(&setup, &records, transparency);
    output::print(&report_text::report(&setup, &summary))?;
    if let Some(path) = &args.json {
        write(path, &format!("{:#}\n", report_json::report(&setup, &summary)))?;
    }
    if let Some(path) = &args.html {
        write(path, &report_html::report(&setup, &summary, &records))?;
    }
    match (&summary.transparency, report_text::transparency(&summary)) {
        (Some(result), Some(line)) if !result.holds() => Err(CliError::Internal(line)),
        _ => Ok(()),
    }
}

fn load(args: &BenchServeArgs) -> Result<Load, CliError> {
    let constant = args.arrivals == ArrivalKind::Constant;
    if args.burstiness.is_some() && (constant || args.rate.is_none()) {
        let reason = "--burstiness: only with --rate, and not with --arrivals constant";
        return Err(CliError::Usage(reason.into()));
    }
    let gamma = Arrivals::Gamma { burstiness: args.burstiness.unwrap_or(1.0) };
    let arrivals = if constant { Arrivals::Constant } else { gamma };
    match (args.rate, args.concurrency) {
        (Some(rate), _) => Ok(Load::Open { rate, arrivals }),
        (None, Some(concurrency)) => Ok(Load::Closed { concurrency: concurrency as usize }),
        (None, None) => Err(CliError::Usage("--concurrency or --rate is needed".into())),
    }
}

async fn measure(args: &BenchServeArgs, load: Load) -> Result<Measured, CliError> {
    let connections = args.connections.map_or_else(|| default_connections(load), |count| count as usize);
    let target = Target::connect(&args.target, connections, args.prefix_cache).await.map_err(load_error)?;
    let info = target.info().await.map_err(load_error)?;
    let vocab_size = vocab_size(args, &info)?;
    let workload = Workload {
        requests: args.requests as usize,
        prompt_tokens: args.prompt_tokens,
        gen_tokens: args.gen_tokens,
        shared_prefix_tokens: args.shared_prefix_tokens,
        sampling: if args.sampling == SamplingKind::Mixed { SamplingMix::Mixed } else { SamplingMix::Greedy },
        cancel_percent: args.cancel_percent,
        deadline_percent: args.deadline_percent,
        deadline_ms: args.deadline_ms,
        seed: args.seed,
    };
    if let Some(max_model_len) = info.max_model_len {
        fits(&workload, max_model_len)?;
    }
    let plan = Arc::new(workload.plan(vocab_size));
    let warm_up = Arc::new(workload.warm_up(args.warm_up as usize, vocab_size));
    let target = Arc::new(target);
    warm(&target, &warm_up, args.seed).await;
    let (bar, progress) = progress(plan.len() as u64);
    let records = run_load(&target, &plan, load, args.seed, &progress).await;
    bar.finish_and_clear();
    let transparency = match args.verify_transparency {
        Some(percent) => Some(verify(&target, &plan, &records, percent, args.seed).await),
        None => None,
    };
    let slo = Slo { ttft_ms: args.slo_ttft_ms, itl_ms: args.slo_itl_ms };
    let setup = Setup { target: args.target.clone(), info, load, workload, slo };
    Ok(Measured { setup, records, transparency })
}

fn vocab_size(args: &BenchServeArgs, info: &TargetInfo) -> Result<u32, CliError> {
    let missing = || CliError::Usage(format!("--vocab-size: is needed, {} does not tell it", args.target));
    args.vocab_size.or(info.vocab_size).ok_or_else(missing)
}

fn default_connections(load: Load) -> usize {
    match load {
        Load::Closed { concurrency } => concurrency.div_ceil(64),
        Load::Open { .. } => 4,
    }
}

/// Refuses lengths that the server would refuse for every request.
fn fits(workload: &Workload, max_model_len: u32) -> Result<(), CliError> {
    let longest = u64::from(workload.prompt_tokens.max) + u64::from(workload.gen_tokens.max);
    if longest > u64::from(max_model_len) {
        let (prompt, generated) = (workload.prompt_tokens.max, workload.gen_tokens.max);
        return Err(CliError::Usage(format!(
            "--prompt-tokens {prompt} and --gen-tokens {generated}: {longest}, the server takes {max_model_len}"
        )));
    }
    Ok(())
}

async fn warm(target: &Arc<Target>, plan: &Arc<Vec<PlannedRequest>>, seed: u64) {
    let silent: Progress = Arc::new(|_| {});
    run_load(target, plan, Load::Closed { concurrency: plan.len().clamp(1, 8) }, seed, &silent).await;
}

/// A bar on stderr where stderr is a terminal, with the requests that ended and the tokens that came.
fn progress(requests: u64) -> (ProgressBar, Progress) {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(requests), target);
    let template = "[{elapsed}] [{bar:40}] {pos}/{len} requests, {per_sec}, {eta} left {msg}";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let shown = bar.clone();
    let failed = std::sync::atomic::AtomicUsize::new(0);
    let progress: Progress = Arc::new(move |record| {
        if let crate::load::record::Outcome::Failed(error) = &record.outcome {
            let count = failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            shown.set_message(format!("({count} failed, last {error})"));
        }
        shown.inc(1);
    });
    (bar, progress)
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text).map_err(|error| CliError::Io(format!("{}: {error}", path.display())))
}

fn load_error(error: LoadError) -> CliError {
    match error {
        LoadError::BadTarget { .. } => CliError::Usage(error.to_string()),
        LoadError::Unreachable { .. } => CliError::Unreachable(error.to_string()),
    }
}
