//! What can be wrong before the tensor table: magic, version, counts, keys, values.

use super::bytes::Raw;
use super::{assert_refused, bad};
use llorch_cpud::gguf::parse::parse;

#[test]
fn magic_and_version() {
    let version = |v: u32| Raw(b"GGUF".to_vec()).u32(v).u64(0).u64(0).0;
    let swapped = [b"GGUF".as_slice(), &3u32.to_be_bytes(), &[0; 16]].concat();
    assert_refused(vec![
        bad("an empty file", vec![], &["not a GGUF file"]),
        bad("one byte", b"G".to_vec(), &["the file ends", "the header", "byte 0"]),
        bad("three bytes", b"GGU".to_vec(), &["the file ends", "byte 0"]),
        bad("the magic alone", b"GGUF".to_vec(), &["the file ends", "byte 4"]),
        bad("23 bytes", version(3)[..23].to_vec(), &["the file ends", "byte 16"]),
        bad("another magic", b"FUGG\x03\0\0\0".to_vec(), &["not a GGUF file", "FUGG"]),
        bad("magic in another case", b"GGUf\x03\0\0\0".to_vec(), &["GGUf"]),
        bad("an old ggml file", b"ggml\x03\0\0\0".to_vec(), &["ggml"]),
        bad("a zip", b"PK\x03\x04".to_vec(), &["PK"]),
        bad("a terminal escape as magic", b"\x1b[2J\n".to_vec(), &["not a GGUF file"]),
        bad("version 0", version(0), &["version 0", "unknown"]),
        bad("version 1", version(1), &["version 1", "too old"]),
        bad("version 4", version(4), &["version 4", "unknown"]),
        bad("the largest version", version(u32::MAX), &["4294967295"]),
        bad("big-endian", swapped, &["big-endian"]),
    ]);
}

#[test]
fn counts() {
    let n = |tensors: u64, keys: u64| Raw::new(tensors, keys).0;
    assert_refused(vec![
        bad("-1 tensors", n(u64::MAX, 0), &["number of tensors", "18446744073709551615", "32768"]),
        bad("2^63 - 1 tensors", n(i64::MAX as u64, 0), &["number of tensors"]),
        bad("as many tensors as fit in memory's size", n(u64::MAX / 72, 0), &["number of tensors"]),
        bad("-1 keys", n(0, u64::MAX), &["number of metadata keys"]),
        bad("2^63 - 1 keys", n(0, i64::MAX as u64), &["number of metadata keys"]),
        bad("5e8 keys in 24 bytes", n(0, 500_000_000), &["number of metadata keys", "500000000"]),
        bad("more keys than bytes", n(0, 60_000), &["the file ends", "840000 bytes needed"]),
        bad("more tensors than bytes", n(30_000, 0), &["the file ends"]),
        bad("a key more than there are", Raw::new(0, 2).key_u32("a", 1).0, &["the file ends"]),
        bad(
            "a key fewer than there are",
            Raw::new(1, 0).key_u32("a", 1).tensor("t", &[8], 0, 0).padded(),
            &["tensor a"],
        ),
    ]);
}

#[test]
fn keys() {
    let key = |text: &[u8]| Raw::new(0, 1).text(text).u32(4).u32(1).padded();
    let twice = Raw::new(0, 3).key_u32("b", 1).key_u32("a", 1).key_u32("b", 2).padded();
    assert_refused(vec![
        bad("an empty key", key(b""), &["length of metadata key 0 is 0"]),
        bad("a key of 65536 bytes", key(&[b'k'; 65_536]), &["length of metadata key 0", "65536", "65535"]),
        bad("a key that is no UTF-8", key(b"a\xff"), &["not UTF-8"]),
        bad("a key with a zero byte", key(b"a\0b"), &["key a\\0b", "control"]),
        bad("a key with a newline", key(b"a\nb"), &["a\\nb"]),
        bad("a key twice", twice, &["key b", "byte", "twice"]),
        bad("a key of 2^63 bytes", Raw::new(0, 1).u64(1 << 63).padded(), &["length of metadata key 0"]),
    ]);
    parse(&Raw::new(0, 2).key_u32("a", 1).key_u32("A", 1).0).expect("keys that differ in case are two keys");
    parse(&key(&[b'k'; 65_535])).expect("the longest key");
}

