//! Tokens with a meaning of their own: which ids they are, and where a text spells them.

use super::data::{self, TokenizerData};
use super::error::TokenizerError;
use super::vocabulary::{TokenKind, Vocabulary};
use crate::types::TokenId;
use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};

/// The ids that encoding and the engine need.
#[derive(Debug)]
pub struct SpecialIds {
    pub bos: Option<TokenId>,
    pub eos: Option<TokenId>,
    pub unknown: Option<TokenId>,
    /// `add_special` puts it before the text.
    pub prefix: Option<TokenId>,
    /// `add_special` puts it after the text.
    pub suffix: Option<TokenId>,
    /// Tokens that end a generation, ascending.
    pub eog: Vec<TokenId>,
}

/// What a tokenizer model does where the file says nothing.
pub struct SpecialDefaults {
    pub bos: Option<TokenId>,
    pub eos: Option<TokenId>,
    pub unknown: Option<TokenId>,
    pub add_bos: bool,
}

/// Spellings that end a generation in every vocabulary that has them.
const EOG_NAMES: [&str; 22] = [
    "</s>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<|tool_response>",
    "[e~[",
];

/// Spellings of the fill-in-the-middle tokens that end a generation, by the key that names them otherwise.
const FIM_NAMES: [(&str, &[&str]); 3] = [
    (data::FIM_PAD, &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (data::FIM_REP, &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    (data::FIM_SEP, &["<|file_sep|>"]),
];

/// Spellings of the fill-in-the-middle tokens that end nothing, by the keys that name them otherwise.
const FIM_CONTROL_NAMES: [([&str; 2], &[&str]); 3] = [
    (
        [data::FIM_PRE, data::OLD_FIM_PRE],
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        [data::FIM_SUF, data::OLD_FIM_SUF],
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        [data::FIM_MID, data::OLD_FIM_MID],
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
];

/// Tokens of Phi-3 vocabularies that leave the white space after them alone.
const PHI3_KEEPS_SPACE: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// Whether the white space after a special token that a text spells belongs to the token.
///
/// Published tokenizers say so of each token, GGUF files do not. Of these families it is Phi-3 that has such tokens,
/// told by the name of the model as llama.cpp does it.
fn is_phi3(model_name: Option<&str>) -> bool {
    let name = model_name.unwrap_or_default().to_ascii_lowercase();
    name.contains("phi-3") || name.contains("phi3")
}

impl SpecialIds {
    /// Reads the ids, and marks as control tokens those that end a generation or fill in the middle by name, whatever
    /// type the file gives.
    pub fn new(
        data: &TokenizerData,
        defaults: &SpecialDefaults,
        vocabulary: &mut Vocabulary,
    ) -> Result<Self, TokenizerError> {
        let vocab_size = vocabulary.len();
        for &(key, id) in &data.special_ids {
            if id as usize >= vocab_size {
                return Err(TokenizerError::SpecialOutOfRange { key, id, vocab_size });
            }
        }
        let or_default =
            |key, default: Option<TokenId>| data.special(key).or(default.filter(|&id| (id as usize) < vocab_size));
        let bos = or_default(data::BOS, defaults.bos);
        let eos = or_default(data::EOS, defaults.eos);
        let required = |wanted: bool, id: Option<TokenId>, flag, key| match (wanted, id) {
            (true, None) => Err(TokenizerError::MissingSpecial { flag, key }),
            (true, id) => Ok(id),
            (false, _) => Ok(None),
        };
        let add_bos = data.add_bos.unwrap_or(defaults.add_bos);
        Ok(Self {
            bos,
            eos,
            unknown: or_default(data::UNK, defaults.unknown),
            prefix: required(add_bos, bos, data::ADD_BOS, data::BOS)?,
            suffix: required(data.add_eos.unwrap_or(false), eos, data::ADD_EOS, data::EOS)?,
            eog: {
                mark_fim_tokens(data, vocabulary);
                eog_ids(data, eos, vocabulary)
            },
        })
    }
}

fn mark_fim_tokens(data: &TokenizerData, vocabulary: &mut Vocabulary) {
    for (keys, names) in FIM_CONTROL_NAMES {
        if keys.iter().all(|key| data.special(key).is_none())
            && let Some(id) = names.iter().filter_map(|name| vocabulary.id(name)).min()
        {
            vocabulary.set_kind(id, TokenKind::Control);
        }
    }
}

fn eog_ids(data: &TokenizerData, eos: Option<TokenId>, vocabulary: &mut Vocabulary) -> Vec<TokenId> {
    let mut named: Vec<TokenId> = EOG_NAMES.iter().filter_map(|name| vocabulary.id(name)).collect();
    let mut by_key: Vec<TokenId> = eos.into_iter().collect();
    by_key.extend([data::EOT, data::EOM].iter().filter_map(|key| data.special(key)));
    for (key, names) in FIM_NAMES {
        match data.special(key) {
            Some(id) => by_key.push(id),
            None => named.extend(names.iter().filter_map(|name| vocabulary.id(name)).min()),
        }
    }
    for &id in &named {
        vocabulary.set_kind(id, TokenKind::Control);
    }
    named.append(&mut by_key);
    named.sort_unstable();
    named.dedup();
    named
}

/// What C calls space.
fn is_ascii_space(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}

/// A stretch of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Fragment<'t> {
    Text(&'t str),
    Token(TokenId),
}

/// Finds the tokens that a text spells out.
#[derive(Debug)]
pub struct SpecialMatcher {
    automaton: AhoCorasick,
    /// By pattern of the automaton.
    ids: Vec<TokenId>,
    /// By pattern: whether the white space after the token belongs to it.
    takes_space: Vec<bool>,
}

impl SpecialMatcher {
    /// Looks for the tokens whose kind `wanted` accepts, in the vocabulary of the model of that name.
    pub fn new(
        vocabulary: &Vocabulary,
        model_name: Option<&str>,
        wanted: impl Fn(TokenKind) -> bool,
    ) -> Result<Self, TokenizerError> {
        let tokens = vocabulary.iter().filter(|(_, token, kind)| wanted(*kind) && !token.is_empty());
        let (ids, spellings): (Vec<_>, Vec<_>) = tokens.map(|(id, token, _)| (id, token)).unzip();
        let is_phi3 = is_phi3(model_name);
        let takes_space = spellings.iter().map(|token| is_phi3 && !PHI3_KEEPS_SPACE.contains(token)).collect();
        // The library would choose a table of states by bytes for few patterns: gigabytes, where a token is long.
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .match_kind(MatchKind::LeftmostLongest)
            .build(spellings)
            .map_err(|error| TokenizerError::Build(error.to_string()))?;
        Ok(Self { automaton, ids, takes_space })
    }

    /// Splits the text at its special tokens: from the left, the longest at each place. Text fragments are not empty.
    pub fn split<'t>(&self, text: &'t str) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        let mut start = 0;
        if !self.ids.is_empty() {
            while let Some(found) = self.automaton.find(Input::new(text).range(start..)) {
                if start < found.start() {
                    fragments.push(Fragment::Text(&text[start..found.start()]));
                }
                let pattern = found.pattern().as_usize();
                fragments.push(Fragment::Token(self.ids[pattern]));
                start = found.end();
                if self.takes_space[pattern] {
                    start = text.len() - text[start..].trim_start_matches(is_ascii_space).len();
                }
            }
        }
        if start < text.len() {
            fragments.push(Fragment::Text(&text[start..]));
        }
        fragments
    }
}
