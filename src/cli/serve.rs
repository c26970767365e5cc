//! `serve`.

use super::error::CliError;

#[derive(clap::Args)]
pub struct ServeArgs {}

/// Runs the command.
pub fn run(_args: ServeArgs) -> Result<(), CliError> {
    Err(CliError::Internal("not written yet".into()))
}
