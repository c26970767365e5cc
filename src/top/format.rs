//! Figures as short text.

use super::quantile::Quantile;
use std::time::Duration;

/// What stands where there is nothing to show.
pub const NOTHING: &str = "–";

/// A count in at most 6 columns, such as `1234`, `56.7k`, `12.3M`.
pub fn count(value: f64) -> String {
    match positive_zero(value) {
        v if !v.is_finite() => NOTHING.into(),
        v if v.abs() < 9999.5 => format!("{v:.0}"),
        v if v.abs() < 999_950.0 => format!("{:.1}k", v / 1e3),
        v if v.abs() < 999_950_000.0 => format!("{:.1}M", v / 1e6),
        v if v.abs() < 999_950_000_000.0 => format!("{:.1}G", v / 1e9),
        v => format!("{v:.0e}"),
    }
}

/// A count with all its digits.
pub fn whole(value: f64) -> String {
    format!("{:.0}", positive_zero(value))
}

/// The sum of no values is -0.0, which no reader expects.
fn positive_zero(value: f64) -> f64 {
    value + 0.0
}

/// A rate or a mean: three figures or more, at most 6 columns.
pub fn rate(value: Option<f64>) -> String {
    match value.map(positive_zero) {
        None => NOTHING.into(),
        Some(v) if v.abs() < 9.995 => format!("{v:.2}"),
        Some(v) if v.abs() < 99.95 => format!("{v:.1}"),
        Some(v) => count(v),
    }
}

/// Seconds with a unit, such as `12.3 ms` or `4.56 s`.
pub fn seconds(value: f64) -> String {
    match value {
        v if !v.is_finite() => NOTHING.into(),
        v if v < 0.099_95 => format!("{:.1} ms", v * 1e3),
        v if v < 0.9995 => format!("{:.0} ms", v * 1e3),
        v if v < 9.995 => format!("{v:.2} s"),
        v if v < 99.95 => format!("{v:.1} s"),
        v => format!("{} s", count(v)),
    }
}

/// How [`quantile`] is to be read.
pub const QUANTILE_LEGEND: &str = "linear in the bucket; ~ first, > last bucket";

/// A percentile; one in the first bucket is a guess, one in the last is above its lower end.
pub fn quantile(value: Option<Quantile>) -> String {
    match value {
        None => NOTHING.into(),
        Some(Quantile::At(at)) => seconds(at),
        // Of a guess two figures are enough.
        Some(Quantile::InFirst(at)) if (0.00995..0.995).contains(&at) => format!("~{:.0} ms", at * 1e3),
        Some(Quantile::InFirst(at)) => format!("~{}", seconds(at)),
        Some(Quantile::Above(bound)) => format!(">{}", seconds(bound)),
    }
}

/// A ratio in per cent.
pub fn percent(ratio: f64) -> String {
    if ratio.is_finite() { format!("{:.0} %", ratio * 100.0) } else { NOTHING.into() }
}

/// A stretch of time by its two largest units, such as `3 h 12 min`.
pub fn stretch(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Text of the server as a terminal may show it: control and direction characters do not reach it.
pub fn harmless(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let cases = [(0.0, "0"), (9999.0, "9999"), (9999.6, "10.0k"), (123_456.0, "123.5k"), (2.5e9, "2.5G")];
        for (value, text) in cases {
            assert_eq!(count(value), text);
        }
        for value in [0.0, 9.996, 99.96, 9999.7, 999_960.0, 999_960_000.0, 1e12, 1e300, f64::NAN, -5.0] {
            assert!(count(value).chars().count() <= 6, "{value}: {}", count(value));
            assert!(rate(Some(value)).chars().count() <= 6, "{value}: {}", rate(Some(value)));
        }
        assert_eq!((rate(Some(1.234)), rate(Some(45.67)), rate(None)), ("1.23".into(), "45.7".into(), NOTHING.into()));
        let cases =
            [(0.0004, "0.4 ms"), (0.0123, "12.3 ms"), (0.3456, "346 ms"), (4.561, "4.56 s"), (2560.0, "2560 s")];
        for (value, text) in cases {
            assert_eq!(seconds(value), text);
        }
        assert_eq!((count(-0.0), whole(-0.0), rate(Some(-0.0))), ("0".into(), "0".into(), "0.00".into()));
        assert_eq!(quantile(Some(Quantile::Above(80.0))), ">80.0 s");
        assert_eq!(quantile(Some(Quantile::InFirst(0.15))), "~150 ms");
        for value in [0.0001, 0.0099, 0.00996, 0.0996, 0.0997, 0.996, 9.996, 99.96, 2560.0] {
            for at in [Quantile::At(value), Quantile::InFirst(value), Quantile::Above(value)] {
                assert!(quantile(Some(at)).chars().count() <= 7 + usize::from(value < 0.1), "{at:?}");
            }
            let guess = quantile(Some(Quantile::InFirst(value)));
            assert!(guess.chars().count() <= 7, "{guess}");
        }
        assert_eq!(stretch(Duration::from_secs(11_530)), "3 h 12 min");
        assert_eq!(harmless("a\u{1b}[2Jb\u{202e}c"), "a\u{fffd}[2Jb\u{fffd}c");
    }
}
