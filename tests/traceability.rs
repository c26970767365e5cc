//! Every MUST of `specs/` is covered by a test that ran: a target of its own, which cargo runs after the unit tests and
//! `it`, and which reads what they left (`tests/spec/`).
//!
//! `LLORCH_WRITE_TRACEABILITY=1 cargo test` writes the page that lists requirement and tests.

#[macro_use]
mod spec;

use spec::coverage::{self, Coverage};
use spec::document::{self, Document, GENERATED, Level};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

/// Something wrong between documents and tests.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    /// A MUST that no test covers.
    Uncovered { document: String, line: usize, id: String },
    /// Covered by a test, and in no document.
    Unknown { id: String, test: String },
    /// The same id twice.
    Duplicate { document: String, line: usize, id: String },
    /// Neither MUST nor SHOULD nor COULD.
    NoLevel { document: String, line: usize, id: String },
    /// A validation table that belongs to no requirement of its document.
    StrayTable { document: String, line: usize, id: String },
    /// A validation table whose numbers no test reads.
    UnreadTable { document: String, line: usize, id: String },
    /// A line that names a validation table which does not follow.
    MissingTable { document: String, line: usize },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uncovered { document, line, id } => {
                write!(f, "specs/{document}:{line}: {id} is a MUST that no test covers")
            }
            Self::Unknown { id, test } => write!(f, "{test} covers {id}, which is in no document"),
            Self::Duplicate { document, line, id } => write!(f, "specs/{document}:{line}: {id} is there twice"),
            Self::NoLevel { document, line, id } => {
                write!(f, "specs/{document}:{line}: {id} says neither MUST nor SHOULD nor COULD")
            }
            Self::StrayTable { document, line, id } => {
                write!(f, "specs/{document}:{line}: a validation table of {id}, which is not in this document")
            }
            Self::UnreadTable { document, line, id } => {
                write!(f, "specs/{document}:{line}: no test reads this validation table of {id}")
            }
            Self::MissingTable { document, line } => {
                write!(f, "specs/{document}:{line}: no table follows")
            }
        }
    }
}

fn check(documents: &[Document], coverage: &Coverage) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for d in documents {
        let document = || d.name.clone();
        for r in &d.requirements {
            let (id, line) = (|| r.id.clone(), r.line);
            if !seen.insert(&r.id) {
                problems.push(Problem::Duplicate { document: document(), line, id: id() });
            }
            match r.level {
                None => problems.push(Problem::NoLevel { document: document(), line, id: id() }),
                Some(Level::Must) if !coverage.tests.contains_key(&r.id) => {
                    problems.push(Problem::Uncovered { document: document(), line, id: id() });
                }
                Some(_) => {}
            }
        }
        for t in &d.tables {
            let (id, line) = (|| t.id.clone(), t.line);
            if !d.requirements.iter().any(|r| r.id == t.id) {
                problems.push(Problem::StrayTable { document: document(), line, id: id() });
            }
            if !coverage.tables.contains(&(t.id.clone(), t.name.clone())) {
                problems.push(Problem::UnreadTable { document: document(), line, id: id() });
            }
        }
        let missing = d.without_table.iter().map(|line| Problem::MissingTable { document: document(), line: *line });
        problems.extend(missing);
    }
    let unknown = coverage.tests.iter().filter(|(id, _)| !seen.contains(id));
    problems.extend(unknown.flat_map(|(id, tests)| {
        tests.iter().map(|test| Problem::Unknown { id: id.clone(), test: test.clone() }) //
    }));
    problems
}

/// The page of requirements and the tests that cover them.
fn page(documents: &[Document], coverage: &Coverage) -> String {
    let mut page = String::from(
        "# Traceability\n\nWhich tests cover which requirement. Made by \
         `LLORCH_WRITE_TRACEABILITY=1 cargo test`, which \
         also fails when this page is out of date. A name that begins with `it::` is an integration test, any other a \
         unit test.\n",
    );
    for d in documents.iter().filter(|d| !d.requirements.is_empty()) {
        let _ = write!(page, "\n## [{0}]({0})\n| requirement | level | tests |\n|---|---|---|\n", d.name);
        for r in &d.requirements {
            let level = r.level.map_or(String::new(), |level| format!("{level:?}").to_uppercase());
            let tests = coverage.tests.get(&r.id).into_iter().flatten().map(|test| format!("`{test}`"));
            let _ = writeln!(page, "| {} | {level} | {} |", r.id, tests.collect::<Vec<_>>().join(", "));
        }
    }
    page
}

