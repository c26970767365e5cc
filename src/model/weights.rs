//! The weights of a Llama-architecture model, packed once at load.
//!
//! Every tensor is checked for its exact shape before it is packed; its source pages are given back right after, so
//! that the peak is one copy of the model plus one tensor.

use crate::gguf::{GgufError, ModelFile, Tensor};
use crate::model::config::ModelConfig;
use crate::ops::packed_matrix::{PackError, PackedMatrix};
use crate::ops::rope::{RopeError, RopeScaling, RopeTable};
use crate::quant;

/// One decoder layer. Shapes are `[N, K]`: outputs by inputs.
pub struct LayerWeights {
    /// `[hidden]`
    pub attn_norm: Vec<f32>,
    /// `[num_heads * head_dim, hidden]`
    pub attn_q: PackedMatrix,
    /// `[num_kv_heads * head_dim, hidden]`
    pub attn_k: PackedMatrix,
    /// `[num_kv_heads * head_dim, hidden]`
    pub attn_v: PackedMatrix,
    /// `[hidden, num_heads * head_dim]`
    pub attn_output: PackedMatrix,
    /// `[hidden]`
    pub ffn_norm: Vec<f32>,
    /// `[intermediate, hidden]`
    pub ffn_gate: PackedMatrix,
    /// `[intermediate, hidden]`
    pub ffn_up: PackedMatrix,
    /// `[hidden, intermediate]`
    pub ffn_down: PackedMatrix,
}

/// All weights of a model.
pub struct Weights {
    /// `[vocab, hidden]`; also the LM head where `output` is absent.
    pub token_embd: PackedMatrix,
    pub layers: Vec<LayerWeights>,
    /// `[hidden]`
    pub output_norm: Vec<f32>,
    /// `[vocab, hidden]`; `None` where the head is tied to the embedding.
    pub output: Option<PackedMatrix>,
    /// The rotation of each pair of dimensions, scaled as the keys and `rope_freqs.weight` say.
    pub rope: RopeTable,
    /// Tensors of the file that no part of the forward pass reads.
    pub unused_tensors: usize,
}

/// A tensor that is missing or not what the model's keys say.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("tensor {0} is missing")]
    Missing(String),
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    Shape { name: String, found: Vec<u64>, expected: Vec<u64> },
    #[error("tensor {name}: {source}")]
    Pack { name: String, source: PackError },
    #[error("tensor {0} is of a model variant that is not supported")]
    Unsupported(String),
    #[error("rope_freqs.weight and the rope keys: {0}")]
    Rope(#[from] RopeError),
}

/// Called after each tensor with the bytes of the file that are packed so far.
pub type Progress<'a> = &'a mut dyn FnMut(u64);

/// Takes tensors out of a file: checks, packs, releases, reports.
struct Loader<'a> {
    file: &'a ModelFile,
    done_bytes: u64,
    taken: usize,
    progress: Progress<'a>,
}

impl Weights {
    /// Packs every tensor of `file`, whose sizes `config` was read from.
    pub fn load(file: &ModelFile, config: &ModelConfig, progress: Progress<'_>) -> Result<Self, WeightsError> {
        let vocab_size = vocab_size(file)?;
        let mut loader = Loader { file, done_bytes: 0, taken: 0, progress };
        let token_embd = loader.matrix("token_embd.weight", vocab_size, config.hidden_size)?;
        let rope = loader.rope(config)?;
        let mut layers = Vec::new();
        for layer in 0..config.num_layers {
            layers.push(loader.layer(layer, config)?);
        }
        let output_norm = loader.vector("output_norm.weight", config.hidden_size)?;
        let output = match file.tensor("output.weight") {
            Some(_) => Some(loader.matrix("output.weight", vocab_size, config.hidden_size)?),
            None => None,
        };
        let unused_tensors = loader.unused_tensors()?;
        Ok(Self { token_embd, layers, output_norm, output, rope, unused_tensors })
    }

    /// The LM head, `[vocab, hidden]`.
    pub fn head(&self) -> &PackedMatrix {
        self.output.as_ref().unwrap_or(&self.token_embd)
    }

    /// Bytes the packed weights take in memory.
    pub fn bytes(&self) -> u64 {
        let layer = |l: &LayerWeights| {
            [&l.attn_q, &l.attn_k, &l.attn_v, &l.attn_output, &l.ffn_gate, &l.ffn_up, &l.ffn_down]
                .iter()
                .map(|m| m.bytes() as u64)
                .sum::<u64>()
        };
        let head = self.output.as_ref().map_or(0, |m| m.bytes() as u64);
        self.token_embd.bytes() as u64 + head + self.layers.iter().map(layer).sum::<u64>()
    }
}

