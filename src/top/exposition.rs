//! Prometheus' text format, version 0.0.4: names, labels, values, and which series only grow.
//!
//! Lenient: a line that is not of the format is left out. Any text gives a value.

use std::collections::{BTreeMap, BTreeSet};

/// Label names and values, sorted by name.
pub type Labels = Vec<(String, String)>;

/// What identifies a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    pub name: String,
    pub labels: Labels,
}

impl Series {
    /// The value of a label; empty where there is none, which Prometheus takes for the same.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

/// One answer of `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    values: BTreeMap<Series, f64>,
    /// Names of series that only grow: counters, and the three kinds of series of a histogram.
    growing: BTreeSet<String>,
}

impl Exposition {
    pub fn parse(text: &str) -> Self {
        let mut exposition = Self::default();
        for line in text.lines() {
            let line = line.trim_start_matches(BLANKS);
            if let Some(comment) = line.strip_prefix('#') {
                exposition.growing.extend(growing(comment));
            } else if let Some((series, value)) = sample(line) {
                exposition.values.insert(series, value);
            }
        }
        exposition
    }

    /// Leaves out the series whose names are not `kept`.
    pub fn retain(&mut self, kept: impl Fn(&str) -> bool) {
        self.values.retain(|series, _| kept(&series.name));
        self.growing.retain(|name| kept(name));
    }

    /// All series.
    pub fn series(&self) -> impl Iterator<Item = (&Series, f64)> {
        self.values.iter().map(|(series, value)| (series, *value))
    }

    /// The series called `name`, whatever their labels.
    pub fn family<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a Series, f64)> + use<'a> {
        let first = Series { name: name.to_owned(), labels: Labels::new() };
        let name = name.to_owned();
        let from = self.values.range(first..).map(|(series, value)| (series, *value));
        from.take_while(move |(series, _)| series.name == name)
    }

    /// The first series called `name`: the only one of a name without labels.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.family(name).next().map(|(_, value)| value)
    }

    pub fn get(&self, series: &Series) -> Option<f64> {
        self.values.get(series).copied()
    }

    /// The series that only grow while the process lives. A value that is no finite number at least 0 reads as 0.
    pub fn growing(&self) -> impl Iterator<Item = (&Series, f64)> {
        let growing = self.series().filter(|(series, _)| self.growing.contains(&series.name));
        growing.map(|(series, value)| (series, counted(value)))
    }

    /// Those of them called `name`.
    pub fn growing_family<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a Series, f64)> + use<'a> {
        let growing = self.growing.contains(name);
        self.family(name).filter(move |_| growing).map(|(series, value)| (series, counted(value)))
    }
}

/// The value of a counter as one can reckon with it.
pub fn counted(value: f64) -> f64 {
    if value.is_finite() { value.max(0.0) } else { 0.0 }
}

const BLANKS: [char; 2] = [' ', '\t'];

/// The names that a `# TYPE` line declares to grow.
fn growing(comment: &str) -> Vec<String> {
    let mut words = comment.split_ascii_whitespace();
    let (Some("TYPE"), Some(name), Some(kind)) = (words.next(), words.next(), words.next()) else { return Vec::new() };
    let suffixes: &[&str] = match kind {
        "counter" => &[""],
        "histogram" => &["_bucket", "_sum", "_count"],
        _ => &[],
    };
    suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect()
}

/// `name{label="value",…} value [timestamp]`.
fn sample(line: &str) -> Option<(Series, f64)> {
    let (name, rest) = identifier(line)?;
    let rest = rest.trim_start_matches(BLANKS);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Labels::new(), rest),
    };
    let mut words = rest.split_ascii_whitespace();
    let value = words.next()?.parse().ok()?;
    let timestamp = words.next().is_none_or(|word| word.parse::<i64>().is_ok());
    (timestamp && words.next().is_none()).then(|| (Series { name: name.to_owned(), labels }, value))
}

/// A metric's or label's name, and what follows it.
fn identifier(text: &str) -> Option<(&str, &str)> {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let end = text.find(|c| !of_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end)?;
    let starts_well = name.chars().next().is_some_and(|first| !first.is_ascii_digit());
    starts_well.then_some((name, rest))
}

