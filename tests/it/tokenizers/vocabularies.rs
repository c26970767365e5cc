//! Small vocabularies, built here.

use llorch_cpud::text::{Tokenizer, TokenizerData};

pub const NORMAL: i32 = 1;
pub const UNKNOWN: i32 = 2;
pub const CONTROL: i32 = 3;
pub const USER_DEFINED: i32 = 4;
pub const UNUSED: i32 = 5;
pub const BYTE: i32 = 6;

/// Ids of [`spm`].
pub const UNK: u32 = 0;
pub const BOS: u32 = 1;
pub const EOS: u32 = 2;

/// `<unk>`, `<s>`, `</s>`, the bytes from id 3 on, then `pieces` with their scores and types.
pub fn spm(pieces: &[(&str, f32, i32)]) -> TokenizerData {
    let mut tokens =
        vec![("<unk>".to_owned(), 0.0, UNKNOWN), ("<s>".into(), 0.0, CONTROL), ("</s>".into(), 0.0, CONTROL)];
    tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0, BYTE)));
    tokens.extend(pieces.iter().map(|(text, score, kind)| ((*text).to_owned(), *score, *kind)));
    TokenizerData {
        model: "llama".into(),
        scores: Some(tokens.iter().map(|token| token.1).collect()),
        token_types: Some(tokens.iter().map(|token| token.2).collect()),
        tokens: tokens.into_iter().map(|token| token.0).collect(),
        ..TokenizerData::default()
    }
}

/// Id of the byte token of `byte` in [`spm`].
pub fn byte_id(byte: u8) -> u32 {
    3 + u32::from(byte)
}

/// Characters of [`bpe`] in order of id: printable bytes stand for themselves, the others come from U+0100 on.
pub fn byte_characters() -> Vec<char> {
    let printable = |byte: &u8| (33..=126).contains(byte) || (161..=172).contains(byte) || *byte >= 174;
    let mut free = (0x100..).map(|code| char::from_u32(code).unwrap());
    (0..=255).map(|byte| if printable(&byte) { char::from(byte) } else { free.next().unwrap() }).collect()
}

/// The 256 bytes as ids `0 .. 256`, the results of the merges from 256 on, then `more` tokens with their types.
pub fn bpe(pre: &str, merges: &[(&str, &str)], more: &[(&str, i32)]) -> TokenizerData {
    let mut tokens: Vec<String> = byte_characters().into_iter().map(String::from).collect();
    for (left, right) in merges {
        let joined = format!("{left}{right}");
        if !tokens.contains(&joined) {
            tokens.push(joined);
        }
    }
    let mut types = vec![NORMAL; tokens.len()];
    tokens.extend(more.iter().map(|(text, _)| (*text).to_owned()));
    types.extend(more.iter().map(|(_, kind)| *kind));
    TokenizerData {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        tokens,
        token_types: Some(types),
        merges: Some(merges.iter().map(|(left, right)| format!("{left} {right}")).collect()),
        add_bos: Some(false),
        ..TokenizerData::default()
    }
}

pub fn build(data: &TokenizerData) -> Tokenizer {
    Tokenizer::from_data(data.clone()).unwrap()
}

/// The id of a spelling.
pub fn id(data: &TokenizerData, spelling: &str) -> u32 {
    data.tokens.iter().position(|token| token == spelling).unwrap() as u32
}

/// The spellings of ids.
pub fn spellings<'d>(data: &'d TokenizerData, ids: &[u32]) -> Vec<&'d str> {
    ids.iter().map(|&id| data.tokens[id as usize].as_str()).collect()
}
