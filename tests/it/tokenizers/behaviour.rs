//! Encoding and decoding with small vocabularies; the oracles merge by trying everything.

use super::vocabularies::*;
use llorch_cpud::gguf::{ModelFile, test_model::TestModel};
use llorch_cpud::text::{EncodeError, Tokenizer, TokenizerData};
use proptest::prelude::*;
use std::collections::HashMap;

/// Pieces with equal scores, two ways to one piece, and `é`, which is no piece itself.
const PIECES: [(&str, f32, i32); 17] = [
    ("▁", -9.0, NORMAL),
    ("a", -9.0, NORMAL),
    ("b", -9.0, NORMAL),
    ("c", -9.0, NORMAL),
    ("ab", -2.0, NORMAL),
    ("bc", -1.0, NORMAL),
    ("ca", -2.0, NORMAL),
    ("abc", -3.0, NORMAL),
    ("bca", -3.0, NORMAL),
    ("aa", -0.0, NORMAL),
    ("aaa", 0.0, NORMAL),
    ("éa", -4.0, NORMAL),
    ("▁a", -3.5, NORMAL),
    ("▁▁", -3.5, NORMAL),
    ("▁▁▁", -4.0, NORMAL),
    ("<s", -1.0, NORMAL),
    ("<|x|>", 0.0, USER_DEFINED),
];

fn encode(data: &TokenizerData, text: &str, add_special: bool, parse_special: bool) -> Vec<String> {
    let ids = build(data).encode(text, add_special, parse_special).unwrap();
    spellings(data, &ids).into_iter().map(str::to_owned).collect()
}

/// TXT-11, TXT-14.
#[test]
fn sentence_piece_prefixes_a_space_and_falls_back_to_bytes() {
    covers!("TXT-11", "TXT-14");
    let data = spm(&PIECES);
    assert_eq!(encode(&data, "a b", false, false), ["▁a", "▁", "b"]);
    assert_eq!(encode(&data, "bé", false, false), ["▁", "b", "<0xC3>", "<0xA9>"]);
    assert_eq!(encode(&data, "éa", false, false), ["▁", "éa"]);
    assert_eq!(encode(&data, "", true, false), ["<s>"]);
    assert_eq!(encode(&data, "", false, false), Vec::<String>::new());
    let plain = TokenizerData { add_space_prefix: Some(false), ..data };
    assert_eq!(encode(&plain, "a b", false, false), ["a", "▁", "b"]);
}

/// TXT-9.
#[test]
fn special_tokens_are_text_unless_asked_for() {
    covers!("TXT-9");
    let data = spm(&PIECES);
    assert_eq!(encode(&data, "<s>a", true, false), ["<s>", "▁", "<s", "<0x3E>", "a"]);
    assert_eq!(encode(&data, "<s>a</s> b", true, true), ["<s>", "<s>", "▁a", "</s>", "▁▁", "b"]);
    assert_eq!(encode(&data, "a<|x|>b", false, false), ["▁a", "<|x|>", "▁", "b"]);
    assert_eq!(encode(&data, "<unk>", false, true), ["<unk>"]);
}

/// TXT-10.
#[test]
fn plain_text_never_merges_into_a_control_token() {
    covers!("TXT-10");
    let data = spm(&[("<", 0.0, NORMAL), ("s", 0.0, NORMAL), (">", 0.0, NORMAL), ("<s", 0.0, NORMAL)]);
    let ids = build(&data).encode("<s>", false, false).unwrap();
    assert!(!ids.contains(&BOS));
    let data = bpe("gpt-2", &[("n", "o"), ("no", "w")], &[]);
    let mut control = data.clone();
    let now = id(&data, "now");
    control.token_types.as_mut().unwrap()[now as usize] = CONTROL;
    assert_eq!(encode(&data, "now", false, false), ["now"]);
    assert_eq!(encode(&control, "now", false, false), ["no", "w"]);
    assert_eq!(encode(&control, "now", false, true), ["now"]);
}

/// TXT-9.
#[test]
fn the_longest_special_token_at_the_leftmost_place_is_taken() {
    let pieces = [("<x", 0.0, USER_DEFINED), ("<x>", 0.0, USER_DEFINED), ("x>y", 0.0, USER_DEFINED)];
    let data = TokenizerData { add_space_prefix: Some(false), ..spm(&pieces) };
    assert_eq!(encode(&data, "<x>y<x", false, false), ["<x>", "<0x79>", "<x"]);
}

