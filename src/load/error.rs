//! What keeps a load test from starting.

use crate::top::format::harmless;

/// One line that names the target or the flag.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("--target {target}: {reason}")]
    BadTarget { target: String, reason: &'static str },
    #[error("--target {target}: {reason}")]
    Unreachable { target: String, reason: String },
}

impl LoadError {
    /// The target is no address that could be tried.
    pub(super) fn bad_target(target: &str) -> Self {
        let reason = "must be http://HOST:PORT, http+openai://HOST:PORT or http+llama://HOST:PORT";
        Self::BadTarget { target: target.to_owned(), reason }
    }
}

/// `reason` may be in the target's own words.
pub(super) fn unreachable(target: &str, reason: &str) -> LoadError {
    LoadError::Unreachable { target: target.to_owned(), reason: harmless(reason) }
}

/// An error and what caused it, in one line: the libraries' own text says only that the transport failed.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_in_the_targets_words_is_one_harmless_line() {
        let line = unreachable("http://x:1", "UNAVAILABLE: a\u{1b}[2J\nb").to_string();
        assert_eq!(line, "--target http://x:1: UNAVAILABLE: a\u{fffd}[2J\u{fffd}b");
    }
}
