//! A progress bar on stderr where stderr is a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Counts bytes.
pub struct Bar(ProgressBar);

impl Bar {
    pub fn new(total_bytes: u64, what: &'static str) -> Self {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total_bytes), target).with_message(what);
        let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    /// Bytes done so far.
    pub fn set(&mut self, done_bytes: u64) {
        self.0.set_position(done_bytes);
    }

    /// Takes the bar off the terminal.
    pub fn finish(self) {
        self.0.finish_and_clear();
    }
}
