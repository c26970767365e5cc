//! The report as one HTML file: tables and charts drawn as inline SVG, nothing loaded from anywhere.

use super::chart::{self, Line};
use super::record::{Outcome, Record};
use super::report_text::{settings, totals, transparency};
use super::statistics::Statistics;
use super::summary::{Setup, Summary};
use std::fmt::Write;

const STYLE: &str = "
:root{--bg:#fff;--panel:#f7f8fa;--ink:#1b1f24;--soft:#5b6570;--rule:#dfe3e8;--a:#2166ac;--b:#d1701c;--c:#2a8a5f;
--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--panel:#1c2026;--ink:#e6e9ed;--soft:#9aa4af;--rule:#333a43;
--a:#6aaee8;--b:#f0a05a;--c:#63c59a;--bad:#ff8a80}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1120px;padding:28px 20px;background:var(--bg);color:var(--ink);
font:14px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif;font-variant-numeric:tabular-nums}
h1{font-size:22px;margin:0 0 2px}h2{font-size:15px;margin:0 0 8px}p{margin:0 0 14px;color:var(--soft)}
.warn{border-left:4px solid var(--bad);background:var(--panel);color:var(--bad);padding:10px 14px;margin:0 0 14px;
font-weight:600}
.note{border-left:4px solid var(--a);background:var(--panel);padding:10px 14px;margin:0 0 14px;font-weight:600}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:16px 0}
.tile,.panel{background:var(--panel);border:1px solid var(--rule);border-radius:8px;padding:12px 14px}
.tile b{display:block;font-size:22px;font-weight:600}.tile span{color:var(--soft);font-size:12px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(460px,1fr));gap:14px;margin:14px 0}
table{border-collapse:collapse;width:100%}td,th{padding:4px 8px;border-bottom:1px solid var(--rule);text-align:left;
font-weight:400}
th{color:var(--soft)}.num td+td,.num th+th{text-align:right}
table+p{margin:10px 0 0}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}.rule{stroke:var(--rule)}
.k0{--k:var(--a)}.k1{--k:var(--b)}.k2{--k:var(--c)}.line{fill:none;stroke:var(--k);stroke-width:1.8}
.area{fill:var(--k);opacity:.15}.bar,.dot{fill:var(--k)}.dot{opacity:.65}svg text.key{fill:var(--k);font-weight:600}
tr.knee td{font-weight:700}.ring{fill:none;stroke:var(--bad);stroke-width:1.6}
";

