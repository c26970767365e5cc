//! `generate`.

use super::error::CliError;

#[derive(clap::Args)]
pub struct GenerateArgs {}

/// Runs the command.
pub fn run(_args: GenerateArgs) -> Result<(), CliError> {
    Err(CliError::Internal("not written yet".into()))
}
