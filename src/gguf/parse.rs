//! Bytes of a GGUF header to metadata and a tensor table. Pure; never panics; allocates in proportion to what it read.
//!
//! Limits that are ours and not the format's stand here as constants, and in `specs/gguf.md`.

use super::error::{GgufError, shown};
use super::metadata::{Entry, Kind, Metadata};
use super::reader::{Place, Reader, limit};
use super::tensor_type::TensorType;
use super::value_type::ValueType;
use std::ops::Range;

/// Most metadata keys of a file.
pub const MAX_KEYS: u64 = 65_536;
/// Most tensors of a file.
pub const MAX_TENSORS: u64 = 32_768;
/// Longest key in bytes.
pub const MAX_KEY_BYTES: u64 = 65_535;
/// Longest tensor name in bytes: ggml's 64 with the terminating zero.
pub const MAX_NAME_BYTES: u64 = 63;
/// Most bytes before the tensor data: magic, metadata and tensor table.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;
/// Where `general.alignment` is absent.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// Largest alignment accepted.
pub const MAX_ALIGNMENT: u64 = 1 << 20;

const MIN_KEY_BYTES_IN_FILE: u64 = 8 + 1 + 4 + 1;
const MIN_TENSOR_BYTES_IN_FILE: u64 = 8 + 1 + 4 + 8 + 4 + 8;
const ALIGNMENT_KEY: &str = "general.alignment";

/// A parsed header. Everything in it is owned.
#[derive(Clone, Debug)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Bytes; a power of two, 8 to [`MAX_ALIGNMENT`].
    pub alignment: u64,
    pub metadata: Metadata,
    /// In file order; names are unique, their data do not overlap and leave no gaps beyond alignment.
    pub tensors: Vec<TensorInfo>,
    /// Where the tensor data begin: bytes from the start of the file, a multiple of `alignment`.
    pub data_offset: u64,
}

/// One line of the tensor table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// 1 to 4 dimensions, fastest first, none zero: a matrix `[N, K]` has `[K, N]`.
    pub dims: Vec<u64>,
    /// A number [`TensorType::from_id`] knows.
    pub ggml_type: u32,
    /// Bytes from `data_offset`, a multiple of the alignment.
    pub offset: u64,
    /// Bytes of data.
    pub num_bytes: u64,
}

impl TensorInfo {
    /// Number of elements. Products were checked when the header was parsed.
    pub fn num_elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// ggml's name of the type.
    pub fn type_name(&self) -> &'static str {
        TensorType::from_id(self.ggml_type).map_or("unknown", |t| t.name)
    }
}

impl Header {
    /// Bytes of heap that this value holds, up to the allocator's own overhead.
    pub fn heap_bytes(&self) -> usize {
        let table: usize = self.tensors.iter().map(|t| t.name.capacity() + t.dims.capacity() * 8).sum();
        table + self.tensors.capacity() * size_of::<TensorInfo>() + self.metadata.heap_bytes()
    }
}

/// Parses a whole file in memory: header, and every tensor's data inside `bytes`.
///
/// # Errors
/// Anything that is not a little-endian GGUF v2 or v3 file within the limits above; the message names the key or
/// tensor and the place.
pub fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
    let scan = scan(bytes)?;
    let header_bytes = bytes.get(..scan.end).unwrap_or(bytes).to_vec();
    let header = scan.into_header(header_bytes);
    check_extents(&header, bytes.len() as u64)?;
    Ok(header)
}

/// Checks that every tensor's data end inside a file of `file_bytes`.
pub(crate) fn check_extents(header: &Header, file_bytes: u64) -> Result<(), GgufError> {
    for tensor in &header.tensors {
        let end = header.data_offset.checked_add(tensor.offset).and_then(|start| start.checked_add(tensor.num_bytes));
        if end.is_none_or(|end| end > file_bytes) {
            let end = end.map_or("2^64 or more".into(), |end| end.to_string());
            let problem = format!("its data end at byte {end}, the file has {file_bytes} bytes");
            return Err(GgufError::tensor(&tensor.name, problem));
        }
    }
    Ok(())
}

/// What a scan of the header found; ranges refer to the bytes that were scanned.
pub(crate) struct Scan {
    version: u32,
    alignment: u64,
    entries: Vec<Entry>,
    tensors: Vec<TensorInfo>,
    data_offset: u64,
    /// Where the tensor table ends.
    pub(crate) end: usize,
}

impl Scan {
    /// `bytes`: the first [`Scan::end`] bytes of what was scanned (more is cut off).
    pub(crate) fn into_header(self, mut bytes: Vec<u8>) -> Header {
        bytes.truncate(self.end);
        bytes.shrink_to_fit();
        Header {
            version: self.version,
            alignment: self.alignment,
            metadata: Metadata::new(bytes, self.entries),
            tensors: self.tensors,
            data_offset: self.data_offset,
        }
    }
}

