//! Draws a [`Screen`] into a buffer of any size.

use super::figures::{Figures, Health, Span};
use super::format::{self, count, percent, rate, stretch};
use super::panel;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Widget};
use std::time::Duration;

/// Below either, figures stand one under the other.
const MIN_WIDTH: u16 = 80;
const MIN_HEIGHT: u16 = 17;
/// From here on there is a third table and twice the charts.
const WIDE: u16 = 130;
const LOAD_HEIGHT: u16 = 5;
const TABLES_HEIGHT: u16 = 10;
const TALL_TABLES_HEIGHT: u16 = 14;
const CHARTS_HEIGHT: u16 = 12;
const MIN_CHARTS_HEIGHT: u16 = 3;
const MIN_DISTRIBUTION_HEIGHT: u16 = 12;
const MAX_DISTRIBUTION_HEIGHT: u16 = 16;
/// An answer may take so long before the screen tells of it.
const PATIENCE: Duration = Duration::from_secs(3);

/// All that is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Screen<'a> {
    pub target: &'a str,
    /// Between two scrapes.
    pub interval: Duration,
    /// `None` before the first answer.
    pub figures: Option<&'a Figures>,
    /// Why the last scrape brought nothing.
    pub trouble: Option<&'a str>,
    /// Since the last answer, or since the start.
    pub silence: Duration,
    pub paused: bool,
}

/// Draws the screen. What does not fit is left out.
pub fn render(screen: &Screen, area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    if area.width < MIN_WIDTH || area.height < MIN_HEIGHT {
        return compact(screen, area, buffer);
    }
    let rows = [Constraint::Length(1), Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)];
    let [top, status, middle, bottom] = Layout::vertical(rows).areas(area);
    title(screen).render(top, buffer);
    let (text, style) = banner(screen);
    Paragraph::new(format!(" {text}")).style(style).render(status, buffer);
    if let Some(uptime) = screen.figures.and_then(|figures| figures.uptime).filter(|_| !is_silent(screen)) {
        Line::from(format!("up {} ", stretch(uptime))).right_aligned().render(status, buffer);
    }
    match screen.figures {
        Some(figures) => body(figures, middle, buffer),
        None => Line::from(format!("waiting for {}", screen.target)).centered().render(middle, buffer),
    }
    if is_silent(screen) {
        buffer.set_style(middle, Style::new().dim());
    }
    Line::from(" q quit   p pause").dim().render(bottom, buffer);
    let source = format!("{}, every {:?} ", format::harmless(screen.target), screen.interval);
    Line::from(source).dim().right_aligned().render(bottom, buffer);
}

/// What runs where.
fn title(screen: &Screen) -> Line<'static> {
    let Some(figures) = screen.figures else { return Line::from(" llorch-cpud").bold() };
    let mut parts = vec![format!(" llorch-cpud {}", figures.version)];
    parts.push(figures.isa.clone());
    parts.push(format!("{} threads", figures.threads));
    // The name has any length and comes last.
    if let Some((name, architecture, file_type)) = &figures.model {
        parts.push(format!("{name} ({architecture}, {file_type})"));
    }
    Line::from(parts.join(" │ ")).bold()
}

fn is_silent(screen: &Screen) -> bool {
    screen.trouble.is_some() || screen.silence > PATIENCE + screen.interval
}

/// The state of the server in words, and how loud they are.
fn banner(screen: &Screen) -> (String, Style) {
    let warning = Style::new().fg(Color::Black).bg(Color::Yellow).bold();
    let paused = if screen.paused { "PAUSED   " } else { "" };
    if is_silent(screen) {
        let reason = screen.trouble.map_or(String::new(), |trouble| format!(": {}", format::harmless(trouble)));
        let text = format!("{paused}NO ANSWER for {}, trying on{reason}", stretch(screen.silence));
        return (text, Style::new().fg(Color::White).bg(Color::Red).bold());
    }
    let (text, style) = match screen.figures.map(|figures| figures.health) {
        None => ("CONNECTING", warning),
        Some(Health::Loading) => ("NOT READY: the model is being loaded", warning),
        Some(Health::Draining) => ("DRAINING: no new requests are taken", warning),
        Some(Health::Serving) => ("serving", Style::new().fg(Color::Green).bold()),
    };
    (format!("{paused}{text}"), if screen.paused { warning } else { style })
}

