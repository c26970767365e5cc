//! Takes tensors out of a model file: checks, packs, gives back their pages, reports progress.

use crate::gguf::{ModelFile, Tensor};
use crate::model::config::ModelConfig;
use crate::model::description::{Description, Experts, QkNorm};
use crate::model::weights::{Expert, FeedForward, LayerWeights, Linear, NormWeights, Progress, WeightsError};
use crate::ops::packed_matrix::PackedMatrix;
use crate::quant;
use std::collections::HashSet;

/// Reads the tensors of one file, whose sizes are `config`'s.
pub struct Loader<'a> {
    file: &'a ModelFile,
    config: &'a ModelConfig,
    done_bytes: u64,
    taken: HashSet<String>,
    progress: Progress<'a>,
}

impl<'a> Loader<'a> {
    pub fn new(file: &'a ModelFile, config: &'a ModelConfig, progress: Progress<'a>) -> Self {
        Self { file, config, done_bytes: 0, taken: HashSet::new(), progress }
    }

    /// Rows of the embedding: the vocabulary of the tensors.
    pub fn vocab_size(&self) -> Result<usize, WeightsError> {
        let name = "token_embd.weight";
        let tensor = self.file.tensor(name).ok_or_else(|| WeightsError::Missing(name.into()))?;
        match tensor.dims {
            [_, vocab] if *vocab <= u64::from(u32::MAX / 2) => Ok(*vocab as usize),
            dims => Err(WeightsError::Shape { name: name.into(), found: dims.to_vec(), expected: vec![] }),
        }
    }

    /// All of layer `layer`.
    pub fn layer(&mut self, layer: usize) -> Result<LayerWeights, WeightsError> {
        let config = self.config;
        let description = &config.description;
        let name = |what: &str| format!("blk.{layer}.{what}");
        let (hidden, q_dim) = (config.hidden_size, config.q_dim());
        let (attn_q, attn_k, attn_v) = self.qkv(layer)?;
        let before = description.placement.has_before().then_some(hidden);
        let after = description.placement.has_after().then_some(hidden);
        let has_ffn_norm = self.has(&name("ffn_norm.weight")) || !description.may_share_norm;
        Ok(LayerWeights {
            attn_norm: self.norm_if(before, &name("attn_norm"))?,
            attn_q,
            attn_k,
            attn_v,
            attn_q_norm: self.head_norms(&name("attn_q_norm"), config.num_heads)?,
            attn_k_norm: self.head_norms(&name("attn_k_norm"), config.num_kv_heads)?,
            attn_output: self.linear(&name("attn_output"), hidden, q_dim)?,
            attn_post_norm: self.norm_if(after, &name("post_attention_norm"))?,
            ffn_norm: self.norm_if(before.filter(|_| has_ffn_norm), &name("ffn_norm"))?,
            ffn: self.feed_forward(layer, description)?,
            ffn_post_norm: self.norm_if(after, &name("post_ffw_norm"))?,
        })
    }

    /// Three matrices, or the rows of one: Q first, then K, then V.
    fn qkv(&mut self, layer: usize) -> Result<(Linear, Linear, Linear), WeightsError> {
        let (hidden, q, kv) = (self.config.hidden_size, self.config.q_dim(), self.config.kv_dim());
        let fused = format!("blk.{layer}.attn_qkv");
        if !self.config.description.needs_fused_qkv && !self.has(&format!("{fused}.weight")) {
            let mut part = |what: &str, n| {
                let name = format!("blk.{layer}.{what}");
                let weight = self.matrix(&format!("{name}.weight"), n, hidden)?;
                Ok::<_, WeightsError>(Linear { weight, bias: self.optional_vector(&format!("{name}.bias"), n)? })
            };
            return Ok((part("attn_q", q)?, part("attn_k", kv)?, part("attn_v", kv)?));
        }
        self.linear_parts(&fused, [q, kv, kv], hidden).map(|[q, k, v]| (q, k, v))
    }

