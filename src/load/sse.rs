//! Server-sent events, read from pieces of any size (WHATWG HTML, section 9.2.6).
//!
//! Of an event only its data are kept: the servers of completions use no other field.

/// Bytes of one line, or of the data of one event, beyond which a stream is given up. The last event of a
/// `llama-server` repeats the prompt.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// A line or an event is longer than any server sends.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

/// The state between two pieces.
#[derive(Default)]
pub struct SseParser {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The data lines of the event that has not ended yet, each with a line feed after it.
    data: Vec<u8>,
    /// The last piece ended in a carriage return: a line feed that follows belongs to it.
    after_return: bool,
    /// The first line is over, and with it the chance of a byte order mark.
    begun: bool,
}

impl SseParser {
    /// The data of each event that ends in `piece`. Events without data give nothing.
    pub fn feed(&mut self, mut piece: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut events = Vec::new();
        if let (true, Some((b'\n', rest))) = (self.after_return, piece.split_first()) {
            piece = rest;
            self.after_return = false;
        }
        while let Some(end) = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, rest) = piece.split_at(end);
            self.end_line(line, &mut events)?;
            let width = if rest.starts_with(b"\r\n") { 2 } else { 1 };
            self.after_return = rest == b"\r";
            piece = &rest[width..];
        }
        if !piece.is_empty() {
            self.after_return = false;
            self.line.extend_from_slice(piece);
        }
        if self.line.len() > MAX_EVENT_BYTES { Err(TooLong) } else { Ok(events) }
    }

    /// Takes the line that began in earlier pieces, if any, and ends with `rest`.
    fn end_line(&mut self, rest: &[u8], events: &mut Vec<Vec<u8>>) -> Result<(), TooLong> {
        let mut begun = std::mem::take(&mut self.line);
        let mut line = if begun.is_empty() {
            rest
        } else {
            begun.extend_from_slice(rest);
            &begun
        };
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            if self.data.pop().is_some() {
                events.push(std::mem::take(&mut self.data));
            }
        } else if let Some(value) = data_of(line) {
            self.data.extend_from_slice(value);
            self.data.push(b'\n');
        }
        begun.clear();
        self.line = begun;
        if self.data.len() > MAX_EVENT_BYTES { Err(TooLong) } else { Ok(()) }
    }
}

/// The value of a `data` field. Other fields, and comments, which begin with a colon, give none.
fn data_of(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"data")?;
    match rest.split_first() {
        None => Some(rest),
        Some((b':', value)) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each stream with the data of its events, read off by hand from the rules of the standard.
    const STREAMS: [(&str, &[&str]); 10] = [
        ("data: a\n\ndata: b\n\n", &["a", "b"]),
        ("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"]),
        ("data: a\r\rdata: b\r\r", &["a", "b"]),
        ("data: a\r\ndata: b\r\n\r\n", &["a\nb"]),
        ("\u{feff}data:{\"x\": \"é\"}\n\n: a comment\n\ndata:  two spaces\n\n", &["{\"x\": \"é\"}", " two spaces"]),
        ("data: a\ndata: b\ndata\n\n", &["a\nb\n"]),
        ("event: message\nid: 7\ndata: a\nretry: 5\n\n", &["a"]),
        ("dataset: no\n\ndata:\n\n", &[""]),
        ("data: a\n\ndata: never ended", &["a"]),
        ("data: a\r\n\ndata: b\n\r\n", &["a", "b"]),
    ];

    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let mut parser = SseParser::default();
        let events = pieces.iter().flat_map(|piece| parser.feed(piece).expect("short"));
        events.map(|event| String::from_utf8(event).expect("UTF-8")).collect()
    }

    #[test]
    fn events_are_those_of_the_standard() {
        for (stream, events) in STREAMS {
            assert_eq!(read(&[stream.as_bytes()]), events, "{stream:?}");
        }
    }

    /// LOAD-11: where the pieces begin and end changes nothing.
    #[test]
    fn pieces_of_any_size_give_the_same_events() {
        covers!("LOAD-11");
        for (stream, events) in STREAMS {
            let bytes = stream.as_bytes();
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(read(&pieces), events, "{stream:?} cut at {first} and {second}");
                }
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single), events, "{stream:?} byte by byte");
        }
    }

    #[test]
    fn an_endless_line_and_an_endless_event_are_given_up() {
        let piece = vec![b'x'; 1 << 20];
        let feed = |line: &[u8]| {
            let mut parser = SseParser::default();
            (0..=64).find_map(|_| parser.feed(line).err())
        };
        assert_eq!(feed(&piece), Some(TooLong));
        assert_eq!(feed(&[b"data:", &piece[..], b"\n"].concat()), Some(TooLong));
        assert_eq!(feed(&[&piece[..], b"\n"].concat()), None);
    }
}
