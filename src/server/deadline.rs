//! `grpc-timeout`, which tonic enforces only until the response headers and reports as CANCELLED.

use super::status;
use std::time::{Duration, Instant};
use tonic::Status;
use tonic::metadata::MetadataMap;

/// When the headers of a request arrived: its message may have taken its time.
#[derive(Clone, Copy)]
pub(super) struct Arrival(pub Instant);

/// When the whole RPC is to be over, if the client said so. `now` is when it arrived.
pub(super) fn of(metadata: &MetadataMap, now: Instant) -> Result<Option<Instant>, Status> {
    let mut values = metadata.get_all("grpc-timeout").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let timeout = value.to_str().ok().and_then(parse).filter(|_| values.next().is_none());
    let Some(timeout) = timeout else {
        return Err(status::invalid_field("grpc-timeout", "must be one value of up to 8 digits and a unit of HMSmun"));
    };
    // So far in the future that the clock cannot tell it: no deadline.
    Ok(now.checked_add(timeout))
}

/// Up to 8 digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit() {
        let cases = [
            ("0n", Duration::ZERO),
            ("1n", Duration::from_nanos(1)),
            ("7u", Duration::from_micros(7)),
            ("250m", Duration::from_millis(250)),
            ("3S", Duration::from_secs(3)),
            ("2M", Duration::from_secs(120)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_the_protocol_does_not_know() {
        for text in ["", "S", "5", "100000000S", "-1S", "+1S", "1.5S", "abc", "1s", " 1S", "1S ", "1€"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
