//! `compare`: two traces of one prompt, a line a check, in the order of the pipeline.

use super::error::CliError;
use super::output;
use crate::top::format::harmless;
use crate::trace::comparison::{Comparison, Row, Verdict, compare};
use crate::trace::index::Index;
use crate::trace::{INDEX_FILE, Source, TraceError};
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest description that is read: far above that of any model.
const MAX_INDEX_BYTES: usize = 64 << 20;

#[derive(clap::Args)]
pub struct CompareArgs {
    /// Folder of the trace that is judged.
    #[arg(value_name = "OURS")]
    ours: PathBuf,
    /// Folder of the trace it is judged by.
    #[arg(value_name = "REFERENCE")]
    reference: PathBuf,
    /// Multiply every tolerance by F.
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    tolerance_scale: f64,
}

/// Prints the table. A tolerance that is passed is an error of its own exit code.
pub fn run(args: CompareArgs) -> Result<(), CliError> {
    let scale = args.tolerance_scale;
    if !(scale.is_finite() && scale > 0.0) {
        return Err(CliError::Usage(format!("--tolerance-scale {scale}: must be finite and above 0")));
    }
    let (ours, reference) = (read_index(&args.ours)?, read_index(&args.reference)?);
    let comparison = compare(
        &Source { index: &ours, read: &|file, max| read(&args.ours, file, max) },
        &Source { index: &reference, read: &|file, max| read(&args.reference, file, max) },
        scale,
    );
    let comparison = comparison.map_err(command_error)?;
    let head = format!("ours:      {}\nreference: {}\n\n", title(&ours), title(&reference));
    // A trace may say anything of itself.
    let lines: Vec<String> = (head + &table(&comparison, &ours)).lines().map(harmless).collect();
    output::print(&(lines.join("\n") + "\n"))?;
    match comparison.first_failure() {
        Some(row) => Err(CliError::Differs(format!("{} differs from the reference", row.place()))),
        None => Ok(()),
    }
}

/// What a trace is of, on one line.
fn title(index: &Index) -> String {
    let isa = index.isa.as_ref().map_or(String::new(), |isa| format!(", {isa}"));
    let Index { producer, architecture, model, weights, kv_type, .. } = index;
    format!("{producer}, {architecture} {model}, weights {weights}, KV {kv_type}{isa}")
}

fn read_index(folder: &Path) -> Result<Index, CliError> {
    let bytes = read(folder, INDEX_FILE, MAX_INDEX_BYTES).map_err(command_error)?;
    let path = folder.join(INDEX_FILE);
    let bad = |problem: String| CliError::BadData(format!("{}: {problem}", path.display()));
    let text = String::from_utf8(bytes).map_err(|_| bad("not UTF-8".into()))?;
    Index::parse(&text).map_err(|e| bad(e.to_string()))
}

/// The bytes of a regular file of at most `max` bytes.
fn read(folder: &Path, file: &str, max: usize) -> Result<Vec<u8>, TraceError> {
    let path = folder.join(file);
    let shown = path.display().to_string();
    let cannot = |problem: String| TraceError::CannotOpen { file: shown.clone(), problem };
    // A FIFO would be waited for.
    let metadata = std::fs::metadata(&path).map_err(|e| cannot(e.to_string()))?;
    if !metadata.is_file() {
        return Err(cannot("not a regular file".into()));
    }
    let opened = std::fs::File::open(&path).map_err(|e| cannot(e.to_string()))?;
    let mut bytes = Vec::new();
    opened.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|e| cannot(e.to_string()))?;
    if bytes.len() > max {
        let expected = format!("at most {max} bytes");
        return Err(TraceError::NotAsIndexed { file: shown, found: format!("{} bytes", metadata.len()), expected });
    }
    Ok(bytes)
}

fn command_error(error: TraceError) -> CliError {
    match error {
        TraceError::CannotOpen { .. } => CliError::CannotOpen(error.to_string()),
        TraceError::Pool(_) => CliError::Internal(error.to_string()),
        _ => CliError::BadData(error.to_string()),
    }
}

const HEADINGS: [&str; 10] =
    ["checkpoint", "name", "layer", "check", "max |d|", "mean |d|", "relative", "tolerance", "first over", "verdict"];

/// The table, and a last line that names the first failure.
fn table(comparison: &Comparison, ours: &Index) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(comparison.rows.iter().map(cells));
    let mut widths = [0; 10];
    for line in &lines {
        widths.iter_mut().zip(line).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", padded.join("  ").trim_end());
    }
    if comparison.positions < ours.positions() {
        let _ = writeln!(text, "\n{} of {} positions have the same input", comparison.positions, ours.positions());
    }
    let failures = comparison.rows.iter().filter(|row| row.verdict == Verdict::Fail).count();
    let _ = match comparison.first_failure() {
        None => writeln!(text, "\nevery check passes"),
        Some(row) => writeln!(text, "\n{failures} checks fail; the first: {}", row.place()),
    };
    text
}

fn cells(row: &Row) -> [String; 10] {
    let figure = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2e}"));
    let figures = row.figures.as_ref();
    let first = row.first.as_ref().map_or("-".into(), |first| format!("{first:?}"));
    let verdict = match row.verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Absent => "-",
    };
    [
        row.name.checkpoint().to_string(),
        row.name.as_str().into(),
        row.layer.map_or("-".into(), |layer| layer.to_string()),
        row.check.into(),
        figure(figures.map(|f| f.max)),
        figure(figures.map(|f| f.mean)),
        figure(figures.map(|f| f.relative)),
        figure(figures.map(|f| f.tolerance)),
        first,
        format!("{verdict} {}", row.note).trim_end().into(),
    ]
}
