//! What keeps a load test from starting.

/// One line that names the target or the flag.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("--target {target}: {reason}")]
    BadTarget { target: String, reason: &'static str },
    #[error("--target {target}: {reason}")]
    Unreachable { target: String, reason: String },
}
