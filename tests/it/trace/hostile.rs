//! `index.json` of any content: read, or refused with the key or tensor that is wrong.

use super::{model, trace};
use crate::support::random::{Random, Replay, seeds};
use llorch_cpud::trace::index::{Index, IndexError};
use serde_json::{Value, json};

fn good() -> Value {
    serde_json::from_str(&trace(&model()).index.to_json()).expect("JSON")
}

fn refused(value: &Value) -> IndexError {
    let error = Index::parse(&value.to_string()).expect_err(&value.to_string());
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    error
}

/// TRACE-002.
#[test]
fn keys_that_are_missing_or_of_another_kind_are_named() {
    covers!("TRACE-002");
    assert!(Index::parse(&good().to_string()).is_ok());
    let keys = [
        "format",
        "producer",
        "architecture",
        "model",
        "weights",
        "kv_type",
        "prompt_tokens",
        "tokens",
        "heads",
        "kv_heads",
        "head_dim",
        "tensors",
    ];
    for key in keys {
        let mut index = good();
        index.as_object_mut().expect("an object").remove(key);
        assert!(refused(&index).to_string().contains(key), "{key}");
        for value in [json!(null), json!(-1), json!(1.5), json!(true), json!({}), json!([[]]), json!(1u64 << 40)] {
            let mut index = good();
            index[key] = value.clone();
            assert!(refused(&index).to_string().contains(key), "{key}: {value}");
        }
    }
    for (key, value) in [
        ("prompt_tokens", json!([])),
        ("prompt_tokens", json!([-1])),
        ("prompt_tokens", json!([1u64 << 31])),
        ("tokens", json!([])),
        ("tokens", json!(["1"])),
        ("heads", json!(0)),
        ("head_dim", json!(14)),
        ("isa", json!(7)),
        ("rope", json!("adjacent")),
        ("local_layers", json!(["0"])),
        ("rope_local", json!([1])),
    ] {
        let mut index = good();
        index[key] = value.clone();
        let _ = refused(&index);
    }
    assert!(matches!(refused(&json!([])), IndexError::Key { .. }));
    for text in ["", "{", "nonsense", "{\"format\": 1", "\u{0}", "{\"format\":1}}"] {
        assert!(Index::parse(text).is_err(), "{text:?}");
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(Index::parse(&deep), Err(IndexError::Json(_))));
}

#[test]
fn rotations_are_checked() {
    for (key, value) in [
        ("pairing", json!("quarters")),
        ("pairing", json!(null)),
        ("dimensions", json!(14)),
        ("dimensions", json!(0)),
        ("frequencies", json!([])),
        ("frequencies", json!([1, "x"])),
        ("magnitude", json!("1")),
    ] {
        let mut index = good();
        index["rope"][key] = value.clone();
        assert!(refused(&index).to_string().contains(key), "{key}: {value}");
    }
    let mut index = good();
    index["rope"]["frequencies"] = json!(vec![1.0; 9]);
    index["rope"]["dimensions"] = json!(18);
    assert!(refused(&index).to_string().contains("head_dim"));
}

/// TRACE-002: shapes, names and files of tensors.
#[test]
fn tensors_that_do_not_fit_are_named() {
    covers!("TRACE-002");
    for (key, value) in [
        ("file", json!("")),
        ("file", json!("../attn_norm.0.npy")),
        ("file", json!("/etc/passwd")),
        ("file", json!("..")),
        ("file", json!(".hidden")),
        ("file", json!("a\\b")),
        ("file", json!("a\u{0}b")),
        ("file", json!(3)),
        ("name", json!("attn_norms")),
        ("name", json!("logits")),
        ("name", json!("tokens")),
        ("checkpoint", json!(2)),
        ("checkpoint", json!(0)),
        ("layer", json!(null)),
        ("layer", json!(-1)),
        ("layer", json!(1u64 << 33)),
        ("layer", json!(1)),
        ("shape", json!([])),
        ("shape", json!([16])),
        ("shape", json!([15, 64])),
        ("shape", json!([16, 0])),
        ("shape", json!([16, -64])),
        ("shape", json!([16, 1u64 << 33])),
        ("shape", json!([16, 64, 1])),
        ("dtype", json!("i32")),
        ("dtype", json!("f64")),
        ("dtype", json!(null)),
        ("tolerance", json!(-1.0)),
        ("tolerance", json!("1e-5")),
        ("tolerance_reason", json!(1)),
    ] {
        let mut index = good();
        assert_eq!(index["tensors"][0]["name"], "attn_norm");
        index["tensors"][0][key] = value.clone();
        let _ = refused(&index);
    }
    let mut twice = good();
    let first = twice["tensors"][0].clone();
    twice["tensors"].as_array_mut().expect("an array").push(first);
    assert!(refused(&twice).to_string().contains("twice"));
    for (tensor, shape) in [("scores", json!([16, 4, 15])), ("q", json!([16, 63])), ("logits", json!([6, 300]))] {
        let mut index = good();
        let tensors = index["tensors"].as_array_mut().expect("an array");
        tensors.iter_mut().find(|t| t["name"] == tensor).expect("there is one")["shape"] = shape;
        assert!(refused(&index).to_string().contains("expected ["), "{tensor}");
    }
}

/// TRACE-002: no bytes make it panic.
#[test]
fn texts_with_flipped_bytes_never_panic() {
    covers!("TRACE-002");
    let text = good().to_string().into_bytes();
    for seed in seeds("TRACE_SEED", "TRACE_SEEDS", 3000) {
        let _replay = Replay { variable: "TRACE_SEED", seed };
        let mut random = Random::new(seed);
        let mut bytes = text.clone();
        for _ in 0..random.range(1, 4) {
            let at = random.range(0, bytes.len() as u32 - 1) as usize;
            bytes[at] = random.range(0, 127) as u8;
        }
        let text = String::from_utf8(bytes).expect("ASCII");
        if let Ok(index) = Index::parse(&text) {
            assert!(Index::parse(&index.to_json()).is_ok());
        }
    }
}
