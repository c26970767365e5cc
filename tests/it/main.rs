//! The integration tests: one binary, one module a topic.
// A test that leaves something out for want of data says so.
#![allow(clippy::print_stderr)]

mod bad_model;
mod corpus;
mod engine;
mod exhaustive;
mod golden;
mod sampling;
mod simulation;
mod support;
mod tidy;
mod tokenizers;
mod transparency;