fn body(figures: &Figures, area: Rect, buffer: &mut Buffer) {
    let spare = area.height.saturating_sub(LOAD_HEIGHT);
    let tall = spare >= TALL_TABLES_HEIGHT + CHARTS_HEIGHT;
    let mut tables = spare.min(if tall { TALL_TABLES_HEIGHT } else { TABLES_HEIGHT });
    let mut charts = spare - tables;
    let mut distributions = charts.saturating_sub(CHARTS_HEIGHT).min(MAX_DISTRIBUTION_HEIGHT);
    if distributions < MIN_DISTRIBUTION_HEIGHT {
        distributions = 0;
    }
    charts -= distributions;
    if charts < MIN_CHARTS_HEIGHT {
        (tables, charts) = (tables + charts, 0);
    }
    let rows = [LOAD_HEIGHT, charts, tables, distributions].map(Constraint::Length);
    let [load, charts, tables, distributions] = Layout::vertical(rows).areas(area);
    panel::load(figures, load, buffer);
    panel::charts(figures, if area.width >= WIDE { 4 } else { 2 }, charts, buffer);
    let (latencies, events, totals) = if area.width >= WIDE {
        let columns = [Constraint::Fill(5), Constraint::Fill(4), Constraint::Fill(3)];
        let [latencies, events, totals] = Layout::horizontal(columns).areas(tables);
        (latencies, events, Some(totals))
    } else {
        let columns = [Constraint::Length(46.max(area.width * 46 / 80)), Constraint::Fill(1)];
        let [latencies, events] = Layout::horizontal(columns).areas(tables);
        (latencies, events, None)
    };
    panel::latencies(figures, latencies, buffer);
    panel::events(figures, events, buffer);
    if let Some(totals) = totals {
        panel::totals(figures, totals, buffer);
    }
    panel::distributions(figures, if area.width >= WIDE { 4 } else { 2 }, distributions, buffer);
}

/// Lines in the order of their weight, for terminals without room for panels.
fn compact(screen: &Screen, area: Rect, buffer: &mut Buffer) {
    let (text, style) = banner(screen);
    let mut lines = vec![Line::styled(text, style)];
    if let Some(figures) = screen.figures {
        let add = |text: String| Line::from(text);
        lines.push(add(format!("run {} wait {}", count(figures.running), count(figures.waiting))));
        lines.push(add(format!("gen {} tok/s", rate(figures.generation_rate))));
        let usage = figures.kv.used / figures.kv.total;
        lines.push(add(format!("KV {} load {}", percent(usage), percent(figures.saturation))));
        lines.push(add(format!("prompt {} tok/s", rate(figures.prompt_rate))));
        for latency in &figures.latencies {
            let [p50, p90, p99] = [latency.p50, latency.p90, latency.p99].map(format::quantile);
            lines.push(add(format!("{:<12}{p50:>8}{p90:>8}{p99:>8}", latency.name)));
        }
        for event in figures.events.iter().filter(|event| !event.detail) {
            lines.push(add(format!("{:<18}{:>6} /s{:>8}", event.name, rate(event.per_second), count(event.total))));
        }
        lines.push(title(screen));
    }
    for (line, row) in lines.into_iter().zip(area.rows()) {
        line.render(row, buffer);
    }
}

/// The span in words, for titles.
pub(super) fn span(figures: &Figures) -> String {
    match figures.span {
        Span::Window(covered) => format!("last {} s", covered.as_secs_f64().round()),
        Span::SinceStart => "since the start".into(),
    }
}

#[cfg(test)]
mod tests;
