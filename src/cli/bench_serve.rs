//! `bench serve`: loads a running server and reports latencies and throughput (`specs/load-tester.md`).

use super::bench_session::{Measured, Session};
use super::error::CliError;
use super::output;
use super::whole_file::{folder_of, write_whole};
use crate::load::arrivals::{Arrivals, parse_rate};
use crate::load::run::Load;
use crate::load::summary::Summary;
use crate::load::sweep::{Axis, Point, Sweep};
use crate::load::workload::Length;
use crate::load::{report_html, report_json, report_text, sweep_html, sweep_report};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("load").required(true).args(["concurrency", "rate", "sweep"])))]
pub struct BenchServeArgs {
    /// The server: http://HOST:PORT is gRPC, http+openai://HOST:PORT an OpenAI-compatible server, such as vLLM,
    /// http+llama://HOST:PORT llama-server with its own interface.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub(super) target: String,
    /// Closed loop: this many requests at any time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(super) concurrency: Option<u32>,
    /// Open loop: requests a second on average, whatever becomes of them.
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub(super) rate: Option<f64>,
    /// A run for each load: concurrency=1,2,4 or rate=0.5,1,2; `concurrency` and `rate` alone double from 1 until
    /// throughput has ended, rate=0.25.. from 0.25.
    #[arg(long, value_name = "LOADS")]
    pub(super) sweep: Option<Sweep>,
    /// Gaps of an open loop.
    #[arg(long, value_enum, default_value_t = ArrivalKind::Poisson)]
    pub(super) arrivals: ArrivalKind,
    /// Shape of gamma-distributed gaps: 1 is Poisson, below 1 comes in bursts, above 1 is more regular.
    #[arg(long, value_name = "B", value_parser = positive)]
    pub(super) burstiness: Option<f64>,
    /// Requests to send; in a sweep for each point, and at least 4 for each place of a closed loop.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) requests: u32,
    /// Tokens of a prompt: N, or MIN-MAX for a uniform distribution.
    #[arg(long, value_name = "N", default_value = "128")]
    pub(super) prompt_tokens: Length,
    /// Tokens to generate: N, or MIN-MAX for a uniform distribution.
    #[arg(long, value_name = "N", default_value = "64")]
    pub(super) gen_tokens: Length,
    /// First tokens that all prompts share.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) shared_prefix_tokens: u32,
    /// Let prompts come from the prefix cache.
    #[arg(long)]
    pub(super) prefix_cache: bool,
    /// Send all requests as this tenant's, over gRPC.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(super) tenant: String,
    /// Sampling parameters of the requests.
    #[arg(long, value_enum, default_value_t = SamplingKind::Greedy)]
    pub(super) sampling: SamplingKind,
    /// Cancel this share of the requests after a random number of tokens.
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = percent)]
    pub(super) cancel_percent: f64,
    /// Deadline of a request.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub(super) deadline_ms: Option<u64>,
    /// Share of the requests that have the deadline.
    #[arg(long, value_name = "P", default_value_t = 100.0, value_parser = percent, requires = "deadline_ms")]
    pub(super) deadline_percent: f64,
    /// Requests before the run that do not count, in a closed loop of at most 8.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(super) warm_up: u32,
    /// Draw token ids below this number [default: the vocabulary size that the server tells].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) vocab_size: Option<u32>,
    /// Connections to a gRPC server [default: one for each 64 requests at a time, 4 for an open loop].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) connections: Option<u32>,
    /// Draws prompts, lengths, send times and everything else.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u64,
    /// Afterwards send this share of the completed requests again, each alone, and compare tokens and text.
    #[arg(long, value_name = "P", value_parser = percent)]
    pub(super) verify_transparency: Option<f64>,
    /// Objective for goodput: time to the first token.
    #[arg(long, value_name = "MS", value_parser = positive)]
    pub(super) slo_ttft_ms: Option<f64>,
    /// Objective for goodput: every gap between tokens.
    #[arg(long, value_name = "MS", value_parser = positive)]
    pub(super) slo_itl_ms: Option<f64>,
    /// Write the figures as JSON.
    #[arg(long, value_name = "OUT")]
    pub(super) json: Option<PathBuf>,
    /// Write a report with charts as one HTML file.
    #[arg(long, value_name = "OUT")]
    pub(super) html: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ArrivalKind {
    /// Independent of each other; with --burstiness the gamma distribution.
    Poisson,
    /// All gaps equal.
    Constant,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum SamplingKind {
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

/// Runs the command.
pub fn run(args: BenchServeArgs) -> Result<(), CliError> {
    let internal = |error: std::io::Error| CliError::Internal(format!("runtime: {error}"));
    // One thread: the client shall take as little as possible from a server on the same machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    let open = args.rate.is_some() || args.sweep.as_ref().is_some_and(|sweep| sweep.axis == Axis::Rate);
    if args.burstiness.is_some() && (args.arrivals == ArrivalKind::Constant || !open) {
        let reason = "--burstiness: only with --rate, and not with --arrivals constant";
        return Err(CliError::Usage(reason.into()));
    }
    for (flag, path) in [("--json", &args.json), ("--html", &args.html)] {
        if let Some(path) = path {
            has_place(flag, path)?;
        }
    }
    match (&args.sweep, args.rate, args.concurrency) {
        (Some(sweep), _, _) => runtime.block_on(run_sweep(&args, sweep)),
        (None, Some(rate), _) => runtime.block_on(run_once(&args, open_loop(&args, rate))),
        (None, None, Some(count)) => runtime.block_on(run_once(&args, Load::Closed { concurrency: count as usize })),
        (None, None, None) => Err(CliError::Usage("--concurrency, --rate or --sweep is needed".into())),
    }
}

fn open_loop(args: &BenchServeArgs, rate: f64) -> Load {
    let gamma = Arrivals::Gamma { burstiness: args.burstiness.unwrap_or(1.0) };
    let constant = args.arrivals == ArrivalKind::Constant;
    Load::Open { rate, arrivals: if constant { Arrivals::Constant } else { gamma } }
}

async fn run_once(args: &BenchServeArgs, load: Load) -> Result<(), CliError> {
    let session = Session::open(args, Some(load)).await?;
    let Measured { setup, summary, records } = session.measure(load, session.workload()).await?;
    output::print(&report_text::report(&setup, &summary))?;
    if let Some(path) = &args.json {
        write("--json", path, &format!("{:#}\n", report_json::report(&setup, &summary)))?;
    }
    if let Some(path) = &args.html {
        write("--html", path, &report_html::report(&setup, &summary, &records))?;
    }
    transparent(&summary)
}

/// Requests of a closed loop for each of its places, at least: fewer would hardly reach the concurrency.
const REQUESTS_PER_PLACE: usize = 4;

async fn run_sweep(args: &BenchServeArgs, sweep: &Sweep) -> Result<(), CliError> {
    let load = |value: f64| match sweep.axis {
        Axis::Concurrency => Load::Closed { concurrency: value as usize },
        Axis::Rate => open_loop(args, value),
    };
    let session = Session::open(args, sweep.highest().map(load)).await?;
    let mut points = Vec::new();
    while let Some(value) = sweep.next(&points) {
        let mut workload = session.workload();
        // No point sends what another sent: its prompts might be cached.
        workload.seed = workload.seed.wrapping_add(points.len() as u64);
        if let Load::Closed { concurrency } = load(value) {
            workload.requests = workload.requests.max(REQUESTS_PER_PLACE * concurrency);
        }
        let Measured { setup, summary, .. } = session.measure(load(value), workload).await?;
        points.push(Point { value, setup, summary });
    }
    output::print(&sweep_report::text(sweep.axis, &points))?;
    if let Some(path) = &args.json {
        write("--json", path, &format!("{:#}\n", sweep_report::json(sweep.axis, &points)))?;
    }
    if let Some(path) = &args.html {
        write("--html", path, &sweep_html::page(sweep.axis, &points))?;
    }
    points.iter().try_for_each(|point| transparent(&point.summary))
}

/// An error where sending again gave something else.
fn transparent(summary: &Summary) -> Result<(), CliError> {
    match (&summary.transparency, report_text::transparency(summary)) {
        (Some(result), Some(line)) if !result.holds() => Err(CliError::Internal(line)),
        _ => Ok(()),
    }
}

/// Refuses, before a run that may be long, a path that no report can be written to.
fn has_place(flag: &str, path: &Path) -> Result<(), CliError> {
    let bad = |reason: &str| Err(CliError::Io(format!("{flag} {}: {reason}", path.display())));
    if path.is_dir() || path.file_name().is_none() {
        return bad("not a file name");
    }
    if folder_of(path).is_dir() { Ok(()) } else { bad("the folder does not exist") }
}

/// Writes a report that is whole or not there; to a device, to a pipe and through a link as it comes.
fn write(flag: &str, path: &Path, text: &str) -> Result<(), CliError> {
    let failed = |error: String| CliError::Io(format!("{flag} {}: {error}", path.display()));
    if fs::symlink_metadata(path).is_ok_and(|stat| !stat.is_file()) {
        return fs::write(path, text).map_err(|error| failed(error.to_string()));
    }
    let fill = |mut file: File| file.write_all(text.as_bytes()).map_err(|error| CliError::Io(error.to_string()));
    write_whole(path, fill).map_err(|error| failed(error.to_string()))
}
