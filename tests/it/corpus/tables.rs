//! What can be wrong in the tensor table and with the data it points to.

use super::bytes::Raw;
use super::{assert_refused, bad};
use llorch_cpud::gguf::parse::parse;
use llorch_cpud::gguf::test_model::TestModel;

const F32: u32 = 0;
const Q8_0: u32 = 8;
const Q4_K: u32 = 12;
const I8: u32 = 24;

fn one(name: impl AsRef<[u8]>, dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    Raw::new(1, 0).tensor(name, dims, ty, offset).padded()
}

#[test]
fn names() {
    let twice = Raw::new(2, 0).tensor("t", &[8], F32, 0).tensor("t", &[8], F32, 32).padded();
    assert_refused(vec![
        bad("a name of 64 bytes", one("n".repeat(64), &[8], F32, 0), &["name of entry 0", "64", "63"]),
        bad("an empty name", one("", &[8], F32, 0), &["name of entry 0", "0"]),
        bad("a name that is no UTF-8", one(b"a\xfe", &[8], F32, 0), &["not UTF-8"]),
        bad("a name with a newline", one("a\nb", &[8], F32, 0), &["tensor a\\nb", "control"]),
        bad("a name with a terminal escape", one("\x1b[31mred", &[8], F32, 0), &["control"]),
        bad("a name twice", twice, &["tensor t", "twice"]),
        bad("a name of 2^63 bytes", Raw::new(1, 0).u64(1 << 63).padded(), &["name of entry 0"]),
    ]);
    parse(&one("n".repeat(63), &[8], F32, 0)).expect("the longest name");
}

#[test]
fn dimensions() {
    let count = |n: u32| Raw::new(1, 0).text("t").u32(n).padded();
    let zero_at = |axis: usize| {
        let mut dims = [8; 4];
        dims[axis] = 0;
        one("t", &dims, F32, 0)
    };
    assert_refused(vec![
        bad("no dimensions", count(0), &["tensor t", "0 dimensions"]),
        bad("5 dimensions", count(5), &["tensor t", "5 dimensions"]),
        bad("2^32 - 1 dimensions", count(u32::MAX), &["4294967295 dimensions"]),
        bad("dimension 0 is 0", zero_at(0), &["tensor t", "dimension 0 is 0"]),
        bad("dimension 1 is 0", zero_at(1), &["dimension 1 is 0"]),
        bad("dimension 2 is 0", zero_at(2), &["dimension 2 is 0"]),
        bad("dimension 3 is 0", zero_at(3), &["dimension 3 is 0"]),
        bad("a negative dimension", one("t", &[8, u64::MAX], F32, 0), &["dimension 1 is 18446744073709551615"]),
        bad("2^33 x 2^33 wraps", one("t", &[1 << 33, 1 << 33], F32, 0), &["tensor t", "overflow"]),
        bad("four dimensions that wrap to 0", one("t", &[1 << 16; 4], I8, 0), &["overflow"]),
        bad("2^62 elements of 4 bytes wrap", one("t", &[1 << 62], F32, 0), &["overflow"]),
        bad("elements fit, bytes do not", one("t", &[1 << 31, 1 << 31], F32, 0), &["overflow"]),
        bad("2^62 bytes in a small file", one("t", &[1 << 62], I8, 0), &["tensor t", "its data end at byte"]),
        bad("nearly 2^64 blocks of 34 bytes", one("t", &[1 << 59, 31], Q8_0, 0), &["overflow"]),
    ]);
}

#[test]
fn types() {
    assert_refused(vec![
        bad("removed type 4", one("t", &[32], 4, 0), &["tensor t", "type 4 is unknown"]),
        bad("removed type 5", one("t", &[32], 5, 0), &["type 5 is unknown"]),
        bad("removed type 31", one("t", &[32], 31, 0), &["type 31"]),
        bad("removed type 33", one("t", &[32], 33, 0), &["type 33"]),
        bad("type 255", one("t", &[32], 255, 0), &["type 255"]),
        bad("type -1", one("t", &[32], u32::MAX, 0), &["type 4294967295"]),
        bad("rows of 48 in Q8_0", one("t", &[48], Q8_0, 0), &["tensor t", "48", "Q8_0"]),
        bad("rows of 128 in Q4_K", one("t", &[128, 2], Q4_K, 0), &["128", "Q4_K", "256"]),
    ]);
}

#[test]
fn offsets() {
    let two = |dims: [u64; 2], offsets: [u64; 2]| {
        let table = Raw::new(2, 0).tensor("a", &[dims[0]], I8, offsets[0]).tensor("b", &[dims[1]], I8, offsets[1]);
        table.data(4096).0
    };
    // The first tensor ends 2^32 bytes before 2^64; what follows it decides whether anything wraps.
    let huge = |size: u64| {
        let end = u64::MAX - (1 << 32) + 1;
        let table = Raw::new(2, 0).tensor("a", &[1 << 32, (1 << 32) - 1], I8, 0).tensor("b", &[size], I8, end);
        table.data(4096).0
    };
    assert_refused(vec![
        bad("an offset past the end", one("t", &[8], F32, 1 << 20), &["tensor t", "offset 1048576"]),
        bad("offset + size wraps", one("t", &[8], F32, u64::MAX - 31), &["tensor t", "offset"]),
        bad("an offset of no alignment", one("t", &[8], F32, 4), &["offset 4", "alignment 32"]),
        bad("the same place twice", two([64, 64], [0, 0]), &["tensor", "overlaps"]),
        bad("overlapping tensors", two([64, 64], [0, 32]), &["tensor b", "offset 32 overlaps"]),
        bad("overlapping, second first", two([64, 64], [32, 0]), &["tensor a", "offset 32 overlaps"]),
        bad("a gap", two([32, 32], [0, 64]), &["tensor b", "offset 64 leaves a gap"]),
        bad("a gap before the first", two([32, 32], [32, 64]), &["tensor a", "gap"]),
        bad("the sum of sizes wraps", huge(1 << 33), &["tensor b", "overflow"]),
        bad("a padded size wraps", huge((1 << 32) - 1), &["tensor b", "overflow"]),
        bad("header + offset + size wraps", two([(1 << 63) - 32, 1 << 62], [0, (1 << 63) - 32]), &["its data end at"]),
        bad("data of a terabyte", one("t", &[1 << 38], F32, 0), &["tensor t", "its data end at byte 1099511627"]),
    ]);
    parse(&two([40, 64], [0, 64])).expect("padding is no gap");
    parse(&two([64, 64], [64, 0])).expect("any order in the table");
}

#[test]
fn one_byte_less_data() {
    let whole = TestModel::default().build();
    let header = parse(&whole).expect("valid");
    let last = header.tensors.last().expect("tensors");
    let end = (header.data_offset + last.offset + last.num_bytes) as usize;
    parse(&whole[..end]).expect("padding after the last tensor may be absent");
    assert_refused(vec![bad(
        "one byte less",
        whole[..end - 1].to_vec(),
        &["tensor blk.1.ffn_down.weight", "its data end"],
    )]);
}
