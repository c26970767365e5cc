//! The tokens of a text, as `specs/01_GPT2_PIPELINE.md` and `specs/02_LLAMA2_PIPELINE.md` have them. In their tables a
//! space is `·`.

use crate::spec::{named_table, table::Row};
use crate::tokenizers::vocabularies::{NORMAL, bpe, build, byte_characters, spm};
use llorch_cpud::gguf::ModelFile;
use llorch_cpud::text::Tokenizer;

fn text(row: &Row) -> String {
    row.text("text").replace('·', " ").replace('↵', "\n")
}

fn check(tokenizer: &Tokenizer, requirement: &str, name: &str, add_special: bool) {
    for row in named_table(requirement, name).rows() {
        let (text, expected) = (text(&row), row.list::<u32>("ids"));
        let ids = tokenizer.encode(&text, add_special, false).expect("every byte has a token");
        assert_eq!(ids, expected, "{requirement}: {text:?}");
        assert_eq!(String::from_utf8(tokenizer.decode(&ids)).as_deref(), Ok(&text[..]), "{requirement}");
    }
}

#[test]
fn gpt2_emb_001_bytes_characters_and_merges() {
    covers!("GPT2-EMB-001");
    for row in named_table("GPT2-EMB-001", "characters").rows() {
        let character = byte_characters()[row.get::<usize>("byte")];
        assert_eq!(u32::from(character), row.get::<u32>("character"));
    }
    let rows = named_table("GPT2-EMB-001", "merges");
    let merges: Vec<(&str, &str)> = rows.rows.iter().map(|cells| (&cells[1][..], &cells[2][..])).collect();
    let data = bpe("gpt-2", &merges, &[]);
    for row in rows.rows() {
        let spelling = format!("{}{}", row.text("left"), row.text("right"));
        assert_eq!(data.tokens[row.get::<usize>("id")], spelling);
    }
    check(&build(&data), "GPT2-EMB-001", "ids", true);
}

#[test]
fn llama2_emb_001_pieces_and_bytes() {
    covers!("LLAMA2-EMB-001");
    let rows = named_table("LLAMA2-EMB-001", "pieces");
    let pieces: Vec<(&str, f32, i32)> =
        rows.rows.iter().map(|cells| (&cells[1][..], cells[2].parse().expect("a score"), NORMAL)).collect();
    let data = spm(&pieces);
    for row in rows.rows() {
        assert_eq!(data.tokens[row.get::<usize>("id")], row.text("piece"));
    }
    check(&build(&data), "LLAMA2-EMB-001", "ids", true);
}

/// With the published vocabularies, where they are: LLORCH_CONFORMANCE_DIR.
#[test]
fn conformance_of_published_vocabularies() {
    let published = [("GPT2-EMB-001", "gpt-2"), ("LLAMA2-EMB-001", "llama-spm")];
    let tables = published.map(|(requirement, file)| (named_table(requirement, "published"), file));
    let Some(dir) = std::env::var_os("LLORCH_CONFORMANCE_DIR").map(std::path::PathBuf::from) else {
        eprintln!("NOT TESTED: published vocabularies need LLORCH_CONFORMANCE_DIR");
        return;
    };
    for (table, name) in tables {
        let path = dir.join("vocab").join(format!("ggml-vocab-{name}.gguf"));
        let file = ModelFile::open(&path).expect("the vocabulary opens");
        let tokenizer = Tokenizer::from_metadata(file.metadata()).expect("a tokenizer");
        for row in table.rows() {
            let ids = tokenizer.encode(&text(&row), true, false).expect("encoded");
            assert_eq!(ids, row.list::<u32>("ids"), "{name}: {}", row.text("text"));
        }
    }
}
