//! `llorch-cpud`: a CPU inference server for language models.
//!
//! # Life of a request
//! 1. [`server`] turns the protobuf message into a validated [`engine::request::NewRequest`] and encodes the prompt
//!    with [`text`].
//! 2. [`engine::handle`] admits it at the edge (bounded queue, unique id) and sends it to the actor.
//! 3. [`engine::actor`], one thread, drains its inbox (it blocks only when idle) and calls [`engine::Engine::step`].
//! 4. [`scheduler`] hands out the step's token budget and blocks, preempts if it must, and returns a plan.
//! 5. [`engine::batch`] turns plan and sequences into flat arrays: a [`model::ForwardBatch`].
//! 6. [`model`] makes one pass over the weights for all sequences of the step; K and V go to their slots in
//!    [`kv_cache`].
//! 7. [`sampling`] picks a token for each row that needs one, with that sequence's parameters and random stream.
//! 8. [`scheduler`] appends, advances, finishes, frees.
//! 9. The actor delivers events; a task per request detokenises, finds stop strings and streams. A dropped stream is
//!    an abort.
//!
//! Modules depend downward only; `specs/architecture.md` holds the allowed edges and a test reads them.

// Unit tests say what they cover; the folder serves the integration tests too.
#[cfg(test)]
#[macro_use]
#[path = "../tests/spec/mod.rs"]
mod spec;

pub mod cli;
pub mod engine;
pub mod gguf;
pub mod huge_pages;
pub mod kernels;
pub mod kv_cache;
pub mod load;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod quant;
pub mod sampling;
pub mod scheduler;
pub mod server;
pub mod text;
pub mod top;
pub mod trace;
pub mod types;
