//! The tensors of a model, in llama.cpp's names, with what they will hold.

use super::layout::{FeedForward, QkNorm};
use super::{RopeScaling, TestModel};
use crate::gguf::tensor_type::{TensorType, ggml_type};
use crate::gguf::writer::TensorEntry;
use crate::quant::WeightType;
use std::io;

/// A tensor of the file and how its data come about.
pub(super) struct Planned {
    pub(super) entry: TensorEntry,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// Normals times `scale`, in type `ty`.
    Matrix {
        ty: WeightType,
        scale: f32,
    },
    /// F32 near 1.
    Norm,
    /// F32 near 0.
    Bias,
    Bytes(Vec<u8>),
}

impl Planned {
    /// Makes the data zeros of the right size.
    pub(super) fn zero(&mut self) -> io::Result<()> {
        let entry = &mut self.entry;
        let num_bytes = TensorType::from_id(entry.ggml_type).and_then(|t| t.tensor_bytes(&entry.dims));
        entry.num_bytes = num_bytes.ok_or_else(|| {
            let problem =
                format!("tensor {}: type {} cannot have dimensions {:?}", entry.name, entry.ggml_type, entry.dims);
            io::Error::new(io::ErrorKind::InvalidInput, problem)
        })?;
        self.content = Content::Bytes(vec![0; entry.num_bytes as usize]);
        Ok(())
    }
}

/// The tensors of `model` before any edit.
pub(super) fn tensors(model: &TestModel) -> io::Result<Vec<Planned>> {
    let mut plan = Plan { tensors: Vec::new(), model };
    let hidden = model.hidden;
    // A tied embedding is an output matrix, whose fan-in is `hidden`; a lookup alone has no fan-in to speak of.
    let embedding_scale = model.embedding_gain * if model.tied { fan_in_scale(hidden) } else { 1.0 };
    plan.matrix("token_embd.weight", model.vocab, hidden, embedding_scale)?;
    if model.layout.position_table {
        plan.f32_matrix("position_embd.weight", model.context, hidden, embedding_scale);
    }
    plan.norm("output_norm", &[hidden]);
    if !model.tied {
        plan.matrix("output.weight", model.vocab, hidden, fan_in_scale(hidden))?;
    }
    plan.rope();
    for layer in 0..model.layers {
        plan.attention(layer)?;
        plan.feed_forward(layer)?;
    }
    Ok(plan.tensors)
}

fn fan_in_scale(fan_in: usize) -> f32 {
    1.0 / (fan_in as f32).sqrt()
}

struct Plan<'a> {
    tensors: Vec<Planned>,
    model: &'a TestModel,
}

