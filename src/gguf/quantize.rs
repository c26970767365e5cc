//! A model file in other types: the same keys and tensors, the matrices encoded as a [`Recipe`] says.
//!
//! The file is streamed: a slab of rows is decoded to f32, encoded and written before the next is looked at. Rows of a
//! slab are shared among the cores (rayon).

use super::error::GgufError;
use super::model_file::{ModelFile, Tensor};
use super::parse::{DEFAULT_ALIGNMENT, TensorInfo};
use super::recipe::{Choice, Model, Recipe};
use super::tensor_type::{TensorType, ggml_type};
use super::writer::{DataWriter, TensorEntry, Value, Writer};
use crate::quant::encode::{EncodeError, encode_row};
use crate::quant::{WeightType, dequantize_row};
use rayon::prelude::*;
use std::io::{self, Write};

/// Elements of a slab; a row may be longer.
const SLAB_ELEMENTS: usize = 1 << 20;

/// `general.quantization_version`: the layout of blocks, 2 since May 2023.
const QUANTIZATION_VERSION: u32 = 2;

/// Keys that only a split file has.
const SPLIT_KEYS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("tensor {tensor}, row {row}: {source}")]
    Encode { tensor: String, row: usize, source: EncodeError },
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// What will be done with a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    pub tensor: &'a TensorInfo,
    /// ggml's number of the type it will have.
    pub ggml_type: u32,
    /// From and to; `None` where the bytes are copied.
    pub convert: Option<(WeightType, WeightType)>,
    /// What the recipe wants where the rows do not allow it.
    pub instead_of: Option<WeightType>,
}

impl Step<'_> {
    /// Whether a type that has lost precision already is encoded again.
    pub fn requantises(&self) -> bool {
        let lossless = [WeightType::F32, WeightType::F16, WeightType::BF16];
        self.convert.is_some_and(|(from, _)| !lossless.contains(&from))
    }
}

/// What will be done with each tensor, in file order.
///
/// # Errors
/// A matrix to be encoded is of a type that cannot be decoded.
pub fn plan(file: &ModelFile, recipe: Recipe) -> Result<Vec<Step<'_>>, GgufError> {
    let model = Model::of(file.tensors().map(|tensor| tensor.name.as_str()));
    file.tensors().map(|tensor| step(tensor, recipe, &model)).collect()
}

fn step<'a>(tensor: &'a TensorInfo, recipe: Recipe, model: &Model) -> Result<Step<'a>, GgufError> {
    let copied = Step { tensor, ggml_type: tensor.ggml_type, convert: None, instead_of: None };
    let Some(Choice { wanted, ty }) = recipe.choose(&tensor.name, &tensor.dims, model) else { return Ok(copied) };
    let instead_of = (ty != wanted).then_some(wanted);
    if ggml_type(ty) == tensor.ggml_type {
        return Ok(Step { instead_of, ..copied });
    }
    let from = TensorType::from_id(tensor.ggml_type).and_then(TensorType::weight_type);
    let from = from.ok_or_else(|| GgufError::UnsupportedType {
        tensor: tensor.name.clone(),
        type_name: tensor.type_name(), //
    })?;
    Ok(Step { tensor, ggml_type: ggml_type(ty), convert: Some((from, ty)), instead_of })
}

/// Writes `file` to `out` as `steps`, its [`plan`], say: one file, also where `file` is split. `progress` hears of the
/// bytes of `file` that are done. Returns `out`, flushed.
///
/// # Errors
/// A value that is not finite or too large for its type; a failing write.
pub fn write<W: Write>(
    file: &ModelFile,
    recipe: Recipe,
    steps: &[Step<'_>],
    out: W,
    progress: &mut dyn FnMut(u64),
) -> Result<W, QuantizeError> {
    let mut data = header(file, recipe, steps)?.begin(out)?;
    let mut done = 0;
    for step in steps {
        let name = &step.tensor.name;
        // The table was checked when the file was opened.
        let tensor = file.tensor(name).ok_or_else(|| GgufError::tensor(name, "has no data"))?;
        data.begin_tensor()?;
        match step.convert {
            None => data.write(tensor.data)?,
            Some(types) => convert(&tensor, types, &mut data, &mut |bytes| progress(done + bytes))?,
        }
        file.release(name);
        done += step.tensor.num_bytes;
        progress(done);
    }
    Ok(data.finish()?)
}

/// The header: the keys of `file` in their order, with the two that tell the types, and the tensor table.
fn header(file: &ModelFile, recipe: Recipe, steps: &[Step<'_>]) -> Result<Writer, GgufError> {
    let metadata = file.metadata();
    let alignment = metadata.u64("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    let mut writer = Writer::default();
    writer.alignment = alignment;
    for key in metadata.keys_in_file_order().filter(|key| !SPLIT_KEYS.contains(key)) {
        if let Some((id, bytes)) = metadata.raw(key) {
            writer.push(key, Value::Raw(id, bytes.into()));
        }
    }
    writer.set("general.file_type", recipe.file_type());
    writer.set("general.quantization_version", QUANTIZATION_VERSION);
    for step in steps {
        let TensorInfo { name, dims, .. } = step.tensor;
        let ty = TensorType::from_id(step.ggml_type);
        let num_bytes = ty.and_then(|ty| ty.tensor_bytes(dims));
        let num_bytes = num_bytes.ok_or_else(|| GgufError::tensor(name, "its size overflows 64 bits"))?;
        let entry = TensorEntry { name: name.clone(), dims: dims.clone(), ggml_type: step.ggml_type, num_bytes };
        writer.push_tensor(entry);
    }
    Ok(writer)
}

/// Decodes and encodes a tensor, a slab of rows at a time.
fn convert<W: Write>(
    tensor: &Tensor<'_>,
    (from, to): (WeightType, WeightType),
    data: &mut DataWriter<W>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), QuantizeError> {
    let too_long = || GgufError::tensor(tensor.name, "a row does not fit the memory of this machine");
    let columns = tensor.dims.first().and_then(|&n| usize::try_from(n).ok()).ok_or_else(too_long)?;
    let (old, new) = from.row_bytes(columns).zip(to.row_bytes(columns)).ok_or_else(too_long)?;
    let rows_of_slab = (SLAB_ELEMENTS / columns).max(1);
    let mut encoded = Vec::new();
    for (slab, raw) in tensor.data.chunks(rows_of_slab * old).enumerate() {
        encoded.resize(raw.len() / old * new, 0);
        let rows = encoded.par_chunks_exact_mut(new).zip(raw.par_chunks_exact(old));
        let results: Vec<Result<(), EncodeError>> = rows
            .map_init(
                || (vec![0.0; columns], Vec::with_capacity(new)),
                |(x, bytes), (out, raw)| {
                    dequantize_row(from, raw, x);
                    bytes.clear();
                    encode_row(to, x, bytes)?;
                    out.copy_from_slice(bytes);
                    Ok(())
                },
            )
            .collect();
        // The first in order, whichever core came first.
        if let Some((row, Err(source))) = results.into_iter().enumerate().find(|(_, result)| result.is_err()) {
            return Err(QuantizeError::Encode { tensor: tensor.name.into(), row: slab * rows_of_slab + row, source });
        }
        data.write(&encoded)?;
        progress(((slab * rows_of_slab * old) + raw.len()) as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
