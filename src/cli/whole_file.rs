//! Writing a file that is either whole or not there.

use super::error::CliError;
use std::fs::{self, File};
use std::path::Path;

/// Has `write` fill a temporary file beside `out` and renames it when it is whole, so that a file called `out` is
/// complete. A failure, `write`'s or another, leaves nothing.
pub fn write_whole(out: &Path, write: impl FnOnce(File) -> Result<(), CliError>) -> Result<(), CliError> {
    if fs::metadata(out).is_ok_and(|stat| !stat.is_file()) {
        return Err(CliError::CannotOpen(format!("{}: not a regular file", out.display())));
    }
    let Some(name) = out.file_name() else {
        return Err(CliError::Usage(format!("{}: not a file name", out.display())));
    };
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.partial", std::process::id()));
    let temporary = out.with_file_name(temporary_name);
    let file = File::create(&temporary)
        .map_err(|error| CliError::CannotOpen(format!("cannot create {}: {error}", temporary.display())))?;
    let renamed = || fs::rename(&temporary, out).map_err(|error| CliError::Io(format!("{}: {error}", out.display())));
    let written = write(file).and_then(|()| renamed());
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
