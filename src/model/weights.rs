//! The weights of a model, packed once at load.
//!
//! Every tensor is checked for its exact shape before it is packed; its source pages are given back right after, so
//! that the peak is one copy of the model plus one tensor.

use crate::gguf::{GgufError, ModelFile};
use crate::model::config::ModelConfig;
use crate::model::description::Positions;
use crate::model::loader::Loader;
use crate::ops::norm::{Norm, NormKind};
use crate::ops::packed_matrix::{PackError, PackedMatrix};
use crate::ops::rope::{RopeError, RopeScaling, RopeTable};

/// A matrix `[N, K]`, outputs by inputs, and what is added to its products.
pub struct Linear {
    pub weight: PackedMatrix,
    /// `[N]`
    pub bias: Option<Vec<f32>>,
}

/// A norm of rows of `weight.len()`.
pub struct NormWeights {
    pub kind: NormKind,
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
    pub eps: f32,
}

/// One decoder layer.
pub struct LayerWeights {
    /// `[hidden]`
    pub attn_norm: Option<NormWeights>,
    /// `[num_heads * head_dim, hidden]`
    pub attn_q: Linear,
    /// `[num_kv_heads * head_dim, hidden]`
    pub attn_k: Linear,
    /// `[num_kv_heads * head_dim, hidden]`
    pub attn_v: Linear,
    /// None; one of `[head_dim]` or `[num_heads * head_dim]`; or one of `[head_dim]` for each head.
    pub attn_q_norm: Vec<NormWeights>,
    /// None; one of `[head_dim]` or `[num_kv_heads * head_dim]`; or one of `[head_dim]` for each head.
    pub attn_k_norm: Vec<NormWeights>,
    /// `[hidden, num_heads * head_dim]`
    pub attn_output: Linear,
    /// `[hidden]`
    pub attn_post_norm: Option<NormWeights>,
    /// `[hidden]`
    pub ffn_norm: Option<NormWeights>,
    pub ffn: FeedForward,
    /// `[hidden]`
    pub ffn_post_norm: Option<NormWeights>,
}

/// The feed-forward layer: `up` is `[intermediate, hidden]`, `down` `[hidden, intermediate]`.
pub enum FeedForward {
    Gated { gate: Linear, up: Linear, down: Linear },
    Plain { up: Linear, down: Linear },
    Experts { router: PackedMatrix, experts: Vec<Expert> },
}

/// One expert: a gated layer without biases.
pub struct Expert {
    pub gate: PackedMatrix,
    pub up: PackedMatrix,
    pub down: PackedMatrix,
}

/// All weights of a model.
pub struct Weights {
    /// `[vocab, hidden]`; also the LM head where `output` is absent.
    pub token_embd: PackedMatrix,
    /// `[context, hidden]`
    pub position_embd: Option<PackedMatrix>,
    pub layers: Vec<LayerWeights>,
    /// `[hidden]`
    pub output_norm: NormWeights,
    /// `[vocab, hidden]`; `None` where the head is tied to the embedding.
    pub output: Option<PackedMatrix>,
    /// `[vocab]`
    pub output_bias: Option<Vec<f32>>,
    /// The rotation of each pair of dimensions, scaled as the keys and the tensors of factors say.
    pub rope: Option<RopeTable>,
    /// The rotation in the layers with a window, where it is another one.
    pub local_rope: Option<RopeTable>,
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
    #[error("rope_freqs.weight or rope_factors_*.weight, with the rope keys: {0}")]
    Rope(#[from] RopeError),
}

/// Called after each tensor with the bytes of the file that are packed so far.
pub type Progress<'a> = &'a mut dyn FnMut(u64);

impl NormWeights {
    /// What the ops take.
    pub fn norm(&self) -> Norm<'_> {
        Norm { kind: self.kind, weight: &self.weight, bias: self.bias.as_deref(), eps: self.eps }
    }
}