/// TXT-7, TXT-25.
#[test]
fn bos_and_eos_are_added_as_the_file_says() {
    covers!("TXT-7", "TXT-25");
    let ends = |data: &TokenizerData| encode(data, "b", true, false);
    assert_eq!(ends(&spm(&PIECES)), ["<s>", "▁", "b"]);
    let data = TokenizerData { add_bos: Some(false), add_eos: Some(true), ..spm(&PIECES) };
    assert_eq!(ends(&data), ["▁", "b", "</s>"]);
    assert!(!build(&data).adds_bos());
    assert_eq!(build(&data).bos(), Some(BOS));
    let bos = [("tokenizer.ggml.bos_token_id", 256)];
    let unsaid = |pre| TokenizerData { add_bos: None, special_ids: bos.into(), ..bpe(pre, &[], &[("<b>", CONTROL)]) };
    assert_eq!(ends(&unsaid("gpt-2")), ["b"]);
    assert_eq!(ends(&unsaid("qwen2")), ["b"]);
    assert_eq!(ends(&unsaid("llama-bpe")), ["<b>", "b"]);
    assert_eq!(ends(&unsaid("tekken")), ["<b>", "b"]);
}

/// TXT-8.
#[test]
fn tokens_that_end_a_generation_come_from_keys_and_names() {
    covers!("GPT2-LOOP-002", "LLAMA2-LOOP-002");
    let data = spm(&[("<|eot_id|>", 0.0, NORMAL), ("a", 0.0, NORMAL), ("<end_of_turn>", 0.0, CONTROL)]);
    let (eot, a, turn) = (id(&data, "<|eot_id|>"), id(&data, "a"), id(&data, "<end_of_turn>"));
    assert_eq!(build(&data).eog_ids(), [EOS, eot, turn]);
    let keyed = TokenizerData { special_ids: vec![("tokenizer.ggml.eot_token_id", a)], ..data };
    let tokenizer = build(&keyed);
    assert_eq!(tokenizer.eog_ids(), [EOS, eot, a, turn]);
    assert_eq!(tokenizer.token_bytes(eot), b"", "a token that ends a generation by name is a control token");
    assert_eq!(tokenizer.piece(eot), b"<|eot_id|>");
    assert_eq!(tokenizer.token_bytes(a), b"a");
}

/// TXT-16, TXT-17.
#[test]
fn only_tokens_with_text_add_text() {
    covers!("TXT-16", "TXT-17");
    let data = spm(&[("▁a", 0.0, NORMAL), ("b▁", 0.0, USER_DEFINED), ("c", 0.0, UNUSED)]);
    let tokenizer = build(&data);
    assert_eq!(tokenizer.token_bytes(id(&data, "▁a")), b" a");
    assert_eq!(tokenizer.token_bytes(byte_id(0xe2)), b"\xe2");
    assert_eq!(tokenizer.token_bytes(id(&data, "b▁")), "b▁".as_bytes());
    for id in [UNK, BOS, EOS, id(&data, "c"), tokenizer.vocab_size() as u32, u32::MAX] {
        assert_eq!(tokenizer.token_bytes(id), b"", "{id}");
    }
    assert_eq!(tokenizer.decode(&[BOS, id(&data, "▁a"), id(&data, "▁a"), EOS]), b"a a");
    let plain = TokenizerData { add_space_prefix: Some(false), ..data };
    assert_eq!(build(&plain).decode(&[id(&plain, "▁a")]), b" a");
}

/// TXT-12, TXT-25.
#[test]
fn byte_level_bpe_merges_by_rank_and_ignores_merges_where_told() {
    covers!("TXT-12", "TXT-25");
    let merges = [("b", "c"), ("a", "b"), ("ab", "c"), ("Ġ", "a")];
    assert_eq!(encode(&bpe("gpt-2", &merges, &[]), "abc a", false, false), ["a", "bc", "Ġa"]);
    assert_eq!(encode(&bpe("qwen2", &merges, &[]), "abc a", false, false), ["a", "bc", "Ġa"]);
    for pre in ["llama-bpe", "tekken", "glm4"] {
        assert_eq!(encode(&bpe(pre, &merges, &[]), "abc a", false, false), ["abc", "Ġa"], "{pre}");
    }
    let data = bpe("gpt-2", &merges, &[]);
    let ids = build(&data).encode("é\n", false, false).unwrap();
    assert_eq!(ids, [0xc3, 0xa9, 0x0a]);
    assert_eq!(build(&data).decode(&ids), "é\n".as_bytes());
}

/// TXT-13.
#[test]
fn a_byte_without_a_token_is_an_error_and_not_left_out() {
    covers!("TXT-13");
    let mut data = bpe("gpt-2", &[], &[]);
    data.tokens[usize::from(b'q')] = "other".into();
    let tokenizer = build(&data);
    assert!(matches!(tokenizer.encode("aqa", false, false), Err(EncodeError::NoToken { byte: b'q' })));
    assert!(tokenizer.encode("aa", false, false).is_ok());
    let mut data = spm(&[]);
    data.tokens[byte_id(b'q') as usize] = "other".into();
    data.token_types.as_mut().unwrap()[byte_id(b'q') as usize] = NORMAL;
    assert_eq!(encode(&data, "q", false, false).last().unwrap(), "<unk>");
    // One unknown token for the character, not the bytes of it that have tokens as well.
    let mut data = TokenizerData { add_space_prefix: Some(false), ..spm(&[]) };
    data.tokens[byte_id(0xa9) as usize] = "other".into();
    data.token_types.as_mut().unwrap()[byte_id(0xa9) as usize] = NORMAL;
    assert_eq!(encode(&data, "qé", false, false), ["<0x71>", "<unk>"]);
}

