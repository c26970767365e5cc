//! The flags of every command that runs a model, and loading what they name.

use super::byte_size::ByteSize;
use super::error::CliError;
use super::memory;
use super::output::open_model;
use crate::engine::{Engine, EngineConfig};
use crate::gguf::{ModelFile, TensorInfo};
use crate::kernels::Isa;
use crate::kv_cache::{KvCache, KvCacheError, KvShape, KvType};
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::model::footprint;
use crate::model::weights::Weights;
use crate::model::workspace::Workspace;
use crate::ops::pool::Pool;
use crate::scheduler::SchedulerConfig;
use crate::server::info::ModelInfo;
use crate::text::Tokenizer;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Which model to run and how.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// Model file (GGUF); the first file of a split model [default: the embedded demo model].
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Worker threads [default: the cores this process may use].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Bind each worker thread to a CPU of its own, where there are as many as CPUs that this process may use.
    #[arg(long, value_name = "on|off", default_value = "off", action = clap::ArgAction::Set,
          value_parser = clap::builder::BoolishValueParser::new())]
    pub pin: bool,
    /// Instruction-set path: auto, scalar, avx2, avxvnni, avx512.
    #[arg(long, value_name = "PATH", default_value = "auto")]
    pub isa: String,
    /// Memory of the KV cache, such as 512MiB or 2GiB [default: what the machine or its cgroup leaves, within reason].
    #[arg(long, value_name = "SIZE")]
    pub kv_cache: Option<ByteSize>,
    /// Type of the cached K and V: f16, bf16, q8_0 (half the memory of f16) or f32 (twice).
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub kv_type: String,
    /// Tokens in a KV block.
    #[arg(long, value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub block_size: u32,
    /// Longest sequence, prompt and completion [default: the model's context].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_model_len: Option<u32>,
}

impl ModelArgs {
    /// Threads of the worker pool.
    pub fn num_threads(&self) -> usize {
        self.threads.map_or_else(default_threads, usize::from)
    }
}

/// What a step may hold; each command has its own.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    /// Sequences in a step.
    pub max_num_seqs: u32,
    /// Rows (tokens) in a step.
    pub max_num_batched_tokens: u32,
    /// Longest sequence where `--max-model-len` is absent; the model's context where this is `None` or longer.
    pub default_max_model_len: Option<u32>,
}

/// A model ready to step.
pub struct LoadedEngine {
    pub engine: Engine<Decoder>,
    pub tokenizer: Arc<Tokenizer>,
    pub info: ModelInfo,
    /// The types of the weight matrices in lower case, those of most elements first, joined by `+`.
    pub matrix_types: String,
    /// Longest sequence, prompt and completion.
    pub max_model_len: u32,
}

/// A model without a scheduler: for commands that run the forward pass directly.
pub struct LoadedModel {
    pub file: ModelFile,
    pub config: ModelConfig,
    pub weights: Weights,
    pub tokenizer: Arc<Tokenizer>,
    pub pool: Arc<Pool>,
    pub isa: Isa,
    pub kv_type: KvType,
}

/// Opens the file, checks the flags, and packs the weights. Without `--max-model-len` sequences are at most `longest`
/// tokens long, where it is given.
pub fn load_model(args: &ModelArgs, longest: Option<u32>) -> Result<LoadedModel, CliError> {
    let isa: Isa = args.isa.parse().map_err(|e: crate::kernels::IsaError| CliError::Config(e.to_string()))?;
    let kv_type: KvType = args.kv_type.parse().map_err(|e: KvCacheError| CliError::Config(e.to_string()))?;
    let (file, source) = open_model(args.model.as_deref())?;
    let bad_data = |e: String| CliError::BadData(format!("{source}: {e}"));
    let mut config = ModelConfig::from_metadata(file.metadata()).map_err(|e| bad_data(e.to_string()))?;
    config.longest_sequence = args.max_model_len.or(longest).unwrap_or(u32::MAX).min(config.context_length);
    let tokenizer = Tokenizer::from_metadata(file.metadata()).map_err(|e| bad_data(e.to_string()))?;
    let threads = args.num_threads();
    let pool = if args.pin { Pool::bound(threads) } else { Pool::new(threads) };
    let pool = pool.map_err(|e| CliError::Config(format!("--threads {threads}: {e}")))?;
    memory::check_weights(&source, footprint::weight_bytes(&file))?;
    let mut bar = super::progress::Bar::new(file.file_bytes(), "loading");
    let started = Instant::now();
    let weights = Weights::load(&file, &config, &mut |done| bar.set(done)).map_err(|e| bad_data(e.to_string()))?;
    bar.finish();
    let seconds = started.elapsed().as_secs_f64();
    let (bytes, isa_path) = (weights.bytes(), isa.name());
    tracing::info!(bytes, seconds = format_args!("{seconds:.3}"), isa_path, threads, "weights packed");
    if weights.unused_tensors > 0 {
        tracing::warn!(tensors = weights.unused_tensors, "the model file has tensors that are not used");
    }
    if weights.token_embd.n() != tokenizer.vocab_size() {
        return Err(bad_data(format!(
            "tensor token_embd.weight has {} rows, key tokenizer.ggml.tokens {} entries",
            weights.token_embd.n(),
            tokenizer.vocab_size()
        )));
    }
    Ok(LoadedModel { file, config, weights, tokenizer: Arc::new(tokenizer), pool: Arc::new(pool), isa, kv_type })
}

