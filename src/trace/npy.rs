//! Arrays in NumPy's `.npy` format: little-endian f32 and i32 in C order, versions 1.0 to 3.0.
//!
//! The format: `numpy.lib.format`'s documentation. A magic string, the version, the length of the header, a Python
//! dictionary with the keys `descr`, `fortran_order` and `shape`, and the elements.

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Where the elements begin is a multiple of this in files that are written.
const ALIGNMENT: usize = 64;

/// The longest header that is read: far more than a dictionary of three keys takes.
pub const MAX_HEADER_BYTES: usize = 4096;

/// The most dimensions of an array that is read.
const MAX_DIMENSIONS: usize = 8;

/// An array with its shape; the product of the shape is the number of elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Values,
}

/// The elements, in C order.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

/// Bytes that are no array we can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NpyError {
    #[error("not a .npy file: it does not begin with \\x93NUMPY")]
    Magic,
    #[error(".npy version {0}.{1} is unknown")]
    Version(u8, u8),
    #[error("truncated: {got} bytes, at least {needed} are needed")]
    Truncated { got: usize, needed: usize },
    #[error("a header of {0} bytes is longer than {MAX_HEADER_BYTES}")]
    HeaderLength(usize),
    #[error("header: {0}")]
    Header(&'static str),
    #[error("descr {0:?} is not read; <f4 and <i4 are")]
    Type(String),
    #[error("shape {0:?}: its size overflows")]
    Overflow(Vec<usize>),
    #[error("shape {shape:?} takes {expected} bytes, the file has {got}")]
    Length { shape: Vec<usize>, expected: usize, got: usize },
}

impl Values {
    /// The element type as the index calls it.
    pub fn dtype(&self) -> &'static str {
        match self {
            Self::F32(_) => "f32",
            Self::I32(_) => "i32",
        }
    }
}

/// Bytes of an array of elements of 4 bytes; `None` where that overflows.
pub fn data_bytes(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(4usize, |bytes, n| bytes.checked_mul(*n))
}

/// The file of an array.
///
/// # Panics
/// If the shape's product is not the number of elements.
pub fn encode(array: &Array) -> Vec<u8> {
    let (descr, count) = match &array.values {
        Values::F32(values) => ("<f4", values.len()),
        Values::I32(values) => ("<i4", values.len()),
    };
    assert_eq!(array.shape.iter().product::<usize>(), count, "shape {:?}", array.shape);
    let dimensions: String = array.shape.iter().map(|n| format!("{n}, ")).collect();
    // A tuple of one element needs its comma, longer ones may do without.
    let shape = if array.shape.len() == 1 { dimensions.trim_end() } else { dimensions.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let prefix = MAGIC.len() + 4;
    let padded = (prefix + header.len() + 1).next_multiple_of(ALIGNMENT);
    header.extend(std::iter::repeat_n(' ', padded - prefix - header.len() - 1));
    header.push('\n');
    let mut bytes = Vec::with_capacity(padded + 4 * count);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    match &array.values {
        Values::F32(values) => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        Values::I32(values) => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
    }
    bytes
}

/// Reads the bytes of a file: all of them, and nothing may follow the elements.
pub fn decode(bytes: &[u8]) -> Result<Array, NpyError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(NpyError::Magic)?;
    let truncated = |needed: usize| NpyError::Truncated { got: bytes.len(), needed };
    let (length, data) = match rest {
        [1, 0, low, high, data @ ..] => (u32::from(u16::from_le_bytes([*low, *high])), data),
        [2 | 3, 0, a, b, c, d, data @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]), data),
        [1..=3, 0, ..] | [1..=3] | [] => return Err(truncated(MAGIC.len() + 6)),
        [major, rest @ ..] => return Err(NpyError::Version(*major, rest.first().copied().unwrap_or(0))),
    };
    let length = length as usize;
    if length > MAX_HEADER_BYTES {
        return Err(NpyError::HeaderLength(length));
    }
    let (header, data) = data.split_at_checked(length).ok_or_else(|| truncated(bytes.len() - data.len() + length))?;
    let header = std::str::from_utf8(header).map_err(|_| NpyError::Header("not UTF-8"))?;
    let (descr, shape) = Header { rest: header }.read()?;
    let expected = data_bytes(&shape).ok_or_else(|| NpyError::Overflow(shape.clone()))?;
    if data.len() != expected {
        return Err(NpyError::Length { shape, expected, got: data.len() });
    }
    let (words, _) = data.as_chunks::<4>();
    let values = match descr {
        "<f4" => Values::F32(words.iter().map(|word| f32::from_le_bytes(*word)).collect()),
        "<i4" => Values::I32(words.iter().map(|word| i32::from_le_bytes(*word)).collect()),
        other => return Err(NpyError::Type(other.chars().take(64).collect())),
    };
    Ok(Array { shape, values })
}

/// Reads the dictionary: three keys, each once, in any order, and nothing else.
struct Header<'a> {
    rest: &'a str,
}

impl<'a> Header<'a> {
    /// The type and the shape.
    fn read(mut self) -> Result<(&'a str, Vec<usize>), NpyError> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.expect('{', "no dictionary")?;
        while !self.take('}') {
            let key = self.quoted()?;
            self.expect(':', "no colon after a key")?;
            let again = match key {
                "descr" => descr.replace(self.quoted()?).is_some(),
                "fortran_order" => fortran.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.tuple()?).is_some(),
                _ => return Err(NpyError::Header("a key other than descr, fortran_order and shape")),
            };
            if again {
                return Err(NpyError::Header("a key occurs twice"));
            }
            if !self.take(',') {
                self.expect('}', "the dictionary does not end")?;
                break;
            }
        }
        if !self.rest.trim_start().is_empty() {
            return Err(NpyError::Header("text behind the dictionary"));
        }
        match (descr, fortran, shape) {
            (_, Some(true), _) => Err(NpyError::Header("fortran_order True is not read")),
            (Some(descr), Some(false), Some(shape)) => Ok((descr, shape)),
            _ => Err(NpyError::Header("a key of descr, fortran_order and shape is missing")),
        }
    }

    /// Takes `c` where it comes next, space apart.
    fn take(&mut self, c: char) -> bool {
        let rest = self.rest.trim_start().strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, c: char, problem: &'static str) -> Result<(), NpyError> {
        if self.take(c) { Ok(()) } else { Err(NpyError::Header(problem)) }
    }

    fn quoted(&mut self) -> Result<&'a str, NpyError> {
        let quote = if self.take('\'') { '\'' } else { '"' };
        if quote == '"' {
            self.expect('"', "no quoted text")?;
        }
        let (text, rest) = self.rest.split_once(quote).ok_or(NpyError::Header("a quote does not end"))?;
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        for (word, value) in [("False", false), ("True", true)] {
            if let Some(rest) = self.rest.trim_start().strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(NpyError::Header("fortran_order is neither True nor False"))
    }

    fn tuple(&mut self) -> Result<Vec<usize>, NpyError> {
        let mut dimensions = Vec::new();
        self.expect('(', "shape is no tuple")?;
        while !self.take(')') {
            let rest = self.rest.trim_start();
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, rest) = rest.split_at(digits);
            self.rest = rest;
            dimensions.push(number.parse().map_err(|_| NpyError::Header("a dimension is no number that fits"))?);
            if dimensions.len() > MAX_DIMENSIONS {
                return Err(NpyError::Header("more than 8 dimensions"));
            }
            if !self.take(',') {
                self.expect(')', "shape does not end")?;
                break;
            }
        }
        Ok(dimensions)
    }
}
