//! The `tokenize` command as a process.

use llorch_cpud::gguf::test_model::TestModel;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn tokenize(model: &Path, flags: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llorch-cpud"));
    command.arg("tokenize").arg("--model").arg(model).args(flags);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that refuses its model exits without reading: the pipe is then broken.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn model_file() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&TestModel::default().build()).unwrap();
    file
}

#[test]
fn prints_ids_on_one_line() {
    let model = model_file();
    let ids = |flags: &[&str], text: &str| {
        let output = tokenize(model.path(), flags, text.as_bytes());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ids(&[], ""), "\n");
    assert_eq!(ids(&["--add-bos"], ""), "1\n");
    // The space is id 259, and 13 the byte token of a line feed.
    assert_eq!(ids(&["--add-bos"], "\n"), "1 259 13\n");
    assert_eq!(ids(&["--add-bos", "--parse-special"], "</s>"), "1 2\n");
}

#[test]
fn switches_come_from_variables_as_well() {
    let model = model_file();
    for (value, ids) in [("1", "1\n"), ("true", "1\n"), ("on", "1\n"), ("0", "\n"), ("false", "\n")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llorch-cpud"));
        command.arg("tokenize").arg("--model").arg(model.path()).env("LLORCH_ADD_BOS", value);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success() && output.stdout == ids.as_bytes(), "{value}: {output:?}");
    }
}

#[test]
fn refuses_in_one_line_with_the_exit_code_of_the_cause() {
    let model = model_file();
    let refused = |output: Output, code: i32, part: &str| {
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(part) && stderr.lines().count() == 1, "{stderr}");
    };
    refused(tokenize(model.path(), &[], b"ab\xff"), 65, "not UTF-8 at byte 2");
    refused(tokenize(Path::new("no-such-file.gguf"), &[], b""), 66, "no-such-file.gguf");
    refused(tokenize(model.path(), &["--ad-bos"], b""), 2, "'--ad-bos'");
    let mut no_text = tempfile::NamedTempFile::new().unwrap();
    no_text.write_all(b"a\xff").unwrap();
    let generate = |file: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llorch-cpud"));
        command.arg("generate").arg("--prompt-file").arg(file).arg("--model").arg(model.path());
        command.env("LLORCH_LOG", "error").output().unwrap()
    };
    refused(generate(no_text.path()), 65, "not UTF-8 at byte 1");
    refused(generate(Path::new("no-such-text")), 66, "--prompt-file no-such-text");
    let mut garbage = tempfile::NamedTempFile::new().unwrap();
    garbage.write_all(b"not a model").unwrap();
    refused(tokenize(garbage.path(), &[], b""), 65, "GGUF");
}
