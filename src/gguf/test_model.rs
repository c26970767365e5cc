//! Valid models with seeded random weights, of every architecture and any shape, written as a stream. They serve
//! `synth` and the tests.
//!
//! Every number is a function of (seed, tensor name, index) in integer arithmetic and correctly rounded operations, so
//! a file is the same on every machine. Matrices are N(0, 1/sqrt(fan_in)), norms near 1, biases N(0, 0.1).

mod architectures;
mod edits;
mod layout;
mod plan;
mod random;
mod vocab;
mod weights;

use super::tensor_type::file_type;
use super::writer::{Value, Writer};
use crate::quant::WeightType;
pub use edits::Edits;
pub use layout::{FeedForward, Layout, QkNorm};
use plan::{Content, Planned};
use std::io::{self, Write};
use weights::WeightSource;

/// How positions are scaled before RoPE.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions divided by this factor.
    Linear(f32),
    /// A divisor for each of the `head_dim / 2` frequencies: the tensor `rope_freqs.weight`, as Llama 3 has it.
    FreqFactors(Vec<f32>),
    /// YaRN from a context of this many positions.
    Yarn {
        factor: f32,
        original_context: usize,
    },
    /// Divisors for contexts up to this many positions and others beyond (`rope_factors_short.weight`, `…_long…`), as
    /// Phi-3 has them; cosines and sines are multiplied by `magnitude` in either case.
    LongRope {
        original_context: usize,
        magnitude: f32,
    },
}

/// The description of a model to build. Change any field; [`TestModel::default`] is a small valid one.
#[derive(Clone, Debug)]
pub struct TestModel {
    /// The GGUF name; [`TestModel::of`] sets what belongs to it.
    pub arch: String,
    pub name: String,
    /// Which tensors the blocks have.
    pub layout: Layout,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Inner width of the feed-forward block.
    pub ffn: usize,
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Even. Need not be `hidden / heads`.
    pub head_dim: usize,
    /// Dimensions of a head that rotate, even; `None`: all.
    pub rope_dims: Option<usize>,
    /// Expert networks of each feed-forward block; 0: one dense network.
    pub experts: usize,
    /// Experts that a token uses.
    pub experts_used: usize,
    /// Positions that a local layer sees, the query's own among them; `None`: the key is not written.
    pub window: Option<usize>,
    /// Tokens. From 259 on every byte can be encoded; 300 and more have merges.
    pub vocab: usize,
    /// The context length written to the file.
    pub context: usize,
    /// Whether the embedding is the output matrix too (no `output.weight`).
    pub tied: bool,
    /// Multiplies the embedding. Below 1 the blocks weigh more beside it; the head of a tied model would else answer
    /// with the token it was given.
    pub embedding_gain: f32,
    /// The type of the matrices; norms are F32 always.
    pub weight_type: WeightType,
    /// The type of matrices whose rows are no whole number of `weight_type`'s blocks; `None` makes them an error.
    pub odd_rows_as: Option<WeightType>,
    /// Types of the matrices whose names contain a text, instead of `weight_type`; the first that fits counts.
    pub other_types: Vec<(&'static str, WeightType)>,
    pub seed: u64,
    pub rope_base: f32,
    pub rope_scaling: RopeScaling,
    /// Epsilon of the norms, of either kind.
    pub rms_eps: f32,
    /// Further keys below the architecture's prefix.
    pub more_keys: Vec<(&'static str, Value)>,
    /// `tokenizer.*` keys to write instead of the synthetic vocabulary's; `vocab` must be their number of tokens.
    pub tokenizer: Option<Vec<(String, Value)>>,
    /// What the `with_…` methods change about the finished file.
    pub edits: Edits,
}

impl Default for TestModel {
    /// Hidden 64, FFN 128, 2 layers, 4 heads, 2 KV heads, vocabulary of 320, F32.
    fn default() -> Self {
        Self {
            arch: "llama".into(),
            name: "test".into(),
            layout: Layout::LLAMA,
            hidden: 64,
            ffn: 128,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            rope_dims: None,
            experts: 0,
            experts_used: 0,
            window: None,
            vocab: 320,
            context: 256,
            tied: false,
            embedding_gain: 1.0,
            weight_type: WeightType::F32,
            odd_rows_as: None,
            other_types: Vec::new(),
            seed: 42,
            rope_base: 10_000.0,
            rope_scaling: RopeScaling::None,
            rms_eps: 1e-5,
            more_keys: Vec::new(),
            tokenizer: None,
            edits: Edits::default(),
        }
    }
}

impl TestModel {
    /// The file in memory.
    ///
    /// # Panics
    /// The shape cannot be written in this type (Q8_0 needs row lengths that are multiples of 32, Q4_K of 256).
    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self.write(&mut out) {
            Ok(()) => out,
            Err(error) => panic!("building a test model: {error}"),
        }
    }

    /// Writes the file to `out`, holding a few tens of MiB whatever the model's size.
    ///
    /// # Errors
    /// `InvalidInput` for a shape that cannot be written; else what `out` fails with.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        self.write_with_progress(out, &mut |_| {})
    }

