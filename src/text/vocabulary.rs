//! The tokens of a model: how each is spelt, what kind it is, and its id.

use super::data;
use super::error::TokenizerError;
use crate::types::TokenId;
use ahash::AHashMap;

/// U+2581, which SentencePiece vocabularies write for a space.
pub const SPACE_MARK: char = '\u{2581}';

/// What a token is for. The numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Undefined = 0,
    Normal = 1,
    Unknown = 2,
    /// Steers the model: `<s>`, `<|eot_id|>`. Text becomes one only with `parse_special`.
    Control = 3,
    /// Found in every text before anything else.
    UserDefined = 4,
    Unused = 5,
    /// One byte, `<0x00>` to `<0xFF>`, where no other token has the character.
    Byte = 6,
}

impl TokenKind {
    fn from_type(value: i32) -> Option<Self> {
        Some(match value {
            0 => Self::Undefined,
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// Spelling, kind and id of every token. Non-empty spellings are unique.
#[derive(Debug)]
pub struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<TokenKind>,
    ids: AHashMap<String, TokenId>,
}

impl Vocabulary {
    /// Checks that types fit the tokens and that no token occurs twice. Empty tokens occur in real files; no text
    /// becomes one.
    pub fn new(tokens: Vec<String>, types: Option<&[i32]>) -> Result<Self, TokenizerError> {
        if tokens.is_empty() {
            return Err(TokenizerError::EmptyVocabulary);
        }
        if i32::try_from(tokens.len()).is_err() {
            return Err(TokenizerError::TooManyTokens { len: tokens.len() });
        }
        let kinds = match types {
            Some(types) => kinds_from_types(types, tokens.len())?,
            None => vec![TokenKind::Normal; tokens.len()],
        };
        let mut ids = AHashMap::with_capacity(tokens.len());
        for (id, token) in (0..).zip(&tokens) {
            if token.is_empty() {
                continue;
            }
            if let Some(first) = ids.insert(token.clone(), id) {
                return Err(TokenizerError::DuplicateToken { text: token.clone(), first, second: id });
            }
        }
        Ok(Self { tokens, kinds, ids })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn kind(&self, id: TokenId) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Undefined)
    }

    /// Sets the kind of a token that the file labels wrongly.
    pub fn set_kind(&mut self, id: TokenId, kind: TokenKind) {
        if let Some(entry) = self.kinds.get_mut(id as usize) {
            *entry = kind;
        }
    }

    /// The id of a spelling, whatever its kind.
    pub fn id(&self, spelling: &str) -> Option<TokenId> {
        self.ids.get(spelling).copied()
    }

    /// The id of a spelling that plain text may become: not a control, unknown or byte token.
    pub fn text_id(&self, spelling: &str) -> Option<TokenId> {
        self.id(spelling).filter(|&id| self.is_text(id))
    }

    /// Whether plain text may become this token.
    pub fn is_text(&self, id: TokenId) -> bool {
        !matches!(self.kind(id), TokenKind::Control | TokenKind::Unknown | TokenKind::Byte)
    }

    /// All tokens in order of id.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, &str, TokenKind)> {
        (0..).zip(&self.tokens).zip(&self.kinds).map(|((id, token), &kind)| (id, token.as_str(), kind))
    }

    /// Tokens that the file calls normal but spells `<0x00>` to `<0xFF>` become byte tokens. For SentencePiece files
    /// without types.
    pub fn infer_byte_kinds(&mut self) {
        for (token, kind) in self.tokens.iter().zip(&mut self.kinds) {
            if *kind == TokenKind::Normal && parse_byte(token).is_some() {
                *kind = TokenKind::Byte;
            }
        }
    }

    /// The byte token of every byte, where there is one.
    pub fn byte_tokens(&self) -> Result<Box<[Option<TokenId>; 256]>, TokenizerError> {
        let mut table = Box::new([None; 256]);
        for (id, token, _) in self.iter().filter(|(_, _, kind)| *kind == TokenKind::Byte) {
            let Some(byte) = parse_byte(token) else {
                return Err(TokenizerError::BadByteToken { id, text: token.to_owned() });
            };
            if let Some(first) = table[usize::from(byte)].replace(id) {
                return Err(TokenizerError::DuplicateByteToken { byte, first, second: id });
            }
        }
        Ok(table)
    }
}

fn kinds_from_types(types: &[i32], tokens: usize) -> Result<Vec<TokenKind>, TokenizerError> {
    if types.len() < tokens {
        return Err(TokenizerError::ShortArray { key: data::TOKEN_TYPE, len: types.len(), tokens });
    }
    let kind =
        |(id, &value): (TokenId, &i32)| TokenKind::from_type(value).ok_or(TokenizerError::BadTokenType { id, value });
    (0..).zip(&types[..tokens]).map(kind).collect()
}

/// `<0x0A>` is 10. Exactly two hexadecimal digits.
pub fn parse_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
