//! `tokenize`.

use super::error::CliError;

#[derive(clap::Args)]
pub struct TokenizeArgs {}

/// Runs the command.
pub fn run(_args: TokenizeArgs) -> Result<(), CliError> {
    Err(CliError::Internal("not written yet".into()))
}
