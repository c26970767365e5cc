//! Traces: the twelve checkpoints of a run as arrays, recorded from the engine and compared with a reference.
//!
//! A trace is a folder of `.npy` files and an `index.json`; `specs/08_TRACES.md` says what is in it and how two are
//! compared. Nothing here opens a file: the command line does.

mod checks;
pub mod comparison;
pub mod describe;
pub mod figures;
pub mod index;
pub mod names;
pub mod npy;
pub mod recorder;
mod rotation;
pub mod tolerance;

use index::{Entry, Index, IndexError};
use npy::{Array, NpyError, Values};

/// The name of the description in a trace's folder.
pub const INDEX_FILE: &str = "index.json";

/// A trace that cannot be read, or two that cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("{file}: {problem}")]
    CannotOpen { file: String, problem: String },
    #[error("{INDEX_FILE}: {0}")]
    Index(#[from] IndexError),
    #[error("{file}: {source}")]
    Npy { file: String, source: NpyError },
    #[error("{file}: it holds {found}, {INDEX_FILE} says {expected}")]
    NotAsIndexed { file: String, found: String, expected: String },
    #[error("the traces are of different prompts: {ours:?} and {reference:?}")]
    Prompts { ours: Vec<u32>, reference: Vec<u32> },
    #[error("{0}")]
    Pool(String),
}

/// Reads a file of a trace; the number is the most that its tensor can take.
pub type ReadFile<'a> = &'a dyn Fn(&str, usize) -> Result<Vec<u8>, TraceError>;

/// A trace whose tensors are read when they are wanted.
pub struct Source<'a> {
    pub index: &'a Index,
    pub read: ReadFile<'a>,
}

/// A trace in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    pub index: Index,
    /// In the order of `index.tensors`.
    pub arrays: Vec<Array>,
}

impl Trace {
    /// The files of the folder, each with its name.
    pub fn files(&self) -> impl Iterator<Item = (String, Vec<u8>)> {
        let arrays = self.index.tensors.iter().zip(&self.arrays);
        let arrays = arrays.map(|(entry, array)| (entry.file.clone(), npy::encode(array)));
        arrays.chain(std::iter::once((INDEX_FILE.to_owned(), self.index.to_json().into_bytes())))
    }
}

impl Source<'_> {
    /// Reads a tensor and checks that it is what the index says.
    pub fn array(&self, entry: &Entry) -> Result<Array, TraceError> {
        let data = npy::data_bytes(&entry.shape).unwrap_or(usize::MAX);
        let bytes = (self.read)(&entry.file, data.saturating_add(npy::MAX_HEADER_BYTES))?;
        let array = npy::decode(&bytes).map_err(|source| TraceError::Npy { file: entry.file.clone(), source })?;
        if array.shape != entry.shape || array.values.dtype() != entry.dtype() {
            return Err(TraceError::NotAsIndexed {
                file: entry.file.clone(),
                found: format!("{} {:?}", array.values.dtype(), array.shape),
                expected: format!("{} {:?}", entry.dtype(), entry.shape),
            });
        }
        Ok(array)
    }

    /// The elements of an f32 tensor.
    fn f32s(&self, entry: &Entry) -> Result<Vec<f32>, TraceError> {
        match self.array(entry)?.values {
            Values::F32(values) => Ok(values),
            Values::I32(_) => Ok(Vec::new()),
        }
    }

    /// The elements of an i32 tensor.
    fn i32s(&self, entry: &Entry) -> Result<Vec<i32>, TraceError> {
        match self.array(entry)?.values {
            Values::I32(values) => Ok(values),
            Values::F32(_) => Ok(Vec::new()),
        }
    }
}
