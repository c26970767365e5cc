//! Splits a text into the words that byte-level BPE encodes one by one.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of white space without its last character where something
//! follows, so that the last space goes with the next word. Look-ahead needs a backtracking engine, which gives up on
//! a long run of spaces. Here the pattern has plain `\s+`, which the automaton of `regex` matches in linear time, and
//! the last character is given back by hand.

use super::error::TokenizerError;
use regex::Regex;

/// A way to split, named by `tokenizer.ggml.pre`.
#[derive(Debug)]
pub struct PreTokenizer {
    regex: Regex,
    style: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Gpt2,
    LlamaBpe,
}

const GPT2: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA_BPE: &str =
    r"(?i:'(?:[sdmt]|ll|ve|re))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";

impl PreTokenizer {
    /// The pre-tokenizer of that name. Another one would give other ids without a word, so it is refused.
    pub fn from_name(name: &str) -> Result<Self, TokenizerError> {
        let (pattern, style) = match name {
            "gpt-2" => (GPT2, Style::Gpt2),
            "llama-bpe" | "llama3" | "llama-v3" => (LLAMA_BPE, Style::LlamaBpe),
            _ => return Err(TokenizerError::UnsupportedPreTokenizer { name: name.to_owned() }),
        };
        let regex = Regex::new(pattern).map_err(|error| TokenizerError::Build(error.to_string()))?;
        Ok(Self { regex, style })
    }

    /// Whether a word that is a token becomes that token whatever the merges say, and BOS is added unless the file
    /// says otherwise.
    pub fn is_llama_bpe(&self) -> bool {
        self.style == Style::LlamaBpe
    }

    /// The words, in order; together they are the text.
    pub fn words<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let mut start = 0;
        std::iter::from_fn(move || {
            let rest = &text[start..];
            if rest.is_empty() {
                return None;
            }
            let len = self.word_len(rest);
            start += len;
            Some(&rest[..len])
        })
    }

    /// Bytes of the first word of `text`, which is not empty.
    fn word_len(&self, text: &str) -> usize {
        // Every character begins some alternative, so the match is at 0; anything else would be one word.
        let len = self.regex.find(text).filter(|found| found.start() == 0).map_or(text.len(), |found| found.end());
        let (word, rest) = text.split_at(len);
        let Some(last) = word.chars().next_back() else { return len };
        let is_space_run = last.is_whitespace() && (self.style == Style::Gpt2 || !matches!(last, '\r' | '\n'));
        let shorter = len - last.len_utf8();
        if is_space_run && !rest.is_empty() && shorter > 0 { shorter } else { len }
    }
}
