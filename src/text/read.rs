//! Reads a tokenizer's keys from a file's metadata.

use super::data::{self, TokenizerData};
use super::error::TokenizerError;
use crate::gguf::metadata::Metadata;

/// What converters write for a special token that the vocabulary lacks (-1 as 32 bits).
const UNSET: u32 = u32::MAX;

impl TokenizerData {
    /// Reads every key that is there. Nothing is checked but the types of the values.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let model = metadata.str(data::MODEL)?.ok_or(TokenizerError::MissingKey { key: data::MODEL })?;
        let tokens = strings(metadata, data::TOKENS)?.ok_or(TokenizerError::MissingKey { key: data::TOKENS })?;
        let mut special_ids = Vec::new();
        for key in data::SPECIAL_KEYS {
            if let Some(id) = metadata.u32(key)?.filter(|id| *id != UNSET) {
                special_ids.push((key, id));
            }
        }
        Ok(Self {
            model: model.to_owned(),
            pre: metadata.str(data::PRE)?.map(str::to_owned),
            tokens,
            scores: metadata.f32s(data::SCORES)?,
            token_types: metadata.i32s(data::TOKEN_TYPE)?,
            merges: strings(metadata, data::MERGES)?,
            add_bos: metadata.bool(data::ADD_BOS)?,
            add_eos: metadata.bool(data::ADD_EOS)?,
            add_space_prefix: metadata.bool(data::ADD_SPACE_PREFIX)?,
            model_name: metadata.str(data::NAME)?.map(str::to_owned),
            special_ids,
        })
    }
}

fn strings(metadata: &Metadata, key: &str) -> Result<Option<Vec<String>>, TokenizerError> {
    Ok(metadata.strings(key)?.map(|strings| strings.map(str::to_owned).collect()))
}
