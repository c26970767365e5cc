//! Text at the edge of the engine: token ids from text, text from token ids, stop strings.
//!
//! The engine speaks token ids only. The rules are the numbered statements of `specs/text.md`.

mod bpe;
mod data;
mod detokenizer;
mod error;
mod pre_tokenizer;
mod read;
mod special;
mod spm;
mod stop_strings;
mod tokenizer;
mod vocabulary;

pub use data::TokenizerData;
pub use detokenizer::Detokenizer;
pub use error::{EncodeError, TokenizerError};
pub use stop_strings::{MAX_STOP_BYTES, MAX_STOP_STRINGS, StopOutput, StopStrings, StopStringsError};
pub use tokenizer::Tokenizer;

#[cfg(test)]
mod tests;
