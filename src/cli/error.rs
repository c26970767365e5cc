//! What a command can fail with, and the exit code of each kind (`sysexits.h` numbers).

use crate::top::format::harmless;
use std::io::Write;
use std::process::ExitCode;

/// A command's failure: one line that names the key, tensor, flag or file and the value.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    BadData(String),
    #[error("{0}")]
    CannotOpen(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("internal: {0}")]
    Internal(String),
    #[error("{0}")]
    Io(String),
    #[error("{0}")]
    Config(String),
    /// What was compared is not equal.
    #[error("{0}")]
    Differs(String),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::BadData(_) => 65,
            Self::CannotOpen(_) => 66,
            Self::Unreachable(_) => 69,
            Self::Internal(_) => 70,
            Self::Io(_) => 74,
            Self::Config(_) => 78,
            Self::Differs(_) => 1,
        }
    }
}

/// Prints the error, if any, as one line on stderr. A closed stderr is not an error of its own.
pub fn exit(result: Result<(), CliError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Parts of it may be what a file says.
            let line = harmless(&error.to_string().replace(['\n', '\r'], " "));
            let _ = writeln!(std::io::stderr(), "llorch-cpud: {line}");
            ExitCode::from(error.exit_code())
        }
    }
}
