//! Habits that a reviewer would otherwise have to watch: who may use what, sizes of files, words that do not belong.
//!
//! The tables are in `specs/architecture.md`; this file reads them. Each rule is a function over text that returns
//! one line for each breach, so that the tests below can show it a breach and see it object.

mod source;
mod tables;

use source::{code_only, crate_paths, find_words, line_of, without_tests};
use std::path::{Path, PathBuf};
use tables::{Edges, Lengths, Owners};

const MAX_LINE: usize = 120;
const MAX_LINES: usize = 400;
const MAX_LINES_KERNEL: usize = 600;

/// A file of the tree. `path` is relative to the root, with forward slashes.
struct File {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file that belongs to the project.
fn tree() -> Vec<File> {
    fn walk(dir: &Path, files: &mut Vec<File>) {
        let mut entries: Vec<_> = std::fs::read_dir(dir).expect("folder").map(|e| e.expect("entry").path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            if ["target", ".git", "__pycache__", ".venv"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                walk(&path, files);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
                files.push(File { path, text });
            }
        }
    }
    let mut files = Vec::new();
    walk(&root(), &mut files);
    files
}

fn architecture() -> String {
    std::fs::read_to_string(root().join("specs/architecture.md")).expect("specs/architecture.md")
}

fn sources() -> impl Iterator<Item = File> {
    tree().into_iter().filter(|f| f.path.starts_with("src/") && f.path.ends_with(".rs"))
}

/// Unit tests may look anywhere; they are told by their name.
fn is_test_file(path: &str) -> bool {
    ["/tests.rs", "/testing.rs"].iter().any(|end| path.ends_with(end)) || path.contains("/tests/")
}

fn assert_none(breaches: &[String]) {
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

/// Uses of modules that the table of allowed edges does not grant to `file`.
fn forbidden_edges(file: &File, edges: &Edges) -> Vec<String> {
    if is_test_file(&file.path) || ["src/main.rs", "src/lib.rs"].contains(&file.path.as_str()) {
        return Vec::new();
    }
    let module = module_of(&file.path);
    let code = code_only(&file.text);
    let paths = crate_paths(without_tests(&code), module.len());
    let outside = paths.into_iter().filter(|p| p.segments[0] != module[0]);
    outside
        .filter(|p| !edges.allow(&module, &p.segments))
        .map(|p| {
            let (from, to) = (module.join("::"), p.segments.join("::"));
            format!("{}:{}: {from} uses crate::{to}: no such edge in specs/architecture.md", file.path, p.line)
        })
        .collect()
}

/// `["ops", "matmul"]` for `src/ops/matmul.rs`, `["ops"]` for `src/ops/mod.rs`.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    path.split('/').filter(|part| *part != "mod").map(str::to_owned).collect()
}

/// Words that the table of owners grants to other files only.
fn misplaced_words(file: &File, owners: &Owners) -> Vec<String> {
    if is_test_file(&file.path) {
        return Vec::new();
    }
    let code = code_only(&file.text);
    let code = without_tests(&code);
    let mut breaches = Vec::new();
    for (word, places) in owners.foreign_to(&file.path) {
        for at in find_words(code, word) {
            let line = line_of(code, at);
            breaches.push(format!("{}:{line}: `{word}` belongs in {} only", file.path, places.join(", ")));
        }
    }
    breaches
}

fn too_long(file: &File, lengths: &Lengths) -> Option<String> {
    let usual = if file.path.starts_with("src/kernels/") { MAX_LINES_KERNEL } else { MAX_LINES };
    let limit = lengths.exception(&file.path).unwrap_or(usual);
    let lines = file.text.lines().count();
    (lines > limit).then(|| format!("{}: {lines} lines, the limit is {limit}", file.path))
}

fn wide_lines(file: &File) -> Vec<String> {
    let lines = file.text.lines().enumerate();
    lines
        .filter(|(_, line)| line.chars().count() > MAX_LINE)
        .map(|(i, line)| format!("{}:{}: {} columns", file.path, i + 1, line.chars().count()))
        .collect()
}

/// Unfinished work and leftovers of debugging.
fn leftovers(file: &File) -> Vec<String> {
    let code = code_only(&file.text);
    let mut breaches: Vec<String> = ["todo!", "unimplemented!", "dbg!"]
        .iter()
        .flat_map(|word| find_words(&code, word).into_iter().map(move |at| (word, at)))
        .map(|(word, at)| format!("{}:{}: {word}", file.path, line_of(&code, at)))
        .collect();
    for word in [concat!("FIX", "ME"), concat!("XX", "X:")] {
        breaches.extend(file.text.match_indices(word).map(|(at, _)| {
            format!("{}:{}: {word}", file.path, line_of(&file.text, at)) //
        }));
    }
    breaches
}

/// Paths of somebody's machine and package indexes other than the public ones.
fn machine_words(file: &File) -> Vec<String> {
    let words = [
        concat!("/wor", "k/"),
        concat!("/roo", "t/"),
        concat!("/hom", "e/"),
        concat!("/tm", "p/"),
        concat!("index", "-url"),
        concat!("replace", "-with"),
    ];
    let mut breaches = Vec::new();
    for word in words {
        for (at, _) in file.text.match_indices(word) {
            breaches.push(format!("{}:{}: {word}", file.path, line_of(&file.text, at)));
        }
    }
    breaches
}

/// Pages of `specs/` that `file` names and that `exists` denies.
fn dead_references(file: &File, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut breaches = Vec::new();
    for (at, _) in file.text.match_indices("specs/") {
        let in_path = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
        let path: String = file.text[at..].chars().take_while(|c| in_path(*c)).collect();
        let preceded = file.text[..at].chars().next_back().is_some_and(in_path);
        if let Some((page, _)) = path.split_once(".md").filter(|_| !preceded)
            && !exists(&format!("{page}.md"))
        {
            breaches.push(format!("{}:{}: there is no {page}.md", file.path, line_of(&file.text, at)));
        }
    }
    breaches
}

/// Crates that the lock file takes from anywhere but crates.io.
fn foreign_crates(lock: &str) -> Vec<String> {
    let public = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    lock.lines().filter(|l| l.starts_with("source = ") && *l != public).map(str::to_owned).collect()
}

/// Test files beside `main_rs` that it does not declare: they would never run.
fn undeclared_tests(main_rs: &str, names: &[String]) -> Vec<String> {
    let code = code_only(main_rs);
    let declared = |name: &str| code.lines().any(|l| l.trim().trim_start_matches("pub ") == format!("mod {name};"));
    names.iter().filter(|n| !declared(n)).map(|n| format!("tests/it/main.rs does not declare `mod {n};`")).collect()
}

#[test]
fn modules_use_only_what_the_table_allows() {
    covers!("LAW-8", "ARCH-1", "ARCH-4", "ARCH-5");
    let edges = Edges::parse(&architecture());
    assert_none(&sources().flat_map(|f| forbidden_edges(&f, &edges)).collect::<Vec<_>>());
}

#[test]
fn the_table_of_edges_points_downward() {
    covers!("LAW-8", "ARCH-1");
    assert_none(&Edges::parse(&architecture()).upward());
}

#[test]
fn every_module_has_a_row_in_the_table_of_edges() {
    let edges = Edges::parse(&architecture());
    let missing = sources()
        .filter(|f| !["src/main.rs", "src/lib.rs"].contains(&f.path.as_str()))
        .map(|f| module_of(&f.path)[0].clone())
        .filter(|module| !edges.has_row(module))
        .collect::<Vec<_>>();
    assert_none(&missing);
}

#[test]
fn libraries_and_unsafe_stay_where_they_belong() {
    covers!("LAW-7", "ARCH-2", "ARCH-3", "ARCH-5", "ARCH-6", "ARCH-7", "ARCH-8", "ARCH-13");
    let owners = Owners::parse(&architecture());
    assert_none(&sources().flat_map(|f| misplaced_words(&f, &owners)).collect::<Vec<_>>());
}

#[test]
fn files_are_short() {
    let lengths = Lengths::parse(&architecture());
    let rust = tree().into_iter().filter(|f| f.path.ends_with(".rs"));
    assert_none(&rust.filter_map(|f| too_long(&f, &lengths)).collect::<Vec<_>>());
}

#[test]
fn lines_are_short() {
    let code = |f: &File| [".rs", ".py", ".proto"].iter().any(|end| f.path.ends_with(end));
    assert_none(&tree().iter().filter(|f| code(f)).flat_map(wide_lines).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_over() {
    let rust = tree().into_iter().filter(|f| f.path.ends_with(".rs"));
    assert_none(&rust.flat_map(|f| leftovers(&f)).collect::<Vec<_>>());
}

#[test]
fn every_source_file_says_what_it_is() {
    let headless = sources().filter(|f| !is_test_file(&f.path) && !f.text.starts_with("//!")).map(|f| f.path);
    assert_none(&headless.collect::<Vec<_>>());
}

#[test]
fn no_file_names_a_machine() {
    assert_none(&tree().iter().flat_map(machine_words).collect::<Vec<_>>());
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    assert_none(&foreign_crates(&lock));
}

#[test]
fn references_to_the_specifications_lead_somewhere() {
    let exists = |path: &str| root().join(path).is_file();
    assert_none(&tree().iter().flat_map(|f| dead_references(f, exists)).collect::<Vec<_>>());
}

#[test]
fn every_test_file_runs() {
    for dir in ["tests/it", "tests/it/support"] {
        let parent = if dir == "tests/it" { "tests/it/main.rs" } else { "tests/it/support/mod.rs" };
        let Ok(text) = std::fs::read_to_string(root().join(parent)) else { continue };
        let files = tree().into_iter().filter_map(|f| f.path.strip_prefix(dir)?.strip_prefix('/').map(str::to_owned));
        let names: Vec<String> = files
            .filter(|n| !n.contains('/') && !["main.rs", "mod.rs"].contains(&n.as_str()))
            .filter_map(|n| n.strip_suffix(".rs").map(str::to_owned))
            .collect();
        assert_none(&undeclared_tests(&text, &names));
    }
}

/// Each rule sees a breach of itself, and only that.
mod rules_object {
    use super::*;

    const TABLES: &str = "\
        <!-- edges -->\n| module | may use |\n|---|---|\n| `engine` | `ops`, `sampling::params` |\n\
        | `engine::actor` | `ops`, `metrics` |\n| `ops` | `types` |\n| `metrics` | |\n\
        | `sampling` | |\n| `types` | |\n\n\
        <!-- owners -->\n| what | where |\n|---|---|\n| `tokio`, `Instant` | `src/engine/actor.rs`, `src/server/` |\n\n\
        <!-- lengths -->\n| file | lines | why |\n|---|---|---|\n| `src/ops/big.rs` | 450 | a table |\n";

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[test]
    fn to_edges() {
        let edges = Edges::parse(TABLES);
        let check = |path, text| forbidden_edges(&file(path, text), &edges).len();
        assert_eq!(check("src/engine/mod.rs", "use crate::ops::norm; use crate::types::X;"), 0);
        assert_eq!(check("src/engine/mod.rs", "use crate::metrics::X;"), 1);
        assert_eq!(check("src/engine/actor.rs", "use crate::metrics::X;"), 0);
        assert_eq!(check("src/engine/mod.rs", "use crate::sampling::params::P;"), 0);
        assert_eq!(check("src/engine/mod.rs", "use crate::sampling::sampler::S;"), 1);
        assert_eq!(check("src/ops/mod.rs", "fn f() { crate::engine::step() }"), 1);
        assert_eq!(check("src/ops/mod.rs", "use super::engine::Engine;"), 1);
        assert_eq!(check("src/ops/mod.rs", "// crate::engine\n#[cfg(test)]\nmod tests { use crate::engine::E; }"), 0);
        assert_eq!(check("src/ops/tests.rs", "use crate::engine::E;"), 0);
        assert!(edges.upward().is_empty());
        let upward = TABLES.replace("| `ops` | `types` |", "| `ops` | `engine` |");
        assert_eq!(Edges::parse(&upward).upward().len(), 1);
        assert!(edges.has_row("ops") && !edges.has_row("model"));
    }

    #[test]
    fn to_misplaced_words() {
        let owners = Owners::parse(TABLES);
        let check = |path, text| misplaced_words(&file(path, text), &owners).len();
        assert_eq!(check("src/ops/mod.rs", "use tokio::sync; let t = Instant::now();"), 2);
        assert_eq!(check("src/ops/mod.rs", "// tokio\nlet tokio_like = \"tokio\";"), 0);
        assert_eq!(check("src/server/mod.rs", "use tokio::sync;"), 0);
        assert_eq!(check("src/engine/actor.rs", "use tokio::sync;"), 0);
    }

    #[test]
    fn to_sizes() {
        let lengths = Lengths::parse(TABLES);
        let check = |path, lines: usize| too_long(&file(path, &"x\n".repeat(lines)), &lengths).is_some();
        assert!(!check("src/ops/mod.rs", 400) && check("src/ops/mod.rs", 401));
        assert!(!check("src/kernels/avx2.rs", 600) && check("src/kernels/avx2.rs", 601));
        assert!(!check("src/ops/big.rs", 450) && check("src/ops/big.rs", 451));
        assert_eq!(wide_lines(&file("a.rs", &"é".repeat(120))).len(), 0);
        assert_eq!(wide_lines(&file("a.rs", &"é".repeat(121))).len(), 1);
    }

    #[test]
    fn to_leftovers_and_machine_words() {
        assert_eq!(leftovers(&file("a.rs", concat!("fn f() { todo!() } // FIX", "ME later"))).len(), 2);
        assert_eq!(leftovers(&file("a.rs", "let s = \"todo!\"; // dbg! is banned")).len(), 0);
        assert_eq!(machine_words(&file("a.md", concat!("see /tm", "p/x and /wor", "k/y"))).len(), 2);
        assert_eq!(foreign_crates("source = \"registry+https://elsewhere\"\nname = \"a\"").len(), 1);
        assert_eq!(foreign_crates("source = \"registry+https://github.com/rust-lang/crates.io-index\"").len(), 0);
    }

    #[test]
    fn to_dead_references() {
        let there = concat!("spe", "cs/there.md");
        let check = |text| dead_references(&file("a.rs", text), |path| path == there).len();
        assert_eq!(check(concat!("// see `spe", "cs/there.md`, and spe", "cs/decisions/0001-none.md.")), 1);
        assert_eq!(check(concat!("https://example.com/spe", "cs/none.md; folder spe", "cs/")), 0);
    }

    #[test]
    fn to_undeclared_tests() {
        let names = ["api".to_owned(), "golden".to_owned()];
        assert_eq!(undeclared_tests("mod api;\n// mod golden;\n", &names).len(), 1);
        assert_eq!(undeclared_tests("mod api;\npub mod golden;\n", &names).len(), 0);
    }
}
