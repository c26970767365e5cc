//! The figures as text for a terminal.

use super::arrivals::Arrivals;
use super::run::Load;
use super::summary::{Setup, Summary};
use super::workload::{Length, SamplingMix};
use std::fmt::Write;

/// The whole report, warnings first and last: a table alone must not be copied from a bad run.
pub fn report(setup: &Setup, summary: &Summary) -> String {
    let mut text = String::new();
    let warnings = summary.verdict.warnings();
    for warning in &warnings {
        let _ = writeln!(text, "!! {warning}");
    }
    for (name, value) in settings(setup) {
        let _ = writeln!(text, "{name:<26}{value}");
    }
    text.push('\n');
    for (name, value) in totals(summary) {
        let _ = writeln!(text, "{name:<26}{value:>14}");
    }
    let _ = writeln!(text, "\n{:<26}{:>10}{:>10}{:>10}{:>10}{:>10}", "ms", "mean", "p50", "p90", "p99", "max");
    let rows = [
        ("time to first token", &summary.ttft_ms),
        ("time per output token", &summary.tpot_ms),
        ("between tokens", &summary.itl_ms),
        ("worst gap of a request", &summary.worst_gap_ms),
        ("end to end", &summary.e2el_ms),
        ("time to a refusal", &summary.refused_ms),
    ];
    for (name, s) in rows.into_iter().filter(|(name, s)| s.count > 0 || *name != "time to a refusal") {
        let _ = write!(text, "{name:<26}");
        for value in [s.mean, s.p50, s.p90, s.p99, s.max] {
            let _ = write!(text, "{value:>10.2}");
        }
        text.push('\n');
    }
    if !summary.errors.is_empty() {
        text.push_str("\nerrors\n");
        for (error, count, message) in summary.failures() {
            let _ = writeln!(text, "  {error:<38}{count:>8}  {message}");
        }
    }
    if let Some(line) = transparency(summary) {
        let _ = writeln!(text, "\n{line}");
    }
    for warning in &warnings {
        let _ = writeln!(text, "!! {warning}");
    }
    text
}

/// One line on what sending again showed.
pub fn transparency(summary: &Summary) -> Option<String> {
    let result = summary.transparency.as_ref()?;
    let checked = result.checked;
    Some(if checked == 0 {
        "TRANSPARENCY NOT SHOWN: no request completed that could be sent again".to_owned()
    } else if result.holds() {
        format!("transparency: {checked} requests sent again alone gave the same tokens and text")
    } else {
        let (different, failed) = (&result.different, &result.failed);
        format!("TRANSPARENCY BROKEN: of {checked} requests sent again alone, {different:?} differ, {failed:?} failed")
    })
}

/// How the run was made.
pub fn settings(setup: &Setup) -> Vec<(&'static str, String)> {
    let (info, workload) = (&setup.info, &setup.workload);
    let load = match setup.load {
        Load::Closed { concurrency } => format!("closed loop, {concurrency} at a time"),
        Load::Open { rate, arrivals } => {
            let kind = match arrivals {
                Arrivals::Constant => "constant gaps".to_owned(),
                Arrivals::Gamma { burstiness: 1.0 } => "Poisson".to_owned(),
                Arrivals::Gamma { burstiness } => format!("gamma gaps, burstiness {burstiness}"),
            };
            format!("open loop, {rate} requests/s, {kind}")
        }
    };
    let sampling = if workload.sampling == SamplingMix::Mixed { "mixed" } else { "greedy" };
    let mut rows = vec![
        ("target", format!("{} ({})", setup.target, info.software)),
        ("model", info.model.clone()),
        ("load", load),
        ("prompt tokens", length(workload.prompt_tokens)),
        ("generated tokens", length(workload.gen_tokens)),
        ("sampling", sampling.to_owned()),
        ("seed", workload.seed.to_string()),
    ];
    if workload.shared_prefix_tokens > 0 {
        rows.push(("shared prefix", format!("{} tokens", workload.shared_prefix_tokens)));
    }
    rows
}

/// Counts and rates.
pub fn totals(summary: &Summary) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("duration", format!("{:.2} s", summary.duration_s)),
        ("completed", summary.completed.to_string()),
        ("failed", summary.failed.to_string()),
        ("cancelled by us", summary.cancelled.to_string()),
        ("requests/s", format!("{:.2}", summary.request_throughput())),
        ("output tokens/s", format!("{:.1}", summary.output_throughput())),
        ("total tokens/s", format!("{:.1}", summary.total_token_throughput())),
        ("prompt tokens", summary.input_tokens.to_string()),
        ("output tokens", summary.output_tokens.to_string()),
        ("most in flight", summary.peak_in_flight.to_string()),
        ("sent late", summary.verdict.late_sends.to_string()),
    ];
    if summary.miscounted > 0 {
        rows.push(("counted otherwise", format!("{} requests", summary.miscounted)));
    }
    if let (Some(good), Some(goodput)) = (summary.good, summary.goodput()) {
        rows.push(("within the objectives", good.to_string()));
        rows.push(("goodput, requests/s", format!("{goodput:.2}")));
    }
    rows
}

fn length(length: Length) -> String {
    if length.min == length.max { length.min.to_string() } else { format!("{} to {}", length.min, length.max) }
}