/// Loads a model and builds an engine with a KV pool for it.
pub fn load(args: &ModelArgs, limits: EngineLimits) -> Result<LoadedEngine, CliError> {
    let loaded = load_model(args, limits.default_max_model_len)?;
    let max_model_len = limits.max_model_len(args.max_model_len, loaded.config.context_length)?;
    let kv_cache = kv_cache(args, limits, max_model_len, &loaded)?;
    let info = model_info(&loaded);
    let matrix_types = matrix_types(&loaded.file);
    let scheduler = SchedulerConfig {
        max_num_seqs: limits.max_num_seqs,
        max_num_batched_tokens: limits.max_num_batched_tokens,
        num_blocks: kv_cache.num_blocks() as u32,
        block_size: args.block_size,
        max_model_len,
    };
    let eog_ids = loaded.tokenizer.eog_ids().to_vec();
    let model = Decoder::new(
        loaded.config,
        loaded.weights,
        Arc::clone(&loaded.pool),
        loaded.isa,
        limits.max_num_batched_tokens as usize,
        limits.logits_rows(),
    );
    let engine = Engine::new(EngineConfig { scheduler, eog_ids }, model, kv_cache, loaded.pool)
        .map_err(|e| CliError::Config(e.to_string()))?;
    Ok(LoadedEngine { engine, tokenizer: loaded.tokenizer, info, matrix_types, max_model_len })
}

impl EngineLimits {
    /// Rows of a step that can sample: one a sequence.
    fn logits_rows(self) -> usize {
        self.max_num_seqs.min(self.max_num_batched_tokens) as usize
    }

    /// Bytes of the buffers of a step.
    pub fn workspace_bytes(self, config: &ModelConfig, vocab_size: usize) -> u64 {
        Workspace::bytes(config, vocab_size, self.max_num_batched_tokens as usize, self.logits_rows())
    }

    /// Longest sequence where `--max-model-len` is `wanted`.
    pub fn max_model_len(self, wanted: Option<u32>, context_length: u32) -> Result<u32, CliError> {
        match wanted {
            Some(len) if len > context_length => {
                Err(CliError::Config(format!("--max-model-len {len}: the model's context is {context_length}")))
            }
            Some(len) => Ok(len),
            None => Ok(self.default_max_model_len.unwrap_or(u32::MAX).min(context_length)),
        }
    }
}

/// Plans and allocates the pool. The weights are already in memory, so what is free now is free for it.
fn kv_cache(
    args: &ModelArgs,
    limits: EngineLimits,
    max_model_len: u32,
    loaded: &LoadedModel,
) -> Result<KvCache, CliError> {
    let config = &loaded.config;
    let shape = kv_shape(config, args.block_size, loaded.kv_type);
    let bad_cache = |e: KvCacheError| CliError::Config(format!("--kv-cache: {e}"));
    let block_bytes = shape.block_bytes().map_err(bad_cache)?;
    let plan = memory::KvPlan {
        block_bytes,
        block_size: args.block_size,
        max_model_len,
        max_num_seqs: limits.max_num_seqs,
        reserved_bytes: limits.workspace_bytes(config, loaded.weights.token_embd.n()),
    };
    let blocks = plan.num_blocks(args.kv_cache)?;
    let (bytes, kv_type) = (blocks as u64 * block_bytes, shape.kv_type);
    tracing::info!(blocks, block_size = args.block_size, bytes, %kv_type, "KV cache");
    KvCache::new(shape, blocks).map_err(bad_cache)
}

/// The cache of the model.
pub fn kv_shape(config: &ModelConfig, block_size: u32, kv_type: KvType) -> KvShape {
    KvShape {
        layers: config.num_layers,
        kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        block_size: block_size as usize,
        kv_type,
    }
}

fn model_info(loaded: &LoadedModel) -> ModelInfo {
    ModelInfo {
        name: loaded.config.name.clone(),
        architecture: loaded.config.architecture.clone(),
        file_type: main_type(&loaded.file),
        context_length: loaded.config.context_length,
        vocab_size: loaded.weights.token_embd.n() as u32,
        parameters: loaded.file.tensors().map(TensorInfo::num_elements).sum(),
        header_sha256: loaded.file.header_sha256(),
    }
}

/// Cores this process may use: its affinity and its cgroup's quota count.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// The type that holds most of the file's elements.
fn main_type(file: &ModelFile) -> String {
    types_by_elements(file.tensors()).into_iter().next().unwrap_or_else(|| "none".into())
}

fn matrix_types(file: &ModelFile) -> String {
    let matrices = file.tensors().filter(|tensor| tensor.dims.len() > 1);
    types_by_elements(matrices).join("+").to_lowercase()
}

/// The types of `tensors`, each once, those of most elements first.
fn types_by_elements<'a>(tensors: impl Iterator<Item = &'a TensorInfo>) -> Vec<String> {
    let mut elements = std::collections::BTreeMap::<String, u64>::new();
    for tensor in tensors {
        *elements.entry(tensor.type_name().into()).or_default() += tensor.num_elements();
    }
    let mut types: Vec<(String, u64)> = elements.into_iter().collect();
    types.sort_by(|(name_a, a), (name_b, b)| (b, name_a).cmp(&(a, name_b)));
    types.into_iter().map(|(name, _)| name).collect()
}
