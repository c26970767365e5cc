//! Paths that are no model: refused at once, with the path in the message.

use super::bytes::Raw;
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::gguf::{ExitKind, ModelFile};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

fn refused(path: &Path, words: &str) {
    let error = ModelFile::open(path).expect_err("refused");
    assert_eq!(error.exit_kind(), ExitKind::CannotOpen, "{error}");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()) && text.contains(words), "{text}");
}

#[test]
fn what_is_no_regular_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    refused(dir.path(), "directory");
    refused(&at("absent.gguf"), "No such file");
    refused(Path::new("/dev/zero"), "not a regular file");
    refused(Path::new("/dev/null"), "not a regular file");
    refused(Path::new("/dev/random"), "not a regular file");

    let made = Command::new("mkfifo").arg(at("fifo.gguf")).status().expect("mkfifo runs");
    assert!(made.success());
    refused(&at("fifo.gguf"), "not a regular file");
    let _socket = UnixListener::bind(at("s")).expect("a socket");
    refused(&at("s"), "");

    symlink(at("nowhere"), at("dangling")).expect("a link");
    refused(&at("dangling"), "No such file");
    symlink(at("loop"), at("loop")).expect("a link");
    refused(&at("loop"), "");
    refused(&at(&"n".repeat(5000)), "");
}

#[test]
fn a_link_to_a_model_opens() {
    let dir = tempfile::tempdir().expect("a folder");
    let (file, link) = (dir.path().join("m.gguf"), dir.path().join("link.gguf"));
    let bytes = TestModel::default().build();
    fs::write(&file, &bytes).expect("written");
    symlink(&file, &link).expect("a link");
    let (mapped, owned) = (ModelFile::open(&link).expect("opens"), ModelFile::from_bytes(bytes).expect("opens"));
    assert_eq!(mapped.header_sha256(), owned.header_sha256());
    assert_eq!(mapped.file_bytes(), owned.file_bytes());
    for info in owned.tensors() {
        let read = |file: &ModelFile| file.tensor(&info.name).expect("there").data.to_vec();
        assert_eq!(read(&mapped), read(&owned));
        mapped.release(&info.name);
        assert_eq!(read(&mapped), read(&owned), "after release");
    }
}

/// A terabyte of nothing behind a small header: refused or opened at once, without reading it.
#[test]
fn a_sparse_terabyte() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sparse.gguf");
    fs::write(&path, TestModel::default().build()).expect("written");
    let file = File::options().write(true).open(&path).expect("opens");
    if file.set_len(1 << 40).is_err() {
        return; // The file system has no files of this size.
    }
    assert_eq!(ModelFile::open(&path).expect("valid").file_bytes(), 1 << 40);
    fs::write(&path, b"GGUF\x03\0\0\0").expect("written");
    File::options().write(true).open(&path).and_then(|f| f.set_len(1 << 40)).expect("grown");
    assert!(ModelFile::open(&path).expect("a model of nothing").tensors().len() == 0);
}

#[test]
fn a_file_shorter_than_its_tensors() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("short.gguf");
    let bytes = TestModel::default().build();
    fs::write(&path, &bytes[..bytes.len() - 1000]).expect("written");
    let error = ModelFile::open(&path).expect_err("refused");
    assert_eq!(error.exit_kind(), ExitKind::BadData);
    assert!(error.to_string().contains("tensor blk.1.ffn_down.weight"), "{error}");
    fs::write(&path, b"").expect("written");
    assert_eq!(ModelFile::open(&path).expect_err("refused").exit_kind(), ExitKind::BadData);
}

#[test]
fn a_header_longer_than_any() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("endless.gguf");
    let head = Raw::new(0, 1).text("general.name").u32(8).u64(1 << 35);
    fs::write(&path, &head.0).expect("written");
    if File::options().write(true).open(&path).and_then(|f| f.set_len(1 << 36)).is_err() {
        return; // The file system has no files of this size.
    }
    let error = ModelFile::open(&path).expect_err("refused").to_string();
    assert!(error.contains("bytes before the tensor data") && error.contains("268435456"), "{error}");
}

/// A header longer than the first read is read on.
#[test]
fn a_header_of_many_megabytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("long.gguf");
    let long = "x".repeat(9 << 20);
    fs::write(&path, TestModel::default().with_key("general.description", long.as_str()).build()).expect("written");
    let file = ModelFile::open(&path).expect("valid");
    assert_eq!(file.metadata().require_str("general.description").expect("there").len(), 9 << 20);
    assert_eq!(file.tensor("output.weight").expect("there").dims, [64, 320]);
}

/// Bytes of `path` that are in this process's memory now.
fn resident(path: &Path) -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").expect("Linux");
    let name = path.display().to_string();
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(&name));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).expect("the file is mapped");
    rss.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn a_released_tensor_leaves_memory() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("m.gguf");
    let model = TestModel { hidden: 512, head_dim: 128, vocab: 4096, layers: 0, ..TestModel::default() };
    fs::write(&path, model.build()).expect("written");
    let file = ModelFile::open(&path).expect("valid");
    let read = || file.tensor("token_embd.weight").expect("there").data.iter().map(|&b| u64::from(b)).sum::<u64>();
    let (sum, tensor_bytes) = (read(), 512 * 4096 * 4);
    assert!(resident(&path) >= tensor_bytes);
    file.release("token_embd.weight");
    assert!(resident(&path) < tensor_bytes / 2, "{} bytes are left", resident(&path));
    assert_eq!(read(), sum);
}
