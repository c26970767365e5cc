//! Rust source as the tidy rules see it: comments and literals blanked, test code cut off.

/// `text` with the contents of comments, strings and character literals replaced by spaces; line breaks stay.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = skip_inert(bytes, at);
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = if end > at { end } else { after_word(bytes, at) };
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// `code` up to its inline test module. By habit tests stand last in a file.
pub fn without_tests(code: &str) -> &str {
    let inline =
        |at: &usize| code[*at..].lines().nth(1).is_some_and(|line| line.starts_with("mod ") && line.contains('{'));
    let mut starts = code.match_indices("#[cfg(test)]\n").map(|(at, _)| at);
    starts.find(inline).map_or(code, |at| &code[..at])
}

/// The end of the comment or literal that starts at `at`; `at` itself where none does.
fn skip_inert(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment(rest);
    }
    if let Some(len) = raw_string(rest) {
        return at + len;
    }
    match rest[0] {
        b'"' => at + quoted(rest, b'"'),
        b'\'' if is_char_literal(rest) => at + quoted(rest, b'\''),
        _ => at,
    }
}

/// Words are stepped over whole, so that the `r` of `for"` does not open a raw string.
fn after_word(bytes: &[u8], at: usize) -> usize {
    let word = bytes[at..].iter().take_while(|b| is_word(**b)).count();
    at + word.max(1)
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a raw string (`r"…"`, `br#"…"#`) at the start of `rest`.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = usize::from(rest.starts_with(b"b")) + 1;
    if rest.get(prefix - 1) != Some(&b'r') {
        return None;
    }
    let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
    if rest.get(prefix + hashes) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &vec![b'#'; hashes]].concat();
    let body = &rest[prefix + hashes + 1..];
    let len = body.windows(close.len()).position(|w| w == close).unwrap_or(body.len());
    Some((prefix + hashes + 1 + len + close.len()).min(rest.len()))
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A quote opens a character literal, unless it starts a lifetime.
fn is_char_literal(rest: &[u8]) -> bool {
    match rest.get(1) {
        Some(b'\\') => true,
        Some(first) if *first >= 0x80 => rest.iter().skip(1).take(5).any(|b| *b == b'\''),
        Some(_) => rest.get(2) == Some(&b'\''),
        None => false,
    }
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Byte offsets in `code` where `needle` stands and is not the end or the start of a longer word.
pub fn find_words(code: &str, needle: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let starts_word = needle.as_bytes().first().is_some_and(|b| is_word(*b));
    let ends_word = needle.as_bytes().last().is_some_and(|b| is_word(*b));
    code.match_indices(needle)
        .map(|(at, _)| at)
        .filter(|&at| !(starts_word && at > 0 && is_word(bytes[at - 1])))
        .filter(|&at| !(ends_word && bytes.get(at + needle.len()).is_some_and(|b| is_word(*b))))
        .collect()
}

/// 1-based line of the byte offset `at`.
pub fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
}

/// A path into the crate that a file names: `["sampling", "params"]` for `crate::sampling::params::X`.
#[derive(Debug, PartialEq, Eq)]
pub struct CratePath {
    pub line: usize,
    pub segments: Vec<String>,
}

/// Every path in `code` that starts at the crate's root, also through `super`, for a file whose module has `depth`
/// segments (`ops::matmul` has two).
pub fn crate_paths(code: &str, depth: usize) -> Vec<CratePath> {
    let mut found = Vec::new();
    for at in find_words(code, "crate::") {
        collect(code, at + "crate::".len(), &[], &mut found);
    }
    for at in find_words(code, "super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let supers = code.as_bytes()[at..].chunks(7).take_while(|c| *c == b"super::").count();
        if supers >= depth {
            collect(code, at + supers * "super::".len(), &[], &mut found);
        }
    }
    found
}

/// Reads the path or the `{…}` group of paths at `at`; each ends at the first name that is not a module.
fn collect(code: &str, at: usize, before: &[String], found: &mut Vec<CratePath>) {
    let rest = &code[at..];
    if rest.starts_with('{') {
        for start in group_items(rest) {
            collect(code, at + start, before, found);
        }
        return;
    }
    let word: String = rest.bytes().take_while(|b| is_word(*b)).map(char::from).collect();
    let mut segments = before.to_vec();
    let after = at + word.len();
    segments.push(word);
    if code[after..].starts_with("::") {
        collect(code, after + 2, &segments, found);
    } else {
        found.push(CratePath { line: line_of(code, at), segments });
    }
}

/// Offsets of the items directly inside the brace group that `rest` starts with.
fn group_items(rest: &str) -> Vec<usize> {
    let (mut depth, mut items, mut expect) = (0, Vec::new(), false);
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'{' => {
                depth += 1;
                expect = depth == 1;
                continue;
            }
            b'}' if depth == 1 => return items,
            b'}' => depth -= 1,
            b',' if depth == 1 => expect = true,
            b if expect && depth == 1 && !b.is_ascii_whitespace() => {
                items.push(at);
                expect = false;
            }
            _ => {}
        }
    }
    items
}

#[test]
fn comments_and_literals_are_blanked_and_code_stays() {
    let text =
        "let a = \"unsafe\"; // todo!()\nlet b = 'x'; fn f<'a>() { /* /* dbg! */ */ r#\"un\"safe\"#; b'\\''; g() }";
    let code = code_only(text);
    for gone in ["unsafe", "todo", "dbg", "'x'", "safe"] {
        assert!(!code.contains(gone), "{gone} in {code}");
    }
    for kept in ["let a =", "fn f<'a>()", "g() }"] {
        assert!(code.contains(kept), "{kept} not in {code}");
    }
    assert_eq!(code.len(), text.len());
}

#[test]
fn only_an_inline_test_module_is_cut_off() {
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\nb }"), "a\n");
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests;\nb"), "a\n#[cfg(test)]\nmod tests;\nb");
}

#[test]
fn words_are_found_whole() {
    assert_eq!(find_words("unsafe_code unsafe { }", "unsafe"), [12]);
    assert_eq!(find_words("eprintln!() println!()", "println!"), [12]);
    assert_eq!(find_words("a::tokio::b", "tokio"), [3]);
}

#[test]
fn paths_are_read_plain_grouped_and_through_super() {
    let paths = |code: &str, depth| -> Vec<String> {
        crate_paths(code, depth).into_iter().map(|p| p.segments.join("::")).collect()
    };
    assert_eq!(paths("use crate::types::TokenId;", 1), ["types::TokenId"]);
    assert_eq!(paths("use crate::{ops::{norm, rope::Table}, types};", 1), ["ops::norm", "ops::rope::Table", "types"]);
    assert_eq!(paths("use super::kv_cache::KvCache;", 1), ["kv_cache::KvCache"]);
    assert_eq!(paths("use super::pool::Pool; super::super::model::X", 2), ["model::X"]);
    assert_eq!(paths("pub(crate) fn f() {}", 1), [] as [&str; 0]);
}
