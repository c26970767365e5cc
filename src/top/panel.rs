//! The parts of the screen.

use super::figures::{Event, Figures, Latency};
use super::format::{QUANTILE_LEGEND, count, percent, quantile, rate, seconds};
use super::quantile::Buckets;
use super::view::span;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Paragraph, Sparkline, Widget};

/// Left of the bars.
const LABEL_WIDTH: usize = 12;
const MIN_BAR: usize = 8;

fn block(title: String) -> Block<'static> {
    Block::bordered().border_type(BorderType::Rounded).border_style(Style::new().dim()).title(Line::from(title).bold())
}

/// Sequences, saturation and the KV pool.
pub fn load(figures: &Figures, area: Rect, buffer: &mut Buffer) {
    let kv = &figures.kv;
    let pool = format!(" {} KV blocks of {} tokens ", count(kv.total), count(kv.block_tokens));
    let block = block(" load ".into()).title(Line::from(pool).dim().right_aligned());
    let width = usize::from(block.inner(area).width);
    let mut sequences = Vec::new();
    let mean = rate(figures.mean_batch);
    for (name, value) in [
        ("running", count(figures.running)),
        ("waiting", count(figures.waiting)),
        ("batch", count(figures.batch)),
        ("mean batch", mean),
        ("connections", count(figures.connections)),
    ] {
        sequences.extend([Span::from(format!("{name} ")).dim(), Span::from(value).bold(), Span::from("    ")]);
    }
    let saturation = percent(figures.saturation);
    let blocks = format!(
        "{:>5}  used {}  cached {}  free {}",
        percent(kv.used / kv.total),
        count(kv.used),
        count(kv.cached),
        count(kv.free)
    );
    let (colour, text_width) = (alarm(figures.saturation), blocks.chars().count());
    let lines = vec![
        Line::from(sequences),
        gauge("saturation", &[(figures.saturation, '█', colour)], &format!("{saturation:>5}"), width, text_width),
        gauge(
            "KV pool",
            &[(kv.used / kv.total, '█', alarm(kv.used / kv.total)), (kv.cached / kv.total, '▒', Color::Cyan)],
            &blocks,
            width,
            text_width,
        ),
    ];
    Paragraph::new(lines).block(block).render(area, buffer);
}

/// Green, yellow or red by how full something is.
fn alarm(ratio: f64) -> Color {
    match ratio {
        r if r >= 0.9 => Color::Red,
        r if r >= 0.7 => Color::Yellow,
        _ => Color::Green,
    }
}

/// A label, a bar of parts that are shares of its length, and a text that gets `text_width` columns.
fn gauge<'a>(label: &'a str, parts: &[(f64, char, Color)], text: &str, width: usize, text_width: usize) -> Line<'a> {
    let length = width.saturating_sub(LABEL_WIDTH + 1 + text_width).max(MIN_BAR);
    let mut spans = vec![Span::from(format!("{label:<LABEL_WIDTH$}")).dim()];
    let mut left = length;
    for &(share, symbol, colour) in parts {
        let cells = cells(share, length).min(left);
        left -= cells;
        spans.push(Span::styled(symbol.to_string().repeat(cells), colour));
    }
    spans.push(Span::from("·".repeat(left)).dim());
    spans.push(Span::from(format!(" {text}")));
    Line::from(spans)
}

/// Columns of a share of `length`; at least one of what is there at all.
fn cells(share: f64, length: usize) -> usize {
    let exact = share.clamp(0.0, 1.0) * length as f64;
    // A share that is no number gives 0 columns.
    if exact > 0.0 { (exact.round() as usize).max(1) } else { 0 }
}

/// The course of the first `number` of: generated tokens, prompt tokens, running sequences, KV usage.
pub fn charts(figures: &Figures, number: usize, area: Rect, buffer: &mut Buffer) {
    if area.height == 0 {
        return;
    }
    let moments = &figures.moments;
    let course = |figure: fn(&super::window::Moment) -> f64| moments.iter().map(figure).collect::<Vec<f64>>();
    let rates = |value| format!("{} tok/s", rate(value));
    let all = [
        ("generated", rates(figures.generation_rate), course(|moment| moment.generation_rate), Color::Green),
        ("prompt", rates(figures.prompt_rate), course(|moment| moment.prompt_rate), Color::Cyan),
        ("running", count(figures.running), course(|moment| moment.running), Color::Magenta),
        ("KV used", percent(figures.kv.used / figures.kv.total), course(|moment| moment.kv_usage), Color::Yellow),
    ];
    let columns = Layout::horizontal(vec![Constraint::Fill(1); number]).split(area);
    for ((name, now, values, colour), area) in all.into_iter().zip(columns.iter()) {
        let percents = name == "KV used";
        let peak = values.iter().copied().fold(0.0, f64::max);
        let peak = if percents { percent(peak) } else { rate(Some(peak)) };
        let block = block(format!(" {name} {now} ")).title(Line::from(format!(" peak {peak} ")).dim().right_aligned());
        let inner = block.inner(*area);
        let sparkline = Sparkline::default().block(block).style(colour);
        // A bar is a whole number: hundredths keep their height apart.
        let shown = latest(&values, usize::from(inner.width)).map(|value| (value * 100.0) as u64);
        let sparkline = sparkline.data(shown.collect::<Vec<u64>>());
        if percents { sparkline.max(100).render(*area, buffer) } else { sparkline.render(*area, buffer) }
    }
}

