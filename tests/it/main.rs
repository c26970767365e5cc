//! The integration tests: one binary, one module a topic.
// A test that leaves something out for want of data says so.
#![allow(clippy::print_stderr)]

#[macro_use]
#[path = "../spec/mod.rs"]
mod spec;

mod allocation;
mod api;
mod bad_model;
mod bench_engine;
mod block_pool;
mod cancel;
mod chaos;
mod concurrency;
mod corpus;
mod demo;
mod engine;
mod exhaustive;
mod fairness;
mod faults;
mod golden;
mod hostile;
mod load_http;
mod load_limits;
mod load_reports;
mod load_tester;
mod metrics;
mod overload;
mod pacing;
mod prefixes;
mod quantize;
mod request_trace;
mod sampling;
mod scheduler_ops;
mod serve;
mod simulation;
mod specifications;
mod support;
mod tenants;
mod threads;
mod tidy;
mod tokenizers;
mod top;
mod trace;
mod transparency;
mod validation;
mod wait_estimate;
