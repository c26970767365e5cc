//! Splits a text into the words that byte-level BPE encodes one by one.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of white space without its last character where something
//! follows, so that the last space goes with the next word. Look-ahead needs a backtracking engine, which gives up on
//! a long run of spaces. Here the pattern has plain `\s+`, which the automaton of `regex` matches in linear time, and
//! the last character is given back by hand.

mod table;

use super::error::TokenizerError;
use regex::Regex;
use table::{Rules, Split, TABLE};

/// A way to split, named by `tokenizer.ggml.pre`.
#[derive(Debug)]
pub struct PreTokenizer {
    rules: &'static Rules,
    /// The compiled pattern of each pass.
    passes: Vec<(Regex, Split)>,
}

impl PreTokenizer {
    /// The pre-tokenizer of that name. Another one would give other ids without a word, so it is refused.
    pub fn from_name(name: &str) -> Result<Self, TokenizerError> {
        let unknown = || TokenizerError::UnsupportedPreTokenizer { name: name.to_owned() };
        let rules = TABLE.iter().find(|rules| rules.names.contains(&name)).ok_or_else(unknown)?;
        let compile = |pass: &table::Pass| Ok((Regex::new(pass.pattern)?, pass.split));
        let passes = rules.passes.iter().map(compile).collect::<Result<_, regex::Error>>();
        Ok(Self { rules, passes: passes.map_err(|error| TokenizerError::Build(error.to_string()))? })
    }

    /// Whether a word that is a token becomes that token whatever the merges say.
    pub fn ignores_merges(&self) -> bool {
        self.rules.ignore_merges
    }

    /// Whether BOS is added unless the file says otherwise.
    pub fn adds_bos(&self) -> bool {
        self.rules.add_bos
    }

    /// The words, in order; none is empty, and together they are the text.
    pub fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = vec![text];
        for (regex, split) in &self.passes {
            let mut finer = Vec::with_capacity(words.len());
            for word in words {
                match split {
                    Split::Thousands => split_thousands(regex, word, &mut finer),
                    _ => split_word(regex, *split, word, &mut finer),
                }
            }
            words = finer;
        }
        words
    }
}

/// Appends the words of `text`.
fn split_word<'t>(regex: &Regex, split: Split, text: &'t str, words: &mut Vec<&'t str>) {
    let mut rest = text;
    while let Some(found) = regex.find(rest) {
        let (before, matched) = rest[..found.end()].split_at(found.start());
        let given_back = if found.end() < rest.len() { given_back(split, matched) } else { 0 };
        let word = &matched[..matched.len() - given_back];
        rest = &rest[found.end() - given_back..];
        words.extend(Some(before).filter(|before| !before.is_empty()));
        words.push(word);
    }
    words.extend(Some(rest).filter(|rest| !rest.is_empty()));
}

/// Bytes at the end of a match that go to the next word: its last character, if that is white space and not the only
/// one. Only `\s+` matches such a thing in the patterns of these kinds.
fn given_back(split: Split, matched: &str) -> usize {
    let Some(last) = matched.chars().next_back().filter(|last| last.is_whitespace()) else { return 0 };
    let gives = match split {
        Split::GiveBack => true,
        Split::GiveBackInLine => !matches!(last, '\r' | '\n'),
        Split::Match | Split::Thousands => false,
    };
    if gives && last.len_utf8() < matched.len() { last.len_utf8() } else { 0 }
}

/// Cuts `a1234567b` into `a1`, `234`, `567b`.
fn split_thousands<'t>(digits: &Regex, text: &'t str, words: &mut Vec<&'t str>) {
    let mut start = 0;
    for run in digits.find_iter(text) {
        let count = run.as_str().chars().count();
        for (index, (at, _)) in run.as_str().char_indices().enumerate() {
            let cut = run.start() + at;
            if cut > start && (count - index).is_multiple_of(3) {
                words.push(&text[start..cut]);
                start = cut;
            }
        }
    }
    words.extend(Some(&text[start..]).filter(|rest| !rest.is_empty()));
}

#[cfg(test)]
mod tests;
