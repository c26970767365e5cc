//! The integration tests: one binary, one module a topic.

mod corpus;
mod engine;
mod golden;
mod support;
mod tidy;
mod tokenizers;