    /// As [`TestModel::write`], calling `progress` with the number of tensor bytes written by each tensor.
    pub fn write_with_progress(&self, out: &mut impl Write, progress: &mut dyn FnMut(u64)) -> io::Result<()> {
        let mut header = self.metadata();
        let mut plan = plan::tensors(self)?;
        self.edits.apply(&mut header, &mut plan)?;
        for planned in &plan {
            header.push_tensor(planned.entry.clone());
        }
        let mut source = WeightSource::new(self.seed);
        let mut data = header.begin(out)?;
        for Planned { entry, content } in &plan {
            data.begin_tensor()?;
            match content {
                Content::Matrix { ty, scale } => {
                    let elements = entry.dims.iter().product();
                    source.matrix(&entry.name, elements, *ty, *scale, &mut |bytes| data.write(bytes))?;
                }
                Content::Norm => data.write(&source.norm(&entry.name, entry.dims.iter().product()))?,
                Content::Bias => data.write(&source.bias(&entry.name, entry.dims.iter().product()))?,
                Content::Bytes(bytes) => data.write(bytes)?,
            }
            progress(entry.num_bytes);
        }
        data.finish()?;
        Ok(())
    }

    /// Bytes of tensor data the file will have, padding apart.
    pub fn tensor_bytes(&self) -> io::Result<u64> {
        Ok(plan::tensors(self)?.iter().map(|planned| planned.entry.num_bytes).sum())
    }

    fn metadata(&self) -> Writer {
        let mut w = Writer::default();
        let arch = &self.arch;
        w.set("general.architecture", arch.as_str());
        w.set("general.name", self.name.as_str());
        w.set("general.file_type", file_type(self.weight_type));
        w.set("general.quantization_version", 2u32);
        for (key, value) in self.sizes() {
            w.set(&format!("{arch}.{key}"), value);
        }
        match &self.tokenizer {
            Some(keys) => keys.iter().for_each(|(key, value)| w.set(key, value.clone())),
            None => vocab::set_keys(&mut w, self.vocab),
        }
        w
    }

    /// The keys below the architecture's prefix.
    fn sizes(&self) -> Vec<(&'static str, Value)> {
        let mut keys = vec![
            ("context_length", size(self.context)),
            ("embedding_length", size(self.hidden)),
            ("block_count", size(self.layers)),
            ("feed_forward_length", size(self.ffn)),
            ("attention.head_count", size(self.heads)),
            ("attention.head_count_kv", size(self.kv_heads)),
        ];
        if self.head_dim * self.heads != self.hidden {
            keys.push(("attention.key_length", size(self.head_dim)));
            keys.push(("attention.value_length", size(self.head_dim)));
        }
        let layer_norm = self.layout.layer_norm;
        let epsilon = if layer_norm { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
        keys.push((epsilon, Value::F32(self.rms_eps)));
        if !self.layout.position_table {
            keys.extend(self.rope_keys());
        }
        if let Some(window) = self.window {
            keys.push(("attention.sliding_window", size(window)));
        }
        if self.experts > 0 {
            keys.push(("expert_count", size(self.experts)));
            keys.push(("expert_used_count", size(self.experts_used)));
        }
        keys.extend(self.more_keys.iter().cloned());
        keys.push(("vocab_size", size(self.vocab)));
        keys
    }

    fn rope_keys(&self) -> Vec<(&'static str, Value)> {
        let mut keys = vec![
            ("rope.dimension_count", size(self.rope_dims.unwrap_or(self.head_dim))),
            ("rope.freq_base", Value::F32(self.rope_base)),
        ];
        match self.rope_scaling {
            RopeScaling::None | RopeScaling::FreqFactors(_) => {}
            RopeScaling::Linear(factor) => {
                keys.push(("rope.scaling.type", "linear".into()));
                keys.push(("rope.scaling.factor", Value::F32(factor)));
            }
            RopeScaling::Yarn { factor, original_context } => {
                keys.push(("rope.scaling.type", "yarn".into()));
                keys.push(("rope.scaling.factor", Value::F32(factor)));
                keys.push(("rope.scaling.original_context_length", size(original_context)));
            }
            // Converters write no type here.
            RopeScaling::LongRope { original_context, magnitude } => {
                keys.push(("rope.scaling.original_context_length", size(original_context)));
                keys.push(("rope.scaling.attn_factor", Value::F32(magnitude)));
            }
        }
        keys
    }
}

fn size(n: usize) -> Value {
    Value::U32(u32::try_from(n).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
