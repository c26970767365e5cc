//! Tokenizer data that no converter should write: typed errors that name the key, no panic.

use super::vocabularies::*;
use llorch_cpud::gguf::parse::parse;
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::gguf::writer::Value;
use llorch_cpud::text::{Tokenizer, TokenizerData};

/// The error's line.
fn refusal(data: TokenizerData) -> String {
    let error = Tokenizer::from_data(data).err().expect("the data must be refused").to_string();
    assert!(!error.contains('\n') && error.len() < 400, "{error}");
    error
}

fn edited(mut data: TokenizerData, edit: impl FnOnce(&mut TokenizerData)) -> TokenizerData {
    edit(&mut data);
    data
}

fn with_special(key: &'static str, id: u32) -> TokenizerData {
    edited(spm(&[]), |data| data.special_ids.push((key, id)))
}

#[track_caller]
fn assert_refused(data: TokenizerData, parts: &[&str]) {
    let error = refusal(data);
    for part in parts {
        assert!(error.contains(part), "{error:?} does not name {part:?}");
    }
}

/// TXT-1.
#[test]
fn unknown_models_and_pre_tokenizers_are_refused_by_name() {
    covers!("TXT-1");
    for model in ["bert", "t5", "", "rwkv", "LLAMA"] {
        assert_refused(edited(spm(&[]), |data| data.model = model.into()), &["tokenizer.ggml.model", model]);
    }
    for pre in ["default", "", "gpt2", "llama-bpe ", "QWEN2", "kimi-k2", "gemma4"] {
        assert_refused(bpe(pre, &[], &[]), &["tokenizer.ggml.pre", pre]);
    }
    assert_refused(edited(bpe("gpt-2", &[], &[]), |data| data.pre = None), &["tokenizer.ggml.pre", "missing"]);
    let long = "x".repeat(1 << 20);
    assert_refused(edited(spm(&[]), |data| data.model = long), &["(1048576 bytes)"]);
    assert_refused(edited(spm(&[]), |data| data.model = "a\n\u{1b}[31m".into()), &["a\\n\\u{1b}[31m"]);
}

/// TXT-2.
#[test]
fn arrays_that_do_not_fit_the_tokens_are_refused() {
    covers!("TXT-2");
    assert_refused(edited(spm(&[]), |data| data.tokens.clear()), &["tokenizer.ggml.tokens", "empty"]);
    let short = |key| ["tokenizer.ggml.".to_owned() + key, "258 entries for 259 tokens".to_owned()];
    let scores = edited(spm(&[]), |data| data.scores.as_mut().unwrap().truncate(258));
    assert_refused(scores, &short("scores").each_ref().map(String::as_str));
    let types = edited(spm(&[]), |data| data.token_types.as_mut().unwrap().truncate(258));
    assert_refused(types, &short("token_type").each_ref().map(String::as_str));
    assert_refused(edited(bpe("gpt-2", &[], &[]), |data| data.merges = None), &["tokenizer.ggml.merges: missing"]);
}

/// TXT-2, TXT-5.
#[test]
fn values_outside_their_range_are_refused() {
    covers!("TXT-2", "TXT-5");
    let nan = edited(spm(&[]), |data| data.scores.as_mut().unwrap()[7] = f32::NAN);
    assert_refused(nan, &["tokenizer.ggml.scores", "token 7", "NaN"]);
    for value in [-1, 7, i32::MAX, i32::MIN] {
        let data = edited(spm(&[]), |data| data.token_types.as_mut().unwrap()[9] = value);
        assert_refused(data, &["tokenizer.ggml.token_type", "token 9", &value.to_string()]);
    }
    for key in ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.padding_token_id"] {
        for id in [259, u32::MAX] {
            assert_refused(with_special(key, id), &[key, &id.to_string(), "259 tokens"]);
        }
    }
    for score in [f32::INFINITY, f32::NEG_INFINITY] {
        let data = spm(&[("a", score, NORMAL), ("aa", score, NORMAL)]);
        assert_eq!(build(&data).encode("aa", false, false).unwrap().last(), Some(&id(&data, "aa")));
    }
}

/// TXT-2.
#[test]
fn duplicate_tokens_are_refused_and_empty_ones_are_never_used() {
    covers!("TXT-2");
    assert_refused(spm(&[("a", 0.0, NORMAL), ("a", 0.0, NORMAL)]), &["\"a\"", "token 259", "token 260"]);
    let data = spm(&[("", 0.0, NORMAL), ("", 0.0, USER_DEFINED), ("", 0.0, CONTROL)]);
    let ids = build(&data).encode("a b", true, true).unwrap();
    assert!(ids.iter().all(|&id| id < 259));
    assert_eq!(build(&data).piece(260), b"");
}

/// TXT-3.
#[test]
fn bad_byte_tokens_are_refused() {
    covers!("TXT-3");
    for text in ["<0x-1>", "<0xZZ>", "<0x>", "<0x100>", "<0x+1>", "", "é"] {
        let data = edited(spm(&[]), |data| data.tokens[byte_id(5) as usize] = text.into());
        assert_refused(data, &["tokenizer.ggml.tokens", "byte token 8", &format!("{text:?}")]);
    }
    let twice = edited(spm(&[]), |data| data.tokens[byte_id(5) as usize] = "<0x0a>".into());
    assert_refused(twice, &["byte 0x0a", "tokens 8 and 13"]);
}

