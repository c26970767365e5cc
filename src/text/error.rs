//! What can be wrong with a tokenizer's data, and with a text.

use crate::gguf::error::GgufError;
use crate::types::TokenId;

/// The file's tokenizer data cannot be used. Each message is one line and names the key and the value.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A value of another type than its key's.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    #[error("{key}: missing")]
    MissingKey { key: &'static str },
    #[error("tokenizer.ggml.model: {} is not supported (supported: llama, gpt2)", clip(.name))]
    UnsupportedModel { name: String },
    #[error("tokenizer.ggml.pre: {} is not supported (the supported names are in specs/text.md)", clip(.name))]
    UnsupportedPreTokenizer { name: String },
    #[error("tokenizer.ggml.tokens: the vocabulary is empty")]
    EmptyVocabulary,
    #[error("tokenizer.ggml.tokens: {len} tokens are too many")]
    TooManyTokens { len: usize },
    #[error("{key}: {len} entries for {tokens} tokens")]
    ShortArray { key: &'static str, len: usize, tokens: usize },
    #[error("tokenizer.ggml.tokens: {} is both token {first} and token {second}", clip(.text))]
    DuplicateToken { text: String, first: TokenId, second: TokenId },
    #[error("tokenizer.ggml.token_type: token {id} has the unknown type {value}")]
    BadTokenType { id: TokenId, value: i32 },
    #[error("tokenizer.ggml.scores: token {id} has the score NaN")]
    BadScore { id: TokenId },
    #[error("tokenizer.ggml.tokens: byte token {id} is spelt {}, not <0x00> to <0xFF>", clip(.text))]
    BadByteToken { id: TokenId, text: String },
    #[error("tokenizer.ggml.tokens: tokens {first} and {second} both stand for byte {byte:#04x}")]
    DuplicateByteToken { byte: u8, first: TokenId, second: TokenId },
    #[error("tokenizer.ggml.merges: merge {index}, {}: {reason}", clip(.merge))]
    BadMerge { index: usize, merge: String, reason: &'static str },
    #[error("{key}: {id} is outside the vocabulary of {vocab_size} tokens")]
    SpecialOutOfRange { key: &'static str, id: u32, vocab_size: usize },
    #[error("{flag}: true, but {key} is missing")]
    MissingSpecial { flag: &'static str, key: &'static str },
    #[error("tokenizer: {0}")]
    Build(String),
}

/// A text cannot be turned into ids.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("no token of the vocabulary stands for byte {byte:#04x} of the text")]
    NoToken { byte: u8 },
    #[error("a text of {len} bytes is too long to encode")]
    TooLong { len: usize },
    #[error("the tokenizer failed: {0}")]
    Internal(String),
}

/// A string of the file for an error message: quoted, escaped and at most 40 characters of it.
fn clip(text: &str) -> String {
    const MAX_CHARS: usize = 40;
    match text.char_indices().nth(MAX_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], text.len()),
    }
}
