//! Hostile GGUF files: each is refused with an error that names what is wrong, and nothing panics.

mod bytes;
mod fuzz;
mod headers;
mod paths;
mod real;
mod splits;
mod tables;

use llorch_cpud::gguf::parse::parse;
use llorch_cpud::gguf::{GgufError, ModelFile};

/// One bad file: what it is, its bytes, and words that its error must have.
struct Bad {
    what: &'static str,
    bytes: Vec<u8>,
    words: &'static [&'static str],
}

fn bad(what: &'static str, bytes: Vec<u8>, words: &'static [&'static str]) -> Bad {
    Bad { what, bytes, words }
}

/// Every file must be refused by the parser and by `ModelFile`, as bad data, in one line with the words.
fn assert_refused(files: Vec<Bad>) {
    for Bad { what, bytes, words } in files {
        let error = match parse(&bytes) {
            Err(error) => error,
            Ok(_) => panic!("{what}: accepted"),
        };
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{what}: {word:?} is not in: {text}");
        }
        assert!(!text.contains(char::is_control), "{what}: {text:?}");
        assert!(text.len() < 600, "{what}: an error of {} bytes", text.len());
        assert_eq!(error.exit_kind(), llorch_cpud::gguf::ExitKind::BadData, "{what}");
        let opened = ModelFile::from_bytes(bytes).map(|_| ()).map_err(|e: GgufError| e.to_string());
        assert_eq!(opened, Err(text), "{what}: ModelFile and parser disagree");
    }
}
