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

#[cfg(test)]
mod tests {
    use super::PreTokenizer;
    use proptest::prelude::*;
    use tokenizers::tokenizer::pattern::Pattern;
    use tokenizers::utils::SysRegex;

    /// The published pattern of each name, look-ahead and all, for a backtracking engine.
    fn published(name: &str) -> SysRegex {
        SysRegex::new(match name {
            "gpt-2" => r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            _ => concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
        })
        .unwrap()
    }

    fn words<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        PreTokenizer::from_name(name).unwrap().words(text).collect()
    }

    #[test]
    fn words_take_the_last_space_before_them() {
        assert_eq!(words("gpt-2", "a   b\n\n c's 12345"), ["a", "  ", " b", "\n\n", " c", "'s", " 12345"]);
        assert_eq!(words("llama-bpe", "a   b\n\n c'S 12345"), ["a", "  ", " b", "\n\n", " c", "'S", " ", "123", "45"]);
        assert_eq!(words("llama-bpe", "x \n  \n  y  "), ["x", " \n  \n", " ", " y", "  "]);
    }

    proptest! {
        #[test]
        fn agrees_with_the_published_patterns(
            text in prop_oneof!["[a1.' \n\r\t\u{a0}sStl!é]{1,30}", "\\PC{1,30}", any::<String>()],
        ) {
            for name in ["gpt-2", "llama-bpe"] {
                let matches = (&published(name)).find_matches(&text).unwrap();
                let expected: Vec<&str> = matches.iter().map(|((start, end), _)| &text[*start..*end]).collect();
                let expected: Vec<&str> = expected.into_iter().filter(|word| !word.is_empty()).collect();
                prop_assert_eq!(words(name, &text), expected);
            }
        }
    }
}
