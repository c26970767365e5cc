//! What reading a model file can fail with.

use std::path::PathBuf;

/// One line each; every message names the key, tensor or field and the value found. Text that comes from the file is
/// escaped and cut, so that an error cannot carry control characters into a terminal or a log.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("not a GGUF file: it starts with {found:?}, not \"GGUF\"")]
    BadMagic { found: String },
    #[error("GGUF version {version}: {reason} (versions 2 and 3, little-endian, are supported)")]
    Version { version: u32, reason: &'static str },
    #[error("the file ends inside {what} at byte {offset}: {needed} bytes needed, {available} left")]
    Truncated { what: String, offset: u64, needed: u64, available: u64 },
    #[error("{what} is {value}, over the limit of {limit}")]
    Limit { what: String, value: u64, limit: u64 },
    #[error("key {key} at byte {offset}: {problem}")]
    Key { key: String, offset: u64, problem: String },
    #[error("tensor {name}: {problem}")]
    Tensor { name: String, problem: String },
    #[error("key {key} is missing")]
    MissingKey { key: String },
    #[error("key {key}: {expected} expected, {found} found")]
    WrongType { key: String, expected: &'static str, found: String },
    #[error("split file {path}: {problem}")]
    Split { path: PathBuf, problem: String },
    #[error("tensor {tensor}: type {type_name} is not supported yet")]
    UnsupportedType { tensor: String, type_name: &'static str },
    #[error("cannot open {path}: {problem}")]
    CannotOpen { path: PathBuf, problem: String },
    #[error("reading {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// The three ways of failing that the command line tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// Exit code 65: the file was read and is not a model we can use.
    BadData,
    /// Exit code 66: no such file, no permission, or not a regular file.
    CannotOpen,
    /// Exit code 74: the file opened but could not be read or mapped.
    Io,
}

impl GgufError {
    /// Which exit code this error stands for.
    pub fn exit_kind(&self) -> ExitKind {
        match self {
            Self::CannotOpen { .. } => ExitKind::CannotOpen,
            Self::Io { .. } => ExitKind::Io,
            _ => ExitKind::BadData,
        }
    }

    pub(crate) fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { name: shown(name.as_bytes()), problem: problem.into() }
    }

    pub(crate) fn key(key: &[u8], offset: u64, problem: impl Into<String>) -> Self {
        Self::Key { key: shown(key), offset, problem: problem.into() }
    }
}

/// Text from a file as errors and `inspect` show it: control characters escaped, bytes that are no UTF-8 replaced, cut
/// after 80 characters.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 80;
    let head = &bytes[..bytes.len().min(4 * LONGEST)];
    let text = String::from_utf8_lossy(head);
    let mut out: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() || head.len() < bytes.len() {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn text_of_the_file_is_escaped_and_cut() {
        assert_eq!(shown(b"a\x1b[31m\nb"), "a\\u{1b}[31m\\nb");
        assert_eq!(shown(&[0xff, b'x']), "\u{fffd}x");
        assert_eq!(shown(&[b'k'; 200]), format!("{}...", "k".repeat(80)));
        assert_eq!(shown("é".repeat(80).as_bytes()), "é".repeat(80));
    }
}
