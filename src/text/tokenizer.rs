//! The tokenizer of a model file: text to ids and ids to bytes.

use super::bpe::{Alphabet, ByteLevelBpe};
use super::data::{self, TokenizerData};
use super::error::{EncodeError, TokenizerError};
use super::pre_tokenizer::PreTokenizer;
use super::special::{Fragment, SpecialDefaults, SpecialIds, SpecialMatcher};
use super::spm::Spm;
use super::vocabulary::{SPACE_MARK, TokenKind, Vocabulary, parse_byte};
use crate::gguf::metadata::Metadata;
use crate::types::TokenId;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Text to ids and back for one vocabulary. Immutable: share it between threads.
pub struct Tokenizer {
    model: TokenizerModel,
    special: SpecialIds,
    /// SentencePiece: text at the beginning and after a special token gets a space in front.
    add_space_prefix: bool,
    /// Finds the tokens that are taken from any text.
    user_defined: SpecialMatcher,
    /// Finds the tokens that are taken from text with `parse_special`.
    all_special: SpecialMatcher,
    pieces: Pieces,
}

enum TokenizerModel {
    SentencePiece(Spm),
    ByteLevelBpe(Box<ByteLevelBpe>),
}

impl Tokenizer {
    /// Builds the tokenizer that a file's `tokenizer.ggml.*` keys describe.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        Self::from_data(TokenizerData::from_metadata(metadata)?)
    }

    /// Builds the tokenizer from values read before; panics of the library are contained.
    pub fn from_data(data: TokenizerData) -> Result<Self, TokenizerError> {
        catch_unwind(AssertUnwindSafe(|| Self::build(data)))
            .unwrap_or_else(|_| Err(TokenizerError::Build("the library panicked".into())))
    }

    fn build(mut data: TokenizerData) -> Result<Self, TokenizerError> {
        let pre_tokenizer = match data.model.as_str() {
            "llama" => None,
            "gpt2" => {
                let name = data.pre.as_deref().ok_or(TokenizerError::MissingKey { key: data::PRE })?;
                Some(PreTokenizer::from_name(name)?)
            }
            _ => return Err(TokenizerError::UnsupportedModel { name: data.model }),
        };
        let mut vocabulary = Vocabulary::new(std::mem::take(&mut data.tokens), data.token_types.as_deref())?;
        if pre_tokenizer.is_none() && data.token_types.is_none() {
            vocabulary.infer_byte_kinds();
        }
        let special = SpecialIds::new(&data, &special_defaults(pre_tokenizer.as_ref()), &mut vocabulary)?;
        let add_space_prefix = data.add_space_prefix.unwrap_or(true) && pre_tokenizer.is_none();
        let pieces = Pieces::new(&vocabulary, pre_tokenizer.is_none());
        let name = data.model_name.as_deref();
        let user_defined = SpecialMatcher::new(&vocabulary, name, |kind| kind == TokenKind::UserDefined)?;
        let all_special = SpecialMatcher::new(&vocabulary, name, |kind| {
            matches!(kind, TokenKind::UserDefined | TokenKind::Control | TokenKind::Unknown)
        })?;
        let model = match pre_tokenizer {
            None => TokenizerModel::SentencePiece(Spm::new(&data, &vocabulary, special.unknown)?),
            Some(pre) => TokenizerModel::ByteLevelBpe(Box::new(ByteLevelBpe::new(&data, &vocabulary, pre)?)),
        };
        Ok(Self { model, special, add_space_prefix, user_defined, all_special, pieces })
    }

    /// Number of tokens: ids are `0 .. vocab_size`.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The beginning-of-sequence token, whether or not it is added to texts.
    pub fn bos(&self) -> Option<TokenId> {
        self.special.bos
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> Option<TokenId> {
        self.special.eos
    }

    /// Whether `add_special` puts BOS before the text: then an empty text is a prompt too.
    pub fn adds_bos(&self) -> bool {
        self.special.prefix.is_some()
    }

    /// The tokens that end a generation, ascending.
    pub fn eog_ids(&self) -> &[TokenId] {
        &self.special.eog
    }

    /// The ids of `text`.
    ///
    /// `add_special` adds BOS and EOS as the file says. With `parse_special`, control tokens spelt in the text become
    /// those tokens; without, they are text like any other. User-defined tokens are found in either case.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<TokenId>, EncodeError> {
        catch_unwind(AssertUnwindSafe(|| self.encode_parts(text, add_special, parse_special)))
            .unwrap_or_else(|_| Err(EncodeError::Internal("it panicked".into())))
    }

    fn encode_parts(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<TokenId>, EncodeError> {
        let mut ids: Vec<TokenId> = self.special.prefix.filter(|_| add_special).into_iter().collect();
        let matcher = if parse_special { &self.all_special } else { &self.user_defined };
        let mut after_special = true;
        for fragment in matcher.split(text) {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => self.encode_text(text, after_special, &mut ids)?,
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        ids.extend(self.special.suffix.filter(|_| add_special));
        Ok(ids)
    }

    fn encode_text(&self, text: &str, after_special: bool, ids: &mut Vec<TokenId>) -> Result<(), EncodeError> {
        match &self.model {
            TokenizerModel::ByteLevelBpe(bpe) => bpe.encode(text, ids),
            TokenizerModel::SentencePiece(spm) => {
                let mut marked = String::with_capacity(text.len() + SPACE_MARK.len_utf8());
                if self.add_space_prefix && after_special {
                    marked.push(SPACE_MARK);
                }
                marked.extend(text.chars().map(|character| if character == ' ' { SPACE_MARK } else { character }));
                spm.encode(&marked, ids)
            }
        }
    }

    /// What the token adds to the text: not always whole characters. Control, unknown and unused tokens, and ids
    /// outside the vocabulary, add nothing.
    pub fn token_bytes(&self, id: TokenId) -> &[u8] {
        if self.pieces.is_text(id) { self.pieces.bytes(id) } else { &[] }
    }

    /// The token as one shows it: [`Self::token_bytes`], or the name of a token that adds nothing to the text.
    pub fn piece(&self, id: TokenId) -> &[u8] {
        self.pieces.bytes(id)
    }

    /// The text of a whole list of ids, as bytes. Where encoding puts a space in front of a text, the first space is
    /// taken off again, so that this undoes [`Self::encode`]; the deltas of a generation, which continues a text,
    /// keep theirs: concatenate [`Self::token_bytes`] for those.
    pub fn decode(&self, ids: &[TokenId]) -> Vec<u8> {
        let mut bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        if self.add_space_prefix && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        bytes
    }
}

/// What the two models do where the file says nothing. SentencePiece vocabularies begin with unknown, BOS and EOS.
fn special_defaults(pre_tokenizer: Option<&PreTokenizer>) -> SpecialDefaults {
    match pre_tokenizer {
        None => SpecialDefaults { bos: Some(1), eos: Some(2), unknown: Some(0), add_bos: true },
        Some(pre) => SpecialDefaults { bos: None, eos: None, unknown: None, add_bos: pre.adds_bos() },
    }
}

/// The bytes of every token, one after the other.
struct Pieces {
    bytes: Vec<u8>,
    /// `[vocab_size]` where each token's bytes end.
    ends: Vec<usize>,
    /// `[vocab_size]` whether the token adds its bytes to a text.
    is_text: Vec<bool>,
}

impl Pieces {
    fn new(vocabulary: &Vocabulary, sentence_piece: bool) -> Self {
        let alphabet = Alphabet::new();
        let mut pieces = Self { bytes: Vec::new(), ends: Vec::new(), is_text: Vec::new() };
        for (_, token, kind) in vocabulary.iter() {
            match kind {
                TokenKind::Normal if sentence_piece => pieces.bytes.extend(token.replace(SPACE_MARK, " ").bytes()),
                TokenKind::Normal => pieces.bytes.extend(alphabet.decode(token)),
                TokenKind::Byte => match parse_byte(token) {
                    Some(byte) => pieces.bytes.push(byte),
                    None => pieces.bytes.extend(token.bytes()),
                },
                _ => pieces.bytes.extend(token.bytes()),
            }
            pieces.ends.push(pieces.bytes.len());
            pieces.is_text.push(matches!(kind, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte));
        }
        pieces
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn is_text(&self, id: TokenId) -> bool {
        self.is_text.get(id as usize).copied().unwrap_or(false)
    }

    fn bytes(&self, id: TokenId) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..end]
    }
}
