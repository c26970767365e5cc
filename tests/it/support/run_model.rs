//! Small real models for tests: built from a seed, loaded through the same path as a file.

use llorch_cpud::gguf::ModelFile;
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::kernels::Isa;
use llorch_cpud::kv_cache::{KvCache, KvShape, KvType};
use llorch_cpud::model::config::ModelConfig;
use llorch_cpud::model::decoder::Decoder;
use llorch_cpud::model::weights::Weights;
use llorch_cpud::ops::pool::Pool;
use llorch_cpud::quant::WeightType;
use std::sync::Arc;

/// The kind of a small model.
#[derive(Clone, Copy, Debug)]
pub struct TinyModel {
    pub weight_type: WeightType,
    /// The type of the output matrix, `attn_v` and `ffn_down`, where it is another: such mixes are common.
    pub second_type: Option<WeightType>,
    pub kv_type: KvType,
    pub seed: u64,
}

impl Default for TinyModel {
    fn default() -> Self {
        Self { weight_type: WeightType::F32, second_type: None, kv_type: KvType::F32, seed: 1 }
    }
}

/// A model with its cache and threads.
pub struct Built {
    pub model: Decoder,
    pub kv_cache: KvCache,
    pub pool: Arc<Pool>,
}

/// How a model is run: none of it may reach a logit.
#[derive(Clone, Copy)]
pub struct Circumstances {
    pub isa: Isa,
    pub threads: usize,
    pub max_rows: usize,
    pub max_logits_rows: usize,
    pub num_blocks: usize,
    pub block_size: usize,
}

/// A model file in memory and the cache it is to run with.
pub struct Subject {
    /// For messages.
    pub name: String,
    pub bytes: Vec<u8>,
    pub kv_type: KvType,
}

impl Subject {
    /// A two-layer Llama of this kind.
    pub fn tiny(tiny: &TinyModel) -> Self {
        Self { name: format!("{tiny:?}"), bytes: tiny_bytes(tiny), kv_type: tiny.kv_type }
    }

    /// The small model of an architecture.
    pub fn architecture(arch: &str, weight_type: WeightType, kv_type: KvType) -> Self {
        let model = TestModel::of(arch).expect("an architecture that has a small model");
        let bytes = TestModel { weight_type, ..model }.build();
        Self { name: format!("{arch} {weight_type} {kv_type:?}"), bytes, kv_type }
    }

    /// Loads it.
    pub fn load(&self, circumstances: Circumstances) -> Built {
        load(self.bytes.clone(), self.kv_type, circumstances)
    }
}

/// A two-layer Llama of this kind, loaded.
pub fn build(tiny: &TinyModel, circumstances: Circumstances) -> Built {
    Subject::tiny(tiny).load(circumstances)
}

/// Grouped-query attention; wider for types with super-blocks.
fn tiny_bytes(tiny: &TinyModel) -> Vec<u8> {
    let block = tiny.weight_type.block_len().max(tiny.second_type.map_or(1, WeightType::block_len));
    let (hidden, ffn, heads) = if block == 256 { (256, 256, 16) } else { (64, 96, 4) };
    let second = tiny.second_type.unwrap_or(tiny.weight_type);
    let spec = TestModel {
        hidden,
        ffn,
        layers: 2,
        heads,
        kv_heads: 2,
        head_dim: 16,
        vocab: 300,
        context: 128,
        weight_type: tiny.weight_type,
        other_types: vec![("output.weight", second), ("attn_v", second), ("ffn_down", second)],
        seed: tiny.seed,
        ..TestModel::default()
    };
    spec.build()
}

/// Loads the bytes of a model file.
pub fn load(bytes: Vec<u8>, kv_type: KvType, circumstances: Circumstances) -> Built {
    let Circumstances { isa, threads, max_rows, max_logits_rows, num_blocks, block_size } = circumstances;
    let file = ModelFile::from_bytes(bytes).expect("the built file parses");
    let config = ModelConfig::from_metadata(file.metadata()).expect("the built keys are good");
    let weights = Weights::load(&file, &config, &mut |_| {}).expect("the built tensors fit the keys");
    let pool = Arc::new(Pool::new(threads).expect("threads start"));
    let shape = KvShape {
        layers: config.num_layers,
        kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        block_size,
        kv_type,
    };
    let kv_cache = KvCache::new(shape, num_blocks).expect("the pool fits");
    let model = Decoder::new(config, weights, Arc::clone(&pool), isa, max_rows, max_logits_rows);
    Built { model, kv_cache, pool }
}