impl Weights {
    /// Packs every tensor of `file`, whose sizes `config` was read from.
    pub fn load(file: &ModelFile, config: &ModelConfig, progress: Progress<'_>) -> Result<Self, WeightsError> {
        let mut loader = Loader::new(file, config, progress);
        let vocab_size = loader.vocab_size()?;
        let token_embd = loader.matrix("token_embd.weight", vocab_size, config.hidden_size)?;
        let position_embd = match config.description.positions {
            Positions::Learned => {
                Some(loader.matrix("position_embd.weight", config.context_length as usize, config.hidden_size)?)
            }
            _ => None,
        };
        let rope = rope(&mut loader, config)?;
        let local_rope = local_rope(config)?;
        let layers = (0..config.num_layers).map(|layer| loader.layer(layer)).collect::<Result<Vec<_>, _>>()?;
        let output_norm = loader.norm("output_norm", config.hidden_size)?;
        let output = match file.tensor("output.weight") {
            Some(_) => Some(loader.matrix("output.weight", vocab_size, config.hidden_size)?),
            None => None,
        };
        let output_bias = loader.optional_vector("output.bias", vocab_size)?;
        let unused_tensors = loader.unused_tensors()?;
        Ok(Self {
            token_embd,
            position_embd,
            layers,
            output_norm,
            output,
            output_bias,
            rope,
            local_rope,
            unused_tensors,
        })
    }

    /// The LM head, `[vocab, hidden]`.
    pub fn head(&self) -> &PackedMatrix {
        self.output.as_ref().unwrap_or(&self.token_embd)
    }

    /// Bytes the packed weights take in memory.
    pub fn bytes(&self) -> u64 {
        let shared = [Some(&self.token_embd), self.position_embd.as_ref(), self.output.as_ref()];
        let layers = self.layers.iter().flat_map(LayerWeights::matrices);
        shared.into_iter().flatten().chain(layers).map(|matrix| matrix.bytes() as u64).sum()
    }
}

impl LayerWeights {
    fn matrices(&self) -> Vec<&PackedMatrix> {
        let attention = [&self.attn_q, &self.attn_k, &self.attn_v, &self.attn_output].map(|linear| &linear.weight);
        let mut matrices = attention.to_vec();
        match &self.ffn {
            FeedForward::Gated { gate, up, down } => matrices.extend([&gate.weight, &up.weight, &down.weight]),
            FeedForward::Plain { up, down } => matrices.extend([&up.weight, &down.weight]),
            FeedForward::Experts { router, experts } => {
                matrices.push(router);
                matrices.extend(experts.iter().flat_map(|expert| [&expert.gate, &expert.up, &expert.down]));
            }
        }
        matrices
    }
}

/// The keys may scale all frequencies, and a tensor of factors each by itself: `rope_freqs.weight` (Llama 3), or one of
/// two (long RoPE): the long ones where sequences may be longer than the original context.
fn rope(loader: &mut Loader<'_>, config: &ModelConfig) -> Result<Option<RopeTable>, WeightsError> {
    if config.rope_dim == 0 {
        return Ok(None);
    }
    let table = RopeTable::new(config.rope_dim, config.rope_theta, &config.rope_scaling)?;
    let mut table = table.with_magnitude(config.rope_magnitude);
    let long = config.longest_sequence > config.original_context;
    let sets = [("rope_freqs.weight", true), ("rope_factors_long.weight", long), ("rope_factors_short.weight", !long)];
    for (name, counts) in sets {
        let factors = loader.optional_vector(name, config.rope_dim / 2)?;
        if let Some(factors) = factors.filter(|_| counts) {
            table = table.scaled(&RopeScaling::FreqFactors(factors))?;
        }
    }
    Ok(Some(table))
}

fn local_rope(config: &ModelConfig) -> Result<Option<RopeTable>, WeightsError> {
    let theta = config.description.window.as_ref().and_then(|window| window.rope_theta);
    let table =
        theta.filter(|_| config.rope_dim > 0).map(|theta| RopeTable::new(config.rope_dim, theta, &RopeScaling::None));
    Ok(table.transpose()?)
}
