//! `inspect`.

use super::error::CliError;

#[derive(clap::Args)]
pub struct InspectArgs {}

/// Runs the command.
pub fn run(_args: InspectArgs) -> Result<(), CliError> {
    Err(CliError::Internal("not written yet".into()))
}
