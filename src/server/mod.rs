//! The gRPC server: the only user of tonic and prost.
//!
//! `convert` turns a message into a checked request, `inference` submits it, `writer` (a task a request) turns events
//! into messages, `outbox` lies between that task and the client. `run` is the transport, `status` the table of errors.

mod answer;
mod best_of;
mod control;
mod convert;
mod deadline;
mod inference;
pub mod info;
pub mod limits;
mod metrics_http;
mod observe;
mod open_rpc;
mod outbox;
pub mod proto;
mod receive;
mod receive_stream;
mod run;
pub mod state;
pub(crate) mod status;
mod tokenizer;
mod violations;
mod watchdog;
mod writer;

pub use metrics_http::serve_metrics;
pub use run::{Shutdown, run};