/// The last `width` values; in front of too few stand zeros, so that the latest is always on the right.
fn latest(values: &[f64], width: usize) -> impl Iterator<Item = f64> {
    let missing = width.saturating_sub(values.len());
    let from = values.len().saturating_sub(width);
    std::iter::repeat_n(0.0, missing).chain(values.iter().skip(from).copied())
}

/// Percentiles of the latencies.
pub fn latencies(figures: &Figures, area: Rect, buffer: &mut Buffer) {
    let block = block(format!(" latency, {} ", span(figures)));
    let column = (usize::from(block.inner(area).width).saturating_sub(LABEL_WIDTH) / 4).clamp(8, 14);
    let head =
        format!("{:<LABEL_WIDTH$}{:>column$}{:>column$}{:>column$}{:>column$}", "", "p50", "p90", "p99", "samples");
    let mut lines = vec![Line::from(head).dim()];
    for Latency { name, buckets, p50, p90, p99 } in &figures.latencies {
        let [p50, p90, p99] = [*p50, *p90, *p99].map(quantile);
        lines.push(Line::from(vec![
            Span::from(format!("{name:<LABEL_WIDTH$}")),
            Span::from(format!("{p50:>column$}{p90:>column$}{p99:>column$}")).bold(),
            Span::from(format!("{:>column$}", count(buckets.total()))).dim(),
        ]));
    }
    lines.push(Line::from(QUANTILE_LEGEND).dim());
    Paragraph::new(lines).block(block).render(area, buffer);
}

/// Requests by outcome, refusals, cancellations, preemptions.
pub fn events(figures: &Figures, area: Rect, buffer: &mut Buffer) {
    let block = block(format!(" requests, {} ", span(figures)));
    let inner = block.inner(area);
    let name_width = usize::from(inner.width).saturating_sub(14).min(28);
    let mut lines = vec![Line::from(format!("{:<name_width$}{:>6}{:>8}", "", "/s", "total")).dim()];
    for event in fitting(&figures.events, usize::from(inner.height).saturating_sub(1)) {
        let indent = if event.detail { "  " } else { "" };
        let name: String = format!("{indent}{}", event.name).chars().take(name_width).collect();
        let text = format!("{name:<name_width$}{:>6}{:>8}", rate(event.per_second), count(event.total));
        let now = event.per_second.is_some_and(|rate| rate > 0.0);
        let style = match (event.name == "OK", now) {
            (true, _) => Style::new().fg(Color::Green),
            (false, true) => Style::new().fg(Color::Yellow).bold(),
            (false, false) => Style::new(),
        };
        lines.push(Line::styled(text, style));
    }
    Paragraph::new(lines).block(block).render(area, buffer);
}

/// As many events as there are rows: details go first, then the rarest outcomes.
fn fitting(events: &[Event], rows: usize) -> Vec<&Event> {
    let mut shown: Vec<&Event> = events.iter().collect();
    if shown.len() > rows {
        shown.retain(|event| !event.detail);
    }
    // Refusals, cancellations and preemptions end the list.
    let sums = shown.len().min(3);
    while shown.len() > rows && shown.len() > sums {
        shown.remove(shown.len() - sums - 1);
    }
    shown
}

/// Counts since the start of the server.
pub fn totals(figures: &Figures, area: Rect, buffer: &mut Buffer) {
    let block = block(" since the start ".into());
    let name_width = usize::from(block.inner(area).width).saturating_sub(8).min(24);
    let line = |(name, value): &(&str, f64)| {
        Line::from(vec![Span::from(format!("{name:<name_width$}")), Span::from(format!("{:>8}", count(*value))).bold()])
    };
    let lines: Vec<Line> = figures.totals.iter().map(line).collect();
    Paragraph::new(lines).block(block).render(area, buffer);
}

/// The buckets of the first `number` latencies.
pub fn distributions(figures: &Figures, number: usize, area: Rect, buffer: &mut Buffer) {
    if area.height == 0 {
        return;
    }
    let columns = Layout::horizontal(vec![Constraint::Fill(1); number]).split(area);
    for (latency, area) in figures.latencies.iter().zip(columns.iter()) {
        let block = block(format!(" {}, {} ", latency.name, span(figures)));
        let inner = block.inner(*area);
        let lines = bars(&latency.buckets, usize::from(inner.width), usize::from(inner.height));
        Paragraph::new(lines).block(block).render(*area, buffer);
    }
}

/// One bar a bucket, from the first that has samples to the last; where they are too many, the last of them.
fn bars(buckets: &Buckets, width: usize, height: usize) -> Vec<Line<'static>> {
    let counts = buckets.counts();
    let filled = |(_, samples): &(f64, f64)| *samples > 0.0;
    let (Some(first), Some(last)) = (counts.iter().position(filled), counts.iter().rposition(filled)) else {
        return vec![Line::from("no samples").dim()];
    };
    let most = counts.iter().map(|(_, samples)| *samples).fold(0.0, f64::max);
    let first = first.max((last + 1).saturating_sub(height));
    let length = width.saturating_sub(10 + 7);
    let lower =
        |index: usize| index.checked_sub(1).and_then(|below| counts.get(below)).map_or(0.0, |(bound, _)| *bound);
    let row = |index: usize| {
        let (bound, samples) = counts[index];
        let label =
            if bound.is_finite() { format!("≤{}", seconds(bound)) } else { format!(">{}", seconds(lower(index))) };
        let bar = "█".repeat(cells(samples / most, length));
        Line::from(vec![
            Span::from(format!("{label:>9} ")).dim(),
            Span::styled(format!("{bar:<length$}"), Color::Cyan),
            Span::from(format!("{:>7}", count(samples))),
        ])
    };
    (first..=last).map(row).collect()
}
