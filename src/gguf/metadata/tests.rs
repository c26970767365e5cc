use crate::gguf::parse::parse;
use crate::gguf::writer::{Value, Writer};
use crate::gguf::{GgufError, Metadata};

fn metadata(keys: &[(&str, Value)]) -> Metadata {
    let mut w = Writer::default();
    keys.iter().for_each(|(key, value)| w.set(key, value.clone()));
    parse(&w.header()).expect("a valid header").metadata
}

fn message<T>(result: Result<T, GgufError>) -> String {
    result.err().expect("refused").to_string()
}

#[test]
fn integers_of_every_type_are_taken_where_they_fit() {
    let values = [
        Value::U8(200),
        Value::Raw(1, vec![100]),
        Value::U16(60_000),
        Value::Raw(3, 30_000i16.to_le_bytes().into()),
        Value::U32(u32::MAX),
        Value::I32(i32::MAX),
        Value::U64(7),
        Value::Raw(11, 8i64.to_le_bytes().into()),
    ];
    let expected = [200, 100, 60_000, 30_000, u32::MAX, i32::MAX as u32, 7, 8];
    for (value, expected) in values.into_iter().zip(expected) {
        let m = metadata(&[("k", value)]);
        assert_eq!(m.u32("k").expect("fits"), Some(expected));
        assert_eq!(m.u64("k").expect("fits"), Some(u64::from(expected)));
    }
}

#[test]
fn integers_out_of_range_are_refused_with_their_value() {
    for (value, shown) in [
        (Value::I32(-1), "-1"),
        (Value::Raw(1, vec![0x80]), "-128"),
        (Value::U64(1 << 32), "4294967296"),
        (Value::Raw(11, i64::MIN.to_le_bytes().into()), "-9223372036854775808"),
    ] {
        let text = message(metadata(&[("k", value)]).u32("k"));
        assert!(text.contains("key k") && text.contains(shown), "{text}");
    }
    assert_eq!(metadata(&[("k", Value::U64(u64::MAX))]).u64("k").expect("fits"), Some(u64::MAX));
}

#[test]
fn another_type_is_an_error_that_names_both() {
    let m = metadata(&[
        ("float", 1.5f32.into()),
        ("text", "x".into()),
        ("flag", true.into()),
        ("list", Value::U32s(vec![1, 2])),
        ("number", 5u32.into()),
        ("broken", Value::Raw(8, [2u64.to_le_bytes().as_slice(), &[0xff, 0xfe]].concat())),
    ]);
    assert_eq!(message(m.u32("float")), "key float: an unsigned integer of 32 bits expected, f32 found");
    assert_eq!(message(m.u32("flag")), "key flag: an unsigned integer of 32 bits expected, bool found");
    assert_eq!(message(m.u64("list")), "key list: an unsigned integer of 64 bits expected, array of 2 u32 found");
    assert_eq!(message(m.f32("number")), "key number: a float expected, u32 found");
    assert_eq!(message(m.bool("number")), "key number: a bool expected, u32 found");
    assert_eq!(message(m.str("number")), "key number: a string expected, u32 found");
    assert_eq!(message(m.str("broken")), "key broken: a string expected, bytes that are no UTF-8 found");
    assert_eq!(message(m.f32s("list")), "key list: an array of f32 expected, array of 2 u32 found");
    assert_eq!(message(m.u32s("text")), "key text: an array of u32 expected, string found");
    assert!(message(m.strings("list").map(|_| ())).contains("an array of strings expected"));
}

#[test]
fn absent_keys_are_none_and_required_ones_an_error() {
    let m = metadata(&[("a", 1u32.into())]);
    assert!(m.u32("b").expect("no error").is_none() && m.f32("b").expect("no error").is_none());
    assert!(m.str("b").expect("no error").is_none() && m.bool("b").expect("no error").is_none());
    assert!(m.strings("b").expect("no error").is_none() && m.f32s("b").expect("no error").is_none());
    assert_eq!(message(m.require_u32("llama.block_count")), "key llama.block_count is missing");
    assert_eq!(message(m.require_str("b")), "key b is missing");
}

#[test]
fn arrays_come_back_as_written() {
    let m = metadata(&[
        ("f", Value::F32s(vec![1.0, -0.5])),
        ("i", Value::I32s(vec![3, -1])),
        ("u", Value::U32s(vec![1, 2])),
        ("s", Value::Strs(vec!["one".into(), String::new(), "drei\u{2581}".into()])),
        ("empty", Value::Strs(Vec::new())),
    ]);
    assert_eq!(m.f32s("f").expect("f32").expect("there"), [1.0, -0.5]);
    assert_eq!(m.i32s("i").expect("i32").expect("there"), [3, -1]);
    assert_eq!(m.i32s("u").expect("all fit").expect("there"), [1, 2]);
    assert_eq!(m.u32s("u").expect("u32").expect("there"), [1, 2]);
    assert!(m.u32s("i").is_err(), "-1 is no u32");
    let strings: Vec<&str> = m.strings("s").expect("strings").expect("there").collect();
    assert_eq!(strings, ["one", "", "drei\u{2581}"]);
    assert_eq!(m.strings("empty").expect("strings").expect("there").len(), 0);
}

#[test]
fn strings_that_are_no_utf8_can_be_read_as_bytes() {
    let bytes = [8u32.to_le_bytes().as_slice(), &1u64.to_le_bytes(), &1u64.to_le_bytes(), &[0xff]].concat();
    let m = metadata(&[("k", Value::Raw(9, bytes))]);
    assert!(message(m.strings("k").map(|_| ())).contains("element 0 is no UTF-8"));
    assert_eq!(m.byte_strings("k").expect("strings").expect("there").collect::<Vec<_>>(), [&[0xff]]);
}

#[test]
fn raw_values_can_be_written_again() {
    let keys = [
        ("a", Value::U8(3)),
        ("b", "text".into()),
        ("c", Value::Strs(vec!["x".into(), "yz".into()])),
        ("d", Value::F64(1e300)),
    ];
    let first = metadata(&keys);
    let copies: Vec<(&str, Value)> = first
        .keys()
        .map(|key| {
            let (ty, bytes) = first.raw(key).expect("there");
            (key, Value::Raw(ty, bytes.into()))
        })
        .collect();
    let second = metadata(&copies);
    for (key, _) in &keys {
        assert_eq!(first.raw(key), second.raw(key), "{key}");
    }
    assert_eq!(second.f32("d").expect("a float"), Some(f32::INFINITY));
    assert_eq!(second.str("b").expect("a string"), Some("text"));
    assert_eq!(first.type_name("c").as_deref(), Some("array of 2 string"));
}