/// Walks the header in `bytes`, the beginning of a file. [`GgufError::Truncated`] where `bytes` end too early.
pub(crate) fn scan(bytes: &[u8]) -> Result<Scan, GgufError> {
    let mut reader = Reader { bytes, pos: 0, place: Place::Header };
    let version = magic_and_version(&mut reader)?;
    let num_tensors = reader.u64()?;
    let num_keys = reader.u64()?;
    limit("number of metadata keys", num_keys, MAX_KEYS)?;
    limit("number of tensors", num_tensors, MAX_TENSORS)?;
    reader.need(num_keys * MIN_KEY_BYTES_IN_FILE + num_tensors * MIN_TENSOR_BYTES_IN_FILE)?;

    let entries = read_entries(&mut reader, num_keys)?;
    let alignment = alignment(bytes, &entries)?;
    let tensors = read_tensors(&mut reader, num_tensors)?;
    check_names(&tensors)?;
    check_layout(&tensors, alignment)?;
    let data_offset = (reader.pos as u64).next_multiple_of(alignment);
    Ok(Scan { version, alignment, entries, tensors, data_offset, end: reader.pos })
}

fn magic_and_version(reader: &mut Reader) -> Result<u32, GgufError> {
    let magic = reader.bytes.get(..4).unwrap_or(reader.bytes);
    if !b"GGUF".starts_with(magic) || magic.is_empty() {
        return Err(GgufError::BadMagic { found: shown(magic) });
    }
    reader.take(4)?;
    let version = reader.u32()?;
    let reason = match version {
        2 | 3 => return Ok(version),
        1 => "the first version of the format is too old",
        v if v.swap_bytes() <= 3 && v != 0 => "the file is big-endian",
        _ => "this version is unknown",
    };
    Err(GgufError::Version { version, reason })
}

/// Reads all key-value pairs and returns them sorted by key.
fn read_entries(reader: &mut Reader, count: u64) -> Result<Vec<Entry>, GgufError> {
    let mut entries = Vec::with_capacity(count as usize);
    for index in 0..count {
        reader.place = Place::Key(index);
        entries.push(read_entry(reader)?);
    }
    let bytes = reader.bytes;
    entries.sort_unstable_by(|a: &Entry, b: &Entry| bytes[a.key.clone()].cmp(&bytes[b.key.clone()]));
    for pair in entries.windows(2) {
        let [a, b] = pair else { continue };
        if bytes[a.key.clone()] == bytes[b.key.clone()] {
            let last = a.key.start.max(b.key.start) as u64;
            return Err(GgufError::key(&bytes[a.key.clone()], last, "occurs twice"));
        }
    }
    Ok(entries)
}

fn read_entry(reader: &mut Reader) -> Result<Entry, GgufError> {
    let key_bytes = reader.u64()?;
    if !(1..=MAX_KEY_BYTES).contains(&key_bytes) {
        let what = format!("length of {}", reader.place_name());
        return Err(GgufError::Limit { what, value: key_bytes, limit: MAX_KEY_BYTES });
    }
    let key = reader.take(key_bytes)?;
    let name = &reader.bytes[key.clone()];
    if !is_clean_text(name) {
        return Err(GgufError::key(name, key.start as u64, "the key is not UTF-8 or holds control characters"));
    }
    reader.place = Place::Value(key.clone());
    let value_type = reader.value_type(&key)?;
    let (kind, value) = match value_type {
        ValueType::Array => read_array(reader, &key)?,
        scalar => (Kind::Scalar(scalar), reader.value(scalar)?),
    };
    let of_bools = matches!(kind, Kind::Scalar(ValueType::Bool) | Kind::Array { of: ValueType::Bool, .. });
    if of_bools && let Some(&byte) = reader.bytes[value.clone()].iter().find(|&&byte| byte > 1) {
        return Err(GgufError::key(name, value.start as u64, format!("a bool is 0 or 1, {byte} found")));
    }
    Ok(Entry { key, kind, value })
}

/// Reads an array's element type, length and elements; the range holds the elements.
fn read_array(reader: &mut Reader, key: &Range<usize>) -> Result<(Kind, Range<usize>), GgufError> {
    let of = reader.value_type(key)?;
    if of == ValueType::Array {
        let name = &reader.bytes[key.clone()];
        return Err(GgufError::key(name, reader.pos as u64, "arrays of arrays are not supported"));
    }
    let len = reader.u64()?;
    let start = reader.pos;
    if let Some(size) = of.fixed_size() {
        let num_bytes = len.checked_mul(size).ok_or_else(|| reader.truncated(u64::MAX))?;
        reader.take(num_bytes)?;
    } else {
        // Each string needs the 8 bytes of its length: a huge count ends here and not after a long walk.
        reader.need(len.checked_mul(8).ok_or_else(|| reader.truncated(u64::MAX))?)?;
        for _ in 0..len {
            reader.value(ValueType::String)?;
        }
    }
    Ok((Kind::Array { of, len: len as usize }, start..reader.pos))
}

