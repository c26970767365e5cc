//! Valid Llama models with seeded random weights, of any shape, written as a stream. They serve `synth` and the tests.
//!
//! Every number is a function of (seed, tensor name, index) in integer arithmetic and correctly rounded operations, so
//! a file is the same on every machine. Matrices are N(0, 1/sqrt(fan_in)), norms near 1.

mod random;
mod vocab;
mod weights;

use super::tensor_type::{TensorType, file_type, ggml_type};
use super::writer::{TensorEntry, Value, Writer};
use crate::quant::WeightType;
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
}

/// The description of a model to build. Change any field; [`TestModel::default`] is a small valid one.
#[derive(Clone, Debug)]
pub struct TestModel {
    pub arch: String,
    pub name: String,
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
    /// Tokens. From 259 on every byte can be encoded; 300 and more have merges.
    pub vocab: usize,
    /// The context length written to the file.
    pub context: usize,
    /// Whether the embedding is the output matrix too (no `output.weight`).
    pub tied: bool,
    /// The type of the matrices; norms are F32 always.
    pub weight_type: WeightType,
    /// The type of matrices whose rows are no whole number of `weight_type`'s blocks; `None` makes them an error.
    pub odd_rows_as: Option<WeightType>,
    /// Types of the matrices whose names contain a text, instead of `weight_type`; the first that fits counts.
    pub other_types: Vec<(&'static str, WeightType)>,
    pub seed: u64,
    pub rope_base: f32,
    pub rope_scaling: RopeScaling,
    pub rms_eps: f32,
    /// `tokenizer.*` keys to write instead of the synthetic vocabulary's; `vocab` must be their number of tokens.
    pub tokenizer: Option<Vec<(String, Value)>>,
    /// What the `with_…` methods change about the finished file.
    pub edits: Edits,
}

/// Changes to the finished file, made by [`TestModel`]'s `with_…` methods.
#[derive(Clone, Debug, Default)]
pub struct Edits(Vec<Edit>);

/// A change to the finished description, for bad files.
#[derive(Clone, Debug)]
enum Edit {
    SetKey(String, Value),
    RemoveKey(String),
    RemoveTensor(String),
    /// With its data.
    AddTensor(TensorEntry, Vec<u8>),
    /// Tensor and dimensions.
    Dims(String, Vec<u64>),
    /// Tensor and ggml type.
    Type(String, u32),
    /// Tensor and data.
    Data(String, Vec<u8>),
}

impl Default for TestModel {
    /// Hidden 64, FFN 128, 2 layers, 4 heads, 2 KV heads, vocabulary of 320, F32.
    fn default() -> Self {
        Self {
            arch: "llama".into(),
            name: "test".into(),
            hidden: 64,
            ffn: 128,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            vocab: 320,
            context: 256,
            tied: false,
            weight_type: WeightType::F32,
            odd_rows_as: None,
            other_types: Vec::new(),
            seed: 42,
            rope_base: 10_000.0,
            rope_scaling: RopeScaling::None,
            rms_eps: 1e-5,
            tokenizer: None,
            edits: Edits::default(),
        }
    }
}

/// A tensor of the file and how its data come about.
struct Planned {
    entry: TensorEntry,
    content: Content,
}

enum Content {
    /// Normals times `scale`, in type `ty`.
    Matrix {
        ty: WeightType,
        scale: f32,
    },
    /// F32 near 1.
    Norm,
    Bytes(Vec<u8>),
}

impl TestModel {
    /// Sets or replaces a metadata key.
    pub fn with_key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.edits.0.push(Edit::SetKey(key.into(), value.into()));
        self
    }

    /// Leaves a metadata key out.
    pub fn with_key_removed(mut self, key: &str) -> Self {
        self.edits.0.push(Edit::RemoveKey(key.into()));
        self
    }

    /// Sets a key to a value of any type number and any bytes.
    pub fn with_raw_kv(self, key: &str, value_type: u32, bytes: &[u8]) -> Self {
        self.with_key(key, Value::Raw(value_type, bytes.into()))
    }

