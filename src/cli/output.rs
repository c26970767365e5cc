//! What the commands share: printing to stdout, reading texts, opening the model, and model-file errors as command
//! errors.

use super::demo_model;
use super::error::CliError;
use crate::gguf::{ExitKind, GgufError, ModelFile};
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::Path;

/// Prints the last of a command's output to stdout. A reader that has seen enough and closed its end is no error.
pub fn print(text: &str) -> Result<(), CliError> {
    print_more(text).map(|_| ())
}

/// Prints to stdout what more is to follow. `Break` where the reader has closed its end: nobody wants the rest.
pub fn print_more(text: &str) -> Result<ControlFlow<()>, CliError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(CliError::Io(format!("stdout: {error}"))),
    }
}

/// The text of the file that `flag` names.
pub fn read_text(flag: &str, path: &Path) -> Result<String, CliError> {
    let bytes = std::fs::read(path).map_err(|e| CliError::CannotOpen(format!("{flag} {}: {e}", path.display())))?;
    text_of(bytes).map_err(|e| CliError::BadData(format!("{flag} {}: {e}", path.display())))
}

/// Bytes as text, or what is wrong with them.
pub fn text_of(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|e| format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()))
}

/// The model file at `path`, or the embedded model where there is no path, and what messages call it.
pub fn open_model(path: Option<&Path>) -> Result<(ModelFile, String), CliError> {
    match path {
        Some(path) => {
            let file = ModelFile::open(path).map_err(|error| model_file_error(path, &error))?;
            Ok((file, path.display().to_string()))
        }
        None => Ok((demo_model::open()?, demo_model::NAME.to_owned())),
    }
}

/// The error of opening the model file `path`: one line with the path in it, and the exit code of its kind.
pub fn model_file_error(path: &Path, error: &GgufError) -> CliError {
    match error.exit_kind() {
        ExitKind::BadData => CliError::BadData(format!("{}: {error}", path.display())),
        // These name the path themselves.
        ExitKind::CannotOpen => CliError::CannotOpen(error.to_string()),
        ExitKind::Io => CliError::Io(error.to_string()),
    }
}
