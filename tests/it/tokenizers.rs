//! Tokenizers: the published vocabularies, small ones built here, hostile data, long texts.

mod behaviour;
mod command;
mod conformance;
mod hostile;
pub mod vocabularies;
