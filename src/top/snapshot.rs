//! The figures as plain text, for output that is no terminal.

use super::figures::{Figures, Health};
use super::format::{QUANTILE_LEGEND, percent, quantile, rate, stretch, whole};
use super::view::span;
use std::fmt::Write;

/// One fact a line.
pub fn text(figures: &Figures) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:<14}{value}");
    };
    line("version", figures.version.clone());
    line("isa", format!("{}, {} threads", figures.isa, figures.threads));
    if let Some((name, architecture, file_type)) = &figures.model {
        line("model", format!("{name} ({architecture}, {file_type})"));
    }
    if let Some(uptime) = figures.uptime {
        line("up", stretch(uptime));
    }
    let state = match figures.health {
        Health::Serving => "serving",
        Health::Loading => "not ready: the model is being loaded",
        Health::Draining => "draining",
    };
    line("state", state.into());
    line("running", whole(figures.running));
    line("waiting", whole(figures.waiting));
    line("connections", whole(figures.connections));
    line("batch", format!("{}, mean {} {}", whole(figures.batch), rate(figures.mean_batch), span(figures)));
    line("saturation", percent(figures.saturation));
    let kv = &figures.kv;
    let states = format!("used {}, cached {}, free {}", whole(kv.used), whole(kv.cached), whole(kv.free));
    let pool = format!("of {} blocks of {} tokens", whole(kv.total), whole(kv.block_tokens));
    line("KV pool", format!("{}, {states} {pool}", percent(kv.used / kv.total)));
    line("prompt", format!("{} tokens/s", rate(figures.prompt_rate)));
    line("generated", format!("{} tokens/s", rate(figures.generation_rate)));
    let row = |name: &str, cells: [String; 4]| {
        let [a, b, c, d] = cells;
        format!("{name:<14}{a:>10}{b:>10}{c:>10}{d:>10}\n")
    };
    let _ = write!(out, "\n{}", row(&span(figures), ["p50", "p90", "p99", "samples"].map(str::to_owned)));
    for latency in &figures.latencies {
        let [p50, p90, p99] = [latency.p50, latency.p90, latency.p99].map(quantile);
        out.push_str(&row(latency.name, [p50, p90, p99, whole(latency.buckets.total())]));
    }
    let _ = writeln!(out, "({QUANTILE_LEGEND})\n\n{:<28}{:>8}{:>10}", "requests", "/s", "total");
    for event in &figures.events {
        let name = if event.detail { format!("  {}", event.name) } else { event.name.clone() };
        let _ = writeln!(out, "{name:<28}{:>8}{:>10}", rate(event.per_second), whole(event.total));
    }
    out.push('\n');
    for (name, value) in &figures.totals {
        let _ = writeln!(out, "{name:<28}{:>18}", whole(*value));
    }
    out
}