/// `general.alignment`, checked.
fn alignment(bytes: &[u8], entries: &[Entry]) -> Result<u64, GgufError> {
    let key = ALIGNMENT_KEY.as_bytes();
    let Ok(index) = entries.binary_search_by(|entry| bytes[entry.key.clone()].cmp(key)) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let entry = &entries[index];
    let place = entry.value.start as u64;
    let (Kind::Scalar(ValueType::U32), Ok(raw)) = (entry.kind, bytes[entry.value.clone()].try_into()) else {
        return Err(GgufError::WrongType { key: ALIGNMENT_KEY.into(), expected: "u32", found: entry.kind.name() });
    };
    let value = u64::from(u32::from_le_bytes(raw));
    if !value.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&value) {
        let problem = format!("{value} is not a power of two from 8 to {MAX_ALIGNMENT}");
        return Err(GgufError::key(key, place, problem));
    }
    Ok(value)
}

fn read_tensors(reader: &mut Reader, count: u64) -> Result<Vec<TensorInfo>, GgufError> {
    let mut tensors = Vec::with_capacity(count as usize);
    for index in 0..count {
        reader.place = Place::Tensor(index);
        tensors.push(read_tensor(reader)?);
    }
    Ok(tensors)
}

fn read_tensor(reader: &mut Reader) -> Result<TensorInfo, GgufError> {
    let name_bytes = reader.u64()?;
    if !(1..=MAX_NAME_BYTES).contains(&name_bytes) {
        let what = format!("length of the name of {}", reader.place_name());
        return Err(GgufError::Limit { what, value: name_bytes, limit: MAX_NAME_BYTES });
    }
    let range = reader.take(name_bytes)?;
    let raw_name = &reader.bytes[range];
    if !is_clean_text(raw_name) {
        return Err(GgufError::tensor(
            &String::from_utf8_lossy(raw_name),
            "the name is not UTF-8 or holds control characters",
        ));
    }
    let name = String::from_utf8_lossy(raw_name).into_owned();
    let num_dims = reader.u32()?;
    if !(1..=4).contains(&num_dims) {
        return Err(GgufError::tensor(&name, format!("has {num_dims} dimensions, 1 to 4 are allowed")));
    }
    let mut dims = Vec::with_capacity(num_dims as usize);
    for axis in 0..num_dims {
        let dim = reader.u64()?;
        if dim == 0 || dim > i64::MAX as u64 {
            return Err(GgufError::tensor(&name, format!("dimension {axis} is {dim}, 1 to 2^63 - 1 are allowed")));
        }
        dims.push(dim);
    }
    let ggml_type = reader.u32()?;
    let offset = reader.u64()?;
    let num_bytes = tensor_bytes(&name, &dims, ggml_type)?;
    Ok(TensorInfo { name, dims, ggml_type, offset, num_bytes })
}

fn tensor_bytes(name: &str, dims: &[u64], ggml_type: u32) -> Result<u64, GgufError> {
    let Some(ty) = TensorType::from_id(ggml_type) else {
        return Err(GgufError::tensor(name, format!("type {ggml_type} is unknown")));
    };
    if !dims[0].is_multiple_of(ty.block_len) {
        let problem =
            format!("rows of {} elements, which is no multiple of the block of {}: {}", dims[0], ty.name, ty.block_len);
        return Err(GgufError::tensor(name, problem));
    }
    let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    match (elements, ty.tensor_bytes(dims)) {
        (Some(_), Some(bytes)) => Ok(bytes),
        _ => Err(GgufError::tensor(name, format!("dimensions {dims:?} of type {} overflow 64 bits", ty.name))),
    }
}

fn check_names(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(GgufError::tensor(pair[0], "occurs twice")),
        None => Ok(()),
    }
}

/// Tensors must tile the data section in some order: each begins where another's padded data end.
fn check_layout(tensors: &[TensorInfo], alignment: u64) -> Result<(), GgufError> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|t| t.offset);
    let mut end = 0u64;
    for tensor in order {
        let offset = tensor.offset;
        let problem = if !offset.is_multiple_of(alignment) {
            format!("offset {offset} is no multiple of the alignment {alignment}")
        } else if offset < end {
            format!("offset {offset} overlaps the tensor before it, which ends at {end}")
        } else if offset > end {
            format!("offset {offset} leaves a gap: the tensor before it ends at {end}")
        } else {
            let padded = offset.checked_add(tensor.num_bytes).and_then(|e| e.checked_next_multiple_of(alignment));
            match padded {
                Some(next) => {
                    end = next;
                    continue;
                }
                None => format!("offset {offset} and size {} overflow 64 bits", tensor.num_bytes),
            }
        };
        return Err(GgufError::tensor(&tensor.name, problem));
    }
    Ok(())
}

/// UTF-8 without control characters, so that it can be printed.
fn is_clean_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(char::is_control))
}
