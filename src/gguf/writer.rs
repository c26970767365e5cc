//! Writing GGUF files as a stream: first the header, then each tensor's data, never all of it in memory.

use super::parse::DEFAULT_ALIGNMENT;
use super::tensor_type::TensorType;
use super::value_type::ValueType;
use std::io::{self, Write};

/// A metadata value to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    U16(u16),
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Str(String),
    Strs(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    U32s(Vec<u32>),
    Bools(Vec<bool>),
    /// A type's number and the bytes that follow it, valid or not.
    Raw(u32, Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.into())
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<f32> for Value {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl Value {
    /// Appends the type's number and the value.
    fn encode(&self, out: &mut Vec<u8>) {
        let mut scalar = |ty: ValueType, bytes: &[u8]| {
            out.extend(ty.id().to_le_bytes());
            out.extend(bytes);
        };
        match self {
            Self::U8(v) => scalar(ValueType::U8, &[*v]),
            Self::U16(v) => scalar(ValueType::U16, &v.to_le_bytes()),
            Self::U32(v) => scalar(ValueType::U32, &v.to_le_bytes()),
            Self::I32(v) => scalar(ValueType::I32, &v.to_le_bytes()),
            Self::U64(v) => scalar(ValueType::U64, &v.to_le_bytes()),
            Self::F32(v) => scalar(ValueType::F32, &v.to_le_bytes()),
            Self::F64(v) => scalar(ValueType::F64, &v.to_le_bytes()),
            Self::Bool(v) => scalar(ValueType::Bool, &[u8::from(*v)]),
            Self::Str(text) => {
                out.extend(ValueType::String.id().to_le_bytes());
                put_string(out, text);
            }
            Self::Strs(texts) => {
                put_array_head(out, ValueType::String, texts.len());
                texts.iter().for_each(|text| put_string(out, text));
            }
            Self::F32s(values) => {
                put_array_head(out, ValueType::F32, values.len());
                values.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            Self::I32s(values) => {
                put_array_head(out, ValueType::I32, values.len());
                values.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            Self::U32s(values) => {
                put_array_head(out, ValueType::U32, values.len());
                values.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            Self::Bools(values) => {
                put_array_head(out, ValueType::Bool, values.len());
                out.extend(values.iter().map(|v| u8::from(*v)));
            }
            Self::Raw(id, bytes) => {
                out.extend(id.to_le_bytes());
                out.extend(bytes);
            }
        }
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_array_head(out: &mut Vec<u8>, of: ValueType, len: usize) {
    out.extend(ValueType::Array.id().to_le_bytes());
    out.extend(of.id().to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

/// A line of the tensor table to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    pub name: String,
    /// Fastest first.
    pub dims: Vec<u64>,
    pub ggml_type: u32,
    /// Bytes of data that will follow.
    pub num_bytes: u64,
}

/// A header in the making. It checks nothing that the format does not force it to: tests write bad files with it.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Written as it is.
    pub version: u32,
    /// Used for padding; write `general.alignment` too where it is not 32.
    pub alignment: u64,
    keys: Vec<(String, Value)>,
    tensors: Vec<TensorEntry>,
}

impl Default for Writer {
    fn default() -> Self {
        Self { version: 3, alignment: DEFAULT_ALIGNMENT, keys: Vec::new(), tensors: Vec::new() }
    }
}

impl Writer {
    /// Adds a key, or replaces its value where it is there.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.keys.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.into(), value)),
        }
    }

    /// Adds a key even where it is there already.
    pub fn push(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.push((key.into(), value.into()));
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) {
        self.keys.retain(|(k, _)| k != key);
    }

    /// Adds a tensor of a known type; `None` where the dimensions do not fit the type.
    pub fn tensor(&mut self, name: &str, dims: &[u64], ggml_type: u32) -> Option<()> {
        let num_bytes = TensorType::from_id(ggml_type)?.tensor_bytes(dims)?;
        self.tensors.push(TensorEntry { name: name.into(), dims: dims.into(), ggml_type, num_bytes });
        Some(())
    }

    /// Adds a line to the table as it is.
    pub fn push_tensor(&mut self, entry: TensorEntry) {
        self.tensors.push(entry);
    }

    /// Writes the header with the padding after it; the tensors' data follow through the result, in table order.
    pub fn begin<W: Write>(self, mut out: W) -> io::Result<DataWriter<W>> {
        let mut header = self.header();
        header.resize(header.len().next_multiple_of(self.alignment as usize), 0);
        out.write_all(&header)?;
        let mut sizes: Vec<u64> = self.tensors.iter().map(|t| t.num_bytes).collect();
        sizes.reverse();
        Ok(DataWriter { out, alignment: self.alignment, pending: sizes, left: 0, padding: 0 })
    }

    /// The header without padding.
    pub fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(b"GGUF");
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            put_string(&mut out, key);
            value.encode(&mut out);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_string(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.ggml_type.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + tensor.num_bytes).next_multiple_of(self.alignment);
        }
        out
    }
}

/// Takes the tensors' data: for each tensor [`DataWriter::begin_tensor`], then its bytes in pieces of any size.
pub struct DataWriter<W: Write> {
    out: W,
    alignment: u64,
    /// Sizes of the tensors to come, last first.
    pending: Vec<u64>,
    /// Bytes that the current tensor still needs.
    left: u64,
    /// Zero bytes after the current tensor.
    padding: u64,
}

impl<W: Write> DataWriter<W> {
    /// Moves on to the next tensor of the table; an error where the current one is not complete or none is left.
    pub fn begin_tensor(&mut self) -> io::Result<()> {
        self.end_tensor()?;
        let size = self.pending.pop().ok_or_else(|| invalid("more tensors written than announced"))?;
        self.left = size;
        self.padding = size.next_multiple_of(self.alignment) - size;
        Ok(())
    }

    /// Writes some of the current tensor's bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| invalid("more bytes written than the tensor has"))?;
        self.out.write_all(bytes)
    }

    /// Pads the last tensor and returns the sink, flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_tensor()?;
        if !self.pending.is_empty() {
            return Err(invalid("fewer tensors written than announced"));
        }
        self.out.flush()?;
        Ok(self.out)
    }

    fn end_tensor(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(invalid("fewer bytes written than the tensor has"));
        }
        let zeros = vec![0; std::mem::take(&mut self.padding) as usize];
        self.out.write_all(&zeros)
    }
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_tensors() -> DataWriter<Vec<u8>> {
        let mut w = Writer::default();
        w.tensor("a", &[3], 0).expect("F32");
        w.tensor("b", &[8], 0).expect("F32");
        w.begin(Vec::new()).expect("written")
    }

    #[test]
    fn tensors_are_padded_to_the_alignment() {
        let mut data = two_tensors();
        let header = data.out.len();
        assert!(header.is_multiple_of(32));
        for size in [12, 32] {
            data.begin_tensor().expect("the next");
            data.write(&vec![7; size]).expect("written");
        }
        let bytes = data.finish().expect("complete");
        assert_eq!(bytes[header..header + 32], [[7; 12].as_slice(), &[0; 20]].concat());
        assert_eq!(bytes.len(), header + 64);
    }

    #[test]
    fn sizes_and_counts_must_be_as_announced() {
        let mut data = two_tensors();
        data.begin_tensor().expect("the first");
        assert!(data.write(&[0; 13]).is_err(), "more bytes than the tensor has");
        let mut data = two_tensors();
        data.begin_tensor().expect("the first");
        data.write(&[0; 11]).expect("fits");
        assert!(data.begin_tensor().is_err(), "fewer bytes than the tensor has");
        assert!(two_tensors().finish().is_err(), "fewer tensors than announced");
        let mut data = Writer::default().begin(Vec::new()).expect("written");
        assert!(data.begin_tensor().is_err(), "more tensors than announced");
    }
}