/// A page up to its heading and the line below it.
pub(super) fn begin(title: &str, target: &str) -> String {
    let (title, target) = (escape(title), escape(target));
    let mut page = String::from("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    let _ = write!(page, "<meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>");
    page.push_str(STYLE);
    let _ = write!(page, "</style></head><body><h1>{title}</h1><p>{target}</p>");
    page
}

/// The whole page.
pub fn report(setup: &Setup, summary: &Summary, records: &[Record]) -> String {
    let mut page = begin(&format!("Load test of {}", setup.info.model), &setup.target);
    for warning in summary.verdict.warnings() {
        let _ = write!(page, "<div class=\"warn\">{}</div>", escape(&warning));
    }
    page.push_str(&tiles(summary));
    page.push_str(&latencies(summary));
    page.push_str("<div class=\"grid\">");
    for (title, figure) in charts(summary, records) {
        let _ = write!(page, "<div class=\"panel\"><h2>{title}</h2>{figure}</div>");
    }
    page.push_str(&table("Setup", &settings(setup)));
    page.push_str(&table("Totals", &totals(summary)));
    if !summary.errors.is_empty() {
        let rows: Vec<(&str, String)> =
            summary.failures().map(|(error, count, message)| (error, format!("{count}: {message}"))).collect();
        page.push_str(&table("Errors", &rows));
    }
    page.push_str("</div>");
    if let Some(line) = transparency(summary) {
        let _ = write!(page, "<p>{}</p>", escape(&line));
    }
    page.push_str("<p>Latencies count from the time at which a request was to be sent.</p></body></html>\n");
    page
}

fn tiles(summary: &Summary) -> String {
    let tiles = [
        (format!("{:.2}", summary.request_throughput()), "requests/s"),
        (format!("{:.1}", summary.output_throughput()), "output tokens/s"),
        (format!("{:.1}", summary.total_token_throughput()), "total tokens/s"),
        (format!("{:.1} ms", summary.ttft_ms.p50), "median time to first token"),
        (format!("{:.1} ms", summary.itl_ms.p99), "p99 between tokens"),
        (format!("{} / {}", summary.completed, summary.failed), "completed / failed"),
    ];
    let tile = |(value, name): &(String, &str)| format!("<div class=\"tile\"><b>{value}</b><span>{name}</span></div>");
    format!("<div class=\"tiles\">{}</div>", tiles.iter().map(tile).collect::<String>())
}

fn latencies(summary: &Summary) -> String {
    let row = |name: &str, s: &Statistics| {
        let cells: String = [s.mean, s.p50, s.p90, s.p99, s.max].iter().map(|v| format!("<td>{v:.2}</td>")).collect();
        format!("<tr><td>{name}</td>{cells}</tr>")
    };
    let rows = [
        row("time to first token", &summary.ttft_ms),
        row("time per output token", &summary.tpot_ms),
        row("between tokens", &summary.itl_ms),
        row("worst gap of a request", &summary.worst_gap_ms),
        row("end to end", &summary.e2el_ms),
    ];
    let head = "<tr><th>milliseconds</th><th>mean</th><th>p50</th><th>p90</th><th>p99</th><th>max</th></tr>";
    format!("<div class=\"panel num\"><table>{head}{}</table></div>", rows.concat())
}

pub(super) fn table(title: &str, rows: &[(&str, String)]) -> String {
    let row = |(name, value): &(&str, String)| format!("<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value));
    format!("<div class=\"panel\"><h2>{title}</h2><table>{}</table></div>", rows.iter().map(row).collect::<String>())
}

fn charts(summary: &Summary, records: &[Record]) -> Vec<(&'static str, String)> {
    let completed = || records.iter().filter(|record| record.completed());
    let first: Vec<f64> = completed().filter_map(Record::ttft).map(|s| s * 1e3).collect();
    let whole: Vec<f64> = completed().map(|record| record.e2e() * 1e3).collect();
    let gaps: Vec<f64> = completed().flat_map(Record::gaps).map(|s| s * 1e3).collect();
    let end = summary.duration_s.max(1e-3);
    let curves = [Line { name: "first token", points: shares(first) }, Line { name: "end", points: shares(whole) }];
    let tokens = Line { name: "output tokens/s", points: token_rate(records, end) };
    let flight = Line { name: "in flight", points: in_flight(records, end) };
    let ok = |record: &&Record| record.outcome != Outcome::Cancelled;
    let waits = records.iter().filter(ok).filter_map(|r| r.ttft().map(|wait| (r.intended, wait * 1e3))).collect();
    vec![
        ("Share of requests within a latency, %", chart::lines(&curves, "ms", false)),
        ("Gaps between tokens, count", chart::histogram(&gaps, "ms")),
        ("Throughput", chart::lines(&[tokens], "s", true)),
        ("Requests in flight", chart::lines(&[flight], "s", true)),
        ("Time to first token, ms, by time due", chart::dots(&Line { name: "first token", points: waits }, "s")),
    ]
}

/// For each sample the percentage of samples up to it.
fn shares(mut samples: Vec<f64>) -> Vec<(f64, f64)> {
    samples.sort_by(f64::total_cmp);
    let count = samples.len() as f64;
    let points = samples.into_iter().enumerate().map(|(i, sample)| (sample, (i + 1) as f64 / count * 100.0));
    std::iter::once((0.0, 0.0)).chain(points).collect()
}

const BINS: usize = 60;

/// Tokens a second, of all requests, in equal parts of the run.
fn token_rate(records: &[Record], end: f64) -> Vec<(f64, f64)> {
    let mut bins = [0.0; BINS];
    for chunk in records.iter().flat_map(|record| &record.chunks) {
        let bin = (chunk.at / end * BINS as f64) as usize;
        bins[bin.min(BINS - 1)] += f64::from(chunk.tokens);
    }
    let width = end / BINS as f64;
    bins.iter().enumerate().map(|(i, tokens)| ((i as f64 + 0.5) * width, tokens / width)).collect()
}

/// Requests between sending and end, averaged over equal parts of the run.
fn in_flight(records: &[Record], end: f64) -> Vec<(f64, f64)> {
    let width = end / BINS as f64;
    let mean = |bin: usize| super::verdict::mean_in_flight(records, bin as f64 * width, (bin + 1) as f64 * width);
    (0..BINS).map(|bin| ((bin as f64 + 0.5) * width, mean(bin))).collect()
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