impl Plan<'_> {
    /// The tensors of frequency divisors.
    fn rope(&mut self) {
        let pairs = self.model.rope_dims.unwrap_or(self.model.head_dim) / 2;
        let slope = |rise: f32| (0..pairs).map(|i| 1.0 + rise * i as f32 / pairs as f32).collect::<Vec<_>>();
        match &self.model.rope_scaling {
            RopeScaling::None | RopeScaling::Linear(_) | RopeScaling::Yarn { .. } => {}
            RopeScaling::FreqFactors(factors) => self.factors("rope_freqs.weight", factors),
            RopeScaling::LongRope { .. } => {
                self.factors("rope_factors_long.weight", &slope(6.0));
                self.factors("rope_factors_short.weight", &slope(0.5));
            }
        }
    }

    fn attention(&mut self, layer: usize) -> io::Result<()> {
        let (model, layout) = (self.model, self.model.layout);
        let hidden = model.hidden;
        let (q_width, kv_width) = (model.heads * model.head_dim, model.kv_heads * model.head_dim);
        let name = |part: &str| format!("blk.{layer}.{part}");
        if layout.attn_norm {
            self.norm(&name("attn_norm"), &[hidden]);
        }
        let projections: &[(&str, usize)] = if layout.fused_qkv {
            &[("attn_qkv", q_width + 2 * kv_width)]
        } else {
            &[("attn_q", q_width), ("attn_k", kv_width), ("attn_v", kv_width)]
        };
        for (part, rows) in projections {
            self.linear(&name(part), *rows, hidden, layout.qkv_bias)?;
        }
        for (part, heads) in [("attn_q_norm.weight", model.heads), ("attn_k_norm.weight", model.kv_heads)] {
            match layout.qk_norm {
                QkNorm::None => {}
                QkNorm::Shared => self.f32s(&name(part), &[model.head_dim], Content::Norm),
                QkNorm::PerHead => self.f32s(&name(part), &[model.head_dim, heads], Content::Norm),
                QkNorm::Row => self.f32s(&name(part), &[heads * model.head_dim], Content::Norm),
            }
        }
        self.linear(&name("attn_output"), hidden, q_width, layout.output_bias)?;
        if layout.post_norms {
            self.norm(&name("post_attention_norm"), &[hidden]);
        }
        Ok(())
    }

    fn feed_forward(&mut self, layer: usize) -> io::Result<()> {
        let (model, layout) = (self.model, self.model.layout);
        let (hidden, ffn) = (model.hidden, model.ffn);
        let name = |part: &str| format!("blk.{layer}.{part}");
        if layout.ffn_norm {
            self.norm(&name("ffn_norm"), &[hidden]);
        }
        if model.experts > 0 {
            self.f32_matrix(&name("ffn_gate_inp.weight"), model.experts, hidden, fan_in_scale(hidden));
            self.expert_matrix(&name("ffn_gate_exps.weight"), ffn, hidden)?;
            self.expert_matrix(&name("ffn_up_exps.weight"), ffn, hidden)?;
            self.expert_matrix(&name("ffn_down_exps.weight"), hidden, ffn)?;
        } else {
            if layout.feed_forward == FeedForward::Gated {
                self.linear(&name("ffn_gate"), ffn, hidden, layout.ffn_bias)?;
            }
            let up_rows = if layout.feed_forward == FeedForward::FusedGate { 2 * ffn } else { ffn };
            self.linear(&name("ffn_up"), up_rows, hidden, layout.ffn_bias)?;
            self.linear(&name("ffn_down"), hidden, ffn, layout.ffn_bias)?;
        }
        if layout.post_norms {
            self.norm(&name("post_ffw_norm"), &[hidden]);
        }
        Ok(())
    }

    /// A matrix `[n, k]` of inputs of variance 1, and its bias if it has one. `name` without `.weight`.
    fn linear(&mut self, name: &str, n: usize, k: usize, bias: bool) -> io::Result<()> {
        self.matrix(&format!("{name}.weight"), n, k, fan_in_scale(k))?;
        if bias {
            self.f32s(&format!("{name}.bias"), &[n], Content::Bias);
        }
        Ok(())
    }

    /// A matrix `[n, k]`.
    fn matrix(&mut self, name: &str, n: usize, k: usize, scale: f32) -> io::Result<()> {
        self.typed(name, vec![k as u64, n as u64], scale)
    }

    /// Matrices `[experts, n, k]` of inputs of variance 1.
    fn expert_matrix(&mut self, name: &str, n: usize, k: usize) -> io::Result<()> {
        self.typed(name, vec![k as u64, n as u64, self.model.experts as u64], fan_in_scale(k))
    }

    /// A matrix or several, of the type that the model says for this name.
    fn typed(&mut self, name: &str, dims: Vec<u64>, scale: f32) -> io::Result<()> {
        let k = dims[0];
        let other = self.model.other_types.iter().find(|(part, _)| name.contains(part));
        let wanted = other.map_or(self.model.weight_type, |(_, ty)| *ty);
        let fits = wanted.row_bytes(k as usize).is_some();
        let ty = if fits { wanted } else { self.model.odd_rows_as.unwrap_or(wanted) };
        let ggml_type = ggml_type(ty);
        let Some(num_bytes) = TensorType::from_id(ggml_type).and_then(|t| t.tensor_bytes(&dims)) else {
            let problem = format!("tensor {name} of rows of {k} elements cannot be of type {wanted}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        };
        let entry = TensorEntry { name: name.into(), dims, ggml_type, num_bytes };
        self.tensors.push(Planned { entry, content: Content::Matrix { ty, scale } });
        Ok(())
    }

    /// A matrix `[n, k]` that llama.cpp leaves in F32 whatever the type of the file.
    fn f32_matrix(&mut self, name: &str, n: usize, k: usize, scale: f32) {
        self.f32s(name, &[k, n], Content::Matrix { ty: WeightType::F32, scale });
    }

    /// The weight of a norm, and the bias where the model's norms have one. `name` without `.weight`.
    fn norm(&mut self, name: &str, dims: &[usize]) {
        self.f32s(&format!("{name}.weight"), dims, Content::Norm);
        if self.model.layout.layer_norm {
            self.f32s(&format!("{name}.bias"), dims, Content::Bias);
        }
    }

    fn factors(&mut self, name: &str, factors: &[f32]) {
        let bytes = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
        self.f32s(name, &[factors.len()], Content::Bytes(bytes));
    }

    /// `dims` fastest first.
    fn f32s(&mut self, name: &str, dims: &[usize], content: Content) {
        let num_bytes = 4 * dims.iter().product::<usize>() as u64;
        let dims = dims.iter().map(|d| *d as u64).collect();
        let entry = TensorEntry { name: name.into(), dims, ggml_type: ggml_type(WeightType::F32), num_bytes };
        self.tensors.push(Planned { entry, content });
    }
}
