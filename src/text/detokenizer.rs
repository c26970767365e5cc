//! Bytes of tokens in, whole characters out.

/// Turns the bytes of one token after the other into text.
///
/// A token may end inside a character: its tail is held until the next token completes it. The concatenation of
/// everything returned equals [`String::from_utf8_lossy`] of all bytes pushed.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    /// The beginning of a character that is not complete yet: at most 3 bytes between calls.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// An empty one: a detokenizer belongs to one sequence.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the bytes of a token and returns the text that is now certain. Bytes that cannot be part of a character
    /// become U+FFFD as soon as that is known.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut held = 0;
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            if chunk.invalid().is_empty() {
                continue;
            }
            // Only at the end of the input is it open what a sequence becomes.
            let error = std::str::from_utf8(chunk.invalid()).err();
            if chunks.peek().is_none() && error.is_some_and(|error| error.error_len().is_none()) {
                held = chunk.invalid().len();
            } else {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.pending.drain(..self.pending.len() - held);
        text
    }

    /// The end of the sequence: U+FFFD if a character was left incomplete, else nothing.
    pub fn finish(&mut self) -> String {
        let text = if self.pending.is_empty() { String::new() } else { char::REPLACEMENT_CHARACTER.to_string() };
        self.pending.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Detokenizer;
    use proptest::prelude::*;

    #[test]
    fn a_character_split_over_tokens_comes_out_whole() {
        covers!("TXT-18");
        let mut detokenizer = Detokenizer::new();
        let deltas: Vec<String> = "a€".bytes().map(|byte| detokenizer.push(&[byte])).collect();
        assert_eq!(deltas, ["a", "", "", "€"]);
        assert_eq!(detokenizer.finish(), "");
    }

    #[test]
    fn an_incomplete_end_becomes_one_replacement_character() {
        covers!("TXT-18");
        let mut detokenizer = Detokenizer::new();
        assert_eq!(detokenizer.push(b"x\xf0\x9f\x98"), "x");
        assert_eq!(detokenizer.finish(), "\u{fffd}");
        assert_eq!(detokenizer.finish(), "");
    }

    #[test]
    fn a_broken_sequence_is_replaced_as_soon_as_it_is_known() {
        covers!("TXT-18");
        let mut detokenizer = Detokenizer::new();
        assert_eq!(detokenizer.push(b"\xe2\x96"), "");
        assert_eq!(detokenizer.push(b"A"), "\u{fffd}A");
        assert_eq!(detokenizer.push(b"\xff"), "\u{fffd}");
    }

    /// Bytes that hit the borders of UTF-8 often: lead bytes, continuations, surrogates, overlong forms.
    fn tricky_byte() -> impl Strategy<Value = u8> {
        prop_oneof![
            any::<u8>(),
            prop::sample::select(vec![
                b'a', 0x80, 0x9f, 0xa0, 0xbf, 0xc0, 0xc3, 0xe0, 0xe2, 0xed, 0xf0, 0xf4, 0xf5, 0xff,
            ]),
        ]
    }

    proptest! {
        /// TXT-18.
        #[test]
        fn deltas_concatenate_to_the_lossy_decoding(
            tokens in prop::collection::vec(prop::collection::vec(tricky_byte(), 0..6), 0..40),
        ) {
            covers!("TXT-18");
            let mut detokenizer = Detokenizer::new();
            let mut text = String::new();
            for token in &tokens {
                text.push_str(&detokenizer.push(token));
                prop_assert!(detokenizer.pending.len() <= 3);
            }
            text.push_str(&detokenizer.finish());
            let bytes = tokens.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn valid_text_never_shows_a_replacement_character(text in "\\PC{0,40}", size in 1usize..5) {
            let mut detokenizer = Detokenizer::new();
            let mut out = String::new();
            for token in text.as_bytes().chunks(size) {
                out.push_str(&detokenizer.push(token));
                prop_assert!(text.starts_with(&out));
            }
            prop_assert_eq!(out, text);
        }
    }
}