/// TXT-15.
#[test]
fn long_texts_without_a_break_encode_and_decode() {
    covers!("TXT-15");
    let spm = build(&spm(&PIECES));
    let bpe = build(&bpe("llama-bpe", &[("a", "a"), ("aa", "aa"), ("Ġ", "Ġ")], &[]));
    let units = ["a", " ", "\n", "^", "\u{301}", "\u{378}", "\0", "\u{feff}", "👩\u{200d}", "abc", "<s>", "<"];
    for unit in units {
        let text = unit.repeat((1 << 20) / unit.len()) + "x";
        for tokenizer in [&spm, &bpe] {
            let ids = tokenizer.encode(&text, false, false).unwrap();
            assert!(tokenizer.decode(&ids) == text.as_bytes(), "{unit:?}");
        }
    }
}

/// Merges the best pair of neighbours of the whole text, again and again.
fn merge_all(mut parts: Vec<String>, rank: impl Fn(&str, &str) -> Option<f32>) -> Vec<String> {
    loop {
        let mut best: Option<(f32, usize)> = None;
        for (index, pair) in parts.windows(2).enumerate() {
            if let Some(score) = rank(&pair[0], &pair[1]).filter(|score| best.is_none_or(|(most, _)| *score > most)) {
                best = Some((score, index));
            }
        }
        let Some((_, index)) = best else { return parts };
        let right = parts.remove(index + 1);
        parts[index].push_str(&right);
    }
}

fn characters(text: &str) -> Vec<String> {
    text.chars().map(String::from).collect()
}

/// SentencePiece over the pieces, then byte tokens for what is no piece.
fn spm_oracle(pieces: &[(&str, f32, i32)], text: &str) -> Vec<String> {
    let scores: HashMap<String, f32> = pieces.iter().map(|(text, score, _)| ((*text).to_owned(), *score)).collect();
    let marked = format!(" {text}").replace(' ', "▁");
    let parts = merge_all(characters(&marked), |left, right| scores.get(&format!("{left}{right}")).copied());
    let spell = |part: String| match scores.contains_key(&part) {
        true => vec![part],
        false => part.bytes().map(|byte| format!("<0x{byte:02X}>")).collect(),
    };
    parts.into_iter().flat_map(spell).collect()
}

proptest! {
    #[test]
    fn sentence_piece_agrees_with_merging_by_hand(text in "[abc é]{1,40}") {
        prop_assert_eq!(encode(&spm(&PIECES), &text, false, false), spm_oracle(&PIECES, &text));
    }

    #[test]
    fn pieces_across_words_agree_with_merging_by_hand(text in "[ab ]{1,40}") {
        let pieces = [&PIECES[..], &[("a▁", -0.5, NORMAL), ("a▁a", -0.5, NORMAL), ("b▁▁", -0.7, NORMAL)]].concat();
        prop_assert_eq!(encode(&spm(&pieces), &text, false, false), spm_oracle(&pieces, &text));
    }

    #[test]
    fn byte_level_bpe_agrees_with_merging_by_hand(word in "[abc]{1,40}") {
        let merges = [("b", "c"), ("a", "b"), ("a", "a"), ("ab", "c"), ("a", "bc"), ("aa", "aa"), ("abc", "a")];
        let rank = |left: &str, right: &str| {
            merges.iter().position(|merge| *merge == (left, right)).map(|rank| -(rank as f32))
        };
        let data = bpe("gpt-2", &merges, &[]);
        prop_assert_eq!(encode(&data, &word, false, false), merge_all(characters(&word), rank));
    }
}

#[test]
fn decoding_undoes_encoding() {
    let names = ["gpt-2", "llama-bpe", "starcoder", "qwen2", "tekken", "deepseek-llm", "falcon", "superbpe"];
    let byte_level = names.map(|pre| build(&bpe(pre, &[("a", "b")], &[])));
    let tokenizers: Vec<Tokenizer> = byte_level.into_iter().chain([build(&spm(&PIECES))]).collect();
    proptest!(|(text in any::<String>())| {
        prop_assume!(!text.contains('▁'));
        for tokenizer in &tokenizers {
            let ids = tokenizer.encode(&text, true, false).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids), text.as_bytes());
        }
    });
}

/// TXT-5: converted models say "no such token" with the largest u32.
#[test]
fn an_id_of_minus_one_is_no_token() {
    covers!("TXT-5");
    for key in ["tokenizer.ggml.padding_token_id", "tokenizer.ggml.seperator_token_id"] {
        let file = ModelFile::from_bytes(TestModel::default().with_key(key, u32::MAX).build()).expect("a valid file");
        let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(tokenizer.eog_ids(), [2]);
    }
}
