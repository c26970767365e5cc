//! A sweep as text for a terminal, and as JSON.

use super::report_json;
use super::report_text::{settings, transparency};
use super::sweep::{Axis, Point, knee_of};
use serde_json::{Value, json};
use std::fmt::Write;

/// The figures of one point, by column.
pub struct Row {
    pub cells: Vec<String>,
    pub is_knee: bool,
}

/// Heads of the columns.
pub fn heads(axis: Axis) -> Vec<&'static str> {
    vec![
        axis.name(),
        "req/s",
        "out tok/s",
        "TTFT p50",
        "TTFT p99",
        "ITL p50",
        "ITL p99",
        "worst gap",
        "goodput",
        "saturated",
        "failed",
    ]
}

/// A row for each point; latencies in milliseconds.
pub fn rows(points: &[Point]) -> Vec<Row> {
    let knee = knee_of(points);
    let row = |(index, point): (usize, &Point)| {
        let summary = &point.summary;
        let mut cells = vec![point.value.to_string(), format!("{:.2}", summary.request_throughput())];
        cells.push(format!("{:.1}", summary.output_throughput()));
        let (ttft, itl) = (summary.ttft_ms, summary.itl_ms);
        let latencies = [ttft.p50, ttft.p99, itl.p50, itl.p99, summary.worst_gap_ms.max];
        cells.extend(latencies.map(|value| format!("{value:.1}")));
        cells.push(summary.goodput().map_or("-".into(), |goodput| format!("{goodput:.2}")));
        let saturated = match (summary.verdict.saturated, summary.verdict.too_short) {
            (true, _) => "yes",
            (false, true) => "?",
            (false, false) => "no",
        };
        cells.push(saturated.into());
        cells.push(summary.failed.to_string());
        Row { cells, is_knee: knee == Some(index) }
    };
    points.iter().enumerate().map(row).collect()
}

/// One line on the knee.
pub fn verdict(axis: Axis, points: &[Point]) -> String {
    let name = axis.name();
    match knee_of(points).map(|index| &points[index]) {
        Some(knee) => {
            let (value, throughput) = (knee.value, knee.summary.output_throughput());
            format!(
                "knee: {name} {value}, {throughput:.1} output tokens/s; beyond it a doubling gains less than 10 % and \
                 latencies rise"
            )
        }
        None => format!("no knee: up to the last {name}, throughput rose or latencies did not"),
    }
}

/// What the reports of the single runs would warn of.
pub fn warnings(axis: Axis, points: &[Point]) -> Vec<String> {
    let of = |point: &Point| {
        let place = format!("{} {}", axis.name(), point.value);
        let failures = point.summary.failures().map(|(error, count, message)| {
            let message = if message.is_empty() { String::new() } else { format!(", first: {message}") };
            format!("{count} requests failed with {error}{message}")
        });
        let broken = point.summary.transparency.as_ref().is_some_and(|result| !result.holds());
        let broken = transparency(&point.summary).filter(|_| broken);
        let lines: Vec<String> = point.summary.verdict.warnings().into_iter().chain(failures).chain(broken).collect();
        lines.into_iter().map(move |line| format!("{place}: {line}")).collect::<Vec<_>>()
    };
    points.iter().flat_map(of).collect()
}

/// The settings that all points share.
pub fn shared_settings(points: &[Point]) -> Vec<(&'static str, String)> {
    let first = points.first().map(|point| settings(&point.setup)).unwrap_or_default();
    first.into_iter().filter(|(name, _)| *name != "load").collect()
}

/// The whole report.
pub fn text(axis: Axis, points: &[Point]) -> String {
    let mut text = String::new();
    for (name, value) in shared_settings(points) {
        let _ = writeln!(text, "{name:<26}{value}");
    }
    text.push('\n');
    let mut line = |cells: Vec<String>, end: &str| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>11}")).collect();
        let _ = writeln!(text, "{cells}{end}");
    };
    line(heads(axis).into_iter().map(str::to_owned).collect(), "");
    for row in rows(points) {
        line(row.cells, if row.is_knee { "  <- knee" } else { "" });
    }
    let _ = writeln!(text, "\n{}", verdict(axis, points));
    for warning in warnings(axis, points) {
        let _ = writeln!(text, "!! {warning}");
    }
    text
}

/// One object; each of its points is what a single run writes.
pub fn json(axis: Axis, points: &[Point]) -> Value {
    let knee = knee_of(points).map(|index| points[index].value);
    let points: Vec<Value> = points.iter().map(|point| report_json::report(&point.setup, &point.summary)).collect();
    json!({"llorch_sweep": axis.name(), "llorch_knee": knee, "points": points})
}
