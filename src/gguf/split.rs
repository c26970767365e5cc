//! Split models: `NAME-00001-of-00003.gguf` and its siblings, tied together by the keys `split.*`.

use super::error::{GgufError, shown};
use super::metadata::Metadata;
use std::path::{Path, PathBuf};

/// Most parts of a split model.
pub const MAX_PARTS: u32 = 512;

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";
const ARCHITECTURE: &str = "general.architecture";

/// The paths of the parts after the first; none where the model is not split.
///
/// # Errors
/// `path` is not the first part, or its name does not end in `-00001-of-NNNNN.gguf`.
pub(super) fn other_parts(path: &Path, metadata: &Metadata) -> Result<Vec<PathBuf>, GgufError> {
    let count = metadata.u32(COUNT)?.unwrap_or(0);
    if count <= 1 {
        return Ok(Vec::new());
    }
    let wrong = |problem: String| GgufError::Split { path: path.into(), problem };
    if count > MAX_PARTS {
        return Err(wrong(format!("{COUNT} is {count}, over the limit of {MAX_PARTS}")));
    }
    let number = metadata.require_u32(NUMBER)?;
    if number != 0 {
        return Err(wrong(format!("{NUMBER} is {number}: open the first part, number 0 of {count}")));
    }
    let suffix = part_suffix(1, count);
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(stem) = name.and_then(|name| name.strip_suffix(&suffix)) else {
        return Err(wrong(format!("{COUNT} is {count}, so the first part's name must end in {suffix}")));
    };
    Ok((2..=count).map(|part| path.with_file_name(format!("{stem}{}", part_suffix(part, count)))).collect())
}

fn part_suffix(part: u32, count: u32) -> String {
    format!("-{part:05}-of-{count:05}.gguf")
}

/// Checks that the part at `path` says of itself that it is number `number` (from 0) of the same model.
pub(super) fn check_part(path: &Path, number: usize, first: &Metadata, part: &Metadata) -> Result<(), GgufError> {
    let wrong = |problem: String| Err(GgufError::Split { path: path.into(), problem });
    let (count, own_count) = (first.u32(COUNT)?, part.u32(COUNT)?);
    if count != own_count {
        return wrong(format!("{COUNT} is {}, in the first part {}", show(own_count), show(count)));
    }
    let own_number = part.u32(NUMBER)?;
    if own_number.map(|n| n as usize) != Some(number) {
        return wrong(format!("{NUMBER} is {}, {number} expected from its file name", show(own_number)));
    }
    // Parts after the first usually carry the split keys alone.
    if let Some(own) = part.str(ARCHITECTURE)?
        && first.str(ARCHITECTURE)? != Some(own)
    {
        let theirs = first.str(ARCHITECTURE)?.unwrap_or("absent");
        let (own, theirs) = (shown(own.as_bytes()), shown(theirs.as_bytes()));
        return wrong(format!("{ARCHITECTURE} is {own}, in the first part {theirs}"));
    }
    Ok(())
}

/// Checks `split.tensors.count` of the first part, if it is there, against the tensors of all parts.
pub(super) fn check_tensor_count(path: &Path, first: &Metadata, found: usize) -> Result<(), GgufError> {
    match first.u64(TENSORS)? {
        Some(expected) if first.u32(COUNT)?.unwrap_or(0) > 1 && expected != found as u64 => Err(GgufError::Split {
            path: path.into(),
            problem: format!("{TENSORS} is {expected}, the parts hold {found} tensors"),
        }),
        _ => Ok(()),
    }
}

fn show(value: Option<u32>) -> String {
    value.map_or("absent".into(), |v| v.to_string())
}
