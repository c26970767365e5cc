//! A model on disk or in memory: one GGUF file, or the parts of a split one, behind one table of tensors.

use super::error::GgufError;
use super::metadata::Metadata;
use super::mmap::Mapped;
use super::parse::{self, Header, MAX_HEADER_BYTES, TensorInfo};
use super::split;
use super::tensor_type::TensorType;
use crate::quant::WeightType;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// First read of a header; later ones are four times as long, up to the file or [`MAX_HEADER_BYTES`].
const FIRST_READ: u64 = 4 << 20;

/// An opened model: metadata, tensor table, and the tensors' bytes.
#[derive(Debug)]
pub struct ModelFile {
    /// Of the first file.
    metadata: Metadata,
    tensors: Vec<PlacedTensor>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<usize>,
    parts: Vec<Part>,
    /// Of the parts; none for a model in memory.
    paths: Vec<PathBuf>,
    version: u32,
    header_sha256: String,
}

#[derive(Debug)]
struct PlacedTensor {
    info: TensorInfo,
    part: usize,
}

/// One file: its bytes, and where its tensor data begin.
#[derive(Debug)]
pub(super) struct Part {
    data: Data,
    data_offset: u64,
    file_bytes: u64,
}

#[derive(Debug)]
enum Data {
    Mapped(Mapped),
    InMemory(Cow<'static, [u8]>),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Mapped(map) => map.bytes(),
            Data::InMemory(bytes) => bytes,
        }
    }

    /// Where the tensor lies in this file.
    fn place(&self, info: &TensorInfo) -> Option<(usize, usize)> {
        let start = usize::try_from(self.data_offset.checked_add(info.offset)?).ok()?;
        Some((start, usize::try_from(info.num_bytes).ok()?))
    }
}

/// A tensor's description and bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub name: &'a str,
    /// 1 to 4 dimensions, fastest first: a matrix `[N, K]` has `[K, N]`.
    pub dims: &'a [u64],
    /// ggml's number of the type.
    pub ggml_type: u32,
    /// Row after row, as the type stores it. No alignment beyond the file's is promised.
    pub data: &'a [u8],
}

impl Tensor<'_> {
    /// The type, where it is one this build computes with; else an error that names type and tensor.
    pub fn weight_type(&self) -> Result<WeightType, GgufError> {
        let ty = TensorType::from_id(self.ggml_type);
        ty.and_then(TensorType::weight_type).ok_or_else(|| GgufError::UnsupportedType {
            tensor: self.name.into(),
            type_name: ty.map_or("unknown", |t| t.name),
        })
    }
}