    fn feed_forward(&mut self, layer: usize, description: &Description) -> Result<FeedForward, WeightsError> {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let name = |what: &str| format!("blk.{layer}.{what}");
        if let Some(experts) = description.experts {
            return self.experts(layer, experts);
        }
        if !description.gated {
            let up = self.linear(&name("ffn_up"), inner, hidden)?;
            return Ok(FeedForward::Plain { up, down: self.linear(&name("ffn_down"), hidden, inner)? });
        }
        let (gate, up) = if self.has(&name("ffn_gate.weight")) {
            (self.linear(&name("ffn_gate"), inner, hidden)?, self.linear(&name("ffn_up"), inner, hidden)?)
        } else if self.rows_of(&name("ffn_up.weight")) == Some(2 * inner as u64) {
            // Phi-3: the gate's rows come first.
            self.linear_parts(&name("ffn_up"), [inner, inner], hidden)?.into()
        } else {
            return Err(WeightsError::Missing(name("ffn_gate.weight")));
        };
        Ok(FeedForward::Gated { gate, up, down: self.linear(&name("ffn_down"), hidden, inner)? })
    }

    /// Tensors `[E, N, K]`, a matrix for each expert.
    fn experts(&mut self, layer: usize, experts: Experts) -> Result<FeedForward, WeightsError> {
        let (hidden, inner, count) = (self.config.hidden_size, experts.intermediate_size, experts.count);
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        let router = self.matrix(&name("ffn_gate_inp"), count, hidden)?;
        let gates = self.stacked(&name("ffn_gate_exps"), count, inner, hidden)?;
        let ups = self.stacked(&name("ffn_up_exps"), count, inner, hidden)?;
        let downs = self.stacked(&name("ffn_down_exps"), count, hidden, inner)?;
        let experts = gates.into_iter().zip(ups).zip(downs);
        let experts = experts.map(|((gate, up), down)| Expert { gate, up, down }).collect();
        Ok(FeedForward::Experts { router, experts })
    }

    fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    fn rows_of(&self, name: &str) -> Option<u64> {
        self.file.tensor(name)?.dims.get(1).copied()
    }

