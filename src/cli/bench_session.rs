//! What one `bench serve` command keeps open: the target, for one run or for several.

use super::bench_serve::{BenchServeArgs, SamplingKind};
use super::error::CliError;
use crate::load::error::LoadError;
use crate::load::record::{Outcome, Record};
use crate::load::run::{Load, Progress, run};
use crate::load::summary::{Setup, Slo, Summary};
use crate::load::target::{Target, TargetInfo};
use crate::load::transparency::verify;
use crate::load::workload::{SamplingMix, Workload};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A run, for the reports.
pub struct Measured {
    pub setup: Setup,
    pub summary: Summary,
    pub records: Vec<Record>,
}

/// An open target and the settings that all runs share.
pub struct Session<'a> {
    args: &'a BenchServeArgs,
    target: Arc<Target>,
    info: TargetInfo,
    vocab_size: u32,
}

impl<'a> Session<'a> {
    /// Opens the target with connections for `load`, the highest to come where it is known.
    pub async fn open(args: &'a BenchServeArgs, load: Option<Load>) -> Result<Self, CliError> {
        let connections = args.connections.map_or_else(|| default_connections(load), |count| count as usize);
        let target = Target::connect(&args.target, connections, args.prefix_cache, &args.tenant);
        let target = target.await.map_err(load_error)?;
        let info = target.info().await.map_err(load_error)?;
        let missing = || CliError::Usage(format!("--vocab-size: is needed, {} does not tell it", args.target));
        let vocab_size = args.vocab_size.or(info.vocab_size).ok_or_else(missing)?;
        Ok(Self { args, target: Arc::new(target), info, vocab_size })
    }

    /// The workload as the flags say it.
    pub fn workload(&self) -> Workload {
        let args = self.args;
        Workload {
            requests: args.requests as usize,
            prompt_tokens: args.prompt_tokens,
            gen_tokens: args.gen_tokens,
            shared_prefix_tokens: args.shared_prefix_tokens,
            sampling: if args.sampling == SamplingKind::Mixed { SamplingMix::Mixed } else { SamplingMix::Greedy },
            cancel_percent: args.cancel_percent,
            deadline_percent: args.deadline_percent,
            deadline_ms: args.deadline_ms,
            seed: args.seed,
        }
    }

    /// Warms up, runs, and sends again what is to be verified.
    pub async fn measure(&self, load: Load, workload: Workload) -> Result<Measured, CliError> {
        if let Some(max_model_len) = self.info.max_model_len {
            fits(&workload, max_model_len)?;
        }
        let (args, target, seed) = (self.args, &self.target, workload.seed);
        let plan = Arc::new(workload.plan(self.vocab_size));
        let warm_up = Arc::new(workload.warm_up(args.warm_up as usize, self.vocab_size));
        let silent: Progress = Arc::new(|_| {});
        run(target, &warm_up, Load::Closed { concurrency: warm_up.len().clamp(1, 8) }, seed, &silent).await;
        let (bar, progress) = progress(plan.len() as u64);
        // The times are drawn from the same stream in every run of a sweep: their chance is the same at every rate.
        let records = run(target, &plan, load, args.seed, &progress).await;
        bar.finish_and_clear();
        let transparency = match args.verify_transparency {
            Some(percent) => Some(verify(target, &plan, &records, percent, seed).await),
            None => None,
        };
        let slo = Slo { ttft_ms: args.slo_ttft_ms, itl_ms: args.slo_itl_ms };
        let setup = Setup { target: args.target.clone(), info: self.info.clone(), load, workload, slo };
        let summary = Summary::of(&setup, &records, transparency);
        Ok(Measured { setup, summary, records })
    }
}

fn default_connections(load: Option<Load>) -> usize {
    match load {
        Some(Load::Closed { concurrency }) => concurrency.div_ceil(64),
        Some(Load::Open { .. }) | None => 4,
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

/// A bar on stderr where stderr is a terminal, with the requests that ended and the last error.
fn progress(requests: u64) -> (ProgressBar, Progress) {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(requests), target);
    let template = "[{elapsed}] [{bar:40}] {pos}/{len} requests, {per_sec}, {eta} left {msg}";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let shown = bar.clone();
    let failed = AtomicUsize::new(0);
    let progress: Progress = Arc::new(move |record| {
        if let Outcome::Failed(error) = &record.outcome {
            let count = failed.fetch_add(1, Ordering::Relaxed) + 1;
            shown.set_message(format!("({count} failed, last {error})"));
        }
        shown.inc(1);
    });
    (bar, progress)
}

fn load_error(error: LoadError) -> CliError {
    match error {
        LoadError::BadTarget { .. } => CliError::Usage(error.to_string()),
        LoadError::Unreachable { .. } => CliError::Unreachable(error.to_string()),
    }
}
