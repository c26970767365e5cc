//! `bench_engine`.

use super::error::CliError;

#[derive(clap::Args)]
pub struct BenchEngineArgs {}

/// Runs the command.
pub fn run(_args: BenchEngineArgs) -> Result<(), CliError> {
    Err(CliError::Internal("not written yet".into()))
}