    /// A tensor of exactly the shape `dims`, fastest dimension first.
    fn tensor(&self, name: &str, dims: &[usize]) -> Result<Tensor<'a>, WeightsError> {
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
        self.taken.insert(name.into());
        (self.progress)(self.done_bytes);
    }

    /// A matrix `[n, k]`.
    pub fn matrix(&mut self, name: &str, n: usize, k: usize) -> Result<PackedMatrix, WeightsError> {
        let tensor = self.tensor(name, &[k, n])?;
        let packed = pack(name, &tensor, n, k, tensor.data)?;
        self.finish(name, tensor.data.len() as u64);
        Ok(packed)
    }

    /// The matrices of a tensor `[count, n, k]`.
    fn stacked(&mut self, name: &str, count: usize, n: usize, k: usize) -> Result<Vec<PackedMatrix>, WeightsError> {
        let tensor = self.tensor(name, &[k, n, count])?;
        let each = (tensor.data.len() / count).max(1);
        let matrices = tensor.data.chunks_exact(each).take(count).map(|data| pack(name, &tensor, n, k, data));
        let matrices = matrices.collect::<Result<Vec<_>, _>>()?;
        if matrices.len() != count {
            return Err(WeightsError::Missing(name.into()));
        }
        self.finish(name, tensor.data.len() as u64);
        Ok(matrices)
    }

    /// The matrix `<name>.weight` `[n, k]` and its bias.
    fn linear(&mut self, name: &str, n: usize, k: usize) -> Result<Linear, WeightsError> {
        let weight = self.matrix(&format!("{name}.weight"), n, k)?;
        Ok(Linear { weight, bias: self.bias(name, n)? })
    }

    /// As [`Loader::linear`], cut into matrices of so many rows; biases may be in one tensor or in those of the parts.
    fn linear_parts<const P: usize>(
        &mut self,
        name: &str,
        rows: [usize; P],
        k: usize,
    ) -> Result<[Linear; P], WeightsError> {
        let (whole, n) = (format!("{name}.weight"), rows.iter().sum());
        let tensor = self.tensor(&whole, &[k, n])?;
        let row_bytes = tensor.data.len() / n;
        let bias = self.bias(name, n)?;
        let mut first = 0;
        let mut parts = Vec::with_capacity(P);
        for n in rows {
            let data = tensor.data.get(first * row_bytes..(first + n) * row_bytes).unwrap_or_default();
            let weight = pack(&whole, &tensor, n, k, data)?;
            let bias = bias.as_ref().and_then(|bias| bias.get(first..first + n)).map(<[f32]>::to_vec);
            parts.push(Linear { weight, bias });
            first += n;
        }
        self.finish(&whole, tensor.data.len() as u64);
        parts.try_into().map_err(|_| WeightsError::Missing(whole))
    }

    fn bias(&mut self, name: &str, n: usize) -> Result<Option<Vec<f32>>, WeightsError> {
        let bias = format!("{name}.bias");
        match self.config.description.needs_biases {
            true => self.vector(&bias, n).map(Some),
            false => self.optional_vector(&bias, n),
        }
    }

    fn norm_if(&mut self, width: Option<usize>, name: &str) -> Result<Option<NormWeights>, WeightsError> {
        width.map(|width| self.norm(name, width)).transpose()
    }

    /// The norms of Q or of K.
    fn head_norms(&mut self, name: &str, heads: usize) -> Result<Vec<NormWeights>, WeightsError> {
        let (description, head_dim) = (&self.config.description, self.config.head_dim);
        match description.qk_norm {
            QkNorm::None => Ok(Vec::new()),
            QkNorm::Head => Ok(vec![self.norm(name, head_dim)?]),
            QkNorm::Projection => Ok(vec![self.norm(name, heads * head_dim)?]),
            QkNorm::EachHead => {
                let weights = format!("{name}.weight");
                if !self.has(&weights) {
                    return Ok(Vec::new());
                }
                let values = self.values(&weights, &[head_dim, heads])?;
                let (kind, eps) = (description.norm, self.config.norm_eps);
                let heads = values.chunks_exact(head_dim);
                Ok(heads.map(|weight| NormWeights { kind, weight: weight.into(), bias: None, eps }).collect())
            }
        }
    }

    /// The norm `<name>.weight` of rows of `width`, with `<name>.bias` where the model's norms have one.
    pub fn norm(&mut self, name: &str, width: usize) -> Result<NormWeights, WeightsError> {
        let weight = self.vector(&format!("{name}.weight"), width)?;
        let bias = self.bias(name, width)?;
        let (kind, eps) = (self.config.description.norm, self.config.norm_eps);
        Ok(NormWeights { kind, weight, bias, eps })
    }

    /// A small tensor, as f32.
    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, WeightsError> {
        self.values(name, &[len])
    }

    /// A small tensor of the shape `dims`, fastest dimension first, as f32.
    fn values(&mut self, name: &str, dims: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.tensor(name, dims)?;
        let mut values = vec![0.0; dims.iter().product()];
        quant::dequantize_row(tensor.weight_type()?, tensor.data, &mut values);
        self.finish(name, tensor.data.len() as u64);
        Ok(values)
    }

    /// A small tensor, where the file has it.
    pub fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, WeightsError> {
        if self.has(name) { self.vector(name, len).map(Some) } else { Ok(None) }
    }

    /// Tensors that nothing took. One that would change the computation is refused by name.
    pub fn unused_tensors(&self) -> Result<usize, WeightsError> {
        let unused = self.file.tensors().filter(|tensor| !self.taken.contains(&tensor.name));
        let mut count = 0;
        for tensor in unused {
            let name = tensor.name.as_str();
            if name.ends_with(".bias") || name.contains("_exps") || name.contains("_norm.") || name.ends_with(".scale")
            {
                return Err(WeightsError::Unsupported(name.into()));
            }
            count += 1;
        }
        Ok(count)
    }
}

fn pack(name: &str, tensor: &Tensor<'_>, n: usize, k: usize, data: &[u8]) -> Result<PackedMatrix, WeightsError> {
    PackedMatrix::pack(tensor.weight_type()?, n, k, data)
        .map_err(|source| WeightsError::Pack { name: name.into(), source })
}
