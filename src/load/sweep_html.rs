//! A sweep as one HTML file.

use super::chart::{self, Line};
use super::report_html::{begin, escape, table};
use super::statistics::Statistics;
use super::summary::Summary;
use super::sweep::{Axis, Point, knee_of};
use super::sweep_report::{heads, rows, shared_settings, verdict, warnings};
use std::fmt::Write;

/// The whole page.
pub fn page(axis: Axis, points: &[Point]) -> String {
    let (model, target) =
        points.first().map_or(("", ""), |point| (point.setup.info.model.as_str(), point.setup.target.as_str()));
    let mut page = begin(&format!("Sweep of {} on {model}", axis.name()), target);
    let _ = write!(page, "<div class=\"note\">{}</div>", escape(&verdict(axis, points)));
    for warning in warnings(axis, points) {
        let _ = write!(page, "<div class=\"warn\">{}</div>", escape(&warning));
    }
    page.push_str(&figures(axis, points));
    page.push_str("<div class=\"grid\">");
    for (title, figure) in charts(axis, points) {
        let _ = write!(page, "<div class=\"panel\"><h2>{title}</h2>{figure}</div>");
    }
    page.push_str(&table("Setup of every point", &shared_settings(points)));
    page.push_str("</div><p>Latencies count from the time at which a request was to be sent.</p></body></html>\n");
    page
}

fn figures(axis: Axis, points: &[Point]) -> String {
    let head: String = heads(axis).iter().map(|name| format!("<th>{name}</th>")).collect();
    let row = |cells: &[String], is_knee| {
        let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
        format!("<tr{}>{cells}</tr>", if is_knee { " class=\"knee\"" } else { "" })
    };
    let body: String = rows(points).iter().map(|made| row(&made.cells, made.is_knee)).collect();
    let note = "<p>Latencies in milliseconds. The knee is in bold.</p>";
    format!("<div class=\"panel num\"><table><tr>{head}</tr>{body}</table>{note}</div>")
}

fn charts(axis: Axis, points: &[Point]) -> Vec<(String, String)> {
    let knee = knee_of(points);
    let labels: Vec<String> = points.iter().map(|point| point.value.to_string()).collect();
    let curve = |series: &[Line], unit| chart::curve(series, &labels, knee, unit);
    let throughput = |point: &Point| point.summary.output_throughput();
    let latencies = |of: fn(&Summary) -> Statistics| {
        let line = |name, figure: fn(&Statistics) -> f64| {
            let place = |point: &Point| (throughput(point), figure(&of(&point.summary)));
            Line { name, points: points.iter().map(place).collect() }
        };
        curve(&[line("p99", |s| s.p99), line("p50", |s| s.p50)], "")
    };
    let by_load = points.iter().map(|point| (point.value, throughput(point))).collect();
    let name = axis.name();
    vec![
        (format!("Time to first token, ms, over output tokens/s, by {name}"), latencies(|s| s.ttft_ms)),
        (format!("Between tokens, ms, over output tokens/s, by {name}"), latencies(|s| s.itl_ms)),
        (format!("Output tokens/s over {name}"), curve(&[Line { name: "output tokens/s", points: by_load }], "")),
    ]
}
