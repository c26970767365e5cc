//! Durations on the command line: a whole number and its unit, such as `30s`.

use std::time::Duration;

const MAX_MS: u64 = 7 * 24 * 3_600_000;

/// A number and `ms`, `s`, `m` or `h`; at most a week. The error is a reason.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let value: u64 = text[..digits].parse().map_err(|_| "a whole number and ms, s, m or h, such as 30s".to_owned())?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err("has no unit: ms, s, m or h".to_owned()),
        unit => return Err(format!("unknown unit {unit:?}: ms, s, m or h")),
    };
    let millis = value.checked_mul(millis).filter(|ms| *ms <= MAX_MS);
    millis.map(Duration::from_millis).ok_or_else(|| "is more than a week".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
        for text in ["", "30", "s", "-1s", "1.5s", "1d", "99999999999999999999s", "1000h", "1€"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
