//! Words against llama.cpp (`tests/golden/tokenizers/pre_tokenizers.json`) and against the published patterns.

use super::PreTokenizer;
use super::table::{Split, TABLE};
use proptest::prelude::*;
use serde_json::Value;
use tokenizers::tokenizer::pattern::Pattern;
use tokenizers::utils::SysRegex;

const GOLDEN: &str = include_str!("../../../tests/golden/tokenizers/pre_tokenizers.json");

/// Where llama.cpp does not have the published pattern but one near it: names, and the characters that it takes for
/// others. Letters with case are "no ASCII letter of the other case", and marks no letters; white space is never of a
/// script; digits are ASCII.
const APPROXIMATED: [(&[&str], &str); 3] = [
    (&["tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], r"[[\p{LC}\p{M}]--[A-Za-z]]"),
    (&["deepseek-llm", "deepseek-coder"], r"[\s&&[\x{0800}-\x{9FA5}]]"),
    (&["superbpe"], r"[\d--[0-9]]"),
];

/// The published patterns of each row of the table, look-ahead and all, for a backtracking engine: the first name of
/// the row, then the patterns. Words in capitals stand for the parts below. That of deepseek-llm lists a thousand
/// ranges; it is compared with llama.cpp only.
const PUBLISHED: [(&str, &[&str]); 18] = [
    ("gpt-2", &["GPT2"]),
    ("starcoder", &[r"\p{N}", "GPT2"]),
    ("llama-bpe", &[r"CONTRACTIONS|LETTERS|\p{N}{1,3}|SIGNS[\r\n]*|SPACES"]),
    ("dbrx", &[r"CONTRACTIONS|LETTERS|\p{N}{1,3}|SIGNS[\r\n]*|SPACES"]),
    ("glm4", &[r"CONTRACTIONS|LETTERS|\p{N}{1,3}|SIGNS[\r\n]*|SPACES"]),
    ("qwen2", &[r"CONTRACTIONS|LETTERS|\p{N}|SIGNS[\r\n]*|SPACES"]),
    (
        "qwen35",
        &[r"CONTRACTIONS|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|SPACES"], //
    ),
    ("ufakzeka", &[r"LETTERS|\p{N}|SIGNS[\r\n]*|SPACES"]),
    ("seed-coder", &[r"CONTRACTIONS|LETTERS|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|SPACES"]),
    ("minicpm5", &[r"\p{N}{1,3}", r"CONTRACTIONS|LETTERS|\p{N}+|SIGNS[\r\n]*|SPACES"]),
    ("tekken", &[r"OTHER?UPPER*LOWER+|OTHER?UPPER+LOWER*|\p{N}|SIGNS[\r\n/]*|SPACES"]),
    (
        "gpt-4o",
        &[r"OTHER?UPPER*LOWER+CONTRACTIONS?|OTHER?UPPER+LOWER*CONTRACTIONS?|\p{N}{1,3}|SIGNS[\r\n/]*|SPACES"], //
    ),
    ("deepseek-coder", &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"]),
    (
        "deepseek-v3",
        &[
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"##,
                r" ?[\p{P}\p{S}]+[\r\n]*|SPACES",
            ),
        ],
    ),
    ("falcon", &[r"[\p{P}\$\+<=>\^~\|`]+", "GPT2", "[0-9][0-9][0-9]"]),
    ("poro-chat", &[r" ?[^(\s|[.,!?…。，、।۔،])]+"]),
    ("viking", &[r" ?[^(\s|[.,!?…。，、।۔،])]+", r"\p{N}"]),
    ("superbpe", &[r"\p{N}+", r"(?=(\d{3})+(?!\d))"]),
];

const PARTS: [(&str, &str); 8] = [
    ("GPT2", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+|SIGNS|\s+(?!\S)|\s+"),
    ("CONTRACTIONS", "(?i:'s|'t|'re|'ve|'m|'ll|'d)"),
    ("LETTERS", r"OTHER?\p{L}+"),
    ("OTHER", r"[^\r\n\p{L}\p{N}]"),
    ("UPPER", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
    ("LOWER", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
    ("SIGNS", r" ?[^\s\p{L}\p{N}]+"),
    ("SPACES", r"\s*[\r\n]+|\s+(?!\S)|\s+"),
];

fn compiled(pattern: &str) -> SysRegex {
    let whole = PARTS.iter().fold(pattern.to_owned(), |pattern, (name, part)| pattern.replace(name, part));
    SysRegex::new(&whole).unwrap_or_else(|error| panic!("{whole}: {error}"))
}

/// Every match is a word, and so is what lies between; then the same in each word with the next pattern.
fn published_words<'t>(patterns: &[SysRegex], text: &'t str) -> Vec<&'t str> {
    let mut words = vec![text];
    for pattern in patterns {
        let mut finer = Vec::new();
        for word in words {
            let found = pattern.find_matches(word).unwrap();
            finer.extend(found.iter().map(|((start, end), _)| &word[*start..*end]).filter(|word| !word.is_empty()));
        }
        words = finer;
    }
    words
}

fn words<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
    PreTokenizer::from_name(name).unwrap().words(text)
}

/// TXT-26.
#[test]
fn words_take_the_last_space_before_them() {
    covers!("TXT-26");
    assert_eq!(words("gpt-2", "a   b\n\n c's 12345"), ["a", "  ", " b", "\n\n", " c", "'s", " 12345"]);
    assert_eq!(words("llama-bpe", "a   b\n\n c'S 12345"), ["a", "  ", " b", "\n\n", " c", "'S", " ", "123", "45"]);
    assert_eq!(words("llama-bpe", "x \n  \n  y  "), ["x", " \n  \n", " ", " y", "  "]);
}

/// TXT-23, TXT-24.
#[test]
fn digits_go_alone_by_threes_or_by_threes_from_the_right() {
    covers!("TXT-23", "TXT-24");
    assert_eq!(words("qwen2", "a 1234"), ["a", " ", "1", "2", "3", "4"]);
    assert_eq!(words("starcoder", "a  1234"), ["a", "  ", "1", "2", "3", "4"]);
    assert_eq!(words("deepseek-v3", "1234567"), ["123", "456", "7"]);
    assert_eq!(words("superbpe", "a b 1234567 ½1234½"), ["a b ", "1", "234", "567", " ", "½1", "234½"]);
}

/// TXT-24: the tables of the specification and of the program name the same pre-tokenizers.
#[test]
fn the_specification_lists_every_name() {
    covers!("TXT-24");
    let text = include_str!("../../../specs/text.md");
    let section = text.split("## Pre-tokenizers").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let mut listed: Vec<&str> =
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    let mut known: Vec<&str> = TABLE.iter().flat_map(|rules| rules.names).copied().collect();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);
    known.dedup();
    assert_eq!(listed.len(), known.len(), "a name occurs twice");
}

/// TXT-24, TXT-25: for each name the words and the two properties that llama.cpp gives it.
#[test]
fn agrees_with_llama_cpp() {
    covers!("TXT-24", "TXT-25");
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let strings = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let texts = strings(&golden["texts"]);
    assert!(texts.len() > 100);
    let (mut seen, mut differences) = (Vec::new(), Vec::new());
    for group in golden["groups"].as_array().unwrap() {
        let expected = strings(&group["words"]);
        assert_eq!(texts.len(), expected.len());
        for name in strings(&group["names"]) {
            let pre = PreTokenizer::from_name(&name).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(pre.ignores_merges(), group["ignore_merges"].as_bool().unwrap(), "{name}");
            assert_eq!(pre.adds_bos(), group["add_bos"].as_bool().unwrap(), "{name}");
            let other = APPROXIMATED.iter().find(|(names, _)| names.contains(&name.as_str()));
            let other = other.map(|(_, characters)| regex::Regex::new(characters).unwrap());
            for (text, expected) in texts.iter().zip(&expected) {
                if other.as_ref().is_some_and(|other| other.is_match(text)) {
                    continue;
                }
                let lengths: Vec<String> = pre.words(text).iter().map(|word| word.len().to_string()).collect();
                if lengths.join(" ") != *expected {
                    differences.push(format!("{name}: {text:?}: {}, llama.cpp {expected}", lengths.join(" ")));
                }
            }
            seen.push(name);
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    for name in TABLE.iter().flat_map(|rules| rules.names) {
        assert!(seen.iter().any(|seen| seen == name), "{name}: not in the golden file");
    }
}

/// TXT-26: time is linear, also where look-ahead would go back and forth.
#[test]
fn long_runs_are_cut_in_linear_time() {
    covers!("TXT-26");
    for rules in TABLE {
        let pre = PreTokenizer::from_name(rules.names[0]).unwrap();
        for unit in [" ", "\n", "a", "1", "'", "é", "\u{301}", "\u{3000}", " a", " 1", "!", "Aa"] {
            let text = unit.repeat((1 << 19) / unit.len()) + "x";
            assert_eq!(pre.words(&text).concat(), text, "{}: {unit:?}", rules.names[0]);
        }
    }
}

#[test]
fn patterns_are_plain_and_never_match_nothing() {
    for rules in TABLE {
        for pass in rules.passes {
            assert!(!regex::Regex::new(pass.pattern).unwrap().is_match(""), "{}", pass.pattern);
            let ends_in_spaces = pass.pattern.ends_with(r"|\s+");
            assert_eq!(ends_in_spaces, matches!(pass.split, Split::GiveBack | Split::GiveBackInLine));
        }
        assert!(PreTokenizer::from_name(rules.names[0]).unwrap().words("").iter().all(|word| !word.is_empty()));
    }
}

/// TXT-24.
#[test]
fn agrees_with_the_published_patterns() {
    covers!("TXT-24");
    let rows: Vec<(PreTokenizer, Vec<SysRegex>)> = PUBLISHED
        .iter()
        .map(|(name, patterns)| {
            (PreTokenizer::from_name(name).unwrap(), patterns.iter().map(|pattern| compiled(pattern)).collect())
        })
        .collect();
    let without = TABLE.iter().map(|rules| rules.names[0]).filter(|name| PUBLISHED.iter().all(|row| row.0 != *name));
    assert_eq!(without.collect::<Vec<_>>(), ["deepseek-llm"]);
    let text = prop_oneof![
        "[a1.' \n\r\t\u{a0}sStl!é]{1,30}",
        "[aAéÉǅʰ中क\u{301}\u{20dd}1½٣ /.'sSL\n\r\u{3000}、。]{1,30}",
        "\\PC{1,30}",
        any::<String>(),
    ];
    proptest!(ProptestConfig::with_cases(1000), |(text in text)| {
        for ((pre, patterns), (name, _)) in rows.iter().zip(&PUBLISHED) {
            prop_assert_eq!(pre.words(&text), published_words(patterns, &text), "{}", name);
        }
    });
}