#[test]
fn strings() {
    let string = |len: u64| Raw::new(0, 1).text("general.name").u32(8).u64(len).raw(&[b'x'; 100]).0;
    let words: &[&str] = &["the file ends", "value of key general.name", "100 left"];
    assert_refused(vec![
        bad("a string of 2^63 bytes", string(1 << 63), words),
        bad("a string of 2^64 - 1 bytes", string(u64::MAX), words),
        bad("a string of 2^32 bytes", string(1 << 32), words),
        bad("a string of 1 GiB", string(1 << 30), words),
        bad("a string one byte too long", string(101), words),
    ]);
    parse(&string(100)).expect("a string to the last byte");
}

#[test]
fn arrays() {
    let array = |of: u32, len: u64| Raw::new(0, 1).array("list", of, len).raw(&[0; 64]).0;
    let words: &[&str] = &["the file ends", "value of key list", "64 left"];
    let nested = |depth: usize| {
        let open = Raw::new(0, 1).text("list").u32(9);
        (0..depth).fold(open, |raw, _| raw.u32(9).u64(1)).u32(4).u64(1).u32(7).padded()
    };
    assert_refused(vec![
        bad("2^61 elements of 8 bytes wrap", array(10, 1 << 61), words),
        bad("2^61 + 1 elements of 8 bytes wrap to 8", array(12, (1 << 61) + 1), words),
        bad("2^62 elements of 4 bytes wrap", array(4, 1 << 62), words),
        bad("2^64 / 64 elements", array(4, u64::MAX / 64), words),
        bad("2^64 - 1 bytes", array(0, u64::MAX), words),
        bad("one element too many", array(4, 17), words),
        bad("2^40 empty strings", array(8, 1 << 40), words),
        bad("2^61 strings wrap", array(8, 1 << 61), words),
        bad("nine strings in the room of eight", array(8, 9), words),
        bad("a string past the end", Raw::new(0, 1).array("list", 8, 1).u64(1 << 40).0, &["value of key list"]),
        bad("elements of type 13", array(13, 1), &["key list", "value type 13 is unknown"]),
        bad("an array of an array", nested(1), &["key list", "arrays of arrays"]),
        bad("arrays 10000 deep", nested(10_000), &["key list", "arrays of arrays"]),
        bad("a list with a bool of 2", Raw::new(0, 1).array("list", 7, 3).raw(&[0, 1, 2]).0, &["key list", "2 found"]),
    ]);
    parse(&array(4, 16)).expect("an array to the last byte");
    parse(&array(8, 8)).expect("eight empty strings");
}

#[test]
fn value_types() {
    let typed = |id: u32| Raw::new(0, 1).text("k").u32(id).padded();
    let boolean = |value: u8| Raw::new(0, 1).text("k").u32(7).u8(value).padded();
    assert_refused(vec![
        bad("value type 13", typed(13), &["key k", "byte", "value type 13 is unknown"]),
        bad("value type 255", typed(255), &["value type 255"]),
        bad("value type -1", typed(u32::MAX), &["value type 4294967295"]),
        bad("a bool of 2", boolean(2), &["key k", "2 found"]),
        bad("a bool of 255", boolean(255), &["255 found"]),
    ]);
    parse(&boolean(1)).expect("a bool");
}

#[test]
fn alignment() {
    let key = "general.alignment";
    let value = |v: u32| Raw::new(0, 1).key_u32(key, v).padded();
    let signed = Raw::new(0, 1).text(key).u32(5).u32(32).padded();
    let string = Raw::new(0, 1).text(key).u32(8).text("32").padded();
    let array = Raw::new(0, 1).array(key, 4, 1).u32(32).padded();
    let wide = Raw::new(0, 1).text(key).u32(10).u64(32).padded();
    assert_refused(vec![
        bad("alignment 0", value(0), &["general.alignment", "0 is not a power of two"]),
        bad("alignment 1", value(1), &["general.alignment", "1 is not"]),
        bad("alignment 3", value(3), &["3 is not a power of two"]),
        bad("alignment 24", value(24), &["24 is not a power of two"]),
        bad("alignment 2^30", value(1 << 30), &["1073741824"]),
        bad("alignment 2^31", value(1 << 31), &["2147483648"]),
        bad("alignment as i32", signed, &["general.alignment", "u32 expected", "i32 found"]),
        bad("alignment as a string", string, &["string found"]),
        bad("alignment as an array", array, &["array of 1 u32 found"]),
        bad("alignment as u64", wide, &["u64 found"]),
    ]);
    for good in [8, 64, 1 << 20] {
        assert_eq!(parse(&value(good)).expect("accepted").alignment, u64::from(good));
    }
}
