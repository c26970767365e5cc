//! The model that runs where no `--model` is given: part of the binary. `models/README.md` tells where it comes from.

use super::error::CliError;
use crate::gguf::ModelFile;

/// What messages call it, in place of a path.
pub const NAME: &str = "the embedded demo model";

static BYTES: &[u8] = include_bytes!("../../models/demo-llama-q8_0.gguf");

/// Opens the embedded model.
pub fn open() -> Result<ModelFile, CliError> {
    ModelFile::from_bytes(BYTES).map_err(|error| CliError::Internal(format!("{NAME}: {error}")))
}
