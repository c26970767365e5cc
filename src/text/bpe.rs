//! Byte-level BPE: every byte has a printable character, words are merged by rank. The merging is the library's.

use super::data::{self, TokenizerData};
use super::error::{EncodeError, TokenizerError};
use super::pre_tokenizer::PreTokenizer;
use super::vocabulary::Vocabulary;
use crate::types::TokenId;
use ahash::{AHashMap, AHashSet};
use tokenizers::Model;
use tokenizers::models::bpe::BPE;

/// The tables of a byte-level BPE vocabulary.
pub struct ByteLevelBpe {
    pre_tokenizer: PreTokenizer,
    merger: BPE,
    alphabet: Alphabet,
    /// Bytes whose character is no token. The library would leave them out of the text without a word.
    missing: Vec<u8>,
}

impl ByteLevelBpe {
    pub fn new(
        data: &TokenizerData,
        vocabulary: &Vocabulary,
        pre_tokenizer: PreTokenizer,
    ) -> Result<Self, TokenizerError> {
        let merges = data.merges.as_deref().ok_or(TokenizerError::MissingKey { key: data::MERGES })?;
        let merges = checked_merges(merges, vocabulary)?;
        let text_tokens = vocabulary.iter().filter(|(id, token, _)| vocabulary.is_text(*id) && !token.is_empty());
        let ids: AHashMap<String, TokenId> = text_tokens.map(|(id, token, _)| (token.to_owned(), id)).collect();
        let merger = BPE::builder()
            .vocab_and_merges(ids, merges)
            .ignore_merges(pre_tokenizer.ignores_merges())
            .build()
            .map_err(|error| TokenizerError::Build(error.to_string()))?;
        let alphabet = Alphabet::new();
        let has_token = |byte: &u8| vocabulary.text_id(alphabet.character(*byte).encode_utf8(&mut [0; 4])).is_some();
        let missing = (0..=u8::MAX).filter(|byte| !has_token(byte)).collect();
        Ok(Self { pre_tokenizer, merger, alphabet, missing })
    }

    /// Appends the ids of `text`.
    pub fn encode(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<(), EncodeError> {
        if let Some(byte) = text.bytes().find(|byte| self.missing.contains(byte)) {
            return Err(EncodeError::NoToken { byte });
        }
        let mut spelling = String::new();
        for word in self.pre_tokenizer.words(text) {
            spelling.clear();
            spelling.extend(word.bytes().map(|byte| self.alphabet.character(byte)));
            let tokens = self.merger.tokenize(&spelling).map_err(|error| EncodeError::Internal(error.to_string()))?;
            ids.extend(tokens.iter().map(|token| token.id));
        }
        Ok(())
    }
}

/// The pairs as the library takes them. It would panic on some bad pairs and name none, so they are checked here.
///
/// The first of equal pairs counts. A pair that makes a control token, or is made of one, is left out: text never
/// becomes a control token.
fn checked_merges(merges: &[String], vocabulary: &Vocabulary) -> Result<Vec<(String, String)>, TokenizerError> {
    let mut pairs = Vec::with_capacity(merges.len());
    let mut seen = AHashSet::with_capacity(merges.len());
    let mut joined = String::new();
    for (index, merge) in merges.iter().enumerate() {
        let bad = |reason| TokenizerError::BadMerge { index, merge: merge.clone(), reason };
        // A part may itself begin with a space only in the first place, so the search begins after it.
        let after_first = merge.chars().next().map_or(0, char::len_utf8);
        let space = merge[after_first..].find(' ').ok_or_else(|| bad("not two parts separated by a space"))?;
        let (left, right) = (&merge[..after_first + space], &merge[after_first + space + 1..]);
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let left_id = vocabulary.id(left).ok_or_else(|| bad("the first part is no token"))?;
        let right_id = vocabulary.id(right).ok_or_else(|| bad("the second part is no token"))?;
        let joined_id = vocabulary.id(&joined).ok_or_else(|| bad("the parts together are no token"))?;
        let is_text = [left_id, right_id, joined_id].into_iter().all(|id| vocabulary.is_text(id));
        if is_text && seen.insert((left_id, right_id)) {
            pairs.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(pairs)
}

/// The printable character of each byte: itself where it is printable and not a space, else one from U+0100 on.
pub struct Alphabet {
    characters: [char; 256],
    bytes: AHashMap<char, u8>,
}

impl Alphabet {
    pub fn new() -> Self {
        let mut characters = ['\0'; 256];
        let mut next = 0x100;
        for byte in 0..=u8::MAX {
            let stays = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            characters[usize::from(byte)] = if stays {
                char::from(byte)
            } else {
                next += 1;
                char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
            };
        }
        let bytes = (0..=u8::MAX).map(|byte| (characters[usize::from(byte)], byte)).collect();
        Self { characters, bytes }
    }

    fn character(&self, byte: u8) -> char {
        self.characters[usize::from(byte)]
    }

    /// The bytes that a token's spelling stands for. A spelling with other characters stands for itself.
    pub fn decode(&self, spelling: &str) -> Vec<u8> {
        let bytes: Option<Vec<u8>> = spelling.chars().map(|character| self.bytes.get(&character).copied()).collect();
        bytes.unwrap_or_else(|| spelling.as_bytes().to_vec())
    }
}
