//! Small charts as SVG.

use std::fmt::Write;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 30.0;
const TICKS: f64 = 5.0;
const BARS: usize = 40;

/// A series; points by rising x.
pub struct Line {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// The plane of a chart: both axes begin at 0.
struct Axes {
    x_max: f64,
    y_max: f64,
}

impl Axes {
    fn around(points: impl Iterator<Item = (f64, f64)>) -> Self {
        let (x, y) = points.fold((0.0f64, 0.0f64), |(x, y), point| (x.max(point.0), y.max(point.1)));
        let positive = |value: f64| if value > 0.0 { value } else { 1.0 };
        Self { x_max: positive(x), y_max: positive(y) }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.y_max * (HEIGHT - TOP - BOTTOM)
    }

    /// The opening of the SVG with grid and labels.
    fn begin(&self, unit: &str) -> String {
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for value in ticks(self.y_max) {
            let y = self.y(value);
            let _ = write!(svg, "<line class=\"rule\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
            let (x, y) = (LEFT - 6.0, y + 4.0);
            let _ = write!(svg, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", number(value));
        }
        for value in ticks(self.x_max) {
            let (x, y) = (self.x(value), bottom + 18.0);
            let text = number(value);
            let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{text} {unit}</text>");
        }
        svg
    }
}

/// Round numbers from 0 up to `max`.
fn ticks(max: f64) -> Vec<f64> {
    let rough = max / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|f| f * power).find(|step| *step >= rough).unwrap_or(rough);
    (0..=(max / step + 1e-9) as usize).map(|i| i as f64 * step).collect()
}

/// Without digits that say nothing.
fn number(value: f64) -> String {
    if value >= 10_000.0 { format!("{}k", rounded(value / 1e3)) } else { rounded(value) }
}

fn rounded(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Lines, with their names in the corner; filled to the ground where `filled`.
pub fn lines(series: &[Line], unit: &str, filled: bool) -> String {
    let axes = Axes::around(series.iter().flat_map(|line| line.points.iter().copied()));
    let mut svg = axes.begin(unit);
    for (index, line) in series.iter().enumerate() {
        if let (true, Some(first), Some(last)) = (filled, line.points.first(), line.points.last()) {
            let place = |(x, y): &(f64, f64)| format!("{:.1},{:.1} ", axes.x(*x), axes.y(*y));
            let points: String = line.points.iter().map(place).collect();
            let (from, to, ground) = (axes.x(first.0), axes.x(last.0), axes.y(0.0));
            let _ = write!(
                svg,
                "<polygon class=\"area k{index}\" points=\"{from:.1},{ground} {points}{to:.1},{ground}\"/>"
            );
        }
        svg.push_str(&polyline(&axes, index, line));
    }
    svg + "</svg>"
}

/// Lines through marked points, in any order of x. `labels` stand beside the points of the first line; the points at
/// `ringed` have a ring.
pub fn curve(series: &[Line], labels: &[String], ringed: Option<usize>, unit: &str) -> String {
    let tight = Axes::around(series.iter().flat_map(|line| line.points.iter().copied()));
    // Room for the labels and rings of the outermost points.
    let axes = Axes { x_max: tight.x_max * 1.04, y_max: tight.y_max * 1.15 };
    let mut svg = axes.begin(unit);
    for (index, line) in series.iter().enumerate() {
        svg.push_str(&polyline(&axes, index, line));
        for (position, ((x, y), label)) in line.points.iter().zip(labels).enumerate() {
            let (cx, cy) = (axes.x(*x), axes.y(*y));
            let centre = format!("cx=\"{cx:.1}\" cy=\"{cy:.1}\"");
            let title = format!("<title>{label}: {} at {}</title>", number(*y), number(*x));
            let _ = write!(svg, "<circle class=\"dot k{index}\" {centre} r=\"3\">{title}</circle>");
            if ringed == Some(position) {
                let _ = write!(svg, "<circle class=\"ring\" {centre} r=\"7\"/>");
            }
            if index == 0 {
                let (x, y) = (cx - 8.0, cy - 6.0);
                let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>");
            }
        }
    }
    svg + "</svg>"
}

/// Line number `index` with its name in the corner.
fn polyline(axes: &Axes, index: usize, line: &Line) -> String {
    let points: String = line.points.iter().map(|(x, y)| format!("{:.1},{:.1} ", axes.x(*x), axes.y(*y))).collect();
    let (x, name) = (LEFT + 110.0 * index as f64, line.name);
    format!(
        "<polyline class=\"line k{index}\" points=\"{points}\"/>\
         <text class=\"key k{index}\" x=\"{x}\" y=\"13\">{name}</text>"
    )
}

/// Points.
pub fn dots(series: &Line, unit: &str) -> String {
    let axes = Axes::around(series.points.iter().copied());
    let mut svg = axes.begin(unit);
    for (x, y) in &series.points {
        let (cx, cy) = (axes.x(*x), axes.y(*y));
        let (due, value) = (number(*x), number(*y));
        let title = format!("<title>{due} {unit}: {value}</title>");
        let _ = write!(svg, "<circle class=\"dot k0\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2.6\">{title}</circle>");
    }
    svg + "</svg>"
}

/// How many samples fall into each of equal bins from 0 to the largest.
pub fn histogram(samples: &[f64], unit: &str) -> String {
    let width = samples.iter().copied().fold(0.0, f64::max).max(1e-9) / BARS as f64;
    let mut bins = [0.0f64; BARS];
    for sample in samples {
        bins[((sample / width) as usize).min(BARS - 1)] += 1.0;
    }
    let edge = |bin: usize| bin as f64 * width;
    let axes = Axes::around((0..BARS).map(|bin| (edge(bin + 1), bins[bin])));
    let mut svg = axes.begin(unit);
    for (bin, count) in bins.iter().enumerate().filter(|(_, count)| **count > 0.0) {
        let (from, to, top) = (axes.x(edge(bin)), axes.x(edge(bin + 1)), axes.y(*count));
        // A single sample far out must be seen.
        let height = (axes.y(0.0) - top).max(1.5);
        let (y, wide) = (axes.y(0.0) - height, (to - from - 1.0).max(1.0));
        let title = format!("<title>{} to {} {unit}: {count}</title>", number(edge(bin)), number(edge(bin + 1)));
        let _ = write!(
            svg,
            "<rect class=\"bar k0\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{height:.1}\">\
             {title}</rect>"
        );
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        assert_eq!(ticks(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(4.2), [0.0, 1.0, 2.0, 3.0, 4.0]);
        for max in [1e-6, 0.37, 1.0, 99.0, 12345.0] {
            let ticks = ticks(max);
            assert!((3..=7).contains(&ticks.len()) && ticks.iter().all(|tick| *tick <= max * 1.000_001), "{max}");
        }
        assert_eq!([number(0.25), number(40.0), number(12_500.0)], ["0.25", "40", "12.5k"]);
    }

    #[test]
    fn a_bar_for_each_filled_bin_and_nothing_breaks_without_samples() {
        let bars = |samples: &[f64]| histogram(samples, "ms").matches("<rect").count();
        assert_eq!((bars(&[]), bars(&[5.0]), bars(&[0.1, 0.1, 5.0])), (0, 1, 2));
        for svg in [histogram(&[], "ms"), lines(&[Line { name: "none", points: Vec::new() }], "s", true)] {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn a_curve_marks_its_points_and_rings_one() {
        let line = |name| Line { name, points: vec![(1.0, 2.0), (3.0, 4.0)] };
        let svg = curve(&[line("a"), line("b")], &["x".into(), "y".into()], Some(1), "s");
        assert_eq!((svg.matches("class=\"dot").count(), svg.matches("class=\"ring").count()), (4, 2));
        let centre =
            |class: &str| svg.rsplit_once(class).and_then(|(_, rest)| rest.split(" r=").next()).map(str::to_owned);
        assert!(centre("class=\"ring\"").is_some_and(|ring| ring.contains("cx=") && svg.matches(&ring).count() == 4));
        assert_eq!((svg.matches(">x</text>").count(), svg.matches(">y</text>").count()), (1, 1));
    }

    #[test]
    fn points_lie_where_their_values_are() {
        let line = Line { name: "a", points: vec![(0.0, 0.0), (5.0, 1.0), (10.0, 2.0)] };
        assert!(lines(&[line], "s", false).contains("points=\"52.0,210.0 279.0,116.0 506.0,22.0 \""));
    }
}
