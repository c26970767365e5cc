//! Writing a file that is either whole or not there.

use super::error::CliError;
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use tempfile::NamedTempFile;
use tokio::signal::unix::{SignalKind, signal};

/// Files that are being written: a signal that ends the process removes them.
static PARTIAL: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static WATCH: Once = Once::new();

/// Has `write` fill a temporary file beside `out` and renames it when it is whole and on its disk, so that a file
/// called `out` is complete. A failure, `write`'s or another, leaves nothing; nor does a signal.
pub fn write_whole(out: &Path, write: impl FnOnce(File) -> Result<(), CliError>) -> Result<(), CliError> {
    if fs::metadata(out).is_ok_and(|stat| !stat.is_file()) {
        return Err(CliError::CannotOpen(format!("{}: not a regular file", out.display())));
    }
    let failed = |error: std::io::Error| CliError::Io(format!("{}: {error}", out.display()));
    let (_listed, temporary) = create_listed(out)?;
    write(temporary.as_file().try_clone().map_err(failed)?)?;
    // Some file systems tell only now that they had no room.
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(out).map(drop).map_err(|error| failed(error.error))
}

/// A new file with a name that nobody can foresee, with the permissions of any other.
fn create_beside(out: &Path) -> Result<NamedTempFile, CliError> {
    let Some(name) = out.file_name() else {
        return Err(CliError::Usage(format!("{}: not a file name", out.display())));
    };
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".partial").permissions(Permissions::from_mode(0o666));
    let cannot = |error| CliError::CannotOpen(format!("cannot create a file beside {}: {error}", out.display()));
    builder.tempfile_in(folder_of(out)).map_err(cannot)
}

/// The folder that a file of this path is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file that is to go when a signal ends the process. It outlives the file.
struct Listed(PathBuf);

/// [`create_beside`], listed before a signal can come between.
fn create_listed(out: &Path) -> Result<(Listed, NamedTempFile), CliError> {
    WATCH.call_once(|| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        if std::thread::Builder::new().name("llorch-partial".into()).spawn(move || watch(ready)).is_err() {
            tracing::warn!("no thread for signals: one that ends the program leaves a partial file");
        }
        // An error: the sender is dropped when signals are waited for, or when they cannot be.
        let _ = is_ready.recv();
    });
    let mut partial = partial();
    let file = create_beside(out)?;
    partial.insert(file.path().to_owned());
    Ok((Listed(file.path().to_owned()), file))
}

impl Drop for Listed {
    fn drop(&mut self) {
        partial().remove(&self.0);
    }
}

fn partial() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // A set of paths is valid whatever happened to its last holder.
    PARTIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that it waits, waits for a signal that ends the process, and removes what is not whole.
fn watch(ready: Sender<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let number = runtime.block_on(async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else { return None };
        drop(ready);
        let kind = tokio::select! {
            _ = interrupt.recv() => kinds[0],
            _ = terminate.recv() => kinds[1],
            _ = hangup.recv() => kinds[2],
        };
        Some(kind.as_raw_value())
    });
    if let Some(number) = number {
        // Kept until the end: no file is renamed or listed any more.
        let partial = partial();
        partial.iter().for_each(|path| drop(fs::remove_file(path)));
        // As a shell has it.
        std::process::exit(128 + number);
    }
}
