//! The key-value pairs of a GGUF header: typed getters over an owned copy of the header's bytes.
//!
//! Values are decoded when asked for: the index holds ranges only, so a vocabulary of strings costs what it costs in
//! the file. Getters answer `Ok(None)` for an absent key and [`GgufError::WrongType`] for a value of another type or
//! out of range.

use super::error::{GgufError, shown};
use super::value_type::ValueType;
use std::ops::Range;

/// One key-value pair; ranges into the header's bytes.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Range<usize>,
    pub(crate) kind: Kind,
    /// A scalar's bytes, a string's text, or an array's elements.
    pub(crate) value: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Scalar(ValueType),
    Array { of: ValueType, len: usize },
}

impl Kind {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Scalar(ty) => ty.name().into(),
            Self::Array { of, len } => format!("array of {len} {}", of.name()),
        }
    }
}

/// A header's metadata. Keys are unique.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// The file from its first byte to the end of the tensor table.
    bytes: Vec<u8>,
    /// Sorted by key.
    entries: Vec<Entry>,
}

impl Metadata {
    pub(crate) fn new(bytes: Vec<u8>, entries: Vec<Entry>) -> Self {
        Self { bytes, entries }
    }

    pub(crate) fn header_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// All keys, in byte order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| std::str::from_utf8(self.slice(&entry.key)).ok())
    }

    /// All keys, as they stand in the file.
    pub fn keys_in_file_order(&self) -> impl Iterator<Item = &str> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        entries.sort_unstable_by_key(|entry| entry.key.start);
        entries.into_iter().filter_map(|entry| std::str::from_utf8(self.slice(&entry.key)).ok())
    }

    /// Whether the key occurs.
    pub fn contains(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The value's type as a name, such as `u32` or `array of 32000 string`.
    pub fn type_name(&self, key: &str) -> Option<String> {
        self.find(key).map(|entry| entry.kind.name())
    }

    /// The value as it stands in the file: its type's number and its bytes, a string with its length, an array with
    /// element type and length. What [`super::writer::Value::Raw`] takes.
    pub fn raw(&self, key: &str) -> Option<(u32, &[u8])> {
        let entry = self.find(key)?;
        let (id, prefix) = match entry.kind {
            Kind::Scalar(ValueType::String) => (ValueType::String, 8),
            Kind::Scalar(ty) => (ty, 0),
            Kind::Array { .. } => (ValueType::Array, 12),
        };
        let start = entry.value.start.checked_sub(prefix)?;
        Some((id.id(), self.bytes.get(start..entry.value.end)?))
    }

    /// An unsigned number of any integer type of the file, where it fits.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.integer(key, "an unsigned integer of 64 bits")
    }

    /// As [`Metadata::u64`], 32 bits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.integer(key, "an unsigned integer of 32 bits")
    }

    /// An `f32`, or an `f64` rounded to `f32`. May be NaN or infinite.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        let Some(entry) = self.find(key) else { return Ok(None) };
        let value = match entry.kind {
            Kind::Scalar(ValueType::F32) => self.array(entry).map(f32::from_le_bytes),
            Kind::Scalar(ValueType::F64) => self.array(entry).map(|raw| f64::from_le_bytes(raw) as f32),
            _ => None,
        };
        value.map(Some).ok_or_else(|| wrong_type(key, "a float", entry.kind.name()))
    }

    /// A bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        let Some(entry) = self.find(key) else { return Ok(None) };
        match (entry.kind, self.slice(&entry.value)) {
            (Kind::Scalar(ValueType::Bool), [byte]) => Ok(Some(*byte != 0)),
            _ => Err(wrong_type(key, "a bool", entry.kind.name())),
        }
    }

    /// A string of valid UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        let Some(entry) = self.find(key) else { return Ok(None) };
        if entry.kind != Kind::Scalar(ValueType::String) {
            return Err(wrong_type(key, "a string", entry.kind.name()));
        }
        let text = std::str::from_utf8(self.slice(&entry.value));
        text.map(Some).map_err(|_| wrong_type(key, "a string", "bytes that are no UTF-8".into()))
    }

    /// An array of strings of valid UTF-8, all checked before the first is returned.
    pub fn strings(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = &str>>, GgufError> {
        let Some(strings) = self.byte_strings(key)? else { return Ok(None) };
        if let Some(index) = strings.clone().position(|text| std::str::from_utf8(text).is_err()) {
            return Err(wrong_type(key, "an array of strings", format!("element {index} is no UTF-8")));
        }
        Ok(Some(strings.map(|text| std::str::from_utf8(text).unwrap_or_default())))
    }

    /// An array of strings as bytes.
    pub fn byte_strings(&self, key: &str) -> Result<Option<ByteStrings<'_>>, GgufError> {
        let Some(entry) = self.find(key) else { return Ok(None) };
        match entry.kind {
            Kind::Array { of: ValueType::String, len } => {
                Ok(Some(ByteStrings { rest: self.slice(&entry.value), left: len }))
            }
            _ => Err(wrong_type(key, "an array of strings", entry.kind.name())),
        }
    }

    /// An array of f32.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.numbers(key, "an array of f32", |of, raw| (of == ValueType::F32).then(|| f32::from_le_bytes(raw)))
    }

    /// An array of i32, or of u32 where all fit.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.numbers(key, "an array of i32", |of, raw| match of {
            ValueType::I32 => Some(i32::from_le_bytes(raw)),
            ValueType::U32 => u32::from_le_bytes(raw).try_into().ok(),
            _ => None,
        })
    }

    /// An array of u32, or of i32 where all fit.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.numbers(key, "an array of u32", |of, raw| match of {
            ValueType::U32 => Some(u32::from_le_bytes(raw)),
            ValueType::I32 => i32::from_le_bytes(raw).try_into().ok(),
            _ => None,
        })
    }

    /// An array of bool.
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        let Some(entry) = self.find(key) else { return Ok(None) };
        match entry.kind {
            Kind::Array { of: ValueType::Bool, .. } => {
                Ok(Some(self.slice(&entry.value).iter().map(|byte| *byte != 0).collect()))
            }
            _ => Err(wrong_type(key, "an array of bool", entry.kind.name())),
        }
    }

    /// [`Metadata::u32`] of a key that must be there.
    pub fn require_u32(&self, key: &str) -> Result<u32, GgufError> {
        self.u32(key)?.ok_or_else(|| missing(key))
    }

    /// [`Metadata::f32`] of a key that must be there.
    pub fn require_f32(&self, key: &str) -> Result<f32, GgufError> {
        self.f32(key)?.ok_or_else(|| missing(key))
    }

    /// [`Metadata::str`] of a key that must be there.
    pub fn require_str(&self, key: &str) -> Result<&str, GgufError> {
        self.str(key)?.ok_or_else(|| missing(key))
    }

    fn find(&self, key: &str) -> Option<&Entry> {
        let found = self.entries.binary_search_by(|entry| self.slice(&entry.key).cmp(key.as_bytes()));
        self.entries.get(found.ok()?)
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    fn array<const N: usize>(&self, entry: &Entry) -> Option<[u8; N]> {
        self.slice(&entry.value).try_into().ok()
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, expected: &'static str) -> Result<Option<T>, GgufError> {
        let Some(entry) = self.find(key) else { return Ok(None) };
        let Some(value) = self.any_integer(entry) else {
            return Err(wrong_type(key, expected, entry.kind.name()));
        };
        T::try_from(value).map(Some).map_err(|_| wrong_type(key, expected, value.to_string()))
    }

    fn any_integer(&self, entry: &Entry) -> Option<i128> {
        let Kind::Scalar(ty) = entry.kind else { return None };
        Some(match ty {
            ValueType::U8 => u8::from_le_bytes(self.array(entry)?).into(),
            ValueType::I8 => i8::from_le_bytes(self.array(entry)?).into(),
            ValueType::U16 => u16::from_le_bytes(self.array(entry)?).into(),
            ValueType::I16 => i16::from_le_bytes(self.array(entry)?).into(),
            ValueType::U32 => u32::from_le_bytes(self.array(entry)?).into(),
            ValueType::I32 => i32::from_le_bytes(self.array(entry)?).into(),
            ValueType::U64 => u64::from_le_bytes(self.array(entry)?).into(),
            ValueType::I64 => i64::from_le_bytes(self.array(entry)?).into(),
            _ => return None,
        })
    }

    /// An array of 4-byte numbers through `decode`, which answers `None` for a type or value it does not take.
    fn numbers<T>(
        &self,
        key: &str,
        expected: &'static str,
        decode: impl Fn(ValueType, [u8; 4]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let Some(entry) = self.find(key) else { return Ok(None) };
        let wrong = || wrong_type(key, expected, entry.kind.name());
        let Kind::Array { of, .. } = entry.kind else { return Err(wrong()) };
        if of.fixed_size() != Some(4) {
            return Err(wrong());
        }
        let (elements, _) = self.slice(&entry.value).as_chunks::<4>();
        let values: Option<Vec<T>> = elements.iter().map(|&raw| decode(of, raw)).collect();
        values.map(Some).ok_or_else(wrong)
    }
}

fn missing(key: &str) -> GgufError {
    GgufError::MissingKey { key: shown(key.as_bytes()) }
}

fn wrong_type(key: &str, expected: &'static str, found: String) -> GgufError {
    GgufError::WrongType { key: shown(key.as_bytes()), expected, found }
}

/// The strings of an array, in order, without copying them.
#[derive(Clone, Debug)]
pub struct ByteStrings<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for ByteStrings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<8>()?;
        let (text, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        self.rest = rest;
        self.left -= 1;
        Some(text)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for ByteStrings<'_> {}

#[cfg(test)]
mod tests;
