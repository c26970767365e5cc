//! SentencePiece: merge the neighbours whose token has the best score, until no neighbours make a token.
//!
//! Written out instead of the library's BPE, which ranks pairs, because here the rank belongs to the token made: of
//! candidates with one score the leftmost comes first, and a character that is no token itself can still be merged.
//! It also works on the text in place, where the library allocates a string for each token.

use super::data::{SCORES, TokenizerData};
use super::error::{EncodeError, TokenizerError};
use super::vocabulary::{SPACE_MARK, Vocabulary};
use crate::types::TokenId;
use ahash::AHashMap;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The table of a SentencePiece vocabulary.
#[derive(Debug)]
pub struct Spm {
    pieces: AHashMap<String, Piece>,
    /// Bytes of the longest piece: longer pairs are not looked up.
    max_piece: usize,
    /// No piece has a space after another character, so that no merge crosses the beginning of a word.
    splits_at_spaces: bool,
    bytes: Box<[Option<TokenId>; 256]>,
    unknown: Option<TokenId>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    id: TokenId,
    score: f32,
}

/// A part of the text that is one token so far, in a list of neighbours. Merged into its left neighbour: `len` 0.
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// Two neighbours that make a token. Out of date once they are not `len` bytes together.
struct Candidate {
    score: f32,
    left: u32,
    right: u32,
    len: u32,
}

impl Ord for Candidate {
    /// The greatest is merged first: the best score, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

/// Work space, kept from word to word.
#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

impl Spm {
    /// `unknown` stands for characters that have neither a token nor byte tokens.
    pub fn new(
        data: &TokenizerData,
        vocabulary: &Vocabulary,
        unknown: Option<TokenId>,
    ) -> Result<Self, TokenizerError> {
        let tokens = vocabulary.len();
        let scores = data.scores.as_deref();
        if let Some(scores) = scores.filter(|scores| scores.len() < tokens) {
            return Err(TokenizerError::ShortArray { key: SCORES, len: scores.len(), tokens });
        }
        let mut pieces = AHashMap::with_capacity(tokens);
        for (id, token, _) in vocabulary.iter() {
            let score = scores.map_or(0.0, |scores| scores[id as usize]);
            if score.is_nan() {
                return Err(TokenizerError::BadScore { id });
            }
            if vocabulary.is_text(id) && !token.is_empty() {
                // Adding 0 makes -0 the same score as 0.
                pieces.insert(token.to_owned(), Piece { id, score: score + 0.0 });
            }
        }
        let max_piece = pieces.keys().map(String::len).max().unwrap_or(0);
        let splits_at_spaces = !pieces.keys().any(|piece| first_word(piece).len() < piece.len());
        Ok(Self { pieces, max_piece, splits_at_spaces, bytes: vocabulary.byte_tokens()?, unknown })
    }

    /// Appends the ids of `text`, in which spaces are already U+2581.
    pub fn encode(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<(), EncodeError> {
        if i32::try_from(text.len()).is_err() {
            return Err(EncodeError::TooLong { len: text.len() });
        }
        let mut scratch = Scratch::default();
        let mut rest = text;
        while !rest.is_empty() {
            // Word by word is the same and much faster: the queue stays small.
            let word = if self.splits_at_spaces { first_word(rest) } else { rest };
            self.merge(word, &mut scratch);
            for symbol in scratch.symbols.iter().filter(|symbol| symbol.len > 0) {
                self.append(slice(word, symbol.start, symbol.len), ids)?;
            }
            rest = &rest[word.len()..];
        }
        Ok(())
    }

    /// Leaves the parts of `text` in `scratch.symbols`.
    fn merge(&self, text: &str, scratch: &mut Scratch) {
        let Scratch { symbols, queue } = scratch;
        characters(text, symbols);
        queue.extend((1..symbols.len() as u32).filter_map(|right| self.candidate(text, symbols, right - 1, right)));
        while let Some(Candidate { left, right, len, .. }) = queue.pop() {
            let (l, r) = (&symbols[left as usize], &symbols[right as usize]);
            if l.len == 0 || r.len == 0 || l.len + r.len != len {
                continue;
            }
            let (prev, next) = (l.prev, r.next);
            symbols[left as usize].len = len;
            symbols[left as usize].next = next;
            symbols[right as usize].len = 0;
            if prev != NONE {
                queue.extend(self.candidate(text, symbols, prev, left));
            }
            if next != NONE {
                symbols[next as usize].prev = left;
                queue.extend(self.candidate(text, symbols, left, next));
            }
        }
    }

    fn candidate(&self, text: &str, symbols: &[Symbol], left: u32, right: u32) -> Option<Candidate> {
        let (l, r) = (&symbols[left as usize], &symbols[right as usize]);
        let len = l.len + r.len;
        if len as usize > self.max_piece {
            return None;
        }
        let piece = self.pieces.get(slice(text, l.start, len))?;
        Some(Candidate { score: piece.score, left, right, len })
    }

    /// A merged symbol is a token. A single character may be none: then its bytes, then the unknown token.
    fn append(&self, symbol: &str, ids: &mut Vec<TokenId>) -> Result<(), EncodeError> {
        if let Some(piece) = self.pieces.get(symbol) {
            ids.push(piece.id);
            return Ok(());
        }
        let start = ids.len();
        for byte in symbol.bytes() {
            match (self.bytes[usize::from(byte)], self.unknown) {
                (Some(id), _) => ids.push(id),
                (None, Some(unknown)) => {
                    ids.truncate(start);
                    ids.push(unknown);
                    break;
                }
                (None, None) => return Err(EncodeError::NoToken { byte }),
            }
        }
        Ok(())
    }
}

/// One symbol a character. The caller has checked that offsets fit.
fn characters(text: &str, symbols: &mut Vec<Symbol>) {
    symbols.clear();
    for (index, (start, character)) in (0u32..).zip(text.char_indices()) {
        let prev = index.checked_sub(1).unwrap_or(NONE);
        symbols.push(Symbol { start: start as u32, len: character.len_utf8() as u32, prev, next: index + 1 });
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
}

/// The text up to the first space mark that follows another character.
fn first_word(text: &str) -> &str {
    let start = text.len() - text.trim_start_matches(SPACE_MARK).len();
    match text[start..].find(SPACE_MARK) {
        Some(end) => &text[..start + end],
        None => text,
    }
}

fn slice(text: &str, start: u32, len: u32) -> &str {
    &text[start as usize..(start + len) as usize]
}