    /// Leaves a tensor out.
    pub fn with_tensor_removed(mut self, name: &str) -> Self {
        self.edits.0.push(Edit::RemoveTensor(name.into()));
        self
    }

    /// Adds a tensor that the shape does not have; zeros, so of any known type.
    pub fn with_extra_tensor(mut self, name: &str, dims: &[u64], ggml_type: u32) -> Self {
        let num_bytes = TensorType::from_id(ggml_type).and_then(|t| t.tensor_bytes(dims)).unwrap_or(0);
        let entry = TensorEntry { name: name.into(), dims: dims.into(), ggml_type, num_bytes };
        self.edits.0.push(Edit::AddTensor(entry, vec![0; num_bytes as usize]));
        self
    }

    /// Gives a tensor other dimensions (fastest first); its data become zeros of the right size.
    pub fn with_tensor_dims(mut self, name: &str, dims: &[u64]) -> Self {
        self.edits.0.push(Edit::Dims(name.into(), dims.into()));
        self
    }

    /// Gives a tensor another ggml type; its data become zeros of the right size.
    pub fn with_tensor_type(mut self, name: &str, ggml_type: u32) -> Self {
        self.edits.0.push(Edit::Type(name.into(), ggml_type));
        self
    }

    /// Replaces a tensor's data: as many bytes as its type and dimensions take.
    pub fn with_tensor_data(mut self, name: &str, bytes: &[u8]) -> Self {
        self.edits.0.push(Edit::Data(name.into(), bytes.into()));
        self
    }

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
        let mut plan = self.plan()?;
        for edit in &self.edits.0 {
            apply(edit, &mut header, &mut plan)?;
        }
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
                Content::Norm => data.write(&source.norm(&entry.name, entry.dims[0]))?,
                Content::Bytes(bytes) => data.write(bytes)?,
            }
            progress(entry.num_bytes);
        }
        data.finish()?;
        Ok(())
    }

    /// Bytes of tensor data the file will have, padding apart.
    pub fn tensor_bytes(&self) -> io::Result<u64> {
        Ok(self.plan()?.iter().map(|planned| planned.entry.num_bytes).sum())
    }

    fn metadata(&self) -> Writer {
        let mut w = Writer::default();
        let arch = &self.arch;
        let size = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
        w.set("general.architecture", arch.as_str());
        w.set("general.name", self.name.as_str());
        w.set("general.file_type", file_type(self.weight_type));
        w.set("general.quantization_version", 2u32);
        let mut set = |key: &str, value: Value| w.set(&format!("{arch}.{key}"), value);
        set("context_length", size(self.context));
        set("embedding_length", size(self.hidden));
        set("block_count", size(self.layers));
        set("feed_forward_length", size(self.ffn));
        set("attention.head_count", size(self.heads));
        set("attention.head_count_kv", size(self.kv_heads));
        if self.head_dim * self.heads != self.hidden {
            set("attention.key_length", size(self.head_dim));
            set("attention.value_length", size(self.head_dim));
        }
        set("attention.layer_norm_rms_epsilon", Value::F32(self.rms_eps));
        set("rope.dimension_count", size(self.head_dim));
        set("rope.freq_base", Value::F32(self.rope_base));
        if let RopeScaling::Linear(factor) = self.rope_scaling {
            set("rope.scaling.type", "linear".into());
            set("rope.scaling.factor", Value::F32(factor));
        }
        set("vocab_size", size(self.vocab));
        match &self.tokenizer {
            Some(keys) => keys.iter().for_each(|(key, value)| w.set(key, value.clone())),
            None => vocab::set_keys(&mut w, self.vocab),
        }
        w
    }

    /// The tensors of a Llama model, in llama.cpp's names and order.
    fn plan(&self) -> io::Result<Vec<Planned>> {
        let mut plan = Plan { tensors: Vec::new(), model: self };
        let (hidden, ffn) = (self.hidden, self.ffn);
        let (q_width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        // A tied embedding is an output matrix, whose fan-in is `hidden`; a lookup alone has no fan-in to speak of.
        let embedding_scale = if self.tied { fan_in_scale(hidden) } else { 1.0 };
        plan.matrix("token_embd.weight", self.vocab, hidden, embedding_scale)?;
        plan.norm("output_norm.weight", hidden);
        if !self.tied {
            plan.matrix("output.weight", self.vocab, hidden, fan_in_scale(hidden))?;
        }
        if let RopeScaling::FreqFactors(factors) = &self.rope_scaling {
            let bytes = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
            plan.f32s("rope_freqs.weight", factors.len(), Content::Bytes(bytes));
        }
        for layer in 0..self.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            plan.norm(&name("attn_norm"), hidden);
            plan.matrix(&name("attn_q"), q_width, hidden, fan_in_scale(hidden))?;
            plan.matrix(&name("attn_k"), kv_width, hidden, fan_in_scale(hidden))?;
            plan.matrix(&name("attn_v"), kv_width, hidden, fan_in_scale(hidden))?;
            plan.matrix(&name("attn_output"), hidden, q_width, fan_in_scale(q_width))?;
            plan.norm(&name("ffn_norm"), hidden);
            plan.matrix(&name("ffn_gate"), ffn, hidden, fan_in_scale(hidden))?;
            plan.matrix(&name("ffn_up"), ffn, hidden, fan_in_scale(hidden))?;
            plan.matrix(&name("ffn_down"), hidden, ffn, fan_in_scale(ffn))?;
        }
        Ok(plan.tensors)
    }
}