/// The labels after the opening brace, and what follows the closing one.
fn labels(mut text: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        text = text.trim_start_matches(BLANKS);
        if let Some(rest) = text.strip_prefix('}') {
            labels.sort();
            return Some((labels, rest));
        }
        let (name, rest) = identifier(text)?;
        let rest = rest.trim_start_matches(BLANKS).strip_prefix('=')?.trim_start_matches(BLANKS);
        let (value, rest) = quoted(rest.strip_prefix('"')?)?;
        labels.push((name.to_owned(), value));
        let rest = rest.trim_start_matches(BLANKS);
        text = match rest.strip_prefix(',') {
            Some(rest) => rest,
            None if rest.starts_with('}') => rest,
            None => return None,
        };
    }
}

/// A label's value up to its closing quote, with `\\`, `\"` and `\n` resolved, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn series(name: &str, labels: &[(&str, &str)]) -> Series {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Series { name: name.into(), labels }
    }

    #[test]
    fn what_the_format_allows_is_read() {
        let text = "# HELP a_total text\n# TYPE a_total counter\na_total 7\n\
            \t b { le = \"+Inf\" , path=\"c:\\\\d\\\"e\\nf\", } 1.5e3 1712345678901\n\
            c{x=\"1\"} NaN\nc{x=\"2\"} -Inf\r\nc{} 0\n";
        let read = Exposition::parse(text);
        assert_eq!(read.get(&series("a_total", &[])), Some(7.0));
        assert_eq!(read.get(&series("b", &[("le", "+Inf"), ("path", "c:\\d\"e\nf")])), Some(1500.0));
        assert!(read.get(&series("c", &[("x", "1")])).expect("read").is_nan());
        assert_eq!(read.get(&series("c", &[("x", "2")])), Some(f64::NEG_INFINITY));
        assert_eq!((read.value("c"), read.value("d")), (Some(0.0), None));
        assert_eq!(read.family("c").count(), 3);
        assert_eq!(read.series().count(), 5);
    }

    #[test]
    fn what_it_does_not_allow_is_left_out() {
        for line in ["a", "a b", "1a 2", "a{x} 1", "a{x=1} 1", "a{x=\"1} 1", "a{x=\"1\" y=\"2\"} 1", "{} 1", "a 1 2 3"]
        {
            assert_eq!(Exposition::parse(line).series().count(), 0, "{line}");
            assert_eq!(Exposition::parse(&format!("{line}\nb 1")).series().count(), 1, "{line}");
        }
    }

    #[test]
    fn the_types_tell_what_grows() {
        let text = "# TYPE blocks_total gauge\nblocks_total 5\n# TYPE t histogram\nt_bucket{le=\"1\"} 2\nt_sum 3\n\
            t_count 2\n# TYPE n_total counter\nn_total NaN\n";
        let read = Exposition::parse(text);
        let growing: Vec<_> = read.growing().map(|(series, value)| (&series.name[..], value)).collect();
        assert_eq!(growing, [("n_total", 0.0), ("t_bucket", 2.0), ("t_count", 2.0), ("t_sum", 3.0)]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(
            text in ".*\\PC*",
            lines in prop::collection::vec("[a#T{}\",\\\\= \n\u{e9}\u{202e}\u{0}0-9eE+.-]{0,40}", 0..20),
        ) {
            let _ = Exposition::parse(&text).growing().count();
            let _ = Exposition::parse(&lines.join("\n")).family("a").count();
        }

        /// A sample that is written by the rules is read back, whatever the label's value.
        #[test]
        fn what_is_written_is_read(value in any::<f64>(), label in any::<String>()) {
            let escaped = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // A bare carriage return may stand in a label: only a newline ends a line.
            prop_assume!(!label.contains('\r'));
            let read = Exposition::parse(&format!("m{{l=\"{escaped}\"}} {value}\n"));
            let found = read.get(&series("m", &[("l", &label)])).expect("read");
            prop_assert!(found == value || (found.is_nan() && value.is_nan()));
        }
    }
}
