//! Steps over the bytes of a header, never past their end.

use super::error::{GgufError, shown};
use super::parse::MAX_HEADER_BYTES;
use super::value_type::ValueType;
use std::ops::Range;

/// An error that names `what` where `value` is over `limit`.
pub(super) fn limit(what: &str, value: u64, limit: u64) -> Result<(), GgufError> {
    if value > limit { Err(GgufError::Limit { what: what.into(), value, limit }) } else { Ok(()) }
}

/// What is being read, for errors.
pub(super) enum Place {
    Header,
    Key(u64),
    Value(Range<usize>),
    Tensor(u64),
}

/// A cursor over a header that knows what it is reading.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    /// At most `bytes.len()`.
    pub(super) pos: usize,
    pub(super) place: Place,
}

impl Reader<'_> {
    pub(super) fn place_name(&self) -> String {
        match &self.place {
            Place::Header => "the header".into(),
            Place::Key(index) => format!("metadata key {index}"),
            Place::Value(key) => format!("the value of key {}", shown(self.bytes.get(key.clone()).unwrap_or_default())),
            Place::Tensor(index) => format!("entry {index} of the tensor table"),
        }
    }

    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.pos) as u64
    }

    pub(super) fn truncated(&self, needed: u64) -> GgufError {
        let (what, offset, available) = (self.place_name(), self.pos as u64, self.remaining());
        GgufError::Truncated { what, offset, needed, available }
    }

    /// An error unless `count` more bytes are there.
    pub(super) fn need(&self, count: u64) -> Result<(), GgufError> {
        if count > self.remaining() {
            return Err(self.truncated(count));
        }
        limit("number of bytes before the tensor data", self.pos as u64 + count, MAX_HEADER_BYTES)
    }

    /// Steps over `count` bytes and returns where they are: always inside `bytes`.
    pub(super) fn take(&mut self, count: u64) -> Result<Range<usize>, GgufError> {
        self.need(count)?;
        let start = self.pos;
        self.pos += count as usize;
        Ok(start..self.pos)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let range = self.take(N as u64)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[range]);
        Ok(out)
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn value_type(&mut self, key: &Range<usize>) -> Result<ValueType, GgufError> {
        let id = self.u32()?;
        ValueType::from_id(id).ok_or_else(|| {
            GgufError::key(&self.bytes[key.clone()], self.pos as u64 - 4, format!("value type {id} is unknown"))
        })
    }

    /// Steps over one value that is no array; for a string the range leaves out the length.
    pub(super) fn value(&mut self, ty: ValueType) -> Result<Range<usize>, GgufError> {
        let num_bytes = match ty.fixed_size() {
            Some(size) => size,
            None => self.u64()?,
        };
        self.take(num_bytes)
    }
}
