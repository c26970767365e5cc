//! `synth`.

use super::error::CliError;

#[derive(clap::Args)]
pub struct SynthArgs {}

/// Runs the command.
pub fn run(_args: SynthArgs) -> Result<(), CliError> {
    Err(CliError::Internal("not written yet".into()))
}