fn fan_in_scale(fan_in: usize) -> f32 {
    1.0 / (fan_in as f32).sqrt()
}

struct Plan<'a> {
    tensors: Vec<Planned>,
    model: &'a TestModel,
}

impl Plan<'_> {
    /// A matrix `[n, k]`.
    fn matrix(&mut self, name: &str, n: usize, k: usize, scale: f32) -> io::Result<()> {
        let dims = vec![k as u64, n as u64];
        let other = self.model.other_types.iter().find(|(part, _)| name.contains(part));
        let wanted = other.map_or(self.model.weight_type, |(_, ty)| *ty);
        let fits = wanted.row_bytes(k).is_some();
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

    fn norm(&mut self, name: &str, len: usize) {
        self.f32s(name, len, Content::Norm);
    }

    fn f32s(&mut self, name: &str, len: usize, content: Content) {
        let ggml_type = ggml_type(WeightType::F32);
        let entry = TensorEntry { name: name.into(), dims: vec![len as u64], ggml_type, num_bytes: 4 * len as u64 };
        self.tensors.push(Planned { entry, content });
    }
}

fn apply(edit: &Edit, header: &mut Writer, plan: &mut Vec<Planned>) -> io::Result<()> {
    let find = |plan: &mut Vec<Planned>, name: &str| -> io::Result<usize> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, format!("no tensor {name} to edit"));
        plan.iter().position(|planned| planned.entry.name == name).ok_or_else(missing)
    };
    match edit {
        Edit::SetKey(key, value) => header.set(key, value.clone()),
        Edit::RemoveKey(key) => header.remove(key),
        Edit::RemoveTensor(name) => {
            let index = find(plan, name)?;
            plan.remove(index);
        }
        Edit::AddTensor(entry, bytes) => {
            plan.push(Planned { entry: entry.clone(), content: Content::Bytes(bytes.clone()) });
        }
        Edit::Dims(name, dims) => {
            let index = find(plan, name)?;
            plan[index].entry.dims = dims.clone();
            plan[index].zero()?;
        }
        Edit::Type(name, ggml_type) => {
            let index = find(plan, name)?;
            plan[index].entry.ggml_type = *ggml_type;
            plan[index].zero()?;
        }
        Edit::Data(name, bytes) => {
            let index = find(plan, name)?;
            plan[index].content = Content::Bytes(bytes.clone());
        }
    }
    Ok(())
}

impl Planned {
    fn zero(&mut self) -> io::Result<()> {
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

#[cfg(test)]
mod tests;
