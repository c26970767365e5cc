//! `perplexity`.

use super::error::CliError;

#[derive(clap::Args)]
pub struct PerplexityArgs {}

/// Runs the command.
pub fn run(_args: PerplexityArgs) -> Result<(), CliError> {
    Err(CliError::Internal("not written yet".into()))
}