/// TXT-4.
#[test]
fn bad_merges_are_refused() {
    covers!("TXT-4");
    let merges = |list: &[&str]| {
        edited(bpe("gpt-2", &[("a", "b")], &[]), |data| {
            data.merges = Some(list.iter().map(|merge| (*merge).to_owned()).collect());
        })
    };
    for bad in ["", "a", "ab", " ", "a ", " a", "  ", "a  b", "a b c", "a zz", "zz a", "b a", "é", "a\u{2003}b"] {
        assert_refused(merges(&["a b", bad]), &["tokenizer.ggml.merges: merge 1", &format!("{bad:?}")]);
    }
    assert_refused(merges(&[&format!("a {}", "b".repeat(1 << 20))]), &["merge 0", "1048578 bytes"]);
    let twice = edited(bpe("gpt-2", &[("a", "b"), ("b", "c")], &[]), |data| {
        data.merges = Some(["a b", "b c", "a b"].map(String::from).into());
    });
    let ids = build(&twice).encode("abc", false, false).unwrap();
    assert_eq!(spellings(&twice, &ids), ["ab", "c"], "the first of equal merges counts");
}

/// TXT-6, TXT-7.
#[test]
fn a_vocabulary_of_one_token_is_refused_only_if_it_needs_more() {
    covers!("TXT-6", "TXT-7");
    let one = TokenizerData { model: "llama".into(), tokens: vec!["a".into()], ..TokenizerData::default() };
    assert_refused(one.clone(), &["tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id"]);
    let one = TokenizerData { add_bos: Some(false), add_space_prefix: Some(false), ..one };
    let tokenizer = build(&one);
    assert_eq!(tokenizer.encode("aa", true, true).unwrap(), [0, 0]);
    assert!(tokenizer.eog_ids().is_empty(), "no token ends a generation");
    assert_refused(TokenizerData { add_eos: Some(true), ..one }, &["add_eos_token", "eos_token_id"]);
}

#[test]
fn special_tokens_may_be_any_text() {
    let pieces = [("(a+)+b", 0.0, USER_DEFINED), (".*", 0.0, USER_DEFINED), ("\\", 0.0, USER_DEFINED)];
    let data = TokenizerData { add_space_prefix: Some(false), ..spm(&pieces) };
    let ids = build(&data).encode("aaab.*\\", false, false).unwrap();
    assert_eq!(spellings(&data, &ids), ["<0x61>", "<0x61>", "<0x61>", "<0x62>", ".*", "\\"]);
    let many: Vec<String> = (0..50_000).map(|index| format!("<extra_{index}>")).collect();
    let pieces: Vec<_> = many.iter().map(|text| (text.as_str(), 0.0, USER_DEFINED)).collect();
    let data = spm(&pieces);
    let ids = build(&data).encode("<extra_12345><extra_1234>", false, false).unwrap();
    assert_eq!(spellings(&data, &ids), ["<extra_12345>", "<extra_1234>"]);
}

/// A valid file with one key replaced.
fn file_refusal(key: &str, value: Value) -> String {
    let bytes = TestModel::default().with_key(key, value).build();
    let header = parse(&bytes).unwrap();
    Tokenizer::from_metadata(&header.metadata).err().expect("the file must be refused").to_string()
}

#[test]
fn keys_of_another_type_are_refused() {
    let names = |key: &str, value: Value| {
        let key = format!("tokenizer.ggml.{key}");
        let error = file_refusal(&key, value);
        assert!(error.contains(&key), "{error:?} does not name {key}");
    };
    names("model", Value::U32(1));
    names("tokens", Value::Str("a".into()));
    names("tokens", Value::I32s(vec![1]));
    names("tokens", Value::Strs(Vec::new()));
    names("scores", Value::I32s(vec![0; 512]));
    names("scores", Value::F32(1.0));
    names("scores", Value::F32s(vec![0.0]));
    names("token_type", Value::F32s(vec![1.0; 512]));
    names("token_type", Value::I32s(vec![1]));
    names("bos_token_id", Value::I32(-1));
    names("eos_token_id", Value::U64(1 << 32));
    names("eos_token_id", Value::Str("2".into()));
    names("add_bos_token", Value::U32(1));
    names("add_space_prefix", Value::Str("true".into()));
    names("merges", Value::U32s(vec![1]));
    let bytes = TestModel::default().with_key_removed("tokenizer.ggml.tokens").build();
    let error = Tokenizer::from_metadata(&parse(&bytes).unwrap().metadata).err().unwrap();
    assert_eq!(error.to_string(), "tokenizer.ggml.tokens: missing");
}

#[test]
fn the_vocabulary_of_test_models_encodes_and_decodes() {
    let bytes = TestModel::default().build();
    let tokenizer = Tokenizer::from_metadata(&parse(&bytes).unwrap().metadata).unwrap();
    let ids = tokenizer.encode("hello, wörld", true, false).unwrap();
    assert_eq!(ids[0], BOS);
    assert_eq!(tokenizer.decode(&ids), "hello, wörld".as_bytes());
    assert_eq!(tokenizer.eog_ids(), [EOS]);
}