/// Rows of the embedding: the vocabulary of the tensors.
fn vocab_size(file: &ModelFile) -> Result<usize, WeightsError> {
    let name = "token_embd.weight";
    let tensor = file.tensor(name).ok_or_else(|| WeightsError::Missing(name.into()))?;
    match tensor.dims {
        [_, vocab] if *vocab <= u64::from(u32::MAX / 2) => Ok(*vocab as usize),
        dims => Err(WeightsError::Shape { name: name.into(), found: dims.to_vec(), expected: vec![] }),
    }
}

impl Loader<'_> {
    fn layer(&mut self, layer: usize, c: &ModelConfig) -> Result<LayerWeights, WeightsError> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        Ok(LayerWeights {
            attn_norm: self.vector(&name("attn_norm"), c.hidden_size)?,
            attn_q: self.matrix(&name("attn_q"), c.q_dim(), c.hidden_size)?,
            attn_k: self.matrix(&name("attn_k"), c.kv_dim(), c.hidden_size)?,
            attn_v: self.matrix(&name("attn_v"), c.kv_dim(), c.hidden_size)?,
            attn_output: self.matrix(&name("attn_output"), c.hidden_size, c.q_dim())?,
            ffn_norm: self.vector(&name("ffn_norm"), c.hidden_size)?,
            ffn_gate: self.matrix(&name("ffn_gate"), c.intermediate_size, c.hidden_size)?,
            ffn_up: self.matrix(&name("ffn_up"), c.intermediate_size, c.hidden_size)?,
            ffn_down: self.matrix(&name("ffn_down"), c.hidden_size, c.intermediate_size)?,
        })
    }

    /// A tensor of exactly the shape `dims`, fastest dimension first.
    fn tensor(&self, name: &str, dims: &[usize]) -> Result<Tensor<'_>, WeightsError> {
        let tensor = self.file.tensor(name).ok_or_else(|| WeightsError::Missing(name.into()))?;
        let expected: Vec<u64> = dims.iter().map(|d| *d as u64).collect();
        if tensor.dims != expected {
            return Err(WeightsError::Shape { name: name.into(), found: tensor.dims.to_vec(), expected });
        }
        Ok(tensor)
    }

    fn finish(&mut self, name: &str, bytes: u64) {
        self.file.release(name);
        self.done_bytes += bytes;
        self.taken += 1;
        (self.progress)(self.done_bytes);
    }

    fn matrix(&mut self, name: &str, n: usize, k: usize) -> Result<PackedMatrix, WeightsError> {
        let tensor = self.tensor(name, &[k, n])?;
        let bytes = tensor.data.len() as u64;
        let packed = PackedMatrix::pack(tensor.weight_type()?, n, k, tensor.data)
            .map_err(|source| WeightsError::Pack { name: name.into(), source })?;
        self.finish(name, bytes);
        Ok(packed)
    }

    /// A small tensor, as f32.
    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.tensor(name, &[len])?;
        let bytes = tensor.data.len() as u64;
        let mut values = vec![0.0; len];
        quant::dequantize_row(tensor.weight_type()?, tensor.data, &mut values);
        self.finish(name, bytes);
        Ok(values)
    }

    /// The keys may scale all frequencies, and `rope_freqs.weight` (Llama 3) each by itself.
    fn rope(&mut self, config: &ModelConfig) -> Result<RopeTable, WeightsError> {
        let name = "rope_freqs.weight";
        let table = RopeTable::new(config.rope_dim, config.rope_theta, &config.rope_scaling)?;
        if self.file.tensor(name).is_none() {
            return Ok(table);
        }
        let factors = self.vector(name, config.rope_dim / 2)?;
        Ok(table.scaled(&RopeScaling::FreqFactors(factors))?)
    }

    /// A tensor that was not taken would be left out of the computation: biases and the like are refused by name.
    fn unused_tensors(&self) -> Result<usize, WeightsError> {
        let unused = self.file.tensors().len() - self.taken;
        if unused == 0 {
            return Ok(0);
        }
        for tensor in self.file.tensors() {
            let name = tensor.name.as_str();
            if name.ends_with(".bias") || name.contains("_exps.") || name.contains("_norm.") && !is_known_norm(name) {
                return Err(WeightsError::Unsupported(name.into()));
            }
        }
        Ok(unused)
    }
}

fn is_known_norm(name: &str) -> bool {
    name == "output_norm.weight" || name.ends_with(".attn_norm.weight") || name.ends_with(".ffn_norm.weight")
}
