//! Log lines on stderr. `LLORCH_LOG` filters them as `RUST_LOG` does elsewhere: `info` by default, `debug`, `warn,…`.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging. A filter that cannot be read is the default one.
pub fn start() {
    let filter = EnvFilter::try_from_env("LLORCH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would tell of a failed write on stderr, and panic when that fails as well: whoever logs would end.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    // Somebody else's subscriber is as good.
    let _ = subscriber.try_init();
}
