//! The integration tests: one binary, one module a topic.

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
