//! Tokenizers: the published vocabularies, small ones built here, hostile data, long texts.

mod behaviour;
mod conformance;
mod hostile;
mod vocabularies;