impl ModelFile {
    /// Opens and maps `path`, and with it the other parts where it is the first file of a split model. Every header is
    /// read into owned memory and checked; every tensor lies inside its file.
    ///
    /// # Errors
    /// `CannotOpen` for a path that is absent, not readable or no regular file (it never waits on a FIFO or a device);
    /// otherwise what is wrong with the data.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let (header, first) = open_part(path)?;
        let others = split::other_parts(path, &header.metadata)?;
        let mut headers = vec![header];
        let mut parts = vec![first];
        for (index, other) in others.iter().enumerate() {
            let (header, part) = open_part(other)?;
            split::check_part(other, index + 1, &headers[0].metadata, &header.metadata)?;
            headers.push(header);
            parts.push(part);
        }
        let num_tensors = headers.iter().map(|h| h.tensors.len()).sum();
        split::check_tensor_count(path, &headers[0].metadata, num_tensors)?;
        let paths = [vec![path.to_owned()], others].concat();
        Ok(Self { paths, ..Self::assemble(headers, parts)? })
    }

    /// A whole model file in memory: the embedded model and tests. The parts of a split model cannot be joined here.
    pub fn from_bytes(bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self, GgufError> {
        let bytes = bytes.into();
        let header = parse::parse(&bytes)?;
        split::other_parts(Path::new("(in memory)"), &header.metadata)?;
        let part =
            Part { data_offset: header.data_offset, file_bytes: bytes.len() as u64, data: Data::InMemory(bytes) };
        Self::assemble(vec![header], vec![part])
    }

    fn assemble(headers: Vec<Header>, parts: Vec<Part>) -> Result<Self, GgufError> {
        let mut digest = Sha256::new();
        let mut tensors = Vec::with_capacity(headers.iter().map(|h| h.tensors.len()).sum());
        let (mut metadata, mut version) = (None, 0);
        for (part, header) in headers.into_iter().enumerate() {
            digest.update(header.metadata.header_bytes());
            tensors.extend(header.tensors.into_iter().map(|info| PlacedTensor { info, part }));
            if metadata.is_none() {
                (metadata, version) = (Some(header.metadata), header.version);
            }
        }
        let mut by_name: Vec<usize> = (0..tensors.len()).collect();
        by_name.sort_unstable_by(|&a, &b| tensors[a].info.name.cmp(&tensors[b].info.name));
        for pair in by_name.windows(2) {
            let (a, b) = (&tensors[pair[0]], &tensors[pair[1]]);
            if a.info.name == b.info.name {
                return Err(GgufError::tensor(&a.info.name, "occurs in two parts of the split model"));
            }
        }
        let header_sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let metadata = metadata.ok_or_else(|| GgufError::MissingKey { key: "general.architecture".into() })?;
        Ok(Self { metadata, tensors, by_name, parts, paths: Vec::new(), version, header_sha256 })
    }

    /// The metadata; of the first part where the model is split.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensor table in file order. Offsets refer to each tensor's own part.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter().map(|placed| &placed.info)
    }

    /// Version of the format; of the first part where the model is split.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes of all parts.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.file_bytes).sum()
    }

    /// Number of files: 1 unless the model is split.
    pub fn num_parts(&self) -> usize {
        self.parts.len()
    }

    /// The files it was opened from; none for a model in memory.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// SHA-256, in hex, of everything before the tensor data (magic to the end of the tensor table), part after part.
    pub fn header_sha256(&self) -> String {
        self.header_sha256.clone()
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let placed = self.find(name)?;
        let part = self.parts.get(placed.part)?;
        let (start, len) = part.place(&placed.info)?;
        let data = part.bytes().get(start..)?.get(..len)?;
        let info = &placed.info;
        Some(Tensor { name: &info.name, dims: &info.dims, ggml_type: info.ggml_type, data })
    }

    /// Gives the memory of the tensor's pages back to the system; they are read from the file again when touched. Does
    /// nothing for a model in memory or an unknown name.
    pub fn release(&self, name: &str) {
        let Some(placed) = self.find(name) else { return };
        let Some(part) = self.parts.get(placed.part) else { return };
        if let (Data::Mapped(map), Some((start, len))) = (&part.data, part.place(&placed.info)) {
            map.release(start, len);
        }
    }

    fn find(&self, name: &str) -> Option<&PlacedTensor> {
        let found = self.by_name.binary_search_by(|&index| self.tensors[index].info.name.as_str().cmp(name));
        self.by_name.get(found.ok()?).map(|&index| &self.tensors[index])
    }
}

/// Opens one file, reads its header into owned memory, checks it, and maps the file.
fn open_part(path: &Path) -> Result<(Header, Part), GgufError> {
    let cannot_open = |problem: String| GgufError::CannotOpen { path: path.into(), problem };
    let io_error = |source: io::Error| GgufError::Io { path: path.into(), source };
    // Without O_NONBLOCK, opening a FIFO waits for its writer.
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(|e| cannot_open(e.to_string()))?;
    let stat = file.metadata().map_err(|e| cannot_open(e.to_string()))?;
    if stat.is_dir() {
        return Err(cannot_open("it is a directory".into()));
    }
    if !stat.is_file() {
        return Err(cannot_open("it is not a regular file".into()));
    }
    let header = read_header(&file, stat.len(), &io_error)?;
    let map = Mapped::new(&file).map_err(io_error)?;
    let file_bytes = map.bytes().len() as u64;
    parse::check_extents(&header, file_bytes)?;
    let part = Part { data: Data::Mapped(map), data_offset: header.data_offset, file_bytes };
    Ok((header, part))
}

/// Reads as much of the file's beginning as the header needs.
fn read_header(file: &File, file_bytes: u64, io_error: &dyn Fn(io::Error) -> GgufError) -> Result<Header, GgufError> {
    let most = file_bytes.min(MAX_HEADER_BYTES);
    let mut length = most.min(FIRST_READ);
    loop {
        // Not an enlarged buffer but a new one: at no time are two copies held.
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).map_err(io_error)?;
        match parse::scan(&bytes) {
            Ok(scan) => return Ok(scan.into_header(bytes)),
            Err(GgufError::Truncated { .. }) if length < most => length = most.min(length * 4),
            // The file goes on, but no header does.
            Err(GgufError::Truncated { .. }) if length < file_bytes => {
                let what = "number of bytes before the tensor data".into();
                return Err(GgufError::Limit { what, value: file_bytes, limit: MAX_HEADER_BYTES });
            }
            Err(error) => return Err(error),
        }
    }
}
