//! Special tokens, byte tokens and spaces against llama.cpp
//! (`tests/golden/tokenizers/special_tokens.json`), under the sets of
//! keys that the families have. `tests/reference/make_special_tokens.py` made the file.

use super::vocabularies::{bpe, spm};
use llorch_cpud::text::{Tokenizer, TokenizerData};
use serde_json::Value;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizers/special_tokens.json");
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// The vocabulary of a case: that of the golden file after the byte tokens, with the case's keys and types.
fn data_of(golden: &Value, case: &Value) -> TokenizerData {
    let model = case["model"].as_str().unwrap();
    let tokens: Vec<(&str, f32, i32)> = golden[&format!("tokens_{model}")]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| (token[0].as_str().unwrap(), token[1].as_f64().unwrap() as f32, token[2].as_i64().unwrap() as i32))
        .collect();
    let mut data = if model == "llama" {
        spm(&tokens)
    } else {
        let more: Vec<(&str, i32)> = tokens.iter().map(|(text, _, kind)| (*text, *kind)).collect();
        let merges = strings(&golden["merges"]).into_iter().map(String::from).collect();
        TokenizerData { merges: Some(merges), ..bpe("", &[], &more) }
    };
    let types = data.token_types.as_mut().unwrap();
    for (spelling, kind) in case["types"].as_object().unwrap() {
        let id = data.tokens.iter().position(|token| token == spelling).unwrap();
        types[id] = kind.as_i64().unwrap() as i32;
    }
    let keys = &case["keys"];
    let special = [
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.unknown_token_id",
        "tokenizer.ggml.fim_pre_token_id",
        "tokenizer.ggml.prefix_token_id",
    ];
    let id = |key: &str| keys[key.strip_prefix("tokenizer.ggml.").unwrap()].as_u64().map(|id| id as u32);
    data.special_ids = special.into_iter().filter_map(|key| Some((key, id(key)?))).collect();
    data.pre = keys["pre"].as_str().map(String::from);
    data.add_bos = keys["add_bos_token"].as_bool();
    data.add_eos = keys["add_eos_token"].as_bool();
    data.add_space_prefix = keys["add_space_prefix"].as_bool();
    data.model_name = case["name"].as_str().map(String::from);
    data
}

/// TXT-9, TXT-11, TXT-27, TXT-28.
#[test]
fn special_tokens_and_spaces_agree_with_llama_cpp() {
    covers!("TXT-9", "TXT-11", "TXT-27", "TXT-28");
    let golden = golden();
    let texts = strings(&golden["texts"]);
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 14 && texts.len() >= 70);
    let mut differences = Vec::new();
    for case in cases {
        let what = format!("{} {} {} {}", case["model"], case["keys"], case["name"], case["types"]);
        let tokenizer = Tokenizer::from_data(data_of(&golden, case)).unwrap_or_else(|e| panic!("{what}: {e}"));
        for (label, add_special, parse_special) in
            [("text", false, false), ("parsed", false, true), ("whole", true, true)]
        {
            for (text, expected) in texts.iter().zip(strings(&case[label])) {
                let ids: Vec<String> =
                    tokenizer.encode(text, add_special, parse_special).unwrap().iter().map(u32::to_string).collect();
                if ids.join(" ") != expected {
                    differences.push(format!("{what}\n  {label} {text:?}: {}, llama.cpp {expected}", ids.join(" ")));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

/// TXT-8, TXT-16.
#[test]
fn ends_of_generation_and_pieces_agree_with_llama_cpp() {
    covers!("TXT-8", "TXT-16");
    let golden = golden();
    for case in golden["cases"].as_array().unwrap() {
        let data = data_of(&golden, case);
        let tokenizer = Tokenizer::from_data(data.clone()).unwrap();
        let ends: Vec<u64> = case["ends"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        assert_eq!(tokenizer.eog_ids().iter().map(|id| u64::from(*id)).collect::<Vec<_>>(), ends, "{}", case["keys"]);
        let pieces = strings(&case["pieces"]);
        let first = data.tokens.len() - pieces.len();
        for (id, piece) in (first..).zip(pieces) {
            let bytes = tokenizer.token_bytes(id as u32);
            assert_eq!(bytes, piece.as_bytes(), "{} {:?}", case["keys"], data.tokens[id]);
        }
    }
}
