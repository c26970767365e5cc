//! Model files in the GGUF format: reading (`parse`, `metadata`, `mmap`, `split`) and writing (`writer`, `quantize`,
//! `test_model`).

pub mod error;
pub mod metadata;
mod mmap;
mod model_file;
pub mod parse;
pub mod quantize;
mod reader;
pub mod recipe;
mod split;
pub mod tensor_type;
pub mod test_model;
pub mod value_type;
pub mod writer;

pub use error::{ExitKind, GgufError};
pub use metadata::Metadata;
pub use model_file::{ModelFile, Tensor};
pub use parse::{Header, TensorInfo};
