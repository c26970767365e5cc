//! What `top` shows of a running server: read from its `/metrics`, summed up over a window, drawn on a terminal.
//!
//! `scrape` fetches the text, `exposition` reads it, `window` keeps what was added between scrapes, `figures` turns
//! that into rates and percentiles, `view` draws them and `snapshot` writes them as plain text. Only `scrape` does IO;
//! time is an argument everywhere.

pub mod exposition;
pub mod figures;
pub(crate) mod format;
mod panel;
pub mod quantile;
pub mod scrape;
pub mod snapshot;
pub mod view;
pub mod window;