/// Lines that one of two pages has and the other has not, whatever their order.
fn differences(found: &str, expected: &str) -> Vec<String> {
    let count = |text: &str| {
        let mut lines = BTreeMap::<String, i32>::new();
        text.lines().for_each(|line| *lines.entry(line.to_owned()).or_default() += 1);
        lines
    };
    let (found, expected) = (count(found), count(expected));
    let new = expected.iter().filter(|(line, n)| found.get(*line) != Some(n)).map(|(line, _)| format!("+ {line}"));
    let old = found.iter().filter(|(line, n)| expected.get(*line) != Some(n)).map(|(line, _)| format!("- {line}"));
    old.chain(new).collect()
}

fn this_build() -> Coverage {
    coverage::of_this_build().unwrap_or_else(|problem| panic!("{problem}"))
}

#[test]
fn every_must_is_covered_by_a_test_that_ran() {
    let problems = check(&document::read_all(), &this_build());
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} problems:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn the_page_of_requirements_and_tests_is_up_to_date() {
    let expected = page(&document::read_all(), &this_build());
    let path = document::folder().join(GENERATED);
    if std::env::var_os("LLORCH_WRITE_TRACEABILITY").is_some() {
        std::fs::write(&path, &expected).expect("the page can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let lines = differences(&found, &expected);
    assert!(lines.is_empty(), "LLORCH_WRITE_TRACEABILITY=1 cargo test writes the page:\n{}", lines.join("\n"));
}

/// The rules object to what breaks them, and only to that.
mod rules_object {
    use super::*;
    use spec::coverage::{Head, Log, of_targets};
    use spec::document::parse;

    const PAGE: &str = "\
        # A page\n\
        ## ABC-1 MUST Title\n\
        **Validation ABC-1** of two numbers\n\n| a | b |\n|---|---|\n| 1 | `x\\|y` |\n\n\
        - **ABC-2 SHOULD** something.\n\n\
        | id | level | statement |\n|---|---|---|\n| AB-C2-10 | MUST | this |\n| ABC-4 | COULD | that |\n\n\
        ```\n## ABC-9 MUST not here\n```\n\
        | ABC-7 | no header | of requirements |\n|---|---|---|\n\
        ## Not-an-id MUST\n";

    fn coverage() -> Coverage {
        let mut coverage = Coverage::default();
        coverage.add("run\ncovers\tABC-1\tit::a\ncovers\tABC-1\tb\ncovers\tAB-C2-10\tit::c\ntable\tABC-1\t\n");
        coverage
    }

    fn problems(page: &str, coverage: &Coverage) -> Vec<String> {
        check(&[parse("README.md", page)], coverage).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_page_is_read() {
        let document = parse("README.md", PAGE);
        let found: Vec<_> = document.requirements.iter().map(|r| (&r.id[..], r.level, r.line)).collect();
        let expected = [
            ("ABC-1", Some(Level::Must), 2),
            ("ABC-2", Some(Level::Should), 9),
            ("AB-C2-10", Some(Level::Must), 13),
            ("ABC-4", Some(Level::Could), 14),
        ];
        assert_eq!(found, expected);
        assert_eq!(document.tables.len(), 1);
        let table = &document.tables[0];
        assert_eq!((&table.id[..], &table.name[..], table.line), ("ABC-1", "", 3));
        let row = table.rows().next().expect("a row");
        assert_eq!((row.get::<u32>("a"), row.text("b")), (1, "x|y"));
        assert_eq!(problems(PAGE, &coverage()), Vec::<String>::new());
    }

    #[test]
    fn to_a_must_that_lost_its_test() {
        let mut lost = coverage();
        lost.tests.remove("AB-C2-10");
        assert_eq!(problems(PAGE, &lost), ["specs/README.md:13: AB-C2-10 is a MUST that no test covers"]);
        let mut should = coverage();
        should.tests.remove("ABC-2");
        assert_eq!(problems(PAGE, &should).len(), 0, "a SHOULD may be without");
    }

    #[test]
    fn to_ids_that_are_unknown_or_double_or_without_a_level() {
        let mut unknown = coverage();
        unknown.add("run\ncovers\tABC-9\tit::z\n");
        assert_eq!(problems(PAGE, &unknown), ["it::z covers ABC-9, which is in no document"]);
        let double = format!("{PAGE}- **ABC-4 SHOULD** again\n");
        assert_eq!(problems(&double, &coverage()), ["specs/README.md:22: ABC-4 is there twice"]);
        for text in ["## ABC-11 Title", "- **ABC-11** text", "| id | statement |\n|---|---|\n| ABC-11 | this |"] {
            let found = problems(&format!("{PAGE}{text}\n"), &coverage());
            assert!(
                found.len() == 1 && found[0].ends_with("ABC-11 says neither MUST nor SHOULD nor COULD"),
                "{found:?}"
            );
            let found = problems(&format!("{PAGE}<!-- level: MUST -->\n{text}\n"), &coverage());
            assert!(found.len() == 1 && found[0].ends_with("ABC-11 is a MUST that no test covers"), "{found:?}");
        }
    }

    #[test]
    fn to_tables_that_nobody_reads_or_that_are_not_there() {
        let mut unread = coverage();
        unread.tables.clear();
        assert_eq!(problems(PAGE, &unread), ["specs/README.md:3: no test reads this validation table of ABC-1"]);
        let named = PAGE.replace("**Validation ABC-1**", "**Validation ABC-1 other**");
        assert_eq!(problems(&named, &coverage()).len(), 1);
        let stray = PAGE.replace("**Validation ABC-1**", "**Validation ABC-12**");
        assert_eq!(problems(&stray, &coverage()).len(), 2, "it belongs to nothing, and nobody reads it");
        let missing = format!("{PAGE}**Validation ABC-1 more**\n\nprose\n## Heading\n| x |\n|---|\n| 1 |\n");
        assert_eq!(problems(&missing, &coverage()), ["specs/README.md:22: no table follows"]);
    }

    fn log(target: &str, head: &Head, built: u128, line: &str) -> Log {
        Log { target: target.into(), built, text: format!("{}\n{line}\n", head.line()) }
    }

    #[test]
    fn to_logs_of_another_build_or_another_tree_or_of_some_tests() {
        let head = Head { built: 7, root: "tree".into(), is_full: true };
        let of = |logs: &[Log]| of_targets(&["it"], "tree", logs);
        let good = of(&[log("it", &head, 7, "covers\tA-1\tit::a")]).expect("a full run of this build");
        assert_eq!(good.tests.keys().collect::<Vec<_>>(), ["A-1"]);
        assert!(of(&[]).is_err() && of(&[log("other", &head, 7, "table\tA-1\t")]).is_err());
        assert!(of(&[log("it", &head, 8, "table\tA-1\t")]).is_err(), "the executable was built again and did not run");
        let elsewhere = Head { root: "another tree".into(), ..head.clone() };
        assert!(of(&[log("it", &elsewhere, 7, "table\tA-1\t")]).is_err());
        let newer = Head { built: 9, is_full: false, ..head.clone() };
        let logs = [log("it", &newer, 9, "covers\tA-1\tit::a"), log("it", &head, 7, "covers\tA-1\tit::a")];
        let problem = of(&logs).expect_err("the newest ran in part");
        assert_eq!(problem, "the last run of it left tests out: run `cargo test`");
    }

    #[test]
    fn to_a_page_that_is_out_of_date() {
        let document = [parse("README.md", PAGE)];
        let full = page(&document, &coverage());
        assert!(full.contains("| ABC-1 | MUST | `b`, `it::a` |") && full.contains("| ABC-2 | SHOULD |  |"), "{full}");
        let mut lost = coverage();
        lost.tests.remove("ABC-1");
        assert_eq!(differences(&full, &full), Vec::<String>::new());
        assert_eq!(differences(&full, &page(&document, &lost)).len(), 2, "a line goes, a line comes");
    }

    #[test]
    fn a_test_that_fails_covers_nothing() {
        // The log of this target is read by nobody.
        let failed = std::panic::catch_unwind(|| {
            covers!("TRACE-TEST-1");
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(failed.is_err());
        {
            covers!("TRACE-TEST-2");
        }
        let own = coverage::logs().into_iter().filter(|log| log.target == "traceability");
        let text: String = own.map(|log| log.text).collect();
        assert!(text.contains("TRACE-TEST-2\ttraceability::rules_object::a_test_that_fails_covers_nothing\n"));
        assert!(!text.contains("TRACE-TEST-1"));
    }
}
