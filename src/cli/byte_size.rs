//! Sizes on the command line: `512MiB`, `2GiB`, `1.5GB`, `1048576`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim());
        let unit_bytes = match unit {
            "" => 1,
            _ => UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, bytes)| *bytes)
                .ok_or_else(|| format!("unknown unit {unit:?}; use B, KiB, MiB, GiB, TiB, KB, MB, GB or TB"))?,
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(unit_bytes).map(Self).ok_or_else(|| "does not fit 64 bits".into());
        }
        let value = number.parse::<f64>().map_err(|_| "not a number with an optional unit".to_string())?;
        let bytes = value * unit_bytes as f64;
        if bytes < u64::MAX as f64 { Ok(Self(bytes as u64)) } else { Err("does not fit 64 bits".into()) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b if b >= 1 << 30 => write!(f, "{:.2}GiB", b as f64 / f64::from(1 << 30)),
            b if b >= 1 << 20 => write!(f, "{:.1}MiB", b as f64 / f64::from(1 << 20)),
            b if b >= 1 << 10 => write!(f, "{:.1}KiB", b as f64 / 1024.0),
            b => write!(f, "{b}B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSize;

    #[test]
    fn reads_binary_and_decimal_units() {
        let cases = [
            ("512MiB", 536_870_912),
            ("2GiB", 2_147_483_648),
            ("10GB", 10_000_000_000),
            ("1.5KiB", 1536),
            ("0", 0),
            ("10 GiB", 10_737_418_240),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "-1", "GiB", "1QiB", "1..5", "18446744073709551616", "99999999TiB", "1e400GB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
