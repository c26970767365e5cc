//! The requirements and the validation tables of `specs/*.md`.
//!
//! A requirement is a heading `## ID LEVEL title` of the second level or below, a list item `- **ID LEVEL** text`, or a
//! row of a table whose header begins with `id | level`. After a line `<!-- level: LEVEL -->` the level may be left
//! out. A validation table follows a line that begins with `**Validation ID**` or `**Validation ID name**`. Blocks of
//! code are skipped.

use super::table::Table;
use std::path::{Path, PathBuf};

/// How binding a requirement is: RFC 2119's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Must,
    Should,
    Could,
}

/// Something that a document asks of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub id: String,
    /// `None` where the document forgot it.
    pub level: Option<Level>,
    /// From 1.
    pub line: usize,
}

/// What a page of `specs/` asks for, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The name of the file.
    pub name: String,
    pub requirements: Vec<Requirement>,
    pub tables: Vec<Table>,
    /// Lines that name a validation table which does not follow.
    pub without_table: Vec<usize>,
}

/// The page that is made from the others.
pub const GENERATED: &str = "TRACEABILITY.md";

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("specs")
}

/// Every page of `specs/` but the generated one, by name.
pub fn read_all() -> Vec<Document> {
    let entries = std::fs::read_dir(folder()).expect("the folder specs/");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "md") && !path.ends_with(GENERATED));
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.file_name().expect("name").to_string_lossy();
        parse(&name, &std::fs::read_to_string(path).expect("a page of text"))
    };
    paths.iter().map(read).collect()
}

pub fn parse(name: &str, text: &str) -> Document {
    let mut document = Document { name: name.into(), ..Document::default() };
    let lines = prose(text);
    let rows_at = |at: usize| lines[at..].iter().take_while(|(_, line)| is_row(line)).count();
    let (mut at, mut usual) = (0, None);
    while let Some((number, line)) = lines.get(at) {
        at += 1;
        if let Some(word) = line.strip_prefix("<!-- level: ") {
            usual = word.split_whitespace().next().and_then(level);
        } else if let Some((id, level)) = heading(line).or_else(|| item(line)) {
            document.requirements.push(Requirement { id, level: level.or(usual), line: *number });
        } else if let Some((id, table)) = validation(line) {
            let ends = |line: &str| {
                is_row(line) || line.starts_with('#') || item(line).is_some() || validation(line).is_some()
            };
            at += lines[at..].iter().take_while(|(_, line)| !ends(line)).count();
            let mut rows = rows_from(&lines[at..]);
            at += rows_at(at);
            if rows.len() > 1 {
                let header = rows.remove(0);
                document.tables.push(Table { id, name: table, line: *number, header, rows });
            } else {
                document.without_table.push(*number);
            }
        } else if is_row(line) {
            document.requirements.extend(requirements_of(&rows_from(&lines[at - 1..]), usual, *number));
            at += rows_at(at);
        }
    }
    document
}

/// Lines with their numbers, blocks of code left out.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            lines.push((index + 1, line));
        }
    }
    lines
}

fn heading(line: &str) -> Option<(String, Option<Level>)> {
    let text = line.strip_prefix("##")?.trim_start_matches('#');
    let mut words = text.split_whitespace();
    Some((id(words.next()?)?, words.next().and_then(level)))
}

fn item(line: &str) -> Option<(String, Option<Level>)> {
    let (bold, _) = line.trim_start().strip_prefix("- **")?.split_once("**")?;
    let mut words = bold.split_whitespace();
    Some((id(words.next()?)?, words.next().and_then(level)))
}

fn validation(line: &str) -> Option<(String, String)> {
    let (bold, _) = line.strip_prefix("**Validation ")?.split_once("**")?;
    let (first, name) = bold.split_once(' ').unwrap_or((bold, ""));
    Some((id(first)?, name.into()))
}

/// The requirements of a table, if it is one of requirements; `line` is its first.
fn requirements_of(rows: &[Vec<String>], usual: Option<Level>, line: usize) -> Vec<Requirement> {
    let [header, rows @ ..] = rows else { return Vec::new() };
    if header.first().is_none_or(|name| name != "id") {
        return Vec::new();
    }
    let column = header.iter().position(|name| name == "level");
    let requirement = |(index, cells): (usize, &Vec<String>)| {
        let level = column.and_then(|column| level(&cells[column])).or(usual);
        Some(Requirement { id: id(&cells[0])?, level, line: line + 2 + index })
    };
    rows.iter().enumerate().filter_map(requirement).collect()
}

fn is_row(line: &str) -> bool {
    line.starts_with('|')
}

/// The cells of the table that begins `lines`, its header first, without the line of dashes.
fn rows_from(lines: &[(usize, &str)]) -> Vec<Vec<String>> {
    let rows = lines.iter().map_while(|(_, line)| is_row(line).then(|| cells(line)));
    let mut rows: Vec<Vec<String>> = rows.collect();
    if rows.len() > 1 {
        rows.remove(1);
    }
    let width = rows.first().map_or(0, Vec::len);
    rows.iter_mut().for_each(|row| row.resize(width, String::new()));
    rows
}

/// The cells of a row, without the marks of code around them. `\|` is a bar.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').replace("\\|", "\u{0}");
    let line = line.strip_suffix('|').unwrap_or(&line);
    let cell = |text: &str| {
        let text = text.trim().replace('\u{0}', "|");
        text.strip_prefix('`').and_then(|t| t.strip_suffix('`')).map_or(text.clone(), str::to_owned)
    };
    line.split('|').map(cell).collect()
}

/// `GPT2-ATTN-003`: groups of capitals and digits, a letter first, the last one a number.
fn id(word: &str) -> Option<String> {
    let (groups, number) = word.rsplit_once('-')?;
    let capitals = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
    let is_group = |group: &str| !group.is_empty() && group.chars().all(capitals);
    let good = groups.split('-').all(is_group)
        && groups.starts_with(|c: char| c.is_ascii_uppercase())
        && !number.is_empty()
        && number.chars().all(|c| c.is_ascii_digit());
    good.then(|| word.to_owned())
}

fn level(word: &str) -> Option<Level> {
    match word {
        "MUST" => Some(Level::Must),
        "SHOULD" => Some(Level::Should),
        "COULD" => Some(Level::Could),
        _ => None,
    }
}
