//! Tokenizers: the published vocabularies, small ones built here, hostile data, long texts.

mod behaviour;
mod command;
mod conformance;
mod golden;
mod hostile;
pub mod vocabularies;
