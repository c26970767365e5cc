//! Split models: the parts of a whole, and all the ways in which they do not belong together.

use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::gguf::writer::{Value, Writer};
use llorch_cpud::gguf::{ExitKind, ModelFile};
use std::fs;
use std::path::{Path, PathBuf};

/// What a part says of itself.
#[derive(Clone)]
struct Part {
    number: u16,
    count: u16,
    total: i32,
    arch: &'static str,
    tensors: Vec<&'static str>,
}

fn part(number: u16, tensors: &[&'static str]) -> Part {
    Part { number, count: 3, total: 4, arch: "llama", tensors: tensors.into() }
}

fn whole() -> Vec<Part> {
    vec![part(0, &["a"]), part(1, &["b", "c"]), part(2, &["d"])]
}

fn bytes(part: &Part) -> Vec<u8> {
    let mut w = Writer::default();
    w.set("general.architecture", part.arch);
    w.set("split.no", Value::U16(part.number));
    w.set("split.count", Value::U16(part.count));
    w.set("split.tensors.count", Value::I32(part.total));
    for name in &part.tensors {
        w.tensor(name, &[2], 0).expect("F32");
    }
    let mut data = w.begin(Vec::new()).expect("written");
    for name in &part.tensors {
        data.begin_tensor().expect("the next");
        data.write(&[name.as_bytes()[0]; 8]).expect("written");
    }
    data.finish().expect("complete")
}

fn write(dir: &Path, parts: &[Part]) -> PathBuf {
    for (index, part) in parts.iter().enumerate() {
        fs::write(dir.join(format!("m-{:05}-of-00003.gguf", index + 1)), bytes(part)).expect("written");
    }
    dir.join("m-00001-of-00003.gguf")
}

#[test]
fn the_parts_make_one_model() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = ModelFile::open(&write(dir.path(), &whole())).expect("opens");
    let names: Vec<&str> = file.tensors().map(|info| info.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    for name in names {
        assert_eq!(file.tensor(name).expect("there").data, [name.as_bytes()[0]; 8]);
        file.release(name);
    }
    assert_eq!(file.num_parts(), 3);
    let size = |i: usize| bytes(&whole()[i]).len() as u64;
    assert_eq!(file.file_bytes(), size(0) + size(1) + size(2));
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    type Spoil = fn(&mut Vec<Part>);
    let cases: [(&str, Spoil, &[&str]); 9] = [
        ("a later part opened", |p| p[0].number = 1, &["split.no is 1", "00001-of-00003"]),
        ("parts in another order", |p| p.swap(1, 2), &["00002-of-00003", "split.no is 2, 1 expected"]),
        ("the first part twice", |p| p[1] = p[0].clone(), &["00002-of-00003", "split.no is 0"]),
        ("another architecture", |p| p[2].arch = "gpt2", &["00003-of-00003", "gpt2", "llama"]),
        ("another count", |p| p[1].count = 4, &["00002-of-00003", "split.count is 4", "3"]),
        ("a tensor too few", |p| p[2].tensors.clear(), &["split.tensors.count is 4", "3 tensors"]),
        ("a tensor in two parts", |p| p[2].tensors = vec!["a"], &["tensor a", "two parts"]),
        ("more parts than the name says", |p| p[0].count = 4, &["split.count is 4", "-00001-of-00004.gguf"]),
        ("too many parts", |p| p[0].count = 60_000, &["split.count is 60000", "limit"]),
    ];
    for (what, spoil, words) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        let mut parts = whole();
        spoil(&mut parts);
        let Err(error) = ModelFile::open(&write(dir.path(), &parts)) else { panic!("{what}: accepted") };
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{what}: {text}");
        assert_eq!(error.exit_kind(), ExitKind::BadData, "{what}");
    }
}

#[test]
fn a_part_alone_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = write(dir.path(), &whole());
    let renamed = dir.path().join("model.gguf");
    fs::copy(&first, &renamed).expect("copied");
    let error = ModelFile::open(&renamed).expect_err("refused").to_string();
    assert!(error.contains("model.gguf") && error.contains("-00001-of-00003.gguf"), "{error}");

    fs::remove_file(dir.path().join("m-00002-of-00003.gguf")).expect("removed");
    let error = ModelFile::open(&first).expect_err("refused");
    assert_eq!(error.exit_kind(), ExitKind::CannotOpen);
    assert!(error.to_string().contains("m-00002-of-00003.gguf"), "{error}");

    let alone = TestModel::default().with_key("split.count", Value::U16(2)).with_key("split.no", Value::U16(0));
    let error = ModelFile::from_bytes(alone.build()).expect_err("refused").to_string();
    assert!(error.contains("split.count is 2"), "{error}");
    let one = TestModel::default().with_key("split.count", Value::U16(1));
    ModelFile::from_bytes(one.build()).expect("one part is a whole");
}
