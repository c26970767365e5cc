//! Valid files cut at every byte and changed at random: never a panic, never much memory.

use super::assert_refused;
use super::bytes::Raw;
use llorch_cpud::gguf::ModelFile;
use llorch_cpud::gguf::parse::{Header, MAX_KEYS, MAX_TENSORS, parse};
use llorch_cpud::gguf::test_model::TestModel;
use proptest::prelude::*;

/// What a header may hold beyond the bytes it was read from.
const OVERHEAD: usize = 16 << 20;

fn small() -> Vec<u8> {
    let model =
        TestModel { hidden: 32, ffn: 32, layers: 1, heads: 2, kv_heads: 1, head_dim: 8, ..TestModel::default() };
    TestModel { vocab: 262, ..model }.build()
}

#[test]
fn every_truncation_is_refused() {
    covers!("ARCH-12");
    let whole = small();
    let header = parse(&whole).expect("valid");
    let step_after_header = 97;
    let mut cut = 0;
    while cut < whole.len() {
        assert!(parse(&whole[..cut]).is_err(), "cut at {cut} of {}", whole.len());
        cut += if cut < header.data_offset as usize + 64 { 1 } else { step_after_header };
    }
    assert_refused(vec![super::bad("cut in the last byte", whole[..whole.len() - 1].to_vec(), &["tensor"])]);
}

/// Reads everything a header offers, so that a bad range would show.
fn read_all(file: &ModelFile) {
    let m = file.metadata();
    for key in m.keys() {
        let _ = (m.u32(key), m.u64(key), m.f32(key), m.bool(key), m.str(key).is_ok());
        let _ = (m.f32s(key), m.i32s(key), m.u32s(key), m.raw(key));
        if let Ok(Some(strings)) = m.strings(key) {
            assert_eq!(strings.len(), strings.count());
        }
    }
    for info in file.tensors() {
        let tensor = file.tensor(&info.name).expect("in the table");
        assert_eq!(tensor.data.len() as u64, info.num_bytes);
        let _ = tensor.weight_type();
        file.release(&info.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_changes_never_panic(
        changes in prop::collection::vec((0.0f64..1.0, any::<u8>()), 1..8),
        header_only: bool,
    ) {
        let mut bytes = small();
        let end = if header_only { parse(&bytes).expect("valid").data_offset as usize } else { bytes.len() };
        for (place, value) in changes {
            let index = (place * end as f64) as usize;
            bytes[index] = value;
        }
        let length = bytes.len();
        if let Ok(file) = ModelFile::from_bytes(bytes.clone()) {
            read_all(&file);
            let header: Header = parse(&bytes).expect("parsed once already");
            prop_assert!(header.heap_bytes() <= length + OVERHEAD);
        }
    }

    #[test]
    fn numbers_of_special_values_never_panic(place in 0.0f64..1.0, value in prop::sample::select(vec![
        0u64, 1, 31, 32, 33, 1 << 16, 1 << 31, 1 << 32, 1 << 61, 1 << 62, (1 << 63) - 1, 1 << 63,
        u64::MAX - 31, u64::MAX,
    ])) {
        let mut bytes = small();
        let header_end = parse(&bytes).expect("valid").data_offset as usize;
        let index = (place * (header_end - 8) as f64) as usize;
        bytes[index..index + 8].copy_from_slice(&value.to_le_bytes());
        if let Ok(file) = ModelFile::from_bytes(bytes) {
            read_all(&file);
        }
    }

    #[test]
    fn random_bytes_after_the_magic_never_panic(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let bytes = [b"GGUF\x03\0\0\0".as_slice(), &tail].concat();
        let _ = parse(&bytes);
    }
}

/// The most entries of the fewest bytes: the index may not outgrow its bound.
#[test]
fn the_index_of_a_full_header_is_bounded() {
    covers!("ARCH-12");
    let names: Vec<String> = (0..MAX_KEYS.max(MAX_TENSORS)).map(|i| format!("{i:x}")).collect();
    let mut raw = Raw::new(MAX_TENSORS, MAX_KEYS);
    for name in &names[..MAX_KEYS as usize] {
        raw = raw.text(name).u32(7).u8(1);
    }
    for (index, name) in names[..MAX_TENSORS as usize].iter().enumerate() {
        raw = raw.tensor(name, &[1, 1, 1, 1], 24, 32 * index as u64);
    }
    let bytes = raw.data(32 * MAX_TENSORS as usize).0;
    let header = parse(&bytes).expect("within the limits");
    let heap = header.heap_bytes();
    assert!(heap <= bytes.len() + OVERHEAD, "{heap} bytes held for a file of {}", bytes.len());
    assert!(heap > header.tensors.len() * 100, "heap_bytes counts the table: {heap}");
}

/// 64 MiB of metadata are indexed without copying what they hold more than once.
#[test]
fn a_header_full_of_junk_costs_its_size() {
    covers!("ARCH-12");
    let text = vec![b'j'; 1 << 20];
    let raw = (0..64).fold(Raw::new(0, 64), |raw, i| raw.text(format!("junk.{i}")).u32(8).text(&text));
    let header = parse(&raw.0).expect("valid");
    assert!(header.heap_bytes() <= raw.0.len() + OVERHEAD);
    assert_eq!(header.metadata.str("junk.63").expect("a string").map(str::len), Some(1 << 20));
}
